"""`/v1/chat/completions`: a conversation in, the assistant's turn out, whole or piece by piece."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from tokenizers import Tokenizer

from hanse.errors import InputError
from hanse.serve.answer import AnswerParser, Delta, ToolCall
from hanse.serve.api import stream
from hanse.serve.api.answers import Answers, Service, unless_gone
from hanse.serve.api.call import call_of
from hanse.serve.api.errors import ApiError
from hanse.serve.api.logprobs import chat_logprobs
from hanse.serve.api.schema import ChatRequest
from hanse.serve.request import Finish, Logprob, Output, Request, Sampling
from hanse.tune.template import render

if TYPE_CHECKING:
    from hanse.trace.passages import Filter, Watch

_OPEN_CALL, _CLOSE_CALL = "<|tool_call|>", "<|/tool_call|>"


async def complete(service: Service, body: ChatRequest, request: HttpRequest) -> Response:
    """Answer a conversation.

    Raises:
        ApiError, InputError: what the request asks cannot be done.
    """
    service.check_model(body.model)
    if not service.settings.is_tuned:
        told = f"{service.model} was never tuned for conversations; let it go on with a text at /v1/completions."
        raise ApiError(400, told, param="messages", code="model_not_tuned")
    # Tokenising megabytes takes a while, in which others want their tokens.
    prompt = await asyncio.to_thread(_prompt, service, body)
    sampling = _sampling(service, body, service.check_length(prompt, "messages"))
    seeds = [None if sampling.seed is None else sampling.seed + index for index in range(body.n or 1)]
    requests = [Request(prompt=tuple(prompt), sampling=replace(sampling, seed=seed)) for seed in seeds]
    turn = _Turn(service, body, len(prompt), sampling)
    answers = service.begin(call_of(request), requests, len(prompt))
    if body.stream:
        return await unless_gone(request, stream.response(turn.events(answers)))
    return JSONResponse(await unless_gone(request, turn.whole(answers)))


def _prompt(service: Service, body: ChatRequest) -> list[int]:
    """The conversation as tokens, with the beginning of a call where one is demanded."""
    tokenizer = service.backend.tokenizer
    messages = [message.for_template() for message in body.messages]
    tools = [tool.for_template() for tool in body.offered_tools()] or None
    ids = render(tokenizer, messages, tools=tools, add_generation_prompt=True).ids
    return [*ids, control_id(tokenizer, _OPEN_CALL)] if body.forced_tools() else ids


def _sampling(service: Service, body: ChatRequest, room: int) -> Sampling:
    return body.sampling(
        max_tokens=min(body.limit(room), room),
        temperature=service.settings.temperature,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        schema=body.answer_schema(),
    )


@dataclass
class _Choice:
    """One answer, as far as it has come."""

    parser: AnswerParser
    withdrawn: Filter | None = None
    watches: dict[str, Watch] = field(default_factory=dict)
    content: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    logprobs: list[Logprob] = field(default_factory=list)
    tokens: int = 0
    cached: int = 0
    finish: str | None = None

    def add(self, output: Output, closing: Sequence[int]) -> list[Delta]:
        """Take in a piece; `closing` are tokens that stand for an end that the engine does not give out."""
        if self.finish is not None:  # it was cut at a withdrawn passage, and the engine went on
            return []
        deltas = self.parser.add(output.tokens)
        self.tokens += len(output.tokens)
        self.cached += output.cached
        if output.finish is not None:
            if output.finish == "stop":
                deltas += self.parser.add(closing)
            deltas += self.parser.finish()
        deltas, is_cut = self._let_through(deltas)
        self.logprobs += () if is_cut else output.logprobs
        for delta in deltas:
            if delta.call is not None:
                self.calls.append(delta.call)
            else:
                (self.reasoning if delta.kind == "reasoning" else self.content).append(delta.text)
        if is_cut:
            self.finish = "content_filter"
        elif output.finish is not None:
            self.finish = _finish_reason(output.finish, bool(self.calls))
        return deltas

    def _let_through(self, deltas: list[Delta]) -> tuple[list[Delta], bool]:
        """What comes before a withdrawn passage, and whether there is one."""
        if self.withdrawn is None:
            return deltas, False
        for number, delta in enumerate(deltas):
            if delta.call is not None:
                is_said, rest = self.withdrawn.holds(_said_in(delta.call)), []
            else:
                watch = self.watches.setdefault(delta.kind, self.withdrawn.stream())
                is_said = watch.add(delta.text)
                rest = [replace(delta, text=delta.text[: watch.kept])] if watch.kept else []
            if is_said:
                self.withdrawn.ended += 1
                return [*deltas[:number], *rest], True
        return deltas, False


def _said_in(call: ToolCall) -> str:
    """Every string in the arguments of a call, free of JSON's escapes."""
    pending: list[Any] = [json.loads(call.arguments)]
    said = []
    while pending:
        value = pending.pop()
        if isinstance(value, str):
            said.append(value)
        elif isinstance(value, dict):
            pending += reversed([each for item in value.items() for each in item])
        elif isinstance(value, list):
            pending += reversed(value)
    return " ".join(said)


