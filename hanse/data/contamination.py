"""Do the documents hold what the model will be examined on?

Evaluation items are cut into runs of eight words, the runs are hashed, and every document's runs are looked up. What
counts as a word, and what is disregarded (case, white space, punctuation, LaTeX, separators in numbers), stands in
docs/contamination.md.

A run of words shared by many items (a prompt's fixed wording) says nothing about any one of them, so it is left out.
Nothing is dropped here: a document gets its hits, and the policy decides.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hanse.data.schema import BadRecord
from hanse.data.sources import BrokenFile, jsonl_records
from hanse.data.wordstream import Words, fold, ngrams, read, slices
from hanse.errors import InputError

NGRAM_WORDS = 8  # as PaLM did (arXiv:2204.02311, section 8); GPT-3 took 13 (arXiv:2005.14165, appendix C)
MIN_LETTER_WORDS = 3  # in a run: the rest may be digits, each a word; digits alone occur anywhere
MIN_WORDS = 5  # items shorter than this occur by chance, and are not looked for
MIN_CONTAINMENT = 0.7  # from which share a document is contaminated: PaLM's threshold, too
MIN_LONGEST = 40  # words in one stretch: of a long item, less than that share is enough
MAX_SHARED = 10  # items that may share a run of words before it counts as fixed wording
PIECE_BYTES, OVERLAP_BYTES = 2**21, 2**14  # in which a longer document is read


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to be examined on: its name, and its texts (question, answer, ...)."""

    name: str
    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Hit:
    """A document holds some of an item.

    Attributes:
        item: its name.
        containment: share of the item's different runs of words that the document holds.
        longest: words of the longest stretch of the document that is made of the item's runs.
    """

    item: str
    containment: float
    longest: int


@dataclass(frozen=True)
class Tokens:
    """The words of some documents as they are compared: W words, D documents."""

    hashes_W: np.ndarray  # uint64
    first_D: np.ndarray  # number of each document's first word, and W


class Items:
    """Evaluation items, ready to be looked for.

    Args:
        items: in any order; ones that read alike are looked for once, under the first name.
        ngram_words: length of the runs; an item that has no part of this length is looked for as a whole.

    Attributes:
        items: as given.
        searched: how many are looked for, alike ones together.
        too_short: names of items that are not, for they have fewer than MIN_WORDS words, or hardly any but digits.
        too_common: names of items that are not, for all their runs are fixed wording.
    """

    def __init__(self, items: Iterable[Item], *, ngram_words: int = NGRAM_WORDS) -> None:
        if ngram_words < MIN_WORDS:
            raise InputError(f"contamination: runs of {ngram_words} words are too short; take at least {MIN_WORDS}.")
        self.items = tuple(items)
        self.too_short: list[str] = []
        runs: dict[int, list[np.ndarray]] = {}
        owners: dict[int, list[int]] = {}
        seen: set[bytes] = set()
        for number, parts in enumerate(_item_words(self.items)):
            length, found = _item_runs(parts, ngram_words)
            if not len(found):
                self.too_short.append(self.items[number].name)
            elif (identity := found.tobytes()) not in seen:
                seen.add(identity)
                runs.setdefault(length, []).append(found)
                owners.setdefault(length, []).append(number)
        self._tables = [_Table(length, runs[length], owners[length]) for length in sorted(runs)]
        self._sizes = sum((table.sizes(len(self.items)) for table in self._tables), np.zeros(len(self.items), np.int64))
        wanted = [number for length in sorted(owners) for number in owners[length]]
        self.too_common = [self.items[number].name for number in sorted(wanted) if not self._sizes[number]]
        self.searched = len(wanted) - len(self.too_common)

    @classmethod
    def read(cls, paths: Sequence[Path], *, ngram_words: int = NGRAM_WORDS) -> Items:
        """Items of JSON lines files: `text`, or `question` and `answer`, or the `messages` of a conversation.

        Raises:
            InputError: a file cannot be read, or a line holds no item: an examination with gaps would look clean.
        """
        return cls((item for path in paths for item in _items(path)), ngram_words=ngram_words)

    def scan(self, texts: pa.Array | pa.ChunkedArray) -> list[list[Hit]]:
        """What each document holds, the most contained item first.

        Args:
            texts: strings; null counts as empty.
        """
        found: list[list[Hit]] = [[] for _ in range(len(texts))]
        shared: dict[tuple[int, int], tuple[set[int], int]] = {}
        for documents, tokens in _pieces(texts):
            for table in self._tables:
                for place, item, runs, longest in table.matches(tokens):
                    key = int(documents[place]), item
                    known, best = shared.get(key, (set(), 0))
                    shared[key] = known | runs, max(best, longest)
        for (document, item), (runs, longest) in shared.items():
            found[document].append(Hit(self.items[item].name, len(runs) / int(self._sizes[item]), longest))
        for hits in found:
            hits.sort(key=lambda hit: (-hit.containment, -hit.longest, hit.item))
        return found


