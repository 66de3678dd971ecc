"""The chat template: messages to token ids, and which of them the assistant wrote.

One Jinja file serves everybody: it is shipped with the model, where `transformers` reads it, and it is rendered here.
What is ours is the care with the text inside the messages. A template produces one string, in which an `<|assistant|>`
that a user typed looks like the control token; here such text stays text, in every role.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox
from tokenizers import Tokenizer

from hanse.errors import InputError

#: The Jinja source that a model folder carries as `chat_template.jinja`.
CHAT_TEMPLATE = Path(__file__).with_name("chat_template.jinja").read_text(encoding="utf-8")
END_OF_TURN = "<|end_of_turn|>"
END_OF_TEXT = "<|end_of_text|>"
#: Every token that structures a conversation or a document; the tokenizer holds each as one special token.
SPECIAL_TOKENS = (
    "<|begin_of_text|>",
    END_OF_TEXT,
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    END_OF_TURN,
    "<|tool_call|>",
    "<|/tool_call|>",
    "<|tool_result|>",
    "<|/tool_result|>",
    "<think>",
    "</think>",
)


@dataclass(frozen=True)
class Rendered:
    """A conversation as tokens.

    Attributes:
        ids: token ids.
        is_assistant: for each id, whether the assistant wrote it: its text and its end token, on which it is trained.
    """

    ids: list[int]
    is_assistant: list[bool]


def render(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = False,
) -> Rendered:
    """Turn a conversation into token ids and a mask of the assistant's tokens.

    Args:
        tokenizer: a tokenizer that knows the special tokens.
        messages: in the OpenAI layout: `role`, `content`, optionally `reasoning_content` and `tool_calls`.
        tools: JSON schemas of the functions that may be called.
        add_generation_prompt: end with the token that opens the assistant's turn.

    Raises:
        InputError: if the template refuses a message, or the tokenizer lacks one of the special tokens.
    """
    return render_all(tokenizer, [messages], tools=tools, add_generation_prompt=add_generation_prompt)[0]


def render_all(
    tokenizer: Tokenizer,
    conversations: Iterable[Sequence[Mapping[str, Any]]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = False,
) -> list[Rendered]:
    """`render` for many conversations: their pieces of text are encoded in parallel."""
    coder = _coder(tokenizer)
    pieces_of = [
        list(_pieces(messages, tools=tools, add_generation_prompt=add_generation_prompt)) for messages in conversations
    ]
    texts = [piece.text for pieces in pieces_of for piece in pieces if not piece.is_control]
    encoded = iter(coder.plain.encode_batch_fast(texts, add_special_tokens=False))
    return [_join(pieces, encoded, coder.control_ids) for pieces in pieces_of]


def encode_text(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids of plain text; special tokens spelled out in it are text like any other."""
    return _coder(tokenizer).plain.encode(text, add_special_tokens=False).ids


# --------------------------------------------------------------------------- from the template to pieces


@dataclass(frozen=True)
class _Piece:
    """A run of plain text, or one control token that the template itself wrote."""

    text: str
    is_control: bool
    is_assistant: bool


@dataclass(frozen=True)
class _Marks:
    """Three characters that occur nowhere in the conversation."""

    guard: str
    start: str
    end: str

    @classmethod
    def absent_from(cls, text: str) -> _Marks:
        # Private-use planes: a conversation would need to use all 131,068 of them to leave no three.
        used = set(text)
        return cls(*islice((chr(point) for point in range(0xF0000, 0x10FFFE) if chr(point) not in used), 3))


_CONTROL = re.compile("|".join(re.escape(token) for token in SPECIAL_TOKENS))


def _pieces(
    messages: Sequence[Mapping[str, Any]], *, tools: Sequence[Mapping[str, Any]] | None, add_generation_prompt: bool
) -> Iterator[_Piece]:
    marks = _Marks.absent_from(_to_json([list(messages), list(tools or ())]))
    try:
        text = _compiled().render(
            messages=_guarded(messages, marks.guard),
            tools=_guarded(tools, marks.guard) if tools else None,
            add_generation_prompt=add_generation_prompt,
            generation_marks=(marks.start, marks.end),
        )
    except (jinja2.TemplateError, TypeError) as error:
        raise InputError(f"The chat template refused a conversation: {error}.") from error
    is_assistant = False
    for part in re.split(f"([{marks.start}{marks.end}])", text):
        if part in (marks.start, marks.end):
            is_assistant = part == marks.start
            continue
        position = 0
        for control in _CONTROL.finditer(part):
            yield from _plain(part[position : control.start()], marks.guard, is_assistant)
            yield _Piece(control.group(), True, is_assistant)
            position = control.end()
        yield from _plain(part[position:], marks.guard, is_assistant)


def _plain(text: str, guard: str, is_assistant: bool) -> Iterator[_Piece]:
    if text:
        yield _Piece(text.replace(guard, ""), False, is_assistant)


def _guarded(value: Any, guard: str) -> Any:
    """Put the guard behind each `<`, with which every special token begins, so that no text can spell one."""
    if isinstance(value, str):
        return value.replace("<", "<" + guard)
    if isinstance(value, Mapping):
        return {_guarded(key, guard): _guarded(item, guard) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [_guarded(item, guard) for item in value]
    return value


def _to_json(value: Any) -> str:
    try:
        return str(json.dumps(value, ensure_ascii=False))
    except (TypeError, ValueError) as error:
        raise InputError(f"A conversation must be made of JSON values: {error}.") from error


class _Generation(jinja2.ext.Extension):
    """`{% generation %}...{% endgeneration %}`: put the marks around what the assistant wrote."""

    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        marks = jinja2.nodes.Name("generation_marks", "load")
        return jinja2.nodes.CallBlock(self.call_method("_mark", [marks]), [], [], body).set_lineno(line)

    def _mark(self, marks: tuple[str, str], caller: Any) -> str:
        return f"{marks[0]}{caller()}{marks[1]}"


@lru_cache(maxsize=1)
def _compiled() -> jinja2.Template:
    # The settings of transformers, otherwise the same file could render differently there.
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    return environment.from_string(CHAT_TEMPLATE)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


# --------------------------------------------------------------------------- from pieces to ids


@dataclass(frozen=True)
class _Coder:
    """A tokenizer that sees no special token in text, and the ids of the special tokens."""

    plain: Tokenizer
    control_ids: dict[str, int]


@lru_cache(maxsize=8)
def _coder(tokenizer: Tokenizer) -> _Coder:
    found = {token: tokenizer.token_to_id(token) for token in SPECIAL_TOKENS}
    control_ids = {token: token_id for token, token_id in found.items() if token_id is not None}
    if missing := [token for token in SPECIAL_TOKENS if token not in control_ids]:
        raise InputError(f"The tokenizer lacks {', '.join(missing)}: train it with the special tokens for chat.")
    # A copy: the switch is state of the tokenizer, and the caller's must go on as before.
    plain = Tokenizer.from_str(tokenizer.to_str())
    plain.encode_special_tokens = True
    return _Coder(plain, control_ids)


def _join(pieces: Sequence[_Piece], encoded: Iterator[Any], control_ids: Mapping[str, int]) -> Rendered:
    ids: list[int] = []
    is_assistant: list[bool] = []
    for piece in pieces:
        new = [control_ids[piece.text]] if piece.is_control else next(encoded).ids
        ids += new
        is_assistant += [piece.is_assistant] * len(new)
    return Rendered(ids, is_assistant)
