"""The terminal: the answer on stdout and nothing else there, memory of what was said, and ways to stop."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from hanse.errors import InputError
from hanse.model import hf
from hanse.model.transformer import Transformer
from hanse.serve import chat
from hanse.serve.chat import Chat, Sampling, is_tuned
from hanse.serve.engine import Engine
from hanse.serve.request import Output, Request
from hanse.trace import passages
from hanse.trace.passages import Filter, hashes_of
from hanse.tune.template import render


@pytest.fixture(scope="module")
def folder(model: Transformer, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    hf.save(model, path)
    tokenizer.save(str(path / "tokenizer.json"))
    return path


def options(**changes: Any) -> argparse.Namespace:
    defaults = {"prompt": None, "system": None, "temperature": 0.0, "top_p": 1.0, "max_tokens": 12, "seed": 0}
    return argparse.Namespace(**{**defaults, "device": "cpu", "threads": 1, "withdrawn": None, **changes})


def typing_in(monkeypatch: pytest.MonkeyPatch, *lines: Any) -> None:
    """Let these lines be typed, then the end of input; an exception among them is raised."""
    script = iter([*lines, EOFError()])

    def read(prompt: str = "") -> str:
        line = next(script)
        if isinstance(line, BaseException):
            raise line
        return line

    monkeypatch.setattr("builtins.input", read)


def greedy(engine: Engine, messages: list[dict[str, str]], max_tokens: int = 12) -> str:
    ids = render(engine.tokenizer, messages, add_generation_prompt=True).ids
    return engine.text(engine.tokens(ids, max_tokens=max_tokens))


def test_prompt_prints_the_answer_alone_on_stdout(
    folder: Path, engine: Engine, capfd: pytest.CaptureFixture[str]
) -> None:
    assert chat.run(folder, options(prompt="Καλημέρα")) == 0
    assert capfd.readouterr().out == greedy(engine, [{"role": "user", "content": "Καλημέρα"}]) + "\n"


def test_each_question_is_answered_in_view_of_what_was_said(
    folder: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    typing_in(monkeypatch, "one", "", "two", "/reset", "two", "/what", "/quit", "never read")
    assert chat.run(folder, options(system="Be brief")) == 0
    said: list[dict[str, str]] = [{"role": "system", "content": "Be brief"}]
    answers = []
    for text in ("one", "two"):
        said.append({"role": "user", "content": text})
        answers.append(greedy(engine, said))
        said.append({"role": "assistant", "content": answers[-1]})
    answers.append(greedy(engine, [said[0], {"role": "user", "content": "two"}]))
    shown = capfd.readouterr()
    assert shown.out == "".join(answer + "\n" for answer in answers)
    assert "/what: unknown" in shown.err


def test_ctrl_c_stops_the_answer_and_keeps_what_was_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    seen: list[Any] = []

    def outputs(self: Engine, request: Request) -> Iterator[Output]:
        seen.append(self.tokenizer.decode(list(request.prompt), skip_special_tokens=False))
        yield Output(text="half")
        if len(seen) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Engine, "outputs", outputs)
    typing_in(monkeypatch, "one", KeyboardInterrupt(), "two")
    assert chat.run(folder, options()) == 0
    assert capfd.readouterr().out == "half\nhalf\n"
    opening = "<|user|>one<|end_of_turn|><|assistant|>half<|end_of_turn|>"
    assert seen[1] == opening + "<|user|>two<|end_of_turn|><|assistant|>"


def test_ctrl_c_during_a_single_answer_leaves_with_130(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def outputs(self: Engine, request: Request) -> Iterator[Output]:
        yield Output(text="half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Engine, "outputs", outputs)
    assert chat.run(folder, options(prompt="x")) == 130


def test_an_answer_ends_before_a_withdrawn_passage_is_whole_and_the_talk_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    innocent = "Gewiss: "
    withdrawn = "Auf dem Berge steht ein Haus mit sieben Türen, und hinter jeder wohnt ein Nachbar."
    hashes = np.unique(hashes_of(withdrawn))
    (tmp_path / "passages.bin").write_bytes(passages._content(hashes, []))
    prompts: list[str] = []
    closed: list[int] = []

    def outputs(self: Engine, request: Request) -> Iterator[Output]:
        prompts.append(self.tokenizer.decode(list(request.prompt), skip_special_tokens=False))
        given = 0
        try:
            for letter in innocent + withdrawn + "Und so weiter":
                given += 1
                yield Output(text=letter)
        finally:
            closed.append(given)

    monkeypatch.setattr(Engine, "outputs", outputs)
    typing_in(monkeypatch, "1", "2")
    assert chat.run(folder, options(withdrawn=tmp_path / "passages.bin")) == 0
    shown = capfd.readouterr()
    first, second = shown.out.splitlines()
    assert first == second and first.startswith(innocent + withdrawn[:20])
    assert not Filter(hashes).holds(first), "the passage was recited"
    assert max(closed) < len(innocent + withdrawn), "the engine went on for nobody"
    assert shown.err.count("was withdrawn]") == 2
    assert f"<|assistant|>{first}<|end_of_turn|>" in prompts[1]


def test_the_oldest_turns_go_when_the_context_is_full(engine: Engine) -> None:
    talk = Chat(engine, Sampling(max_tokens=8), system="short")
    for number in range(12):
        list(talk.ask(f"question number {number}"))
        assert talk.messages[-2]["content"] == f"question number {number}"
        assert talk.messages[0]["role"] == "user"
    assert len(talk.messages) < 24


def test_a_question_longer_than_the_context_is_refused_and_forgotten(
    folder: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    talk = Chat(engine, Sampling())
    with pytest.raises(InputError, match="too long"):
        list(talk.ask("x" * 500))
    assert talk.messages == []
    typing_in(monkeypatch, "x" * 500, "y")
    assert chat.run(folder, options()) == 0
    assert "too long" in capfd.readouterr().err


def test_bytes_that_are_no_utf8_do_not_stop_the_program(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typing_in(monkeypatch, "\udcff?", "/quit")
    assert chat.run(folder, options()) == 0


def record(folder: Path, name: str, parameters: dict[str, Any]) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"predicate": {"buildDefinition": {"externalParameters": parameters}}}))


def test_records_tell_whether_a_model_was_tuned(tmp_path: Path) -> None:
    assert is_tuned(tmp_path)
    record(tmp_path, "step.json", {"pretrain": {}, "model": {}})
    assert not is_tuned(tmp_path)
    record(tmp_path, "step.json", {"tune": {}})
    assert is_tuned(tmp_path)
    record(tmp_path, "step.json", {"release": {}})
    record(tmp_path, "provenance/base/step.json", {"pretrain": {}})
    (tmp_path / "provenance" / "other.json").write_text("[1, 2]")
    assert not is_tuned(tmp_path)
    record(tmp_path, "provenance/chat/step.json", {"tune": {}})
    assert is_tuned(tmp_path)


def test_a_base_model_goes_on_with_the_text_and_says_so(
    model: Transformer, engine: Engine, tokenizer: Tokenizer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    hf.save(model, tmp_path)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    record(tmp_path, "step.json", {"pretrain": {}})
    assert chat.run(tmp_path, options(prompt="ab")) == 0
    shown = capfd.readouterr()
    ids = tokenizer.encode("<|end_of_text|>ab").ids
    assert len(ids) == 3
    assert shown.out == engine.text(engine.tokens(ids, max_tokens=12)) + "\n"
    assert "never tuned" in shown.err
