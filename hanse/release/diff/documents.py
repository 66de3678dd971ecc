"""Which documents left and which came between two releases, from their tables of documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanse.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

#: By what documents and bytes are summed.
GROUPS = ("source", "licence", "language")
GONE = "no longer among the sources"
NEW = "new"
_TEXTS = ("id", "source", "licence", "language")


@dataclass(frozen=True)
class Sums:
    """Documents and UTF-8 bytes of text that left, and that came, under one key."""

    key: str
    left: int
    left_bytes: int
    came: int
    came_bytes: int


@dataclass(frozen=True)
class DocumentChanges:
    """How the text of two releases differs. A document is its text: with another text it is another document.

    Attributes:
        old, new: documents kept, and their bytes.
        stayed: that are in both.
        left, came: a row for each: id, source, licence, language, bytes, why; by id.
        reasons: `left` and `came` summed by why.
        groups: summed by each of GROUPS.
        relicensed: documents in both whose licence changed, by (old, new).
    """

    old: tuple[int, int]
    new: tuple[int, int]
    stayed: int
    left: pa.Table
    came: pa.Table
    reasons: tuple[Sums, ...]
    groups: Mapping[str, tuple[Sums, ...]]
    relicensed: Mapping[tuple[str, str], int]

    def as_dict(self) -> dict[str, Any]:
        """JSON values, every document that left or came among them."""
        return {
            "old": {"documents": self.old[0], "bytes": self.old[1]},
            "new": {"documents": self.new[0], "bytes": self.new[1]},
            "stayed": self.stayed,
            "left": self.left.to_pylist(),
            "came": self.came.to_pylist(),
            "reasons": [vars(each) for each in self.reasons],
            "groups": {name: [vars(each) for each in sums] for name, sums in self.groups.items()},
            "relicensed": [
                {"from": before, "to": after, "documents": count} for (before, after), count in self.relicensed.items()
            ],
        }


def document_changes(old: Sequence[Path], new: Sequence[Path]) -> DocumentChanges:
    """Compare the documents that two releases kept.

    Args:
        old, new: their tables of documents.

    Raises:
        InputError: a table that cannot be read, or without ids.
    """
    import pyarrow.compute as pc

    before, before_dropped = _read(old)
    after, after_dropped = _read(new)
    has_left = pc.invert(pc.is_in(before["id"], value_set=after["id"].combine_chunks()))
    has_come = pc.invert(pc.is_in(after["id"], value_set=before["id"].combine_chunks()))
    left = _with_reasons(before.filter(has_left), after_dropped, GONE)
    came = _with_reasons(after.filter(has_come), before_dropped, NEW)
    both = before.filter(pc.invert(has_left))
    return DocumentChanges(
        old=(len(before), _bytes(before)),
        new=(len(after), _bytes(after)),
        stayed=len(both),
        left=left,
        came=came,
        reasons=_sums(left, came, "why"),
        groups={name: _sums(left, came, name) for name in GROUPS},
        relicensed=_relicensed(both, after),
    )


def _read(paths: Sequence[Path]) -> tuple[pa.Table, pa.Table]:
    """Documents that were kept, one row for each id, and those that were not, with why; both by id."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    kept, dropped = [_empty()], [_empty().append_column("why", pa.array([], pa.string()))]
    for path in paths:
        try:
            with pq.ParquetFile(path) as file:
                known = set(file.schema_arrow.names)
                if "id" not in known:
                    raise InputError(f"{path}: has no column 'id', so its documents cannot be told apart.")
                wanted = sorted({*_TEXTS, "bytes", "drop_reason", "split"} & known)
                for group in range(file.num_row_groups):
                    table = file.read_row_group(group, columns=wanted)
                    is_kept, why = _fate(table)
                    plain = _plain(table)
                    kept.append(plain.filter(is_kept))
                    dropped.append(plain.append_column("why", why).filter(pc.invert(is_kept)))
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise InputError(f"{path}: cannot be read ({' '.join(str(error).split())[:200]}); restore it.") from None
    return _once(pa.concat_tables(kept)), _once(pa.concat_tables(dropped))


