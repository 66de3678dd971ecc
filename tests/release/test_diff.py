"""What changed between two releases, read from their folders alone."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hanse.errors import InputError
from hanse.release import sign
from hanse.release.diff import command as diff_command
from hanse.release.diff import paper as papers
from hanse.release.diff.changes import Changes, changes, changes_paper
from hanse.release.papers.paper import Entry, Paper, Table
from hanse.store import record as records
from hanse.store.digest import RECORD, SUMS
from hanse.store.stage import Artifact, Store, Work

#: id, source, licence, language, bytes, drop reasons
OLD = [
    ("a" * 32, "novels", "CC-BY-4.0", "de", 100, []),
    ("b" * 32, "novels", "CC-BY-4.0", "de", 200, []),
    ("c" * 32, "novels", "CC-BY-4.0", "el", 300, []),
    ("d" * 32, "laws", "CC0-1.0", "de", 400, []),
    ("e" * 32, "laws", "CC0-1.0", "de", 500, ["too-short"]),
    ("f" * 32, "web", "CC-BY-4.0", "el", 600, []),
    ("f" * 32, "web", "CC-BY-4.0", "el", 600, ["duplicate"]),
]
NEW = [
    ("a" * 32, "novels", "CC-BY-4.0", "de", 100, []),
    ("b" * 32, "novels", "CC-BY-4.0", "de", 200, ["withdrawn"]),
    ("c" * 32, "novels", "CC-BY-4.0", "el", 300, ["near-duplicate", "quality"]),
    ("e" * 32, "laws", "CC0-1.0", "de", 500, []),
    ("f" * 32, "web", "CC-BY-SA-4.0", "el", 600, []),
    ("9" * 32, "news", "CC0-1.0", "mt", 900, []),
]
SCORES = {
    "1": [("de", "all", "exact_answer", 0.5, 0.4, 0.6), ("el", "all", "exact_answer", 0.5, 0.4, 0.6),
          ("de", "all", "bits_per_byte", 1.5, 1.4, 1.6), ("de", "all", "oddness", 1.0, 0.9, 1.1),
          ("de", "old", "exact_answer", 0.1, 0.0, 0.2), ("mt", "all", "exact_answer", None, None, None)],
    "2": [("de", "all", "exact_answer", 0.7, 0.61, 0.8), ("el", "all", "exact_answer", 0.55, 0.45, 0.65),
          ("de", "all", "bits_per_byte", 1.7, 1.65, 1.8), ("de", "all", "oddness", 2.0, 1.9, 2.1),
          ("de", "new", "exact_answer", 0.1, 0.0, 0.2), ("mt", "all", "exact_answer", 0.1, 0.0, 0.2)],
}  # fmt: skip
CONFIG = {"model_type": "toy", "hidden_size": 64, "rope_parameters": {"rope_theta": 10000.0}}


def write_table(path: Path, rows: list[tuple[Any, ...]], columns: str = "id source licence language bytes") -> None:
    names = [*columns.split(), "drop_reason"]
    places = {"id": 0, "source": 1, "licence": 2, "language": 3, "bytes": 4, "drop_reason": 5}
    schema = {name: pa.string() for name in names} | {"bytes": pa.int64(), "drop_reason": pa.list_(pa.string())}
    table = {name: pa.array([row[places[name]] for row in rows], schema[name]) for name in names}
    pq.write_table(pa.table(table), path, row_group_size=3)


class Press:
    """A store in which releases are made, each a folder as they are published."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store.open(folder / "store")
        self.key = folder / "key.pem"

    def release(
        self, version: str, rows: list[tuple[Any, ...]], *, name: str = "toy", budget: int = 1000, width: int = 64,
        facts: dict[str, Any] | None = None, withdrawals: tuple[str, ...] = (), paper: str = "as before",
        key: Path | None = None, licence: str = "Apache-2.0", tunes: int = 1,
    ) -> Path:  # fmt: skip
        """Make everything up to a release, and it. Returns its folder."""
        noted = {"tokens": budget, "flop": str(10**17), "seconds": 10.0, "parameters": 5000} | (facts or {})
        curate = {"curate": {"min_quality": 0.1 * int(version)}}
        dataset = self._step(f"dataset/{name}/{version}", _table(rows), curate)
        counts, seed = {"train": int(version), "heldout": 9}, {"seed": int(version)}
        talk = self._step(f"conversations/{name}/{version}", _text("train.jsonl", version, conversations=counts), seed)
        weights = _text("model.safetensors", f"{budget}", **noted)
        base = self._step(
            f"model/{name}-base/{version}", weights, {"pretrain": {"budget_tokens": budget}}, data=dataset
        )
        model = base
        for number in range(tunes):
            tune, weights = {"tune": {"epochs": 1.5 + number}}, _text("model.safetensors", f"{budget} tuned", **noted)
            model = self._step(f"model/{name}-chat{number}/{version}", weights, tune, model=model, talk=talk)
        keys = ("language", "task", "metric", "value", "low", "high")
        scores = [dict(zip(keys, row, strict=True), n=9) for row in SCORES[version]]
        evaluation = self._step(f"evaluation/{name}/{version}", _text("scores.json", json.dumps(scores)), model=model)
        ancestors = [dataset, talk, base, evaluation]
        ancestors += [self.store.find(f"model/{name}-chat{number}/{version}") for number in range(tunes)]
        signing = sign.load_or_create_key(key or self.key)

        def make(work: Work) -> None:
            provenance = work.folder / "provenance"
            provenance.mkdir()
            for each in ancestors:
                file = f"{each.kind}-{each.name}-{each.version}"
                shutil.copyfile(each.path / RECORD, provenance / f"{file}.json")
                shutil.copyfile(each.path / SUMS, provenance / f"{file}.{SUMS}")
            shutil.copyfile(dataset.path / "documents.parquet", provenance / "documents.parquet")
            (work.folder / "evaluation").mkdir()
            shutil.copyfile(evaluation.path / "scores.json", work.folder / "evaluation" / "scores.json")
            shutil.copyfile(model.path / "model.safetensors", work.folder / "model.safetensors")
            (work.folder / "config.json").write_text(json.dumps(CONFIG | {"hidden_size": width}))
            (work.folder / "README.md").write_text(paper)
            (work.folder / "signing-key.pub").write_text(sign.public_pem(signing))

        definition = {
            "release": {"title": "Toy", "licence": licence, "contact": ""}, "recipe_name": name, "description": "",
            "languages": ["de", "el"], **({"withdrawals": list(withdrawals)} if withdrawals else {}),
        }  # fmt: skip
        return self._step(f"release/{name}/{version}", make, definition, model=model, evaluation=evaluation).path

    def _step(self, ref: str, make: Any, definition: Any = None, **inputs: Artifact) -> Artifact:
        return self.store.build(*ref.split("/"), definition=definition or {}, inputs=inputs, make=make).artifact


