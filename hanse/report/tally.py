"""Sums by key over a table that does not fit into memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pyarrow as pa

HELD_ROWS = 1_000_000  # of sums that may hold the same key more than once


class Tally:
    """Sums and maxima by key, over tables that come one after the other; memory holds a row a key."""

    def __init__(self, keys: Sequence[str], values: Mapping[str, Literal["sum", "max"]]) -> None:
        self._keys, self._values = list(keys), dict(values)
        self._held: list[pa.Table] = []

    def add(self, table: pa.Table) -> None:
        """Take in a table that has the columns of keys and values."""
        self._held.append(self._grouped(table))
        # A batch with nothing new in it must not make the sums be taken again each time.
        if sum(map(len, self._held[1:])) > max(HELD_ROWS, len(self._held[0])):
            self._merge()

    def __len__(self) -> int:
        """How many keys there are."""
        self._merge()
        return sum(map(len, self._held))

    def rows(self, order: Sequence[str], limit: int | None = None) -> list[dict[str, Any]]:
        """A row for each key, ordered by these columns; a minus before a name turns its order around."""
        self._merge()
        keys = [(name.lstrip("-"), "descending" if name[0] == "-" else "ascending") for name in order]
        return [row for table in self._held for row in table.sort_by(keys)[:limit].to_pylist()]

    def _merge(self) -> None:
        import pyarrow as pa

        if len(self._held) > 1:
            self._held = [self._grouped(pa.concat_tables(self._held))]

    def _grouped(self, table: pa.Table) -> pa.Table:
        grouped = table.group_by(self._keys, use_threads=False).aggregate(list(self._values.items()))
        names = {f"{name}_{how}": name for name, how in self._values.items()}
        renamed = grouped.rename_columns([names.get(name, name) for name in grouped.column_names])
        return renamed.select([*self._keys, *self._values])
