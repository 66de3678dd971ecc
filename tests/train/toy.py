"""A very small model and an endless supply of learnable batches, for the tests of the loop."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hanse.data.loader import Batch
from hanse.model.config import ModelConfig
from hanse.model.transformer import Transformer
from hanse.runtime import Runtime
from hanse.train.loop import train
from hanse.train.metrics import Summary

VOCABULARY = 61
LENGTH = 16
ROWS = 8
CPU = Runtime(device=torch.device("cpu"), dtype=torch.float32, threads=1)


@dataclass(frozen=True)
class ToySettings:
    learning_rate: float = 0.02
    adam_learning_rate: float = 0.01
    weight_decay: float = 0.01
    warmup_share: float = 0.1
    decay_share: float = 0.4
    gradient_clip: float = 1.0
    router_bias_rate: float = 0.01
    checkpoint_seconds: int = 1_000_000
    keep_checkpoints: int = 2
    compile: bool = False
    optimizer: str = "muon"
    z_loss: float = 0.0


TOY_CONFIG = ModelConfig(
    vocab_size=VOCABULARY,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=2,
    q_lora_rank=16,
    kv_lora_rank=16,
    qk_nope_head_dim=8,
    qk_rope_head_dim=4,
    v_head_dim=8,
    moe_intermediate_size=16,
    n_routed_experts=6,
    num_experts_per_tok=2,
    first_k_dense_replace=1,
    max_position_embeddings=LENGTH,
    initializer_range=0.1,
)


def toy_model(seed: int = 0, **changes: Any) -> Transformer:
    return Transformer(replace(TOY_CONFIG, **changes)).init_weights(torch.Generator().manual_seed(seed))


def toy_batch_at(step: int, *, micro_batches: int = 2) -> list[Batch]:
    """Rows that count upwards from a random start by a random small stride; a fifth of the targets is masked."""
    draw = torch.Generator().manual_seed(1000 + step)
    start = torch.randint(VOCABULARY, (ROWS, 1), generator=draw)
    stride = torch.randint(1, 4, (ROWS, 1), generator=draw)
    line = (start + stride * torch.arange(LENGTH + 1)) % VOCABULARY
    targets = line[:, 1:].masked_fill(torch.rand((ROWS, LENGTH), generator=draw) < 0.2, -100)
    whole = (line[:, :-1].contiguous(), targets, torch.zeros_like(targets))
    return [Batch(*parts) for parts in zip(*(part.chunk(micro_batches) for part in whole), strict=True)]


def toy_train(folder: Path, *, steps: int = 20, model: nn.Module | None = None, **changes: Any) -> Summary:
    """A short run in `folder`; `changes` replace the arguments of `train`."""
    arguments: dict[str, Any] = {
        "batch_at": toy_batch_at,
        "settings": ToySettings(),
        "runtime": CPU,
        "steps": steps,
        "scratch": folder / "scratch",
        "run": folder / "run",
        "identity": {"data": "toy"},
        "checkpoint_steps": 5,
    } | changes
    return train(model if model is not None else toy_model(), **arguments)


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over all parameters and persistent buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()
