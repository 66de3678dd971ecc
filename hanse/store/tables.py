"""Where to look for documents: the tables behind a name, and the token shards that were made from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hanse.errors import InputError
from hanse.store import record as records
from hanse.store.digest import RECORD
from hanse.store.documents import TABLE
from hanse.store.layout import MARKER
from hanse.store.stage import Artifact, Store

EVIDENCE = "evidence.parquet"


@dataclass(frozen=True)
class Searched:
    """Where to look: a table of documents, and what belongs to it.

    Attributes:
        name: of the artifact or folder that the table belongs to.
        evidence: the statements on rights, where they are at hand.
        shards: folder of token shards by `kind/name/version`.
    """

    name: str
    documents: Path
    evidence: Path | None = None
    shards: Mapping[str, Path] = field(default_factory=dict)


def locate(name: str, store_root: Path) -> list[Searched]:
    """The tables of documents behind a name.

    Args:
        name: a dataset, shards, or anything made from them, as `kind/name[/version]`; or a folder with a table of
            documents, such as a published release.
        store_root: where names are looked up.

    Raises:
        InputError: there is no such thing, no table of documents behind it, or an ancestor that is missing or changed.
    """
    folder = Path(name).absolute()
    if not (folder / RECORD).is_file() and not _tables(folder):
        store = Store.open(store_root, create=False)
        return _behind(store, store.find(name))
    root = folder.parents[2] if len(folder.parents) > 2 else folder
    if (root / MARKER).is_file():
        store = Store.open(root, create=False)
        return _behind(store, store.find("/".join(folder.parts[-3:])))
    tables = _tables(folder)
    if not tables:
        raise InputError(f"{name}: holds no table of documents; name a dataset, or a release that carries its table.")
    return tables


def _tables(folder: Path) -> list[Searched]:
    """The tables that a folder holds itself: a dataset's, or those of a release."""
    own = folder / TABLE
    evidence = folder / EVIDENCE
    if own.is_file():
        return [Searched(str(folder), own, evidence if evidence.is_file() else None)]
    return [Searched(str(path), path) for path in sorted((folder / "provenance").glob("documents*.parquet"))]


def _behind(store: Store, artifact: Artifact) -> list[Searched]:
    try:
        lineage = ancestry(store, artifact)
    except InputError:
        # A release answers for itself when what it was made from is gone.
        tables = _tables(artifact.path)
        if artifact.kind != "release" or not tables:
            raise
        return tables
    if artifact.kind == "dataset":
        made = [store.find(ref) for ref in store.descendants(artifact.ref) if ref.startswith("shards/")]
        lineage |= {each.ref: each for each in made}
    shards = [each for each in lineage.values() if each.kind == "shards"]
    tables = [
        Searched(dataset.ref, each.documents, each.evidence, _made_from(dataset, shards))
        for dataset in lineage.values()
        if dataset.kind == "dataset"
        for each in _tables(dataset.path)
    ]
    if not tables:
        raise InputError(f"{artifact.ref}: has no table of documents behind it; name a dataset, shards or a release.")
    return sorted(tables, key=lambda each: each.name)


def ancestry(store: Store, artifact: Artifact) -> dict[str, Artifact]:
    """The artifact and everything it was made from, by name, each of them the one that was recorded.

    Raises:
        InputError: one of them is missing, damaged or not the one that was recorded.
    """
    found = {artifact.ref: artifact}
    pending = [artifact]
    while pending:
        child = pending.pop()
        for named in records.inputs_of(child.record):
            if named.ref in found:
                continue
            parent = store.find(named.ref)
            if parent.digest != named.digest:
                raise InputError(f"{named.ref}: is not the one that {child.ref} was made from; restore that one.")
            found[named.ref] = parent
            pending.append(parent)
    return found


def _made_from(dataset: Artifact, shards: Sequence[Artifact]) -> dict[str, Path]:
    return {
        each.ref: each.path
        for each in sorted(shards, key=lambda each: each.ref)
        if any((i.ref, i.digest) == (dataset.ref, dataset.digest) for i in records.inputs_of(each.record))
    }
