"""`hanse data` and `hanse find` as a person meets them."""

import json
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import toy_dataset as toy
from test_page import Page

from hanse import pipeline
from hanse.cli import main
from hanse.data.tokenizer import Tokenizer
from hanse.store.stage import Store

TINY = """
name = "tiny"
languages = ["de", "mt"]
[[source]]
name = "atlas"
kind = "atlas"
licence = "Unicode-3.0"
licence_basis = "generated"
reservation = "none"
[tokenizer]
vocab_size = 800
"""


@pytest.fixture
def store(tmp_path) -> Store:
    """A store with the toy dataset in it."""
    store = Store.open(tmp_path / "store")
    store.build(
        "dataset", "tiny", "1", definition={}, inputs={},
        make=lambda work: toy.write_dataset(work.folder, toy.ROWS) and None,
    )  # fmt: skip
    return store


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


def test_find_tells_rights_copies_and_reasons_without_touching_the_terminal(store, capsys):
    assert main(["find", "dataset/tiny", "--source", "web", "--store", str(store.root)]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said and "\u202e" not in said
    assert "web, a.jsonl line 2" in said
    assert "robots.txt at https://example.org/robots.txt says reserved: x" in said
    assert "dropped: rights-reserved, too-short" in said
    assert f"copy      {toy.name(4)}  web, a.jsonl line 4; dropped: duplicate" in said
    assert "9 documents, 900 B; 3 kept, 300 B" in said
    assert "3 more stay in the words of a copy" in said


def test_find_as_json_is_one_object_for_each_table(store, capsys):
    main(["find", "dataset/tiny", "--id", toy.name(7), "--limit", "0", "--json", "--store", str(store.root)])
    (found,) = json.loads(capsys.readouterr().out)
    assert found["matches"] == [] and found["totals"]["documents"] == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["find", "dataset/tiny"], "nothing to look for"),
        (["find", "dataset/tiny", "--line", "3"], "name that with --file"),
        (["find", "dataset/tiny", "--id", "x", "--limit", "-1"], "--limit -1"),
        (["find", "dataset/tini", "--id", "x"], "Did you mean dataset/tiny or"),
        (["data", "nowhere.toml"], "no such recipe"),
        (["data", "--shard", "3"], "--shard 3: write I/N, for example 3/8"),
        (["data", "--shard", "a/b"], "write I/N"),
        (["data", "--shard", "-1/4"], "write I/N"),
        (["data", "--shard", "0/4"], "I counts from 1 to N"),
        (["data", "--shard", "5/4"], "I counts from 1 to N"),
        (["data", "--shard", "9" * 5000 + "/4"], "write I/N"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence_and_exit_code_two(store, capsys, arguments, expected):
    # With "=", since argparse takes "-1/4" for an option otherwise.
    if "--shard" in arguments:
        arguments = [*arguments[:-2], f"--shard={arguments[-1]}"]
    assert main([*arguments, "--store", str(store.root)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("hanse: ") and expected in said and said.count("\n") == 1


def test_a_shard_is_passed_on_as_task_and_number_of_tasks(store, recipe, monkeypatch, capsys, tmp_path):
    passed = []

    def annotate_shard(parsed, opened, shard, **more):
        passed.append((parsed.name, opened.root, shard))
        return tmp_path

    monkeypatch.setattr(pipeline, "annotate_shard", annotate_shard)
    assert main(["data", str(recipe), "--shard", "2/8", "--store", str(store.root)]) == 0
    assert passed == [("tiny", store.root, (2, 8))]
    assert "task 2/8 is done" in capsys.readouterr().out


@pytest.fixture
def finished(store, monkeypatch) -> Store:
    """The store, where every run ends with the dataset in it."""
    outcome = pipeline.Outcome((pipeline.Built(store.find("dataset/tiny"), "unchanged"),))
    monkeypatch.setattr(pipeline, "run", lambda *arguments, **more: outcome)
    return store


def test_data_ends_with_a_table_and_the_path_of_the_report(finished, recipe, capsys):
    assert main(["data", str(recipe), "--store", str(finished.root)]) == 0
    said = capsys.readouterr()
    assert said.out.strip() == str(finished.root / "reports/tiny/1-data.html")
    rows = {line.split()[0]: line.split() for line in said.err.splitlines()}
    assert rows["de"][1:6] == ["8", "3", "5", "300", "B"]
    assert rows["de"][8:10] == ["near-duplicate", "2,"]
    assert rows["1"][1] == "others"
    Page((finished.root / "reports/tiny/1-data.html").read_text(encoding="utf-8"))


def test_data_as_json_holds_the_languages_and_where_the_report_lies(finished, recipe, capsys):
    assert main(["data", str(recipe), "--json", "--store", str(finished.root)]) == 0
    found = json.loads(capsys.readouterr().out)
    (german,) = [row for row in found["languages"] if row["code"] == "de"]
    assert (german["read"], german["kept"], german["reasons"]["near-duplicate"]) == (8, 3, 2)
    assert found["report"].endswith("1-data.html")


def test_report_is_no_artifact_and_may_be_deleted(finished, recipe, capsys):
    before = [artifact.ref for artifact in finished.artifacts()]
    path = finished.root / "reports/tiny/1-data.html"
    pages = []
    for _ in range(2):
        main(["data", str(recipe), "--store", str(finished.root)])
        pages.append(path.read_bytes())
        path.unlink()
    assert pages[0] == pages[1]
    assert [artifact.ref for artifact in finished.artifacts()] == before
    assert finished.find("dataset/tiny").ref == "dataset/tiny/1"


def test_place_without_room_for_a_page_is_a_warning(finished, recipe, capsys):
    (finished.root / "reports").write_text("a file where a folder has to be")
    assert main(["data", str(recipe), "--store", str(finished.root)]) == 0
    said = capsys.readouterr()
    assert "the data report cannot be written" in said.err and said.out == ""


@pytest.mark.slow
def test_a_line_of_a_real_run_leads_to_its_tokens(tmp_path, recipe):
    def hanse(*arguments: str) -> str:
        command = [sys.executable, "-m", "hanse.cli", *arguments, "--json"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=600).stdout

    made = json.loads(hanse("data", str(recipe), "--threads", "1"))
    assert [artifact["ref"] for artifact in made["artifacts"]][-1] == "shards/tiny/1"
    (found,) = json.loads(hanse("find", "shards/tiny", "--language", "mt", "--limit", "1000"))
    assert found["totals"]["tokens"]["shards/tiny/1"] == made["languages"][1]["tokens"]
    coder = Tokenizer.load(tmp_path / "store/tokenizer/tiny/1")
    kept = pq.read_table(tmp_path / "store/dataset/tiny/1/text")
    texts = dict(zip(kept["id"].to_pylist(), kept["text"].to_pylist(), strict=True))
    for match in found["matches"]:
        (place,) = match["places"]
        file = tmp_path / "store/shards/tiny/1" / place["file"]
        ids = np.fromfile(file, "<u2", place["tokens"], offset=2 * place["offset"])
        assert ids[-1] == coder.end_of_text
        assert coder.decode(ids[:-1].tolist()) == texts[match["document"]["id"]]
