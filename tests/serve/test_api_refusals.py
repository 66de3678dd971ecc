"""Bad input and bad luck: every failure has OpenAI's shape, and none is a failure of ours."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from served import MODEL, Scripted, Served, serving
from tokenizers import Tokenizer

from hanse.errors import InputError
from hanse.serve.request import Output
from hanse.tune.template import SPECIAL_TOKENS, encode_text

USER = [{"role": "user", "content": "x"}]
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


@pytest.fixture(scope="module")
def api(tokenizer: Tokenizer) -> Iterator[Served]:
    backend = Scripted(tokenizer, [Output(tokens=(65,), text="A")], context=200)
    with serving(backend) as served:
        yield served


def nested(depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "object"}
    for _ in range(depth):
        found = {"type": "object", "properties": {"a": found}}
    return found


def tool(**function: Any) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": {"name": "f", **function}}]}


CASES: list[tuple[str, dict[str, Any], str | None]] = [
    (CHAT, {"messages": []}, "messages"),
    (CHAT, {"messages": "hello"}, "messages"),
    (CHAT, {"messages": [{"role": "pope", "content": "x"}]}, "messages[0].role"),
    (CHAT, {"messages": [{"role": "user"}]}, "messages[0]"),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
    (CHAT, {"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content"),
    (CHAT, {"messages": USER * 5000}, "messages"),
    (CHAT, {"temperature": -1}, "temperature"),
    (CHAT, {"temperature": "0.5"}, "temperature"),
    (CHAT, {"temperature": True}, "temperature"),
    (CHAT, {"temperature": float("nan")}, "temperature"),
    (CHAT, {"temperature": float("inf")}, "temperature"),
    (CHAT, {"temperature": 10**400}, "temperature"),
    (CHAT, {"top_p": 0}, "top_p"),
    (CHAT, {"top_k": 1.5}, "top_k"),
    (CHAT, {"min_p": float("-inf")}, "min_p"),
    (CHAT, {"repetition_penalty": 0}, "repetition_penalty"),
    (CHAT, {"seed": 10**30}, "seed"),
    (CHAT, {"n": 0}, "n"),
    (CHAT, {"n": 1000}, "n"),
    (CHAT, {"max_tokens": 0}, "max_tokens"),
    (CHAT, {"max_tokens": -5}, "max_tokens"),
    (CHAT, {"stop": [str(number) for number in range(5000)]}, "stop"),
    (CHAT, {"stop": ["x" * 5000]}, "stop"),
    (CHAT, {"stop": 3}, "stop"),
    (CHAT, {"logprobs": True, "top_logprobs": 500}, "top_logprobs"),
    (CHAT, {"top_logprobs": 2}, None),
    (CHAT, {"stream": "yes"}, "stream"),
    (CHAT, {"stream_options": {"include_usage": True}}, None),
    (CHAT, {"logit_bias": {"5": 100}}, "logit_bias"),
    (CHAT, {"functions": [{}]}, "functions"),
    (CHAT, {"response_format": {"type": "xml"}}, "response_format"),
    (CHAT, {"response_format": {"type": "json_schema"}}, "response_format"),
    (CHAT, {"response_format": {"type": "json_schema", "json_schema": {"schema": nested(100)}}}, None),
    (CHAT, {"response_format": {"type": "json_schema", "json_schema": {"schema": {"title": "\udc00"}}}}, None),
    (CHAT, {"tools": [{"type": "function"}]}, "tools[0].function"),
    (CHAT, tool(parameters=[1]), "tools[0].function.parameters"),
    (CHAT, tool(parameters={"type": "string"}), "tools[0].function"),
    (CHAT, tool(parameters=nested(100)), None),
    (CHAT, tool(name="no spaces, please"), "tools[0].function.name"),
    (CHAT, {**tool(), "tool_choice": {"type": "function", "function": {"name": "g"}}}, None),
    (CHAT, {"tool_choice": "required"}, None),
    (TEXT, {"prompt": []}, "prompt"),
    (TEXT, {"prompt": [[]]}, "prompt"),
    (TEXT, {"prompt": [1, "x"]}, "prompt"),
    (TEXT, {"prompt": {"a": 1}}, "prompt"),
    (TEXT, {"prompt": [-1]}, "prompt"),
    (TEXT, {"prompt": [10**9]}, "prompt"),
    (TEXT, {"prompt": ["x"] * 5000}, "prompt"),
    (TEXT, {"max_tokens": 0}, None),
    (TEXT, {"logprobs": 1000}, "logprobs"),
    (TEXT, {"suffix": "x"}, "suffix"),
    (TEXT, {"best_of": 5}, None),
]


@pytest.mark.parametrize(("path", "change", "param"), CASES)
def test_what_has_no_meaning_is_refused_by_its_name(
    api: Served, path: str, change: dict[str, Any], param: str | None
) -> None:
    base: dict[str, Any] = {"model": MODEL, "prompt": "x"} if path == TEXT else {"model": MODEL, "messages": USER}
    body = json.dumps({**base, **change}).encode()
    answer = api.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert set(error) == {"message", "type", "param", "code"}
    if param is None:
        assert error["param"] is None
    else:
        assert error["param"].startswith(param)
        assert error["message"].startswith(param), error["message"]
    assert len(error["message"]) < 500


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"3", b"null", b'"x"', b"\xff\xfe", b'{"model": ' + b"[" * 100_000, b'{"model": ' + b"1" * 5000],
)
def test_a_body_that_is_no_json_object_is_refused(api: Served, body: bytes) -> None:
    for path in (CHAT, TEXT):
        answer = api.post(path, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400
        assert answer.json()["error"]["message"]


def test_errors_arrive_as_the_classes_of_the_client(api: Served) -> None:
    client = api.client()
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model=MODEL, messages=USER, temperature=-1)
    assert bad.value.param == "temperature"
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="gpt-9", messages=USER)
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "x" * 500}])
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model=MODEL, prompt="x" * 500, stream=True)


def test_addresses_methods_and_kinds_of_body_that_are_not_known_are_refused_in_the_same_shape(api: Served) -> None:
    for answer, status in (
        (api.get("/v1/nothing"), 404),
        (api.post("/v1/nothing", json={}), 404),
        (api.get(CHAT), 405),
        (api.post("/v1/models", json={}), 405),
        (api.post("/", content=b"x"), 405),
        (api.post(CHAT, content=b"model=x", headers={"Content-Type": "application/x-www-form-urlencoded"}), 415),
        (api.post(CHAT, content=b"{}"), 415),
    ):
        assert answer.status_code == status
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert "Allow" in answer.headers or status != 405


@pytest.mark.parametrize(
    "path",
    ["/../../../../etc/passwd", "/..%2f..%2f..%2fetc/passwd", "/%2e%2e/app.py", "//etc/passwd", "/page.css/../x",
     "/index.html%00.css", "/.git/config", "/__init__.py", "/\\..\\x", "/%c0%ae%c0%ae/", "/v1/../metrics/../x"],
)  # fmt: skip
def test_path_tricks_lead_nowhere(api: Served, path: str) -> None:
    with api.connect() as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        text = b"".join(iter(lambda: connection.recv(65536), b""))
    assert text.split()[1] in (b"404", b"400")


def test_every_response_carries_the_policy_and_none_can_be_read_from_elsewhere(api: Served) -> None:
    for answer in (api.get("/"), api.get("/v1/models"), api.get("/nothing"), api.post(CHAT, json={})):
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert not any(name.startswith("access-control") for name in answer.headers)
        assert "server" not in answer.headers


def test_foreign_names_and_origins_are_turned_away(api: Served) -> None:
    for host in ("evil.example", "evil.example:80", "localhost.evil.example", "127.0.0.1.evil.example", ""):
        assert api.get("/v1/models", headers={"Host": host}).status_code in (400, 403), host
    for host in ("localhost", "LOCALHOST:99", "127.0.0.1", "[::1]:80"):
        assert api.get("/v1/models", headers={"Host": host}).status_code == 200, host
    body = {"model": MODEL, "messages": USER}
    for origin in ("https://evil.example", "null", f"http://localhost:{api.port}", "http://127.0.0.1:1"):
        assert api.post(CHAT, json=body, headers={"Origin": origin}).status_code == 403, origin
    assert api.post(CHAT, json=body, headers={"Origin": api.url}).status_code == 200


def test_a_model_that_was_never_tuned_says_so_and_goes_on_with_texts(tokenizer: Tokenizer) -> None:
    with serving(Scripted(tokenizer), is_tuned=False) as api:
        with pytest.raises(openai.BadRequestError) as refused:
            api.client().chat.completions.create(model=MODEL, messages=USER)
        assert refused.value.code == "model_not_tuned"
        assert api.client().completions.create(model=MODEL, prompt="x").choices[0].finish_reason == "stop"


# --------------------------------------------------------------------------- what users type


def test_control_tokens_that_users_type_stay_text(tokenizer: Tokenizer) -> None:
    control = {tokenizer.token_to_id(token) for token in SPECIAL_TOKENS}
    typed = "".join(SPECIAL_TOKENS)
    backend = Scripted(tokenizer)

    def controls_of(text: str) -> list[int]:
        with_tool = [
            {"type": "function", "function": {"name": "f", "description": text, "parameters": {"title": text}}}
        ]
        client.chat.completions.create(
            model=MODEL, tools=with_tool,
            messages=[
                {"role": "system", "content": text},
                {"role": "user", "content": [{"type": "text", "text": text}, {"type": "text", "text": "<|"}]},
                {"role": "assistant", "content": text, "tool_calls": [
                    {"id": "1", "type": "function", "function": {"name": "f", "arguments": text}}]},
                {"role": "tool", "tool_call_id": "1", "content": text},
            ],
        )  # fmt: skip
        return [token for token in backend.requests[-1].prompt if token in control]

    with serving(backend) as api:
        client = api.client()
        assert controls_of(typed) == controls_of("plain")
        client.completions.create(model=MODEL, prompt=typed)
        assert [token for token in backend.requests[-1].prompt if token in control] == [
            tokenizer.token_to_id("<|end_of_text|>")
        ]


def test_reasoning_and_tool_calls_are_taken_apart_whole_and_streamed(tokenizer: Tokenizer) -> None:
    def control(token: str) -> int:
        return int(tokenizer.token_to_id(token))

    call = '{"name": "weather", "arguments": {"in": "Malmö"}}'
    said = [
        control("<think>"), *encode_text(tokenizer, "Ħsieb"), control("</think>"), *encode_text(tokenizer, "Jo."),
        control("<|tool_call|>"), *encode_text(tokenizer, call), control("<|/tool_call|>"),
    ]  # fmt: skip
    backend = Scripted(tokenizer, [Output(tokens=(token,)) for token in said])
    with serving(backend) as api:
        client = api.client()
        answer = client.chat.completions.create(model=MODEL, messages=USER)
        message = answer.choices[0].message
        assert (message.content, message.reasoning_content) == ("Jo.", "Ħsieb")  # type: ignore[attr-defined]
        assert message.tool_calls[0].function.name == "weather"
        assert json.loads(message.tool_calls[0].function.arguments) == {"in": "Malmö"}
        assert answer.choices[0].finish_reason == "tool_calls"
        deltas = [chunk.choices[0] for chunk in client.chat.completions.create(model=MODEL, messages=USER, stream=True)]
        assert "".join(each.delta.content or "" for each in deltas) == "Jo."
        assert "".join(getattr(each.delta, "reasoning_content", None) or "" for each in deltas) == "Ħsieb"
        (streamed,) = [each.delta.tool_calls[0] for each in deltas if each.delta.tool_calls]
        assert json.loads(streamed.function.arguments) == {"in": "Malmö"}
        assert deltas[-1].finish_reason == "tool_calls"


# --------------------------------------------------------------------------- failures of the engine


def test_what_an_engine_cannot_do_is_a_refusal_also_where_a_stream_was_asked_for(tokenizer: Tokenizer) -> None:
    with serving(Scripted(tokenizer, error=InputError("logprobs: this engine has none."))) as api:
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError, match="this engine has none"):
                api.client().chat.completions.create(model=MODEL, messages=USER, stream=stream)
        api.settle()


def test_a_fault_of_the_engine_tells_the_client_nothing_of_its_cause(
    tokenizer: Tokenizer, capfd: pytest.CaptureFixture[str]
) -> None:
    with serving(Scripted(tokenizer, error=ValueError("secret words"))) as api:
        with pytest.raises(openai.InternalServerError) as failure:
            api.client().chat.completions.create(model=MODEL, messages=USER)
        assert "secret" not in str(failure.value)
        assert failure.value.body["type"] == "server_error"
        api.settle()
    shown = capfd.readouterr().err
    assert "ValueError at served.py" in shown
    assert "secret" not in shown


def test_a_stream_that_breaks_ends_with_an_error_and_not_as_if_it_were_whole(tokenizer: Tokenizer) -> None:
    backend = Scripted(tokenizer, [Output(tokens=(65,), text="A")], error=ValueError("secret words"))
    with serving(backend) as api:
        body = {"model": MODEL, "messages": USER, "stream": True}
        text = api.post(CHAT, json=body).text
        assert "[DONE]" not in text and "secret" not in text
        assert json.loads(text.split("data: ")[-1])["error"]["type"] == "server_error"
        with pytest.raises(openai.APIError):
            list(api.client().chat.completions.create(**body))
        api.settle()


def test_an_answer_that_the_server_cuts_at_its_end_is_no_answer(tokenizer: Tokenizer) -> None:
    with serving(Scripted(tokenizer, [Output(tokens=(65,), text="A")], then="cancelled")) as api:
        with pytest.raises(openai.InternalServerError) as failure:
            api.client().chat.completions.create(model=MODEL, messages=USER)
        assert failure.value.status_code == 503
