"""An index holds exactly the kept text, is made once, and survives kill -9, a second process and a full disk."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from trace_toys import (
    ANSWER,
    DOCUMENTS_OF_TOY,
    FOX,
    HELD_OUT,
    QUESTION,
    SHIP,
    add_conversations,
    add_dataset,
    add_made,
    document,
    full_store,
    write_dataset,
)  # fmt: skip

from hanse.errors import InputError
from hanse.store.stage import Store
from hanse.trace import index as indexing
from hanse.trace.index import Place, build, find_index, indexes, open_index, place_of
from hanse.trace.texts import COLUMNS, behind, texts_of

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path) -> Store:
    return full_store(tmp_path / "store")


def test_what_was_kept_is_indexed_and_what_was_dropped_is_not(store):
    index = open_index(build(store.find("dataset/toy"), store))
    kept = [row["text"] for row in DOCUMENTS_OF_TOY if row["split"]]
    assert (index.documents, index.bytes) == (4, sum(len(text.encode()) for text in kept))
    for text in kept:
        assert index.count(text.encode()) >= 1
    assert index.count(b"verworfen") == 0
    assert index.count(FOX.encode()) == 2


def test_a_document_is_given_back_with_its_text_and_its_rights(store):
    index = open_index(build(store.find("dataset/toy"), store))
    found = {index.text(number).decode(): index.document(number) for number in range(index.documents)}
    assert found.keys() == {row["text"] for row in DOCUMENTS_OF_TOY if row["split"]}
    for row in DOCUMENTS_OF_TOY:
        if row["split"]:
            wanted = {name: row[name] for name in COLUMNS} | {"artifact": "dataset/toy/1"}
            assert found[row["text"]] == wanted
    assert found[HELD_OUT]["split"] == "validation"
    for number in (-1, index.documents):
        with pytest.raises(IndexError):
            index.document(number)
        with pytest.raises(IndexError):
            index.text(number)


def test_places_name_the_document_and_the_byte_in_it(store):
    index = open_index(build(store.find("dataset/toy"), store))
    places = index.places(SHIP.encode(), 10)
    assert len(places) == 2 and places == sorted(places)
    for place in places:
        assert index.text(place.document)[place.offset :].startswith(SHIP.encode())
    assert index.places(SHIP.encode(), 1) == places[:1]
    assert index.places(b"nowhere at all", 5) == []
    assert Place(1, 2) < Place(2, 0)
    with pytest.raises(ValueError, match="empty pattern"):
        index.count(b"")


def test_questions_and_answers_are_indexed(store):
    index = open_index(build(store.find("conversations/toy"), store))
    assert (index.count(QUESTION.encode()), index.count(ANSWER.encode())) == (1, 1)
    row = index.document(0)
    assert (row["id"], row["licence"], row["source"], row["file"], row["line"]) == (
        "quiz/1", "MIT", "quiz", "train.jsonl", 1,
    )  # fmt: skip
    assert row["rights_holder"] == "Quiz Club"  # declared for the source


def test_a_call_of_a_tool_without_words_is_no_fault(tmp_path):
    store = Store.open(tmp_path / "s")
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
    row = {"id": "1", "language": "en", "licence": "MIT", "source": "quiz"}
    messages = [{"role": "user", "content": QUESTION}, call, {"role": "assistant", "content": ANSWER}]
    index = open_index(build(add_conversations(store, [{**row, "messages": messages}]), store))
    assert index.count(ANSWER.encode()) == 1


def test_many_shards_answer_as_one(tmp_path, monkeypatch):
    texts = [f"Satz {number % 50} steht hier, und das ist der Text {number}." for number in range(3000)]
    store = Store.open(tmp_path / "s")
    dataset = add_dataset(store, [document(number, text) for number, text in enumerate(texts)])
    one = open_index(build(dataset, store))
    shutil.move(place_of(store, dataset), tmp_path / "one")
    monkeypatch.setattr(indexing, "shard_limit", lambda: 20_000)
    many = open_index(build(dataset, store))
    assert len(list(many.folder.glob("table.*"))) > 5
    for pattern in (b"Satz 7 ", b"Text 2999.", b"e", b"x"):
        assert one.count(pattern) == many.count(pattern)
        assert one.places(pattern, 100) == many.places(pattern, 100)
    for number in (0, 1234, 2999):
        assert one.text(number) == many.text(number) == texts[number].encode()
        assert one.document(number) == many.document(number)
    assert one.longest(b"Satz 49 steht hier, und nicht dort", 0) == len("Satz 49 steht hier, und ")


def test_a_document_longer_than_a_shard_has_one_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(indexing, "shard_limit", lambda: 50)
    store = Store.open(tmp_path / "s")
    texts = ["short one", "long " * 100, "short two"]
    index = open_index(build(add_dataset(store, [document(n, text) for n, text in enumerate(texts)]), store))
    assert [index.text(number).decode() for number in range(3)] == texts
    assert index.count(b"long long") == 99


def test_an_index_is_made_once(store, monkeypatch):
    folder = build(store.find("dataset/toy"), store)
    monkeypatch.setattr(indexing, "_write", None)
    assert build(store.find("dataset/toy"), store) == folder
    assert folder == store.root / ".trace" / "dataset~toy~1"


def test_an_index_of_other_content_is_made_anew(store):
    folder = build(store.find("dataset/toy"), store)
    shutil.rmtree(store.folder("dataset/toy/1"))
    changed = add_dataset(store, [document(1, "Ganz anderer Text steht nun in diesem Datensatz.")])
    assert find_index(store, changed) is None
    index = open_index(build(changed, store))
    assert index.folder == folder and index.digest == changed.digest
    assert (index.count(FOX.encode()), index.documents) == (0, 1)
    assert [path.name for path in folder.parent.iterdir()] == ["dataset~toy~1"]


def test_an_open_index_goes_on_answering_while_it_is_replaced(store):
    old = open_index(build(store.find("dataset/toy"), store))
    shutil.rmtree(store.folder("dataset/toy/1"))
    build(add_dataset(store, [document(1, "Ganz anderer Text.")]), store)
    assert old.count(FOX.encode()) == 2


def test_the_store_does_not_take_an_index_for_an_artifact(store):
    before = [artifact.ref for artifact in store.artifacts()]
    build(store.find("dataset/toy"), store)
    assert [artifact.ref for artifact in store.artifacts()] == before


# --- what was made from what ----------------------------------------------------------------------------------------


def test_a_release_stands_for_all_text_behind_it(store):
    release = store.find("release/toy")
    assert indexes(store, release, build_missing=False) == []
    made = indexes(store, release, build_missing=True)
    assert [index.artifact for index in made] == ["conversations/toy/1", "dataset/toy/1"]
    assert [index.artifact for index in indexes(store, release, build_missing=False)] == [i.artifact for i in made]
    assert [each.ref for each in behind(store, store.find("dataset/toy"))] == ["dataset/toy/1"]


def test_what_has_no_text_behind_it_is_refused(tmp_path):
    store = Store.open(tmp_path / "s")
    with pytest.raises(InputError, match="model/bare/1: has no text behind it"):
        behind(store, add_made(store, "model/bare/1"))
    with pytest.raises(InputError, match="holds no text of its own"):
        build(store.find("model/bare"), store)


def test_a_missing_or_exchanged_ancestor_is_refused(store):
    shutil.rmtree(store.folder("dataset/toy/1"))
    with pytest.raises(InputError, match="dataset/toy/1: no such artifact"):
        behind(store, store.find("release/toy"))
    add_dataset(store, [document(1, "Ein anderer Text.")])
    with pytest.raises(InputError, match="dataset/toy/1: is not the one that model/toy/1 was made from"):
        behind(store, store.find("release/toy"))


# --- faults ---------------------------------------------------------------------------------------------------------


def test_text_that_was_tampered_with_is_not_indexed(store):
    dataset = store.find("dataset/toy")
    shutil.rmtree(dataset.path / "text")
    write_dataset(dataset.path / "other", [document(1, "Untergeschobener Text.")])
    shutil.move(dataset.path / "other" / "text", dataset.path / "text")
    shutil.rmtree(dataset.path / "other")
    with pytest.raises(InputError, match=r"dataset/toy/1 does not match its SHA256SUMS: text/.*Refusing to index it"):
        build(dataset, store)


def test_text_that_its_table_does_not_know_is_refused(tmp_path):
    rows = [document(number, f"Text {number}") for number in range(5)]

    def dataset(name: str, table: list, texts: list):
        store = Store.open(tmp_path / name)

        def make(work):
            write_dataset(work.folder / "a", texts)
            write_dataset(work.folder / "b", table)
            shutil.move(work.folder / "a" / "text", work.folder / "text")
            shutil.move(work.folder / "b" / "documents.parquet", work.folder / "documents.parquet")
            shutil.rmtree(work.folder / "a")
            shutil.rmtree(work.folder / "b")

        return store, store.build("dataset", "d", "1", definition={}, inputs={}, make=make).artifact

    for name, table, texts in (("less", rows[:4], rows), ("more", rows, rows[:4]), ("order", rows[::-1], rows)):
        store, artifact = dataset(name, table, texts)
        with pytest.raises(InputError, match=r"its text and its documents.parquet disagree at document [0-9a-f]{32}"):
            build(artifact, store)
        assert list((store.root / ".trace").iterdir()) == []


@pytest.mark.parametrize("damage", ["gone", "no text", "no table", "not json", "no messages"])
def test_text_that_cannot_be_read_is_named(store, damage):
    dataset, talk = store.find("dataset/toy"), store.find("conversations/toy")
    if damage == "gone":
        (dataset.path / "documents.parquet").unlink()
    elif damage == "no text":
        shutil.rmtree(dataset.path / "text")
    elif damage == "no table":
        (dataset.path / "documents.parquet").write_bytes(b"PAR1 but not really")
    else:
        (talk.path / "train.jsonl").write_text("{" if damage == "not json" else "{}")
    artifact = dataset if damage in ("gone", "no text", "no table") else talk
    with pytest.raises(InputError, match=rf"{artifact.ref}: (its text cannot be read|has no text)"):
        list(texts_of(artifact))


def test_an_artifact_without_a_document_is_refused_and_leaves_nothing(tmp_path):
    store = Store.open(tmp_path / "s")
    talk = add_conversations(store, [])
    with pytest.raises(InputError, match="holds no document"):
        build(talk, store)
    assert list((store.root / ".trace").iterdir()) == []


@pytest.mark.parametrize("damage", ["header", "layout", "table", "disorder", "rows", "count", "shard"])
def test_a_damaged_index_is_refused_and_made_anew(store, damage):
    dataset = store.find("dataset/toy")
    folder = build(dataset, store)
    header = json.loads((folder / "index.json").read_text())
    if damage == "header":
        (folder / "index.json").write_text("{")
    elif damage == "layout":
        (folder / "index.json").write_text(json.dumps(header | {"version": 99}))
    elif damage == "count":
        (folder / "index.json").write_text(json.dumps(header | {"documents": 3}))
    elif damage == "table":
        (folder / "table.0").write_bytes((folder / "table.0").read_bytes()[:-7])
    elif damage == "disorder":
        (folder / "table.0").write_bytes(bytes((folder / "table.0").stat().st_size))
    elif damage == "rows":
        table = pq.read_table(folder / "documents.parquet")
        pq.write_table(table.slice(1), folder / "documents.parquet")
    else:
        (folder / "offset.0").unlink()
    with pytest.raises(InputError, match=r"remove .*(anew)"):
        open_index(folder)
    assert find_index(store, dataset) is None
    assert indexes(store, dataset, build_missing=False) == []
    (index,) = indexes(store, dataset, build_missing=True)
    assert index.count(FOX.encode()) == 2


PAUSED = """
import sys, time
from pathlib import Path
from hanse.store.stage import Store
from hanse.trace import index
write = index.write_shard
def paused(*arguments):
    result = write(*arguments)
    print("paused", flush=True)
    time.sleep(600)
