"""The training loop, in execution order: prepare, resume, dry batch, then step after step to the last.

The same loop pre-trains and tunes: what differs is the data and the settings that it is given. A step is a function of
its number alone (data, rate, no random state), so a run that was killed and resumed ends in the same weights, bit for
bit, at an equal number of threads.
"""

from __future__ import annotations

import math
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.console import Console
from torch import Tensor

from hanse.data.loader import IGNORED, Batch
from hanse.errors import InputError, Interrupted
from hanse.model.loss import multi_token_loss, next_token_loss
from hanse.model.transformer import RouterLoad, Transformer
from hanse.runtime import Runtime
from hanse.train import checkpoint
from hanse.train.guard import Guard, StopSignals
from hanse.train.metrics import MetricsLog, ProgressReport, Summary, aligned
from hanse.train.optimizer import Optimizer, Rates, assign, table
from hanse.train.schedule import warmup_stable_decay

METRICS = "metrics.jsonl"


class Settings(Rates, Protocol):
    """What the loop reads from a recipe's [pretrain] or [[tune]] section; `mtp_weight` too, where there is one."""

    @property
    def warmup_share(self) -> float: ...
    @property
    def decay_share(self) -> float: ...
    @property
    def gradient_clip(self) -> float: ...
    @property
    def router_bias_rate(self) -> float: ...
    @property
    def checkpoint_seconds(self) -> int: ...
    @property
    def compile(self) -> bool: ...


@dataclass(frozen=True)
class Tally:
    """How far a run is: what a checkpoint's state.json holds."""

    fingerprint: str
    threads: int
    step: int = 0
    tokens: int = 0
    counted_tokens: int = 0
    seconds: float = 0.0
    guard: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """One forward and backward pass over all micro-batches: mean loss in nats a counted token, and positions."""

    loss: float
    tokens: int
    counted_tokens: int


def train(
    model: Transformer,
    batch_at: Callable[[int], Sequence[Batch]],
    settings: Settings,
    runtime: Runtime,
    *,
    steps: int,
    scratch: Path,
    run: Path,
    identity: Mapping[str, object],
    label: str = "train",
    checkpoint_steps: int | None = None,
    console: Console | None = None,
) -> Summary:
    """Train `model` in place for `steps` optimizer steps, or for what is left of them.

    Args:
        model: moved to the runtime's device. Its weights count only where no checkpoint is found.
        batch_at: the micro-batches of a step; the same ones whenever it is asked.
        settings: a recipe's section.
        runtime: where to run.
        steps: optimizer steps of the whole run.
        scratch: a folder that survives a crash: checkpoints, metrics so far.
        run: gets `metrics.jsonl` at the end.
        identity: what the run is, beside the model's shapes (data digest, settings, seed); JSON values. A checkpoint
            that was made with another is refused.
        label: what the progress calls it.
        checkpoint_steps: save every so many steps instead of every `settings.checkpoint_seconds`.
        console: where progress goes; by default stderr.

    Returns:
        The run in figures. The model is left in evaluation mode.

    Raises:
        Interrupted: SIGTERM or Ctrl-C; the step in hand was finished and everything is saved.
        InputError: too little memory, data without a counted token, a loss that stays non-finite, a checkpoint of
            another run, a full disk.
    """
    if steps < 1:
        raise InputError(f"{label}: the data and settings make no step at all; raise the budget or lower batch_tokens.")
    runtime.apply()
    model.to(runtime.device).train()
    optimizer = Optimizer(model, assign(model, settings), newton_schulz_dtype=runtime.dtype)
    fresh = Tally(checkpoint.fingerprint(model, {**identity, "steps": steps}), runtime.threads)
    tally = _resume(scratch, model, optimizer, runtime, fresh)

    with StopSignals() as stop, ProgressReport(steps, done=tally.step, label=label, console=console) as report:
        for line in aligned(table(optimizer.groups)) if tally.step == 0 else [f"continuing after step {tally.step}"]:
            report.say(line)
        forward = _dry_batch(model, batch_at, settings, runtime, step=tally.step) if tally.step < steps else model
        guard = Guard(**tally.guard)
        log = MetricsLog(scratch / METRICS, keep_steps=tally.step)
        saved_at = time.monotonic()
        for step in range(tally.step, steps):
            began = time.perf_counter()
            factor = warmup_stable_decay(
                step, steps, warmup_share=settings.warmup_share, decay_share=settings.decay_share
            )
            outcome = _forward_backward(model, forward, batch_at(step), settings, runtime, step=step)
            norm = _clip(optimizer, settings.gradient_clip)
            dropped = guard.verdict(step, loss=outcome.loss, gradient_norm=norm)
            if not dropped:
                optimizer.step(factor)
            # A dropped step moves no bias either; the call empties the counts all the same.
            loads = model.update_router_bias(0.0 if dropped else settings.router_bias_rate)
            optimizer.zero_grad()
            runtime.synchronize()
            seconds = time.perf_counter() - began

            tally = _advance(tally, outcome, seconds, guard)
            rate = settings.learning_rate * factor
            log.write(
                _row(tally, outcome, seconds=seconds, learning_rate=rate, norm=norm, loads=loads, dropped=dropped)
            )
            report.update(tally.step, loss=outcome.loss, tokens_per_second=outcome.tokens / seconds)

            is_stopping = stop.is_requested
            is_due = _is_due(tally.step, saved_at, settings, checkpoint_steps)
            if is_due or is_stopping or tally.step == steps:
                checkpoint.save(scratch, model, optimizer, asdict(tally))
                saved_at = time.monotonic()
            if is_stopping:
                log.close()
                raise Interrupted(f"{label}: stopped after step {tally.step} of {steps}; everything is saved.")
    log.close(copy_to=run)
    model.eval()
    return _summary(tally, log.rows, batch_at, model, runtime)


