"""Many requests at once: each answer is what it would be alone, whatever the engine does to make room."""

from __future__ import annotations

import json
import random
import time
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from tokenizers import Tokenizer

from hanse.errors import InputError
from hanse.model.cache import View
from hanse.model.config import ModelConfig
from hanse.model.transformer import Transformer
from hanse.runtime import Runtime
from hanse.serve.engine import Engine
from hanse.serve.request import Output, Request, Sampling
from hanse.serve.schedule import BLOCK

CPU = Runtime(device=torch.device("cpu"))
DRAWN = Sampling(max_tokens=14, temperature=1.0, top_k=40, seed=7, repetition_penalty=1.2)
GREEDY = Sampling(max_tokens=14)


@pytest.fixture(scope="module")
def drafting(model: Transformer) -> Transformer:
    """A model with a multi-token block."""
    config = replace(cast(ModelConfig, model.config), num_nextn_predict_layers=1)
    return Transformer(config).init_weights(torch.Generator().manual_seed(6)).eval()


def prompts(count: int, lengths: range) -> list[tuple[int, ...]]:
    draw = random.Random(3)
    return [tuple(draw.randrange(256) for _ in range(draw.choice(lengths))) for _ in range(count)]


def answers(engine: Engine, requests: list[Request], *, at_once: bool = True) -> list[list[Output]]:
    """The pieces of each; new requests come while others are answered."""
    found: list[list[Output]] = [[] for _ in requests]
    for number, request in enumerate(requests):
        engine.submit(request, found[number].append)
        if number % 2:
            engine.step()
        while not at_once and not engine.is_idle:
            engine.step()
    while not engine.is_idle:
        engine.step()
    assert all(pieces[-1].finish and not any(piece.finish for piece in pieces[:-1]) for pieces in found)
    return found


def ids(pieces: list[Output]) -> list[int]:
    return [token for piece in pieces for token in piece.tokens]


@pytest.mark.parametrize("sampling", [GREEDY, DRAWN], ids=["greedy", "drawn"])
@pytest.mark.parametrize("settings", [{}, {"chunk": 5}, {"cache_tokens": 9 * BLOCK}], ids=["whole", "pieces", "tight"])
def test_answers_in_company_are_those_given_alone(
    model: Transformer, tokenizer: Tokenizer, sampling: Sampling, settings: dict[str, Any]
) -> None:
    asked = [Request(prompt, sampling) for prompt in prompts(12, range(1, 70))]
    company = Engine(model, tokenizer, CPU, **settings)
    alone = [answers(Engine(model, tokenizer, CPU), [request])[0] for request in asked]
    together = answers(company, asked)
    assert [ids(pieces) for pieces in together] == [ids(pieces) for pieces in alone]
    assert company.stats().cache_tokens == 0
    assert (company.stats().preemptions > 0) == ("cache_tokens" in settings)


def test_a_prompt_that_begins_like_an_earlier_one_is_not_read_again(model: Transformer, tokenizer: Tokenizer) -> None:
    engine = Engine(model, tokenizer, CPU)
    start = prompts(1, range(50, 51))[0]
    asked = [Request((*start, 7), GREEDY), Request((*start, 8, 9), GREEDY), Request((*start, 7), GREEDY)]
    found = answers(engine, asked, at_once=False)
    assert [pieces[0].cached for pieces in found] == [0, 48, 48]
    assert ids(found[2]) == ids(found[0])
    assert ids(found[1]) == ids(answers(Engine(model, tokenizer, CPU), [asked[1]])[0])
    (other,) = answers(engine, [Request(start, GREEDY, salt="another")])
    assert other[0].cached == 0
    (whole,) = answers(engine, [Request(start[:48], GREEDY)])
    assert whole[0].cached == 47  # its last token has to be computed for what follows it
    assert ids(whole) == ids(answers(Engine(model, tokenizer, CPU), [Request(start[:48], GREEDY)])[0])


