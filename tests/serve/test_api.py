"""The API with OpenAI's own client and a real engine: what it says is what the engine says, in their shape."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace

import openai
import pytest
import torch
from served import MODEL, Served, serving
from tokenizers import Tokenizer

from hanse.model.transformer import Transformer
from hanse.runtime import Runtime
from hanse.serve.engine import Engine
from hanse.serve.native import NativeBackend
from hanse.tune.template import encode_text, render

HELLO = [{"role": "user", "content": "Καλημέρα"}]


@pytest.fixture(scope="module")
def api(model: Transformer, tokenizer: Tokenizer) -> Iterator[Served]:
    runtime = Runtime(device=torch.device("cpu"))
    with serving(NativeBackend(Engine(model, tokenizer, runtime), runtime)) as served:
        yield served


@pytest.fixture(scope="module")
def client(api: Served) -> openai.OpenAI:
    return api.client()


def greedy(engine: Engine, messages: list[dict[str, str]], max_tokens: int) -> str:
    ids = render(engine.tokenizer, messages, add_generation_prompt=True).ids
    return engine.text(engine.tokens(ids, max_tokens=max_tokens))


# --------------------------------------------------------------------------- conversations


def test_a_chat_answer_is_what_the_engine_says(client: openai.OpenAI, engine: Engine, tokenizer: Tokenizer) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=HELLO, temperature=0, max_tokens=20)
    assert answer.choices[0].message.content == greedy(engine, HELLO, 20)
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage.prompt_tokens == len(render(tokenizer, HELLO, add_generation_prompt=True).ids)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.completion_tokens <= 20


def test_a_streamed_answer_joins_to_the_whole_one(client: openai.OpenAI, engine: Engine) -> None:
    chunks = list(
        client.chat.completions.create(
            model=MODEL, messages=HELLO, temperature=0, max_tokens=20, stream=True,
            stream_options={"include_usage": True},
        )
    )  # fmt: skip
    assert chunks[0].choices[0].delta.role == "assistant"
    said = [chunk.choices[0].delta.content or "" for chunk in chunks[:-1]]
    assert "".join(said) == greedy(engine, HELLO, 20)
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]][-1] in ("stop", "length")
    assert all(chunk.choices[0].finish_reason is None for chunk in chunks[:-2])
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens <= 20
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_ends_with_done_and_nothing_else_is_in_it(api: Served) -> None:
    body = {"model": MODEL, "messages": HELLO, "max_tokens": 5, "stream": True}
    text = api.post("/v1/chat/completions", json=body).text
    events = text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(json.loads(each.removeprefix("data: "))["object"] == "chat.completion.chunk" for each in events[:-2])


def test_the_same_seed_gives_the_same_answers_and_each_choice_its_own(client: openai.OpenAI) -> None:
    def ask(seed: int) -> list[str]:
        answer = client.chat.completions.create(model=MODEL, messages=HELLO, n=3, seed=seed, max_tokens=12)
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        return [choice.message.content for choice in answer.choices]

    assert ask(7) == ask(7)
    assert len(set(ask(7))) == 3
    assert ask(8) != ask(7)
    assert ask(8)[0] == ask(7)[1]  # choice i is drawn with seed + i


def test_chat_logprobs_are_those_of_the_tokens_whole_and_streamed(client: openai.OpenAI) -> None:
    asked = {"model": MODEL, "messages": HELLO, "temperature": 0, "max_tokens": 8, "logprobs": True, "top_logprobs": 3}
    whole = client.chat.completions.create(**asked)
    found = whole.choices[0].logprobs.content
    assert len(found) == whole.usage.completion_tokens
    for each in found:
        assert len(each.top_logprobs) == 3
        assert each.logprob == max(top.logprob for top in each.top_logprobs)  # greedy takes the likeliest
        assert each.logprob <= 0
    streamed = client.chat.completions.create(**asked, stream=True)
    pieces = [entry for chunk in streamed if chunk.choices[0].logprobs for entry in chunk.choices[0].logprobs.content]
    assert [each.token for each in pieces] == [each.token for each in found]
    # The beginning of the second prompt comes out of the cache, so its sums may be rounded otherwise.
    assert [each.logprob for each in pieces] == pytest.approx([each.logprob for each in found], abs=1e-5)


def test_a_stop_text_ends_the_answer_and_is_not_part_of_it(client: openai.OpenAI, engine: Engine) -> None:
    said = greedy(engine, HELLO, 20)
    stop = said[5:7]
    answer = client.chat.completions.create(model=MODEL, messages=HELLO, temperature=0, max_tokens=20, stop=stop)
    assert answer.choices[0].message.content == said[: said.index(stop)]
    assert answer.choices[0].finish_reason == "stop"


def test_an_answer_obeys_the_json_schema(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"is_capital": {"type": "boolean"}, "city": {"enum": ["Αθήνα", "Valletta"]}},
        "required": ["is_capital", "city"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "?"}], seed=3, max_tokens=90,
        response_format={"type": "json_schema", "json_schema": {"name": "city", "schema": schema}},
    )  # fmt: skip
    found = json.loads(answer.choices[0].message.content)
    assert set(found) == {"is_capital", "city"}
    assert found["city"] in ("Αθήνα", "Valletta")


def test_a_forced_tool_is_called_with_arguments_that_its_schema_allows(
    model: Transformer, tokenizer: Tokenizer
) -> None:
    place = {"type": "object", "properties": {"in": {"enum": ["Riga", "Malmö"]}}, "required": ["in"]}
    tool = {"type": "function", "function": {"name": "weather", "parameters": {**place, "additionalProperties": False}}}
    other = {"type": "function", "function": {"name": "time"}}
    config = replace(model.config, max_position_embeddings=512)  # a tool alone is longer than 128 bytes
    wide = Transformer(config).init_weights(torch.Generator().manual_seed(5)).eval()
    runtime = Runtime(device=torch.device("cpu"))
    asked = {"model": MODEL, "messages": [{"role": "user", "content": "?"}], "seed": 1, "max_tokens": 90}
    with serving(NativeBackend(Engine(wide, tokenizer, runtime), runtime)) as api:
        create = api.client().chat.completions.create
        by_name = {"type": "function", "function": {"name": "weather"}}
        for tools, choice in (([tool], "required"), ([tool, other], by_name)):
            answer = create(**asked, tools=tools, tool_choice=choice)
            (call,) = answer.choices[0].message.tool_calls
            assert call.function.name == "weather"
            assert json.loads(call.function.arguments)["in"] in ("Riga", "Malmö")
            assert answer.choices[0].finish_reason == "tool_calls"
            assert answer.choices[0].message.content is None
        told = create(**asked, tools=[tool])
        untold = create(**asked, tools=[tool], tool_choice="none")
        assert untold.usage.prompt_tokens == create(**asked).usage.prompt_tokens < told.usage.prompt_tokens


# --------------------------------------------------------------------------- texts


def reference_logprobs(model: Transformer, ids: list[int]) -> list[list[float]]:
    """Of every token behind every prefix, by one plain forward."""
    with torch.inference_mode():
        logits = model.logits(model(torch.tensor([ids])))[0]
    return torch.log_softmax(logits.float(), -1).tolist()


def test_a_completion_of_text_goes_on_behind_an_end_of_text(
    client: openai.OpenAI, engine: Engine, tokenizer: Tokenizer
) -> None:
    ids = [tokenizer.token_to_id("<|end_of_text|>"), *encode_text(tokenizer, "Riga")]
    answer = client.completions.create(model=MODEL, prompt="Riga", temperature=0, max_tokens=10)
    assert answer.choices[0].text == engine.text(engine.tokens(ids, max_tokens=10))
    assert answer.usage.prompt_tokens == len(ids)
    streamed = client.completions.create(model=MODEL, prompt="Riga", temperature=0, max_tokens=10, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == answer.choices[0].text


def test_echo_and_logprobs_score_token_ids_as_a_plain_forward_does(
    client: openai.OpenAI, model: Transformer, tokenizer: Tokenizer
) -> None:
    ids = encode_text(tokenizer, "Żebbuġ, 2 + 2")
    answer = client.completions.create(model=MODEL, prompt=ids, max_tokens=1, echo=True, logprobs=2, temperature=0)
    found = answer.choices[0].logprobs
    expected = reference_logprobs(model, ids)
    assert len(found.token_logprobs) == len(ids) + 1
    assert found.token_logprobs[0] is None
    assert found.top_logprobs[0] is None
    for place in range(1, len(ids)):
        assert math.isclose(found.token_logprobs[place], expected[place - 1][ids[place]], abs_tol=1e-4)
        best = max(found.top_logprobs[place].values())
        assert math.isclose(best, max(expected[place - 1]), abs_tol=1e-4)
        assert found.token_logprobs[place] in found.top_logprobs[place].values()
        assert 2 <= len(found.top_logprobs[place]) <= 3
    assert answer.choices[0].text.startswith("Żebbuġ, 2 + 2")
    assert found.text_offset[:3] == [0, 0, 1]  # the Ż is two tokens
    assert len(set(found.tokens[:2])) == 2
    assert found.tokens[0].startswith("bytes:")


def test_echo_without_a_token_more_gives_the_prompt_alone(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt="abc", max_tokens=0, echo=True, logprobs=0)
    assert answer.choices[0].text == "abc"
    assert answer.choices[0].logprobs.tokens == ["a", "b", "c"]
    # The end of text before it, which is not shown, gives the first token a logprob too.
    assert all(value < 0 for value in answer.choices[0].logprobs.token_logprobs)
    assert answer.usage.completion_tokens == 0


def test_scoring_always_gives_the_entry_that_evaluations_cut_off(
    client: openai.OpenAI, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [[number, 7] for number in range(12)]
    answer = client.completions.create(model=MODEL, prompt=prompts, max_tokens=1, echo=True, logprobs=1, temperature=0)
    assert [len(choice.logprobs.token_logprobs) for choice in answer.choices] == [3] * 12


def test_many_prompts_are_answered_in_their_order(client: openai.OpenAI) -> None:
    prompts = ["a", "bb", "ccc"]
    together = client.completions.create(model=MODEL, prompt=prompts, temperature=0, max_tokens=6, n=2, echo=True)
    assert [choice.index for choice in together.choices] == list(range(6))
    for number, prompt in enumerate(prompts):
        alone = client.completions.create(model=MODEL, prompt=prompt, temperature=0, max_tokens=6, echo=True)
        assert together.choices[2 * number].text == alone.choices[0].text
        assert together.choices[2 * number + 1].text == alone.choices[0].text
    assert together.usage.prompt_tokens == 2 + 3 + 4


def test_settings_beyond_those_of_openai_reach_the_engine(client: openai.OpenAI, engine: Engine) -> None:
    def ask(**extra: object) -> str:
        return client.completions.create(
            model=MODEL, prompt="abc", temperature=5, max_tokens=8, seed=1, extra_body=extra
        ).choices[0].text  # fmt: skip

    likeliest = client.completions.create(model=MODEL, prompt="abc", temperature=0, max_tokens=8).choices[0].text
    assert ask(top_k=1) == likeliest
    assert ask(min_p=1.0) == likeliest
    assert ask() != likeliest
    assert ask(top_k=-1) == ask()
    plain = client.completions.create(model=MODEL, prompt="abc", temperature=0, max_tokens=20).choices[0].text
    extra = {"repetition_penalty": 50.0}
    other = client.completions.create(model=MODEL, prompt="abc", temperature=0, max_tokens=20, extra_body=extra)
    assert other.choices[0].text != plain


# --------------------------------------------------------------------------- beside the answers


def test_the_model_is_listed_and_found_by_its_name(client: openai.OpenAI) -> None:
    (found,) = client.models.list().data
    assert found.id == MODEL
    assert client.models.retrieve(MODEL).max_model_len == 128  # type: ignore[attr-defined]
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other/model")


def test_metrics_count_and_hold_no_text(api: Served, client: openai.OpenAI) -> None:
    client.completions.create(model=MODEL, prompt="Vallettavalletta", max_tokens=4)
    api.get("/v1/Vallettavalletta?Vallettavalletta")
    text = api.get("/metrics").text
    assert 'hanse_requests_total{method="POST",path="/v1/completions",status="200"}' in text
    assert 'path="other",status="404"' in text
    assert "hanse_generated_tokens_total" in text
    assert "hanse_first_token_seconds_bucket" in text
    assert "Valletta" not in text


def test_health_answers_and_the_document_of_the_api_has_no_status_that_is_never_given(api: Served) -> None:
    assert api.get("/health").json() == {"status": "ok"}
    document = api.get("/openapi.json").json()
    assert set(document["paths"]) >= {"/v1/chat/completions", "/v1/completions", "/v1/models", "/health", "/metrics"}
    assert "422" not in document["paths"]["/v1/completions"]["post"]["responses"]
    assert "Draft" not in str(document) and "http" not in json.dumps(document["paths"])
    assert api.get("/docs").status_code == api.get("/redoc").status_code == 404
