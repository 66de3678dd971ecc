"""Which documents somebody means, and where their text went.

From a source line, an author, a domain or a licence to rows of the document table, and from there to their copies, the
evidence on their rights and their place in the token shards. Tables are read a row group at a time. Memory holds one,
what is shown, and the keys of KEYS_AT_A_TIME documents; the index of the shards is read once for each so many.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanse.errors import InputError
from hanse.store.criteria import Criteria
from hanse.store.tables import Searched

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

INDEX = "index.parquet"
SHOWN_COPIES = 10  # of a document
KEYS_AT_A_TIME = 4_000_000  # 32 MB
COPY_REASONS = ("duplicate", "near-duplicate")
_OF_A_COPY = ("id", "source", "collection", "file", "line", "url", "author", "licence", "split", "drop_reason")


@dataclass(frozen=True)
class Place:
    """Where a text lies in shards: the file, the first token in it, how many tokens with the end token."""

    shards: str
    file: str
    offset: int
    tokens: int


@dataclass(frozen=True)
class Match:
    """One document.

    Attributes:
        document: its row.
        copies: rows of the others in its cluster, at most SHOWN_COPIES of `copies_found`.
        evidence: statements on its rights.
        places: where its text is; the text of the copy that stayed, if it is a copy.
    """

    document: dict[str, Any]
    copies: tuple[dict[str, Any], ...] = ()
    copies_found: int = 0
    evidence: tuple[dict[str, Any], ...] = ()
    places: tuple[Place, ...] = ()


@dataclass(frozen=True)
class Totals:
    """Sums over all that matched, shown or not.

    Attributes:
        copies: not kept, but only because their text stays as another document's.
        bytes, kept_bytes: of text in UTF-8.
        tokens: of the documents kept, by shards.
    """

    documents: int
    kept: int
    copies: int
    bytes: int
    kept_bytes: int
    tokens: Mapping[str, int]


@dataclass(frozen=True)
class Found:
    """What a search of one table found: the first matches in the order of the table, and sums over all."""

    searched: Searched
    matches: tuple[Match, ...]
    totals: Totals

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        matches = [asdict(match) for match in self.matches]
        return {"searched": self.searched.name, "matches": matches, "totals": asdict(self.totals)}


def find(searched: Searched, criteria: Criteria, *, limit: int = 20) -> Found:
    """Look a table of documents through.

    Args:
        searched: from `hanse.store.tables.locate`.
        criteria: what to look for.
        limit: documents that are given in full; the sums are over all.

    Raises:
        InputError: a table that cannot be read, or that lacks a column that was asked for.
    """
    documents, kept, copies, size, kept_size = 0, 0, 0, 0, 0
    rows: list[dict[str, Any]] = []
    tally = _Tally(searched.shards)
    with _parquet(searched.documents) as file:
        for group, table, is_hit in _matching(file, searched.documents, criteria):
            has_text, sizes = is_kept(table) & is_hit, text_bytes(table)
            documents += int(is_hit.sum())
            kept += int(has_text.sum())
            copies += int((is_copy(table) & is_hit).sum())
            size += int(sizes[is_hit].sum())
            kept_size += int(sizes[has_text].sum())
            if len(rows) < limit:
                rows += file.read_row_group(group).take(is_hit.nonzero()[0][: limit - len(rows)]).to_pylist()
            if searched.shards:
                tally.add(table["id"].take(has_text.nonzero()[0]))
    tokens, places = tally.close({stays for row in rows if (stays := _stays_as(row))})
    clusters = _clusters(searched.documents, {row["cluster"] for row in rows if row.get("cluster")})
    statements = _statements(searched.evidence, {each for row in rows for each in row.get("evidence") or ()})
    matches = tuple(_match(row, clusters, statements, places) for row in rows)
    return Found(searched, matches, Totals(documents, kept, copies, size, kept_size, tokens))


def id_words(ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """The first 64 bits of each document or evidence id, uint64. Raises ValueError for what is no such id."""
    import numpy as np

    names = ids.to_pylist()
    words = np.frombuffer(bytes.fromhex("".join(names)), ">u8").astype(np.uint64)
    if len(words) != 2 * len(names):
        raise ValueError("ids are not 32 hex digits each")
    return words[::2]


@contextmanager
def _parquet(path: Path) -> Iterator[pq.ParquetFile]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read ({' '.join(str(error).split())[:200]}); make it again.") from None


# --------------------------------------------------------------------------- who matches


def _matching(file: pq.ParquetFile, path: Path, criteria: Criteria) -> Iterator[tuple[int, pa.Table, np.ndarray]]:
    """Number, columns and hits of each row group in which there are hits."""
    known = set(file.schema_arrow.names)
    for name in criteria.given():
        if name not in known:
            raise InputError(f"{path}: has no column '{name}', so it cannot be searched by it.")
    wanted = {*criteria.columns(), "id", "bytes", "split", "drop_reason"} & known
    for group in range(file.num_row_groups):
        table = file.read_row_group(group, columns=sorted(wanted)).combine_chunks()
        is_hit = criteria.hits(table)
        if is_hit.any():
            yield group, table, is_hit


def text_bytes(table: pa.Table) -> np.ndarray:
    """UTF-8 bytes of each document, int64; zeros where the table does not say."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if "bytes" not in table.column_names:
        return np.zeros(len(table), np.int64)
    return np.asarray(pc.fill_null(table["bytes"].cast(pa.int64()), 0))


