"""What can be counted about a text without understanding it: letters, lines, repeats, stop words, boilerplate.

    texts -> measure -> features (one column each) -> rules -> reasons

All documents of a batch are measured together, by operations over whole arrays (`hanse.data.wordstream`). Every feature
is made of whole counts, so it is the same in every batch and on every machine. What each one is for stands in
docs/quality.md.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from hanse.data.quality.lines import line_features
from hanse.data.wordstream import SPACE, UPPER, Counter, Words, ngrams, read, slices

Features: TypeAlias = dict[str, np.ndarray]

FEATURES = (
    "characters", "words", "word_length", "longest_word", "letters", "digits", "symbols", "uppercase", "mojibake",
    "stop_words", "repetition", "lines", "short_lines", "bullet_lines", "open_lines", "menu_lines", "ellipsis_lines",
    "duplicate_lines", "boilerplate_lines",
)  # fmt: skip
"""The names of the features, in the order of the columns."""

MEASURED_BYTES = 4 * 2**20
REPEAT_WORDS = 5  # the shortest of the sequences whose repeats Gopher limits (arXiv:2112.11446, table A1)
_SLOTS = 4  # of the table of sequences seen, for each word
_ANY_LANGUAGE = 2**32 - 1


@dataclass(frozen=True)
class Phrases:
    """Stop words and boilerplate phrases as hash tables of 2**16 slots, at most one entry each.

    Attributes:
        bits: of each language in the masks.
        hashes: of words that are stop words, boilerplate, or begin boilerplate of two words.
        stops, notices, begins: for each slot the languages in which it is the one or the other.
        pair_hashes, pair_notices: boilerplate of two words, and the languages of it.
    """

    bits: dict[str, int]
    shift: int
    hashes: np.ndarray
    stops: np.ndarray
    notices: np.ndarray
    begins: np.ndarray
    pair_shift: int
    pair_hashes: np.ndarray
    pair_notices: np.ndarray


def measure(texts: pa.Array | pa.ChunkedArray, languages: Sequence[str | None] | None = None) -> Features:
    """Measure every document of a batch.

    A document of more than MEASURED_BYTES is measured by its beginning.

    Args:
        texts: strings; null counts as empty.
        languages: code of each document, for its stop words; without one, those of all languages count.

    Returns:
        One float32 array for each feature, in the order of the documents. Shares are 0 to 1, and 0 where there is
        nothing to take a share of.
    """
    parts = [
        measure_words(read(_beginning(part)), None if languages is None else languages[first : first + len(part)])
        for first, part in slices(texts)
    ]
    if not parts:
        parts = [measure_words(read(pa.array([], pa.string())), None)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _beginning(part: pa.Array) -> pa.Array:
    """The slice, or as much as we read of it if it is one long document."""
    if len(part) > 1 or part.nbytes <= MEASURED_BYTES:
        return part
    return pa.array([bytes(memoryview(part[0].as_buffer())[:MEASURED_BYTES])], pa.large_binary())


def measure_words(words: Words, languages: Sequence[str | None] | None) -> Features:
    """As `measure`, for one slice that has been read."""
    raw_B, bounds_D = words.raw_B, words.bounds_D
    is_first_B = raw_B.view(np.int8) >= -64  # of the bytes of a code point
    firsts = Counter(is_first_B)
    characters_D = firsts.between(bounds_D) - 1  # without the line break that was put behind it
    inside_D = Counter(is_first_B & (words.folded_B != 0)).between(bounds_D)
    digits_D = Counter((raw_B - np.uint8(48)) < 10).between(bounds_D)
    upper_D = Counter((raw_B - np.uint8(65)) < 26).between(bounds_D) + _outside(words, UPPER)
    spaces_D = Counter(raw_B <= 32).between(bounds_D) - 1 + _outside(words, SPACE)
    shown_D = characters_D - spaces_D
    letters_D = inside_D - digits_D
    words_D = words.words_D
    stop_words_D, boilerplate_W = _phrases(words, languages)
    features = {
        "characters": characters_D,
        "words": words_D,
        "word_length": _share(inside_D, words_D),
        "longest_word": _longest(words),
        "letters": _share(letters_D, shown_D),
        "digits": _share(digits_D, shown_D),
        "symbols": _share(shown_D - inside_D, shown_D),
        "uppercase": _share(upper_D, letters_D),
        "mojibake": _share(_mojibake(words), characters_D),
        "stop_words": _share(stop_words_D, words_D),
        "repetition": _repetition(words),
        **line_features(words, firsts, boilerplate_W),
    }
    return {name: features[name].astype(np.float32) for name in FEATURES}


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return part / np.maximum(whole, 1)


def _outside(words: Words, kind: int) -> np.ndarray:
    """Code points of one class outside ASCII, for each document."""
    return np.diff(np.searchsorted(words.outside_C[np.flatnonzero(words.classes_C == kind)], words.bounds_D))


def _longest(words: Words) -> np.ndarray:
    """Bytes of each document's longest word."""
    longest_D = np.zeros(len(words.first_D) - 1, np.int64)
    filled = np.flatnonzero(words.words_D)
    if len(filled):
        longest_D[filled] = np.maximum.reduceat(words.ends_W - words.starts_W, words.first_D[filled])
    return longest_D


