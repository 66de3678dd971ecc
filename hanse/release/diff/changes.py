"""What changed between two releases, read from their folders alone.

A score is said to have moved only where the two intervals do not touch. That asks for more than a test of the
difference would: intervals that overlap do not show that nothing changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanse.release.diff import published
from hanse.release.diff.documents import DocumentChanges, document_changes
from hanse.release.diff.published import Published, Step
from hanse.store import record as records

if TYPE_CHECKING:
    from hanse.release.ledger import Ledger
    from hanse.release.papers.paper import Paper

#: Facts of training that are summed over the models of a release, and what they are called.
TRAINING = {
    "tokens": "tokens that went through the model",
    "flop": "computation, FLOP",
    "energy_wh": "energy, Wh",
    "seconds": "time, seconds",
}
LOWER_IS_BETTER = ("bits_per_byte",)
HIGHER_IS_BETTER = ("exact_answer", "second_answer", "accuracy")
_WEIGHTS = ".safetensors"


@dataclass(frozen=True)
class Pair:
    """One thing in two releases; None where it is not recorded.

    Attributes:
        old_place, new_place: where it stands in each.
    """

    what: str
    old: Any
    new: Any
    old_place: str
    new_place: str

    @property
    def differs(self) -> bool:
        """Whether they are not the same."""
        return bool(self.old != self.new)


@dataclass(frozen=True)
class Drift:
    """How one step's definition changed; `lines` is empty where a step came (`old` is empty) or went (`new` is).

    Attributes:
        old, new: `kind/name/version` in each release.
        lines: as `[pretrain] budget_tokens: 1000 -> 2000`.
    """

    old: str
    new: str
    lines: tuple[str, ...]
    old_place: str
    new_place: str


@dataclass(frozen=True)
class Moved:
    """A score in two releases.

    Attributes:
        old, new: the rows, with value, low, high and n; None where a release has no such score.
        verdict: `better`, `worse`, `apart` (no telling which way is better), `overlapping`, `came`, `went`, or
            `no interval`.
    """

    language: str
    task: str
    metric: str
    old: Mapping[str, Any] | None
    new: Mapping[str, Any] | None
    verdict: str


@dataclass(frozen=True)
class Changes:
    """Everything that differs.

    Attributes:
        about: licence, title, contact, description, languages and signer.
        definitions: what is defined otherwise, step by step.
        documents: which left and came; None where one of them carries no table of documents.
        conversations: of training, as their records count them.
        shape: the model's configuration and parameters.
        training: summed over the models that each release was made from.
        scores: every one of both.
        files: path -> `came`, `went` or `changed`, for papers, records and other files but the model's weights and the
            sums; empty while the new one is being made.
        same_weights: None while that is so.
        withdrawals: digests of those that the new one, and not the old one, was made with; and the other way round.
        doubts: what does not fit together.
    """

    old: Published
    new: Published
    about: tuple[Pair, ...]
    definitions: tuple[Drift, ...]
    documents: DocumentChanges | None
    conversations: Pair
    shape: tuple[Pair, ...]
    training: tuple[Pair, ...]
    scores: tuple[Moved, ...]
    files: Mapping[str, str]
    same_weights: bool | None
    withdrawals: tuple[tuple[str, ...], tuple[str, ...]]
    doubts: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "old": self.old.name,
            "new": self.new.name,
            "about": [asdict(each) for each in self.about],
            "definitions": [asdict(each) for each in self.definitions],
            "documents": self.documents.as_dict() if self.documents else None,
            "conversations": asdict(self.conversations),
            "shape": [asdict(each) for each in self.shape],
            "training": [asdict(each) for each in self.training],
            "scores": [
                {
                    "language": each.language, "task": each.task, "metric": each.metric,
                    "old": each.old and dict(each.old), "new": each.new and dict(each.new), "verdict": each.verdict,
                }
                for each in self.scores
            ],
            "files": dict(self.files),
            "same_weights": self.same_weights,
            "withdrawals": {"came": list(self.withdrawals[0]), "went": list(self.withdrawals[1])},
            "doubts": list(self.doubts),
        }  # fmt: skip


def changes(old: Path, new: Path, ledger: Ledger | None = None) -> Changes:
    """Compare two releases.

    Args:
        old, new: their folders.
        ledger: of the new one, if it is still being made and has no record of its own yet.

    Raises:
        InputError: a folder that is no release, or a file in it that cannot be read.
    """
    before, after = published.read(old), published.read(new, ledger)
    withdrawn = [set(each.withdrawals) for each in (before, after)]
    return Changes(
        old=before,
        new=after,
        about=tuple(_about(before, after)),
        definitions=tuple(_definitions(before, after)),
        documents=document_changes(before.tables, after.tables) if before.tables and after.tables else None,
        conversations=_conversations(before, after),
        shape=tuple(_shape(before, after)),
        training=tuple(_training(before, after)),
        scores=tuple(_scores(before.scores, after.scores)),
        files=_files(before.sums, after.sums) if after.sums else {},
        same_weights=_weights(before.sums) == _weights(after.sums) if after.sums else None,
        withdrawals=(tuple(sorted(withdrawn[1] - withdrawn[0])), tuple(sorted(withdrawn[0] - withdrawn[1]))),
        doubts=tuple(_doubts(before, after)),
    )


def changes_paper(old: Path, new: Path, ledger: Ledger | None = None) -> Paper:
    """The paper that tells what changed since the release before. Arguments and errors as `changes`."""
    from hanse.release.diff.paper import paper

    return paper(changes(old, new, ledger))


def _about(old: Published, new: Published) -> Iterator[Pair]:
    for key in ("title", "licence", "contact", "description", "languages"):
        places = [each.place("step.json", key) for each in (old, new)]
        yield Pair(key, old.about.get(key), new.about.get(key), *places)
    yield Pair("signer", old.signer or None, new.signer or None, *(e.place("signing-key.pub") for e in (old, new)))


def _definitions(old: Published, new: Published) -> Iterator[Drift]:
    """How the definition of each step changed. Inputs are no definition: they are what the steps before say."""
    for before, after in _partners(old, new):
        places = [side.place(step.path) if step else "" for side, step in ((old, before), (new, after))]
        if before is None or after is None:
            yield Drift(before.ref if before else "", after.ref if after else "", (), places[0], places[1])
            continue
        inputs = {each.role: each.digest for each in records.inputs_of(before.record)}
        lines = records.drift(before.record, after.definition, inputs)
        if lines:
            yield Drift(before.ref, after.ref, tuple(lines), places[0], places[1])


def _partners(old: Published, new: Published) -> Iterator[tuple[Step | None, Step | None]]:
    """Steps that did the same work in each release.

    Models by what they learnt from; others by kind and name, or by kind alone where each release has one of it.
    """
    counts = [Counter(step.kind for step in side.steps) for side in (old, new)]
    alone = {kind for kind in counts[0] if all(count[kind] == 1 for count in counts)}
    sides = [{_work(side, step, alone): step for step in side.steps} for side in (old, new)]
    for key in sorted(sides[0].keys() | sides[1].keys()):
        yield sides[0].get(key), sides[1].get(key)


def _work(side: Published, step: Step, alone: set[str]) -> tuple[str, str]:
    if step.kind == "model":
        learnt = [key for key in ("pretrain", "tune") if key in step.definition]
        same = [each for each in side.models if learnt and learnt[0] in each.definition]
        if step in same:
            return step.kind, f"{learnt[0]} {same.index(step)}"
    return step.kind, "" if step.kind in alone else step.ref.split("/")[1]


def _conversations(old: Published, new: Published) -> Pair:
    counts: list[int | None] = []
    places = []
    for side in (old, new):
        steps = [step for step in side.steps if step.kind == "conversations"]
        noted = [step.facts.get("conversations") for step in steps]
        found = [each.get("train") if isinstance(each, Mapping) else None for each in noted]
        counts.append(sum(each for each in found if each is not None) if None not in found else None)
        places.append("; ".join(side.place(step.path, "conversations") for step in steps) or side.place("provenance/"))
    return Pair("conversations", counts[0], counts[1], places[0], places[1])


def _shape(old: Published, new: Published) -> Iterator[Pair]:
    places = [side.place("config.json") for side in (old, new)]
    flat = [dict(_flat(side.config, "")) for side in (old, new)]
    for key in sorted(flat[0].keys() | flat[1].keys()):
        if flat[0].get(key) != flat[1].get(key):
            yield Pair(key, flat[0].get(key), flat[1].get(key), places[0], places[1])
    for key in ("parameters", "active_parameters"):
        noted = [_noted(side, key) for side in (old, new)]
        yield Pair(key, noted[0][0], noted[1][0], noted[0][1], noted[1][1])


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flat(item, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _noted(side: Published, key: str) -> tuple[Any, str]:
    """What the last model that noted it says: tuning leaves the shape alone."""
    for step in reversed(side.models):
        if step.facts.get(key) is not None:
            return step.facts[key], side.place(step.path, key)
    return None, side.place("provenance/", key)


def _training(old: Published, new: Published) -> Iterator[Pair]:
    for key in TRAINING:
        sums = [_sum([step.facts.get(key) for step in side.models]) for side in (old, new)]
        places = ["; ".join(side.place(step.path, key) for step in side.models) for side in (old, new)]
        yield Pair(key, sums[0], sums[1], places[0], places[1])


def _sum(values: Sequence[Any]) -> int | float | None:
    """None when a step did not note it. FLOP beyond 2**53 stand as text in the records."""
    try:
        return sum(int(each) if isinstance(each, str) else each for each in values) if values else None
    except (TypeError, ValueError):
        return None


def _scores(old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]) -> Iterator[Moved]:
    sides = [
        {tuple(str(row[key]) for key in ("language", "task", "metric")): row for row in rows} for rows in (old, new)
    ]
    for key in sorted(sides[0].keys() | sides[1].keys()):
        before, after = (side.get(key) for side in sides)
        language, task, metric = key
        yield Moved(language, task, metric, before, after, _verdict(metric, before, after))


def _verdict(metric: str, old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> str:
    if old is None or new is None:
        return "came" if old is None else "went"
    given = (row.get(key) for row in (old, new) for key in ("low", "high"))
    bounds = [bound for bound in given if isinstance(bound, int | float)]
    if len(bounds) < 4:
        return "no interval"
    old_low, old_high, new_low, new_high = bounds
    if new_low <= old_high and old_low <= new_high:
        return "overlapping"
    if metric not in (*LOWER_IS_BETTER, *HIGHER_IS_BETTER):
        return "apart"
    has_risen = new_low > old_high
    return "better" if has_risen == (metric in HIGHER_IS_BETTER) else "worse"


def _files(old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for path in sorted(old.keys() | new.keys()):
        if path.endswith(_WEIGHTS) or old.get(path) == new.get(path):
            continue
        found[path] = "came" if path not in old else "went" if path not in new else "changed"
    return found


def _weights(sums: Mapping[str, str]) -> dict[str, str]:
    return {path: digest for path, digest in sums.items() if path.endswith(_WEIGHTS)}


def _doubts(old: Published, new: Published) -> Iterator[str]:
    yield from old.doubts
    yield from new.doubts
    if old.finished and new.finished and new.finished < old.finished:
        yield f"{new.name} was made at {new.finished}, before {old.name} at {old.finished}; is the order right?"
    for side in (old, new):
        if not side.tables:
            yield f"{side.name}: carries no table of documents, so which of them left or came cannot be said."
