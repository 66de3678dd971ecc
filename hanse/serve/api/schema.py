"""What a request may say, as OpenAI's reference has it: types are held to strictly, unknown fields are ignored.

Bounds stand in the types, so `/openapi.json` tells them. Fields that would change an answer and that no engine here can
honour are refused; those that change nothing (`user`, `store`, `metadata`) are not read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, StrictBool, StrictInt, model_validator

from hanse.errors import InputError
from hanse.serve.request import MAX_STOPS, MAX_TOP_LOGPROBS, Sampling

MAX_CHOICES = 16
MAX_PROMPTS = 256
MAX_MESSAGES = 4096
MAX_TOOLS = 128
#: Levels of a JSON schema: what recursion in the template can take, with room to spare.
MAX_NESTING = 64
#: As OpenAI has it for `/v1/completions`.
COMPLETION_TOKENS = 16


def _encodable(text: str) -> str:
    if not text.isascii() and any("\ud800" <= sign <= "\udfff" for sign in text):
        raise ValueError("half a surrogate pair is no character")
    return text


Text = Annotated[str, AfterValidator(_encodable)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
TokenId = Annotated[StrictInt, Field(ge=0)]
Stop = Annotated[Text, Field(min_length=1, max_length=256)]


Choices = Annotated[StrictInt, Field(ge=1, le=MAX_CHOICES)]
Tokens = Annotated[StrictInt, Field(ge=1, le=2**31 - 1)]
TopK = Annotated[StrictInt, Field(ge=-1, le=2**31 - 1)]
#: Answer i of a request is drawn with seed + i, which has to fit 64 bits too.
Seed = Annotated[StrictInt, Field(ge=-(2**63), le=2**63 - 1 - MAX_CHOICES * MAX_PROMPTS)]
TopLogprobs = Annotated[StrictInt, Field(ge=0, le=MAX_TOP_LOGPROBS)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Temperature = Annotated[Number, Field(ge=0, le=100)]
Share = Annotated[Number, Field(ge=0, le=1)]
Nucleus = Annotated[Number, Field(gt=0, le=1)]
Repetition = Annotated[Number, Field(ge=0.01, le=100)]
Penalty = Annotated[Number, Field(ge=-100, le=100)]


class StreamOptions(BaseModel):
    """`include_usage`: one more chunk before the end, with the token counts."""

    include_usage: StrictBool | None = None


class SharedFields(BaseModel):
    """What both kinds of request share: the model, how to draw, and how to send."""

    model: Text
    n: Choices | None = None
    temperature: Temperature | None = None
    top_p: Nucleus | None = None
    top_k: TopK | None = None
    min_p: Share | None = None
    repetition_penalty: Repetition | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: Seed | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS, fail_fast=True)] | None = None
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    ignore_eos: StrictBool | None = None
    logit_bias: Annotated[dict[str, Any], Field(max_length=0)] | None = None

    @model_validator(mode="after")
    def _check_options(self) -> SharedFields:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is only for a request with stream: true")
        return self

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with a chunk of token counts."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def sampling(
        self, *, max_tokens: int, temperature: float, logprobs: int | None, schema: str | None = None
    ) -> Sampling:
        """How the first answer is drawn; `temperature` holds where the request names none."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return Sampling(
            max_tokens=max_tokens,
            temperature=_or(self.temperature, temperature),
            top_k=max(_or(self.top_k, 0), 0),
            top_p=_or(self.top_p, 1.0),
            min_p=_or(self.min_p, 0.0),
            repetition_penalty=_or(self.repetition_penalty, 1.0),
            presence_penalty=_or(self.presence_penalty, 0.0),
            frequency_penalty=_or(self.frequency_penalty, 0.0),
            seed=self.seed,
            stop=tuple(stops),
            logprobs=logprobs,
            ignore_end=bool(self.ignore_eos),
            schema=schema,
        ).check()


# --------------------------------------------------------------------------- conversations


class TextPart(BaseModel):
    """A part of a message; this model reads text alone."""

    type: Literal["text"]
    text: Text


class GivenFunction(BaseModel):
    """A call that the assistant made: its arguments are JSON in a string."""

    name: Name
    arguments: Text


class GivenCall(BaseModel):
    """A call that the assistant made, as it was answered."""

    id: Text | None = None
    type: Literal["function"] = "function"
    function: GivenFunction


