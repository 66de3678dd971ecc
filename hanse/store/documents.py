"""Counting the document table: how many documents and bytes, by source, licence, author or any other column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TABLE = "documents.parquet"


@dataclass(frozen=True)
class Group:
    """Documents that agree in the columns asked for.

    Attributes:
        key: the values, in the order asked; an empty text where the table has none.
        documents: how many.
        bytes: UTF-8 bytes of their text; 0 where the table does not say.
    """

    key: tuple[str, ...]
    documents: int
    bytes: int


def count_documents(table: Path, by: Sequence[str], *, kept: bool = True) -> list[Group]:
    """Group the documents that were kept (or, if not `kept`, all that were seen), row group by row group.

    Returns:
        Groups, most documents first, then by key; so the order is the same every time.
    """
    import pyarrow.parquet

    totals: dict[tuple[str, ...], list[int]] = {}
    with pyarrow.parquet.ParquetFile(table) as file:
        known = set(file.schema_arrow.names)
        columns = [name for name in dict.fromkeys([*by, "bytes", "drop_reason"]) if name in known]
        for batch in file.iter_batches(columns=columns):
            _add(batch, by, kept, totals)
    groups = [Group(key, documents, size) for key, (documents, size) in totals.items()]
    return sorted(groups, key=lambda group: (-group.documents, group.key))


def _add(batch: Any, by: Sequence[str], kept: bool, totals: dict[tuple[str, ...], list[int]]) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    table = pa.Table.from_batches([batch])
    if kept and "drop_reason" in table.column_names:
        reason = table["drop_reason"]
        is_list = pa.types.is_list(reason.type) or pa.types.is_large_list(reason.type)
        length = pc.list_value_length(reason) if is_list else pc.utf8_length(reason.cast(pa.string()))
        table = table.filter(pc.equal(pc.fill_null(length, 0), 0))
    columns = {}
    for name in by:
        column = table[name] if name in table.column_names else pa.nulls(len(table), pa.string())
        columns[name] = pc.fill_null(column.cast(pa.string()), "")
    size = table["bytes"].cast(pa.int64()) if "bytes" in table.column_names else pa.repeat(0, len(table))
    columns["bytes"] = pc.fill_null(size, 0)
    grouped = pa.table(columns).group_by(list(by)).aggregate([("bytes", "sum"), ("bytes", "count")])
    for row in grouped.to_pylist():
        total = totals.setdefault(tuple(row[name] for name in by), [0, 0])
        total[0] += row["bytes_count"]
        total[1] += row["bytes_sum"]
