"""What the server answers, for `/openapi.json` and for the tests that hold the answers against it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel


class ErrorDetail(BaseModel):
    """Why a request was refused."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """Every refusal."""

    error: ErrorDetail


class Model(BaseModel):
    """The model that is served."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int


class ModelList(BaseModel):
    """The models that are served: one."""

    object: Literal["list"]
    data: list[Model]


class Health(BaseModel):
    """The server is up."""

    status: Literal["ok"]


class CachedTokens(BaseModel):
    """Tokens of the prompt that were found in the cache."""

    cached_tokens: int


class Usage(BaseModel):
    """Token counts of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


class CalledFunction(BaseModel):
    """A function with its arguments as JSON text."""

    name: str
    arguments: str


class Call(BaseModel):
    """A call that the model wants made."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class AnswerMessage(BaseModel):
    """The assistant's turn."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: str | None = None
    tool_calls: list[Call] | None = None


class TopToken(BaseModel):
    """A token and the natural logarithm of its probability."""

    token: str
    logprob: float
    bytes: list[int]


class ChosenToken(TopToken):
    """A token of the answer, and the likeliest ones in its place."""

    top_logprobs: list[TopToken]


class ChatLogprobs(BaseModel):
    """One entry a token."""

    content: list[ChosenToken]
    refusal: None


class ChatChoice(BaseModel):
    """One answer."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls", "content_filter"]


class ChatCompletion(BaseModel):
    """The answers to a conversation."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str | None
    choices: list[ChatChoice]
    usage: Usage


class CompletionLogprobs(BaseModel):
    """Four lists, one entry a token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    """One continuation."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length", "content_filter"]


class Completion(BaseModel):
    """The continuations of texts."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str | None
    choices: list[CompletionChoice]
    usage: Usage


_WHY = {
    400: "The request is not one that can be answered.",
    401: "The key is missing, wrong or expired.",
    403: "The Host or Origin header names a stranger.",
    404: "There is nothing of this name.",
    405: "The address does not take this method.",
    408: "The body did not arrive in time.",
    413: "The body is too long.",
    415: "The body is not said to be JSON.",
    429: "The key has used what it may; see Retry-After.",
    500: "The server failed.",
    503: "The server is busy or stopping; see Retry-After.",
    504: "The engine gave no answer in time.",
}


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What FastAPI is told of the refusals of a route; those of the guard are part of every one."""
    return {status: {"model": ErrorBody, "description": _WHY[status]} for status in sorted({401, 403, 500, *statuses})}
