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
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from rich.console import Console

from hanse.data.loader import IGNORED, Batch
from hanse.errors import InputError, Interrupted
from hanse.model.loss import Objective, further_counted
from hanse.model.transformer import RouterLoad, Transformer
from hanse.parallel.ranks import Ranks
from hanse.parallel.shard import Placed, sum_over_copies
from hanse.runtime import Runtime
from hanse.train import dry
from hanse.train.checkpoint import Checkpoints, fingerprint
from hanse.train.guard import Guard, StopSignals
from hanse.train.metrics import MetricsLog, ProgressReport, Summary, aligned
from hanse.train.optimizer import Optimizer, Rates, assign, table
from hanse.train.schedule import warmup_stable_decay

METRICS = "metrics.jsonl"
ROLLBACKS = 3  # to one checkpoint for want of a finite number, before the run gives up


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
    def z_loss(self) -> float: ...
    @property
    def compile(self) -> bool | Literal["auto"]: ...


@dataclass(frozen=True)
class Tally:
    """How far a run is: what a checkpoint's state.json holds.

    Attributes:
        fingerprint: of the run.
        threads, layout: CPU threads and ranks; bits repeat only at equal ones.
        step: optimizer steps done.
        data_offset: how many steps' data rollbacks have left out.
        rollbacks: what happened each time.
        compiled: whether blocks run compiled; None before that is known.
    """

    fingerprint: str
    threads: int
    layout: str = "1 rank"
    step: int = 0
    tokens: int = 0
    counted_tokens: int = 0
    seconds: float = 0.0
    data_offset: int = 0
    rollbacks: list[dict[str, Any]] = field(default_factory=list)
    compiled: bool | None = None
    guard: dict[str, Any] = field(default_factory=dict)

    def data_step(self, steps: int) -> int:
        """Which step's data comes next. After rollbacks the run's own ends early, and its beginning comes once more."""
        return (self.step + self.data_offset) % steps