def _item_runs(parts: Sequence[np.ndarray], size: int) -> tuple[int, np.ndarray]:
    """The length of an item's runs, and their different hashes; none if it is too short.

    Between question and answer a document may say anything, so runs do not reach from one into the other, except where
    neither is long enough by itself.
    """
    whole = np.concatenate([np.zeros(0, np.uint64), *parts])
    if len(whole) < MIN_WORDS:
        return 0, whole[:0]
    length = min(size, len(whole))
    found = []
    for part in [part for part in parts if len(part) >= length] or [whole]:
        words = np.concatenate([[0], np.cumsum(~_is_digit(part))])
        found.append(ngrams(part, length)[words[length:] - words[:-length] >= MIN_LETTER_WORDS])
    return length, np.unique(np.concatenate(found))


def _item_words(items: Sequence[Item]) -> list[list[np.ndarray]]:
    """The words of each item's parts."""
    texts = pa.array([fold(part) for item in items for part in item.parts], pa.large_string())
    owners = np.repeat(np.arange(len(items)), [len(item.parts) for item in items]).tolist()
    words: list[list[np.ndarray]] = [[] for _ in items]
    for first, piece in slices(texts):
        tokens = compared(read(piece))
        for place, (start, stop) in enumerate(pairwise(tokens.first_D.tolist()), first):
            words[owners[place]].append(tokens.hashes_W[start:stop])
    return words


