"""Parquet with a column `text`: a row is a document."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from hanse.data.schema import KNOWN, BadRecord
from hanse.data.sources.records import BrokenFile, Found

ROWS_AT_ONCE = 256
BATCH_BYTES = 16 * 2**20  # of text decoded at a time, by the average of the row group
MAX_TEXT_BYTES = 64 * 2**20
_READ_BYTES = 2**20


def records(path: Path) -> Iterator[Found]:
    """One record a row, of the columns that a document has; a broken string costs its row, not its batch.

    Raises:
        BrokenFile: not a Parquet file, damaged, or without a column `text`.
        OSError: the file cannot be opened or read.
    """
    import pyarrow.parquet as pq

    row_number = 0
    try:
        # Without pre-buffering, a column is read through a buffer and not as a whole row group.
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=_READ_BYTES) as file:
            names = file.schema_arrow.names
            if "text" not in names:
                raise BrokenFile(f"the Parquet file has no column 'text'; its columns are {', '.join(names[:20])}")
            columns = [name for name in dict.fromkeys(names) if name in KNOWN or name == "license"]
            for group in range(file.num_row_groups):
                size = _batch_rows(file.metadata.row_group(group))
                for batch in file.iter_batches(batch_size=size, row_groups=[group], columns=columns):
                    for record in _batch_records(batch):
                        row_number += 1
                        yield Found(row_number, record)
    except (pa.ArrowException, ValueError) as error:
        after = f" after row {row_number}" if row_number else ""
        raise BrokenFile(f"the Parquet file is damaged{after}: {str(error).splitlines()[0]}") from None


def _batch_rows(group: Any) -> int:
    """How many rows to decode at once, so that long texts do not pile up."""
    average = group.total_byte_size // max(1, group.num_rows)
    return max(1, min(ROWS_AT_ONCE, BATCH_BYTES // max(1, average)))


def _batch_records(batch: pa.RecordBatch) -> Iterator[object]:
    """Rows as dictionaries; strings are decoded one by one."""
    columns = {}
    is_too_long = [False] * batch.num_rows
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            column = column.cast(pa.large_binary() if pa.types.is_large_string(column.type) else pa.binary())
        if name == "text" and (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
            longer = pc.fill_null(pc.greater(pc.binary_length(column), MAX_TEXT_BYTES), False)
            is_too_long = longer.to_pylist()
            if any(is_too_long):  # not even copied
                column = pc.if_else(longer, pa.scalar(None, column.type), column)
        columns[name] = column.to_pylist()
    for index in range(batch.num_rows):
        if is_too_long[index]:
            yield BadRecord("too-long", f"the text is longer than {MAX_TEXT_BYTES // 2**20} MiB")
            continue
        try:
            yield {
                name: value.decode("utf-8") if isinstance(value := values[index], bytes) else value
                for name, values in columns.items()
            }
        except UnicodeDecodeError:
            yield BadRecord("not-utf8", "a string of the row is not UTF-8")
