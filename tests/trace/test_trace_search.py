"""Every maximal passage is found, none is made up, and each comes with its documents."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trace_toys import DOCUMENTS_OF_TOY, FOX, SHIP, add_dataset, document, full_store, write_texts

from hanse.errors import InputError
from hanse.store.stage import Store
from hanse.trace import index as indexing
from hanse.trace.index import Index, build, indexes, open_index
from hanse.trace.search import _maximal, spans, trace
from hanse.trace.suffix_array import Shard

TEXTS = st.sampled_from(["ab", "aé漢😀", "абв ", "abcdefghijkl"]).flatmap(
    lambda letters: st.tuples(st.lists(st.text(letters, max_size=50), min_size=1, max_size=6), st.text(letters))
)


def index_of(root: Path, texts: list[str], limit: int | None = None) -> Index:
    """The index of a dataset of these texts, in shards of at most `limit` bytes."""
    store = Store.open(root)
    dataset = add_dataset(store, [document(number, text) for number, text in enumerate(texts)])
    with pytest.MonkeyPatch.context() as patch:
        if limit is not None:
            patch.setattr(indexing, "shard_limit", lambda: limit)
        return open_index(build(dataset, store))


def everywhere(texts: list[str], query: str, min_bytes: int) -> list[tuple[int, int]]:
    """The maximal passages by looking for every piece in every text: first and last-plus-one character."""
    found, last = [], 0
    for begin in range(len(query)):
        end = begin
        while end < len(query) and any(query[begin : end + 1] in text for text in texts):
            end += 1
        if end > last and len(query[begin:end].encode()) >= min_bytes:
            found.append((begin, end))
        last = max(last, end)
    return found


@given(TEXTS, st.integers(8, 14), st.sampled_from([None, 60]), st.data())
@settings(max_examples=20)
def test_the_passages_are_those_that_looking_everywhere_finds(material, min_bytes, limit, data):
    texts, noise = material
    copied = data.draw(st.sampled_from(texts))
    query = noise + copied[data.draw(st.integers(0, 20)) :] + noise[::-1] + copied
    with tempfile.TemporaryDirectory() as folder:
        traced = trace([index_of(Path(folder) / "s", texts, limit)], query, min_bytes=min_bytes, limit=1000)
    wanted = everywhere(texts, query, min_bytes)
    assert {span.text for span in traced.spans} == {query[begin:end] for begin, end in wanted}
    assert traced.found == len(traced.spans)
    assert sum(span.times for span in traced.spans) == len(wanted)
    assert traced.covered_bytes == len(
        b"".join(query[at].encode() for at in sorted({at for begin, end in wanted for at in range(begin, end)}))
    )
    for span in traced.spans:
        assert query[span.begin : span.end] == span.text
        assert query.encode()[span.begin_byte : span.end_byte] == span.text.encode()
        assert (span.begin, span.end) in wanted
        assert span.count == sum(text.startswith(span.text, at) for text in texts for at in range(len(text)))


@pytest.mark.parametrize("seed", range(3))
def test_the_walk_misses_and_invents_nothing(seed, tmp_path):
    rng = random.Random(seed)  # drawn evenly: short texts with many near misses, which hypothesis seldom thinks of
    for number in range(60):
        letters = rng.choice(["ab", "aбc", "aé漢😀"])
        texts = ["".join(rng.choices(letters, k=rng.randrange(60))) for _ in range(rng.randint(1, 6))]
        texts += ["a" * 50] * (rng.random() < 0.3)
        (folder := tmp_path / str(number)).mkdir()
        content = write_texts(folder, [text.encode() for text in texts])
        header = {"artifact": "dataset/x/1", "digest": "", "documents": len(texts), "shards": 1}
        index = Index(folder, {**header, "bytes": len(content) - len(texts)})
        for _ in range(8):
            noise = "".join(rng.choices(letters, k=rng.randrange(40)))
            query = noise + rng.choice(texts)[rng.randrange(20) :] + noise[::-1]
            at = [len(query[:place].encode()) for place in range(len(query) + 1)]
            min_bytes = rng.choice([8, 9, 13])
            wanted = [(at[begin], at[end]) for begin, end in everywhere(texts, query, min_bytes)]
            assert list(_maximal([index], query.encode(), min_bytes)) == wanted, (texts, query, min_bytes)


def test_every_planted_passage_over_30_bytes_is_found(tmp_path):
    seed = 7
    rng = random.Random(seed)
    scripts = ("abcdefghij ", "αβγδεζηθικ ", "абвгдежзий ", "漢字仮名交文章例示 ", "ğışöçüİâîû ")
    texts = ["".join(rng.choices(rng.choice(scripts), k=2000)) for _ in range(60)]
    index = index_of(tmp_path / "s", texts)
    for number in range(200):
        text = rng.randrange(60)
        begin = rng.randrange(1900)
        end = begin + 8
        while len(texts[text][begin:end].encode()) <= 30:
            end += 1
        planted = texts[text][begin : end + rng.randrange(40)]
        query = "".join(rng.choices("QXZ?!", k=50)) + planted + "".join(rng.choices("QXZ?!", k=50))
        found = spans([index], query, limit=1000)
        assert any(planted in span.text and span.places[0].number == text for span in found), (seed, number)


def test_text_that_stands_nowhere_is_not_found(tmp_path):
    index = index_of(tmp_path / "s", [FOX, SHIP])
    traced = trace([index], "Jumbled words over here, ganz ohne jede Entsprechung in dem, was da ist." * 20)
    assert (traced.spans, traced.found, traced.covered_bytes) == ((), 0, 0)


def test_a_passage_ends_between_characters_where_the_bytes_go_on(tmp_path):
    index = index_of(tmp_path / "s", ["zzzzzzzzzz é"])
    (span,) = spans([index], "zzzzzzzzzz è", min_bytes=8)  # é and è share their first byte
    assert span.text == "zzzzzzzzzz "


def test_a_passage_comes_with_its_documents_count_and_place(tmp_path):
    store = full_store(tmp_path / "s")
    found = trace(indexes(store, store.find("release/toy"), build_missing=True), f"Wer sagt: {FOX} ???", trim=True)
    (span,) = found.spans
    assert span.text == FOX[:-1]
    assert (span.begin, span.bytes, span.times, span.count) == (10, len(FOX[:-1].encode()), 1, 2)
    assert [(each.artifact, each.document["line"], each.offset) for each in span.places] == [
        ("dataset/toy/1", 1, 9), ("dataset/toy/1", 5, 13),
    ]  # fmt: skip
    row = span.places[0].document
    assert (row["author"], row["url"], row["licence"]) == ("Ana Kovač", "https://example.org/fuchs", "CC-BY-4.0")


def test_overlapping_places_are_counted_and_one_document_is_shown_once(tmp_path):
    index = index_of(tmp_path / "s", ["ab" * 30, "other text"])
    (span,) = spans([index], "ab" * 20, min_bytes=30)
    assert (span.count, len(span.places), span.places[0].offset) == (11, 1, 0)


def test_signs_around_a_sentence_do_not_make_it_several_passages(tmp_path):
    index = index_of(tmp_path / "s", [f"«{FOX[:-1]}», sagte er", f"({FOX[:-1]})", "----------"])
    query = f"«{FOX[:-1]}) ----------"
    assert {span.text for span in spans([index], query)} == {f"«{FOX[:-1]}", f"{FOX[:-1]})"}
    (span,) = trace([index], query, trim=True).spans
    assert (span.text, span.begin, span.times, span.count) == (FOX[:-1], 1, 1, 2)
    assert query[span.begin : span.end] == span.text
    (line,) = trace([index], "-" * 12, min_bytes=8, trim=True).spans  # nothing but signs stays what it is
    assert line.text == "-" * 10


def test_the_longest_come_first_and_the_rarer_among_equals(tmp_path):
    index = index_of(
        tmp_path / "s", ["common passage one", "common passage one", "unique passage two", "a longer one, that"]
    )
    query = "common passage one|a longer one, that|unique passage two"
    found = spans([index], query, min_bytes=10)
    assert [span.text for span in found] == ["a longer one, that", "unique passage two", "common passage one"]
    assert [span.text for span in spans([index], query, min_bytes=10, limit=1)] == ["a longer one, that"]
    assert trace([index], query, min_bytes=10, limit=1).found == 3


def test_counts_are_summed_over_indexes_and_shards(tmp_path):
    first = index_of(tmp_path / "a", [FOX, SHIP, FOX], limit=100)
    second = index_of(tmp_path / "b", [FOX])
    (span,) = spans([first, second], FOX)
    assert (span.count, len(span.places)) == (3, 3)


def test_a_query_that_repeats_itself_is_not_looked_up_at_every_byte(tmp_path, monkeypatch):
    index = index_of(tmp_path / "s", ["a" * 1000, "ab" * 500])
    looked = []
    ranks = Shard.ranks
    monkeypatch.setattr(Shard, "ranks", lambda self, pattern: looked.append(1) or ranks(self, pattern))
    traced = trace([index], "a" * 20_000 + "ab" * 5_000)
    assert traced.covered_bytes == 30_000
    assert {span.text for span in traced.spans} >= {"a" * 1000, "ab" * 500}
    assert len(looked) < 8000  # of 30,000 places in the query


def test_a_long_query_is_one_passage_where_it_was_copied_whole(tmp_path):
    rng = random.Random(3)
    book = "".join(rng.choices("abcdefgh ", k=300_000))
    (span,) = spans([index_of(tmp_path / "s", ["before", book])], book)
    assert (span.bytes, span.count) == (300_000, 1)


def test_what_is_no_text_or_makes_no_sense_is_refused(tmp_path):
    index = index_of(tmp_path / "s", [each["text"] for each in DOCUMENTS_OF_TOY])
    with pytest.raises(InputError, match="not Unicode: character 4"):
        spans([index], "abc\udc80" * 20)
    with pytest.raises(InputError, match="min_bytes 7"):
        spans([index], FOX, min_bytes=7)
    with pytest.raises(InputError, match="limit 0"):
        spans([index], FOX, limit=0)


def test_no_index_and_no_text_find_nothing(tmp_path):
    assert spans([], FOX) == []
    assert spans([index_of(tmp_path / "s", [FOX])], "") == []