@dataclass(frozen=True)
class Outcome:
    """One forward and backward pass over all micro-batches of all ranks: mean loss in nats a counted token."""

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
    ranks: Ranks | None = None,
    label: str = "train",
    checkpoint_steps: int | None = None,
    milestones: int = 0,
    console: Console | None = None,
) -> Summary:
    """Train `model` in place for `steps` optimizer steps, or for what is left of them.

    Args:
        model: moved to the runtime's device, and sharded where there are several ranks; all of them call this. Its
            weights count only where no checkpoint is found. It may be on the meta device, with a seed.
        batch_at: this rank's micro-batches of a step; the same ones whenever it is asked.
        settings: a recipe's section.
        runtime: where to run.
        steps: optimizer steps of the whole run.
        scratch: a folder that survives a crash: checkpoints, metrics so far. Every rank must see it.
        run: gets `metrics.jsonl` at the end.
        identity: what the run is, beside the model's shapes (data digest, settings, seed); JSON values. A checkpoint
            that was made with another is refused.
        ranks: who trains together; by default as `runtime` says.
        label: what the progress calls it.
        checkpoint_steps: save every so many steps instead of every `settings.checkpoint_seconds`.
        milestones: checkpoints to keep, spread evenly; they end up in `run`.
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
    ranks = ranks or Ranks(runtime)
    runtime.apply()
    placed = Placed(model, ranks, runtime, z_weight=settings.z_loss)
    placed.objective.train()
    optimizer = Optimizer(model, assign(model, settings), newton_schulz_dtype=runtime.dtype, steps=steps)
    kept = {round(steps * number / (milestones + 1)) for number in range(1, milestones + 1)}
    checkpoints = Checkpoints(
        scratch, model, optimizer, ranks, milestones=kept, is_asynchronous=runtime.device.type == "cuda"
    )
    tally = Tally(fingerprint(model, {**identity, "steps": steps}), runtime.threads, _layout(ranks))
    tally = _resume(checkpoints, runtime, tally)
    step_once = _StepOnce(placed.objective, optimizer, settings, runtime, ranks)
    mtp_weight = _mtp_weight(settings, steps)

    with (
        StopSignals() as stop,
        ProgressReport(
            steps, done=tally.step, label=label, console=console if ranks.is_first else Console(quiet=True)
        ) as report,
    ):
        for line in aligned(table(optimizer.groups)) if tally.step == 0 else [f"continuing after step {tally.step}"]:
            report.say(line)
        if tally.step < steps:
            batches = batch_at(tally.data_step(steps))
            try_once = partial(step_once.forward_backward, mtp_weight=mtp_weight(tally.step))
            is_compiled = dry.run(
                placed, batches[:1], try_once, optimizer.zero_grad, ranks=ranks,
                wanted=settings.compile, chosen=tally.compiled, batches_left=len(batches) * (steps - tally.step),
            )  # fmt: skip
            tally = replace(tally, compiled=is_compiled)
        guard = Guard(**tally.guard)
        log = MetricsLog(scratch / METRICS if ranks.is_first else None, keep_steps=tally.step)
        saved_at = time.monotonic()
        while tally.step < steps:
            began = time.perf_counter()
            factor = warmup_stable_decay(
                tally.step, steps, warmup_share=settings.warmup_share, decay_share=settings.decay_share
            )
            outcome = step_once.forward_backward(
                batch_at(tally.data_step(steps)), step=tally.step, mtp_weight=mtp_weight(tally.step)
            )
            norm = step_once.clip()
            dropped = guard.verdict(tally.step, loss=outcome.loss, gradient_norm=norm)
            if guard.trouble:
                tally = _roll_back(checkpoints, tally, guard, report)
                guard = Guard(**tally.guard)
                step_once.discard()
                log.cut(tally.step)
                continue
            loads = step_once.move(0.0 if dropped else factor)
            runtime.synchronize()
            seconds = time.perf_counter() - began

            tally = _advance(tally, outcome, seconds, guard)
            rate = settings.learning_rate * factor
            log.write(
                _row(tally, outcome, seconds=seconds, learning_rate=rate, norm=norm, loads=loads, dropped=dropped)
            )
            report.update(tally.step, loss=outcome.loss, tokens_per_second=outcome.tokens / seconds)

            is_due = ranks.is_first and _is_due(tally.step, saved_at, settings, checkpoint_steps)
            is_due, is_stopping = (number > 0 for number in ranks.sum(is_due, stop.is_requested))
            checkpoints.poll()
            if is_due or is_stopping or tally.step == steps or tally.step in kept:
                checkpoints.save(asdict(tally))
                saved_at = time.monotonic()
            if is_stopping:
                checkpoints.finish()
                log.close()
                raise Interrupted(f"{label}: stopped after step {tally.step} of {steps}; everything is saved.")
        checkpoints.finish()
    log.close(copy_to=run if ranks.is_first else None)
    checkpoints.move_milestones(run)
    model.eval()
    return _summary(tally, log.rows, batch_at, model, runtime, ranks)


def _resume(checkpoints: Checkpoints, runtime: Runtime, fresh: Tally) -> Tally:
    """Continue from the newest whole checkpoint, at its number of threads unless a person chose another."""
    found = checkpoints.newest(fresh.fingerprint)
    if found is None:
        return fresh
    checkpoints.load(found)
    tally = Tally(**found.state)
    if tally.layout != fresh.layout:
        _warn_bits(f"{fresh.layout} a run begun with {tally.layout}")
        return replace(tally, threads=runtime.threads, layout=fresh.layout)
    if tally.threads != runtime.threads and runtime.threads_chosen:
        _warn_bits(f"{runtime.threads} threads a run begun with {tally.threads}")
        return replace(tally, threads=runtime.threads)
    if tally.threads != runtime.threads:
        replace(runtime, threads=tally.threads).apply()
    return tally


def _mtp_weight(settings: Settings, steps: int) -> Callable[[int], float]:
    """The weight of the multi-token loss at each step: mtp_weight, and mtp_final_weight while rates decay."""
    first = float(getattr(settings, "mtp_weight", 0.0))
    final = getattr(settings, "mtp_final_weight", None)
    decay_begins = steps - round(settings.decay_share * steps)
    return lambda step: first if final is None or step < decay_begins else float(final)


def _warn_bits(change: str) -> None:
    warnings.warn(
        f"continuing with {change}: the weights will differ from an uninterrupted run's in the last bits.",
        stacklevel=4,
    )


def _layout(ranks: Ranks) -> str:
    if ranks.size == 1:
        return "1 rank"
    return f"{ranks.size} ranks (replicate {ranks.replicate}, expert {ranks.expert})"


def _roll_back(checkpoints: Checkpoints, tally: Tally, guard: Guard, report: ProgressReport) -> Tally:
    """Back to the last checkpoint before the trouble; the data since then is skipped, and that is recorded.

    Raises:
        InputError: there is no such checkpoint, or it was tried often enough.
    """
    trouble = guard.trouble
    assert trouble is not None
    found = checkpoints.newest(tally.fingerprint, at_most=trouble.since)
    before = [entry for entry in tally.rollbacks if found and entry["to_step"] == found.path.name]
    if found is None or len(before) >= ROLLBACKS:
        tried = f" {len(before)} times after going back to {found.path.name}" if found else ""
        raise InputError(
            f"training: {trouble.what}, the last in step {tally.step + 1}{tried}; lower learning_rate and "
            "adam_learning_rate, or raise warmup_share, and run again."
        )
    checkpoints.load(found)
    back = Tally(**found.state)
    skipped = tally.step + 1 - back.step
    first = back.step + tally.data_offset
    entry = {
        "why": trouble.what,
        "at_step": tally.step + 1,
        "to_step": found.path.name,
        "skipped_data_steps": [first, first + skipped],
    }
    report.say(f"{trouble.what}: back from step {tally.step + 1} to {found.path.name}, skipping the data since then")
    checkpoints.forget_after(back.step)
    return replace(
        back,
        data_offset=tally.data_offset + skipped,
        rollbacks=[*tally.rollbacks, entry],
        compiled=tally.compiled,
        guard={**back.guard, "accepts_high": trouble.is_high_loss},
    )


class _StepOnce:
    """The parts of one optimizer step, over all ranks."""

    def __init__(
        self, objective: Objective, optimizer: Optimizer, settings: Settings, runtime: Runtime, ranks: Ranks
    ) -> None:
        self.objective, self.optimizer = objective, optimizer
        self.settings, self.runtime, self.ranks = settings, runtime, ranks

    def forward_backward(
        self, batches: Sequence[Batch], *, step: int, mtp_weight: float, needs_counted: bool = True
    ) -> Outcome:
        """Add up gradients of the step's loss: summed over counted positions, divided by their number on all ranks."""
        counts = [int((batch.targets_BT != IGNORED).sum()) for batch in batches]
        further = sum(further_counted(batch.targets_BT, batch.documents_BT) for batch in batches) if mtp_weight else 0
        tokens = sum(batch.tokens_BT.numel() for batch in batches)
        counted, all_further, all_tokens = self.ranks.sum(sum(counts), further, tokens)
        if not counted and needs_counted:
            raise InputError(f"training: no position of step {step + 1} counts for the loss; check the data's masks.")
        loss_total = torch.zeros((), dtype=torch.float32, device=self.runtime.device)
        for number, (batch, count) in enumerate(zip(batches, counts, strict=True), 1):
            if not count and self.ranks.size == 1:
                continue
            sum_over_copies(self.objective, number == len(batches))
            parts = (batch.tokens_BT, batch.targets_BT, batch.documents_BT)
            tokens_BT, targets_BT, documents_BT = (p.to(self.runtime.device, non_blocking=True) for p in parts)
            with self.runtime.autocast():
                loss_sum, further_sum = self.objective(tokens_BT, targets_BT, documents_BT, with_mtp=bool(mtp_weight))
            objective = loss_sum / max(1, counted)
            if mtp_weight:
                objective = objective + mtp_weight * further_sum / max(1, all_further)
            objective.backward()
            loss_total += loss_sum.detach()
        (loss,) = self.ranks.sum(float(loss_total))
        return Outcome(loss=loss / max(1, counted), tokens=int(all_tokens), counted_tokens=int(counted))

    @torch.no_grad()
    def clip(self) -> float:
        """Shorten the gradient to the limit; returns its norm before. Its parts may lie on different meshes."""
        gradients = [part for part in self.optimizer.gradients().values() if part.numel()]
        squares = torch.stack(torch._foreach_norm(gradients)).square().sum()
        norm = float(self.ranks.sum_over_shards(squares).sqrt())
        factor = self.settings.gradient_clip / (norm + 1e-6)
        if factor < 1:
            torch._foreach_mul_(gradients, factor)
        return norm

    def move(self, factor: float) -> list[RouterLoad]:
        """Move weights and router biases; with a factor of 0 neither, but the counts are emptied all the same."""
        if factor:
            self.optimizer.step(factor)
        self.optimizer.zero_grad()
        model = self.objective.model
        self.ranks.sum_tensors([router.counts_E for router in model.routers().values()])
        return model.update_router_bias(self.settings.router_bias_rate if factor else 0.0)

    def discard(self) -> None:
        """Forget a step's gradients and counts."""
        self.move(0.0)


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
    ranks: Ranks,
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
        peak_memory_bytes=max(ranks.gather(runtime.peak_memory_bytes())),
        skipped=int(tally.guard.get("skipped", 0)),
        rollbacks=tally.rollbacks,
    )


def _finite(value: float) -> float | None:
    """JSON knows no NaN."""
    return value if math.isfinite(value) else None
