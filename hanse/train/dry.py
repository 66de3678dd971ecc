"""A first micro-batch before the long run: wrong shapes and too little memory show now, not in an hour.

Also here, for it is decided by trying: whether to compile.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from typing import Literal

import torch

from hanse.data.loader import Batch
from hanse.errors import InputError
from hanse.parallel.ranks import Ranks
from hanse.parallel.shard import Placed

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
        InputError: the batch does not fit into memory, or holds tokens that the model does not know.
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
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        size = batches[0].tokens_BT.numel()
        asked = str(error).split(". If ", 1)[0].strip()
        raise InputError(
            f"training: a micro-batch of {size:,} tokens does not fit into memory ({asked}); set micro_batch_tokens "
            "lower, add --recompute, or use more ranks."
        ) from error
    finally:
        zero_grad()
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


def _compile(placed: Placed, once: Callable[[], float], ranks: Ranks, *, must_be_faster: bool) -> None:
    """Switch compilation on, unless it fails or, where that is asked for, is no faster."""
    plain = min(once() for _ in range(TRIALS)) if must_be_faster else 0.0
    placed.compiled.is_on = True
    try:
        once()
    except Exception as error:  # a compiler fails in as many ways as it has parts
        if _is_out_of_memory(error) or ranks.size > 1:  # the other ranks are in the middle of an exchange
            raise
        placed.compiled.is_on = False
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        warnings.warn(f"torch.compile failed, training goes on without it: {reason}", stacklevel=4)
        return
    if must_be_faster:
        placed.compiled.is_on = ranks.broadcast(_is_faster(min(once() for _ in range(TRIALS)), plain))


def _is_faster(compiled_seconds: float, plain_seconds: float) -> bool:
    return compiled_seconds < plain_seconds


def _is_out_of_memory(error: BaseException) -> bool:
    text = str(error)
    is_reported = "can't allocate memory" in text or "not enough memory" in text
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or is_reported
