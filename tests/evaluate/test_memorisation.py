"""What a model gives back: documents that it learnt by heart and no others; a fresh one gives nothing."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from by_heart import CONFIG, FakeWork, Settings, artifact, document, learnt, nonsense, rows_of, save_model, write_world
from tokenizers import Tokenizer

from hanse.errors import InputError
from hanse.evaluate.memorisation import memorise
from hanse.model.transformer import Transformer
from hanse.runtime import Runtime
from hanse.store.stage import Artifact
from hanse.tune.template import render

SONGS = [document(f"song {n}") for n in range(6)]
NEWS = [document(f"news {n}", "news", holder="Bo", licence="LicenseRef-closed") for n in range(6)]
UNSEEN = [document(f"unseen {n}", split="validation") for n in range(5)]


@pytest.fixture(scope="session")
def singer(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows the songs by heart and has read nothing else."""
    model = learnt(rows_of(tokenizer, [song["text"] for song in SONGS]), steps=240, window=36)
    return save_model(tmp_path_factory.mktemp("singer") / "model", model, tokenizer)


@pytest.fixture(scope="session")
def newborn(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has read nothing."""
    model = Transformer(CONFIG).init_weights(torch.Generator().manual_seed(9)).eval()
    return save_model(tmp_path_factory.mktemp("newborn") / "model", model, tokenizer)


@pytest.fixture(scope="session")
def world(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Artifact]:
    return write_world(tmp_path_factory.mktemp("world"), [*SONGS, *NEWS, *UNSEEN], tokenizer)


def run(
    folder: Path, model: Path, world: tuple[Artifact, Artifact], talk: Path | None = None, **settings: Any
) -> tuple[FakeWork, dict[str, Any], list[dict[str, Any]]]:
    """The stage; its work, its report and its attempts."""
    work = FakeWork(folder)
    memorise(
        work, model_folder=model, dataset=world[0], shards=world[1],  # type: ignore[arg-type]
        conversations=artifact("conversations", talk) if talk else None,
        settings=Settings(**settings), runtime=Runtime(device=torch.device("cpu")), seed=3,  # type: ignore[arg-type]
    )  # fmt: skip
    report = json.loads((folder / "memorisation.json").read_text())
    return work, report, [json.loads(line) for line in (folder / "extractions.jsonl").read_text().splitlines()]


def group(report: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = (each for each in report["groups"] if each["name"] == name)
    return found


def test_what_was_learnt_by_heart_comes_out_and_nothing_else_does(
    singer: Path, world: tuple[Artifact, Artifact], tmp_path: Path
) -> None:
    work, report, attempts = run(tmp_path / "w", singer, world)
    came_out = {row["id"] for row in attempts if row["extracted"]}
    assert came_out == {song["id"] for song in SONGS}
    for name, found in (("songs", 6), ("Anna", 6), ("news", 0), ("Bo", 0)):
        results = group(report, name)["results"]
        assert {(each["prefix_tokens"], each["decoding"]) for each in results} == {
            (8, "greedy"), (16, "greedy"), (8, "sampled"), (16, "sampled")
        }  # fmt: skip
        assert [each["train"]["extracted"] for each in results] == [found] * 4
        assert [each["train"]["tested"] for each in results] == [6] * 4
    songs = group(report, "songs")["results"][0]
    assert songs["control"] | {"extracted": 0, "tested": 5} == songs["control"]
    assert songs["difference"]["value"] == 1.0 and songs["difference"]["low"] > 0.2
    assert songs["train"]["longest_characters"] == 16 > songs["control"]["longest_characters"]
    assert group(report, "news")["results"][0]["difference"] is None  # nothing of it was held out
    assert work.noted | {"tested_documents": 12, "extracted_documents": 6, "control_extracted": 0} == work.noted


def test_a_model_that_read_nothing_gives_nothing_back_and_says_below_what(
    newborn: Path, world: tuple[Artifact, Artifact], tmp_path: Path
) -> None:
    _, report, attempts = run(tmp_path / "w", newborn, world)
    assert not any(row["extracted"] for row in attempts)
    songs = group(report, "songs")["results"][0]["train"]
    assert (songs["extracted"], songs["share"], songs["low"]) == (0, 0.0, 0.0)
    assert songs["below"] == pytest.approx(1 - 0.05 ** (1 / 6))
    assert songs["high"] == pytest.approx(1 - 0.025 ** (1 / 6))


def test_what_anyone_could_go_on_with_is_no_difference_to_the_control(tokenizer: Tokenizer, tmp_path: Path) -> None:
    circle = "abcdefghijklm" * 10
    texts = [circle[start : start + 60] for start in range(13)]
    people = [
        document(str(n), text=text, split="validation" if n % 3 == 1 else "train") for n, text in enumerate(texts)
    ]
    world = write_world(tmp_path / "world", people, tokenizer)
    read = [each["text"] for each in people if each["split"] == "train"]
    model = save_model(tmp_path / "model", learnt(rows_of(tokenizer, read), steps=60), tokenizer)
    _, report, _ = run(tmp_path / "w", model, world, samples=0)
    for each in group(report, "songs")["results"]:
        assert each["train"]["share"] == each["control"]["share"] == 1.0
        assert each["difference"]["value"] == 0.0
        assert each["difference"]["low"] < 0 < each["difference"]["high"]


def test_the_same_run_writes_the_same_bytes(singer: Path, world: tuple[Artifact, Artifact], tmp_path: Path) -> None:
    for name in ("first", "second"):
        run(tmp_path / name, singer, world, documents_per_source=4)
    for name in ("memorisation.json", "extractions.jsonl"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_texts_are_hashed_and_shown_only_where_they_came_out_under_an_open_licence(
    singer: Path, world: tuple[Artifact, Artifact], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    _, _, attempts = run(tmp_path / "open", singer, world)
    text_of = {each["id"]: each["text"] for each in [*SONGS, *NEWS, *UNSEEN]}
    for row in attempts:
        true = text_of[row["id"]][row["at_token"] : row["at_token"] + 16]
        assert row["sha256"] == hashlib.sha256(true.encode()).hexdigest()
        assert row.get("text") == (true if row["extracted"] else None)
    closed = [song | {"licence": "NOASSERTION"} for song in SONGS]
    _, _, attempts = run(tmp_path / "closed", singer, write_world(tmp_path / "world", closed, tokenizer))
    assert any(row["extracted"] for row in attempts)
    assert not any("text" in row for row in attempts)


def test_documents_that_are_too_short_are_counted_and_not_tested(
    newborn: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    short = [document(f"short {n}", text=nonsense(f"short {n}", 23)) for n in range(3)]
    fitting = [document("just", text=nonsense("just", 24)), document("longer", text=nonsense("longer", 32))]
    _, report, _ = run(tmp_path / "w", newborn, write_world(tmp_path / "world", [*short, *fitting], tokenizer))
    songs = group(report, "songs")
    assert songs["train"] == {
        "documents": 5, "tokens": 3 * 23 + 24 + 32, "short": 3, "testable": 2, "testable_tokens": 24 + 32, "tested": 2,
        "never_read": None, "read_tokens": None, "times_read": None,
    }  # fmt: skip
    assert report["population"] == {key: value for key, value in songs["train"].items() if key != "tested"}
    assert report["window_tokens"] is None
    by_length = {each["prefix_tokens"]: each["train"]["tested"] for each in songs["results"]}
    assert by_length == {8: 2, 16: 1}


def test_no_more_documents_are_tested_than_asked_for_and_all_sources_are(
    newborn: Path, world: tuple[Artifact, Artifact], tmp_path: Path
) -> None:
    _, report, attempts = run(tmp_path / "w", newborn, world, documents_per_source=3, samples=0)
    assert {each["name"]: each["train"]["tested"] for each in report["groups"]} == dict.fromkeys(
        ("songs", "news", "Anna", "Bo"), 3
    )
    assert {row["decoding"] for row in attempts} == {"greedy"}
    assert report["is_reading_recorded"] is False
    assert report["goldfish"] is None and report["canaries"] is None and report["conversations"] is None


def test_what_the_context_has_no_room_for_is_left_out_and_said(
    newborn: Path, world: tuple[Artifact, Artifact], tmp_path: Path
) -> None:
    _, report, _ = run(tmp_path / "w", newborn, world, prefix_tokens=(120, 90), continuation_tokens=60, samples=0)
    assert report["asked"] == {"prefix_tokens": [120, 90], "continuation_tokens": 60}
    assert report["used"] == {"prefix_tokens": [90], "continuation_tokens": 37}
    assert all(each["train"]["tested"] == 0 for each in report["groups"])
    with pytest.raises(InputError, match=r"prefix_tokens: 127 tokens leave no room in a context of 128"):
        run(tmp_path / "too long", newborn, world, prefix_tokens=(127,))


def test_a_table_that_lacks_a_document_of_the_shards_is_refused(
    newborn: Path, world: tuple[Artifact, Artifact], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    other, _ = write_world(tmp_path / "world", SONGS[:3], tokenizer)
    with pytest.raises(InputError, match=r"documents\.parquet: lacks the document"):
        run(tmp_path / "w", newborn, (other, world[1]))


def conversation(number: int, size: int) -> dict[str, Any]:
    """A question, and a senseless answer of `size` characters."""
    messages = [
        {"role": "user", "content": nonsense(f"question {number}", 20)},
        {"role": "assistant", "content": nonsense(f"answer {number}", size)},
    ]
    return {"id": f"c{number}", "source": "talk", "language": "en", "messages": messages}


TAUGHT = [conversation(number, 30) for number in range(4)]


@pytest.fixture(scope="session")
def talker(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows four conversations by heart."""
    model = learnt([render(tokenizer, row["messages"]).ids for row in TAUGHT], steps=100)
    return save_model(tmp_path_factory.mktemp("talker") / "model", model, tokenizer)


def write_talk(folder: Path, train: list[dict[str, Any]], heldout: list[dict[str, Any]]) -> Path:
    folder.mkdir()
    for name, rows in (("train", train), ("heldout", heldout)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_recorded_answers_are_told_from_those_that_were_held_out(
    talker: Path, world: tuple[Artifact, Artifact], tmp_path: Path
) -> None:
    others = [conversation(9, 5), conversation(10, 500)]  # a short answer, and one that the context has no room for
    talk = write_talk(tmp_path / "talk", [*TAUGHT, *others], [conversation(number, 30) for number in (5, 6)])
    work, report, _ = run(tmp_path / "w", talker, world, talk, samples=0)
    long, short = report["conversations"]
    assert (long["answers"], long["conversations"], long["train"]["extracted"], long["train"]["tested"]) == (
        "long", 6, 4, 4,
    )  # fmt: skip
    assert (long["control"]["extracted"], long["control"]["tested"]) == (0, 2)
    assert (short["answers"], short["train"]["extracted"], short["train"]["tested"]) == ("short", 0, 1)
    assert work.noted | {"tested_conversations": 5, "recited_conversations": 4} == work.noted


def test_an_answer_that_goes_on_is_not_the_recorded_one(
    talker: Path, world: tuple[Artifact, Artifact], tmp_path: Path
) -> None:
    cut = json.loads(json.dumps(TAUGHT))
    for row in cut:
        row["messages"][-1]["content"] = row["messages"][-1]["content"][:20]
    _, report, _ = run(tmp_path / "w", talker, world, write_talk(tmp_path / "talk", cut, []), samples=0)
    (row,) = report["conversations"]
    assert row["train"] | {"extracted": 0, "tested": 4, "longest_characters": 20} == row["train"]


def test_a_broken_line_of_conversations_is_named(
    newborn: Path, world: tuple[Artifact, Artifact], tmp_path: Path
) -> None:
    talk = tmp_path / "talk"
    talk.mkdir()
    (talk / "train.jsonl").write_text(json.dumps({"source": "talk"}) + "\n")
    with pytest.raises(InputError, match=r"train\.jsonl: holds a line that is no conversation"):
        run(tmp_path / "w", newborn, world, talk)


def test_an_empty_validation_split_leaves_training_without_a_control(
    newborn: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    _, report, _ = run(tmp_path / "w", newborn, write_world(tmp_path / "world", SONGS, tokenizer), samples=0)
    for each in group(report, "songs")["results"]:
        assert each["control"]["tested"] == 0 and each["control"]["share"] is None
        assert each["difference"] is None


def test_documents_without_a_rights_holder_count_under_their_source_only(
    newborn: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    people = [each | {"rights_holder": None} for each in SONGS[:3]] + SONGS[3:5]
    _, report, _ = run(tmp_path / "w", newborn, write_world(tmp_path / "world", people, tokenizer), samples=0)
    assert [(each["kind"], each["name"], each["train"]["documents"]) for each in report["groups"]] == [
        ("source", "songs", 5), ("rights_holder", "Anna", 2)
    ]  # fmt: skip


def test_only_the_largest_rights_holders_get_results_of_their_own(
    newborn: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hanse.evaluate.passages.RIGHTS_HOLDERS", 1)
    people = [*SONGS[:2], *(replace_holder(each, "Bo") for each in SONGS[2:5]), replace_holder(SONGS[5], "Cy")]
    _, report, _ = run(tmp_path / "w", newborn, write_world(tmp_path / "world", people, tokenizer), samples=0)
    assert [each["name"] for each in report["groups"]] == ["songs", "Bo"]
    assert report["rights_holders_left_out"] == 2


def replace_holder(row: dict[str, Any], holder: str) -> dict[str, Any]:
    return row | {"rights_holder": holder}


def test_settings_are_as_the_recipe_has_them() -> None:
    from hanse.recipe import Memorisation

    assert set(Memorisation.model_fields) == set(replace(Settings()).__dataclass_fields__)