class _Table:
    """Runs of one length: a Bloom filter of two bits before a sorted array, and which items hold each run."""

    def __init__(self, length: int, runs: Sequence[np.ndarray], items: Sequence[int]) -> None:
        self.length = length
        runs_R = np.concatenate(runs)
        items_R = np.repeat(np.array(items), [len(found) for found in runs])
        order = np.lexsort((items_R, runs_R))
        runs_R, items_R = runs_R[order], items_R[order]
        keys, copies = np.unique(runs_R, return_counts=True)
        kept = copies <= MAX_SHARED
        self._items = items_R[np.repeat(kept, copies)].astype(np.int32)
        self._keys, copies = keys[kept], copies[kept]
        self._first = np.concatenate([[0], np.cumsum(copies)]).astype(np.int32)
        # 16 to 32 bits a run: of other runs one in 250 passes both probes, and each that does costs a binary search.
        self._bits = min(max(16, (16 * len(self._keys)).bit_length()), 32)
        self._filter = np.zeros(2 ** (self._bits - 3), np.uint8)
        for probe in (0, 1):
            place, bit = self._place(self._keys, probe)
            np.bitwise_or.at(self._filter, place, np.uint8(1) << bit)

    def sizes(self, items: int) -> np.ndarray:
        """How many runs of each item are looked for."""
        return np.bincount(self._items, minlength=items)

    def matches(self, tokens: Tokens) -> Iterator[tuple[int, int, set[int], int]]:
        """For documents that hold runs of an item: document, item, the runs' numbers, words of the longest stretch."""
        runs_W = ngrams(tokens.hashes_W, self.length)
        maybe = np.flatnonzero(self._is_set(runs_W, 0))
        maybe = maybe[self._is_set(runs_W[maybe], 1)]
        if not len(maybe):
            return
        key = np.minimum(np.searchsorted(self._keys, runs_W[maybe]), len(self._keys) - 1)
        document = np.searchsorted(tokens.first_D, maybe, side="right") - 1
        is_found = (self._keys[key] == runs_W[maybe]) & (maybe + self.length <= tokens.first_D[document + 1])
        position, key, document = maybe[is_found], key[is_found], document[is_found]
        # One row for each item that holds the run.
        copies = (self._first[key + 1] - self._first[key]).astype(np.int64)
        row = np.repeat(np.arange(len(key)), copies)
        offset = np.arange(len(row)) - np.repeat(np.cumsum(copies) - copies, copies)
        item = self._items[self._first[key[row]] + offset]
        yield from self._grouped(document[row], item, position[row], key[row])

    def _grouped(
        self, document: np.ndarray, item: np.ndarray, position: np.ndarray, key: np.ndarray
    ) -> Iterator[tuple[int, int, set[int], int]]:
        if not len(document):
            return
        order = np.lexsort((position, item, document))
        document, item, position, key = document[order], item[order], position[order], key[order]
        is_new = np.ones(len(order), bool)
        is_new[1:] = (document[1:] != document[:-1]) | (item[1:] != item[:-1])
        is_broken = is_new.copy()
        is_broken[1:] |= position[1:] != position[:-1] + 1
        begins = np.flatnonzero(is_broken)
        stretch = np.diff(np.append(begins, len(order)))
        starts = np.flatnonzero(is_new)
        longest = np.maximum.reduceat(stretch, np.searchsorted(begins, starts)) + self.length - 1
        for place, (start, stop) in enumerate(zip(starts, np.append(starts[1:], len(order)), strict=True)):
            numbers = set(np.unique(key[start:stop]).tolist())
            yield int(document[start]), int(item[start]), numbers, int(longest[place])

    def _is_set(self, runs: np.ndarray, probe: int) -> np.ndarray:
        place, bit = self._place(runs, probe)
        return ((self._filter[place] >> bit) & 1).view(bool)

    def _place(self, runs: np.ndarray, probe: int) -> tuple[np.ndarray, np.ndarray]:
        """Byte and bit of the filter; the second probe takes the low bits of the hash instead of the high ones."""
        value = runs & np.uint64(2**self._bits - 1) if probe else runs >> np.uint64(64 - self._bits)
        return (value >> np.uint64(3)).view(np.int64), (value & np.uint64(7)).astype(np.uint8)


def reasons(
    hits: Sequence[Sequence[Hit]], *, min_containment: float = MIN_CONTAINMENT, min_longest: int = MIN_LONGEST
) -> list[list[str]]:
    """`contamination` for documents that hold too much of an item.

    Args:
        hits: of `Items.scan`.
        min_containment: share of an item's runs from which it counts.
        min_longest: words in one stretch from which it counts, however long the item.
    """
    return [
        ["contamination"] if any(h.containment >= min_containment or h.longest >= min_longest for h in document) else []
        for document in hits
    ]


def compared(words: Words) -> Tokens:
    """Words as they are compared.

    LaTeX commands are no words, and each digit is a word by itself, so that `\\frac{1}{2}` and `1/2`, `1,000` and
    `1 000` and `1{,}000` are alike, whatever number stands before or behind them.
    """
    commands = _commands(words)
    digits = np.flatnonzero((words.folded_B - np.uint8(48)) < 10)
    if not len(commands) and not len(digits):
        return Tokens(words.hashes_W, words.first_D)
    runs = np.flatnonzero(np.diff(digits, prepend=-2) != 1)  # which of the digits begin a run
    sizes = np.diff(runs, append=len(digits))
    numbers = np.searchsorted(words.starts_W, digits[runs])
    copies_W = np.ones(len(words.hashes_W), np.int64)
    copies_W[numbers] = sizes
    copies_W[commands] = 0
    before = np.concatenate([[0], np.cumsum(copies_W)])
    hashes = np.repeat(words.hashes_W, copies_W)
    places = np.repeat(before[numbers] - runs, sizes) + np.arange(len(digits))
    hashes[places] = _digits()[words.folded_B[digits] - 48]
    return Tokens(hashes, before[words.first_D])


