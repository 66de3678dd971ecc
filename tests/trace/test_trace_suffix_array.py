"""The table is the sorted suffixes, in infini-gram's layout, and searching it finds what looking everywhere finds."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trace_toys import write_texts

from hanse.errors import InputError
from hanse.trace import suffix_array
from hanse.trace.suffix_array import Shard, entry_bytes, shard_limit, write_shard

ALPHABETS = ("ab", "aé漢😀", "абв ")
TEXTS = st.sampled_from(ALPHABETS).flatmap(lambda letters: st.lists(st.text(letters, max_size=40), min_size=1))


def opened(texts: list[str]) -> tuple[Shard, bytes]:
    with tempfile.TemporaryDirectory() as folder:  # what is mapped stays readable
        content = write_texts(Path(folder), [text.encode() for text in texts])
        return Shard(Path(folder), 0), content


def places(content: bytes, pattern: bytes) -> list[int]:
    return [start for start in range(len(content)) if content.startswith(pattern, start)]


@given(TEXTS)
def test_the_table_holds_every_suffix_in_the_order_of_its_bytes(texts):
    shard, content = opened(texts)
    wanted = sorted(range(len(content)), key=lambda start: content[start:])
    assert shard.starts(0, shard.size).tolist() == wanted
    assert shard.seems_sorted()


@given(TEXTS, st.data())
def test_the_rows_of_a_pattern_are_all_the_places_where_it_stands(texts, data):
    shard, content = opened(texts)
    start = data.draw(st.integers(0, len(content) - 1))
    pattern = content[start : start + data.draw(st.integers(1, 70))] + data.draw(st.sampled_from([b"", b"b"]))
    first, last = shard.ranks(pattern)
    assert sorted(shard.starts(first, last).tolist()) == places(content, pattern)


@given(TEXTS, st.data())
def test_the_longest_match_is_the_longest_that_stands_anywhere(texts, data):
    shard, content = opened(texts)
    query = data.draw(st.text("abé漢😀б", max_size=50)) + data.draw(st.sampled_from(texts)) + data.draw(st.text("ab"))
    begin = data.draw(st.integers(0, len(query.encode())))
    rest = query.encode()[begin:]
    wanted = next(size for size in range(len(rest), -1, -1) if not size or rest[:size] in content)
    assert shard.longest(query.encode(), begin) == wanted


def test_a_match_of_many_pieces_is_measured_to_the_byte(tmp_path):
    text = bytes(range(32, 127)) * 5000 + b"ende"
    write_texts(tmp_path, [b"before", text, b"after"])
    shard = Shard(tmp_path, 0)
    assert shard.longest(text[7:] + b"ende", 0) == len(text) - 7
    assert shard.longest(b"x" + text[:400_000] + b"\n", 1) == 400_000


@pytest.mark.parametrize(
    ("size", "width"),
    [(1, 1), (2, 1), (256, 1), (257, 2), (2**16, 2), (2**16 + 1, 3), (2**24, 3), (2**24 + 1, 4), (2**30, 4)],
)
def test_entries_have_the_fewest_bytes_that_can_count_so_far(size, width):
    assert entry_bytes(size) == width


@pytest.mark.parametrize("size", [100, 5000, 70_000])
def test_entries_of_every_width_are_read_back(tmp_path, size):
    text = b"".join(b"%d," % number for number in range(size))[:size]
    content = write_texts(tmp_path, [text])
    shard = Shard(tmp_path, 0)
    assert (tmp_path / "table.0").stat().st_size == len(content) * entry_bytes(len(content))
    first, last = shard.ranks(b"9,")
    assert sorted(shard.starts(first, last).tolist()) == places(content, b"9,")


def test_documents_are_told_apart_even_when_they_are_empty(tmp_path):
    write_texts(tmp_path, [b"", b"one", b"", "zwölf".encode()])
    shard = Shard(tmp_path, 0)
    assert [shard.document(number) for number in range(4)] == [b"", b"one", b"", "zwölf".encode()]
    first, last = shard.ranks(b"w")
    assert shard.document_at(int(shard.starts(first, last)[0])) == (3, 1)


def test_no_match_reaches_over_the_end_of_a_document(tmp_path):
    write_texts(tmp_path, [b"the end of one", b"and the next"])
    assert Shard(tmp_path, 0).longest(b"of oneand the next", 0) == len(b"of one")


@pytest.mark.parametrize("name", ["tokenized.0", "table.0", "offset.0"])
@pytest.mark.parametrize("damage", ["gone", "cut", "empty"])
def test_a_file_that_is_gone_or_cut_is_refused(tmp_path, name, damage):
    write_texts(tmp_path, [b"some text that is long enough", b"and more"])
    path = tmp_path / name
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] if damage == "cut" else b"")
    with pytest.raises(InputError, match=r"damaged|cannot be read"):
        Shard(tmp_path, 0)


def test_a_table_in_disorder_is_noticed(tmp_path):
    write_texts(tmp_path, [b"some text that is long enough to have an order"])
    table = bytearray((tmp_path / "table.0").read_bytes())
    (tmp_path / "table.0").write_bytes(table[::-1])
    assert not Shard(tmp_path, 0).seems_sorted()


def test_shards_shrink_where_memory_is_short(monkeypatch):
    monkeypatch.setattr(suffix_array, "_free_memory", lambda: 2**40)
    assert shard_limit() == 2**30
    monkeypatch.setattr(suffix_array, "_free_memory", lambda: 600 * 2**20)
    assert 60 * 2**20 < shard_limit() < 120 * 2**20
    monkeypatch.setattr(suffix_array, "_free_memory", lambda: None)
    assert shard_limit() == 2**30


def test_infini_grams_engine_opens_our_index_and_counts_the_same(tmp_path):
    engine = pytest.importorskip("infini_gram.engine", reason="infini-gram is not installed")
    texts = [f"Kapitel {number}: Es war einmal ein König, číslo {number % 7}.".encode() for number in range(400)]
    content = write_texts(tmp_path, texts)
    theirs = engine.InfiniGramEngine(str(tmp_path), eos_token_id=10, vocab_size=255, version=4, token_dtype="u8")
    ours = Shard(tmp_path, 0)
    for pattern in (b"K", "König".encode(), b"einmal ein", "číslo 3.".encode(), b"nowhere", texts[17]):
        first, last = ours.ranks(pattern)
        found = theirs.find(list(pattern))
        assert (found["cnt"], found["segment_by_shard"]) == (len(places(content, pattern)), [(first, last)])


@pytest.mark.slow
def test_infini_grams_own_builder_writes_the_same_bytes(tmp_path):
    pytest.importorskip("infini_gram.engine", reason="infini-gram is not installed")
    import json

    texts = [f"Ħobż, ilma u {number} 漢字 {'x' * (number % 90)}" for number in range(3000)]
    source, theirs, ours = tmp_path / "source", tmp_path / "theirs", tmp_path / "ours"
    source.mkdir(), ours.mkdir()
    (source / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    subprocess.run(
        [sys.executable, "-m", "infini_gram.indexing", "--data_dir", str(source), "--save_dir", str(theirs),
         "--token_dtype", "u8", "--cpus", "1", "--mem", "1", "--ulimit", "1024"],
        check=True, capture_output=True,
    )  # fmt: skip
    write_texts(ours, [text.encode() for text in texts])
    for name in ("tokenized.0", "offset.0", "table.0"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name


def test_text_that_cannot_be_sorted_is_refused_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(suffix_array, "_MOST_SORTABLE", 10)
    with pytest.raises(InputError, match="too long to index"):
        write_shard(tmp_path, 0, bytearray(b"\xffmore than ten bytes"), [0])
