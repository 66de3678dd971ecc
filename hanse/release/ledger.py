"""What the store knows about one release, read once: the source of every paper, beside a file of human answers.

A paper that is computed from a `Ledger` is computed from records alone: no clock, no host, no network.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hanse.release.attribution import Credit
from hanse.release.papers.paper import Cell
from hanse.store import record as records
from hanse.store.stage import Artifact


@dataclass(frozen=True)
class Ledger:
    """Everything that papers are made of.

    Attributes:
        name: the recipe's; `version` is its version, so the release is `release/<name>/<version>`.
        title, description, contact, licence: as `[release]` and the recipe say.
        languages: ISO 639-1 codes of the recipe.
        model, evaluation: what is published, and how it was measured.
        memorisation: how much of its training text the model gives back; None where nobody asked.
        ancestors: both of these and all that they were made from, sorted by `kind/name/version`.
        config: the model's `config.json`.
        parameters: trained numbers; `active_parameters` of them work on each token.
        scores: rows of the evaluation: language, task, metric, value, low, high, n.
        credits: what was trained on, by licence, source, rights holder and author.
        is_chat: whether it was tuned on conversations.
        key_fingerprint: of the signing key.
        lineage: the tree of ancestors as text.
        answers: what people said, from `answers.toml`; empty where there is none.
        answers_digest: SHA-256 of that file; empty where there is none.
        withdrawals: the withdrawals known to the store when the release was made, oldest first, as JSON objects.
        predecessor: the release that this one follows; None for the first.
    """

    name: str
    version: str
    title: str
    description: str
    contact: str
    licence: str
    languages: tuple[str, ...]
    model: Artifact
    evaluation: Artifact
    ancestors: tuple[Artifact, ...]
    config: Mapping[str, Any]
    parameters: int
    active_parameters: int | None
    scores: Sequence[Mapping[str, Any]]
    credits: Sequence[Credit]
    is_chat: bool
    key_fingerprint: str
    lineage: str
    memorisation: Artifact | None = None
    answers: Mapping[str, Any] = field(default_factory=dict)
    answers_digest: str = ""
    withdrawals: tuple[Mapping[str, Any], ...] = ()
    predecessor: Artifact | None = None

    @property
    def ref(self) -> str:
        """`release/name/version`."""
        return f"release/{self.name}/{self.version}"

    @property
    def training(self) -> list[Mapping[str, Any]]:
        """What each training step noted: tokens, flop, energy_wh, seconds, runtime."""
        return [artifact.facts for artifact in self.of_kind("model")]

    @property
    def made(self) -> str:
        """When the newest ancestor was finished, RFC 3339: the day that papers call "last update"."""
        newest: str = max(_metadata(artifact)["finishedOn"] for artifact in self.ancestors)
        return newest

    def of_kind(self, kind: str) -> list[Artifact]:
        """The ancestors of a kind (`dataset`, `model` ...), in the order in which they were finished."""
        found = [artifact for artifact in self.ancestors if artifact.kind == kind]
        return sorted(found, key=lambda artifact: (_metadata(artifact)["finishedOn"], artifact.ref))

    @functools.cached_property
    def sources(self) -> tuple[SourceRecord, ...]:
        """Every declared source of the datasets and conversations, as its record has it."""
        return tuple(_sources(self.ancestors))

    def answer(self, key: str) -> Cell:
        """What `answers.toml` says under a dotted key, such as `provider.name`; an empty cell where it says nothing."""
        value: Any = self.answers
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return Cell(value, f"answers.toml {key}") if value not in (None, "") else Cell(None)

    def fact(self, artifact: Artifact, name: str) -> Cell:
        """What a step noted, with its place: `dataset/atlas/1 step.json kept`."""
        value = artifact.facts.get(name)
        return Cell(value, f"{artifact.ref} step.json {name}") if value is not None else Cell(None)


@dataclass(frozen=True)
class SourceRecord:
    """A source as a dataset's or conversations' record declares it.

    Attributes:
        artifact: whose record it is.
        number: its place in that record's list.
        declared: the keys of `[[source]]` (name, kind, obtained, licence, licence_basis, rights_holder, contract ...);
            the digests of its files under `files`.
    """

    artifact: Artifact
    number: int
    declared: Mapping[str, Any]

    @property
    def name(self) -> str:
        """As the recipe calls it."""
        return str(self.declared["name"])

    def cell(self, key: str) -> Cell:
        """One declared value, with its place."""
        value = self.declared.get(key)
        place = f"{self.artifact.ref} step.json source.{self.number}.{key}"
        return Cell(value, place) if value not in (None, "") else Cell(None)


def read_counts(dataset: Artifact) -> dict[str, Any]:
    """`counts.json` of a dataset: documents kept and dropped by language, source, licence and reason."""
    counts: dict[str, Any] = json.loads((dataset.path / "counts.json").read_text(encoding="utf-8"))
    return counts


def runtime_of(artifact: Artifact) -> Mapping[str, Any]:
    """Where a training step ran: device, device_name, ranks, threads, compute_dtype; empty where it was not noted."""
    found = artifact.facts.get("runtime")
    return found if isinstance(found, Mapping) else {}


def record_names(ancestors: Sequence[Artifact]) -> dict[str, str]:
    """What the record of each ancestor is called in `provenance/` of a release, without its ending, by name."""
    names: dict[str, str] = {}
    for artifact in ancestors:
        name = f"{artifact.kind}-{artifact.name}-{artifact.version}"
        if name in names.values():  # a-1/2 and a/1-2
            name += f"-{artifact.digest[:12]}"
        names[artifact.ref] = name
    return names


def table_of(dataset: Artifact) -> Path:
    """The document table of a dataset."""
    from hanse.store.documents import TABLE

    return dataset.path / TABLE


def _sources(ancestors: Sequence[Artifact]) -> Iterator[SourceRecord]:
    for artifact in ancestors:
        if artifact.kind in ("dataset", "conversations"):
            for number, declared in enumerate(records.definition_of(artifact.record).get("source", ())):
                yield SourceRecord(artifact, number, declared)


def _metadata(artifact: Artifact) -> Mapping[str, Any]:
    found: Mapping[str, Any] = artifact.record["predicate"]["runDetails"]["metadata"]
    return found
