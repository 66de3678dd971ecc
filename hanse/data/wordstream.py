"""A batch of texts as one stream of hashed words, made with whole-array operations only.

The rooms that look at words (quality, contamination) read a batch through here. A word is a run of letters or a run of
digits; everything else separates. Words are compared after Unicode NFKC and case folding, so that `Straße`, `STRASSE`
and `ＳＴＲＡＳＳＥ` are one word. For nearly all text of Europe that is a table look-up per code point outside ASCII. A
document that holds anything else (combining marks, ligatures, superscripts) is marked `is_irregular`; `fold` rewrites
it for those who need exact comparison.

Measured on the 24 languages of a 130 MB corpus: see docs/quality.md, section Speed.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

SLICE_BYTES = 2**19  # of text read at a time: its arrays stay in the cache, and memory stays bounded
SLICE_DOCUMENTS = 2**16
SYMBOL, SPACE, LETTER, UPPER = range(4)  # classes of code points outside ASCII
_IRREGULAR = 0x80  # added to a class
_PAD = 8  # line breaks before and after the text, so that looking around a word needs no special case
_MULTIPLIER = 0x9E3779B97F4A7C15  # odd, so that no bit is lost; 2**64 divided by the golden ratio
_ONES = np.uint64(0x0101010101010101)
# Soft hyphens, joiners, direction and variation marks: invisible, and inside words.
_IGNORED = "\u00ad\u034f\u061c\u180b-\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff"


@dataclass(frozen=True)
class Words:
    """The words of some documents, in order. D documents, B bytes, W words, C code points outside ASCII.

    Attributes:
        raw_B: the documents in UTF-8, a line break after each, line breaks before and after all; uint8, 8 * k bytes.
        folded_B: the same, in one case; what separates words is 0.
        bounds_D: where each document begins in `raw_B`, and the end of the last; int64, D + 1.
        outside_C: where each code point outside ASCII begins; int64.
        pairs_C: its first two bytes; uint16, big-endian.
        classes_C: its class (SYMBOL, SPACE, LETTER, UPPER); uint8.
        starts_W, ends_W: where each word lies; int64.
        hashes_W: 64 bits of each word; equal words are equal, whatever their case or batch.
        first_D: the number of each document's first word, and W; int64, D + 1.
        is_irregular_D: whether a document needs `fold` before its words can be compared exactly.
    """

    raw_B: np.ndarray
    folded_B: np.ndarray
    bounds_D: np.ndarray
    outside_C: np.ndarray
    pairs_C: np.ndarray
    classes_C: np.ndarray
    starts_W: np.ndarray
    ends_W: np.ndarray
    hashes_W: np.ndarray
    first_D: np.ndarray
    is_irregular_D: np.ndarray

    @property
    def words_D(self) -> np.ndarray:
        """Words in each document, int64."""
        return np.diff(self.first_D)


def slices(texts: pa.Array | pa.ChunkedArray) -> Iterator[tuple[int, pa.Array]]:
    """Cut an array of strings into slices of at most SLICE_BYTES, or one document.

    Returns:
        The number of each slice's first document, and the slice.

    Raises:
        TypeError: the array holds no strings.
    """
    if isinstance(texts, pa.ChunkedArray):
        texts = texts.combine_chunks()
    if not (pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)):
        raise TypeError(f"texts are of type {texts.type} instead of string")
    sizes = pc.fill_null(pc.binary_length(texts), 0).to_numpy(zero_copy_only=False)
    ends = np.cumsum(sizes, dtype=np.int64)
    start = 0
    while start < len(texts):
        before = int(ends[start - 1]) if start else 0
        stop = int(np.searchsorted(ends, before + SLICE_BYTES, side="right"))
        stop = min(max(stop, start + 1), start + SLICE_DOCUMENTS)
        yield start, texts.slice(start, stop - start)
        start = stop


def fold(text: str) -> str:
    """Unicode NFKC and case folding, without invisible characters: the reference for what `read` compares.

    NFKC turns a lone accent into a blank and a combining mark, which would be a word: the blank alone is meant.
    """
    text = _ignored().sub("", text)
    text = _lone_accents().sub(" ", text)
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def read(texts: pa.Array) -> Words:
    """The words of one slice of documents (see `slices`); null counts as empty."""
    _keep_freed_memory()
    raw_B, bounds_D = _joined(texts)
    folded_B = np.frombuffer(bytearray(raw_B).translate(_ascii_fold()), np.uint8)
    outside_C = np.flatnonzero(folded_B >= 0xC0)
    pairs_C, classes_C = _fold_outside_ascii(folded_B, outside_C)
    irregular = outside_C[np.flatnonzero(classes_C >= _IRREGULAR)]
    starts_W, ends_W = _runs(folded_B)
    return Words(
        raw_B=raw_B,
        folded_B=folded_B,
        bounds_D=bounds_D,
        outside_C=outside_C,
        pairs_C=pairs_C,
        classes_C=classes_C & ~np.uint8(_IRREGULAR),
        starts_W=starts_W,
        ends_W=ends_W,
        hashes_W=_word_hashes(folded_B, starts_W, ends_W),
        first_D=np.searchsorted(starts_W, bounds_D),
        is_irregular_D=np.diff(np.searchsorted(irregular, bounds_D)) > 0,
    )


class Counter:
    """Counts the set bytes between any two places. Eight bytes are summed by one multiplication: 0.3 ns a byte.

    Args:
        mask_B: bool, 8 * k bytes.
    """

    def __init__(self, mask_B: np.ndarray) -> None:
        self._eights = mask_B.view("<u8")
        self._before = np.zeros(len(self._eights) + 1, np.int64)
        sums = self._eights * _ONES
        sums >>= np.uint64(56)
        np.cumsum(sums.view(np.int64), out=self._before[1:])

    def between(self, bounds: np.ndarray) -> np.ndarray:
        """Set bytes between consecutive places: int64, one fewer than `bounds`, which ascend."""
        block, rest = bounds >> 3, ((bounds & 7) << 3).astype(np.uint64)
        begun = self._eights[np.minimum(block, len(self._eights) - 1)] & ((np.uint64(1) << rest) - np.uint64(1))
        return np.diff(self._before[block] + ((begun * _ONES) >> np.uint64(56)).view(np.int64))


def mixed(values: np.ndarray) -> np.ndarray:
    """Spread uint64 values over all bits, by one multiply-xorshift round of splitmix64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    spread: np.ndarray = values ^ (values >> np.uint64(29))
    return spread


