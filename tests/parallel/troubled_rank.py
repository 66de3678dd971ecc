"""One rank of a run of the toy model that meets trouble, in a process of its own: `troubled_rank.py JOB`, JSON.

Prints what came out as JSON. Leaves with code 2 and a sentence on bad input, and with 1 where another rank has ended,
as the command does.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from kill_counter import KillCounter
from toy import CPU, ROWS, ToySettings, toy_batch_at, toy_model, weights_digest

from hanse.data.loader import Batch
from hanse.errors import InputError, Interrupted
from hanse.model import hf
from hanse.parallel.ranks import Ranks, is_lost_peer, leave
from hanse.parallel.shard import whole
from hanse.plan.dealing import micro_batches
from hanse.runtime import Runtime
from hanse.train import loop
from hanse.train.checkpoint import Checkpoints


def main(
    folder: str,
    *,
    steps: int = 12,
    checkpoint_steps: int = 3,
    is_asynchronous: bool = False,
    poisoned: list[int] | None = None,
    stop_after: int = 0,
    kill: list[int] | None = None,
    torch_version: str = "",
    must_compile: bool = False,
    start: str = "",
) -> dict[str, Any]:
    """Train, with what the job asks for.

    Args:
        is_asynchronous: save as GPUs do, while training goes on.
        poisoned: steps whose data make a loss that is no number.
        stop_after: the last rank is sent SIGTERM in this step.
        kill: (rank, event): that rank is killed with -9 at that batch, sync, rename or removal.
        torch_version: what the last rank says that it runs.
        start: a model folder that is continued instead of the toy.
    """
    runtime = replace(Runtime.detect("cpu", 1), dtype=CPU.dtype, threads_chosen=False)
    is_last = runtime.rank == runtime.ranks - 1
    if torch_version and is_last:
        torch.__version__ = torch_version  # type: ignore[assignment]
    if is_asynchronous:
        loop.Checkpoints = lambda *parts, **named: Checkpoints(*parts, **(named | {"is_asynchronous": True}))  # type: ignore[assignment, misc]
    ranks = Ranks(runtime)
    draw = KillCounter(kill[1]).counted(toy_batch_at) if kill and kill[0] == runtime.rank else toy_batch_at
    model, current = hf.load(Path(start)) if start else toy_model(n_routed_experts=8), {"step": -1}
    clean = model.forward
    bad = set(poisoned or [])
    model.forward = lambda *inputs: clean(*inputs) * (math.nan if current["step"] in bad else 1.0)  # type: ignore[method-assign]
    mine = micro_batches(ROWS, 2, rank=ranks.rank, ranks=ranks.size)

    def batch_at(step: int) -> list[Batch]:
        current["step"] = step
        if stop_after and step == stop_after - 1 and is_last:
            os.kill(os.getpid(), signal.SIGTERM)
        (rows,) = draw(step, micro_batches=1)
        return [Batch(*(part[r.start : r.stop] for part in vars(rows).values())) for r in mine]

    summary = loop.train(
        model, batch_at, ToySettings(compile=must_compile), runtime, ranks=ranks, steps=steps,
        scratch=Path(folder) / "scratch", run=Path(folder) / "run", identity={"data": "toy"},
        checkpoint_steps=checkpoint_steps,
    )  # fmt: skip
    full = whole(model, ranks)
    digest = weights_digest(full) if full is not None else ""
    return {"digest": digest, "rollbacks": summary.rollbacks, "losses": [summary.loss_first, summary.loss_last]}


if __name__ == "__main__":
    code = 0
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            came_out = main(**json.loads(sys.argv[1]))
        print(json.dumps(came_out | {"warned": [str(each.message) for each in warned]}))
    except InputError as error:
        code = 2
        print(f"hanse: {error}", file=sys.stderr)
    except Interrupted as stop:
        print(json.dumps({"stopped": str(stop)}))
    except RuntimeError as error:
        if not is_lost_peer(error):
            raise
        code = 1
    leave(code)
    sys.exit(code)
