"""What can be counted about the lines of a text: short ones, list items, ones that break off, repeats, boilerplate.

A line counts if it holds a word. Line breaks are LF; a line of dashes or blanks is no line.
"""

from __future__ import annotations

import numpy as np

from hanse.data.wordstream import Counter, Words, mixed, ngrams

SHORT_CHARACTERS = 30  # as in FineWeb's rule of short lines (arXiv:2406.17557)
NOTICE_CHARACTERS = 300  # a longer line with a word such as "cookies" is a paragraph about them
_BULLETS = tuple(int.from_bytes(sign.encode()) for sign in "•‣▪●◦■►➢✓")
_LOOK = 8  # blanks that are skipped at either end of a line


def line_features(words: Words, firsts: Counter, boilerplate_W: np.ndarray) -> dict[str, np.ndarray]:
    """The features of `measure` that are about lines.

    Args:
        words: the documents.
        firsts: counts the code points that begin in a stretch of `words.raw_B`.
        boilerplate_W: words with which a boilerplate phrase begins, ascending.

    Returns:
        One array for each feature, a value for each document.
    """
    breaks = np.flatnonzero(words.raw_B == 10)
    breaks = breaks[np.searchsorted(breaks, words.bounds_D[0]) - 1 : np.searchsorted(breaks, words.bounds_D[-1])]
    words_L = np.searchsorted(words.starts_W, breaks)  # the first word behind each break
    characters_L = firsts.between(breaks) - 1
    kept = np.flatnonzero(words_L[1:] > words_L[:-1])  # lines with a word
    starts, ends = breaks[:-1][kept] + 1, breaks[1:][kept]
    first, last = words_L[:-1][kept], words_L[1:][kept]
    characters = characters_L[kept]
    first_D = np.searchsorted(starts, words.bounds_D)
    lines_D = np.diff(first_D)
    all_D = _sums(characters, first_D)

    def of_lines(mask: np.ndarray) -> np.ndarray:
        return _sums(mask, first_D) / np.maximum(lines_D, 1)

    def of_characters(mask: np.ndarray) -> np.ndarray:
        return _sums(characters * mask, first_D) / np.maximum(all_D, 1)

    is_short = characters < SHORT_CHARACTERS
    is_open, is_ellipsis = _line_ends(words.raw_B, words.folded_B, starts, ends)
    documents = np.repeat(np.arange(1, len(lines_D) + 1, dtype=np.uint64), lines_D)
    keys = _line_hashes(words.hashes_W, first, last) ^ mixed(documents)
    is_notice = np.searchsorted(boilerplate_W, last) > np.searchsorted(boilerplate_W, first)
    is_notice &= characters < NOTICE_CHARACTERS
    return {
        "lines": lines_D,
        "short_lines": of_lines(is_short),
        "bullet_lines": of_lines(_is_bullet(words.raw_B, starts, ends)),
        "open_lines": of_lines(is_open),
        "menu_lines": of_characters(is_short & is_open),
        "ellipsis_lines": of_lines(is_ellipsis),
        "duplicate_lines": of_characters(_is_repeated(keys)),
        "boilerplate_lines": of_characters(is_notice),
    }


def _sums(values: np.ndarray, first_D: np.ndarray) -> np.ndarray:
    """Of each document's lines."""
    before = np.zeros(len(values) + 1, np.int64)
    np.cumsum(values, out=before[1:])
    return np.diff(before[first_D])


def _line_hashes(hashes_W: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Hashes of lines from their words `first` to before `last`: the first word and the sum of all pairs."""
    before = np.zeros(max(len(hashes_W), 1), np.uint64)
    np.cumsum(mixed(ngrams(hashes_W, 2)), out=before[1:])
    hashes: np.ndarray = hashes_W[first] + before[last - 1] - before[first]
    return hashes


def _line_ends(
    raw_B: np.ndarray, folded_B: np.ndarray, starts: np.ndarray, ends: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Which lines end without punctuation (or with a comma), and which with an ellipsis."""
    last = ends - 1
    for _ in range(_LOOK):
        blank = np.flatnonzero((raw_B[last] <= 32) & (last > starts))
        if not len(blank):
            break
        last[blank] -= 1
    byte = raw_B[last]
    is_open = (folded_B[last] != 0) | (byte == ord(","))
    is_dots = (byte == ord(".")) & (raw_B[last - 1] == ord(".")) & (raw_B[last - 2] == ord("."))
    is_sign = (byte == 0xA6) & (raw_B[last - 1] == 0x80) & (raw_B[last - 2] == 0xE2)  # U+2026
    return is_open, is_dots | is_sign


def _is_bullet(raw_B: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Lines that begin with a bullet, or with a hyphen or asterisk and a blank.

    Dashes do not count: in many languages they begin what somebody says.
    """
    place = starts.copy()
    for _ in range(_LOOK):
        blank = np.flatnonzero((raw_B[place] <= 32) & (place < ends - 1))
        if not len(blank):
            break
        place[blank] += 1
    byte = raw_B[place]
    bullets = ((byte == ord("-")) | (byte == ord("*"))) & (raw_B[place + 1] == 32)
    bullets |= (byte == 0xC2) & (raw_B[place + 1] == 0xB7)  # middle dot
    high = np.flatnonzero(byte == 0xE2)
    signs = (byte[high].astype(np.int32) << 16) | (raw_B[place[high] + 1].astype(np.int32) << 8)
    bullets[high] = np.isin(signs | raw_B[place[high] + 2], _BULLETS)
    found: np.ndarray = bullets
    return found


def _is_repeated(keys: np.ndarray) -> np.ndarray:
    """Which keys occurred before."""
    order = np.argsort(keys, kind="stable")
    repeated = np.zeros(len(keys), bool)
    repeated[order[1:]] = keys[order[1:]] == keys[order[:-1]]
    return repeated
