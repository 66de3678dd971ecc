"""`hanse trace`: what it prints, as text and as JSON, and how it answers bad input."""

from __future__ import annotations

import argparse
import io
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from trace_toys import ANSWER, FOX, HELD_OUT, add_dataset, add_made, document, full_store

from hanse.errors import InputError
from hanse.store.stage import Store
from hanse.trace import command
from hanse.trace.index import place_of


@pytest.fixture
def store(tmp_path) -> Store:
    return full_store(tmp_path / "store")


def trace(store: Path, *arguments: str) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", type=Path, default=store)
    parser.add_argument("--json", action="store_true")
    command.add_options(parser)
    return command.run(parser.parse_args(arguments))


def test_a_passage_is_shown_with_its_document_and_what_that_proves(store, capsys):
    assert trace(store.root, f"Man sagte mir: {FOX} So war es.") == 0
    shown, told = capsys.readouterr()
    for part in (
        f"“{FOX[:-1]}”", "2 times in the training text", "Der Fuchs (Ana Kovač)",
        "dataset/toy/1, web, letters, a.jsonl line 1",
        "licence  CC-BY-4.0, rights holder not recorded", "https://example.org/fuchs, byte 9 of the text",
        "licence  CC0-1.0", "release/toy/1: 1 passage of 30 bytes or more",
        "no proof that the model has it from there", "masked for personal data", "paraphrased is not found",
    ):  # fmt: skip
        assert part in shown, part
    assert "indexing dataset/toy/1, once:" in told and "indexed 530 B in" in told
    trace(store.root, FOX)
    assert "indexing" not in capsys.readouterr().err  # the second time it is there


def test_text_that_was_only_held_out_is_marked(store, capsys):
    trace(store.root, HELD_OUT)
    assert "held out for validation, not trained on" in capsys.readouterr().out


def test_nothing_found_is_said_with_what_it_does_not_prove(store, capsys):
    assert trace(store.root, "A sentence of which not one part stands in any document of this store.") == 0
    shown = capsys.readouterr().out
    assert "No passage of 30 bytes or more stands in the text behind release/toy/1." in shown
    assert "looked through dataset/toy/1: 4 documents" in shown and "may still have been learned from" in shown


def test_json_gives_spans_with_places_and_what_was_searched(store, capsys):
    query = f"{ANSWER} {FOX}"
    trace(store.root, query, "--json", "--min-bytes", "20", "--limit", "5")
    found = json.loads(capsys.readouterr().out)
    assert [each["artifact"] for each in found["searched"]] == ["conversations/toy/1", "dataset/toy/1"]
    assert found["searched"][1]["digest"] == store.find("dataset/toy").digest
    assert (found["what"], found["found"], found["query_bytes"]) == ("release/toy/1", 2, len(query.encode()))
    first, second = found["spans"]
    assert query[first["begin"] : first["end"]] == first["text"] == FOX[:-1]
    assert (first["count"], first["places"][0]["licence"], first["places"][0]["line"]) == (2, "CC-BY-4.0", 1)
    assert second["text"] == ANSWER[:-1] and second["places"][0]["source"] == "quiz"
    assert found["proves"] and found["proves_not"]


def test_the_text_comes_from_a_file_or_from_stdin(store, tmp_path, capsys, monkeypatch):
    path = tmp_path / "answer.txt"
    path.write_bytes(b"\xef\xbb\xbf" + FOX.encode())
    for arguments in (["--file", str(path)], ["--file", "-"], []):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(FOX.encode())))
        trace(store.root, *arguments, "--json")
        assert json.loads(capsys.readouterr().out)["spans"][0]["text"] == FOX[:-1]


def test_what_is_meant_is_the_newest_release_or_what_is_named(store, capsys):
    later = add_dataset(store, [document(1, "Nur hier steht dieser besondere Satz.")], "dataset/later/1")
    add_made(store, "release/later/1", text=later)
    add_made(store, "model/newest/1", text=store.find("dataset/toy"))
    for arguments, wanted in (
        ([], "release/later/1"), (["--in", "toy"], "release/toy/1"), (["--in", "newest"], "model/newest/1"),
        (["--in", "dataset/toy"], "dataset/toy/1"), (["--in", "model/toy/1"], "model/toy/1"),
    ):  # fmt: skip
        trace(store.root, "Nur hier steht dieser besondere Satz.", "--json", *arguments)
        assert json.loads(capsys.readouterr().out)["what"] == wanted


