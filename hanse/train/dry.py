"""A first micro-batch before the long run: wrong shapes and too little memory show now, not in an hour.

Also here, for it is decided by trying: whether to compile.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from hanse.data.loader import Batch
from hanse.errors import InputError
from hanse.parallel.ranks import Ranks, is_lost_peer
from hanse.parallel.shard import Placed
from hanse.train.room import is_out_of_memory

# "auto" compiles where more is left than this: 26 s for a small model on a CPU, minutes for a large one on a GPU.
PAYS_AFTER_SECONDS = 1200
TRIALS = 3


def run(
    placed: Placed,
    batches: Sequence[Batch],
    forward_backward: Callable[..., object],
    zero_grad: Callable[[], None],
    *,
    ranks: Ranks,
    wanted: bool | Literal["auto"],
    chosen: bool | None,
    batches_left: int,
) -> bool:
    """Run one micro-batch forward and backward, and switch compilation on where that is wanted and works.

    Leaves parameters, buffers and random state as they were.

    Args:
        placed: the model; its switch is set.
        batches: one micro-batch.
        forward_backward: adds up the gradients of batches.
        zero_grad: drops them.
        ranks: who takes part; all of them compile or none.
        wanted: compile, do not, or ("auto") only if what is left takes long and compiled steps are faster.
        chosen: what the run did before it was interrupted; "auto" keeps to it.
        batches_left: micro-batches of this rank in the whole run.

    Returns:
        Whether blocks run compiled.

    Raises:
        InputError: the batch holds tokens that the model does not know; or blocks fail to compile on one of many ranks.
    """
    model = placed.objective.model
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    device = next(model.parameters()).device

    def once() -> float:
        began = time.perf_counter()
        forward_backward(batches, step=0, needs_counted=False)
        zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began

    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            first = once()
            is_long = ranks.broadcast(first * batches_left > PAYS_AFTER_SECONDS)
            is_open = wanted == "auto" and chosen is None
            if is_long if is_open else chosen if wanted == "auto" else wanted:
                _compile(placed, once, ranks, must_be_faster=is_open)
        return placed.compiled.is_on
    except IndexError as error:
        raise InputError(
            f"training: the data holds token ids that the model's vocabulary lacks ({error}); tokenise it again with "
            "the tokenizer of this model."
        ) from error
    finally:
        zero_grad()
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


def _compile(placed: Placed, once: Callable[[], float], ranks: Ranks, *, must_be_faster: bool) -> None:
    """Switch compilation on, unless it fails or, where that is asked for, is no faster."""
    if ranks.size > 1 and (complaints := [text for text in ranks.gather(_complaint(ranks)) if text]):
        if ranks.is_first:
            _go_on_without(complaints[0])
        return
    plain = min(once() for _ in range(TRIALS)) if must_be_faster else 0.0
    placed.compiled.is_on = True
    try:
        once()
    except Exception as error:  # a compiler fails in as many ways as it has parts
        if is_out_of_memory(error) or is_lost_peer(error):
            raise
        if ranks.size > 1:  # the others are in the middle of an exchange: there is no way back for all
            raise InputError(
                f"training: torch.compile failed on rank {ranks.rank} ({_reason(error)}); set compile = false."
            ) from error
        placed.compiled.is_on = False
        _go_on_without(_reason(error))
        return
    if must_be_faster:
        placed.compiled.is_on = ranks.broadcast(_is_faster(min(once() for _ in range(TRIALS)), plain))


def _complaint(ranks: Ranks) -> str:
    """Why nothing can be compiled here, or "". Tried on a small product before ranks depend on one another."""
    try:
        torch.compile(_small)(torch.ones(4, 4, device=ranks.device))
    except Exception as error:  # as above
        return f"rank {ranks.rank}: {_reason(error)}"
    return ""


def _small(matrix: Tensor) -> Tensor:
    return torch.relu(matrix @ matrix + 1)


def _go_on_without(reason: str) -> None:
    warnings.warn(f"torch.compile failed, training goes on without it: {reason}", stacklevel=6)


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _is_faster(compiled_seconds: float, plain_seconds: float) -> bool:
    return compiled_seconds < plain_seconds
