"""Copies of withdrawn documents that no criterion finds: the same passages under another name.

They are proposed, and a person decides: a passage in two documents may be a copy, a quotation, or a source of both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from hanse.store.stage import Artifact, Store

PROBES = 16  # passages of a document that are looked for
PROBE_BYTES = 100
ENOUGH = 2  # of them in one other document make it a proposal
PLACES = 1000  # of one passage; what stands in more documents is a formula, and names none
Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class Copy:
    """A document that shares passages with withdrawn ones.

    Attributes:
        artifact: `kind/name/version` that it is in.
        document: what is known about it: id, author, title, url ...
        passages: how many it shares.
    """

    artifact: str
    document: Mapping[str, object]
    passages: int


def propose(
    store: Store, held: Mapping[str, set[str]], texts: Callable[[Artifact, set[str]], Iterable[str]],
    progress: Progress | None = None,
) -> list[Copy]:  # fmt: skip
    """Look for passages of withdrawn documents in all datasets and conversations of a store.

    Args:
        held: ids of withdrawn documents whose text is there, by artifact.
        texts: gives the texts of these documents of an artifact.
        progress: told what is being indexed.

    Returns:
        Most shared passages first.

    Raises:
        InputError: an index cannot be made or read.
    """
    from hanse.trace.index import indexes
    from hanse.trace.leaving import artifacts

    wanted = {probe for ref, ids in held.items() for text in texts(store.find(ref), ids) for probe in _probes(text)}
    withdrawn = set().union(*held.values()) if held else set()
    found: dict[tuple[str, str], tuple[Mapping[str, object], set[bytes]]] = {}
    for artifact in artifacts(store) if wanted else []:
        for index in indexes(store, artifact, build_missing=True, progress=progress):
            for probe in sorted(wanted):
                places = index.places(probe, PLACES + 1)
                if len(places) > PLACES:
                    continue
                for number in {place.document for place in places}:
                    document = index.document(number)
                    if document["id"] not in withdrawn:
                        found.setdefault((artifact.ref, str(document["id"])), (document, set()))[1].add(probe)
    copies = [Copy(ref, document, len(probes)) for (ref, _), (document, probes) in found.items()]
    enough = [each for each in copies if each.passages >= ENOUGH]
    return sorted(enough, key=lambda each: (-each.passages, each.artifact, str(each.document["id"])))


def _probes(text: str) -> set[bytes]:
    """Passages of about PROBE_BYTES at equal distances, whole characters each."""
    content = text.encode("utf-8")
    last = len(content) - PROBE_BYTES
    if last < 0:
        return set()
    starts = {round(number * last / (PROBES - 1)) for number in range(PROBES)}
    cut = (content[start : start + PROBE_BYTES].decode("utf-8", "ignore").encode() for start in starts)
    return {each for each in cut if each.strip()}
