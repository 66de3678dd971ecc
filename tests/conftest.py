"""A tokenizer of bare bytes and a random model, enough to be wrong with; and a disk that is soon full."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from hanse.model.config import ModelConfig
from hanse.model.transformer import Transformer
from hanse.runtime import Runtime
from hanse.serve.engine import Engine
from hanse.tune.template import SPECIAL_TOKENS

# How long an example takes says something about the machine, nothing about the code. The examples are the same in every
# run, so that a failure is about the change at hand; `make search` looks at new ones.
ANY_MACHINE = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
settings.register_profile("hanse", deadline=None, suppress_health_check=ANY_MACHINE, derandomize=True)
settings.register_profile("search", deadline=None, suppress_health_check=ANY_MACHINE, max_examples=2000)
settings.load_profile("hanse")

CONFIG = ModelConfig(
    vocab_size=272,
    hidden_size=48,
    intermediate_size=96,
    num_hidden_layers=3,
    num_attention_heads=4,
    q_lora_rank=24,
    kv_lora_rank=16,
    qk_nope_head_dim=12,
    qk_rope_head_dim=8,
    v_head_dim=12,
    moe_intermediate_size=32,
    n_routed_experts=4,
    num_experts_per_tok=2,
    first_k_dense_replace=1,
    max_position_embeddings=128,
    initializer_range=0.3,  # wide, so that the greedy text is not one token for ever
)


@pytest.fixture(autouse=True)
def _same_numbers() -> None:
    """Whatever ran before, a test draws the same numbers; what a fixture of a module draws has a seed of its own."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    built = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(letters)}, merges=[]))
    built.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    built.decoder = decoders.ByteLevel()
    return built


@pytest.fixture(scope="session")
def model() -> Transformer:
    return Transformer(CONFIG).init_weights(torch.Generator().manual_seed(5)).eval()


@pytest.fixture(scope="session")
def engine(model: Transformer, tokenizer: Tokenizer) -> Engine:
    return Engine(model, tokenizer, Runtime(device=torch.device("cpu")))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 1 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small file system needs root")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("this machine does not let us mount a small file system")
    yield place
    # A store that a test has left open keeps its index of digests open.
    subprocess.run(["umount", "-l", str(place)], check=True)
