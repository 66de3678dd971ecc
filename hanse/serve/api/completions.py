"""`/v1/completions`: going on with a text or with token ids; with `echo` and `logprobs`, scoring it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from hanse.serve.api import stream
from hanse.serve.api.answers import Answers, Service, unless_gone
from hanse.serve.api.call import call_of
from hanse.serve.api.chat import control_id, head, usage
from hanse.serve.api.errors import ApiError
from hanse.serve.api.logprobs import completion_logprobs
from hanse.serve.api.schema import COMPLETION_TOKENS, CompletionRequest
from hanse.serve.detokenize import token_bytes
from hanse.serve.request import Output, Request
from hanse.tune.template import END_OF_TEXT, encode_text

if TYPE_CHECKING:
    from hanse.trace.passages import Watch


@dataclass(frozen=True)
class _Prompt:
    """A prompt as the engine gets it.

    Attributes:
        ids: its tokens.
        hidden: how many of the first ones were put there by us, and are not echoed.
        text: what is echoed.
    """

    ids: list[int]
    hidden: int
    text: str


async def complete(service: Service, body: CompletionRequest, request: HttpRequest) -> Response:
    """Go on with one or several prompts.

    Raises:
        ApiError, InputError: what the request asks cannot be done.
    """
    service.check_model(body.model)
    # Tokenising megabytes takes a while, in which others want their tokens.
    prompts = await asyncio.to_thread(lambda: [_prompt(service, given) for given in body.prompts()])
    withdrawn = service.settings.withdrawn
    watch = withdrawn.stream if withdrawn is not None else lambda: None
    choices = [_Choice(prompt, watch()) for prompt in prompts for _ in range(body.n or 1)]
    requests = [_request(service, body, choice.prompt, index) for index, choice in enumerate(choices)]
    prompt_tokens = sum(len(prompt.ids) for prompt in prompts)
    text = _Completion(service, body, choices, prompt_tokens)
    answers = service.begin(call_of(request), requests, prompt_tokens)
    if body.stream:
        return await unless_gone(request, stream.response(text.events(answers)))
    return JSONResponse(await unless_gone(request, text.whole(answers)))


def _prompt(service: Service, given: str | list[int]) -> _Prompt:
    tokenizer = service.backend.tokenizer
    if isinstance(given, str):
        # As in training, the end of another text stands before one; it also gives the first token a logprob.
        opening = control_id(tokenizer, END_OF_TEXT)
        return _Prompt([opening, *encode_text(tokenizer, given)], 1, given)
    size = tokenizer.get_vocab_size()
    if (largest := max(given)) >= size:
        raise ApiError(400, f"prompt: {largest} is no token; this model has {size}, from 0.", param="prompt")
    table = token_bytes(tokenizer)
    return _Prompt(given, 0, b"".join(table[token] for token in given).decode("utf-8", "replace"))


def _request(service: Service, body: CompletionRequest, prompt: _Prompt, index: int) -> Request:
    room = service.check_length(prompt.ids, "prompt")
    limit = COMPLETION_TOKENS if body.max_tokens is None else body.max_tokens
    sampling = body.sampling(
        max_tokens=max(1, min(limit, room)), temperature=service.settings.temperature, logprobs=body.logprobs
    )
    if sampling.seed is not None:
        sampling = replace(sampling, seed=sampling.seed + index)
    if body.scores_prompt and limit <= 1:
        # Evaluations score the prompt, ask for one token more, and cut the last entry off: it has to be there.
        sampling = replace(sampling, ignore_end=True)
    return Request(prompt=tuple(prompt.ids), sampling=sampling, prompt_logprobs=body.scores_prompt)


@dataclass
class _Choice:
    """One continuation, as far as it has come."""

    prompt: _Prompt
    watch: Watch | None = None
    has_begun: bool = False
    text: list[str] = field(default_factory=list)
    characters: int = 0
    tokens: int = 0
    cached: int = 0
    finish: str | None = None
    logprobs: list[dict[str, Any]] = field(default_factory=list)


class _Completion:
    """The continuations of one request as JSON."""

    def __init__(self, service: Service, body: CompletionRequest, choices: list[_Choice], prompt_tokens: int) -> None:
        self._service = service
        self._body = body
        self._choices = choices
        self._prompt_tokens = prompt_tokens
        self._head = head(service, f"cmpl-{secrets.token_hex(12)}", "text_completion")

    async def whole(self, answers: Answers) -> dict[str, Any]:
        """The response body, when every continuation is finished."""
        async for index, output in answers:
            self._add(self._choices[index], output)
            if all(choice.finish for choice in self._choices):  # a cut one is not over for the engine
                break
        choices = [self._told(index, "".join(choice.text)) for index, choice in enumerate(self._choices)]
        return {**self._head, "choices": choices, "usage": self._usage()}

    async def events(self, answers: Answers) -> AsyncIterator[str]:
        """The events of a stream, without its end mark."""
        async for index, output in answers:
            choice = self._choices[index]
            if choice.finish is not None:
                continue
            if (text := self._add(choice, output)) or choice.finish is not None or choice.logprobs:
                chunk = {**self._head, "choices": [self._told(index, text)]}
                choice.logprobs.clear()
                yield stream.event({**chunk, "usage": None} if self._body.includes_usage else chunk)
            if all(each.finish for each in self._choices):
                break
        if self._body.includes_usage:
            yield stream.event({**self._head, "choices": [], "usage": self._usage()})

    def _add(self, choice: _Choice, output: Output) -> str:
        """Take in a piece. Returns the text that it adds."""
        if choice.finish is not None:  # it was cut at a withdrawn passage, and the engine went on
            return ""
        text = self._echo(choice, output) if self._body.echo and not choice.has_begun else ""
        choice.has_begun = True
        is_cut = False
        if self._body.max_tokens != 0:
            said, is_cut = self._let_through(choice, output.text)
            text += said
            if self._body.logprobs is not None and output.tokens and not is_cut:
                tokenizer, offset = self._service.backend.tokenizer, choice.characters + len(text) - len(output.text)
                choice.logprobs.append(completion_logprobs(tokenizer, output.tokens, output.logprobs, offset=offset))
            choice.tokens += len(output.tokens)
        choice.cached += output.cached
        choice.characters += len(text)
        choice.text.append(text)
        if is_cut:
            choice.finish = "content_filter"
        elif output.finish is not None:
            choice.finish = "stop" if output.finish == "stop" else "length"
        return text

    def _let_through(self, choice: _Choice, text: str) -> tuple[str, bool]:
        """What of a piece comes before a withdrawn passage, and whether there is one."""
        withdrawn = self._service.settings.withdrawn
        if choice.watch is None or withdrawn is None or not choice.watch.add(text):
            return text, False
        withdrawn.ended += 1
        return text[: choice.watch.kept], True

    def _echo(self, choice: _Choice, output: Output) -> str:
        """The prompt as part of the first piece, with its logprobs; only a first token of all has none."""
        prompt = choice.prompt
        if self._body.scores_prompt:
            found = [*([None] if prompt.hidden == 0 else []), *output.prompt_logprobs]
            tokens = prompt.ids[prompt.hidden :]
            tokenizer = self._service.backend.tokenizer
            choice.logprobs.append(completion_logprobs(tokenizer, tokens, found, offset=0))
        return prompt.text

    def _told(self, index: int, text: str) -> dict[str, Any]:
        choice = self._choices[index]
        logprobs = None
        if self._body.logprobs is not None:
            names = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
            logprobs = {name: [each for part in choice.logprobs for each in part[name]] for name in names}
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": choice.finish}

    def _usage(self) -> dict[str, Any]:
        per_prompt = self._body.n or 1
        cached = sum(choice.cached for choice in self._choices[::per_prompt])
        return usage(self._prompt_tokens, sum(choice.tokens for choice in self._choices), cached)