def _table(rows: list[tuple[Any, ...]]) -> Any:
    return lambda work: write_table(work.folder / "documents.parquet", rows)


def _text(name: str, text: str, **facts: Any) -> Any:
    def make(work: Work) -> None:
        (work.folder / name).write_text(text)
        work.note(**facts)

    return make


@pytest.fixture(scope="module")
def pressed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two releases, made once; tests that break them copy them."""
    press = Press(tmp_path_factory.mktemp("press"))
    press.release("1", OLD)
    other = press.folder / "other.pem"
    press.release("2", NEW, budget=2000, width=128, facts={"energy_wh": 3.0}, withdrawals=("ab" * 32,),
                  paper="otherwise", key=other, licence="MIT")  # fmt: skip
    return press.folder


@pytest.fixture
def folders(pressed: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Published folders, far from any store."""
    return tuple(  # type: ignore[return-value]
        Path(shutil.copytree(pressed / f"store/release/toy/{version}", tmp_path / f"published{version}"))
        for version in "12"
    )


@pytest.fixture(scope="module")
def found(pressed: Path) -> Changes:
    return changes(pressed / "store/release/toy/1", pressed / "store/release/toy/2")


def command(*arguments: str, store: Path = Path("nowhere")) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", type=Path, default=store)
    parser.add_argument("--json", action="store_true")
    diff_command.add_options(parser)
    return diff_command.run(parser.parse_args(arguments))


def pairs(found: Changes, part: str) -> dict[str, tuple[Any, Any]]:
    return {each.what: (each.old, each.new) for each in getattr(found, part)}


# --------------------------------------------------------------------------- documents


def test_documents_that_left_and_came_are_named_with_why(found: Changes) -> None:
    documents = found.documents
    assert documents is not None
    assert {row["id"][0]: row["why"] for row in documents.left.to_pylist()} == {
        "b": "withdrawn", "c": "near-duplicate, quality", "d": "no longer among the sources",
    }  # fmt: skip
    assert {row["id"][0]: row["why"] for row in documents.came.to_pylist()} == {"e": "too-short", "9": "new"}
    assert documents.stayed == 2
    assert (documents.old, documents.new) == ((5, 1600), (4, 2100))


