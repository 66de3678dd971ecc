"""Suffix arrays over bytes, on disk: every place where a string stands, found by halving.

A shard is three files. `tokenized.N` holds documents, each behind one byte 0xFF, which UTF-8 never contains.
`offset.N` holds where that byte stands for each document, as uint64. `table.N` holds the start of every suffix of
`tokenized.N`, in the order of the suffixes' bytes, as little-endian integers of the fewest bytes that can count that
far. All of it is what infini-gram 2.6 calls an index of version 4 over bytes (arXiv:2401.17377), byte for byte, so its
engine opens what is written here, and its out-of-core builder can stand in for ours.
"""

from __future__ import annotations

import bisect
import mmap
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from hanse.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SEPARATOR = b"\xff"
#: Above this, entries would need five bytes, and sorting 64-bit integers.
LARGEST_SHARD_BYTES = 2**30
#: What sorting holds for each byte of text: the byte, an int32, and room to write from.
MEMORY_PER_BYTE = 5.2
_MOST_SORTABLE = 2**31 - 1
_ROWS_AT_A_TIME = 2**20
_FIRST_PIECE, _LARGEST_PIECE = 32, 2**20  # bytes of a text that are compared at a time
_WORDS = {1: "B", 2: "H", 4: "I"}
_CHECKED_PAIRS = 64


