"""Training on one GPU: tokens per second, share of the GPU's peak and memory, ours beside transformers' class.

One step is forward, next-token loss, backward and a fused AdamW step, on random weights of the same shapes and the same
random tokens, each contender in a process of its own. One that does not fit gets half the tokens, and half again; the
row says how many. "hanse, whole step" is what training does: Muon, clipping, counting, balancing; "documents" packs
documents of about 600 tokens into rows, where the others have one in a row.

MFU is tokens/s x FLOP per token / peak: FLOP per token as `flop_per_token` counts them (6 for each number in a matrix
product with the token, attention over half the document, nothing that is computed twice), peak the dense bfloat16
rate that the vendor names, for float8 too. Beside it stands what one large bfloat16 product reaches here.

    python bench/gpu.py [--config dense-300M dense-1B experts-300M experts-1B] [--only CONTENDER ...] [--steps 20]
                        [--micro 16384] [--output bench/results/gpu.json]

Rows of an earlier call stay in the file, so that a job of ten minutes can do a part. `--device cpu --config tiny` shows
on any machine that it runs, and writes nothing.
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

import conditions

VOCABULARY, LENGTH = 65536, 4096
WARM_UP = 3  # steps: compiling, first memory
LIMIT_SECONDS = 900  # of one contender
# Dense bfloat16 FLOP per second, as NVIDIA's data sheets give them without sparsity; the first that fits counts.
PEAKS = {
    "H100 PCIe": 756e12, "H100 NVL": 835e12, "GH200": 989e12, "H100": 989e12, "H200": 989e12, "A100": 312e12,
}  # fmt: skip
DENSE = {"n_routed_experts": 0, "num_experts_per_tok": 1, "first_k_dense_replace": 0}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "dense-300M": ("300M", DENSE),
    "dense-1B": ("1B", DENSE),
    "experts-300M": ("300M", {}),
    "experts-1B": ("1B", {"n_routed_experts": 32}),  # with 64 weights and AdamW's moments alone fill 68 of 80 GB
    "tiny": ("3M", {"vocab_size": 1024}),
}
CONTENDERS: dict[str, dict[str, Any]] = {
    "hanse": {},
    "hanse, compiled": {"compile": True},
    "hanse, float8, compiled": {"compile": True, "float8": True},
    "hanse, documents, compiled": {"compile": True, "document_tokens": 600},
    "hanse, whole step": {"whole": True, "compile": True},
    "transformers": {"whose": "transformers"},
    "transformers, compiled": {"whose": "transformers", "compile": True},
}


def sizes(config: str):
    """The shapes of one configuration, by the dial."""
    from hanse.model.config import derive

    size, overrides = CONFIGS[config]
    given = {"vocab_size": VOCABULARY, "max_position_embeddings": 128 if config == "tiny" else LENGTH} | overrides
    shapes = {key: given.pop(key) for key in ("vocab_size", "max_position_embeddings")}
    return derive(size, **shapes, overrides=given)


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Measure one contender in this process."""
    import torch
    from train_cpu import visible

    from hanse.runtime import Runtime

    runtime = Runtime.detect(job["device"])
    runtime.apply()
    torch.use_deterministic_algorithms(False)  # as peers run
    config = sizes(job["config"])
    length = config.max_position_embeddings
    rows = max(1, job["micro"] // length)
    draw = torch.Generator().manual_seed(0)
    batches = [_batch(config, rows, length, job.get("document_tokens"), draw) for _ in range(4)]
    context = visible(torch.cat([documents_BT for _, _, documents_BT in batches]))
    rate = _matrix_rate(runtime)
    step = (_theirs if job.get("whose") else _ours)(job, config, runtime)
    times: list[float] = []
    for number in range(job["steps"] + WARM_UP):
        runtime.synchronize()
        began = time.perf_counter()
        step(*batches[number % len(batches)])
        runtime.synchronize()
        times.append(time.perf_counter() - began)
    seconds = sorted(times[WARM_UP:])
    per_second = rows * length / statistics.median(seconds)
    return {
        "tokens_per_second": per_second, "slowest": rows * length / seconds[-1], "fastest": rows * length / seconds[0],
        "first_seconds": times[0], "flop_per_second": per_second * config.flop_per_token(context),
        "matrix_flop_per_second": rate, "memory_bytes": runtime.peak_memory_bytes(),
        "device": runtime.describe()["device_name"], "parameters": config.parameters(),
        "active": config.active_parameters(),
    }  # fmt: skip


def _matrix_rate(runtime, rounds: int = 30) -> float:
    """FLOP per second of one large product in the type of training; its memory is gone before the model comes."""
    import torch

    side = 8192 if runtime.device.type == "cuda" else 512
    left, right = (torch.randn(side, side, device=runtime.device, dtype=runtime.dtype) for _ in range(2))
    for _ in range(3):
        left @ right
    runtime.synchronize()
    began = time.perf_counter()
    for _ in range(rounds):
        left @ right
    runtime.synchronize()
    rate = rounds * 2 * side**3 / (time.perf_counter() - began)
    del left, right
    if runtime.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(runtime.device)
    return rate


def _ours(job: dict[str, Any], config, runtime) -> Callable[..., None]:
    import torch

    from hanse.model.transformer import Transformer
    from hanse.parallel import float8
    from hanse.parallel.ranks import Ranks
    from hanse.parallel.shard import Placed

    with torch.device(runtime.device):
        model = Transformer(config)
    with torch.no_grad():  # on the device: the draw that a run repeats is made on the CPU, and takes minutes here
        for parameter in model.parameters():
            parameter.normal_(0.0, config.initializer_range) if parameter.ndim > 1 else parameter.fill_(1.0)
    model.reset_buffers()
    if job.get("float8"):
        float8.apply(model)
    ranks = Ranks(runtime)
    placed = Placed(model, ranks, runtime)
    placed.objective.train()
    placed.compiled.is_on = bool(job.get("compile"))
    if job.get("whole"):
        return _whole(model, placed, runtime, ranks)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step(*batch) -> None:
        tokens_BT, targets_BT, documents_BT = (part.to(runtime.device) for part in batch)
        with runtime.autocast():
            loss, _ = placed.objective(tokens_BT, targets_BT, documents_BT, with_mtp=False)
        (loss / tokens_BT.numel()).backward()
        optimizer.step()
        optimizer.zero_grad()
        model.update_router_bias(0.001)

    return step


def _whole(model, placed, runtime, ranks) -> Callable[..., None]:
    """A step as `hanse.train.loop` makes it."""
    from hanse.data.loader import Batch
    from hanse.recipe import Training
    from hanse.train.optimizer import Optimizer, assign
    from hanse.train.rates import with_rates
    from hanse.train.step import Step

    settings = with_rates(Training(), model.config.hidden_size)
    optimizer = Optimizer(model, assign(model, settings), newton_schulz_dtype=runtime.dtype)
    whole = Step(placed.objective, optimizer, settings, runtime, ranks)

    def step(*batch) -> None:
        whole.forward_backward([Batch(*batch)], step=0, mtp_weight=0.0)
        whole.clip()
        whole.move(0.01)

    return step


def _batch(config, rows: int, length: int, document_tokens: int | None, draw) -> tuple[Any, Any, Any]:
    """Random tokens, the token after each, and the documents: one a row, or of so many tokens on average."""
    import torch

    tokens_BT = torch.randint(config.vocab_size, (rows, length), generator=draw)
    targets_BT = torch.cat((tokens_BT[:, 1:], torch.full_like(tokens_BT[:, :1], -100)), 1)
    if document_tokens is None:
        return tokens_BT, targets_BT, torch.zeros_like(tokens_BT)
    documents_BT = (torch.rand(rows, length, generator=draw) < 1 / document_tokens).cumsum(1)
    targets_BT[:, :-1].masked_fill_(documents_BT[:, 1:] != documents_BT[:, :-1], -100)
    return tokens_BT, targets_BT, documents_BT


def _theirs(job: dict[str, Any], config, runtime) -> Callable[..., None]:
    import torch
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    with torch.device(runtime.device):
        model = DeepseekV3ForCausalLM(DeepseekV3Config(**config.to_hf())).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    if job.get("compile"):
        model.compile()

    def step(tokens_BT, *_: Any) -> None:
        tokens_BT = tokens_BT.to(runtime.device)
        with runtime.autocast():
            loss = model(input_ids=tokens_BT, labels=tokens_BT, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """One contender in a process of its own, with as many tokens of `job["micro"]` as fit."""
    length = sizes(job["config"]).max_position_embeddings
    while True:
        row = _attempt(job)
        if "out of memory" not in row.get("failed", "") or job["micro"] // 2 < length:
            return row | {"micro_batch_tokens": job["micro"]}
        job = job | {"micro": job["micro"] // 2}


def _attempt(job: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, __file__, "--job", json.dumps(job)]
    with tempfile.TemporaryFile("w+") as log:
        try:
            done = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=log, text=True, check=False, timeout=LIMIT_SECONDS
            )
        except subprocess.TimeoutExpired:
            return {"failed": f"not done in {LIMIT_SECONDS} s"}
        log.seek(0)
        said = [line.strip() for line in log.read().splitlines() if line.strip()]
    if done.returncode:
        # torch's compiler ends its tracebacks with advice; the error stands before it.
        errors = [line for line in said if "Error: " in line] or said
        return {"failed": errors[-1][:300] if errors else f"exit code {done.returncode}"}
    row = json.loads(done.stdout.splitlines()[-1])
    peak = next((value for key, value in PEAKS.items() if key in row["device"]), None)
    return row | {"mfu": row["flop_per_second"] / peak if peak else None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", nargs="+", choices=CONFIGS, default=[name for name in CONFIGS if name != "tiny"])
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), metavar="CONTENDER")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--micro", type=int, default=16384, help="tokens of a forward pass, where they fit")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--output", type=Path, default=conditions.RESULTS / "gpu.json")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        print(json.dumps(run(json.loads(options.job))))
        return
    kept = json.loads(options.output.read_text())["rows"] if options.output.exists() else []
    packages = ("torch", "triton", "torchao", "transformers")
    stored = conditions.conditions(*packages, threads=1) | {"sequence_length": LENGTH, "rows": kept}
    for config in options.config:
        for name in options.only:
            asked = {"config": config, "steps": options.steps, "micro": options.micro, "device": options.device}
            row = {"config": config, "name": name, **measure(asked | CONTENDERS[name])}
            print(describe(row), flush=True)
            if config == "tiny":
                continue
            others = [old for old in stored["rows"] if (old["config"], old["name"]) != (config, name)]
            stored["rows"] = [*others, row]
            conditions.store(stored, options.output)


def describe(row: dict[str, Any]) -> str:
    """A row of the table."""
    name = f"{row['config']:14}{row['name']:26}{row['micro_batch_tokens']:7,} tokens "
    if "failed" in row:
        return f"{name}failed: {row['failed'][:120]}"
    mfu = f"{row['mfu']:6.1%}" if row["mfu"] else "     -"
    return (
        f"{name}{row['tokens_per_second']:12,.0f} tokens/s  MFU {mfu}"
        f" ({row['flop_per_second'] / row['matrix_flop_per_second']:4.0%} of a large product)"
        f"{row['memory_bytes'] / 2**30:8.1f} GiB  {row['active'] / 1e6:,.0f}M active of {row['parameters'] / 1e6:,.0f}M"
    )


if __name__ == "__main__":
    main()
