"""The compiled step computes what the plain one computes, and answers are the same."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from tokenizers import Tokenizer

from hanse.errors import InputError
from hanse.model import product
from hanse.model.cache import View
from hanse.model.config import ApertusConfig, ModelConfig
from hanse.model.product import FEW_ROWS
from hanse.model.transformer import Transformer
from hanse.runtime import Runtime
from hanse.serve.compiled import CompiledStep
from hanse.serve.engine import Engine
from hanse.serve.request import Request, Sampling

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="no C++ compiler here"),
]
CPU = Runtime(device=torch.device("cpu"))
BLOCK = 4


@pytest.fixture(autouse=True)
def _no_graphs_of_earlier_tests() -> None:
    """The compiler keeps some eight graphs of one function in a process; an engine needs two."""
    torch._dynamo.reset()


def made(family: str, model: Transformer) -> Transformer:
    if family == "apertus":
        config: Any = ApertusConfig(
            vocab_size=model.config.vocab_size, hidden_size=32, intermediate_size=80, num_hidden_layers=2,
            num_attention_heads=6, num_key_value_heads=2, head_dim=8, initializer_range=0.2,
        )  # fmt: skip
    else:
        config = replace(
            cast(ModelConfig, model.config), n_routed_experts=8, num_experts_per_tok=3, n_shared_experts=1,
            moe_intermediate_size=16, first_k_dense_replace=1, initializer_range=0.2,
        )  # fmt: skip
    return Transformer(config).init_weights(torch.Generator().manual_seed(5)).eval()


@pytest.mark.parametrize("weights", ["small", "large"])
@pytest.mark.parametrize("family", ["experts", "apertus"])
@torch.inference_mode()
def test_a_compiled_step_gives_and_writes_what_the_plain_one_does(
    family: str, weights: str, model: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    if weights == "large":
        monkeypatch.setattr(product, "_LARGE", 1)
    network = made(family, model)
    blocks = [[9, 2, 14, 5], [3, 4, 6, 7], [11, 12, 8, 1]]
    draw = random.Random(1)
    pools = [network.new_pool(17, block=BLOCK) for _ in range(2)]
    step = CompiledStep(network, pools[1])
    starts = [1, 6, 11]
    for row, start in enumerate(starts):
        prompt = torch.tensor([draw.randrange(97) for _ in range(start)])
        for pool in pools:
            network.extend(prompt, View.of(pool, [(start, [(0, blocks[row], 0)])]))
    for rows in ([0], [2], [0, 1], [0, 1, 2], [0, 1, 2]):
        texts = [(starts[row], blocks[row], 0) for row in rows]
        tokens = [draw.randrange(97) for _ in rows]
        expected = network.extend(torch.tensor(tokens), View.of(pools[0], [(1, texts)]))
        torch.testing.assert_close(step(tokens, texts), expected, atol=3e-5, rtol=1e-4)
        for row in rows:
            starts[row] += 1
    for held, other in zip(pools[0].held, pools[1].held, strict=True):
        torch.testing.assert_close(held[BLOCK:], other[BLOCK:], atol=3e-5, rtol=1e-4)


def test_answers_of_a_compiled_engine_are_those_of_a_plain_one(model: Transformer, tokenizer: Tokenizer) -> None:
    network = made("experts", model)
    draw = random.Random(2)
    prompts = [[draw.randrange(256) for _ in range(draw.randrange(1, 40))] for _ in range(6)]
    plain = Engine(network, tokenizer, CPU).complete(prompts, max_tokens=20)
    assert Engine(network, tokenizer, CPU, compiles=True).complete(prompts, max_tokens=20) == plain


def test_more_texts_than_a_graph_takes_get_the_plain_step(
    model: Transformer, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    compute = CompiledStep.__call__

    def watch(step: CompiledStep, tokens: Any, texts: Any) -> torch.Tensor:
        taken.append(len(tokens))
        return compute(step, tokens, texts)

    monkeypatch.setattr(CompiledStep, "__call__", watch)
    network = made("experts", model)
    limits = [4 + row // 4 for row in range(FEW_ROWS + 8)]
    prompts = [[row + 1, 7, 5] for row in range(len(limits))]
    plain = Engine(network, tokenizer, CPU).complete(prompts, max_tokens=limits)
    torch._dynamo.utils.counters.clear()
    assert Engine(network, tokenizer, CPU, compiles=True).complete(prompts, max_tokens=limits) == plain
    assert max(taken) == FEW_ROWS
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


def test_a_place_that_others_read_is_not_written(model: Transformer) -> None:
    network = made("experts", model)
    with torch.inference_mode():
        pool = network.new_pool(4, block=BLOCK)
        step = CompiledStep(network, pool)
        before = [held.clone() for held in pool.held]
        step([5], [(2, [3], 4)])
    for held, old in zip(pool.held, before, strict=True):
        assert torch.equal(held[BLOCK:], old[BLOCK:])


def test_where_no_compiler_is_the_engine_says_so(
    model: Transformer, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **named: object) -> None:
        raise RuntimeError("no C++ compiler found")

    monkeypatch.setattr(CompiledStep, "warm_up", fail)
    with pytest.raises(InputError, match=r"--compile.*no C.. compiler found.*leave it out"):
        Engine(model, tokenizer, CPU, compiles=True)


def test_routes_are_recorded_beside_a_compiled_step(model: Transformer, tokenizer: Tokenizer) -> None:
    network = made("experts", model)
    request = Request((1, 2, 3), Sampling(max_tokens=6), records_routes=True)
    routes = []
    for compiles in (False, True):
        engine = Engine(network, tokenizer, CPU, compiles=compiles)
        routes.append([output.routes for output in engine.outputs(request)])
    assert routes[0] == routes[1]
