"""Words as the rooms see them: where they begin, how they compare, and that a batch changes nothing."""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.data import wordstream
from hanse.data.wordstream import Counter, fold, ngrams, read, slices

# Letters of four scripts, marks, digits, signs of every width, and what NFKC changes.
ALPHABET = (
    "aZßéÉñÑČčŁłŞşİıŐőŸÿĳŉſǅəΑαΣσςάΆΐϊБбЁёІіЇїҐґЉљḂẞﬁªº²½µ"  # letters and what becomes letters
    "0179\u0301\u0308\u05d0\u0915\u093f한ｱ漢𝒜"
    " \t\n.,-'’“”„«»…–—€°§×÷·\u00a0\u00ad\u200b\u202f\u2009\ufeff\U0001f600\U0001f1e9(){}\\$_"
)
texts = st.text(st.one_of(st.sampled_from(ALPHABET), st.characters(exclude_categories=["Cs"])), max_size=60)


def words_of(text: str) -> list[str]:
    """The words by the definition, one code point at a time."""
    kinds = []
    for char in text:
        is_picture = 0x1F000 <= ord(char) < 0x1FC00  # beyond U+FFFF, whole blocks are letters or pictures
        is_letter = unicodedata.category(char)[0] in "LMN" if ord(char) < 2**16 else not is_picture
        kinds.append("1" if char in "0123456789" else "a" if is_letter else " ")
    return [text[run.start() : run.end()] for run in re.finditer("1+|a+", "".join(kinds))]


def hashes_of(text: str) -> list[int]:
    return read(pa.array([text])).hashes_W.tolist()


@given(texts)
def test_words_are_runs_of_letters_or_digits_after_folding(text: str) -> None:
    folded = fold(text)
    words = read(pa.array([folded]))
    found = [words.raw_B[a:b].tobytes().decode() for a, b in zip(words.starts_W, words.ends_W, strict=True)]
    assert found == words_of(folded)


@given(texts)
def test_a_regular_text_has_the_words_of_its_folded_form(text: str) -> None:
    words = read(pa.array([text]))
    if not words.is_irregular_D[0]:
        assert words.hashes_W.tolist() == hashes_of(fold(text))


@pytest.mark.parametrize("text", ["Straße", "ΛΌΓΟΣ", "Łódź", "ЇЖАК", "Şçöğ", "Ąžuolas", "don’t", "État n° 5", "Ţară"])
def test_text_of_europe_is_regular(text: str) -> None:
    assert not read(pa.array([text])).is_irregular_D[0]
    assert hashes_of(text) == hashes_of(text.upper()) == hashes_of(text.lower())


@pytest.mark.parametrize(
    "text", ["e\u0301t\u00e9", "so\u00adft", "ﬁn", "m²", "½", "𝒜bc", "ǅ", "İ", "한국", "क्षत्रिय", "№ 5"]
)
def test_text_that_no_table_can_fold_is_irregular(text: str) -> None:
    assert read(pa.array(["regular", text])).is_irregular_D.tolist() == [False, text != "한국"]


@given(word=st.text("ab", min_size=1, max_size=24), place=st.integers(0, 23))
def test_words_of_24_bytes_that_differ_anywhere_have_different_hashes(word: str, place: int) -> None:
    place %= len(word)
    other = word[:place] + "c" + word[place + 1 :]
    assert len({*hashes_of(word), *hashes_of(other)}) == 2


@given(st.lists(texts, max_size=8))
def test_a_batch_holds_the_words_of_each_document(batch: list[str]) -> None:
    words = read(pa.array(batch, pa.string()))
    for place, text in enumerate(batch):
        own = words.hashes_W[words.first_D[place] : words.first_D[place + 1]]
        assert own.tolist() == hashes_of(text)


@given(st.lists(st.text("abc ", max_size=40), max_size=3))
def test_equal_words_have_equal_hashes_and_different_words_different_ones(batch: list[str]) -> None:
    words = read(pa.array(batch, pa.string()))
    seen = dict(zip(words.hashes_W.tolist(), " ".join(batch).split(), strict=True))
    assert all(
        seen[value] == word for value, word in zip(words.hashes_W.tolist(), " ".join(batch).split(), strict=True)
    )
    assert len(set(seen.values())) == len(seen)


@given(mask=st.lists(st.booleans(), max_size=200), cuts=st.lists(st.integers(0, 200), max_size=9))
def test_a_counter_counts_what_is_set_between_two_places(mask: list[bool], cuts: list[int]) -> None:
    mask_B = np.zeros(208, bool)
    mask_B[: len(mask)] = mask
    bounds = np.array(sorted([*cuts, 0]))
    counted = Counter(mask_B).between(bounds)
    assert counted.tolist() == [int(mask_B[a:b].sum()) for a, b in pairwise(bounds)]


@given(words=st.lists(st.integers(0, 3), max_size=30), size=st.integers(1, 9))
def test_equal_runs_have_equal_hashes_and_others_do_not(words: list[int], size: int) -> None:
    hashes = wordstream.mixed(np.array(words, np.uint64) + np.uint64(7))
    runs = [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]
    found = ngrams(hashes, size).tolist()
    assert len(found) == len(runs)
    assert len(set(found)) == len(set(runs)) == len(set(zip(found, runs, strict=True)))


@given(st.lists(st.one_of(st.none(), st.text("aé", max_size=30)), max_size=30))
def test_slices_hold_every_document_once_and_in_order(batch: list[str | None]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wordstream, "SLICE_BYTES", 40)
        patch.setattr(wordstream, "SLICE_DOCUMENTS", 7)
        parts = list(slices(pa.chunked_array([batch[:11], batch[11:]], pa.string())))
    assert [text for _, part in parts for text in part.to_pylist()] == batch
    assert [first for first, _ in parts] == [sum(len(p) for _, p in parts[:i]) for i in range(len(parts))]
    assert all(len(part) == 1 or sum(len((t or "").encode()) for t in part.to_pylist()) <= 40 for _, part in parts)


def test_what_is_not_text_is_refused() -> None:
    with pytest.raises(TypeError, match="int64"):
        next(slices(pa.array([1, 2])))