class Message(BaseModel):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | Annotated[list[TextPart], Field(max_length=MAX_MESSAGES, fail_fast=True)] | None = None
    reasoning_content: Text | None = None
    tool_calls: Annotated[list[GivenCall], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None

    @model_validator(mode="after")
    def _check_content(self) -> Message:
        if self.content is None and not (self.role == "assistant" and (self.tool_calls or self.reasoning_content)):
            raise ValueError("content is missing; only an assistant's message with tool_calls may be without")
        return self

    def for_template(self) -> dict[str, Any]:
        """The message as `hanse.tune.template.render` takes it."""
        parts = [] if self.content is None else self.content
        found: dict[str, Any] = {
            "role": "system" if self.role == "developer" else self.role,
            "content": parts if isinstance(parts, str) else "".join(part.text for part in parts),
        }
        if self.role == "assistant" and self.reasoning_content:
            found["reasoning_content"] = self.reasoning_content
        if self.role == "assistant" and self.tool_calls:
            found["tool_calls"] = [{"function": call.function.model_dump()} for call in self.tool_calls]
        return found


class Function(BaseModel):
    """A function that may be called: its parameters are a JSON schema of an object."""

    name: Name
    description: Text | None = None
    parameters: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _check_parameters(self) -> Function:
        if self.parameters is not None:
            kind = self.parameters.get("type", "object")
            if kind != "object":
                raise ValueError("parameters must be a JSON schema of type object")
            _json(self.parameters)
        return self


class Tool(BaseModel):
    """Something the model may use; only functions are known."""

    type: Literal["function"]
    function: Function

    def for_template(self) -> dict[str, Any]:
        """The tool as `hanse.tune.template.render` takes it."""
        return self.model_dump(exclude_none=True)

    def call_schema(self) -> dict[str, Any]:
        """The JSON schema of a call of it, as the template writes calls."""
        arguments = self.function.parameters or {"type": "object"}
        return {
            "type": "object",
            "properties": {"name": {"const": self.function.name}, "arguments": arguments},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }


class ChosenFunction(BaseModel):
    """The name of the function that has to be called."""

    name: Name


class ToolChoice(BaseModel):
    """One function that has to be called."""

    type: Literal["function"]
    function: ChosenFunction


class JsonSchema(BaseModel):
    """What `response_format` demands of the answer."""

    name: Name | None = None
    schema_: dict[str, Any] = Field(alias="schema")


class PlainFormat(BaseModel):
    """Any text, or any JSON object."""

    type: Literal["text", "json_object"]


class SchemaFormat(BaseModel):
    """JSON that a schema allows."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


class ChatRequest(SharedFields):
    """The body of `/v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    logprobs: StrictBool | None = None
    top_logprobs: TopLogprobs | None = None
    response_format: Annotated[PlainFormat | SchemaFormat, Field(discriminator="type")] | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    functions: Annotated[list[Any], Field(max_length=0)] | None = None

    @model_validator(mode="after")
    def _check_chat(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs is only for a request with logprobs: true")
        names = [tool.function.name for tool in self.tools or ()]
        if len(set(names)) < len(names):
            raise ValueError("two tools have one name")
        if isinstance(self.tool_choice, ToolChoice) and self.tool_choice.function.name not in names:
            raise ValueError(f"tool_choice names {self.tool_choice.function.name}, which is not among the tools")
        if self.tool_choice == "required" and not names:
            raise ValueError("tool_choice is required, but there are no tools")
        if self.response_format is not None and self.response_format.type != "text" and self.forced_tools():
            raise ValueError("an answer cannot both call a tool and be JSON of response_format")
        return self

    def offered_tools(self) -> list[Tool]:
        """The tools that the model is told of."""
        return [] if self.tool_choice == "none" else self.tools or []

    def forced_tools(self) -> list[Tool]:
        """The tools of which one has to be called; none if the model is free."""
        if isinstance(self.tool_choice, ToolChoice):
            wanted = self.tool_choice.function.name
            return [tool for tool in self.tools or () if tool.function.name == wanted]
        return list(self.tools or ()) if self.tool_choice == "required" else []

    def answer_schema(self) -> str | None:
        """The JSON schema that the answer, or the call it has to begin with, is held to."""
        if forced := [tool.call_schema() for tool in self.forced_tools()]:
            return _json(forced[0] if len(forced) == 1 else {"anyOf": forced})
        if isinstance(self.response_format, SchemaFormat):
            return _json(self.response_format.json_schema.schema_)
        is_json = self.response_format is not None and self.response_format.type == "json_object"
        return "{}" if is_json else None

    def limit(self, room: int) -> int:
        """The most tokens of an answer, where `room` are left in the context."""
        return _or(self.max_completion_tokens, _or(self.max_tokens, room))


# --------------------------------------------------------------------------- texts to go on with


class CompletionRequest(SharedFields):
    """The body of `/v1/completions`."""

    prompt: (
        Text
        | Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]
        | Annotated[list[Text], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True)]
        | Annotated[
            list[Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]],
            Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True),
        ]
    ) = ""
    max_tokens: Annotated[StrictInt, Field(ge=0, le=2**31 - 1)] | None = None
    echo: StrictBool | None = None
    logprobs: TopLogprobs | None = None
    best_of: StrictInt | None = None
    suffix: Annotated[str, Field(max_length=0)] | None = None

    @model_validator(mode="after")
    def _check_completion(self) -> CompletionRequest:
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise ValueError("best_of is only known with the value of n")
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens may only be 0 with echo: true")
        return self

    def prompts(self) -> Sequence[str | list[int]]:
        """The prompts, each as text or as token ids."""
        prompt = self.prompt
        if isinstance(prompt, str):
            return [prompt]
        if prompt and isinstance(prompt[0], int):
            return [[each for each in prompt if isinstance(each, int)]]
        return [each for each in prompt if not isinstance(each, int)]

    @property
    def scores_prompt(self) -> bool:
        """Whether the prompt's own logprobs are asked for."""
        return bool(self.echo) and self.logprobs is not None


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _json(value: Any) -> str:
    """Compact JSON of a schema that came as JSON; refused where it could not become a prompt or a grammar."""
    level, depth = [value], 0
    while level:
        level = [each for item in level for each in _inside(item)]
        depth += 1
        if depth > MAX_NESTING:
            raise InputError(f"A schema is nested more than {MAX_NESTING} levels deep; make it flatter.")
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError("A schema holds half a surrogate pair, which is no character.") from None
    return text


def _inside(item: Any) -> Iterable[Any]:
    return item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