def _finish_reason(finish: Finish, has_calls: bool) -> str:
    """In OpenAI's words; an answer whose time was over was cut like one whose tokens were."""
    if finish != "stop":
        return "length"
    return "tool_calls" if has_calls else "stop"


class _Turn:
    """The assistant's turn as JSON: all choices of one request.

    Args:
        prompt_tokens: of the prompt.
        sampling: as the engine was asked.
    """

    def __init__(self, service: Service, body: ChatRequest, prompt_tokens: int, sampling: Sampling) -> None:
        tokenizer = service.backend.tokenizer
        self._service = service
        self._body = body
        kind = "chat.completion.chunk" if body.stream else "chat.completion"
        self._head = head(service, f"chatcmpl-{secrets.token_hex(12)}", kind)
        self._prompt_tokens = prompt_tokens
        self._wants_logprobs = sampling.logprobs is not None
        self._closing: list[int] = []
        withdrawn = service.settings.withdrawn
        self._choices = [_Choice(AnswerParser(tokenizer, sampling.stop), withdrawn) for _ in range(body.n or 1)]
        if body.forced_tools():
            # The prompt ends with the opening of a call, and the schema lets the engine end it without the closing.
            self._closing = [control_id(tokenizer, _CLOSE_CALL)]
            for choice in self._choices:
                choice.parser.add([control_id(tokenizer, _OPEN_CALL)])

    async def whole(self, answers: Answers) -> dict[str, Any]:
        """The response body, when every choice is finished."""
        async for index, output in answers:
            self._choices[index].add(output, self._closing)
            if all(choice.finish for choice in self._choices):  # a cut one is not over for the engine
                break
        choices = [self._choice(index) for index in range(len(self._choices))]
        return {**self._head, "choices": choices, "usage": self._usage()}

    async def events(self, answers: Answers) -> AsyncIterator[str]:
        """The events of a stream, without its end mark."""
        begun: set[int] = set()
        async for index, output in answers:
            choice = self._choices[index]
            if choice.finish is not None:
                continue
            if index not in begun:
                begun.add(index)
                yield self._chunk(index, {"role": "assistant", "content": ""})
            for delta in choice.add(output, self._closing):
                yield self._chunk(index, _delta(delta))
            if choice.finish is not None:
                yield self._chunk(index, {}, choice.finish)
            if all(each.finish for each in self._choices):
                break
        if self._body.includes_usage:
            yield stream.event({**self._head, "choices": [], "usage": self._usage()})

    def _choice(self, index: int) -> dict[str, Any]:
        choice = self._choices[index]
        content, reasoning = "".join(choice.content), "".join(choice.reasoning)
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if choice.calls:
            message |= {"content": content or None, "tool_calls": [_call(call) for call in choice.calls]}
        if reasoning:
            message["reasoning_content"] = reasoning
        return {
            "index": index,
            "message": message,
            "logprobs": self._logprobs(choice),
            "finish_reason": choice.finish,
        }

    def _chunk(self, index: int, delta: dict[str, Any], finish: str | None = None) -> str:
        choice = self._choices[index]
        told = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
        if choice.logprobs:
            told["logprobs"] = self._logprobs(choice)
            choice.logprobs.clear()
        chunk = {**self._head, "choices": [told]}
        return stream.event({**chunk, "usage": None} if self._body.includes_usage else chunk)

    def _logprobs(self, choice: _Choice) -> dict[str, Any] | None:
        return chat_logprobs(self._service.backend.tokenizer, choice.logprobs) if self._wants_logprobs else None

    def _usage(self) -> dict[str, Any]:
        cached = self._choices[0].cached
        return usage(self._prompt_tokens, sum(choice.tokens for choice in self._choices), cached)


def _delta(delta: Delta) -> dict[str, Any]:
    if delta.call is not None:
        return {"tool_calls": [{"index": delta.call.index, **_call(delta.call)}]}
    return {"reasoning_content" if delta.kind == "reasoning" else "content": delta.text}


def _call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def control_id(tokenizer: Tokenizer, token: str) -> int:
    """The id of a token of the chat template.

    Raises:
        InputError: the tokenizer lacks it.
    """
    found = tokenizer.token_to_id(token)
    if found is None:
        raise InputError(f"The model's tokenizer lacks {token}.")
    return found


def head(service: Service, id: str, kind: str) -> dict[str, Any]:
    """What every response object begins with."""
    return {
        "id": id,
        "object": kind,
        "created": int(time.time()),
        "model": service.model,
        "system_fingerprint": service.settings.fingerprint,
    }


def usage(prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> dict[str, Any]:
    """Token counts of a request; cached ones are part of the prompt's."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
    }