def test_a_conversation_that_goes_on_finds_its_own_answer_in_the_cache(
    model: Transformer, tokenizer: Tokenizer
) -> None:
    engine = Engine(model, tokenizer, CPU)
    prompt = prompts(1, range(30, 31))[0]
    sampling = Sampling(max_tokens=20, ignore_end=True)
    (first,) = answers(engine, [Request(prompt, sampling)])
    (second,) = answers(engine, [Request(prompt + tuple(ids(first)) + (5,), GREEDY)])
    assert second[0].cached == 48


class Guessing(Engine):
    """Proposes what it was told, in place of what its multi-token block says: right two times in three."""

    told: dict[tuple[int, ...], list[int]]

    def _propose(self, due: Any, hidden_ND: torch.Tensor) -> None:
        super()._propose(due, hidden_ND)
        for part in due:
            sequence = part.sequence
            known = self.told[sequence.request.prompt]
            if sequence.left == 1 and sequence.finish is None and sequence.said < len(known):
                right = known[sequence.said]
                sequence.draft = right if (sequence.said + len(known)) % 3 else (right + 1) % 256


@pytest.mark.parametrize("sampling", [GREEDY, DRAWN, replace(GREEDY, ignore_end=True)], ids=["greedy", "drawn", "long"])
def test_answers_with_proposed_tokens_are_those_without(
    drafting: Transformer, tokenizer: Tokenizer, sampling: Sampling
) -> None:
    asked = [Request(prompt, sampling) for prompt in prompts(10, range(1, 60))]
    plain = [ids(pieces) for pieces in answers(Engine(drafting, tokenizer, CPU, speculate=False), asked)]
    own = Engine(drafting, tokenizer, CPU)
    assert [ids(pieces) for pieces in answers(own, asked, at_once=False)] == plain
    assert own.stats().drafted > 0
    guessing = Guessing(drafting, tokenizer, CPU, chunk=40)
    guessing.told = {request.prompt: said for request, said in zip(asked, plain, strict=True)}
    assert [ids(pieces) for pieces in answers(guessing, asked, at_once=False)] == plain
    stats = guessing.stats()
    assert stats.accepted > stats.drafted / 3
    assert stats.accepted < stats.drafted
    assert stats.generated_tokens >= sum(len(said) for said in plain)


def test_proposals_of_the_multi_token_block_are_what_it_says_of_the_whole_text(
    drafting: Transformer, tokenizer: Tokenizer
) -> None:
    engine = Engine(drafting, tokenizer, CPU, chunk=7)
    (prompt,) = prompts(1, range(20, 21))
    sequence = engine.submit(Request(prompt, replace(GREEDY, ignore_end=True)), lambda _: None)
    while sequence.said < 6:
        engine.step()
        if sequence.draft is None:
            continue
        with torch.inference_mode():
            tokens = torch.tensor([sequence.tokens])
            hidden = drafting(tokens)
            pool = drafting.new_pool(5, block=64, is_drafting=True)
            count = tokens.shape[1] - 1
            past = View.of(pool, [(count, [(1, [1], 0)])], hides_first=True)
            said = drafting.logits(drafting.draft(hidden[0, :-1], tokens[0, 1:], past))[-1].argmax()
        assert sequence.draft == int(said)


def test_logprobs_are_those_of_the_whole_text(model: Transformer, tokenizer: Tokenizer) -> None:
    (prompt,) = prompts(1, range(20, 21))
    sampling = Sampling(max_tokens=6, temperature=0.7, seed=1, logprobs=3, ignore_end=True)
    (pieces,) = answers(Engine(model, tokenizer, CPU, chunk=6), [Request(prompt, sampling, prompt_logprobs=True)])
    text = [*prompt, *ids(pieces)]
    with torch.inference_mode():
        expected = model.logits(model(torch.tensor([text])))[0].log_softmax(-1)
    noted = [*pieces[0].prompt_logprobs, *(noted for piece in pieces for noted in piece.logprobs)]
    assert [logprob.token for logprob in noted] == text[1:]
    assert all(not piece.prompt_logprobs for piece in pieces[1:])
    for place, logprob in enumerate(noted):
        assert logprob.value == pytest.approx(float(expected[place, logprob.token]), abs=1e-3)
        assert [token for token, _ in logprob.top] == expected[place].topk(3).indices.tolist()