def _mojibake(words: Words) -> np.ndarray:
    """Code points that UTF-8 read as Latin-1 or Windows-1252 leaves behind, and replacement characters.

    Such text is full of capitals from U+00C2 to U+00DF with one of the 64 signs behind them that Windows-1252 has from
    0x80 to 0xBF; in real text a letter follows, or a space.
    """
    pairs_C, raw_B = words.pairs_C, words.raw_B
    capital = words.outside_C[np.flatnonzero((pairs_C >= 0xC382) & (pairs_C <= 0xC39F))]
    behind = raw_B[capital + 2]
    capital = capital[(behind == 0xC2) | (behind == 0xCB) | (behind == 0xC6) | (behind == 0xE2)]
    quote = words.outside_C[np.flatnonzero(pairs_C == 0xC3A2)]  # a circumflex before a euro sign
    quote = quote[(raw_B[quote + 2] == 0xE2) & (raw_B[quote + 3] == 0x82)]
    lost = words.outside_C[np.flatnonzero(pairs_C == 0xEFBF)]
    lost = lost[raw_B[lost + 2] == 0xBD]
    places = np.sort(np.concatenate([capital, quote, lost]))
    return np.diff(np.searchsorted(places, words.bounds_D))


def _repetition(words: Words) -> np.ndarray:
    """Share of the runs of REPEAT_WORDS words that the document had before.

    Each document has a table of four slots a run, in which its runs are marked; the number of marks says how many are
    different (linear counting, Whang and others, ACM TODS 15:2, 1990). No sorting, and the table of a document stays in
    the cache.
    """
    runs = ngrams(words.hashes_W, REPEAT_WORDS)
    runs_D = np.maximum(words.words_D - (REPEAT_WORDS - 1), 0)
    if not runs_D.any():
        return np.zeros(len(runs_D))
    first_D, end_D = words.first_D[:-1], words.first_D[1:]
    table_D = runs_D * _SLOTS
    slots = runs >> np.uint64(32)
    slots *= np.repeat(table_D, words.words_D)[: len(runs)].view(np.uint64)
    slots >>= np.uint64(32)
    places = slots.view(np.int64)
    places += np.repeat(first_D * _SLOTS, words.words_D)[: len(runs)]
    seen = np.zeros((len(words.hashes_W) * _SLOTS // 8 + 1) * 8, bool)
    for back in range(1, REPEAT_WORDS):  # runs that reach into the next document go to a slot that nobody counts
        crossing = end_D - back
        places[crossing[(crossing >= 0) & (crossing < len(runs))]] = len(seen) - 1
    seen[places] = True
    marks_D = Counter(seen).between(words.first_D * _SLOTS)
    size_D = np.maximum(table_D, 1)
    different_D = -size_D * np.log1p(-np.minimum(marks_D / size_D, 1 - 1 / (2 * size_D)))
    # Rounded, so that the last bit of a logarithm never decides.
    return np.round(np.clip(1 - different_D / np.maximum(runs_D, 1), 0, 1) * (runs_D > 0), 3)


def _phrases(words: Words, languages: Sequence[str | None] | None) -> tuple[np.ndarray, np.ndarray]:
    """How many stop words each document has, and the numbers of the words that begin a boilerplate phrase, ascending.

    Both are those of the document's language, or of any where that is not known.
    """
    phrases = phrase_tables()
    found, slots = _lookup(words.hashes_W, phrases.shift, phrases.hashes)
    if languages is None:
        bits = np.full(len(found), _ANY_LANGUAGE, np.uint32)
    else:
        bits_D = np.array([phrases.bits.get(code or "", _ANY_LANGUAGE) for code in languages], np.uint32)
        bits = np.repeat(bits_D, words.words_D)[found]
    stops = found[np.flatnonzero(phrases.stops[slots] & bits)]
    single = found[np.flatnonzero(phrases.notices[slots] & bits)]
    place = np.flatnonzero(phrases.begins[slots] & bits)
    begun, bits = found[place], bits[place]
    second = np.minimum(begun + 1, len(words.hashes_W) - 1)
    pairs = ngrams(np.stack([words.hashes_W[begun], words.hashes_W[second]], axis=1).ravel(), 2)[::2]
    double, slots = _lookup(pairs, phrases.pair_shift, phrases.pair_hashes)
    begun, bits = begun[double], bits[double]
    is_inside = (
        words.first_D[np.searchsorted(words.first_D, begun + 1)] > begun + 1
    )  # the second word is in the document
    begun = begun[is_inside & ((phrases.pair_notices[slots] & bits) != 0)]
    return np.diff(np.searchsorted(stops, words.first_D)), np.union1d(single, begun)


def _lookup(hashes: np.ndarray, shift: int, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which hashes are in the table, and in which slots."""
    slots = hashes >> np.uint64(shift)
    slots &= np.uint64(0xFFFF)
    places = slots.view(np.int64)
    found = np.flatnonzero(table[places] == hashes)
    return found, places[found]


@functools.cache
def phrase_tables() -> Phrases:
    """The hash tables of `phrases.toml`."""
    text = resources.files("hanse.data.quality").joinpath("phrases.toml").read_text(encoding="utf-8")
    given = tomllib.loads(text)
    bits = {code: 1 << place for place, code in enumerate(sorted(given["stop_words"]))}
    stops: dict[int, int] = {}
    notices: dict[int, int] = {}
    begins: dict[int, int] = {}
    pairs: dict[int, int] = {}
    for code, line in given["stop_words"].items():
        for value in read(pa.array([line])).hashes_W.tolist():
            stops[value] = stops.get(value, 0) | bits[code]
    for code, group in given["boilerplate"].items():
        bit = _ANY_LANGUAGE if code == "any" else bits[code]
        for phrase in group:
            hashes_W = read(pa.array([phrase])).hashes_W
            if len(hashes_W) not in (1, 2):
                raise ValueError(f"phrases.toml, boilerplate: '{phrase}' has {len(hashes_W)} words; give one or two.")
            first = int(hashes_W[0])
            into = notices if len(hashes_W) == 1 else begins
            into[first] = into.get(first, 0) | bit
            for pair in ngrams(hashes_W, 2).tolist():
                pairs[pair] = pairs.get(pair, 0) | bit
    shift, hashes = _table({**stops, **notices, **begins})
    pair_shift, pair_hashes = _table(pairs)
    return Phrases(
        bits=bits,
        shift=shift,
        hashes=hashes,
        stops=_masks(stops, shift),
        notices=_masks(notices, shift),
        begins=_masks(begins, shift),
        pair_shift=pair_shift,
        pair_hashes=pair_hashes,
        pair_notices=_masks(pairs, pair_shift),
    )


def _table(values: dict[int, int]) -> tuple[int, np.ndarray]:
    """A shift under which no two values meet in a slot, and the table."""
    for shift in range(49):
        slots = {(value >> shift) & 0xFFFF for value in values}
        if len(slots) == len(values):
            table = np.zeros(2**16, np.uint64)
            for value in values:
                table[(value >> shift) & 0xFFFF] = value
            return shift, table
    raise ValueError("phrases.toml: too many phrases for a table of 65,536 slots.")


def _masks(values: dict[int, int], shift: int) -> np.ndarray:
    masks = np.zeros(2**16, np.uint32)
    for value, mask in values.items():
        masks[(value >> shift) & 0xFFFF] = mask
    return masks
