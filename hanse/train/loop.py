"""The training loop, in execution order: prepare, resume, dry batch, then step after step to the last.

The same loop pre-trains and tunes: what differs is the data and the settings that it is given. A step is a function of
its number alone (data, rate, no random state), so a run that was killed and resumed ends in the same weights, bit for
bit, at an equal number of threads.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from hanse.data.loader import Batch
from hanse.errors import InputError, Interrupted
from hanse.model.transformer import RouterLoad, Transformer
from hanse.parallel.ranks import Ranks
from hanse.parallel.shard import Placed
from hanse.plan.operations import Work, attended_pairs, training
from hanse.runtime import Runtime
from hanse.train import dry
from hanse.train.checkpoint import Checkpoints, fingerprint
from hanse.train.energy import EnergyMeter
from hanse.train.guard import Guard, StopSignals
from hanse.train.metrics import MetricsLog, ProgressReport, Summary, aligned
from hanse.train.optimizer import Optimizer, assign, table
from hanse.train.schedule import warmup_stable_decay
from hanse.train.step import Outcome, Settings, Step, mtp_weight_of
from hanse.train.tally import Tally, layout, resume, roll_back

METRICS = "metrics.jsonl"


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
    tally = Tally(
        fingerprint(model, {**identity, "steps": steps}), runtime.threads, layout(ranks), pairs=0, energy_wh=0.0
    )
    tally = resume(checkpoints, runtime, tally)
    step_once = Step(placed.objective, optimizer, settings, runtime, ranks)
    mtp_weight = mtp_weight_of(settings, steps)

    with (
        StopSignals() as stop,
        ProgressReport(
            steps, done=tally.step, label=label, console=console if ranks.is_first else Console(quiet=True)
        ) as report,
        EnergyMeter(runtime.device, ranks=ranks.size) as meter,
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
            batches, weight = batch_at(tally.data_step(steps)), mtp_weight(tally.step)
            outcome = step_once.forward_backward(batches, step=tally.step, mtp_weight=weight)
            norm = step_once.clip()
            dropped = guard.verdict(tally.step, loss=outcome.loss, gradient_norm=norm)
            if guard.trouble:
                used = tally.energy_wh  # what it took to get here is spent, whatever comes of it
                tally = replace(roll_back(checkpoints, tally, guard, report.say), energy_wh=used)
                guard = Guard(**tally.guard)
                step_once.discard()
                log.cut(tally.step)
                continue
            loads = step_once.move(0.0 if dropped else factor)
            runtime.synchronize()
            seconds = time.perf_counter() - began

            tally = _advance(tally, outcome, seconds, guard, has_mtp=weight > 0)
            rate = settings.learning_rate * factor
            log.write(
                _row(tally, outcome, seconds=seconds, learning_rate=rate, norm=norm, loads=loads, dropped=dropped)
            )
            report.update(tally.step, loss=outcome.loss, tokens_per_second=outcome.tokens / seconds)

            is_due = ranks.is_first and _is_due(tally.step, saved_at, settings, checkpoint_steps)
            seen = sum(attended_pairs(batch.documents_BT.cpu().numpy()) for batch in batches)
            *wishes, pairs, used_wh = ranks.sum(is_due, stop.is_requested, seen, meter.lap())
            is_due, is_stopping = (number > 0 for number in wishes)
            tally = tally.plus(int(pairs), used_wh)
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
    return _summary(tally, log.rows, batch_at, model, runtime, ranks, meter)


def _is_due(step: int, saved_at: float, settings: Settings, checkpoint_steps: int | None) -> bool:
    if checkpoint_steps:
        return step % checkpoint_steps == 0
    return time.monotonic() - saved_at >= settings.checkpoint_seconds


def _advance(tally: Tally, outcome: Outcome, seconds: float, guard: Guard, *, has_mtp: bool) -> Tally:
    return replace(
        tally,
        step=tally.step + 1,
        tokens=tally.tokens + outcome.tokens,
        counted_tokens=tally.counted_tokens + outcome.counted_tokens,
        mtp_tokens=tally.mtp_tokens + outcome.tokens * has_mtp,
        mtp_counted_tokens=tally.mtp_counted_tokens + outcome.counted_tokens * has_mtp,
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
    meter: EnergyMeter,
) -> Summary:
    losses = [row["loss"] for row in rows if row["loss"] is not None]
    share = max(1, len(losses) // 50)
    work = _work(tally, batch_at(0)[0].tokens_BT.shape[1])
    operations = training(model.config, work)
    is_measured = not ranks.any(not meter.is_readable)
    return Summary(
        steps=tally.step,
        tokens=tally.tokens,
        counted_tokens=tally.counted_tokens,
        loss_first=statistics.fmean(losses[:share]) if losses else math.nan,
        loss_last=statistics.fmean(losses[-share:]) if losses else math.nan,
        tokens_per_second=statistics.median(row["tokens_per_second"] for row in rows) if rows else 0.0,
        seconds=tally.seconds,
        flop=sum(operations.values()),
        operations=operations,
        attended_pairs=work.pairs,
        mtp_tokens=work.mtp_tokens,
        mtp_counted_tokens=work.mtp_counted_tokens,
        energy_wh=tally.energy_wh if is_measured else None,
        energy_method="; ".join(dict.fromkeys(ranks.gather(meter.method))),
        peak_memory_bytes=max(ranks.gather(runtime.peak_memory_bytes())),
        skipped=int(tally.guard.get("skipped", 0)),
        rollbacks=tally.rollbacks,
    )


def _work(tally: Tally, sequence_length: int) -> Work:
    """What went through the model; whole sequences where a checkpoint of an older version did not count it."""
    if tally.pairs is None:
        return Work.whole_sequences(tally.tokens, sequence_length)
    return Work(tally.tokens, tally.counted_tokens, tally.pairs, tally.mtp_tokens, tally.mtp_counted_tokens)


def _finite(value: float) -> float | None:
    """JSON knows no NaN."""
    return value if math.isfinite(value) else None
