"""Lineage as a tree, and the disposable index."""

import shutil
import sqlite3
import time

import pytest

from hanse.store import graph
from hanse.store.documents import count_documents
from hanse.store.stage import Store


def test_lineage_is_a_tree_down_to_the_sources_of_the_documents(store):
    tree = graph.lineage(store, store.find("model/a"))
    digest = {kind: store.find(f"{kind}/a").digest[:12] for kind in ("dataset", "tokenizer", "shards", "model")}
    assert tree.text().splitlines() == [
        f"model/a/1  {digest['model']}  tokens 1,000,000",
        f"├─ shards: shards/a/1  {digest['shards']}  tokens 1,000,000",
        f"│  ├─ text: dataset/a/1  {digest['dataset']}  tokens 1,000,000",
        "│  │  ├─ letters: 3 documents, 35 bytes, CC-BY-4.0",
        "│  │  └─ laws: 1 documents, 100 bytes, CC0-1.0",
        f"│  └─ tokenizer: tokenizer/a/1  {digest['tokenizer']}  tokens 1,000,000",
        "│     └─ text: dataset/a/1  (as above)",
        "└─ tokenizer: tokenizer/a/1  (as above)",
    ]
    assert tree.as_dict()["inputs"][0]["inputs"][0]["sources"][1]["licence"] == "CC0-1.0"


def test_lineage_shows_what_is_missing_or_changed(store):
    shutil.rmtree(store.root / "tokenizer")
    (store.find("dataset/a").path / "SHA256SUMS").write_text("")
    lines = graph.lineage(store, store.find("model/a")).text()
    assert "tokenizer: tokenizer/a/1  MISSING" in lines and "text: dataset/a/1  CHANGED" in lines


def test_ancestors_and_descendants(store):
    assert store.ancestors("model/a") == ["dataset/a/1", "shards/a/1", "tokenizer/a/1"]
    assert store.descendants("dataset/a") == ["model/a/1", "shards/a/1", "tokenizer/a/1"]
    assert store.descendants("model/a") == [] == store.ancestors("dataset/a/1")


def test_descendants_of_something_that_is_gone_are_still_known(store):
    shutil.rmtree(store.root / "dataset")
    assert store.descendants("dataset/a/1") == ["model/a/1", "shards/a/1", "tokenizer/a/1"]


def test_the_index_follows_the_store(store):
    assert store.descendants("model/a") == []
    model = store.find("model/a")
    store.build(
        "evaluation", "a", "1", definition={}, inputs={"model": model}, make=lambda w: (w.folder / "x").write_text("x")
    )
    assert store.descendants("model/a") == ["evaluation/a/1"]
    shutil.rmtree(store.root / "evaluation")
    assert store.descendants("model/a") == []


@pytest.mark.parametrize("damage", ["deleted", "garbage", "empty", "locked", "folder", "other tables"])
def test_a_bad_index_changes_no_answer(store, damage):
    expected = store.descendants("dataset/a")
    store.index.close()
    path = store.root / ".index.sqlite"
    blocker = None
    if damage == "garbage":
        path.write_bytes(b"no database, by far" * 100)
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "locked":
        blocker = sqlite3.connect(path)
        blocker.execute("begin exclusive")
    else:
        path.unlink()
        if damage == "folder":
            path.mkdir()
        elif damage == "other tables":
            with sqlite3.connect(path) as other:
                other.execute("create table node (x)")
    again = Store.open(store.root)
    again.index.timeout_seconds = 0.05
    assert again.descendants("dataset/a") == expected
    again.require_intact(again.find("model/a"), "use it")
    if blocker:
        blocker.close()


def test_an_index_that_breaks_while_open_is_replaced(store):
    expected = store.descendants("dataset/a")
    (store.root / ".index.sqlite").write_bytes(b"\0" * 50_000)
    assert store.descendants("dataset/a") == expected


def test_a_digest_is_kept_until_the_file_changes(store, tmp_path, monkeypatch):
    path = store.find("model/a").path / "content"
    deadline = time.monotonic() + 10
    while time.time_ns() - path.stat().st_ctime_ns < 100_000_000 and time.monotonic() < deadline:
        pass  # a file as young as the clock's tick is never trusted
    digest = store.index.sha256(path)
    monkeypatch.setattr("hanse.store.index.sha256_file", lambda path: "read again")
    assert store.index.sha256(path) == digest
    path.write_text("model/a/2")
    assert store.index.sha256(path) == "read again"


def test_documents_are_counted_by_any_column_kept_or_all(store):
    table = store.find("dataset/a").path / "documents.parquet"
    kept = [(group.key, group.documents, group.bytes) for group in count_documents(table, ("licence", "author"))]
    assert kept == [(("CC-BY-4.0", "Ana"), 2, 30), (("CC-BY-4.0", ""), 1, 5), (("CC0-1.0", ""), 1, 100)]
    assert sum(group.documents for group in count_documents(table, ("licence",), kept=False)) == 5
    assert [group.key for group in count_documents(table, ("no such column",))] == [("",)]
