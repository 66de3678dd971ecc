"""Exact answers: what counts, what is right, and the whole stage on a model that knows its lesson."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import Tokenizer

from hanse.errors import InputError
from hanse.evaluate.exact_answer import Answer, Item, answer, as_second, choose, read_items
from hanse.evaluate.scores import evaluate, load_scores
from hanse.model import hf
from hanse.model.transformer import Transformer
from hanse.runtime import Runtime
from hanse.serve.engine import Engine
from hanse.tune.template import encode_text, render


def conversation(
    number: int, language: str, expected: str, in_english: str | None, task: str = "capital"
) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"q{number}"}, {"role": "assistant", "content": expected}]
    row = {"id": f"{language}-{number}", "language": language, "task": task, "messages": messages, "answer": expected}
    return row if in_english is None else {**row, "answer_en": in_english}


def heldout(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path = folder / "heldout.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_answers_equal_to_the_english_one_do_not_count_except_in_english(tmp_path: Path) -> None:
    rows = [
        conversation(1, "da", "Berlin", "Berlin"),
        conversation(2, "da", "København", "Copenhagen"),
        conversation(3, "en", "Berlin", "Berlin"),
        conversation(4, "de", "Euro", "euro"),
        conversation(5, "hu", "Róma", "Ro\u0301ma"),
        conversation(6, "mt", "Ruma", None),
    ]
    assert [item.id for item in read_items(heldout(tmp_path, rows))] == ["da-2", "en-3", "de-4", "mt-6"]


def test_a_conversation_without_one_right_answer_is_left_out(tmp_path: Path) -> None:
    row = conversation(1, "de", "Guten Tag", None)
    del row["answer"]
    assert list(read_items(heldout(tmp_path, [row]))) == []


@pytest.mark.parametrize("line", ["no json", "{}", '{"messages": []}', "[1]", '{"messages": [{"role": "user"}]}'])
def test_a_broken_line_is_named_by_its_number(tmp_path: Path, line: str) -> None:
    path = heldout(tmp_path, [conversation(1, "en", "a", "a")])
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(InputError, match="line 2"):
        list(read_items(path))


@pytest.mark.parametrize(
    "given, expected, is_correct",
    [
        ("Roma", "Roma", True),
        (" Roma\n", "Roma", True),
        ("Cafe\u0301", "Café", True),
        ("roma", "Roma", False),
        ("Roma.", "Roma", False),
        ("", "Roma", False),
    ],
)
def test_an_answer_is_right_up_to_unicode_form_and_outer_space(given: str, expected: str, is_correct: bool) -> None:
    assert Answer(Item("1", "it", "capital", (), expected), given).is_correct is is_correct


def test_the_choice_of_questions_is_capped_and_independent_of_their_order() -> None:
    items = [Item(f"{language}-{n}", language, "t", (), "x") for language in ("mt", "el") for n in range(30)]
    chosen = choose(items, per_language=10, seed=3)
    assert choose(reversed(items), per_language=10, seed=3) == chosen
    assert choose(items, per_language=10, seed=4) != chosen
    assert [item.language for item in chosen] == ["el"] * 10 + ["mt"] * 10


def asked_alone(language: str, number: int) -> Answer:
    question = {"role": "user", "content": f"{language} {number}?"}
    return Answer(Item(f"{language}-{number}", language, "t", (question,), str(number)), f"model's {number}")


def test_a_second_question_follows_another_of_its_language_and_what_the_model_said_to_that() -> None:
    answers = [asked_alone(language, number) for language in ("mt", "el") for number in range(20)]
    items = as_second(answers, seed=3)
    assert [item.id for item in items] == sorted(each.item.id for each in answers)
    before = []
    for item in items:
        first, said, question = item.messages
        number = first["content"].removeprefix(f"{item.language} ").removesuffix("?")
        assert said == {"role": "assistant", "content": f"model's {number}"}
        assert (question["content"], item.expected) == (f"{item.language} {item.expected}?", item.id.split("-")[1])
        assert number != item.expected
        before.append((item.language, int(number)))
    assert sorted(before) == [(language, number) for language in ("el", "mt") for number in range(20)]
    assert as_second(reversed(answers), seed=3) == items
    assert as_second(answers, seed=4) != items


def test_a_lone_question_and_one_within_a_conversation_are_not_asked_second() -> None:
    within = replace(asked_alone("de", 1).item, messages=({"role": "system", "content": "Kurz."}, {"role": "user"}))
    assert as_second([asked_alone("mt", 1), asked_alone("de", 0), Answer(within, "x")], seed=0) == []


class Parrot(Engine):
    """Repeats the question, and nothing when it is longer than what may be said."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.context = 100

    def complete(self, prompts: Sequence[Sequence[int]], *, max_tokens: int | Sequence[int]) -> list[list[int]]:
        assert not isinstance(max_tokens, int)
        return [list(ids)[1:-2][:limit] for ids, limit in zip(prompts, max_tokens, strict=True)]


