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
from dataclasses import asdict, dataclass, replace
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
from hanse.train.step import Outcome, Settings, Step, mtp_weight_at
from hanse.train.tally import Tally, layout, resume, roll_back

METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class Course:
    """What was asked for: how far a run goes, and what each step of it takes.

    Attributes:
        batch_at, settings, steps, label, checkpoint_steps: see `train`.
    """

    batch_at: Callable[[int], Sequence[Batch]]
    settings: Settings
    steps: int
    label: str
    checkpoint_steps: int | None

    def batches(self, tally: Tally) -> Sequence[Batch]:
        """This rank's micro-batches of the next step."""
        return self.batch_at(tally.data_step(self.steps))

    def rate_factor(self, step: int) -> float:
        """What all rates are multiplied by."""
        return warmup_stable_decay(
            step, self.steps, warmup_share=self.settings.warmup_share, decay_share=self.settings.decay_share
        )

    def mtp_weight(self, step: int) -> float:
        """Of the multi-token loss."""
        return mtp_weight_at(self.settings, step, steps=self.steps)

    def is_save_due(self, step: int, saved_at: float) -> bool:
        """Whether to save after this many steps, the last time being `saved_at` (seconds of `time.monotonic`)."""
        if self.checkpoint_steps:
            return step % self.checkpoint_steps == 0
        return time.monotonic() - saved_at >= self.settings.checkpoint_seconds


@dataclass(frozen=True)
class Books:
    """Where a run leaves what it did: checkpoints, a line a step, progress for the person; and what it used."""

    checkpoints: Checkpoints
    log: MetricsLog
    report: ProgressReport
    meter: EnergyMeter


@dataclass(frozen=True)
class Taken:
    """A step that was computed, whether or not it moved the weights.

    Attributes:
        outcome: loss and tokens, of all ranks.
        gradient_norm: before it was clipped.
        dropped: why the weights were not moved, or "".
        loads: of each layer's experts.
        learning_rate: of this step.
        has_mtp: whether the multi-token loss took part.
        pairs: (query, key) pairs inside documents, of this rank.
        seconds: wall time.
    """

    outcome: Outcome
    gradient_norm: float
    dropped: str
    loads: Sequence[RouterLoad]
    learning_rate: float
    has_mtp: bool
    pairs: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        return self.outcome.tokens / self.seconds


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
        scratch, model, optimizer, ranks, keep=settings.keep_checkpoints, milestones=kept,
        is_asynchronous=runtime.device.type == "cuda",
    )  # fmt: skip
    fresh = Tally(
        fingerprint(model, {**identity, "steps": steps}), runtime.threads, layout(ranks), pairs=0, energy_wh=0.0
    )
    tally = resume(checkpoints, runtime, fresh)
    course = Course(batch_at, settings, steps, label, checkpoint_steps)
    step_once = Step(placed.objective, optimizer, settings, runtime, ranks)
    seen_by = console if ranks.is_first else Console(quiet=True)

    with (
        StopSignals() as stop,
        ProgressReport(steps, done=tally.step, label=label, console=seen_by) as report,
        EnergyMeter(runtime.device, ranks=ranks.size) as meter,
    ):
        for line in aligned(table(optimizer.groups)) if tally.step == 0 else [f"continuing after step {tally.step}"]:
            report.say(line)
        if tally.step < steps:
            tally = _dry_batch(placed, course, step_once, tally)
        log = MetricsLog(scratch / METRICS if ranks.is_first else None, keep_steps=tally.step)
        tally = _all_steps(course, step_once, tally, Books(checkpoints, log, report, meter), stop)
    log.close(copy_to=run if ranks.is_first else None)
    checkpoints.move_milestones(run)
    model.eval()
    return _summary(tally, log.rows, course, step_once, meter)


def _dry_batch(placed: Placed, course: Course, step_once: Step, tally: Tally) -> Tally:
    """Run the first micro-batch without learning from it, and note whether blocks run compiled."""
    batches = course.batches(tally)
    try_once = partial(step_once.forward_backward, mtp_weight=course.mtp_weight(tally.step))
    is_compiled = dry.run(
        placed, batches[:1], try_once, step_once.optimizer.zero_grad, ranks=step_once.ranks,
        wanted=course.settings.compile, chosen=tally.compiled, batches_left=len(batches) * (course.steps - tally.step),
    )  # fmt: skip
    return replace(tally, compiled=is_compiled)


