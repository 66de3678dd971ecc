"""What documents went into: the datasets, shards, models and releases of a whole store, and how often each saw them.

A dataset or shards hold text. A model holds what moved its weights, its own or those that it was begun from; a release
and anything else made from such a model holds it too. What only measured (an evaluation) or only learnt pieces of words
(a tokenizer) is named, and hands nothing on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from hanse.errors import InputError
from hanse.store import record as records
from hanse.store.documents import TABLE
from hanse.store.query import INDEX
from hanse.store.stage import Artifact, Store
from hanse.trace import descent, matching, seen
from hanse.trace.copies import Copy
from hanse.trace.descent import Descent, Edge
from hanse.trace.matching import Held, Lying, Spoken, Wanted
from hanse.trace.seen import Seen

#: Kinds that carry neither text nor weights on, and what they do with it.
MEASURES = {
    "tokenizer": "learnt its pieces of words from a sample of this text",
    "evaluation": "measures it",
    "memorisation": "measures it",
}
TEXT = ("dataset", "shards", "conversations")
#: Kinds whose weights a model can be begun from.
WEIGHTS = ("model", "release", "adapter")


@dataclass(frozen=True)
class Reached:
    """One artifact that the documents reached.

    Attributes:
        ref: `kind/name/version`.
        under: the artifact above it in the tree, empty for the first.
        holds: whether the text is in it or moved its weights; None where that cannot be said.
        how: why, in a phrase.
        held, spoken: of a dataset, or of conversations.
        lying: of shards.
        seen: of a model, what its own training saw; what it was begun from saw more.
    """

    ref: str
    under: str
    holds: bool | None
    how: str
    held: Held | None = None
    spoken: Spoken | None = None
    lying: Lying | None = None
    seen: tuple[Seen, ...] = ()

    @property
    def kind(self) -> str:
        """`dataset`, `model` ..."""
        return self.ref.split("/")[0]

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        told: dict[str, Any] = {"ref": self.ref, "under": self.under, "holds": self.holds, "how": self.how}
        if self.held is not None:
            told["documents"] = {
                name: value for name, value in vars(self.held).items() if not isinstance(value, np.ndarray)
            }
        if self.spoken is not None:
            told["conversations"] = {"conversations": self.spoken.conversations, "shown": list(self.spoken.shown)}
        if self.lying is not None:
            told["shards"] = {name: value for name, value in vars(self.lying).items() if name != "rows"}
        if self.seen:
            told["seen"] = [_seen_as_dict(each) for each in self.seen]
        return told


@dataclass(frozen=True)
class Impact:
    """What documents went into.

    Attributes:
        wanted: what was asked, for people.
        looked_at: the datasets and conversations that were searched.
        reached: parents before children.
        releases: those that hold it; `unclear` of them cannot be said; `clean` do not.
        copies: documents that do not match, but share passages with some that do; None where nobody asked for them.
        unfinished: trainings that are running or were cut off, with their checkpoints.
        gaps: what could not be followed; the answer may be incomplete.
        warnings: what looks wrong in the records, but does not stand in the way.
        notes: what no record says.
    """

    wanted: str
    looked_at: tuple[str, ...]
    reached: tuple[Reached, ...]
    releases: tuple[str, ...]
    unclear: tuple[str, ...]
    clean: tuple[str, ...]
    copies: tuple[Copy, ...] | None = None
    unfinished: tuple[tuple[str, tuple[str, ...]], ...] = ()
    gaps: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        told: dict[str, Any] = {
            name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()
        }
        told["reached"] = [each.as_dict() for each in self.reached]
        told["copies"] = None if self.copies is None else [asdict(each) for each in self.copies]
        told["unfinished"] = [{"ref": ref, "checkpoints": list(steps)} for ref, steps in self.unfinished]
        return told


def impact(store: Store, wanted: Wanted, *, limit: int = 10) -> Impact:
    """Follow documents through a store.

    Args:
        store: all of it is looked at.
        wanted: which documents.
        limit: how many of them are shown by name.
    """
    family = descent.read(store)
    walk = _Walk(family, wanted, limit)
    walk.search()
    for ref in family.artifacts:
        walk.visit(ref)
    releases: dict[bool | None, list[str]] = {True: [], None: [], False: []}
    for ref in (ref for ref in family.artifacts if ref.startswith("release/")):
        releases[walk.holds(ref)].append(ref)
    unfinished = tuple(_unfinished(store))
    return Impact(
        wanted=wanted.label,
        looked_at=tuple(walk.looked_at),
        reached=tuple(walk.reached.values()),
        releases=tuple(releases[True]),
        unclear=tuple(releases[None]),
        clean=tuple(releases[False]),
        unfinished=unfinished,
        gaps=(*family.gaps, *walk.gaps),
        warnings=family.warnings,
        notes=tuple(_notes(family, unfinished)),
    )


@dataclass
class _Walk:
    """Goes through the artifacts, parents first, and keeps what was found."""

    family: Descent
    wanted: Wanted
    limit: int
    reached: dict[str, Reached] = field(default_factory=dict)
    looked_at: list[str] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)
    visited: set[str] = field(default_factory=set)
    _unsearched: set[str] = field(default_factory=set)
    _held: dict[str, Held] = field(default_factory=dict)
    _spoken: dict[str, Spoken] = field(default_factory=dict)
    _keys: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))
    _copy_keys: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))

    def search(self) -> None:
        """Look all tables through first: an id that one of them gives is looked for in all shards."""
        for ref, artifact in self.family.artifacts.items():
            try:
                if artifact.kind == "conversations":
                    self._spoken[ref] = matching.in_conversations(artifact, self.wanted, limit=self.limit)
                elif artifact.kind == "dataset" or (artifact.path / TABLE).is_file():
                    self._held[ref] = matching.in_dataset(artifact, self.wanted, limit=self.limit)
                else:
                    continue  # holds no table of texts
            except InputError as error:
                self.gaps.append(str(error))
                self._unsearched.add(ref)
            else:
                self.looked_at.append(ref)
        named = matching.word_keys(self.wanted.ids)
        copied = [each.copy_keys_D for each in self._held.values()]
        own = [np.setdiff1d(each.keys_D, each.copy_keys_D) for each in self._held.values()]
        self._keys = np.unique(np.concatenate([named, *own, *copied]))
        self._copy_keys = np.setdiff1d(self._keys, np.concatenate([named, *own]))

    def visit(self, ref: str) -> None:
        """Say of one artifact whether the documents reached it; those it was made from were visited."""
        artifact, edges = self.family.artifacts[ref], self.family.parents[ref]
        if ref in self._unsearched:
            found: Reached | None = Reached(ref, "", None, "could not be looked through")
        elif ref in self._held:
            found = self._from_table(ref, self._held[ref])
        elif ref in self._spoken:
            found = self._from_conversations(ref, self._spoken[ref])
        elif (artifact.path / INDEX).is_file():
            found = self._from_index(artifact, edges)
        else:
            found = self._from_parents(artifact, edges)
        self.visited.add(ref)
        if found is not None:
            self.reached[ref] = found

    def holds(self, ref: str) -> bool | None:
        """Whether an artifact holds the documents; None where that cannot be said."""
        return self.reached[ref].holds if ref in self.reached else False

    def _from_table(self, ref: str, held: Held) -> Reached | None:
        if not held.documents:
            return None
        parts = [f"{held.kept:,} of {held.documents:,} documents kept"]
        if held.copies:
            parts.append(f"{held.copies:,} more stay in the words of a copy")
        return Reached(ref, "", bool(held.kept or held.copies), ", ".join(parts), held=held)

    def _from_conversations(self, ref: str, spoken: Spoken) -> Reached | None:
        if not spoken.conversations:
            return None
        return Reached(ref, "", True, f"{spoken.conversations:,} training conversations", spoken=spoken)

    def _from_index(self, shards: Artifact, edges: Sequence[Edge]) -> Reached | None:
        try:
            lying = matching.in_shards(shards, self._keys, self._copy_keys)
        except InputError as error:
            self.gaps.append(str(error))
            return Reached(shards.ref, "", None, "its index cannot be read")
        if lying.tokens or lying.heldout_tokens:
            under = next((edge.ref for edge in edges if self.holds(edge.ref)), "")
            how = "its text is encoded in them" if under else "the same text, come another way, is encoded in them"
            return Reached(shards.ref, under, True, how, lying=lying)
        doubtful = [edge for edge in edges if _kind(edge) in TEXT and self._state(edge) is None]
        if doubtful and not self.wanted.are_all_named:
            return Reached(shards.ref, "", None, self._doubt(doubtful[0]))
        return None

    def _from_parents(self, artifact: Artifact, edges: Sequence[Edge]) -> Reached | None:
        if artifact.kind in MEASURES:
            kinds = TEXT if artifact.kind == "tokenizer" else WEIGHTS
            under = next((edge.ref for edge in edges if _kind(edge) in kinds and self.holds(edge.ref)), "")
            return Reached(artifact.ref, under, False, MEASURES[artifact.kind]) if under else None
        reached = self._model(artifact, edges) if artifact.kind == "model" else self._inherited(artifact.ref, edges)
        return reached or self._never_shown(artifact, edges)

    def _never_shown(self, artifact: Artifact, edges: Sequence[Edge]) -> Reached | None:
        """Made from a model that was trained beside the text and never saw it: named under that one."""
        under = next((edge.ref for edge in edges if edge.ref in self.reached and _kind(edge) in WEIGHTS), "")
        return Reached(artifact.ref, under, False, f"made from {under}, which never saw it") if under else None

    def _state(self, edge: Edge) -> bool | None:
        """Whether the documents come along an edge; None where the record leads to nothing that can be asked."""
        if _kind(edge) in MEASURES:
            return False
        if edge.ref not in self.visited or not edge.is_there:
            return None
        return self.holds(edge.ref)

    def _inherited(self, ref: str, edges: Sequence[Edge]) -> Reached | None:
        """An artifact that holds what those that it was made from hold."""
        sure = [edge for edge in edges if self._state(edge)]
        if sure:
            return Reached(ref, sure[0].ref, True, f"made from {sure[0].ref}")
        doubtful = [edge for edge in edges if self._state(edge) is None]
        if not doubtful:
            return None
        under = doubtful[0].ref if doubtful[0].ref in self.reached else ""
        return Reached(ref, under, None, self._doubt(doubtful[0]))

    def _doubt(self, edge: Edge) -> str:
        if edge.ref not in self.family.artifacts:
            return f"made from {edge.ref}, which is missing or cannot be read"
        if not edge.is_there:
            return f"made from another {edge.ref} than there is now"
        if edge.ref not in self.visited:
            return f"its record and that of {edge.ref} name each other"
        return f"made from {edge.ref}, of which it cannot be said"

    def _model(self, model: Artifact, edges: Sequence[Edge]) -> Reached | None:
        """A model by what its training saw, and by what it was begun from."""
        text = [edge for edge in edges if _kind(edge) in TEXT and self._state(edge) is not False]
        begun = self._inherited(model.ref, [edge for edge in edges if _kind(edge) in WEIGHTS])
        found, doubts = self._learnt(model, text)
        self.gaps += [f"{model.ref}: {doubt}." for doubt in doubts]
        saw = next((each.of for each in found if each.exposure and each.exposure.trained_tokens), "")
        if begun is not None and begun.holds:
            how = f"trained on it, and {begun.how}" if saw else begun.how
            return replace(begun, how=how, seen=found)
        if saw:
            return Reached(model.ref, saw, True, "trained on it", seen=found)
        under = next((edge.ref for edge in text if edge.ref in self.reached), "")
        if doubts:
            return Reached(model.ref, under, None, doubts[0], seen=found)
        if begun is not None:
            return replace(begun, seen=found)
        return Reached(model.ref, under, False, "trained beside it, and never saw it", seen=found) if found else None

    def _learnt(self, model: Artifact, text: Sequence[Edge]) -> tuple[tuple[Seen, ...], list[str]]:
        """What a model's training saw of each text with documents that are asked about, and what cannot be said."""
        definition = records.definition_of(model.record)
        found: list[Seen] = []
        doubts: list[str] = []
        for edge in text:
            reached = self.reached.get(edge.ref)
            here = None
            if self._state(edge) is None or reached is None:
                doubts.append(self._doubt(edge))
            elif reached.lying is not None and "pretrain" in definition:
                here = seen.in_pretraining(model, self.family.artifacts[edge.ref], reached.lying.rows)
            elif reached.spoken is not None and "tune" in definition:
                here = seen.in_tuning(model, self.family.artifacts[edge.ref], reached.spoken)
            else:
                doubts.append(f"its record does not say how it learnt from {edge.ref}")
            if here is not None:
                found.append(here)
                doubts += [] if here.exposure else [f"what it saw of {here.of} cannot be computed: {here.why}"]
        return tuple(found), doubts


def _kind(edge: Edge) -> str:
    return edge.ref.split("/")[0]


def _unfinished(store: Store) -> Iterable[tuple[str, tuple[str, ...]]]:
    """Trainings without an artifact yet, and their checkpoints."""
    for place in sorted((store.root / ".work" / "model").glob("*/*")):
        steps = sorted(path.name for path in place.glob("scratch-*/step-*") if path.is_dir())
        if steps:
            yield "/".join(place.parts[-3:]), tuple(steps)


def _notes(family: Descent, unfinished: Sequence[tuple[str, tuple[str, ...]]]) -> Iterable[str]:
    for ref in family.foreign:
        yield f"{ref}: was begun from weights of which this store knows nothing but the digest."
    for ref, steps in unfinished:
        yield (
            f"{ref}: is being trained or was cut off, with {len(steps)} checkpoints ({steps[0]} to {steps[-1]}); "
            "what it reads goes on record when it is done."
        )


def _seen_as_dict(each: Seen) -> dict[str, Any]:
    told = asdict(each)
    if each.exposure is not None:
        told["exposure"]["times"] = each.exposure.times
    return told
