"""How speed and memory of training grow: with the size of the model, the sequence, the experts, and the ranks.

Each point is a short run of the real training loop in processes of its own, over random tokens, since time does not
depend on the text. Speed is the median over the steps after the first. Along each line one thing grows; the exponent is
of time per token (or of peak memory) against it, fitted on logarithms. Ranks share this machine's cores, so here they
show what sharding costs, not what it gains.

    python bench/scaling.py [--only size sequence experts ranks] [--threads 2] [--largest 300M]
                            [--output bench/results/scaling.json]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import conditions

VOCABULARY, STEPS = 8192, 4
SIZES = ("5M", "10M", "20M", "40M", "80M", "160M", "300M")
SEQUENCES = (128, 256, 512, 1024, 2048, 4096)
EXPERTS = (0, 8, 16, 32, 64, 128)
LAYOUTS = ((1, 1, 1), (2, 1, 1), (2, 1, 2), (2, 2, 1), (4, 1, 1), (4, 1, 2), (4, 2, 2))  # ranks, replicate, expert


def lines(largest: str) -> dict[str, list[dict[str, Any]]]:
    """The points of each line; `x` is what grows."""
    base = {"size": "10M", "experts": 0, "sequence": 256, "batch": 4096, "ranks": 1, "replicate": 1, "expert": 1}
    sizes = SIZES[: SIZES.index(largest) + 1]
    return {
        "size": [base | {"size": size, "batch": 2048, "x": "active"} for size in sizes],
        "sequence": [base | {"sequence": length, "batch": 4096, "x": "sequence"} for length in SEQUENCES],
        "experts": [base | {"experts": count, "x": "experts"} for count in EXPERTS],
        "ranks": [
            base
            | {"size": "20M", "experts": 16, "ranks": ranks, "replicate": replicate, "expert": expert, "x": "ranks"}
            for ranks, replicate, expert in LAYOUTS
        ],
    }


def run_rank(point: dict[str, Any], folder: Path, threads: int) -> dict[str, Any]:
    """One rank of one point; the first rank's figures count."""
    import torch
    from rich.console import Console

    from hanse.data.loader import Batch
    from hanse.model.config import derive
    from hanse.model.transformer import Transformer
    from hanse.parallel.ranks import Ranks
    from hanse.plan.dealing import micro_batches
    from hanse.recipe import Training
    from hanse.runtime import Runtime
    from hanse.train.loop import train
    from hanse.train.rates import with_rates

    runtime = Runtime.detect("cpu", threads, replicate=point["replicate"], expert=point["expert"])
    ranks = Ranks(runtime)
    sizes: dict[str, Any] = {"n_routed_experts": 0, "num_experts_per_tok": 1, "first_k_dense_replace": 0}
    if point["experts"]:
        sizes = {
            "n_routed_experts": point["experts"], "num_experts_per_tok": 4, "moe_intermediate_size": 128,
            "first_k_dense_replace": 1,
        }  # fmt: skip
    config = derive(
        point["size"], vocab_size=VOCABULARY, max_position_embeddings=point["sequence"],
        overrides=sizes | {"tie_word_embeddings": True},
    )  # fmt: skip
    with torch.device("meta" if ranks.size > 1 else "cpu"):
        model = Transformer(config)
    model.init_weights(torch.Generator().manual_seed(0))
    rows = point["batch"] // point["sequence"]
    mine = micro_batches(rows, rows, rank=ranks.rank, ranks=ranks.size)
    before = runtime.peak_memory_bytes()

    def batch_at(step: int) -> list[Batch]:
        draw = torch.Generator().manual_seed(step)
        tokens = torch.randint(VOCABULARY, (rows, point["sequence"] + 1), generator=draw)
        whole = (tokens[:, :-1], tokens[:, 1:], torch.zeros_like(tokens[:, :-1]))
        return [Batch(*(each[part.start : part.stop] for each in whole)) for part in mine]

    asked = Training(
        sequence_length=point["sequence"], batch_tokens=point["batch"], compile=False, checkpoint_seconds=10**6
    )
    settings = with_rates(asked, config.hidden_size)
    summary = train(
        model, batch_at, settings, runtime, ranks=ranks, steps=STEPS, scratch=folder / "scratch", run=folder / "run",
        identity={}, console=Console(quiet=True),
    )  # fmt: skip
    return {
        "active": config.active_parameters(), "parameters": config.parameters(),
        "tokens_per_second": summary.tokens_per_second, "peak_memory_mib": summary.peak_memory_bytes / 2**20,
        "start_memory_mib": before / 2**20, "flop_per_token": config.flop_per_token(point["sequence"]),
    }  # fmt: skip