def _all_steps(course: Course, step_once: Step, tally: Tally, books: Books, stop: StopSignals) -> Tally:
    """Step after step to the last; the checkpoints are on disk then.

    Raises:
        Interrupted: see `train`.
    """
    ranks, checkpoints = step_once.ranks, books.checkpoints
    guard = Guard(**tally.guard)
    saved_at = time.monotonic()
    while tally.step < course.steps:
        taken = _one_step(course, step_once, tally, guard)
        if taken is None:
            tally = _go_back(step_once, tally, books, guard)
            guard = Guard(**tally.guard)
            continue
        tally = _advance(tally, taken, guard)
        books.log.write(_row(tally, taken))
        books.report.update(tally.step, loss=taken.outcome.loss, tokens_per_second=taken.tokens_per_second)

        is_due = ranks.is_first and course.is_save_due(tally.step, saved_at)
        *wishes, pairs, used_wh = ranks.sum(is_due, stop.is_requested, taken.pairs, books.meter.lap())
        is_due, is_stopping = (number > 0 for number in wishes)
        tally = tally.plus(int(pairs), used_wh)
        checkpoints.poll()
        if is_due or is_stopping or tally.step == course.steps or tally.step in checkpoints.milestones:
            checkpoints.save(asdict(tally))
            saved_at = time.monotonic()
        if is_stopping:
            checkpoints.finish()
            books.log.close()
            raise Interrupted(
                f"{course.label}: stopped after step {tally.step} of {course.steps}; everything is saved."
            )
    checkpoints.finish()
    return tally


def _one_step(course: Course, step_once: Step, tally: Tally, guard: Guard) -> Taken | None:
    """The next step; None, and nothing moved, where the guard sees `trouble`."""
    began = time.perf_counter()
    factor, mtp_weight = course.rate_factor(tally.step), course.mtp_weight(tally.step)
    batches = course.batches(tally)
    outcome = step_once.forward_backward(batches, step=tally.step, mtp_weight=mtp_weight)
    norm = step_once.clip()
    dropped = guard.verdict(tally.step, loss=outcome.loss, gradient_norm=norm)
    if guard.trouble:
        return None
    loads = step_once.move(0.0 if dropped else factor)
    step_once.runtime.synchronize()
    seconds = time.perf_counter() - began
    return Taken(
        outcome=outcome,
        gradient_norm=norm,
        dropped=dropped,
        loads=loads,
        learning_rate=course.settings.learning_rate * factor,
        has_mtp=mtp_weight > 0,
        pairs=sum(attended_pairs(batch.documents_BT.cpu().numpy()) for batch in batches),
        seconds=seconds,
    )


def _go_back(step_once: Step, tally: Tally, books: Books, guard: Guard) -> Tally:
    """To the checkpoint before the trouble, and on with later data."""
    back = roll_back(books.checkpoints, tally, guard, books.report.say)
    step_once.discard()
    books.log.cut(back.step)
    return replace(back, energy_wh=tally.energy_wh)  # what it took to get here is spent, whatever comes of it


def _advance(tally: Tally, taken: Taken, guard: Guard) -> Tally:
    tokens, counted_tokens = taken.outcome.tokens, taken.outcome.counted_tokens
    return replace(
        tally,
        step=tally.step + 1,
        tokens=tally.tokens + tokens,
        counted_tokens=tally.counted_tokens + counted_tokens,
        mtp_tokens=tally.mtp_tokens + tokens * taken.has_mtp,
        mtp_counted_tokens=tally.mtp_counted_tokens + counted_tokens * taken.has_mtp,
        seconds=tally.seconds + taken.seconds,
        guard=guard.state(),
    )


def _row(tally: Tally, taken: Taken) -> dict[str, Any]:
    """One line of metrics.jsonl."""
    row: dict[str, Any] = {
        "step": tally.step,
        "tokens": tally.tokens,
        "loss": _finite(taken.outcome.loss),
        "learning_rate": taken.learning_rate,
        "grad_norm": _finite(taken.gradient_norm),
        "tokens_per_second": taken.tokens_per_second,
        "seconds": tally.seconds,
    }
    if taken.loads:
        row["expert_load_max"] = 1 + max(load.violation for load in taken.loads)  # 1 is an even share
        row["experts_idle"] = sum(load.idle for load in taken.loads)
    if taken.dropped:
        row["skipped"] = taken.dropped
    return row


def _summary(
    tally: Tally,
    rows: Sequence[Mapping[str, Any]],
    course: Course,
    step_once: Step,
    meter: EnergyMeter,
) -> Summary:
    ranks = step_once.ranks
    losses = [row["loss"] for row in rows if row["loss"] is not None]
    share = max(1, len(losses) // 50)
    work = _work(tally, course.batch_at(0)[0].tokens_BT.shape[1])
    operations = training(step_once.objective.model.config, work)
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
        peak_memory_bytes=max(ranks.gather(step_once.runtime.peak_memory_bytes())),
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