def is_kept(table: pa.Table) -> np.ndarray:
    """Which documents have their text in the artifact, bool."""
    import numpy as np
    import pyarrow.compute as pc

    if "split" in table.column_names:
        return np.asarray(pc.is_valid(table["split"]), bool)
    if "drop_reason" in table.column_names:
        return np.asarray(pc.equal(pc.fill_null(pc.list_value_length(table["drop_reason"]), 0), 0), bool)
    return np.ones(len(table), bool)


def is_copy(table: pa.Table) -> np.ndarray:
    """Which documents were dropped because their text stays elsewhere, bool."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    found = np.zeros(len(table), bool)
    if "drop_reason" in table.column_names:
        reasons = table["drop_reason"].combine_chunks()
        among = pc.is_in(pc.list_flatten(reasons), value_set=pa.array(COPY_REASONS))
        found[np.asarray(pc.list_parent_indices(reasons).filter(among))] = True
    return found


# --------------------------------------------------------------------------- what belongs to a match


class _Tally:
    """Tokens of the documents that match, and places of those that are shown, in as few scans as memory allows."""

    def __init__(self, shards: Mapping[str, Path]) -> None:
        self._shards = shards
        self._tokens = dict.fromkeys(shards, 0)
        self._held: list[np.ndarray] = []

    def add(self, ids: pa.ChunkedArray) -> None:
        """Take in the ids of documents that are kept."""
        self._held.append(id_words(ids))
        if sum(map(len, self._held)) >= KEYS_AT_A_TIME:
            self._scan(set())

    def close(self, wanted: set[str]) -> tuple[dict[str, int], dict[str, list[Place]]]:
        """Tokens by shards, and the places of the texts that are wanted, by id."""
        return self._tokens, self._scan(wanted) if self._held or wanted else {}

    def _scan(self, wanted: set[str]) -> dict[str, list[Place]]:
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        keys_K = np.sort(np.concatenate([np.zeros(0, np.uint64), *self._held]))
        self._held = []
        names = pa.array(sorted(wanted), pa.string())
        places: dict[str, list[Place]] = {}
        for ref, folder in self._shards.items():
            with _parquet(folder / INDEX) as file:
                for batch in file.iter_batches(2**16, columns=["id", "language", "split", "offset", "tokens"]):
                    self._tokens[ref] += int(np.asarray(batch["tokens"])[_among(id_words(batch["id"]), keys_K)].sum())
                    for hit in batch.filter(pc.is_in(batch["id"], value_set=names)).to_pylist():
                        place = Place(ref, f"{hit['split']}/{hit['language']}.bin", hit["offset"], hit["tokens"])
                        places.setdefault(hit["id"], []).append(place)
        return places


def _among(values: np.ndarray, sorted_keys: np.ndarray) -> np.ndarray:
    import numpy as np

    if not len(sorted_keys):
        return np.zeros(len(values), bool)
    places = np.minimum(np.searchsorted(sorted_keys, values), len(sorted_keys) - 1)
    return np.asarray(sorted_keys[places] == values, bool)


def _stays_as(row: Mapping[str, Any]) -> str | None:
    """The id under which the text of a document is in the dataset, or None: it is not."""
    if row.get("split") is not None:
        return str(row["id"])
    return row.get("cluster") if set(row.get("drop_reason") or ()) & set(COPY_REASONS) else None


def _clusters(path: Path, wanted: set[str]) -> dict[str, tuple[int, list[dict[str, Any]]]]:
    """Size and first members of each cluster that is wanted: one more than is shown, since one was asked for."""
    import pyarrow as pa
    import pyarrow.compute as pc

    sizes = dict.fromkeys(sorted(wanted), 0)
    members: dict[str, list[dict[str, Any]]] = {name: [] for name in sizes}
    with _parquet(path) as file:
        shown = [name for name in ("cluster", *_OF_A_COPY) if name in file.schema_arrow.names]
        for group in range(file.num_row_groups if wanted else 0):
            clusters = file.read_row_group(group, columns=["cluster"])["cluster"]
            here = (
                clusters.filter(pc.is_in(clusters, value_set=pa.array(sizes, pa.string()))).value_counts().to_pylist()
            )
            for each in here:
                sizes[each["values"]] += each["counts"]
            # Of a cluster of millions, only the first few are made into rows.
            short = [each["values"] for each in here if len(members[each["values"]]) <= SHOWN_COPIES]
            if short:
                is_short = pc.is_in(clusters, value_set=pa.array(short, pa.string()))
                for row in file.read_row_group(group, columns=shown).filter(is_short).to_pylist():
                    held = members[row.pop("cluster")]
                    if len(held) <= SHOWN_COPIES:
                        held.append(row)
    return {name: (size, members[name]) for name, size in sizes.items()}


def _statements(path: Path | None, wanted: set[str]) -> dict[str, dict[str, Any]]:
    """Evidence by id."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if path is None or not wanted:
        return {}
    names = pa.array(sorted(wanted), pa.string())
    found: dict[str, dict[str, Any]] = {}
    with _parquet(path) as file:
        for batch in file.iter_batches():
            for row in batch.filter(pc.is_in(batch["id"], value_set=names)).to_pylist():
                found[row["id"]] = row
    return found


def _match(
    row: dict[str, Any],
    clusters: Mapping[str, tuple[int, list[dict[str, Any]]]],
    statements: Mapping[str, dict[str, Any]],
    places: Mapping[str, list[Place]],
) -> Match:
    size, members = clusters.get(row.get("cluster") or "", (1, []))
    own = {name: row[name] for name in _OF_A_COPY if name in row}
    others = [member for member in members if member != own][:SHOWN_COPIES]
    evidence = tuple(statements[each] for each in row.get("evidence") or () if each in statements)
    return Match(row, tuple(others), size - 1, evidence, tuple(places.get(_stays_as(row) or "", ())))
