"""`hanse withdraw` as a person uses it: it shows what is meant, asks, records, and says what follows."""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path
from typing import Any

import pytest
from withdrawn_library import RAABE, Lab, document, library, prose

from hanse.data.schema import document_id
from hanse.errors import InputError
from hanse.store.stage import Store
from hanse.trace import withdraw_command, withdrawal


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    made = Lab(tmp_path, library())
    made.run("1")
    return made


def run(store: Path, *arguments: str) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", type=Path)
    parser.add_argument("--json", action="store_true")
    withdraw_command.add_options(parser)
    return withdraw_command.run(parser.parse_args(["--store", str(store), *arguments]))


def told(store: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    capsys.readouterr()
    assert run(store, "--json", *arguments) == 0
    return json.loads(capsys.readouterr().out)


WHO = ("--author", "fontane", "--reason", "opt-out")


def test_it_shows_what_is_meant_and_where_and_records_it(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(lab.store.root, *WHO, "--requester", "author", "--received", "2026-03-03", "--yes") == 0
    out = capsys.readouterr().out
    assert "dataset/lab/1: 10 documents, 10 kept" in out
    assert "Band 3" in out and "Fontane, Theodor (1819-1898)" in out
    (made,) = withdrawal.read(lab.store.root)
    assert made.file_name in out and "raise `version`" in out and "hanse impact" in out
    assert (made.received, made.requester, made.reason) == ("2026-03-03", "author", "opt-out")
    assert set(made.documents) == {document_id(prose(n)) for n in range(10)}
    assert made.found == {"dataset/lab/1": 10}


def test_a_dry_run_changes_nothing(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(lab.store.root, *WHO, "--dry-run") == 0
    assert "10 documents" in capsys.readouterr().out
    assert not (lab.store.root / "withdrawals").exists()


@pytest.mark.parametrize(("said", "code"), [("y\n", 0), ("n\n", 1), ("\n", 1), ("", 1)])
def test_it_asks_and_takes_no_for_an_answer(lab: Lab, monkeypatch: pytest.MonkeyPatch, said: str, code: int) -> None:
    terminal = io.StringIO(said)
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stdin", terminal)
    assert run(lab.store.root, *WHO) == code
    assert len(withdrawal.read(lab.store.root)) == 1 - code


def test_without_a_terminal_it_wants_yes(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    with pytest.raises(InputError, match="--yes"):
        run(lab.store.root, *WHO)
    assert withdrawal.read(lab.store.root) == ()


def test_something_unknown_is_refused_with_where_it_was_looked_for_and_may_be_recorded_for_later(lab: Lab) -> None:
    with pytest.raises(InputError, match=r"author Nobody: means no document .*dataset/lab/1.*--future"):
        run(lab.store.root, "--author", "Nobody", "--reason", "opt-out", "--yes")
    assert withdrawal.read(lab.store.root) == ()
    assert run(lab.store.root, "--author", "Nobody", "--reason", "opt-out", "--yes", "--future") == 0
    (made,) = withdrawal.read(lab.store.root)
    assert made.documents == () and made.found == {}


def test_what_is_withdrawn_already_is_not_recorded_twice(lab: Lab) -> None:
    run(lab.store.root, *WHO, "--yes")
    with pytest.raises(InputError, match="withdrawn already, by 20"):
        run(lab.store.root, *WHO, "--yes")
    assert run(lab.store.root, *WHO, "--with-copies", "--yes") == 0, "this one means more"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--reason", "opt-out"), "nothing to withdraw"),
        (("--author", "fontane"), "--reason"),
        ((*WHO, "--key", "/no/such/key"), "--key"),
        ((*WHO, "--received", "2999-01-01"), "future"),
        (("--author", "", "--reason", "court"), "empty"),
        (("--refresh", "--author", "fontane"), "--refresh"),
        (("--refresh",), "nothing was withdrawn"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(
    lab: Lab, arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run(lab.store.root, *arguments, "--yes")
    assert not (lab.store.root / "withdrawals").exists()


def test_a_store_of_another_format_or_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no store here"):
        run(tmp_path / "nothing", *WHO, "--yes")
    Store.open(tmp_path / "later")
    (tmp_path / "later" / "store.json").write_text('{"version": 2}')
    with pytest.raises(InputError, match="format 2"):
        run(tmp_path / "later", *WHO, "--yes")


def test_as_json_it_says_the_same(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    said = told(lab.store.root, capsys, *WHO, "--yes")
    (found,) = said["found"]
    assert (found["artifact"], found["documents"], found["kept"]) == ("dataset/lab/1", 10, 10)
    (made,) = withdrawal.read(lab.store.root)
    assert said["withdrawal"] == made.as_dict()
    assert said["passages"] > 1000 and Path(said["filter"]).is_file()


def test_a_near_copy_is_shown_and_taken_only_on_demand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = document(60, RAABE, text=prose(3).replace("Haus", "Hof", 1), title="Mirror")
    lab = Lab(tmp_path, [*library(), copy])
    lab.run("1")
    name = document_id(copy["text"])
    run(lab.store.root, *WHO, "--dry-run")
    out = capsys.readouterr().out
    assert f"near-copy  {name}" in out and "--with-copies" in out
    run(lab.store.root, *WHO, "--yes")
    run(lab.store.root, *WHO, "--yes", "--with-copies")
    without, with_copies = sorted(withdrawal.read(lab.store.root), key=lambda each: each.copies)
    assert name not in without.documents and name in with_copies.documents


def test_a_copy_that_only_its_words_give_away_is_proposed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pydivsufsort")
    # Most of it is new, so that no near-copy is seen, but two passages are Fontane's.
    anthology = document(61, RAABE, text=f"{prose(500, 400)} {prose(4, 60)} {prose(501, 400)}", title="Anthology")
    lab = Lab(tmp_path, [*library(), anthology])
    lab.run("1")
    said = told(lab.store.root, capsys, *WHO, "--copies", "--dry-run")
    (copy,) = said["copies"]
    assert copy["document"]["id"] == document_id(anthology["text"]) and copy["passages"] >= 2
    told(lab.store.root, capsys, *WHO, "--copies", "--with-copies", "--yes")
    lab.run("2")
    assert document_id(anthology["text"]) not in lab.texts("2")