def _resume(scratch: Path, model: Transformer, optimizer: Optimizer, runtime: Runtime, fresh: Tally) -> Tally:
    """Continue from the newest whole checkpoint, at its number of threads unless a person chose another."""
    found = checkpoint.find(scratch, fresh.fingerprint)
    if found is None:
        return fresh
    checkpoint.load(found, model, optimizer)
    tally = Tally(**found.state)
    if tally.threads != runtime.threads and runtime.threads_chosen:
        warnings.warn(
            f"continuing with {runtime.threads} threads a run begun with {tally.threads}: the weights will differ from "
            "an uninterrupted run's in the last bits.",
            stacklevel=3,
        )
        return replace(tally, threads=runtime.threads)
    if tally.threads != runtime.threads:
        replace(runtime, threads=tally.threads).apply()
    return tally


def _dry_batch(
    model: Transformer,
    batch_at: Callable[[int], Sequence[Batch]],
    settings: Settings,
    runtime: Runtime,
    *,
    step: int,
) -> Callable[..., Tensor]:
    """Run one micro-batch forward and backward, so that wrong shapes and too little memory show now, not in an hour.

    Leaves parameters, buffers and random state as they were. Returns what to call for the forward pass: the compiled
    model if that was asked for and works, else the model.
    """
    batches = batch_at(step)[:1]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    devices = [runtime.device] if runtime.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            if settings.compile:
                compiled = _try_compiled(model, batches, settings, runtime, step=step)
                if compiled is not None:
                    return compiled
            _forward_backward(model, model, batches, settings, runtime, step=step, needs_counted=False)
            return model
    except IndexError as error:
        raise InputError(
            f"training: the data holds token ids that the model's vocabulary lacks ({error}); tokenise it again with "
            "the tokenizer of this model."
        ) from error
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        size = batches[0].tokens_BT.numel()
        raise InputError(
            f"training: a micro-batch of {size:,} tokens does not fit into memory; set micro_batch_tokens lower."
        ) from error
    finally:
        for parameter in model.parameters():
            parameter.grad = None
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


def _try_compiled(
    model: Transformer, batches: Sequence[Batch], settings: Settings, runtime: Runtime, *, step: int
) -> Callable[..., Tensor] | None:
    """The compiled model if it gets through a batch; compiling is a speed-up and never a requirement."""
    try:
        compiled = torch.compile(model)
        _forward_backward(model, compiled, batches, settings, runtime, step=step, needs_counted=False)
        return compiled
    except Exception as error:  # a compiler fails in as many ways as it has parts
        if _is_out_of_memory(error):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        warnings.warn(f"torch.compile failed, training goes on without it: {reason}", stacklevel=4)
        return None


