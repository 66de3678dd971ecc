"""One rank of an optimizer step on a CPU, as training does them; prints on rank 0 what it held and moved, as JSON.

Run by test_measured.py in processes of its own, because memory is told by the process.
"""

import importlib
import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from hanse.model.config import derive
from hanse.model.transformer import Transformer
from hanse.parallel.ranks import Ranks
from hanse.parallel.shard import Placed, local, sum_over_copies
from hanse.runtime import Runtime
from hanse.train.optimizer import Optimizer, assign


@dataclass
class Rates:
    optimizer: str
    learning_rate: float = 0.01
    adam_learning_rate: float = 0.01
    weight_decay: float = 0.1


def main(job: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    layout = {key: job[key] for key in ("replicate", "expert", "recompute")}
    dtype = torch.bfloat16 if job["compute_bytes"] == 2 else torch.float32
    runtime = replace(Runtime.detect("cpu", 1, **layout), dtype=dtype)
    ranks = Ranks(runtime)
    if ranks.size > 1:
        ranks.sum_tensors([torch.zeros(1, dtype=torch.int64)])
    config = derive(job["size"], family=job["family"], vocab_size=job["vocab_size"], overrides=job["overrides"])
    importlib.import_module("torch._dynamo")  # optimizers load it at their first step
    before = resident()
    model = Transformer(config)
    model.init_weights(torch.Generator().manual_seed(0))
    placed = Placed(model, ranks, runtime)
    placed.objective.train()
    optimizer = Optimizer(model, assign(model, Rates(job["optimizer"])), newton_schulz_dtype=dtype)
    rows, length = job["rows"], job["sequence_length"]
    tokens_BT = torch.randint(0, job["vocab_size"], (rows, length), generator=torch.Generator().manual_seed(1))
    documents_BT = torch.zeros_like(tokens_BT)
    moved: dict[str, float] = {}
    peaks: dict[str, int] = {}
    count(moved)
    for number in range(1, job["rounds"] + 1):
        reset_peak()
        sum_over_copies(placed.objective, number == job["rounds"])
        with runtime.autocast():
            loss, _ = placed.objective(tokens_BT, tokens_BT, documents_BT, with_mtp=False)
        (loss / 1000).backward()
        del loss
        peaks["backward"] = max(peaks.get("backward", 0), peak() - before)
    gradients = size(optimizer.gradients().values())
    reset_peak()
    optimizer.step(1.0)
    peaks["optimizer"] = peak() - before
    if ranks.is_first:
        held = {
            "weights": size(local(parameter) for parameter in model.parameters()),
            "gradients": gradients,
            "optimizer": size(local(tensor) for tensor in optimizer.state().values() if tensor.ndim),
        }
        print(json.dumps({"held": held, "peaks": peaks, "moved": moved, "before": before}), flush=True)
    if ranks.size > 1:
        ranks.barrier()
    sys.stdout.flush()
    os._exit(0)


def size(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def count(moved: dict[str, float]) -> None:
    """Add up what collectives bring this rank from now on."""

    def wrap(name: str, kind: str, whole: Callable[..., Tensor], factor: int = 1) -> None:
        inner = getattr(dist, name)

        def counting(*arguments: Any, **named: Any) -> Any:
            ranks = dist.get_world_size(named.get("group"))
            moved[kind] = moved.get(kind, 0) + factor * size([whole(*arguments, **named)]) * (ranks - 1) / ranks
            return inner(*arguments, **named)

        setattr(dist, name, counting)

    # Newer versions of torch renamed these; whichever FSDP calls is the one that counts.
    for name in ("all_gather_into_tensor", "all_gather_single"):
        if hasattr(dist, name):
            wrap(
                name,
                "gather",
                lambda output=None, input=None, *_, output_tensor=None, **__: first(output, output_tensor),
            )
    for name in ("reduce_scatter_tensor", "reduce_scatter_single"):
        if hasattr(dist, name):
            wrap(name, "reduce", lambda output=None, input=None, *_, **__: input)
    wrap("all_reduce", "reduce over copies", lambda tensor=None, *_, **__: tensor, 2)
    wrap("all_to_all_single", "exchange", lambda output, input, *_, **__: output)


def first(*values: Tensor | None) -> Tensor:
    return next(value for value in values if value is not None)


def resident() -> int:
    return told("VmRSS")


def peak() -> int:
    return told("VmHWM")


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def told(key: str) -> int:
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
