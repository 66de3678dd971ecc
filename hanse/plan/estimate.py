"""What a recipe will cost before it runs: sizes, steps, FLOP, and estimates of time and memory. Torch-free.

The estimates are of training alone, which dominates; each names what it rests on.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

from hanse.console import duration
from hanse.model.config import ApertusConfig, ForeignConfig, ModelConfig, configure
from hanse.recipe import Recipe
from hanse.train.rates import rule

# Share of the measured matrix rate that a training step reaches on a CPU in float32; bench/train_cpu.py measures it.
EFFICIENCY = 0.35
# Where a model's tensors are not known one by one: float32 weights, gradients and two moments, bytes per parameter, and
# float32 values that a layer keeps per token for the backward pass, in multiples of the hidden size.
BYTES_PER_PARAMETER = 16
ACTIVATIONS_PER_LAYER = 40


@dataclass(frozen=True)
class Plan:
    """Derived figures. Units: tokens, FLOP, seconds, bytes."""

    parameters: int
    active_parameters: int
    steps: int
    tokens: int
    flop_per_token: int
    flop: int
    matrix_flop_per_second: float
    seconds: float
    memory_bytes: int


def model_config(recipe: Recipe) -> ModelConfig | ApertusConfig | ForeignConfig:
    """The shapes that `[model]` stands for; the context is what training shows. Raises InputError if impossible."""
    context = max(training.sequence_length for training in (recipe.pretrain, *recipe.tune))
    return configure(recipe.model, vocab_size=recipe.tokenizer.vocab_size, context=context)


def plan(recipe: Recipe, *, matrix_flop_per_second: float | None = None) -> Plan:
    """Work out what pre-training takes.

    Args:
        recipe: the parsed recipe.
        matrix_flop_per_second: the machine's float32 matrix rate; measured here in a moment when not given.
    """
    config, train = model_config(recipe), recipe.pretrain
    rate = measured_matrix_rate() if matrix_flop_per_second is None else matrix_flop_per_second
    tokens = train.tokens
    flop_per_token = config.flop_per_token(train.sequence_length)
    return Plan(
        parameters=config.parameters(),
        active_parameters=config.active_parameters(),
        steps=train.steps,
        tokens=tokens,
        flop_per_token=flop_per_token,
        flop=tokens * flop_per_token,
        matrix_flop_per_second=rate,
        seconds=tokens * flop_per_token / (EFFICIENCY * rate),
        memory_bytes=_memory_bytes(recipe, config),
    )


def _memory_bytes(recipe: Recipe, config: ModelConfig | ApertusConfig | ForeignConfig) -> int:
    """Of one process on a CPU in float32; with bfloat16 it is less."""
    from hanse.plan.layout import Layout
    from hanse.plan.memory import memory

    train = recipe.pretrain
    micro = train.micro_batch_tokens or train.batch_tokens
    if isinstance(config, ForeignConfig):
        activations = micro * config.num_hidden_layers * config.hidden_size * ACTIVATIONS_PER_LAYER * 4
        return config.parameters() * BYTES_PER_PARAMETER + activations
    needed = memory(
        config,
        Layout(nodes=1, per_node=1, micro_batch_tokens=micro),
        vendor="cpu",
        memory_bytes=0,
        sequence_length=train.sequence_length,
        compute_bytes=4,
        has_mtp_loss=bool(train.mtp_weight),
        optimizer=train.optimizer,
    )
    return needed.bytes


def measured_matrix_rate(seconds: float = 0.3) -> float:
    """This machine's float32 matrix products, FLOP per second, over a shape as training has it."""
    import numpy as np

    left, right = np.ones((4096, 256), np.float32), np.ones((256, 1024), np.float32)
    flop = 2 * left.shape[0] * left.shape[1] * right.shape[1]
    left @ right
    started, rounds = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        left @ right
        rounds += 1
    return rounds * flop / (time.perf_counter() - started)


def show(recipe: Recipe, *, as_json: bool) -> None:
    """Print the resolved recipe, the derived shapes and the estimates, and nothing else happens."""
    import tomli_w

    config, figures = model_config(recipe), plan(recipe)
    resolved: dict[str, Any] = recipe.model_dump(mode="json", exclude_none=True)
    if as_json:
        print(json.dumps({"recipe": resolved, "model": config.to_hf(), "plan": asdict(figures)}, indent=1))
        return
    sys.stdout.write(tomli_w.dumps(resolved))
    print("\n# derived from [model] size; any of these keys can be set there")
    for key, value in config.to_hf().items():
        if not isinstance(value, dict | list):
            print(f"#   {key} = {json.dumps(value)}")
    print("\n# learning rates")
    for stage, training in (("pretrain", recipe.pretrain), *((f"tune {n}", t) for n, t in enumerate(recipe.tune, 1))):
        for line in rule(training, config.hidden_size, is_tuning=training is not recipe.pretrain).derivation:
            print(f"#   {stage:<10}{line}")
    print("\n# estimates for pre-training")
    for name, value in lines(figures):
        print(f"#   {name:<24}{value}")


def lines(figures: Plan) -> list[tuple[str, str]]:
    """The plan as rows of name and value for people."""
    rate = figures.matrix_flop_per_second / 1e9
    return [
        ("parameters", f"{figures.parameters:,} ({figures.active_parameters:,} active per token)"),
        ("steps", f"{figures.steps:,}"),
        ("tokens", f"{figures.tokens:,}"),
        ("operations", f"{figures.flop:.2e} FLOP ({figures.flop_per_token / 1e6:.1f} MFLOP per token)"),
        ("time", f"about {duration(figures.seconds)} at {EFFICIENCY:.0%} of the {rate:.0f} GFLOP/s measured here"),
        ("memory", f"about {figures.memory_bytes / 2**30:.1f} GiB of {available_memory_gib():.0f} GiB free"),
    ]


def available_memory_gib() -> float:
    """Memory that a new process could have now, GiB; 0 where the system does not say."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    except (ValueError, OSError):
        return 0.0