@functools.cache
def _digits() -> np.ndarray:
    """Hashes of the ten digits."""
    return read(pa.array(["0 1 2 3 4 5 6 7 8 9"])).hashes_W


def _is_digit(hashes: np.ndarray) -> np.ndarray:
    digits = np.sort(_digits())
    found: np.ndarray = digits[np.minimum(np.searchsorted(digits, hashes), 9)] == hashes
    return found


def _commands(words: Words) -> np.ndarray:
    """Words right behind one backslash; behind two, LaTeX breaks the line."""
    raw_B = words.raw_B
    slashes = np.flatnonzero(raw_B == ord("\\"))
    slashes = slashes[(raw_B[slashes - 1] != ord("\\")) & ((words.folded_B[slashes + 1] - np.uint8(48)) >= 10)]
    place = np.searchsorted(words.starts_W, slashes + 1)
    is_word = np.append(words.starts_W, -1)[place] == slashes + 1
    return place[is_word]


def _pieces(texts: pa.Array | pa.ChunkedArray) -> Iterator[tuple[np.ndarray, Tokens]]:
    """Slices of the documents as they are compared, with the document of each row; a very long one comes in pieces.

    Documents that a look-up of single code points cannot fold come a second time, folded.
    """
    for first, part in slices(texts):
        documents = np.arange(first, first + len(part))
        for piece in _cut(part):
            words = read(piece)
            yield documents, compared(words)
            irregular = np.flatnonzero(words.is_irregular_D)
            if len(irregular):
                found = piece.cast(pa.large_binary()).take(pa.array(irregular)).to_pylist()
                folded = [fold(data.decode("utf-8", "ignore")) for data in found]
                yield documents[irregular], compared(read(pa.array(folded, pa.large_string())))


def _cut(part: pa.Array) -> Iterator[pa.Array]:
    """A slice as it is, or in overlapping pieces if it is one long document; a cut through a word costs nothing."""
    if len(part) > 1 or part.nbytes <= PIECE_BYTES:
        yield part
        return
    data = memoryview(part[0].as_buffer())
    for start in range(0, len(data) - OVERLAP_BYTES, PIECE_BYTES - OVERLAP_BYTES):
        yield pa.array([bytes(data[start : start + PIECE_BYTES])], pa.large_binary())


def _items(path: Path) -> Iterator[Item]:
    try:
        for line, record in jsonl_records(path):
            place = f"evaluation items {path}, line {line}"
            if isinstance(record, BadRecord):
                raise InputError(f"{place}: {record.detail}; mend the line.")
            yield _item(record, f"{path.name}:{line}", path.name, place)
    except BrokenFile as error:
        raise InputError(f"evaluation items {path}: {error}; fetch the file again.") from None
    except OSError as error:
        raise InputError(
            f"evaluation items {path} cannot be read ({error.strerror}); name a JSON lines file."
        ) from None


def _item(record: object, name: str, origin: str, place: str) -> Item:
    if not isinstance(record, dict):
        raise InputError(f"{place}: is JSON, but not an object; mend the line.")
    identity = record.get("id")
    name = f"{origin}:{identity}" if isinstance(identity, str | int) else name
    if isinstance(record.get("messages"), list):
        parts: list[Any] = [
            m.get("content") for m in record["messages"] if isinstance(m, dict) and m.get("role") != "system"
        ]
    elif "text" in record:
        parts = [record["text"]]
    elif "question" in record:
        parts = [record["question"], record.get("answer", "")]
    else:
        raise InputError(f"{place}: holds neither 'text' nor 'question' nor 'messages'; give one of them.")
    given = tuple(str(part) for part in parts if isinstance(part, str | int | float) and not isinstance(part, bool))
    if not any(part.strip() for part in given):
        raise InputError(f"{place}: the item has no text; take the line out.")
    return Item(name, given)
