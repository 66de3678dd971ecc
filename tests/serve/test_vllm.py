"""vLLM behind the API. Where it is not installed, only that this is said, and how its answers are read."""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest
from tokenizers import Tokenizer

from hanse.errors import InputError
from hanse.model import hf
from hanse.model.transformer import Transformer
from hanse.serve import vllm
from hanse.serve.engine import Engine
from hanse.serve.request import Logprob, Request, Sampling

IS_THERE = importlib.util.find_spec("vllm") is not None


@pytest.mark.skipif(IS_THERE, reason="vLLM is installed")
def test_without_vllm_a_person_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="vLLM is not installed"):
        vllm.VllmBackend.open(tmp_path)


def test_the_drawn_token_is_not_among_the_alternatives_unless_it_is_likely() -> None:
    tables = [{7: SimpleNamespace(logprob=-3.0), 1: SimpleNamespace(logprob=-0.1), 2: SimpleNamespace(logprob=-2.0)}]
    assert vllm._logprobs([7], tables, 2) == (Logprob(7, -3.0, ((1, -0.1), (2, -2.0))),)
    assert vllm._logprobs([7], tables, 0) == (Logprob(7, -3.0),)
    assert vllm._logprobs([7], tables, None) == vllm._logprobs([7], None, 2) == ()


def test_a_reason_that_vllm_gives_for_ending_becomes_ours() -> None:
    assert [vllm._finish(reason) for reason in ("stop", "length", "abort", None)] == [
        "stop", "length", "cancelled", None,
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(not IS_THERE, reason="vLLM is not installed")
def test_greedy_tokens_are_those_of_our_engine(
    engine: Engine, model: Transformer, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    hf.save(model, tmp_path, token_ids={"eos_token_id": tokenizer.token_to_id("<|end_of_text|>")})
    tokenizer.save(str(tmp_path / "tokenizer.json"))

    async def compare() -> None:
        backend = vllm.VllmBackend.open(tmp_path, dtype="float32")
        try:
            for prompt in ((1, 2, 3), tuple(range(40)), (200, 201)):
                stream = backend.generate(Request(prompt, Sampling(max_tokens=20)))
                found = [token async for output in stream for token in output.tokens]
                assert found == list(engine.tokens(prompt, max_tokens=20))
        finally:
            await backend.close()

    asyncio.run(compare())
