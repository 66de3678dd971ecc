"""The index of an artifact's text: made once, kept beside the store's artifacts, and disposable.

    <store>/.trace/<kind>~<name>~<version>/
        tokenized.N, offset.N, table.N   shards of text (`suffix_array`)
        documents.parquet                a row for each document, in the order of the shards
        index.json                       the digest of the artifact, and what the layout is

Deleting the folder costs the time to make it again. An index whose digest is not the artifact's is made anew.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanse.errors import InputError
from hanse.report.plain import size as shown_size
from hanse.store.disk import fsync_folder, fsync_tree, full_disk
from hanse.store.stage import Artifact, Store
from hanse.trace.suffix_array import SEPARATOR, Shard, shard_limit, write_shard
from hanse.trace.texts import behind, schema, size_of, texts_of

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

FOLDER = ".trace"
HEADER = "index.json"
DOCUMENTS = "documents.parquet"
FORMAT, VERSION = "hanse trace index", 1
LAYOUT = "infini-gram 4, bytes"
#: Bytes on disk for each byte of text: the text, and entries of at most four bytes.
DISK_PER_BYTE = 5
#: Rows of the table of suffixes among which `Index.places` looks for the first places.
MOST_RANKED = 2**20
_GROUP_ROWS = 1024  # of the table of documents; a look-up decodes so many
Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True, order=True)
class Place:
    """Where a string stands: the number of the document in its index, and the byte in that document's text."""

    document: int
    offset: int


class Index:
    """An open index. Open one with `open_index` or `indexes`; any number of threads may ask it.

    Attributes:
        folder: where it lies.
        artifact: `kind/name/version` of what it is an index of.
        digest: of that artifact.
        documents: how many.
        bytes: of their text.
    """

    def __init__(self, folder: Path, header: dict[str, Any]) -> None:
        self.folder = folder
        self.artifact = str(header["artifact"])
        self.digest = str(header["digest"])
        self.documents = int(header["documents"])
        self.bytes = int(header["bytes"])
        self._shards = [Shard(folder, number) for number in range(int(header["shards"]))]
        self._firsts = [0]
        for shard in self._shards:
            self._firsts.append(self._firsts[-1] + shard.documents)
        self._rows = functools.lru_cache(maxsize=64)(self._read_rows)

    def count(self, pattern: bytes) -> int:
        """How often `pattern` stands in the text, overlapping ones too. Raises ValueError for an empty pattern."""
        _check(pattern)
        return sum(last - first for first, last in (shard.ranks(pattern) for shard in self._shards))

    def places(self, pattern: bytes, limit: int) -> list[Place]:
        """The first `limit` places where `pattern` stands, in the order of documents.

        Of a shard that holds it more than MOST_RANKED (and `limit`) times, it is the first among so many of them.

        Raises:
            ValueError: an empty pattern.
        """
        import numpy as np

        _check(pattern)
        found: list[Place] = []
        for shard, number in zip(self._shards, self._firsts, strict=False):
            if len(found) >= limit:
                break
            first, last = shard.ranks(pattern)
            starts = np.sort(shard.starts(first, min(last, first + max(limit, MOST_RANKED))))
            for start in starts[: limit - len(found)].tolist():
                document, offset = shard.document_at(start)
                found.append(Place(number + document, offset))
        return found

    def occurs(self, pattern: bytes) -> bool:
        """Whether `pattern` stands anywhere in the text."""
        for shard in self._shards:
            first, last = shard.ranks(pattern)
            if first < last:
                return True
        return False

    def longest(self, query: bytes, begin: int) -> int:
        """How many bytes of `query`, from `begin` on, stand together somewhere in the text."""
        return max(shard.longest(query, begin) for shard in self._shards)

    def document(self, number: int) -> dict[str, Any]:
        """What is known about a document: the columns of `texts.COLUMNS`, and `artifact`. Raises IndexError."""
        if not 0 <= number < self.documents:
            raise IndexError(f"{self.folder}: has no document {number}")
        group, row = divmod(number, _GROUP_ROWS)
        return dict(self._rows(group).slice(row, 1).to_pylist()[0])

    def text(self, number: int) -> bytes:
        """The text of a document in UTF-8. Raises IndexError."""
        if not 0 <= number < self.documents:
            raise IndexError(f"{self.folder}: has no document {number}")
        shard = next(s for s, following in enumerate(self._firsts[1:]) if number < following)
        return self._shards[shard].document(number - self._firsts[shard])

    def check(self) -> None:
        """Refuse files that do not fit together or are not sorted, as far as a sample shows. Raises InputError."""
        if not self._shards or self._firsts[-1] != self.documents:
            raise InputError(_damaged(self.folder, "its shards do not hold the documents that it names"))
        if sum(shard.size for shard in self._shards) != self.bytes + self.documents:
            raise InputError(_damaged(self.folder, "its shards do not hold the bytes that it names"))
        if not all(shard.seems_sorted() for shard in self._shards):
            raise InputError(_damaged(self.folder, "a table is not sorted"))
        if self._table.num_rows != self.documents:
            raise InputError(_damaged(self.folder, f"{DOCUMENTS} has another number of documents"))

    @functools.cached_property
    def _table(self) -> pq.FileMetaData:
        import pyarrow.parquet as pq

        try:
            return pq.read_metadata(self.folder / DOCUMENTS)
        except (OSError, ValueError) as error:
            raise InputError(_damaged(self.folder, f"{DOCUMENTS}: {error}")) from None

    def _read_rows(self, group: int) -> pa.Table:
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(self.folder / DOCUMENTS, metadata=self._table) as file:
                return file.read_row_group(group)
        except (OSError, ValueError) as error:
            raise InputError(_damaged(self.folder, f"{DOCUMENTS}: {error}")) from None