def test_a_query_of_a_megabyte_is_answered(store, capsys):
    rng = random.Random(5)
    noise = "".join(rng.choices("abcdefghijklmnop äöü", k=900_000))
    path = store.root / "long.txt"
    path.write_text(noise[:450_000] + FOX + noise[450_000:], encoding="utf-8")
    trace(store.root, "--file", str(path), "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["query_bytes"] > 1_000_000
    assert [FOX[:-1] in span["text"] for span in found["spans"]] == [True]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty"),
        (b" \n ", "is empty"),
        (b"too short", "has 9 bytes, and passages of 30 or more are looked for"),
        (b"\x7fELF\x02\x01\x01\x00\x00 and so on, with enough bytes", "holds the byte 0 at 7, so it is no text"),
        (b"Stra\xdfe in Latin-1, which is not UTF-8 at all", "byte 5 is not UTF-8"),
        (b"x" * (command.LARGEST_QUERY_BYTES + 1), "is longer than 8,388,608 bytes; trace it in parts"),
    ],
)
def test_what_is_no_text_to_trace_is_refused(store, tmp_path, monkeypatch, content, told):
    path = tmp_path / "query"
    path.write_bytes(content)
    with pytest.raises(InputError, match=told):
        trace(store.root, "--file", str(path))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    with pytest.raises(InputError, match=told):
        trace(store.root)
    assert not (store.root / ".trace").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([FOX, "--file", "x"], "both TEXT and --file are given"),
        (["--file", "no/such/file"], "--file no/such/file: cannot be read"),
        (["--file", "."], r"--file \.: cannot be read"),
        ([FOX, "--min-bytes", "7"], "--min-bytes 7: give 8 or more"),
        ([FOX, "--limit", "0"], "--limit 0"),
        ([FOX, "--in", "nothing"], "release/nothing: no such artifact"),
        ([FOX, "--in", "model/nothing"], "model/nothing: no such artifact"),
        ([FOX, "--in", "a/b/c/d"], "does not name an artifact"),
        (["Stra\udcdfe, from a terminal that is not in UTF-8"], "TEXT: byte 5 is not UTF-8"),
    ],
)
def test_bad_options_are_refused(store, arguments, told):
    with pytest.raises(InputError, match=told):
        trace(store.root, *arguments)


def test_a_store_without_text_or_no_store_is_refused(tmp_path):
    with pytest.raises(InputError, match="no store here"):
        trace(tmp_path / "none", FOX)
    empty = Store.open(tmp_path / "empty")
    with pytest.raises(InputError, match="holds no text and no model yet; make one with: hanse run"):
        trace(empty.root, FOX)
    add_made(empty, "model/bare/1")
    with pytest.raises(InputError, match="model/bare/1: has no text behind it"):
        trace(empty.root, FOX)


def test_nothing_to_trace_at_a_terminal_is_refused(store, monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stdin", terminal)
    with pytest.raises(InputError, match="nothing to trace"):
        trace(store.root)


def test_a_damaged_index_is_made_anew_without_a_question(store, capsys):
    trace(store.root, FOX)
    (place_of(store, store.find("dataset/toy")) / "table.0").write_bytes(b"x")
    capsys.readouterr()
    trace(store.root, FOX)
    shown, told = capsys.readouterr()
    assert "2 times in the training text" in shown and "indexing dataset/toy/1" in told


def test_text_from_documents_cannot_act_on_the_terminal(tmp_path, capsys):
    store = Store.open(tmp_path / "s")
    hostile = "\x1b[2J\x1b[31m Ein Text, der den Bildschirm löschen will."
    add_dataset(store, [document(1, hostile, title="\x1b]0;title\x07", author="\u202eA", url="https://a/\x1b[1m")])
    trace(store.root, hostile)
    shown = capsys.readouterr().out
    assert "Bildschirm" in shown and "\x1b" not in shown and "\u202e" not in shown


def test_the_options_load_nothing_heavy():
    program = (
        "import sys, hanse.trace.command\nprint([m for m in ('torch', 'numpy', 'pyarrow', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