def test_answers_return_to_their_questions_whatever_the_order_of_asking(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["ż" * (1 + number * 7 % 13) for number in range(40)]
    items = [Item(str(n), "mt", "t", ({"role": "user", "content": text},), text) for n, text in enumerate(texts)]
    monkeypatch.setattr("hanse.evaluate.exact_answer.PROMPTS_AT_ONCE", 7)
    reports: list[tuple[str, int, int | None]] = []
    found = answer(Parrot(tokenizer), items, progress=lambda *report: reports.append(report))
    assert [one.given for one in found] == texts
    assert all(one.is_correct for one in found)
    assert reports[-1] == ("questions", 40, 40)


def test_a_question_that_fills_the_context_is_wrong_and_stops_nothing(tokenizer: Tokenizer) -> None:
    items = [Item(str(n), "mt", "t", ({"role": "user", "content": "x" * n},), "x" * n) for n in (200, 5)]
    assert [one.given for one in answer(Parrot(tokenizer), items)] == ["", "xxxxx"]


def test_no_questions_give_no_answers_and_a_missing_file_is_named(tokenizer: Tokenizer, tmp_path: Path) -> None:
    assert answer(Parrot(tokenizer), []) == []
    with pytest.raises(InputError, match=r"heldout\.jsonl: is missing"):
        list(read_items(tmp_path / "heldout.jsonl"))


class FakeWork:
    """Just the folder and the notes of a stage's workplace."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.noted: dict[str, object] = {}

    def note(self, **facts: object) -> None:
        self.noted |= facts


SETTINGS = SimpleNamespace(
    bits_per_byte=True,
    exact_answer=True,
    validation_bytes_per_language=1000,
    items_per_language=3,
    bootstrap=100,
)


@pytest.fixture
def model_folder(model: Transformer, tokenizer: Tokenizer, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    hf.save(model, folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def run(tmp_path: Path, name: str, **folders: Any) -> FakeWork:
    work = FakeWork(tmp_path / name)
    runtime = Runtime(device=torch.device("cpu"))
    evaluate(work, settings=SETTINGS, runtime=runtime, seed=0, **folders)  # type: ignore[arg-type]
    return work


def test_the_stage_writes_the_answers_it_judged_and_the_same_bytes_again(
    engine: Engine, model_folder: Path, tmp_path: Path
) -> None:
    rows = []
    for number in range(4):
        row = conversation(number, "mt", "?", "!")
        prompt = render(engine.tokenizer, row["messages"][:1], add_generation_prompt=True).ids
        # What the model says of itself, as far as it is text: right by definition, except for the first.
        said = engine.text(engine.tokens(prompt, max_tokens=3)) if number else "wrong"
        rows.append({**row, "answer": said})
    heldout(tmp_path, rows)
    first, second = (
        run(tmp_path, name, model_folder=model_folder, shards_folder=None, conversations_folder=tmp_path)
        for name in ("first", "second")
    )
    names = ["answers.jsonl", "scores.json", "second_answers.jsonl"]
    assert sorted(path.name for path in first.folder.iterdir()) == names
    for name in names:
        assert (first.folder / name).read_bytes() == (second.folder / name).read_bytes()
    answers = [json.loads(line) for line in (first.folder / "answers.jsonl").read_text().splitlines()]
    assert len(answers) == 3 == first.noted["questions"]
    assert all(row["correct"] == (row["given"].strip() == row["expected"].strip()) for row in answers)
    seconds = [json.loads(line) for line in (first.folder / "second_answers.jsonl").read_text().splitlines()]
    given = {row["question"]: row["given"] for row in answers}
    for row in seconds:
        question, said = row["before"]
        assert said == given[question]
        messages = [{"role": role, "content": text} for role, text in (("user", question), ("assistant", said))]
        messages.append({"role": "user", "content": row["question"]})
        prompt = render(engine.tokenizer, messages, add_generation_prompt=True).ids
        limit = 2 * len(encode_text(engine.tokenizer, row["expected"])) + 4
        assert row["given"] == engine.text(engine.tokens(prompt, max_tokens=limit))
    scores = {row.metric: row for row in load_scores(first.folder / "scores.json") if row.language == "mt"}
    for metric, judged in (("exact_answer", answers), ("second_answer", seconds)):
        assert scores[metric].n == 3
        assert scores[metric].value == pytest.approx(sum(row["correct"] for row in judged) / 3)


def test_the_stage_measures_the_validation_shards_per_language_and_source(
    model_folder: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    texts = {"mt": ["Il-Belt", "Ħal Għargħur"], "el": ["Αθήνα"]}
    folder = write_shards(tmp_path / "shards", tokenizer, texts)
    work = run(tmp_path, "bits", model_folder=model_folder, shards_folder=folder, conversations_folder=None)
    rows = {(row.language, row.task): row for row in load_scores(work.folder / "scores.json")}
    assert set(rows) == {(code, task) for code in ("el", "mt", "mean") for task in ("all", "atlas")}
    assert {row.metric for row in rows.values()} == {"bits_per_byte"}
    assert (rows["mt", "all"].n, rows["el", "all"].n) == (2, 1)
    assert rows["mean", "all"].value == pytest.approx((rows["mt", "all"].value + rows["el", "all"].value) / 2)
    assert work.noted["validation_bytes"] == sum(len(text.encode()) for group in texts.values() for text in group)
    # A random model is about as good as drawing bytes evenly: 8 bits a byte and what the control tokens cost.
    assert all(6.0 < row.value < 16.0 for row in rows.values())


def write_shards(folder: Path, tokenizer: Tokenizer, texts: dict[str, list[str]]) -> Path:
    """A shards artifact with these texts for validation."""
    end, rows, counts = tokenizer.encode("<|end_of_text|>").ids[0], [], {}
    (folder / "validation").mkdir(parents=True)
    for language, group in texts.items():
        ids: list[int] = []
        for number, text in enumerate(group):
            own = [*encode_text(tokenizer, text), end]
            row = {"id": f"{number:032x}", "language": language, "source": "atlas", "split": "validation"}
            rows.append({**row, "offset": len(ids), "tokens": len(own), "bytes": len(text.encode())})
            ids += own
        (folder / "validation" / f"{language}.bin").write_bytes(np.array(ids, "<u2").tobytes())
        counts[language] = {"documents": len(group), "tokens": len(ids), "bytes": 0}
    pq.write_table(pa.Table.from_pylist(rows), folder / "index.parquet")
    facts = {"dtype": "<u2", "vocab_size": 272, "end_of_text": end, "splits": {"train": {}, "validation": counts}}
    (folder / "shards.json").write_text(json.dumps(facts))
    return folder


def test_what_is_not_given_is_not_measured(model_folder: Path, tmp_path: Path) -> None:
    work = run(tmp_path, "none", model_folder=model_folder, shards_folder=None, conversations_folder=None)
    assert load_scores(work.folder / "scores.json") == []
    assert [path.name for path in work.folder.iterdir()] == ["scores.json"]