def test_documents_and_bytes_are_summed_by_source_licence_and_language(found: Changes) -> None:
    assert found.documents is not None
    groups = {
        name: {each.key: (each.left, each.left_bytes, each.came, each.came_bytes) for each in sums}
        for name, sums in found.documents.groups.items()
    }
    assert groups["source"] == {"novels": (2, 500, 0, 0), "laws": (1, 400, 1, 500), "news": (0, 0, 1, 900)}
    assert groups["licence"] == {"CC-BY-4.0": (2, 500, 0, 0), "CC0-1.0": (1, 400, 2, 1400)}
    assert groups["language"] == {"de": (2, 600, 1, 500), "el": (1, 300, 0, 0), "mt": (0, 0, 1, 900)}


def test_every_document_is_either_in_both_or_left_or_came(found: Changes) -> None:
    assert found.documents is not None
    kept = [{row[0] for row in rows if not row[5]} for rows in (OLD, NEW)]
    assert set(found.documents.left["id"].to_pylist()) == kept[0] - kept[1]
    assert set(found.documents.came["id"].to_pylist()) == kept[1] - kept[0]
    assert found.documents.stayed == len(kept[0] & kept[1])


def test_another_licence_of_the_same_document_is_said(found: Changes) -> None:
    assert found.documents is not None
    assert found.documents.relicensed == {("CC-BY-4.0", "CC-BY-SA-4.0"): 1}


def test_a_table_without_some_columns_is_compared_by_what_it_has(folders: tuple[Path, Path]) -> None:
    write_table(folders[0] / "provenance/documents.parquet", OLD, "id bytes")
    documents = changes(*folders).documents
    assert documents is not None
    assert len(documents.left) == 3
    assert {each.key for each in documents.groups["source"]} == {"", "laws", "news"}


def test_documents_are_not_compared_where_a_release_carries_no_table(folders: tuple[Path, Path]) -> None:
    (folders[1] / "provenance/documents.parquet").unlink()
    found = changes(*folders)
    assert found.documents is None
    assert any("carries no table of documents" in doubt for doubt in found.doubts)


def test_several_tables_of_one_release_count_together(folders: tuple[Path, Path]) -> None:
    provenance = folders[1] / "provenance"
    (provenance / "documents.parquet").unlink()
    write_table(provenance / "documents-dataset-a-1.parquet", NEW[:3])
    write_table(provenance / "documents-dataset-b-1.parquet", NEW[3:])
    documents = changes(*folders).documents
    assert documents is not None and documents.stayed == 2 and len(documents.came) == 2


# --------------------------------------------------------------------------- everything else


def test_definitions_shape_training_and_who_signed_are_compared(found: Changes) -> None:
    assert {(drift.old, drift.new): drift.lines for drift in found.definitions} == {
        ("conversations/toy/1", "conversations/toy/2"): ("seed: 1 -> 2",),
        ("dataset/toy/1", "dataset/toy/2"): ("[curate] min_quality: 0.1 -> 0.2",),
        ("model/toy-base/1", "model/toy-base/2"): ("[pretrain] budget_tokens: 1000 -> 2000",),
    }
    assert pairs(found, "shape")["hidden_size"] == (64, 128)
    assert pairs(found, "shape")["parameters"] == (5000, 5000)
    training = pairs(found, "training")
    assert training["tokens"] == (2000, 4000)
    assert training["flop"] == (2 * 10**17, 2 * 10**17)
    assert training["energy_wh"] == (None, 6.0)
    about = pairs(found, "about")
    assert about["licence"] == ("Apache-2.0", "MIT")
    assert about["signer"][0] != about["signer"][1]
    assert (found.conversations.old, found.conversations.new) == (1, 2)
    assert found.same_weights is False
    assert found.files["README.md"] == "changed"
    assert not any(path.endswith(".safetensors") for path in found.files)
    assert found.withdrawals == (("ab" * 32,), ())
    assert found.doubts == ()


def test_a_score_has_moved_only_where_the_intervals_do_not_touch(found: Changes) -> None:
    assert {(each.language, each.task, each.metric): each.verdict for each in found.scores} == {
        ("de", "all", "exact_answer"): "better",
        ("el", "all", "exact_answer"): "overlapping",
        ("de", "all", "bits_per_byte"): "worse",
        ("de", "all", "oddness"): "apart",
        ("de", "old", "exact_answer"): "went",
        ("de", "new", "exact_answer"): "came",
        ("mt", "all", "exact_answer"): "no interval",
    }