index.write_shard = paused
store = Store.open(Path(sys.argv[1]))
index.build(store.find("dataset/toy"), store)
"""


def test_a_second_process_is_told_and_kill_9_leaves_no_half_index(store):
    first = subprocess.Popen(
        [sys.executable, "-c", PAUSED, str(store.root)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert first.stdout is not None and first.stdout.readline() == "paused\n"
        with pytest.raises(InputError, match=rf"process {first.pid} is at work here \(indexing dataset/toy/1\)"):
            build(store.find("dataset/toy"), store)
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert not place_of(store, store.find("dataset/toy")).exists()
    assert [path.name[:5] for path in (store.root / ".trace").iterdir()] == [".new~"]
    index = open_index(build(store.find("dataset/toy"), store))
    assert index.count(FOX.encode()) == 2
    assert [path.name for path in (store.root / ".trace").iterdir()] == ["dataset~toy~1"]


def test_a_full_disk_says_so_and_leaves_nothing(store, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(indexing, "write_shard", full)
    with pytest.raises(InputError, match="no space left while making the index of dataset/toy/1"):
        build(store.find("dataset/toy"), store)
    assert list((store.root / ".trace").iterdir()) == []


def test_a_disk_without_room_is_refused_before_the_work(small_disk):
    store = Store.open(small_disk / "s")
    dataset = add_dataset(store, [document(number, "Derselbe Satz. " * 300) for number in range(60)])
    with pytest.raises(InputError, match=r"the index of dataset/toy/1 takes about 1\.[0-9] MB, and .* are free"):
        build(dataset, store)
    assert list((store.root / ".trace").iterdir()) == []
