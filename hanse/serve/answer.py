"""From the tokens of an answer to what an API gives out: content, reasoning, and calls of tools.

The frame is that of the chat template: `<think>` and `</think>` around reasoning, `<|tool_call|>` and `<|/tool_call|>`
around a call. They are recognised by their ids, so that text which only looks like them stays text.
"""

from __future__ import annotations

import json
import re
import secrets
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tokenizers import Tokenizer

from hanse.serve.detokenize import Detokenizer, StopStrings

Kind = Literal["content", "reasoning", "tool"]

_MARKS = ("<think>", "</think>", "<|tool_call|>", "<|/tool_call|>")
# As the template writes a call. What stands behind "arguments" is kept as it is: put into the conversation again, it
# gives the same tokens, and the prefix cache finds them.
_CALL = re.compile(r'\s*\{"name": ("(?:[^"\\]|\\.)*"), "arguments": (.*)\}\s*', re.DOTALL)


@dataclass(frozen=True)
class ToolCall:
    """A function that the model wants called.

    Attributes:
        index: which call of the answer, from 0.
        id: made here; the result is to name it.
        name: of the function.
        arguments: a JSON object as JSON text.
    """

    index: int
    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Delta:
    """A piece of an answer.

    Attributes:
        text: of content or reasoning.
        call: a whole call, where the kind is "tool".
    """

    kind: Kind
    text: str = ""
    call: ToolCall | None = None


class AnswerParser:
    """Reads one answer, token by token. How the tokens are handed over makes no difference to what comes out.

    Reasoning ends where `</think>` comes, and at the end of the answer; a call of a tool within it is part of it, and
    is not made. A call that is no JSON object with a name comes out as content. Marks that open or close nothing are
    passed over.

    Args:
        tokenizer: of the model; without the template's marks everything is content.
        stop: texts at which the answer ends. They are looked for in all of its text, as the engine does.

    Attributes:
        is_stopped: one of them came; what follows it is ignored.
    """

    def __init__(self, tokenizer: Tokenizer, stop: tuple[str, ...] = ()) -> None:
        self._mark_of = {
            token_id: mark for mark in _MARKS if (token_id := tokenizer.token_to_id(mark)) is not None
        }  # fmt: skip
        self._detokenizer = Detokenizer(tokenizer)
        self._stops = StopStrings(stop)
        self._waiting: deque[tuple[str | None, str]] = deque()  # (mark, "") or (None, text), not yet given out
        self._kind: Kind = "content"
        self._call: list[str] = []
        self._calls = 0

    @property
    def is_stopped(self) -> bool:
        return self._stops.found

    def add(self, tokens: Sequence[int]) -> list[Delta]:
        """What these tokens complete."""
        certain = 0
        for token in tokens:
            if self.is_stopped:
                break
            if mark := self._mark_of.get(token):
                self._waiting.append((mark, ""))
            elif text := self._detokenizer.add(token):
                self._waiting.append((None, text))
                certain += len(self._stops.add(text))
        return self._release(certain)

    def finish(self) -> list[Delta]:
        """What is left when no more tokens come."""
        certain = 0
        if not self.is_stopped:
            if text := self._detokenizer.finish():
                self._waiting.append((None, text))
                certain = len(self._stops.add(text))
            certain += len(self._stops.finish())
        deltas = self._release(certain)
        if self._kind == "tool":
            deltas += self._end_call()
        return _joined(deltas)

    def _release(self, characters: int) -> list[Delta]:
        """Give out so much of the waiting text, and the marks before and right behind it."""
        deltas: list[Delta] = []
        while self._waiting:
            mark, text = self._waiting[0]
            if mark is None and not characters:
                break
            self._waiting.popleft()
            if mark is not None:
                deltas += self._turn(mark)
                continue
            if len(text) > characters:
                self._waiting.appendleft((None, text[characters:]))
                text = text[:characters]
            characters -= len(text)
            if self._kind == "tool":
                self._call.append(text)
            else:
                deltas.append(Delta(self._kind, text))
        return _joined(deltas)

    def _turn(self, mark: str) -> list[Delta]:
        """Go where a mark leads."""
        if self._kind == "reasoning":
            if mark == "</think>":
                self._kind = "content"
            return []
        if self._kind == "tool" and mark in ("<|tool_call|>", "<|/tool_call|>"):
            ended = self._end_call()
            self._kind = "tool" if mark == "<|tool_call|>" else "content"
            return ended
        if self._kind == "content" and mark in ("<think>", "<|tool_call|>"):
            self._kind = "reasoning" if mark == "<think>" else "tool"
        return []

    def _end_call(self) -> list[Delta]:
        """The call that was written, or its text if it is none."""
        text = "".join(self._call)
        self._call.clear()
        self._kind = "content"
        read = read_call(text)
        if read is None:
            return [Delta("content", text)] if text else []
        call = ToolCall(self._calls, f"call_{secrets.token_hex(12)}", *read)
        self._calls += 1
        return [Delta("tool", call=call)]


def read_call(text: str) -> tuple[str, str] | None:
    """Name and arguments (JSON text of an object) of a call as the template writes it, or None if it is no call.

    Arguments that are missing are an empty object; arguments as a string are taken for the JSON text that OpenAI's
    clients write.
    """
    frame = _CALL.fullmatch(text)
    if frame is not None:
        name = _load(frame[1])
        if isinstance(name, str) and name and _is_text(name) and isinstance(_load(frame[2]), dict):
            return name, frame[2]
    whole = _load(text)
    if not isinstance(whole, dict):
        return None
    name, given = whole.get("name"), whole.get("arguments", {})
    if isinstance(given, str):
        given = _load(given)
    if not isinstance(name, str) or not name or not _is_text(name) or not isinstance(given, dict):
        return None
    arguments = _dump(given)
    return None if arguments is None else (name, arguments)


def _is_text(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)  # half a pair cannot be sent


def _dump(value: object) -> str | None:
    """JSON text of a value that was read; None for numbers that became infinite."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        return text if _is_text(text) else json.dumps(value)
    except (ValueError, RecursionError):
        return None


def _load(text: str) -> object:
    """The value of a JSON text; None if it is none, or if it could not be sent on."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _joined(deltas: list[Delta]) -> list[Delta]:
    """Neighbours of one kind as one."""
    joined: list[Delta] = []
    for delta in deltas:
        if joined and delta.call is None and joined[-1].kind == delta.kind:
            joined[-1] = Delta(delta.kind, joined[-1].text + delta.text)
        else:
            joined.append(delta)
    return joined
