"""Ranks of a training run as forked processes, from one parent that has loaded torch: seconds instead of minutes.

Reads a job a line on stdin (JSON: ranks, kill, and the arguments of `job`), forks a process for each rank, and answers
with a line: exit statuses and what rank 0 returned.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from kill_counter import KillCounter
from loopback import reserved_port
from toy import CPU, ROWS, TOY_CONFIG, ToySettings, toy_batch_at, weights_digest

from hanse.data.loader import Batch
from hanse.errors import InputError, Interrupted
from hanse.model.transformer import Transformer
from hanse.parallel.ranks import Ranks, leave
from hanse.parallel.shard import whole
from hanse.plan.dealing import micro_batches
from hanse.runtime import Runtime
from hanse.train.loop import train


def main() -> None:
    importlib.import_module("torch._dynamo")  # loaded by optimizers at their first step: seconds for each fork
    for line in sys.stdin:
        request = json.loads(line)
        ranks, kill = request.pop("ranks"), request.pop("kill", None)
        answer, question = os.pipe()
        with reserved_port() as port:
            children = [_fork(rank, ranks, port, kill, question, request) for rank in range(ranks)]
            os.close(question)
            with os.fdopen(answer) as pipe:
                said = pipe.read()
            statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(json.dumps({"statuses": statuses, "result": json.loads(said) if said else None}), flush=True)


def _fork(rank: int, ranks: int, port: int, kill: Any, question: int, request: dict[str, Any]) -> int:
    child = os.fork()
    if child:
        return child
    try:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
        draw = KillCounter(kill[1]).counted(toy_batch_at) if kill and kill[0] == rank else toy_batch_at
        result = job(**request, draw=draw)
        if rank == 0:
            os.write(question, json.dumps(result).encode())
        leave(0)
        os._exit(0)
    except Exception as error:
        print(f"rank {rank}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        if rank == 0 and isinstance(error, InputError | Interrupted):
            os.write(question, json.dumps({"error": str(error)}).encode())
    finally:
        os._exit(1)


def job(
    folder: str,
    *,
    draw: Callable[..., list[Batch]],
    replicate: int = 1,
    expert: int = 1,
    recompute: bool = False,
    on_meta: bool = False,
    steps: int = 8,
    checkpoint_steps: int = 3,
    micro_rows: int = 2,
    stop_after: int = 0,
    masked_rows: int = 0,
    config: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Train the toy model on what `draw` gives, write its weights, and tell their digest, losses, norms and loads."""
    launched = Runtime.detect("cpu", 1, replicate=replicate, expert=expert, recompute=recompute)
    runtime = replace(launched, dtype=CPU.dtype, threads_chosen=False)
    ranks = Ranks(runtime)
    shapes = replace(TOY_CONFIG, **{"n_routed_experts": 8, **(config or {})})
    with torch.device("meta" if on_meta else "cpu"):
        model = Transformer(shapes)
    model.init_weights(torch.Generator().manual_seed(0))
    mine = micro_batches(ROWS, micro_rows, rank=ranks.rank, ranks=ranks.size)

    def batch_at(step: int) -> list[Batch]:
        if stop_after and step == stop_after - 1 and ranks.rank == ranks.size - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        (rows,) = draw(step, micro_batches=1)
        if masked_rows:
            rows.targets_BT[:masked_rows] = -100
        return [Batch(*(part[r.start : r.stop] for part in vars(rows).values())) for r in mine]

    chosen = ToyMtpSettings(**settings) if settings else ToySettings()
    summary = train(
        model, batch_at, chosen, runtime, ranks=ranks, steps=steps, scratch=Path(folder) / "scratch",
        run=Path(folder) / "run", identity={"data": "toy"}, checkpoint_steps=checkpoint_steps,
    )  # fmt: skip
    full = whole(model, ranks)
    if full is None:
        return {}
    torch.save(full.state_dict(), Path(folder) / "weights.pt")
    rows = [json.loads(line) for line in (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()]
    return {
        "losses": [row["loss"] for row in rows],
        "norms": [row["grad_norm"] for row in rows],
        "loads": [row.get("expert_load_max") for row in rows],
        "steps": [row["step"] for row in rows],
        "tokens": summary.tokens,
        "digest": weights_digest(full),
    }


class ToyMtpSettings(ToySettings):
    """The toy's settings with a weight for the multi-token block."""

    def __init__(self, mtp_weight: float = 0.0) -> None:
        super().__init__()
        object.__setattr__(self, "mtp_weight", mtp_weight)


if __name__ == "__main__":
    main()
