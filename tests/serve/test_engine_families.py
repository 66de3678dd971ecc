"""The engine says what the model says, whatever its family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from hanse.model import hf
from hanse.model.config import ApertusConfig
from hanse.model.transformer import Transformer
from hanse.runtime import Runtime
from hanse.serve.engine import Engine, load_engine

transformers = pytest.importorskip("transformers")
CPU = Runtime(device=torch.device("cpu"))
COMMON: dict[str, Any] = {
    "vocab_size": 272,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,  # wide, so that the greedy text is not one token for ever
}
RECURRENT = {"mamba_d_ssm": 48, "mamba_n_heads": 4, "mamba_d_head": 12, "mamba_d_state": 8, "head_dim": 12}


def write(family: str, folder: Path, tokenizer: Tokenizer) -> Path:
    """A model folder with the tests' tokenizer."""
    if family == "apertus":
        model = Transformer(ApertusConfig(**COMMON, head_dim=12))
        hf.save(model.init_weights(torch.Generator().manual_seed(5)), folder)
    else:
        torch.manual_seed(5)
        controls = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
        sizes = {**COMMON, **controls, **(RECURRENT if family == "falcon_h1" else {})}
        config = transformers.AutoConfig.for_model(family, **sizes)
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module", params=["apertus", "llama", "falcon_h1"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    return write(request.param, tmp_path_factory.mktemp(request.param), tokenizer)


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine:
    return load_engine(folder, CPU)


def prompts(count: int, *, lengths: range) -> list[list[int]]:
    generator = torch.Generator().manual_seed(11)
    sizes = torch.randint(lengths.start, lengths.stop, (count,), generator=generator).tolist()
    return [torch.randint(0, 256, (size,), generator=generator).tolist() for size in sizes]


def test_cached_generation_gives_the_greedy_tokens_of_transformers(engine: Engine, folder: Path) -> None:
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for ids in prompts(4, lengths=range(1, 30)):
        expected = theirs.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            do_sample=False,
            max_new_tokens=15,
            eos_token_id=sorted(engine.end_ids),
            pad_token_id=0,
        )[0, len(ids) :].tolist()
        if expected and expected[-1] in engine.end_ids:
            expected = expected[:-1]
        assert list(engine.tokens(ids, max_tokens=15)) == expected


def test_every_prompt_of_a_batch_gets_what_it_would_get_alone(engine: Engine) -> None:
    asked = prompts(20, lengths=range(3, 7))
    limits = [1 + number % 9 for number in range(len(asked))]
    alone = [list(engine.tokens(ids, max_tokens=limit)) for ids, limit in zip(asked, limits, strict=True)]
    assert len({tuple(ids) for ids in alone}) > 10
    assert engine.complete(asked, max_tokens=limits) == alone


def test_generation_ends_where_the_context_ends(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "end_ids", frozenset())
    assert engine.context == 128
    assert len(list(engine.tokens([1] * 123, max_tokens=50))) == 5
