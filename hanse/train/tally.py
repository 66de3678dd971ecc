"""How far a run is, and how it goes on from there: after an end, and after trouble."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from hanse.errors import InputError
from hanse.parallel.ranks import Ranks
from hanse.runtime import Runtime
from hanse.train.checkpoint import Checkpoints
from hanse.train.guard import Guard

ROLLBACKS = 3  # to one checkpoint for want of a finite number, before the run gives up


@dataclass(frozen=True)
class Tally:
    """How far a run is: what a checkpoint's state.json holds.

    Attributes:
        fingerprint: of the run.
        threads, layout: CPU threads and ranks; bits repeat only at equal ones.
        step: optimizer steps done.
        pairs: (query, key) pairs inside documents; None in a checkpoint that did not count them.
        mtp_tokens, mtp_counted_tokens: of the tokens, those of steps with a multi-token loss.
        energy_wh: measured so far; None in a checkpoint that knows of none.
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
    pairs: int | None = None
    mtp_tokens: int = 0
    mtp_counted_tokens: int = 0
    energy_wh: float | None = None
    data_offset: int = 0
    rollbacks: list[dict[str, Any]] = field(default_factory=list)
    compiled: bool | None = None
    guard: dict[str, Any] = field(default_factory=dict)

    def plus(self, pairs: int, energy_wh: float) -> Tally:
        """With what one more step attended to and used; what was not counted from the beginning stays uncounted."""
        return replace(
            self,
            pairs=None if self.pairs is None else self.pairs + pairs,
            energy_wh=None if self.energy_wh is None else self.energy_wh + energy_wh,
        )

    def data_step(self, steps: int) -> int:
        """Which step's data comes next. After rollbacks the run's own ends early, and its beginning comes once more."""
        return (self.step + self.data_offset) % steps


def resume(checkpoints: Checkpoints, runtime: Runtime, fresh: Tally) -> Tally:
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


def _warn_bits(change: str) -> None:
    warnings.warn(
        f"continuing with {change}: the weights will differ from an uninterrupted run's in the last bits.",
        stacklevel=4,
    )


def layout(ranks: Ranks) -> str:
    """How the ranks share the model, in words."""
    if ranks.size == 1:
        return "1 rank"
    return f"{ranks.size} ranks (replicate {ranks.replicate}, expert {ranks.expert})"


def roll_back(checkpoints: Checkpoints, tally: Tally, guard: Guard, say: Callable[[str], None]) -> Tally:
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
    say(f"{trouble.what}: back from step {tally.step + 1} to {found.path.name}, skipping the data since then")
    checkpoints.forget_after(back.step)
    return replace(
        back,
        data_offset=tally.data_offset + skipped,
        rollbacks=[*tally.rollbacks, entry],
        compiled=tally.compiled,
        guard={**back.guard, "accepts_high": trouble.is_high_loss},
    )
