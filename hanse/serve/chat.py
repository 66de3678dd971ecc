"""Talk to a model in the terminal. Answers go to stdout, everything else to stderr."""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hanse.errors import InputError
from hanse.runtime import Runtime
from hanse.serve.command import withdrawn_passages
from hanse.serve.engine import Engine, load_engine
from hanse.serve.request import Request, Sampling
from hanse.tune.template import END_OF_TEXT, encode_text, render

if TYPE_CHECKING:
    from hanse.trace.passages import Filter

HELP = "/reset starts over, /quit leaves; Ctrl-C stops an answer."


@dataclass
class Chat:
    """A conversation with a model: what was said so far, as far as it fits the model's context.

    Attributes:
        withdrawn: passages at which an answer ends; None: none are known.
        is_cut: the last answer ended at one.
    """

    engine: Engine
    sampling: Sampling
    system: str | None = None
    is_tuned: bool = True
    withdrawn: Filter | None = None
    messages: list[dict[str, str]] = field(default_factory=list)
    is_cut: bool = field(default=False, init=False)

    def ask(self, text: str) -> Iterator[str]:
        """The answer in pieces. What came of it is remembered, also if the reader stops halfway.

        A base model has no notion of turns: it goes on with the text, and nothing is remembered.

        Raises:
            InputError: if the text alone does not fit the context.
        """
        if not self.is_tuned:
            # As in training, the end of another text stands before one.
            tokenizer = self.engine.tokenizer
            opening = tokenizer.encode(END_OF_TEXT, add_special_tokens=False).ids
            yield from self._stream(opening + encode_text(tokenizer, (self.system or "") + text))
            return
        self.messages.append({"role": "user", "content": text})
        prompt = self._prompt()
        said: list[str] = []
        try:
            for piece in self._stream(prompt):
                said.append(piece)
                yield piece
        finally:
            self.messages.append({"role": "assistant", "content": "".join(said)})

    def reset(self) -> None:
        """Forget what was said; the system prompt stays."""
        self.messages.clear()

    def _stream(self, prompt: list[int]) -> Iterator[str]:
        watch = self.withdrawn.stream() if self.withdrawn is not None else None
        self.is_cut = False
        for output in self.engine.outputs(Request(tuple(prompt), self.sampling)):
            text = output.text
            if watch is not None and watch.add(text):
                self.is_cut, text = True, text[: watch.kept]
            if text:
                yield text
            if self.is_cut:
                return

    def _prompt(self) -> list[int]:
        """The conversation as tokens; the oldest turns go when the context leaves no room for an answer."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        reserve = min(self.sampling.max_tokens, self.engine.context // 4)
        while True:
            ids = render(self.engine.tokenizer, system + self.messages, add_generation_prompt=True).ids
            if len(ids) + reserve <= self.engine.context:
                return ids
            if len(self.messages) == 1:
                text = self.messages.pop()["content"]
                raise InputError(
                    f"The question is too long: {len(ids)} tokens for {len(text)} characters, and the model sees "
                    f"{self.engine.context} with the answer; shorten it."
                )
            del self.messages[:2]


def run(folder: Path, options: argparse.Namespace) -> int:
    """`hanse chat`: answer `options.prompt` and leave, or talk until the person leaves. Returns the exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without Greek shows ? and the program goes on
    runtime = Runtime.detect(options.device, options.threads)
    runtime.apply()
    sampling = Sampling(
        max_tokens=options.max_tokens, temperature=options.temperature, top_p=options.top_p, seed=options.seed
    )
    if sampling.max_tokens < 1:
        raise InputError(f"--max-tokens {sampling.max_tokens}: give 1 or more.")
    withdrawn = withdrawn_passages(folder, options.withdrawn)
    chat = Chat(load_engine(folder, runtime), sampling, options.system, is_tuned(folder), withdrawn)
    if not chat.is_tuned:
        _note("This model was never tuned for chat: it goes on with your text instead of answering.")
    if options.prompt is not None:
        return 0 if _print_answer(chat, _clean(options.prompt)) else 130
    _note(f"{folder}: {chat.engine.context} tokens of context. {HELP}")
    return _talk(chat)


def is_tuned(folder: Path) -> bool:
    """Whether the model in a folder was tuned on conversations, by the records beside it; without records, yes."""
    records = [
        path for path in (folder / "step.json", *sorted((folder / "provenance").rglob("*.json"))) if path.is_file()
    ]
    made_by = [parameters for path in records if (parameters := _definition(path)) is not None]
    return not any("pretrain" in parameters for parameters in made_by) or any("tune" in p for p in made_by)


def _definition(record: Path) -> dict[str, object] | None:
    """What a record says decided the step; None if the file is no record."""
    try:
        found = json.loads(record.read_text(encoding="utf-8"))["predicate"]["buildDefinition"]["externalParameters"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return found if isinstance(found, dict) else None


def _talk(chat: Chat) -> int:
    with suppress(ImportError):
        import readline  # noqa: F401  gives input() its line editing and history
    while True:
        try:
            text = _read_line()
        except EOFError:
            _note("")
            return 0
        except KeyboardInterrupt:
            _note("\n/quit or Ctrl-D leaves.")
            continue
        if text in ("/quit", "/exit"):
            return 0
        if text == "/reset":
            chat.reset()
            _note("Started over.")
        elif text.startswith("/"):
            _note(f"{text.split()[0]}: unknown. {HELP}")
        elif text:
            try:
                _print_answer(chat, text)
            except InputError as error:
                _note(str(error))


def _read_line() -> str:
    if sys.stdin.isatty() and sys.stdout.isatty():
        return _clean(input("> ")).strip()  # through readline, which has to know the prompt
    print("> ", end="", file=sys.stderr, flush=True)
    return _clean(input()).strip()


def _clean(text: str) -> str:
    """Bytes of the terminal that are no UTF-8 arrive as lone surrogates, which no tokenizer takes."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _print_answer(chat: Chat, text: str) -> bool:
    """Stream one answer to stdout. Ctrl-C ends the answer, not the program; False then."""
    answer = chat.ask(text)
    is_whole = False
    try:
        for piece in answer:
            print(piece, end="", flush=True)
        is_whole = True
        if chat.is_cut:
            _note(" [ended: what follows was withdrawn]")
    except KeyboardInterrupt:
        _note(" [stopped]")
    finally:
        answer.close()  # type: ignore[attr-defined]
    print(flush=True)
    return is_whole


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
