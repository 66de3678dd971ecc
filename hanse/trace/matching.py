"""Which texts somebody means, in every table of a store, and where they lie in the token shards.

Tables are read a row group at a time. Memory holds one, and 24 bytes for each document that matches.

# D documents
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hanse.data.shards import Shards
from hanse.errors import InputError
from hanse.store import query
from hanse.store.criteria import Criteria
from hanse.store.documents import TABLE
from hanse.store.query import INDEX, id_words
from hanse.store.stage import Artifact
from hanse.trace import leaving
from hanse.trace.withdrawal import hash_of

if TYPE_CHECKING:
    from hanse.trace.withdrawal import Withdrawal

CONVERSATIONS = "train.jsonl"  # what is learnt; those held out only measure
LINES = 10_000  # conversations at a time
#: What a criterion may look at. A table may lack any of them but those that were asked for.
COLUMNS = ("id", "author", "title", "domain", "url", "licence", "source", "collection", "language")
_SHOWN = ("id", "title", "author", "source", "url", "licence", "language", "split", "drop_reason")
#: What is told of a document of which personal data was withdrawn, beside the hash of its id.
_NAMELESS = ("language", "licence", "split", "drop_reason")
_INDEXED = ("id", "language", "source", "split", "offset", "tokens")


@dataclass(frozen=True)
class Wanted:
    """What is looked for.

    Attributes:
        label: for people.
        needed: columns that a table must have.
        hits: which rows of a table are meant, bool.
        ids: documents that are named outright, and so can be found in shards whose dataset is gone.
        are_all_named: whether nothing else is meant.
        salt: of a withdrawal of personal data, whose documents are told by salted hashes; empty where they are named.
    """

    label: str
    needed: frozenset[str]
    hits: Callable[[pa.Table], np.ndarray]
    ids: tuple[str, ...] = ()
    are_all_named: bool = False
    salt: str = ""


def by_criteria(criteria: Criteria) -> Wanted:
    """What a person asks for."""
    label = ", ".join(f"{name} {value}" for name, value in criteria.given().items())
    needed, ids = frozenset(criteria.given()), (criteria.id,) if criteria.id else ()
    return Wanted(label, needed, criteria.hits, ids, are_all_named=needed == {"id"} and _are_ids(ids))


def by_withdrawal(withdrawal: Withdrawal, *, with_names: bool = False) -> Wanted:
    """What a withdrawal covers.

    Args:
        with_names: whether documents are named although personal data was withdrawn.
    """

    def hits(table: pa.Table) -> np.ndarray:
        return np.asarray(leaving.matches((withdrawal,), table), bool)

    # It means whatever fits it, so that its list of documents need not be all.
    label = f"withdrawal {withdrawal.id} ({withdrawal.reason})"
    salt = "" if with_names else withdrawal.salt
    label += ", documents by the salted hashes of their ids; --show-names names them" if salt else ""
    return Wanted(label, frozenset({"id"}), hits, tuple(withdrawal.documents), salt=salt)


def as_told(row: Mapping[str, Any], wanted: Wanted) -> dict[str, Any]:
    """A document as it may be shown: of withdrawn personal data the hash that the withdrawal has, and no name."""
    if not wanted.salt:
        return dict(row)
    told = {"hash": hash_of(wanted.salt, "documents", str(row.get("id") or ""))}
    return told | {name: row[name] for name in _NAMELESS if name in row}


@dataclass(frozen=True)
class Held:
    """What of it a table of documents holds.

    Attributes:
        documents, bytes: that match, and their text in UTF-8.
        kept, kept_bytes: of these, in the dataset's text.
        copies: not kept themselves, but their text, or nearly the same, stays as another document.
        shown: rows of the first that match.
        others, others_shown: documents that do not match, but are copies of some that do; the first of their rows.
        keys_D: first 64 bits of the ids under which matching text is in the dataset, sorted, uint64.
        copy_keys_D: of these, the ids of documents that do not match themselves, but say the same or nearly.
    """

    documents: int
    bytes: int
    kept: int
    kept_bytes: int
    copies: int
    shown: tuple[dict[str, Any], ...]
    others: int
    others_shown: tuple[dict[str, Any], ...]
    keys_D: np.ndarray
    copy_keys_D: np.ndarray


def in_dataset(dataset: Artifact, wanted: Wanted, *, limit: int) -> Held:
    """Look a dataset's table of documents through.

    Raises:
        InputError: a table that cannot be read, or that lacks a column that is needed.
    """
    path = dataset.path / TABLE
    documents = size = kept = kept_size = copies = 0
    shown: list[dict[str, Any]] = []
    own: list[np.ndarray] = []
    stand_ins: list[np.ndarray] = []
    clusters: list[np.ndarray] = []
    rows: list[np.ndarray] = []
    start = 0
    for table in _groups(path, wanted.needed, {*COLUMNS, "bytes", "split", "drop_reason", "cluster"}):
        is_hit = wanted.hits(table)
        hits = np.flatnonzero(is_hit)
        if len(hits):
            is_kept, is_copy, sizes = query.is_kept(table), query.is_copy(table), query.text_bytes(table)
            documents += len(hits)
            size += int(sizes[hits].sum())
            kept += int((is_kept & is_hit).sum())
            kept_size += int(sizes[is_kept & is_hit].sum())
            copies += int((is_copy & is_hit).sum())
            own.append(_words(path, table["id"].take(hits[is_kept[hits]])))
            if "cluster" in table.column_names:
                stand_ins.append(_words(path, table["cluster"].take(hits[is_copy[hits]])))
                clusters.append(_words(path, table["cluster"].take(hits)))
            rows.append(start + hits)
            shown += [as_told(row, wanted) for row in _rows(table, hits[: limit - len(shown)])]
        start += len(table)
    keys, copied = _sorted(own), _sorted(stand_ins)
    others, others_shown = _others(path, _sorted(clusters), _sorted(rows), limit) if clusters else (0, [])
    return Held(
        documents=documents,
        bytes=size,
        kept=kept,
        kept_bytes=kept_size,
        copies=copies,
        shown=tuple(shown),
        others=others,
        others_shown=tuple(as_told(row, wanted) for row in others_shown),
        keys_D=_sorted([keys, copied]),
        copy_keys_D=np.setdiff1d(copied, keys),
    )


@dataclass(frozen=True)
class Lying:
    """Where matching text lies in shards.

    Attributes:
        documents, tokens: of training text, end tokens included.
        heldout_tokens: of validation text: measured with, never trained on.
        copies: of the documents, those that do not match themselves, but say the same or nearly.
        files: (file, documents, tokens) of each file with some of them.
        share: `tokens` of all tokens of the training text.
        rows: id, language, source, split, offset in the file and tokens of each.
    """

    documents: int
    tokens: int
    heldout_tokens: int
    copies: int
    files: tuple[tuple[str, int, int], ...]
    share: float
    rows: pa.Table


def in_shards(shards: Artifact, keys_D: np.ndarray, copy_keys_D: np.ndarray) -> Lying:
    """Look documents up in the index of shards.

    Args:
        keys_D: the first 64 bits of their ids, sorted, uint64.
        copy_keys_D: of these, the ones to count as copies.

    Raises:
        InputError: an index or a `shards.json` that cannot be read.
    """
    opened = Shards.open(shards.path)
    found = [
        table.filter(pa.array(_among(_words(shards.path / INDEX, table["id"]), keys_D)))
        for table in _groups(shards.path / INDEX, frozenset(_INDEXED), set(_INDEXED))
    ]
    rows = pa.concat_tables(found).select(_INDEXED)
    sums = rows.group_by(["split", "language"], use_threads=False).aggregate([("tokens", "sum"), ("id", "count")])
    files = [(f"{row['split']}/{row['language']}.bin", row["id_count"], row["tokens_sum"]) for row in sums.to_pylist()]
    is_train = np.asarray(pc.equal(rows["split"], "train"))
    tokens = int(np.asarray(rows["tokens"])[is_train].sum())
    whole = sum(counts["tokens"] for counts in opened.splits.get("train", {}).values())
    return Lying(
        documents=int(is_train.sum()),
        tokens=tokens,
        heldout_tokens=int(np.asarray(rows["tokens"]).sum()) - tokens,
        copies=int((_among(_words(shards.path / INDEX, rows["id"]), copy_keys_D) & is_train).sum()),
        files=tuple(sorted(files)),
        share=tokens / whole if whole else 0.0,
        rows=rows,
    )


@dataclass(frozen=True)
class Spoken:
    """Training conversations that match.

    Attributes:
        places: source -> their numbers among the conversations of that source, in the order of the file.
        shown: the first of them, without their messages.
    """

    places: Mapping[str, tuple[int, ...]]
    shown: tuple[dict[str, Any], ...]

    @property
    def conversations(self) -> int:
        """How many match."""
        return sum(map(len, self.places.values()))


def in_conversations(conversations: Artifact, wanted: Wanted, *, limit: int) -> Spoken:
    """Look the training conversations through.

    Raises:
        InputError: a file that cannot be read.
    """
    places: dict[str, list[int]] = {}
    read: dict[str, int] = {}
    shown: list[dict[str, Any]] = []
    for lines in _lines(conversations.path / CONVERSATIONS):
        hits = wanted.hits(leaving.conversation_table(lines))
        for row, is_hit in zip(lines, hits.tolist(), strict=True):
            source = str(row.get("source"))
            number = read.get(source, 0)
            read[source] = number + 1
            if is_hit:
                places.setdefault(source, []).append(number)
                if len(shown) < limit:
                    shown.append(as_told({name: row[name] for name in _SHOWN if name in row}, wanted))
    return Spoken({source: tuple(found) for source, found in sorted(places.items())}, tuple(shown))


def texts(artifact: Artifact, wanted: Wanted, *, most: int) -> dict[str, str]:
    """The first texts that match and are in a dataset or conversations, at most so many, by id.

    Raises:
        InputError: they cannot be read.
    """
    from hanse.trace.texts import texts_of

    found: dict[str, str] = {}
    for content, row in texts_of(artifact):
        if is_meant(row, wanted):
            found[str(row["id"])] = content.decode("utf-8", "replace")
        if len(found) == most:
            break
    return found


def is_meant(row: Mapping[str, Any], wanted: Wanted) -> bool:
    """Whether one document matches, by what is known about it."""
    return bool(wanted.hits(leaving.conversation_table([row]))[0])


def word_keys(ids: tuple[str, ...]) -> np.ndarray:
    """The keys of documents that were named outright; those that are no ids of documents are left out."""
    names = [name for name in ids if _are_ids((name,))]
    return np.sort(id_words(pa.array(names, pa.string())))


def _are_ids(names: tuple[str, ...]) -> bool:
    return all(len(name) == 32 and set(name) <= set("0123456789abcdef") for name in names)


def _groups(path: Path, needed: frozenset[str], wanted: set[str]) -> Iterator[pa.Table]:
    """Row groups of a table, with those of the wanted columns that it has."""
    try:
        with pq.ParquetFile(path) as file:
            known = set(file.schema_arrow.names)
            missing = sorted(needed - known)
            if missing:
                raise InputError(f"{path}: has no column '{missing[0]}', so it could not be searched by it.")
            for group in range(file.num_row_groups):
                yield file.read_row_group(group, columns=sorted(wanted & known)).combine_chunks()
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read ({' '.join(str(error).split())[:200]}); make it again.") from None


def _words(path: Path, ids: pa.ChunkedArray) -> np.ndarray:
    try:
        return id_words(ids.drop_null())
    except (ValueError, TypeError):
        raise InputError(f"{path}: holds ids that are not 32 hexadecimal digits; make it again.") from None


def _sorted(arrays: list[np.ndarray]) -> np.ndarray:
    return np.unique(np.concatenate(arrays)) if arrays else np.zeros(0, np.uint64)


def _among(values: np.ndarray, sorted_keys: np.ndarray) -> np.ndarray:
    if not len(sorted_keys):
        return np.zeros(len(values), bool)
    places = np.minimum(np.searchsorted(sorted_keys, values), len(sorted_keys) - 1)
    return np.asarray(sorted_keys[places] == values, bool)


def _rows(table: pa.Table, places: np.ndarray) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = table.select([n for n in _SHOWN if n in table.column_names]).take(places).to_pylist()
    return found


def _others(path: Path, clusters: np.ndarray, hits: np.ndarray, limit: int) -> tuple[int, list[dict[str, Any]]]:
    """Documents of the same clusters that do not match: how many, and the first of them."""
    count, start = 0, 0
    shown: list[dict[str, Any]] = []
    for table in _groups(path, frozenset({"cluster"}), {*_SHOWN, "cluster"}):
        # One without a cluster is a copy of nothing, and `_words` would lose its place.
        names = pc.fill_null(table["cluster"], "0" * 32)
        is_other = _among(_words(path, names), clusters)
        is_other[hits[(hits >= start) & (hits < start + len(table))] - start] = False
        count += int(is_other.sum())
        shown += _rows(table, np.flatnonzero(is_other)[: limit - len(shown)])
        start += len(table)
    return count, shown


def _lines(path: Path) -> Iterator[list[dict[str, Any]]]:
    try:
        with path.open(encoding="utf-8") as file:
            rows = (json.loads(line) for line in file)
            while lines := list(islice(rows, LINES)):
                yield lines
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}).") from None