def open_index(folder: Path) -> Index:
    """Open the index in a folder.

    Raises:
        InputError: there is none, it is damaged, or of another layout.
    """
    try:
        header = json.loads((folder / HEADER).read_text(encoding="utf-8"))
        if (header["format"], header["version"], header["layout"]) != (FORMAT, VERSION, LAYOUT):
            raise InputError(f"{folder}: is an index of another layout; remove the folder to have it made anew.")
        index = Index(folder, header)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(_damaged(folder, f"{HEADER}: {error}")) from None
    index.check()
    return index


def place_of(store: Store, artifact: Artifact) -> Path:
    """Where the index of an artifact lies or would lie."""
    return store.root / FOLDER / artifact.ref.replace("/", "~")


def find_index(store: Store, artifact: Artifact) -> Index | None:
    """The index of an artifact as it is now; None where there is none, an outdated or a damaged one."""
    try:
        index = open_index(place_of(store, artifact))
    except InputError:
        return None
    return index if index.digest == artifact.digest else None


def build(artifact: Artifact, store: Store, progress: Progress | None = None) -> Path:
    """Make the index of a dataset or conversations, unless there is one of just this content.

    Kill it at any moment, and there is a whole index or none. What a killed run left is removed by the next.

    Args:
        progress: called with a phrase, bytes done, and about how many there are.

    Returns:
        The folder of the index.

    Raises:
        InputError: no text, text that cannot be read or was tampered with, a full disk, too little memory, or another
            process is making this index.
    """
    place = place_of(store, artifact)
    if find_index(store, artifact) is not None:
        return place
    with store.lock(f"trace/{artifact.ref}", f"indexing {artifact.ref}"):
        if find_index(store, artifact) is not None:  # made between our look and our lock
            return place
        store.require_intact(artifact, "index it")
        about = size_of(artifact)
        work = _begin(store, artifact, place, about)
        try:
            _write(work, artifact, about, progress)
            fsync_tree(work)
            _publish(work, place)
        except BaseException as error:
            told = full_disk(error, store.root, _name(artifact), work)
            shutil.rmtree(work.parent, ignore_errors=True)
            if told is not None:
                raise told from error
            raise
    return place


def indexes(store: Store, what: Artifact, *, build_missing: bool, progress: Progress | None = None) -> list[Index]:
    """The indexes of all datasets and conversations behind an artifact.

    Args:
        build_missing: make what is not there; otherwise it is left out, and `texts.behind` tells what that is.
        progress: as for `build`.

    Raises:
        InputError: as `texts.behind` and `build`.
    """
    found = []
    for artifact in behind(store, what):
        index = find_index(store, artifact)
        if index is None and build_missing:
            index = open_index(build(artifact, store, progress))
        if index is not None:
            found.append(index)
    return found


