"""Which documents of which datasets a withdrawal means; what later builds leave out.

A document is meant if all criteria hold for it, in whatever build it turns up; if it has the words of one that was
found when the withdrawal was made, under whatever address; and, where a person confirmed that copies are meant, if it
is a near-copy of such a one. Withdrawn by source, licence or language alone, only what came that way is meant: the same
words from elsewhere stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hanse.errors import InputError
from hanse.store import record as records
from hanse.store.criteria import Criteria
from hanse.store.documents import TABLE
from hanse.store.query import is_kept
from hanse.store.stage import Artifact, Store
from hanse.trace.withdrawal import Withdrawal, hash_of, normalised

if TYPE_CHECKING:
    from hanse.data.dedup import Clusters

Read = Callable[[Iterable[str]], Iterator[pa.Table]]

REASON = "withdrawn"
KINDS = ("dataset", "conversations")
#: Columns that may name a person, or lead to one; empty in later tables where personal data was withdrawn.
NAMING = (
    "source_id", "url", "domain", "retrieved", "rights_holder", "author", "author_died", "title", "year", "extra",
)  # fmt: skip
_HOW_IT_CAME = {"source", "licence", "language"}
_CONVERSATION = ("id", "source", "collection", "url", "domain", "author", "title", "licence", "language", "split")
_AT_ONCE = 4096  # conversations
_NONE = np.zeros(0, np.int64)


def matches(withdrawals: Sequence[Withdrawal], table: pa.Table) -> np.ndarray:
    """Which rows of a document table have to be left out, bool (rows,).

    Args:
        withdrawals: of `withdrawal.read`.
        table: with the column `id` and those that the criteria name; a criterion without its column means no row. Where
            there is a `cluster`, near-copies within this table are found by it.
    """
    mask = Matcher(withdrawals).hits(table)
    copied = [each for each in withdrawals if each.copies]
    if copied and "cluster" in table.column_names:
        clusters = table["cluster"].filter(pa.array(Matcher(copied).hits(table)))
        mask |= _among(table["cluster"], clusters)
    return mask


class Matcher:
    """Withdrawals made ready to be held against many tables; near-copies apart, of which it sees no table alone.

    Attributes:
        columns: what it looks at.
    """

    def __init__(self, withdrawals: Iterable[Withdrawal]) -> None:
        self._criteria = []
        self._hashed = []
        ids: set[str] = set()
        self._hashed_ids: dict[str, set[str]] = {}  # by salt
        self.columns = {"id"}
        for each in withdrawals:
            names = {name for name in (each.hashes if each.is_personal else each.criteria) if name != "documents"}
            self.columns |= names | ({"collection"} if "source" in names else set())
            if each.is_personal:
                self._hashed.append(each)
            else:
                self._criteria.append(Criteria(**each.criteria))  # type: ignore[arg-type]
            if each.copies or not names <= _HOW_IT_CAME:
                ids.update(each.documents)
                if each.is_personal:
                    self._hashed_ids.setdefault(each.salt, set()).update(each.hashes["documents"])
        self._ids = pa.array(sorted(ids), pa.string())

    def hits(self, table: pa.Table) -> np.ndarray:
        """Rows that are meant by criteria or by their words, bool (rows,)."""
        mask = np.zeros(len(table), bool)
        known = {*table.column_names, "collection"}
        for criteria in self._criteria:
            if criteria.columns() <= known:
                mask |= criteria.hits(table)
        for each in self._hashed:
            mask |= _hits_of_hashes(each, table)
        if len(self._ids):
            mask |= _among(table["id"], self._ids)
        for salt, wanted in self._hashed_ids.items():
            ids = table["id"].to_pylist()
            mask |= np.fromiter((hash_of(salt, "documents", each or "") in wanted for each in ids), bool, len(ids))
        return mask


def _hits_of_hashes(withdrawal: Withdrawal, table: pa.Table) -> np.ndarray:
    """Rows of which every criterion holds, although only its hash is known."""
    mask = np.ones(len(table), bool)
    for name, values in withdrawal.hashes.items():
        if name == "documents":
            continue
        wanted: dict[int, set[str]] = {}
        for value in values:
            size, _, digest = value.partition(":")
            wanted.setdefault(int(size), set()).add(digest)
        fits = np.zeros(len(table), bool)
        for column in (name, "collection") if name == "source" else (name,):
            if column in table.column_names:
                fits |= _fitting(table[column], name, wanted, withdrawal.salt)
        mask &= fits
    return mask


def _fitting(column: pa.ChunkedArray, name: str, wanted: Mapping[int, set[str]], salt: str) -> np.ndarray:
    """Rows with a part that has one of the hashes wanted; each value is hashed once."""
    encoded = column.combine_chunks().dictionary_encode()

    def fits(value: str | None) -> bool:
        return any(hash_of(salt, name, part) in wanted[size] for size in wanted for part in _parts(name, value, size))

    found = pa.array(map(fits, encoded.dictionary.to_pylist()), pa.bool_())
    return np.asarray(pc.fill_null(found.take(encoded.indices), False), bool)


def _parts(name: str, value: str | None, size: int) -> Iterator[str]:
    """What of a value could be what was asked for: as `Criteria` would, a run of words, a domain above, a beginning."""
    plain = normalised(name, value or "")
    if name in ("author", "title"):
        words = plain.split(" ")
        yield from (" ".join(words[start : start + size]) for start in range(len(words) - size + 1))
    elif name == "domain":
        labels = plain.split(".")
        if len(labels) >= size:
            yield ".".join(labels[-size:])
    elif len(plain) == size or (name == "url" and len(plain) > size):
        yield plain[:size]


# --------------------------------------------------------------------------- in a build


@dataclass(frozen=True)
class Leaving:
    """Documents of a build that have to be left out, by ordinal, sorted int64.

    Attributes:
        copied: those whose near-copies leave too.
        nameless: those that were withdrawn as personal data, so that the table must not name them.
        nameless_copied: those of both.
    """

    ordinals: np.ndarray = field(default_factory=lambda: _NONE)
    copied: np.ndarray = field(default_factory=lambda: _NONE)
    nameless: np.ndarray = field(default_factory=lambda: _NONE)
    nameless_copied: np.ndarray = field(default_factory=lambda: _NONE)

    def with_copies(self, clusters: Clusters) -> Leaving:
        """The same, and the near-copies that are meant as well."""
        ordinals = np.union1d(self.ordinals, _grown(self.copied, clusters))
        nameless = np.union1d(self.nameless, _grown(self.nameless_copied, clusters))
        return Leaving(ordinals, self.copied, nameless, self.nameless_copied)


def _grown(ordinals: np.ndarray, clusters: Clusters) -> np.ndarray:
    """All documents of the clusters in which these are."""
    among = np.isin(clusters.ordinals, ordinals)
    survivors = np.union1d(ordinals, clusters.survivors[among])
    return np.union1d(survivors, clusters.ordinals[np.isin(clusters.survivors, survivors)])


def of_parts(parts: Sequence[Path], withdrawals: Sequence[Withdrawal]) -> Leaving:
    """The documents of annotated parts that have to be left out, copies not yet among them."""
    if not withdrawals:
        return Leaving()
    groups = (
        withdrawals,
        [each for each in withdrawals if each.copies],
        [each for each in withdrawals if each.is_personal],
        [each for each in withdrawals if each.is_personal and each.copies],
    )
    matchers = [Matcher(group) if group else None for group in groups]
    wanted = sorted({"ordinal", *(matchers[0].columns if matchers[0] else ())})
    found: list[list[np.ndarray]] = [[_NONE] for _ in groups]
    for path in parts:
        with pq.ParquetFile(path) as file:
            for number in range(file.num_row_groups):
                table = file.read_row_group(number, columns=wanted).combine_chunks()
                ordinals = table["ordinal"].to_numpy()
                for held, matcher in zip(found, matchers, strict=True):
                    if matcher is not None:
                        held.append(ordinals[matcher.hits(table)])
    return Leaving(*(np.unique(np.concatenate(held)) for held in found))


# --------------------------------------------------------------------------- in what is there


def artifacts(store: Store) -> list[Artifact]:
    """Every dataset and all conversations of a store."""
    return [each for each in store.artifacts() if each.kind in KINDS]


def tables(artifact: Artifact, columns: Iterable[str]) -> Iterator[pa.Table]:
    """The documents or conversations of an artifact, some thousand rows at a time, with those columns that there are.

    Raises:
        InputError: they cannot be read.
    """
    if artifact.kind == "conversations":
        yield from _conversations(artifact.path)
        return
    yield from tables_of(artifact.path / TABLE, columns)


def tables_of(path: Path, columns: Iterable[str]) -> Iterator[pa.Table]:
    """The rows of a table of documents, a group at a time. Raises InputError if it cannot be read."""
    try:
        with pq.ParquetFile(path) as file:
            known = set(file.schema_arrow.names)
            wanted = sorted(known & {"id", "cluster", "split", "drop_reason", *columns})
            for number in range(file.num_row_groups):
                yield file.read_row_group(number, columns=wanted).combine_chunks()
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read ({' '.join(str(error).split())[:200]}); make it again.") from None


def meant(
    read: Read, withdrawals: Sequence[Withdrawal], columns: Iterable[str] = ()
) -> Iterator[tuple[pa.Table, np.ndarray]]:
    """Each table of an artifact and which of its rows are meant, near-copies included.

    Args:
        read: reads these columns, once or twice: `tables` of an artifact or `tables_of` a path, bound.
        columns: wanted beside those that the criteria need.
    """
    matcher = Matcher(withdrawals)
    wanted = {*matcher.columns, *columns}
    copied = [each for each in withdrawals if each.copies]
    clusters = _clusters(Matcher(copied), read(wanted)) if copied else pa.array([], pa.string())
    for table in read(wanted):
        mask = matcher.hits(table)
        if len(clusters) and "cluster" in table.column_names:
            mask |= _among(table["cluster"], clusters)
        yield table, mask


def _clusters(matcher: Matcher, read: Iterable[pa.Table]) -> pa.Array:
    found: set[str] = set()
    for table in read:
        if "cluster" in table.column_names:
            found.update(table["cluster"].filter(pa.array(matcher.hits(table))).drop_null().to_pylist())
    return pa.array(sorted(found), pa.string())


def held(read: Read, withdrawals: Sequence[Withdrawal]) -> dict[str, int]:
    """How many withdrawn documents an artifact keeps, by withdrawal id; a withdrawal that means none is absent.

    Args:
        read: as of `meant`.
    """
    meant_rows = [table.filter(pa.array(mask)) for table, mask in meant(read, withdrawals) if mask.any()]
    if not meant_rows:
        return {}
    rows = pa.concat_tables(meant_rows)
    kept = is_kept(rows)
    counts = {each.id: int((matches([each], rows) & kept).sum()) for each in withdrawals}
    return {name: count for name, count in counts.items() if count}


def concerning(store: Store, ref: str, withdrawals: Sequence[Withdrawal]) -> tuple[Withdrawal, ...]:
    """The withdrawals that define an artifact: all for a new one.

    For one that is there: those that its record names, and those that mean documents in it. A withdrawal that means
    nothing in it changes nothing, so it is no reason to make it again.
    """
    place = store.folder(ref)
    if not withdrawals or not place.is_dir():
        return tuple(withdrawals)
    artifact = store.find(ref)
    named = set(records.definition_of(artifact.record).get("withdrawals", ()))
    others = [each for each in withdrawals if each.digest not in named]
    also = held(partial(tables, artifact), others) if others else {}
    return tuple(each for each in withdrawals if each.digest in named or each.id in also)


def refuse_withdrawn(artifact: Artifact, withdrawals: Sequence[Withdrawal]) -> None:
    """Refuse to go on from an artifact that holds what was withdrawn.

    Raises:
        InputError: names the withdrawals, and how to make it again without.
    """
    read = partial(tables, artifact)
    found = held(read, withdrawals) if withdrawals else {}
    if found:
        names = [f"{each.file_name} ({each.reason})" for each in withdrawals if each.id in found]
        more = f" and {len(names) - 2} more" if len(names) > 2 else ""
        count = sum(int((mask & is_kept(table)).sum()) for table, mask in meant(read, withdrawals))
        raise InputError(
            f"{artifact.ref}: holds {count} document{'s' * (count != 1)} withdrawn by {', '.join(names[:2])}{more}; "
            "raise `version` in the recipe (or --set version=...) and run again, which leaves them out."
        )


# --------------------------------------------------------------------------- conversations


def conversation_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Conversations as rows of a document table, as far as they say where they are from."""
    columns = {name: [_text(row.get(name)) for row in rows] for name in _CONVERSATION}
    columns["domain"] = [
        domain or _host(url) for domain, url in zip(columns["domain"], columns["url"], strict=True)
    ]  # fmt: skip
    return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})


def _conversations(folder: Path) -> Iterator[pa.Table]:
    from hanse.data.conversations import SPLITS, read

    for split in SPLITS:
        path = folder / f"{split}.jsonl"
        if not path.is_file():
            continue
        try:
            rows = ({**row, "split": split} for row in read(path))
            while some := list(islice(rows, _AT_ONCE)):
                yield conversation_table(some)
        except (OSError, ValueError, TypeError) as error:
            told = " ".join(str(error).split())[:200]
            raise InputError(f"{path}: cannot be read ({told}); make it again.") from None


def _text(value: object) -> str | None:
    return None if value is None else value if isinstance(value, str) else str(value)


def _host(url: str | None) -> str | None:
    try:
        return urlsplit(url).hostname if url else None
    except ValueError:
        return None


def _among(column: Any, wanted: Any) -> np.ndarray:
    values = wanted.combine_chunks() if isinstance(wanted, pa.ChunkedArray) else wanted
    values = values.drop_null()
    return np.asarray(pc.is_in(column, value_set=values), bool) if len(values) else np.zeros(len(column), bool)