def ngrams(hashes_W: np.ndarray, size: int) -> np.ndarray:
    """Hashes of all runs of `size` hashes: W - size + 1 of them, uint64.

    Built by doubling (two words, four, eight), so eight words cost three multiplications, not seven.
    """
    if len(hashes_W) < size:
        return np.zeros(0, np.uint64)
    result, length = hashes_W, 1
    for bit in bin(size)[3:]:
        result, length = _appended(result, length, result, length), 2 * length
        if bit == "1":
            result, length = _appended(result, length, hashes_W, 1), length + 1
    return result


def _appended(left: np.ndarray, left_size: int, right: np.ndarray, right_size: int) -> np.ndarray:
    """Hashes of runs of `left_size` words followed by runs of `right_size`."""
    count = min(len(left), len(right) - left_size)
    factor = np.uint64(pow(_MULTIPLIER, right_size, 2**64))
    joined: np.ndarray = left[:count] * factor + right[left_size : left_size + count]
    return joined


def _joined(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """All documents in one array of bytes, a line break after each, and where each begins."""
    kind = pa.large_binary()
    joined = pc.binary_join_element_wise(
        texts.cast(kind), pa.scalar(b"", kind), pa.scalar(b"\n", kind), null_handling="replace", null_replacement=b""
    )
    _, offsets, data = joined.buffers()
    bounds_D = np.frombuffer(offsets, np.int64)[joined.offset : joined.offset + len(joined) + 1] + _PAD
    size = int(bounds_D[-1]) - _PAD
    raw_B = np.full(-(-size // 8) * 8 + 3 * _PAD, 10, np.uint8)
    if size:
        raw_B[_PAD : _PAD + size] = np.frombuffer(data, np.uint8)[:size]
    return raw_B, bounds_D


def _runs(folded_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where runs of letters and runs of digits begin and end."""
    is_word_B = folded_B != 0
    edges = np.flatnonzero(is_word_B[1:] != is_word_B[:-1]) + 1
    starts_W, ends_W = edges[::2], edges[1::2]
    is_digit_B = (folded_B - np.uint8(48)) < 10
    inner = np.flatnonzero((is_digit_B[1:] != is_digit_B[:-1]) & is_word_B[1:] & is_word_B[:-1]) + 1
    if len(inner):  # a digit beside a letter, as in H2O
        place = np.searchsorted(ends_W, inner)
        return np.insert(starts_W, place + 1, inner), np.insert(ends_W, place, inner)
    return np.ascontiguousarray(starts_W), np.ascontiguousarray(ends_W)


def _fold_outside_ascii(folded_B: np.ndarray, outside_C: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fold the code points outside ASCII in place; return the first two bytes and the class of each."""
    if not len(outside_C):
        return np.zeros(0, np.uint16), np.zeros(0, np.uint8)
    pairs, longer = _code_points()
    pairs_C = folded_B[outside_C].astype(np.uint16)
    pairs_C <<= 8
    pairs_C |= folded_B[outside_C + 1]
    entries = pairs[pairs_C.astype(np.int64)]
    classes_C = (entries >> 16).astype(np.uint8)
    entries = entries.astype(np.uint16)
    changed = np.flatnonzero(entries != pairs_C)
    folded_B[outside_C[changed]] = entries[changed] >> 8
    folded_B[outside_C[changed] + 1] = entries[changed] & 0xFF
    long = np.flatnonzero(pairs_C >= 0xE000)
    if len(long):
        classes_C[long] = _blank_longer(folded_B, outside_C[long], longer)
    return pairs_C, classes_C


def _blank_longer(folded_B: np.ndarray, places: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Classes of code points of three and four bytes; those that separate words become 0 in place."""
    byte = [folded_B[places + offset].astype(np.int32) for offset in range(3)]
    found = classes[((byte[0] & 0x0F) << 12) | ((byte[1] & 0x3F) << 6) | (byte[2] & 0x3F)]
    is_four = byte[0] >= 0xF0
    block = (((byte[0] & 0x07) << 10) | ((byte[1] & 0x3F) << 4) | ((byte[2] & 0x3F) >> 2))[is_four]
    # Whole blocks of 256: emoji and pictures (those of letters and squared words have others behind them in NFKC),
    # Chinese characters, and the rest, which `fold` may change.
    kinds = np.full(2**13, LETTER | _IRREGULAR, np.uint8)
    kinds[0x1F0:0x1FC] = SYMBOL
    kinds[[0x1F1, 0x1F2, 0x1FB]] |= _IRREGULAR
    kinds[0x200:0x2F8] = kinds[0x300:0x324] = LETTER
    found[is_four] = kinds[block]
    separates = (found & 0x7F) <= SPACE
    for offset in range(4):
        folded_B[places[separates & (is_four | (offset < 3))] + offset] = 0
    return found


def _word_hashes(folded_B: np.ndarray, starts_W: np.ndarray, ends_W: np.ndarray) -> np.ndarray:
    """64 bits of each word, from its length, its first 16 and its last 8 bytes.

    Words longer than 24 bytes that agree in all of these are taken for equal; they are rare, and no rule rests on one.
    """
    # The eight bytes from every place on: an array whose elements overlap.
    eights = np.ndarray(len(folded_B) - 7, "<u8", buffer=folded_B, strides=(1,))
    sizes = ends_W - starts_W
    masks = np.array([2 ** (8 * n) - 1 for n in range(9)], np.uint64)
    values = eights[starts_W]
    values &= masks[np.minimum(sizes, 8)]
    values += sizes.view(np.uint64) * np.uint64(0xD6E8FEB86659FD93)
    long = np.flatnonzero(sizes > 8)
    last = eights[ends_W[long] - 8]
    very = np.flatnonzero(sizes[long] > 16)
    last[very] += eights[starts_W[long[very]] + 8] * np.uint64(0xCA5A826395121157)
    values[long] ^= mixed(last)
    values *= np.uint64(_MULTIPLIER)
    return mixed(values)


@functools.cache
def _keep_freed_memory() -> None:
    """Have the C library keep what numpy frees between two slices, instead of giving it back and asking again.

    glibc takes the size of the largest block it has mapped and freed, up to 32 MiB, for its threshold (mallopt(3),
    M_MMAP_THRESHOLD). Measured on Greek: 65 against 105 MB per CPU second, the rest went to page faults. The block is
    never touched, so it costs nothing.
    """
    np.empty(31 * 2**20, np.uint8)


@functools.cache
def _ascii_fold() -> bytes:
    """Lower case; 0 for what separates words; bytes outside ASCII stay."""
    return bytes(byte if byte >= 0x80 else ord(chr(byte).lower()) if chr(byte).isalnum() else 0 for byte in range(256))


@functools.cache
def _code_points() -> tuple[np.ndarray, np.ndarray]:
    """What to do with each code point outside ASCII, worked out from `fold`.

    It is irregular where a table cannot say what `fold` does to it, or where `fold` may join it with its neighbour.

    Returns:
        for two bytes, read as a big-endian number: the two bytes that they fold to (0 for what separates words), and
        the class in the bits above; uint32 of 2**16. For three bytes, by code point: the class; uint8 of 2**16.
    """
    pairs = np.arange(2**16, dtype=np.uint32)
    longer = np.zeros(2**16, np.uint8)
    for point in range(0x80, 2**16):
        if 0xD800 <= point < 0xE000:
            continue
        char = chr(point)
        folded = fold(char)
        is_pair = point < 0x800
        target = char.encode()
        if _is_word(char):
            kind = UPPER if char.isupper() or char.istitle() else LETTER
            is_regular = folded == char
            if is_pair and len(folded.encode()) == 2 and all(map(_is_word, folded)):
                is_regular, target = True, folded.encode()
            if unicodedata.category(char)[0] == "M" or 0x1100 <= point < 0x1200:  # these join with what is before them
                is_regular = False
        else:
            kind = SPACE if char.isspace() else SYMBOL
            is_regular = bool(folded) and not any(map(_is_word, folded))
            target = b"\0\0"
        kind |= 0 if is_regular else _IRREGULAR
        if is_pair:
            pairs[int.from_bytes(char.encode())] = int.from_bytes(target) | kind << 16
        else:
            longer[point] = kind
    return pairs, longer


@functools.cache
def _ignored() -> re.Pattern[str]:
    return re.compile(f"[{_IGNORED}]+")


@functools.cache
def _lone_accents() -> re.Pattern[str]:
    """What is no part of a word, but becomes a blank and combining marks by NFKC."""
    found = []
    for point in range(0x80, 2**16):
        char = chr(point)
        normal = unicodedata.normalize("NFKC", char)
        if len(normal) > 1 and normal[0] == " " and all(unicodedata.combining(mark) for mark in normal[1:]):
            found.append(char)
    return re.compile(f"[{''.join(found)}]")


def _is_word(char: str) -> bool:
    """Letters, marks and numbers."""
    return unicodedata.category(char)[0] in "LMN"