def _empty() -> pa.Table:
    import pyarrow as pa

    return pa.table({**{name: pa.array([], pa.string()) for name in _TEXTS}, "bytes": pa.array([], pa.int64())})


def _plain(table: pa.Table) -> pa.Table:
    """The columns that are compared, in one form; an empty text where a table says nothing."""
    import pyarrow as pa
    import pyarrow.compute as pc

    columns: dict[str, Any] = {}
    for name in _TEXTS:
        column = table[name] if name in table.column_names else pa.nulls(len(table), pa.string())
        columns[name] = pc.fill_null(column.cast(pa.string()), "")
    size = table["bytes"].cast(pa.int64()) if "bytes" in table.column_names else pa.repeat(0, len(table))
    columns["bytes"] = pc.fill_null(size, 0)
    return pa.table(columns)


def _fate(table: pa.Table) -> tuple[Any, Any]:
    """Whether each document was kept, and why not; `dropped` where a table does not say."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if "drop_reason" in table.column_names:
        reasons = table["drop_reason"]
        why = pc.fill_null(pc.binary_join(reasons, ", ") if _is_list(reasons.type) else reasons.cast(pa.string()), "")
    else:
        why = pa.chunked_array([pa.repeat("", len(table))])
    is_kept = pc.is_valid(table["split"]) if "split" in table.column_names else pc.equal(why, "")
    return is_kept, pc.if_else(pc.equal(why, ""), "dropped", why)


def _is_list(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _once(table: pa.Table) -> pa.Table:
    """The first row of each id, by id: several documents may have said the same, word for word."""
    names = [name for name in table.column_names if name != "id"]
    grouped = table.group_by("id", use_threads=False).aggregate([(name, "first") for name in names])
    return grouped.rename_columns([name.removesuffix("_first") for name in grouped.column_names]).sort_by("id")


def _with_reasons(table: pa.Table, dropped: pa.Table, otherwise: str) -> pa.Table:
    """Each document with why the other release did not keep it."""
    import pyarrow.compute as pc

    place = pc.index_in(table["id"], value_set=dropped["id"].combine_chunks())
    why = dropped["why"].take(place)
    return table.append_column("why", pc.fill_null(why, otherwise))


def _sums(left: pa.Table, came: pa.Table, column: str) -> tuple[Sums, ...]:
    found: dict[str, list[int]] = {}
    for place, table in ((0, left), (2, came)):
        grouped = table.group_by(column, use_threads=False).aggregate([("bytes", "count"), ("bytes", "sum")])
        for row in grouped.to_pylist():
            counts = found.setdefault(row[column], [0, 0, 0, 0])
            counts[place], counts[place + 1] = row["bytes_count"], row["bytes_sum"]
    return tuple(Sums(key, *found[key]) for key in sorted(found, key=lambda key: (-sum(found[key][::2]), key)))


def _relicensed(both: pa.Table, after: pa.Table) -> dict[tuple[str, str], int]:
    import pyarrow as pa
    import pyarrow.compute as pc

    place = pc.index_in(both["id"], value_set=after["id"].combine_chunks())
    pairs = pa.table({"before": both["licence"], "after": after["licence"].take(place)})
    changed = pairs.filter(pc.not_equal(pairs["before"], pairs["after"]))
    counts = changed.group_by(["before", "after"], use_threads=False).aggregate([([], "count_all")]).to_pylist()
    return {
        (row["before"], row["after"]): row["count_all"] for row in sorted(counts, key=lambda row: -row["count_all"])
    }


def _bytes(table: pa.Table) -> int:
    import pyarrow.compute as pc

    return int(pc.sum(table["bytes"]).as_py() or 0)