def _forward_backward(
    model: Transformer,
    forward: Callable[..., Tensor],
    batches: Sequence[Batch],
    settings: Settings,
    runtime: Runtime,
    *,
    step: int,
    needs_counted: bool = True,
) -> Outcome:
    """Add up the gradients of a step's loss: its sum over counted positions, divided by their number in all batches."""
    counts = [int((batch.targets_BT != IGNORED).sum()) for batch in batches]
    counted = sum(counts)
    if not counted and needs_counted:
        raise InputError(f"training: no position of step {step + 1} counts for the loss; check the data's masks.")
    mtp_weight = float(getattr(settings, "mtp_weight", 0.0))
    loss_total = torch.zeros((), dtype=torch.float32, device=runtime.device)
    for batch, count in zip(batches, counts, strict=True):
        if not count:
            continue
        tokens_BT, targets_BT, documents_BT = (
            part.to(runtime.device, non_blocking=True)
            for part in (batch.tokens_BT, batch.targets_BT, batch.documents_BT)
        )
        with runtime.autocast():
            hidden_BTD = forward(tokens_BT, documents_BT)
            loss_sum, _ = next_token_loss(model, hidden_BTD, targets_BT)
            objective = loss_sum / counted
            if mtp_weight:
                further_sum, further = multi_token_loss(model, hidden_BTD, tokens_BT, targets_BT, documents_BT)
                objective = objective + mtp_weight * further_sum / max(1, further) * count / counted
        objective.backward()  # type: ignore[no-untyped-call]
        loss_total += loss_sum.detach()
    tokens = sum(batch.tokens_BT.numel() for batch in batches)
    return Outcome(loss=float(loss_total) / max(1, counted), tokens=tokens, counted_tokens=counted)


def _clip(optimizer: Optimizer, limit: float) -> float:
    """Shorten the gradient to `limit`; returns its norm before."""
    return float(torch.nn.utils.clip_grad_norm_(optimizer.parameters(), limit))


def _is_due(step: int, saved_at: float, settings: Settings, checkpoint_steps: int | None) -> bool:
    if checkpoint_steps:
        return step % checkpoint_steps == 0
    return time.monotonic() - saved_at >= settings.checkpoint_seconds


def _advance(tally: Tally, outcome: Outcome, seconds: float, guard: Guard) -> Tally:
    return replace(
        tally,
        step=tally.step + 1,
        tokens=tally.tokens + outcome.tokens,
        counted_tokens=tally.counted_tokens + outcome.counted_tokens,
        seconds=tally.seconds + seconds,
        guard=guard.state(),
    )


def _row(
    tally: Tally,
    outcome: Outcome,
    seconds: float,
    learning_rate: float,
    norm: float,
    loads: Sequence[RouterLoad],
    dropped: str,
) -> dict[str, Any]:
    """One line of metrics.jsonl."""
    row: dict[str, Any] = {
        "step": tally.step,
        "tokens": tally.tokens,
        "loss": _finite(outcome.loss),
        "learning_rate": learning_rate,
        "grad_norm": _finite(norm),
        "tokens_per_second": outcome.tokens / seconds,
        "seconds": tally.seconds,
    }
    if loads:
        row["expert_load_max"] = 1 + max(load.violation for load in loads)  # 1 is an even share
        row["experts_idle"] = sum(load.idle for load in loads)
    if dropped:
        row["skipped"] = dropped
    return row


def _summary(
    tally: Tally,
    rows: Sequence[Mapping[str, Any]],
    batch_at: Callable[[int], Sequence[Batch]],
    model: Transformer,
    runtime: Runtime,
) -> Summary:
    losses = [row["loss"] for row in rows if row["loss"] is not None]
    share = max(1, len(losses) // 50)
    flop_per_token = model.config.flop_per_token(batch_at(0)[0].tokens_BT.shape[1])
    return Summary(
        steps=tally.step,
        tokens=tally.tokens,
        counted_tokens=tally.counted_tokens,
        loss_first=statistics.fmean(losses[:share]) if losses else math.nan,
        loss_last=statistics.fmean(losses[-share:]) if losses else math.nan,
        tokens_per_second=statistics.median(row["tokens_per_second"] for row in rows) if rows else 0.0,
        seconds=tally.seconds,
        flop=flop_per_token * tally.tokens,
        peak_memory_bytes=runtime.peak_memory_bytes(),
        skipped=int(tally.guard.get("skipped", 0)),
    )


def _finite(value: float) -> float | None:
    """JSON knows no NaN."""
    return value if math.isfinite(value) else None


def _is_out_of_memory(error: BaseException) -> bool:
    text = str(error)
    is_reported = "can't allocate memory" in text or "not enough memory" in text
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or is_reported
