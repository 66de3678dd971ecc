"""What goes into an engine and what comes out: the contract between the API and whichever engine computes.

No torch here, so that an engine that brings its own runtime needs none.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from tokenizers import Tokenizer

from hanse.errors import InputError

#: Why an answer ended: an end token or a stop string; no room or tokens left; the client went; its time was over.
Finish = Literal["stop", "length", "cancelled", "deadline"]

MAX_TOP_LOGPROBS = 20
MAX_STOPS = 16


@dataclass(frozen=True)
class Sampling:
    """How an answer is drawn, and when it ends.

    Attributes:
        max_tokens: the most tokens to generate; fewer where the context ends.
        temperature: divides the logits; 0 takes the likeliest token and draws nothing.
        top_k: draw among this many likeliest tokens; 0: among all.
        top_p: draw among the likeliest tokens that together have at least this probability (arXiv:1904.09751).
        min_p: leave out tokens less likely than this share of the likeliest one (arXiv:2407.01082).
        repetition_penalty: divide positive and multiply negative logits of every token of the prompt or the answer by
            this (arXiv:1909.05858, section 4.1); 1 changes nothing.
        presence_penalty, frequency_penalty: subtract from the logits of tokens of the answer, once, and for each time.
        seed: the same seed gives the same answer; None: a new one each time.
        stop: texts at which to end; they are not given out.
        logprobs: None, or how many alternatives to report beside each token, from 0 to MAX_TOP_LOGPROBS.
        ignore_end: go on past end tokens, for measurements.
        schema: a JSON schema as JSON text; the answer is JSON that it allows. "{}" allows any JSON object.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    ignore_end: bool = False
    schema: str | None = None

    def check(self) -> Sampling:
        """Refuse settings that have no meaning. Returns itself.

        Raises:
            InputError: names the setting, its value and its range.
        """
        bounds: tuple[tuple[str, float | None, float, float], ...] = (
            ("max_tokens", self.max_tokens, 1, 2**31 - 1),
            ("temperature", self.temperature, 0.0, 100.0),
            ("top_k", self.top_k, 0, 2**31 - 1),
            ("min_p", self.min_p, 0.0, 1.0),
            ("repetition_penalty", self.repetition_penalty, 0.01, 100.0),
            ("presence_penalty", self.presence_penalty, -100.0, 100.0),
            ("frequency_penalty", self.frequency_penalty, -100.0, 100.0),
            ("seed", self.seed, -(2**63), 2**63 - 1),
            ("logprobs", self.logprobs, 0, MAX_TOP_LOGPROBS),
        )
        for name, value, low, high in bounds:
            if value is not None and not low <= value <= high:  # a NaN fails every comparison
                raise InputError(f"{name}: {value} is out of range; give {low} to {high}.")
        if not 0.0 < self.top_p <= 1.0:
            raise InputError(f"top_p: {self.top_p} is out of range; give a probability above 0 and up to 1.")
        if len(self.stop) > MAX_STOPS:
            raise InputError(f"stop: {len(self.stop)} texts; give at most {MAX_STOPS}.")
        return self


@dataclass(frozen=True)
class Request:
    """A prompt and how to go on from it.

    Attributes:
        prompt: token ids, at least one, fewer than the engine's context.
        sampling: how the answer is drawn.
        prompt_logprobs: report the logprobs of the prompt too, with `sampling.logprobs` alternatives; its first token
            has none. Switches the prefix cache off for this request.
        records_routes: report the experts that every token chose, for replay in reinforcement learning.
        salt: requests with another salt share no cached prefix, so that none can time what another one asked.
        deadline: of `time.monotonic`, after which the answer ends as it is.
    """

    prompt: tuple[int, ...]
    sampling: Sampling = field(default_factory=Sampling)
    prompt_logprobs: bool = False
    records_routes: bool = False
    salt: str = ""
    deadline: float | None = None


@dataclass(frozen=True)
class Logprob:
    """How likely a token was: natural logarithm under the model, before temperature and penalties.

    Attributes:
        token: its id.
        value: 0 or less.
        top: the likeliest tokens with theirs, best first.
    """

    token: int
    value: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Output:
    """A piece of an answer, as soon as it is there.

    Attributes:
        tokens: the new token ids, without an end token.
        text: what they complete: whole characters, nothing of a stop string. It may lag behind `tokens`.
        logprobs: one for each of `tokens`, if asked for.
        finish: set on the last piece only.
        cached: tokens of the prompt that were found in the cache; on the first piece.
        prompt_logprobs: one for each token of the prompt but the first, on the first piece, if asked for.
        routes: chosen experts of the tokens computed since the last piece: (tokens, layers with experts, experts a
            token) as nested lists, if asked for. All pieces together cover prompt and answer but the last token.
    """

    tokens: tuple[int, ...] = ()
    text: str = ""
    logprobs: tuple[Logprob, ...] = ()
    finish: Finish | None = None
    cached: int = 0
    prompt_logprobs: tuple[Logprob, ...] = ()
    routes: tuple[tuple[tuple[int, ...], ...], ...] = ()


@dataclass(frozen=True)
class Stats:
    """An engine's figures for `/metrics`: what holds now, and counts since the start.

    Attributes:
        running, waiting: requests.
        cache_tokens, cache_capacity: tokens whose attention state is held for running requests, and that fit.
        prompt_tokens, cached_tokens, generated_tokens: of all requests; cached ones are part of the prompts'.
        preemptions: times a request gave up its cache for another and was computed again.
        drafted, accepted: tokens proposed by the multi-token block, and those that were right.
    """

    running: int = 0
    waiting: int = 0
    cache_tokens: int = 0
    cache_capacity: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    preemptions: int = 0
    drafted: int = 0
    accepted: int = 0


def room_behind(prompt: Sequence[int], context: int) -> int:
    """Tokens that fit behind a prompt.

    Raises:
        InputError: it is empty, or leaves no room.
    """
    if not prompt:
        raise InputError("The prompt is empty: give at least one token.")
    if len(prompt) >= context:
        raise InputError(
            f"The prompt is {len(prompt)} tokens long, but the model sees {context} at a time: shorten it."
        )
    return context - len(prompt)


class Backend(Protocol):
    """An engine behind the API: ours, llama.cpp or vLLM.

    Attributes:
        name: as `--engine` calls it.
        tokenizer: of the model.
        context: the most tokens of a prompt and its answer.
        end_ids: tokens that end an answer.
    """

    name: str
    tokenizer: Tokenizer
    context: int
    end_ids: frozenset[int]

    def generate(self, request: Request) -> AsyncIterator[Output]:
        """Answer a request piece by piece; closing the iterator (`aclose`) cancels it and frees what it held.

        Raises:
            InputError: at the first step: an empty prompt, one that fills the context, sampling out of range, or
                something that this engine cannot do.
        """
        ...

    def stats(self) -> Stats:
        """Its figures now."""
        ...

    async def close(self) -> None:
        """End every request and free the device."""
        ...