def entry_bytes(size: int) -> int:
    """Bytes of one entry in the table of a shard of `size` bytes: the fewest that can count to its end."""
    return max(1, ((size - 1).bit_length() + 7) // 8)


def shard_limit() -> int:
    """Bytes of text that one shard may hold here, so that sorting it fits into free memory; 1 GiB where that is ample.

    A document that is longer has a shard of its own.
    """
    free = _free_memory()
    wanted = LARGEST_SHARD_BYTES if free is None else int(0.8 * free / MEMORY_PER_BYTE)
    return max(2**20, min(LARGEST_SHARD_BYTES, wanted))


def sort_suffixes(text: bytearray) -> NDArray[np.int32]:
    """The starts of all suffixes of `text`, in the order of their bytes, an ending one before its extensions.

    Raises:
        InputError: more than 2 GiB of text, or no memory for five times as much.
    """
    import numpy as np

    if len(text) > _MOST_SORTABLE:
        raise InputError(f"a document of {len(text):,} bytes is too long to index (2 GiB); split it in the source.")
    try:
        from pydivsufsort import divsufsort
    except ImportError as error:
        raise InputError(f"pydivsufsort is missing or broken ({error}); install it with: pip install hanse") from None
    try:
        return divsufsort(np.frombuffer(text, np.uint8))
    except MemoryError:
        raise InputError(
            f"no memory to sort {len(text):,} bytes of text, which takes five times as much; stop other programs."
        ) from None


def write_shard(folder: Path, number: int, text: bytearray, offsets: Sequence[int]) -> int:
    """Write `tokenized`, `offset` and `table` of one shard.

    Args:
        text: documents, each behind a SEPARATOR.
        offsets: where each SEPARATOR stands.

    Returns:
        Bytes of an entry of the table.

    Raises:
        InputError: as `sort_suffixes`.
        OSError: the disk is full, for example.
    """
    import numpy as np

    (folder / f"tokenized.{number}").write_bytes(text)
    (folder / f"offset.{number}").write_bytes(np.asarray(offsets, "<u8").tobytes())
    width = entry_bytes(len(text))
    ranked = sort_suffixes(text).astype("<i4", copy=False)
    with (folder / f"table.{number}").open("wb") as file:
        for start in range(0, len(ranked), _ROWS_AT_A_TIME):
            rows = ranked[start : start + _ROWS_AT_A_TIME].view(np.uint8).reshape(-1, 4)
            file.write(np.ascontiguousarray(rows[:, :width]).data)
    return width


class Shard:
    """One shard, memory-mapped: opening it reads nothing but a few pages.

    Attributes:
        size: bytes of text with separators, and so entries of the table.
        documents: how many.
    """

    def __init__(self, folder: Path, number: int) -> None:
        """Open a shard.

        Raises:
            InputError: a file is missing, or its size does not fit the others.
        """
        self._text = _map(folder / f"tokenized.{number}")
        table = _map(folder / f"table.{number}")
        offsets = _map(folder / f"offset.{number}")
        self.size = len(self._text)
        self._width = entry_bytes(self.size)
        if len(table) != self.size * self._width or len(offsets) % 8 or self._text[:1] != SEPARATOR:
            raise InputError(
                f"{folder}: shard {number} is damaged, the sizes of its files do not fit together; remove the "
                f"folder to have the index made anew."
            )
        self._table = table
        self._start = _reader(table, self._width)
        self._offsets: Sequence[int] = _words(offsets, "Q", 8)
        self.documents = len(self._offsets)

    def seems_sorted(self) -> bool:
        """Whether a sample of neighbours stands in order, and documents begin where they should: a cheap check."""
        import numpy as np

        ranks = np.linspace(0, self.size - 2, _CHECKED_PAIRS, dtype=np.int64).tolist() if self.size > 1 else []
        for rank in ranks:
            here, following = self._start(rank), self._start(rank + 1)
            is_ordered = here != following and self._from(here, 64) <= self._from(following, 64)
            if max(here, following) >= self.size or not is_ordered:
                return False
        places = np.linspace(0, self.documents - 1, _CHECKED_PAIRS, dtype=np.int64).tolist()
        return all(self._from(self._offsets[place], 1) == SEPARATOR for place in places)

    def ranks(self, pattern: bytes) -> tuple[int, int]:
        """First and last-plus-one row of the table whose suffixes begin with `pattern`; equal where none does."""
        low, high, depth, size = 0, self.size, 0, _FIRST_PIECE
        while depth < len(pattern) and low < high:
            piece = pattern[depth : depth + size]
            low, high = self._narrow(low, high, depth, piece)
            depth += len(piece)
            size = min(2 * size, _LARGEST_PIECE)
        return low, high

    def longest(self, query: bytes, begin: int) -> int:
        """How many bytes of `query`, from `begin` on, stand together somewhere in the shard."""
        low, high, depth, size = 0, self.size, 0, _FIRST_PIECE
        while piece := query[begin + depth : begin + depth + size]:
            first, last = self._narrow(low, high, depth, piece)
            if first == last:
                # No suffix goes on with the whole piece; those beside its place share most of it.
                beside = (rank for rank in (first - 1, first) if low <= rank < high)
                return depth + max(_shared(self._from(self._start(r) + depth, len(piece)), piece) for r in beside)
            low, high, depth = first, last, depth + len(piece)
            size = min(2 * size, _LARGEST_PIECE)
        return depth

    def starts(self, first: int, last: int) -> NDArray[np.int64]:
        """Where the suffixes of rows `first` to `last` (without it) begin, in the order of the table, int64."""
        import numpy as np

        rows = np.frombuffer(self._table, np.uint8, (last - first) * self._width, first * self._width)
        wide = np.zeros((last - first, 8), np.uint8)
        wide[:, : self._width] = rows.reshape(-1, self._width)
        return wide.view("<i8").ravel()

    def document_at(self, start: int) -> tuple[int, int]:
        """The document that byte `start` of the shard is in, and the byte's place in its text."""
        document = bisect.bisect_right(self._offsets, start) - 1
        return document, start - self._offsets[document] - 1

    def document(self, number: int) -> bytes:
        """The text of a document in UTF-8."""
        end = self._offsets[number + 1] if number + 1 < self.documents else self.size
        return self._text[self._offsets[number] + 1 : end]

    def _from(self, start: int, size: int) -> bytes:
        return self._text[start : start + size]

    def _narrow(self, low: int, high: int, depth: int, piece: bytes) -> tuple[int, int]:
        """The rows among `low` to `high`, alike in their first `depth` bytes, that go on with `piece`.

        Where there are none, both ends are the row before which they would stand.
        """
        text, start_of, size = self._text, self._start, len(piece)
        end = high
        while low < high:
            middle = (low + high) >> 1
            start = start_of(middle) + depth
            if text[start : start + size] < piece:
                low = middle + 1
            else:
                high = middle
        first, step = low, 1
        # Most strings are rare, so the last one is looked for from the first on, in doubling steps.
        while low < end:
            start = start_of(low) + depth
            if text[start : start + size] != piece:
                break
            low, step = low + step, 2 * step
        low, high = low - step // 2 + (step > 1), min(low, end)
        while low < high:
            middle = (low + high) >> 1
            start = start_of(middle) + depth
            if text[start : start + size] == piece:
                low = middle + 1
            else:
                high = middle
        return first, low


def _shared(one: bytes, other: bytes) -> int:
    """How many bytes two strings have in common at their beginning."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) >> 1
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _map(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            return _mapped(file)
    except (OSError, ValueError) as error:  # ValueError: an empty file
        raise InputError(f"{path}: cannot be read ({error}); remove its folder to have the index made anew.") from None


def _mapped(file: BinaryIO) -> mmap.mmap:
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _reader(table: mmap.mmap, width: int) -> Callable[[int], int]:
    """A function that gives one entry of the table."""
    if width in _WORDS and sys.byteorder == "little":
        return memoryview(table).cast(_WORDS[width]).__getitem__  # type: ignore[call-overload]
    return lambda rank: int.from_bytes(table[rank * width : rank * width + width], "little")


def _words(content: mmap.mmap, word: str, width: int) -> Sequence[int]:
    if sys.byteorder == "little":
        return memoryview(content).cast(word)  # type: ignore[call-overload]
    return [int.from_bytes(content[at : at + width], "little") for at in range(0, len(content), width)]


def _free_memory() -> int | None:
    """Bytes that a process could take without swapping; None where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            known = dict(line.split(":", 1) for line in file)
        found = [int(known["MemAvailable"].split()[0]) * 1024]
    except (OSError, ValueError, LookupError):
        try:
            found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2]
        except (OSError, ValueError):
            return None
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        used = Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii").strip()
        found.append(int(limit) - int(used))
    except (OSError, ValueError):  # no limit reads "max"
        pass
    return max(0, min(found))
