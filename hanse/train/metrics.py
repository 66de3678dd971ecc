"""What a run says while it goes: a line of JSON a step for the record, and progress for the person, on stderr."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from hanse.errors import InputError

PLAIN_SECONDS = 10.0  # between two lines where nobody watches a terminal


@dataclass(frozen=True)
class Summary:
    """A whole run in figures, over all its resumptions.

    Attributes:
        steps: optimizer steps.
        tokens: positions that went through the model.
        counted_tokens: positions whose prediction entered the loss.
        loss_first: mean loss in nats a token of the first steps (one in fifty).
        loss_last: the same of the last steps.
        tokens_per_second: median over the steps.
        seconds: wall time spent training.
        flop: floating-point operations of the model, forward and backward.
        operations: the same by part.
        attended_pairs: (query, key) pairs inside documents; attention is counted by them.
        mtp_tokens, mtp_counted_tokens: of tokens and counted_tokens, those of steps with a multi-token loss.
        energy_wh: measured, over all ranks, steps that were undone included; without what a killed process did after
            its last checkpoint. None where it was not measured all the time.
        energy_method: what was read, or why nothing was.
        peak_memory_bytes: of this process.
        skipped: steps that the guard dropped.
        rollbacks: each time the run went back to a checkpoint: why, from where, to where, which data was left out.
    """

    steps: int
    tokens: int
    counted_tokens: int
    loss_first: float
    loss_last: float
    tokens_per_second: float
    seconds: float
    flop: int
    operations: dict[str, int]
    attended_pairs: int
    mtp_tokens: int
    mtp_counted_tokens: int
    energy_wh: float | None
    energy_method: str
    peak_memory_bytes: int
    skipped: int
    rollbacks: list[dict[str, Any]]


class MetricsLog:
    """Appends one JSON object a step to a file that survives the process.

    Args:
        path: the file; made if absent. None keeps nothing: another rank writes it.
        keep_steps: on resume, lines of later steps are cut off: they are about to happen again.
    """

    def __init__(self, path: Path | None, *, keep_steps: int) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = read_rows(path) if path else []
        self._file: TextIO | None = None
        self.cut(keep_steps)

    def cut(self, keep_steps: int) -> None:
        """Drop the lines of later steps. Raises InputError if the disk is full."""
        self.rows = [row for row in self.rows if row["step"] <= keep_steps]
        if self.path is None:
            return
        try:
            if self._file:
                self._file.close()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial = self.path.with_suffix(".partial")
            partial.write_text("".join(_line(row) for row in self.rows), encoding="utf-8")
            partial.replace(self.path)
            self._file = self.path.open("a", encoding="utf-8", buffering=1)
        except OSError as error:
            raise _not_written(self.path, error) from error

    def write(self, row: Mapping[str, Any]) -> None:
        """Add one step. Raises InputError if the disk is full."""
        if self.path is None or self._file is None:
            return
        self.rows.append(dict(row))
        try:
            self._file.write(_line(row))
        except OSError as error:
            raise _not_written(self.path, error) from error

    def close(self, copy_to: Path | None = None) -> None:
        """Close the file; `copy_to` is the folder that gets a copy."""
        if self.path is None or self._file is None:
            return
        self._file.close()
        if copy_to is not None:
            copy_to.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.path, copy_to / self.path.name)


class ProgressReport:
    """A bar with loss, tokens/s and time left on a terminal; elsewhere a plain line about every ten seconds."""

    def __init__(self, steps: int, *, done: int, label: str, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._steps = steps
        self._done_before = done
        self._label = label
        self._began = self._last_line = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}  loss {task.fields[loss]}  {task.fields[speed]} tokens/s"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task(label, total=steps, completed=done, loss="-", speed="-")

    def __enter__(self) -> ProgressReport:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """Print one line, above the bar if there is one."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def update(self, done: int, *, loss: float, tokens_per_second: float) -> None:
        """Report `done` finished steps."""
        if self._console.is_terminal:
            self._bar.update(self._task, completed=done, loss=f"{loss:.3f}", speed=f"{tokens_per_second:,.0f}")
            return
        now = time.monotonic()
        if now - self._last_line >= PLAIN_SECONDS or done == self._steps:
            self._last_line = now
            left = (now - self._began) / max(1, done - self._done_before) * (self._steps - done)
            self.say(
                f"{self._label}: step {done}/{self._steps}, loss {loss:.3f}, {tokens_per_second:,.0f} tokens/s, "
                f"{clock(left)} left"
            )


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines with straight columns: the first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))] if rows else []
    return [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def clock(seconds: float) -> str:
    """Seconds as 1:02:03 or 2:03."""
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics file; a last line that was cut off by a crash is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, sort_keys=True) + "\n"


def _not_written(path: Path, error: OSError) -> InputError:
    return InputError(f"{path}: cannot be written ({error.strerror}); free space there and run again.")