def beside(release: Path | None) -> list[Index]:
    """The indexes of all text behind an artifact that lies in a store, given its folder; empty if one is missing.

    Makes none: for a server, which shows where an answer comes from only where that was prepared.
    """
    folder = release.resolve() if release is not None else Path("/")
    if len(folder.parents) < 4:
        return []
    try:
        store = Store.open(folder.parents[2], create=False)
        texts = behind(store, store.find("/".join(folder.parts[-3:])))
    except InputError:
        return []
    found = [index for index in (find_index(store, artifact) for artifact in texts) if index is not None]
    return found if len(found) == len(texts) else []


# --------------------------------------------------------------------------- making one


def _begin(store: Store, artifact: Artifact, place: Path, about: int) -> Path:
    """A folder to make the index in, once what killed runs left is gone and there is room for it."""
    area, key = place.parent, place.name
    try:
        area.mkdir(exist_ok=True)
        for stale in (*area.glob(f".new~{key}~*"), *area.glob(f".old~{key}~*")):
            shutil.rmtree(stale)
        free = shutil.disk_usage(area).free
        if free < DISK_PER_BYTE * about:
            raise InputError(
                f"{area}: {_name(artifact)} takes about {shown_size(DISK_PER_BYTE * about)}, and {shown_size(free)} "
                f"are free; make room and run the same command again."
            )
        work = Path(tempfile.mkdtemp(prefix=f".new~{key}~", dir=area)) / "index"
        work.mkdir()
        return work
    except OSError as error:
        raise full_disk(error, store.root, _name(artifact), area) or InputError(
            f"{area}: the index cannot be written there ({error.strerror})."
        ) from None


def _write(folder: Path, artifact: Artifact, about: int, progress: Progress | None) -> None:
    """Shards, table of documents and header."""
    limit = shard_limit()
    done = documents = number = 0
    say = progress or (lambda label, done, total: None)
    with _Rows(folder / DOCUMENTS) as rows:
        for text, offsets in _shards(artifact, limit, rows, lambda read: say(f"reading {artifact.ref}", read, about)):
            say(f"sorting {artifact.ref}", done, about)
            write_shard(folder, number, text, offsets)
            done, number, documents = done + len(text) - len(offsets), number + 1, documents + len(offsets)
    if not number:
        raise InputError(f"{artifact.ref}: holds no document, so there is nothing to look through.")
    header = {
        "format": FORMAT, "version": VERSION, "layout": LAYOUT, "artifact": artifact.ref, "digest": artifact.digest,
        "documents": documents, "bytes": done, "shards": number,
    }  # fmt: skip
    (folder / HEADER).write_text(json.dumps(header, indent=1) + "\n", encoding="utf-8")


def _shards(
    artifact: Artifact, limit: int, rows: _Rows, say: Callable[[int], None]
) -> Iterator[tuple[bytearray, list[int]]]:
    """Text and offsets of one shard after the other, each of at most `limit` bytes or one document."""
    text, offsets, read = bytearray(), list[int](), 0
    for content, row in texts_of(artifact):
        if text and len(text) + 1 + len(content) > limit:
            yield text, offsets
            text, offsets = bytearray(), []
        offsets.append(len(text))
        text += SEPARATOR
        text += content
        rows.add({**row, "artifact": artifact.ref})
        read += len(content)
        if len(offsets) % 1024 == 0:
            say(read)
    if text:
        yield text, offsets


class _Rows:
    """The table of documents while it is written, in groups of _GROUP_ROWS."""

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        self._schema = schema()
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._held: list[dict[str, Any]] = []

    def __enter__(self) -> _Rows:
        return self

    def __exit__(self, *error: object) -> None:
        if self._held and error[0] is None:
            self._flush()
        self._writer.close()

    def add(self, row: dict[str, Any]) -> None:
        """Append the row of the next document."""
        self._held.append(row)
        if len(self._held) == _GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        self._writer.write_table(pa.Table.from_pylist(self._held, self._schema))
        self._held = []


def _publish(work: Path, place: Path) -> None:
    """Put a finished index in its place; an outdated one goes."""
    old = place.parent / f".old~{place.name}~{os.getpid()}"
    if place.exists():
        os.rename(place, old)
    os.rename(work, place)
    fsync_folder(place.parent)
    shutil.rmtree(old, ignore_errors=True)
    work.parent.rmdir()


def _name(artifact: Artifact) -> str:
    return f"the index of {artifact.ref}"


def _damaged(folder: Path, why: str) -> str:
    return f"{folder}: is no index, or a damaged one ({' '.join(why.split())[:200]}); remove it to have it made anew."


def _check(pattern: bytes) -> None:
    if not pattern:
        raise ValueError("an empty pattern stands everywhere")