def test_the_other_way_round_everything_is_turned(pressed: Path, found: Changes) -> None:
    back = changes(pressed / "store/release/toy/2", pressed / "store/release/toy/1")
    assert back.documents is not None and found.documents is not None
    assert back.documents.left["id"].to_pylist() == found.documents.came["id"].to_pylist()
    assert back.documents.came["id"].to_pylist() == found.documents.left["id"].to_pylist()
    assert back.withdrawals == found.withdrawals[::-1]
    turned = {"better": "worse", "worse": "better", "came": "went", "went": "came"}
    assert [turned.get(each.verdict, each.verdict) for each in back.scores] == [each.verdict for each in found.scores]


def test_a_release_does_not_differ_from_itself(pressed: Path) -> None:
    place = pressed / "store/release/toy/1"
    same = changes(place, place)
    assert same.documents is not None
    assert (len(same.documents.left), len(same.documents.came), same.documents.stayed) == (0, 0, 5)
    assert (same.definitions, dict(same.files), same.same_weights, same.doubts) == ((), {}, True, ())
    assert {each.verdict for each in same.scores} == {"overlapping", "no interval"}


def test_a_step_that_came_is_said_whatever_the_models_are_called(tmp_path: Path) -> None:
    press = Press(tmp_path)
    old = press.release("1", OLD, name="early")
    new = press.release("2", OLD, name="later", tunes=2)
    drifts = {(drift.old, drift.new): drift.lines for drift in changes(old, new).definitions}
    assert drifts == {
        ("conversations/early/1", "conversations/later/2"): ("seed: 1 -> 2",),
        ("dataset/early/1", "dataset/later/2"): ("[curate] min_quality: 0.1 -> 0.2",),
        ("", "model/later-chat1/2"): (),
    }


# --------------------------------------------------------------------------- the paper


def test_each_figure_of_the_paper_names_the_place_in_each_release(found: Changes) -> None:
    paper = papers.paper(found)
    cells = [cell for cell in cells_of(paper) if cell.is_recorded]
    assert len(cells) > 100
    assert all(cell.source for cell in cells)
    assert all("release/toy/" in cell.source for cell in cells)


def test_the_paper_says_what_left_and_that_it_is_no_advice(found: Changes) -> None:
    paper = papers.paper(found)
    assert "not legal advice" in paper.about
    shown = "\n".join(diff_command.text(paper, 100))
    assert "withdrawn" in shown and "b" * 32 in shown and "no longer among the sources" in shown
    assert "0.5 [0.4, 0.6]" in shown and "better, intervals apart" in shown
    assert "energy, Wh" in shown and "not recorded" in shown


def test_the_paper_is_the_same_each_time(pressed: Path) -> None:
    places = [pressed / f"store/release/toy/{version}" for version in "12"]
    assert changes_paper(*places) == changes_paper(*places)


def cells_of(paper: Paper) -> list[Any]:
    found = [entry.cell for entry in paper.entries]
    for section in paper.sections:
        for each in section.body:
            if isinstance(each, Table):
                found += [cell for row in each.rows for cell in row]
            else:
                assert isinstance(each, Entry | str)
    return found


# --------------------------------------------------------------------------- bad input


