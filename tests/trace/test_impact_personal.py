"""Impact of withdrawn personal data: documents are told by their hashes, unless somebody asks for their names."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from impact_lab import ImpactLab, books, prose, record, talk

from hanse.errors import InputError
from hanse.trace import impact_command, withdraw_command, withdrawal

NAMES = ("Quizmaster", "Fontane", "Epigone", "Band", "example.org")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release of books and conversations; one document takes a long passage of Fontane over."""
    lab = ImpactLab(tmp_path_factory.mktemp("personal"))
    passage = " ".join(prose("de", number) for number in range(910, 913))
    own = [prose("de", number) for number in range(920, 930)]
    quoting = record("de", 900, "Epigone", text=" ".join([*own[:5], passage, *own[5:]]))
    rows = [*books(each=6), record("de", 903, "Fontane", text=passage), quoting]
    recipe = lab.recipe("1", {"books": rows, "talk": talk()})
    lab.data(recipe)
    lab.release(lab.chat(recipe, lab.base(recipe)), "lab", shards=lab.store.find("shards/lab/1"))
    return lab.folder


@pytest.fixture
def lab(original: Path, tmp_path: Path) -> ImpactLab:
    shutil.copytree(original, tmp_path / "lab")
    return ImpactLab(tmp_path / "lab")


def withdraw(lab: ImpactLab, author: str, reason: str = "personal-data") -> str:
    asked = withdrawal.draft({"author": author}, reason=reason)
    return withdraw_command.record(lab.store, asked, withdraw_command.find(lab.store, asked)).id


def run(module: Any, lab: ImpactLab, *arguments: str) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", type=Path, default=lab.store.root)
    parser.add_argument("--json", action="store_true")
    module.add_options(parser)
    code: int = module.run(parser.parse_args(arguments))
    return code


@pytest.mark.parametrize("author", ["Fontane", "Quizmaster"])
@pytest.mark.parametrize("form", [(), ("--json",)])
def test_no_name_title_or_address_is_told_of_withdrawn_personal_data(
    lab: ImpactLab, capsys: pytest.CaptureFixture[str], author: str, form: tuple[str, ...]
) -> None:
    name = withdraw(lab, author)
    run(impact_command, lab, "--withdrawal", name, "--limit", "50", *form)
    out = capsys.readouterr().out
    assert not [each for each in NAMES if each in out]
    assert "release/lab/1" in out and "personal-data" in out


def test_the_hashes_that_are_told_are_those_of_the_withdrawal_and_the_counts_those_of_an_open_one(
    lab: ImpactLab, capsys: pytest.CaptureFixture[str]
) -> None:
    run(impact_command, lab, "--withdrawal", withdraw(lab, "Fontane"), "--limit", "50", "--json")
    hidden = json.loads(capsys.readouterr().out)
    run(impact_command, lab, "--author", "Fontane", "--limit", "50", "--json")
    named = json.loads(capsys.readouterr().out)
    (made,) = withdrawal.read(lab.store.root)
    of_dataset = [told["reached"][0]["documents"] for told in (hidden, named)]
    assert {row["hash"] for row in of_dataset[0]["shown"]} == set(made.hashes["documents"])
    assert not any("id" in row for row in of_dataset[0]["shown"])
    assert [each["documents"] for each in of_dataset] == [7, 7]
    assert [told["releases"] for told in (hidden, named)] == [["release/lab/1"]] * 2


def test_names_are_told_where_somebody_asks_for_them_and_of_other_withdrawals_anyway(
    lab: ImpactLab, capsys: pytest.CaptureFixture[str]
) -> None:
    personal, other = withdraw(lab, "Fontane"), withdraw(lab, "Storm", "opt-out")
    run(impact_command, lab, "--withdrawal", personal, "--show-names")
    assert "Fontane" in capsys.readouterr().out
    run(impact_command, lab, "--withdrawal", other)
    assert "Storm" in capsys.readouterr().out
    with pytest.raises(InputError, match="--show-names: goes with --withdrawal"):
        run(impact_command, lab, "--author", "Fontane", "--show-names")


def test_copies_of_withdrawn_personal_data_are_told_by_hashes_too(
    lab: ImpactLab, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pydivsufsort")
    name = withdraw(lab, "Fontane")
    run(impact_command, lab, "--withdrawal", name, "--copies", "--json")
    out = capsys.readouterr().out
    (copy,) = json.loads(out)["copies"]
    assert set(copy["document"]) <= {"hash", "language", "licence", "split", "drop_reason"}
    assert not [each for each in NAMES if each in out]
    run(impact_command, lab, "--withdrawal", name, "--copies", "--show-names")
    assert "Epigone" in capsys.readouterr().out


@pytest.mark.parametrize("form", [("--yes",), ("--yes", "--json")])
def test_recording_without_a_question_names_nobody_and_a_dry_run_does(
    lab: ImpactLab, capsys: pytest.CaptureFixture[str], form: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(lab.folder / "config"))
    asked = ("--author", "Fontane", "--reason", "personal-data", "--evidence", "a letter of Fontane")
    assert run(withdraw_command, lab, *asked, "--dry-run") == 0
    assert "Fontane" in capsys.readouterr().out
    assert run(withdraw_command, lab, *asked, *form) == 0
    out = capsys.readouterr().out
    assert not [each for each in NAMES if each in out]
    assert "dataset/lab/1" in out and "7" in out