def test_recorded_routes_are_those_of_the_whole_text(drafting: Transformer, tokenizer: Tokenizer) -> None:
    (prompt,) = prompts(1, range(30, 31))
    request = Request(prompt, Sampling(max_tokens=8, ignore_end=True), records_routes=True)
    (pieces,) = answers(Engine(drafting, tokenizer, CPU, chunk=11), [request])
    routes = [route for piece in pieces for route in piece.routes]
    text = [*prompt, *ids(pieces)][:-1]
    seen: list[torch.Tensor] = []
    routers = [router for layer, router in drafting.routers().items() if layer < drafting.config.num_hidden_layers]
    hooks = [router.register_forward_hook(lambda _, __, out: seen.append(out.experts_NK)) for router in routers]
    with torch.inference_mode():
        drafting(torch.tensor([text]))
    for hook in hooks:
        hook.remove()
    expected = torch.stack(seen, 1)
    assert len(routes) == len(text)
    for found, token in zip(routes, expected.tolist(), strict=True):
        assert [set(layer) for layer in found] == [set(layer) for layer in token]


def test_a_cancelled_request_leaves_at_once_and_a_late_one_at_its_time(
    model: Transformer, tokenizer: Tokenizer
) -> None:
    engine = Engine(model, tokenizer, CPU)
    pieces: list[Output] = []
    sampling = Sampling(max_tokens=100, ignore_end=True)
    sequence = engine.submit(Request((1, 2, 3), sampling), pieces.append)
    late = Request((4, 5), sampling, deadline=time.monotonic() - 1)
    engine.submit(late, pieces.append)
    engine.step()
    assert pieces[0].finish == "deadline"
    assert engine.stats().cache_tokens > 0
    engine.cancel(sequence)
    assert (pieces[-1].finish, engine.is_idle, engine.stats().cache_tokens) == ("cancelled", True, 0)


def test_a_stop_string_is_found_across_tokens_and_not_given_out(model: Transformer, tokenizer: Tokenizer) -> None:
    engine = Engine(model, tokenizer, CPU)
    (prompt,) = prompts(1, range(9, 10))
    whole = "".join(engine.stream(prompt, max_tokens=30, ignore_end=True))
    stop = next(whole[at : at + 2] for at in range(4, len(whole) - 2) if whole.find(whole[at : at + 2]) == at)
    (pieces,) = answers(engine, [Request(prompt, Sampling(max_tokens=30, ignore_end=True, stop=(stop,)))])
    assert "".join(piece.text for piece in pieces) == whole[: whole.index(stop)]
    assert pieces[-1].finish == "stop"


@pytest.mark.parametrize("token", [-1, 272])
def test_a_token_that_the_model_does_not_know_is_refused(engine: Engine, token: int) -> None:
    with pytest.raises(InputError, match="knows 0 to 271"):
        engine.submit(Request((1, token)), lambda _: None)
    assert engine.is_idle


def test_an_answer_that_was_asked_for_a_schema_is_what_it_allows(model: Transformer, tokenizer: Tokenizer) -> None:
    properties = {"αβγ": {"enum": ["ναι", "όχι"]}}
    schema = json.dumps(
        {"type": "object", "properties": properties, "required": ["αβγ"], "additionalProperties": False}
    )
    for at_once in (True, False):
        engine = Engine(model, tokenizer, CPU)
        requests = [Request((1, 2, number), Sampling(max_tokens=90, schema=schema)) for number in range(3)]
        for pieces in answers(engine, requests, at_once=at_once):
            assert json.loads("".join(piece.text for piece in pieces))["αβγ"] in ("ναι", "όχι")