def test_a_folder_that_is_no_release_is_one_sentence(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    with pytest.raises(InputError, match="is no release"):
        changes(folders[0], tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("provenance/model-toy-base-2.json", "{"),
        ("provenance/model-toy-base-2.json", "[]"),
        ("provenance/model-toy-base-2.json", '{"subject": []}'),
        ("provenance/model-toy-base-2.json", '{"subject": [{"name": "model/x/1"}], "predicate": {}}'),
        ("provenance/documents.parquet", "PAR1"),
        ("evaluation/scores.json", "{}"),
        ("evaluation/scores.json", "[1]"),
        ("evaluation/scores.json", "[" * 100_000),
        ("config.json", "\0"),
        ("step.json", "null"),
        ("step.json", "{}"),
        ("SHA256SUMS", "no sums"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(folders: tuple[Path, Path], name: str, content: str) -> None:
    (folders[1] / name).write_text(content)
    with pytest.raises(InputError, match=name.rsplit("/")[-1].replace(".", r"\.")):
        changes(*folders)


def test_a_record_that_was_edited_is_a_doubt_and_the_exit_code_one(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = folders[1] / "provenance/model-toy-base-2.json"
    told = json.loads(path.read_text())
    told["predicate"]["runDetails"]["metadata"]["hanse_facts"]["tokens"] = 5
    path.write_text(json.dumps(told))
    assert command(*map(str, folders)) == 1
    assert "the record of model/toy-base/2 is missing or was edited" in capsys.readouterr().out


def test_a_missing_ancestor_is_a_doubt(folders: tuple[Path, Path]) -> None:
    (folders[1] / "provenance/model-toy-base-2.json").unlink()
    doubts = changes(*folders).doubts
    assert any("the record of model/toy-base/2 is missing" in doubt for doubt in doubts)
    assert any("there is no record of model/toy-base/2" in doubt for doubt in doubts)


def test_two_records_of_one_step_contradict_each_other(folders: tuple[Path, Path]) -> None:
    provenance = folders[1] / "provenance"
    told = (provenance / "dataset-toy-2.json").read_text()
    (provenance / "dataset-toy-2-other.json").write_text(told + " ")
    assert any("two records of dataset/toy/2 contradict" in doubt for doubt in changes(*folders).doubts)


def test_records_that_name_each_other_end_the_walk(folders: tuple[Path, Path]) -> None:
    path = folders[1] / "provenance/model-toy-base-2.json"
    told = json.loads(path.read_text())
    named = {
        "name": "model/toy-chat0/2",
        "digest": {"sha256": "0" * 64},
        "annotations": {"role": "model", "record": ""},
    }
    told["predicate"]["buildDefinition"]["resolvedDependencies"].insert(0, named)
    path.write_text(json.dumps(told))
    assert any("records name each other" in doubt for doubt in changes(*folders).doubts)


def test_releases_in_the_wrong_order_are_a_doubt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    press = Press(tmp_path)
    new = press.release("2", NEW)
    monkeypatch.setattr(records, "now", lambda: "2001-01-01T00:00:00Z")
    old = press.release("1", OLD, budget=999)
    assert changes(old, new).doubts == ()
    assert any("is the order right?" in doubt for doubt in changes(new, old).doubts)


def test_text_from_a_release_cannot_steer_a_terminal(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = [(row[0], "\x1b[2Jnovels\n# head", *row[2:]) for row in OLD]
    write_table(folders[0] / "provenance/documents.parquet", hostile)
    assert command(*map(str, folders)) == 0
    assert "\x1b" not in capsys.readouterr().out


# --------------------------------------------------------------------------- the command


def test_releases_are_named_by_folder_or_in_the_store(
    pressed: Path, folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    shown = []
    for names in (("toy/1", "toy"), ("release/toy/1", "release/toy/2"), tuple(map(str, folders))):
        assert command(*names, store=pressed / "store") == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1] == shown[2]
    assert shown[0].startswith("Changes from release/toy/1 to release/toy/2\n")


def test_json_names_every_document(pressed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("toy/1", "toy/2", "--json", store=pressed / "store") == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["id"][0] for row in told["documents"]["left"]] == ["b", "c", "d"]
    assert told["old"] == "release/toy/1"
    assert told["scores"][0]["verdict"]


def test_long_tables_are_cut_and_say_so(pressed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("toy/1", "toy/2", "--limit", "2", store=pressed / "store") == 0
    assert "and 1 more; with --limit or --json" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("toy/1", "nobody"), "no such artifact"), (("toy/1", "toy/9"), "no such artifact"),
     (("toy/1", "toy/2", "--limit", "-1"), "--limit -1"), (("model/toy-base/1", "toy/2"), "does not name an artifact")],
)  # fmt: skip
def test_bad_names_are_one_sentence(pressed: Path, arguments: tuple[str, ...], said: str) -> None:
    with pytest.raises(InputError, match=said):
        command(*arguments, store=pressed / "store")


def test_the_real_release_is_compared_with_the_one_before(settings: Any, make_release: Any) -> None:
    first = make_release().artifact
    second = make_release(version="2").artifact
    found = changes(first.path, second.path)
    assert found.doubts == () and found.same_weights is True
    assert found.documents is not None and len(found.documents.left) == 0
    third = make_release(settings.model_copy(update={"licence": "MIT"}), version="3").artifact
    assert pairs(changes(second.path, third.path), "about")["licence"] == ("Apache-2.0", "MIT")