def measure(point: dict[str, Any], threads: int) -> dict[str, Any]:
    """All ranks of one point."""
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        share = max(1, threads // point["ranks"])
        processes = []
        for rank in range(point["ranks"]):
            launched = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": point["ranks"], "MASTER_PORT": port}
            launched |= {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
            environment = os.environ | {name: str(value) for name, value in launched.items()}
            job = json.dumps({"point": point, "folder": folder, "threads": share})
            processes.append(
                subprocess.Popen(
                    [sys.executable, __file__, "--rank", job], env=environment, stdout=subprocess.PIPE, text=True
                )
            )
        said = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        sys.exit(f"{point}: failed")
    return point | json.loads(said[0].splitlines()[-1])


def exponent(points: list[dict[str, Any]], of: str) -> float:
    """Slope of log y over log x; y is seconds per token, or bytes above those of an empty process."""
    xs, ys = [], []
    for point in points:
        if x := point[point["x"]]:
            xs.append(math.log(x))
            memory = point["peak_memory_mib"] - point["start_memory_mib"]
            ys.append(math.log(memory) if of == "memory" else -math.log(point["tokens_per_second"]))
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - mean_x) ** 2 for x in xs)
    return sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / spread if spread else math.nan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=("size", "sequence", "experts", "ranks"))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--largest", choices=SIZES, default="300M")
    parser.add_argument("--output", type=Path, default=conditions.RESULTS / "scaling.json")
    parser.add_argument("--rank", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank:
        from hanse.parallel.ranks import leave

        job = json.loads(options.rank)
        print(json.dumps(run_rank(job["point"], Path(job["folder"]), job["threads"])), flush=True)
        leave(0)
        return
    stored = json.loads(options.output.read_text()) if options.output.exists() else {}
    stored = conditions.conditions("torch", threads=options.threads) | {"lines": stored.get("lines", {})}
    for name, points in lines(options.largest).items():
        if options.only and name not in options.only:
            continue
        done = []
        for point in points:
            done.append(measure(point, options.threads))
            print(f"{name}: {describe(done[-1])}", file=sys.stderr, flush=True)
        stored["lines"][name] = {
            "points": done, "time_exponent": exponent(done, "time"), "memory_exponent": exponent(done, "memory")
        }  # fmt: skip
        options.output.parent.mkdir(parents=True, exist_ok=True)
        conditions.store(stored, options.output)
    for name, line in stored["lines"].items():
        powers = f"{line['time_exponent']:.2f}, memory as {line['memory_exponent']:.2f}"
        print(f"{name}: time per token grows as its power {powers}")
        for point in line["points"]:
            print(f"  {describe(point)}")


def describe(point: dict[str, Any]) -> str:
    """A point as a line."""
    layout = f", {point['ranks']} ranks (replicate {point['replicate']}, expert {point['expert']})"
    return (
        f"{point['active'] / 1e6:6.1f}M active of {point['parameters'] / 1e6:6.1f}M, {point['experts']:3} experts, "
        f"sequence {point['sequence']:4}{layout if point['ranks'] > 1 else ''}: "
        f"{point['tokens_per_second']:8,.0f} tokens/s, {point['peak_memory_mib']:7,.0f} MiB"
    )


if __name__ == "__main__":
    main()
