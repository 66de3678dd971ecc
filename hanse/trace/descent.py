"""Who was made from whom, over a whole store, read from the records; and whether the records bear each other out.

Nothing is believed: a record that was edited, a parent that is missing or another than the recorded one, records that
name each other, and clocks that ran backwards are found and said. The answer is given as far as the records carry it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from hanse.errors import InputError
from hanse.store import record as records
from hanse.store.digest import RECORD, SUMS, sha256_text, sums_text
from hanse.store.stage import Artifact, Store

START = "start"  # the role of a model whose weights were continued, which a record names by its files


@dataclass(frozen=True)
class Edge:
    """What an artifact was made from: the role it played, its name, and whether that one is in the store as it was."""

    role: str
    ref: str
    is_there: bool


@dataclass(frozen=True)
class Descent:
    """The artifacts of a store, and who was made from whom.

    Attributes:
        artifacts: by name; whoever something was made from comes before it, except in a circle.
        parents: by name, in the order of the record; also parents that are missing.
        gaps: what could not be followed, a sentence each: an answer may be incomplete for it.
        warnings: what looks wrong, but does not stand in the way.
        foreign: models that were continued from weights that nothing in the store holds.
    """

    artifacts: Mapping[str, Artifact]
    parents: Mapping[str, tuple[Edge, ...]]
    gaps: tuple[str, ...]
    warnings: tuple[str, ...]
    foreign: tuple[str, ...]


def read(store: Store) -> Descent:
    """Read and check every record of a store. Nothing is raised for a bad one; it is named in `gaps`."""
    found = {artifact.ref: artifact for artifact in store.artifacts()}
    gaps = list(_unreadable(store, found))
    warnings: list[str] = []
    parents: dict[str, tuple[Edge, ...]] = {}
    foreign: list[str] = []
    named: dict[str, tuple[str, str]] = {}
    for ref, artifact in found.items():
        edges = []
        for each in records.inputs_of(artifact.record):
            parent = found.get(each.ref)
            edges.append(Edge(each.role, each.ref, parent is not None and parent.digest == each.digest))
            gaps += _doubts_of_parent(artifact, each, parent, named)
            warnings += _clock(artifact, parent)
        weights = _started_from(artifact.record)
        if weights:
            holders = [other.ref for other in found.values() if other.ref != ref and _holds(other, weights)]
            edges += [Edge(START, holder, True) for holder in holders]
            foreign += [] if holders else [ref]
        parents[ref] = tuple(edges)
        gaps += contradictions(artifact)
        warnings += _own_clock(artifact)
    order, circles = _ordered(parents)
    gaps += [f"records name each other: {' -> '.join(circle)}; one of them was edited." for circle in circles]
    artifacts = {ref: found[ref] for ref in order if ref in found}
    return Descent(artifacts, parents, tuple(dict.fromkeys(gaps)), tuple(dict.fromkeys(warnings)), tuple(foreign))


def _unreadable(store: Store, found: Mapping[str, Artifact]) -> Iterator[str]:
    for path in sorted(store.root.glob("[!.]*/[!.]*/[!.]*")):
        ref = "/".join(path.parts[-3:])
        if ref in found or not any((path / name).is_file() for name in (RECORD, SUMS)):
            continue
        try:
            store.find(ref)
        except InputError as error:
            yield str(error)


def _doubts_of_parent(
    artifact: Artifact, named: records.Input, parent: Artifact | None, before: dict[str, tuple[str, str]]
) -> Iterator[str]:
    """What is wrong with one input that a record names. `before` keeps who named which digest first."""
    first, digest = before.setdefault(named.ref, (artifact.ref, named.digest))
    if parent is None:
        yield f"{named.ref}: is missing from the store, though {artifact.ref} was made from it; restore it."
        if digest != named.digest:
            yield f"{named.ref}: {first} and {artifact.ref} name different ones; one of their records is wrong."
    elif parent.digest != named.digest:
        yield (
            f"{named.ref}: is not the one that {artifact.ref} was made from ({parent.digest[:12]} instead of "
            f"{named.digest[:12]}); restore that one."
        )
    elif parent.record_digest != named.record:
        yield f"{named.ref}: its {RECORD} changed after {artifact.ref} was made from it; restore it."


def contradictions(artifact: Artifact) -> Iterator[str]:
    """Where a record does not agree with itself, a sentence each: it was edited by hand."""
    try:
        told = artifact.record["predicate"]["runDetails"]["metadata"].get("hanse_fingerprint")
        subjects = records.subjects_of(artifact.record)
        whole = subjects.pop(artifact.ref, None)
        if told is not None and told != records.fingerprint_of(artifact.record):
            yield f"{artifact.ref}: its {RECORD} was edited; its definition or inputs are not those it was made with."
        elif whole is None:
            yield f"{artifact.ref}: its {RECORD} is about another artifact; restore it."
        elif sha256_text(sums_text(subjects)) != whole:
            yield f"{artifact.ref}: its {RECORD} was edited; the files it names do not add up to its digest."
        elif None in _times(artifact):
            yield f"{artifact.ref}: its {RECORD} was edited; it does not say when the step began and ended."
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        yield f"{artifact.ref}: its {RECORD} cannot be read ({type(error).__name__}: {error}); restore it."


def _own_clock(artifact: Artifact) -> Iterator[str]:
    started, finished = _times(artifact)
    if started is not None and finished is not None and finished < started:
        yield f"{artifact.ref}: finished before it began, by its record; the clock ran backwards."


def _clock(artifact: Artifact, parent: Artifact | None) -> Iterator[str]:
    if parent is None:
        return
    finished, before = _times(artifact)[1], _times(parent)[1]
    if finished is not None and before is not None and finished < before:
        yield (
            f"{artifact.ref}: finished at {finished:%Y-%m-%dT%H:%M:%SZ}, before {parent.ref}, from which it was made "
            f"({before:%Y-%m-%dT%H:%M:%SZ}); a clock ran backwards."
        )


def _times(artifact: Artifact) -> tuple[datetime | None, datetime | None]:
    """When the step began and ended, as recorded; None for what is not a time with its zone."""
    found: list[datetime | None] = []
    for key in ("startedOn", "finishedOn"):
        try:
            time = datetime.fromisoformat(artifact.record["predicate"]["runDetails"]["metadata"][key])
        except (KeyError, TypeError, ValueError):
            found.append(None)
        else:
            found.append(time if time.tzinfo else None)
    return found[0], found[1]


def _started_from(record: Mapping[str, Any]) -> set[str]:
    """SHA-256 of the weight files that a model was continued from."""
    model = records.definition_of(record).get("model")
    start = model.get("start") if isinstance(model, Mapping) else None
    if not isinstance(start, Mapping):
        return set()
    return {str(digest) for name, digest in start.items() if str(name).endswith(".safetensors")}


def _holds(artifact: Artifact, weights: set[str]) -> bool:
    try:
        return weights <= set(records.subjects_of(artifact.record).values())
    except (KeyError, TypeError):
        return False


def _ordered(parents: Mapping[str, tuple[Edge, ...]]) -> tuple[list[str], list[list[str]]]:
    """Names with parents before children, and each circle that a walk ran into."""
    order: list[str] = []
    circles: list[list[str]] = []
    is_done: dict[str, bool] = {}  # False while its ancestors are being walked
    for root in parents:
        if root in is_done:
            continue
        is_done[root] = False
        path = [(root, iter(parents[root]))]
        while path:
            ref, edges = path[-1]
            edge = next(edges, None)
            if edge is None:
                is_done[ref] = True
                order.append(ref)
                path.pop()
            elif edge.ref not in is_done:
                is_done[edge.ref] = False
                path.append((edge.ref, iter(parents.get(edge.ref, ()))))
            elif not is_done[edge.ref]:
                walked = [step for step, _ in path]
                circles.append([*walked[walked.index(edge.ref) :], edge.ref])
    return order, circles
