"""Training on one GPU: tokens per second, share of the GPU's peak and memory, ours beside transformers' class.

One step is forward, next-token loss, backward and a fused AdamW step, on the same weights and random tokens, each
contender in a process of its own. MFU is tokens/s x FLOP per token / peak: FLOP per token as `flop_per_token` counts
them (6 for each number in a matrix product with the token, attention over half the sequence, nothing that is computed
twice), peak the dense bfloat16 rate that the vendor names, for float8 too. The step that trains (Muon, clipping,
counting, guard) is measured beside it as "hanse, whole step".

    python bench/gpu.py [--config dense-300M dense-1B experts-300M experts-1B] [--steps 20] [--micro 16384]
                        [--output bench/results/gpu.json]

`--device cpu --config tiny` shows on any machine that it runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import learning

VOCABULARY, LENGTH = 65536, 4096
# Dense bfloat16 FLOP per second, as NVIDIA's data sheets give them without sparsity.
PEAKS = {"H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12, "GH200": 989e12, "A100": 312e12}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "dense-300M": ("300M", {"n_routed_experts": 0, "num_experts_per_tok": 1, "first_k_dense_replace": 0}),
    "dense-1B": ("1B", {"n_routed_experts": 0, "num_experts_per_tok": 1, "first_k_dense_replace": 0}),
    "experts-300M": ("300M", {}),
    "experts-1B": ("1B", {}),
    "tiny": ("3M", {"vocab_size": 1024}),
}
CONTENDERS = {
    "hanse": {},
    "hanse, compiled": {"compile": True},
    "hanse, float8, compiled": {"compile": True, "float8": True},
    "hanse, whole step": {"whole": True, "compile": True},
    "transformers": {"whose": "transformers"},
    "transformers, compiled": {"whose": "transformers", "compile": True},
}


def sizes(config: str):
    """The shapes of one configuration, by the dial."""
    from hanse.model.config import derive

    size, overrides = CONFIGS[config]
    length = LENGTH if config != "tiny" else 128
    vocabulary = {"vocab_size": VOCABULARY, "max_position_embeddings": length}
    return derive(size, **(vocabulary | {key: overrides[key] for key in overrides if key == "vocab_size"}),
                  overrides={key: value for key, value in overrides.items() if key != "vocab_size"})  # fmt: skip


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Measure one contender in this process."""
    import torch

    from hanse.runtime import Runtime

    runtime = Runtime.detect(job["device"])
    runtime.apply()
    torch.use_deterministic_algorithms(False)  # as peers run
    config = sizes(job["config"])
    length = config.max_position_embeddings
    rows = max(1, job["micro"] // length)
    draw = torch.Generator().manual_seed(0)
    batches = [torch.randint(config.vocab_size, (rows, length), generator=draw).to(runtime.device) for _ in range(4)]
    step = (_theirs if job.get("whose") else _ours)(job, config, runtime)
    times: list[float] = []
    for number in range(job["steps"] + 3):
        runtime.synchronize()
        began = time.perf_counter()
        step(batches[number % len(batches)])
        runtime.synchronize()
        times.append(time.perf_counter() - began)
    seconds = statistics.median(times[3:])
    per_second = rows * length / seconds
    return {
        "tokens_per_second": per_second, "seconds": seconds, "first_seconds": times[0],
        "flop_per_second": per_second * config.flop_per_token(length),
        "memory_bytes": runtime.peak_memory_bytes(), "device": runtime.describe()["device_name"],
        "parameters": config.parameters(), "active": config.active_parameters(),
    }  # fmt: skip


def _ours(job: dict[str, Any], config, runtime) -> Callable[[Any], None]:
    import torch

    from hanse.model.transformer import Transformer
    from hanse.parallel import float8
    from hanse.parallel.ranks import Ranks
    from hanse.parallel.shard import Placed
    from hanse.train.optimizer import Optimizer, assign

    with torch.device(runtime.device):
        model = Transformer(config)
    model.init_weights(torch.Generator().manual_seed(0))
    if job.get("float8"):
        float8.apply(model)
    placed = Placed(model, Ranks(runtime), runtime)
    placed.objective.train()
    placed.compiled.is_on = bool(job.get("compile"))
    if job.get("whole"):
        from hanse.recipe import Training

        settings = Training()
        groups = assign(model, settings)
        optimizer: Any = Optimizer(model, groups, newton_schulz_dtype=runtime.dtype)
        move = lambda: optimizer.step(1.0)  # noqa: E731
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        move = optimizer.step

    def step(tokens_BT) -> None:
        targets_BT = torch.cat((tokens_BT[:, 1:], torch.full_like(tokens_BT[:, :1], -100)), 1)
        with runtime.autocast():
            loss, _ = placed.objective(tokens_BT, targets_BT, torch.zeros_like(tokens_BT), with_mtp=False)
        (loss / tokens_BT.numel()).backward()
        move()
        optimizer.zero_grad()
        model.update_router_bias(0.001)

    return step


def _theirs(job: dict[str, Any], config, runtime) -> Callable[[Any], None]:
    import torch
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    values = config.to_hf()
    with torch.device(runtime.device):
        model = DeepseekV3ForCausalLM(DeepseekV3Config(**values)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    if job.get("compile"):
        model.compile()

    def step(tokens_BT) -> None:
        with runtime.autocast():
            loss = model(input_ids=tokens_BT, labels=tokens_BT, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", nargs="+", choices=CONFIGS, default=[name for name in CONFIGS if name != "tiny"])
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), metavar="CONTENDER")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--micro", type=int, default=16384, help="tokens of a forward pass")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "gpu.json")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        print(json.dumps(run(json.loads(options.job))))
        return
    stored = learning.conditions(1) | {"micro_batch_tokens": options.micro, "rows": []}
    for config in options.config:
        for name in options.only:
            job = {"config": config, "steps": options.steps, "micro": options.micro, "device": options.device}
            with tempfile.TemporaryFile("w+") as log:
                done = subprocess.run(
                    [sys.executable, __file__, "--job", json.dumps(job | CONTENDERS[name])],
                    stdout=subprocess.PIPE, stderr=log, text=True, check=False,
                )  # fmt: skip
                log.seek(0)
                lines = [line for line in log.read().splitlines() if line.strip()]
            row = {"config": config, "name": name}
            if done.returncode:
                row |= {"failed": lines[-1][:300] if lines else f"exit code {done.returncode}"}
            else:
                row |= json.loads(done.stdout.splitlines()[-1])
                peak = next((value for key, value in PEAKS.items() if key in row["device"]), None)
                row["mfu"] = row["flop_per_second"] / peak if peak else None
            stored["rows"].append(row)
            print(describe(row), flush=True)
            if config != "tiny":
                options.output.parent.mkdir(parents=True, exist_ok=True)
                options.output.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")


def describe(row: dict[str, Any]) -> str:
    """A row of the table."""
    if "failed" in row:
        return f"{row['config']:14}{row['name']:26} failed: {row['failed'][:100]}"
    mfu = f"{row['mfu']:6.1%}" if row["mfu"] else "     -"
    return (
        f"{row['config']:14}{row['name']:26}{row['tokens_per_second']:12,.0f} tokens/s  MFU {mfu}"
        f"{row['memory_bytes'] / 2**30:8.1f} GiB  {row['active'] / 1e6:,.0f}M active of {row['parameters'] / 1e6:,.0f}M"
    )


if __name__ == "__main__":
    main()
