"""Lineage: what an artifact was made from, as a tree down to the sources of the documents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from hanse.errors import InputError
from hanse.store import record as records
from hanse.store.documents import TABLE, count_documents
from hanse.store.stage import Artifact, Store

#: Facts worth a place in the tree, when a step noted them.
_SHOWN_FACTS = ("documents", "tokens", "bytes", "parameters", "steps", "flop", "energy_wh")


@dataclass(frozen=True)
class SourceCount:
    """Documents kept from one source under one licence; bytes of UTF-8 text."""

    source: str
    licence: str
    documents: int
    bytes: int


@dataclass(frozen=True)
class Lineage:
    """One artifact in the tree.

    Attributes:
        ref: `kind/name/version`.
        role: what it was to the artifact above it; empty at the root.
        state: `intact`; `missing` from the store; `changed`: its record or content is not the recorded one, or cannot
            be read; `shown`: the same artifact stands further up, with its inputs.
        facts: what its step noted.
        inputs: what it was made from.
        sources: of a dataset, where its documents came from.
    """

    ref: str
    role: str
    digest: str
    state: Literal["intact", "missing", "changed", "shown"]
    facts: dict[str, Any]
    inputs: tuple[Lineage, ...] = ()
    sources: tuple[SourceCount, ...] = ()

    def text(self) -> str:
        """The tree as lines of text."""
        return "\n".join([self._line(), *self._branches("")])

    def as_dict(self) -> dict[str, Any]:
        """The tree as JSON values."""
        return {
            "ref": self.ref,
            "role": self.role,
            "digest": self.digest,
            "state": self.state,
            "facts": self.facts,
            "inputs": [each.as_dict() for each in self.inputs],
            "sources": [vars(source) for source in self.sources],
        }

    def _branches(self, indent: str) -> Iterator[str]:
        last = len(self.inputs) + len(self.sources) - 1
        branches: list[Lineage | SourceCount] = [*self.inputs, *self.sources]
        for number, branch in enumerate(branches):
            joint, below = ("└─ ", "   ") if number == last else ("├─ ", "│  ")
            if isinstance(branch, Lineage):
                yield indent + joint + branch._line()
                yield from branch._branches(indent + below)
            else:
                yield (
                    f"{indent}{joint}{branch.source}: {branch.documents:,} documents, {branch.bytes:,} bytes, "
                    f"{branch.licence or 'licence not recorded'}"
                )

    def _line(self) -> str:
        head = f"{self.role}: {self.ref}" if self.role else self.ref
        if self.state in ("missing", "changed"):
            return f"{head}  {self.state.upper()} (recorded as {self.digest[:12]})"
        if self.state == "shown":
            return f"{head}  (as above)"
        facts = [f"{name} {_number(self.facts[name])}" for name in _SHOWN_FACTS if name in self.facts]
        return "  ".join([head, self.digest[:12], ", ".join(facts)]).rstrip()


def lineage(store: Store, artifact: Artifact) -> Lineage:
    """The tree of everything `artifact` was made from. A missing or changed ancestor is shown as such, not an error."""
    return lineages(store, (artifact,))[0]


def lineages(store: Store, artifacts: Iterable[Artifact]) -> list[Lineage]:
    """A tree for each artifact; what stands in an earlier one is not drawn again."""
    seen: set[tuple[str, str]] = set()
    return [_grow(store, records.Input("", a.ref, a.digest, a.record_digest), seen) for a in artifacts]


def _grow(store: Store, named: records.Input, seen: set[tuple[str, str]]) -> Lineage:
    if (named.ref, named.record) in seen:
        return Lineage(named.ref, named.role, named.digest, "shown", {})
    seen.add((named.ref, named.record))
    if not store.folder(named.ref).is_dir():
        return Lineage(named.ref, named.role, named.digest, "missing", {})
    try:
        artifact = store.find(named.ref)
    except InputError:
        return Lineage(named.ref, named.role, named.digest, "changed", {})
    if (artifact.digest, artifact.record_digest) != (named.digest, named.record):
        return Lineage(named.ref, named.role, named.digest, "changed", {})
    inputs = tuple(_grow(store, each, seen) for each in records.inputs_of(artifact.record))
    return Lineage(named.ref, named.role, named.digest, "intact", artifact.facts, inputs, _sources(artifact))


def _sources(artifact: Artifact) -> tuple[SourceCount, ...]:
    table = artifact.path / TABLE
    if artifact.kind != "dataset" or not table.is_file():
        return ()
    groups = count_documents(table, ("source", "licence"))
    return tuple(SourceCount(group.key[0], group.key[1], group.documents, group.bytes) for group in groups)


def _number(value: object) -> str:
    return f"{value:,}" if isinstance(value, int | float) else str(value)
