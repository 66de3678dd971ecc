"""The batch over a run: constant, or small at first, when gradients agree and few tokens show the way. Torch-free."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

PARTS = (4, 2)  # a quarter of the batch, then half


@dataclass(frozen=True)
class Ramp:
    """Which rows belong to which optimizer step.

    Attributes:
        rows: of a full step.
        stretches: (first step, first row, rows a step), in order.
        steps: of the whole run.
    """

    rows: int
    stretches: tuple[tuple[int, int, int], ...]
    steps: int

    @classmethod
    def of(cls, rows: int, *, total_rows: int, share: float) -> Ramp:
        """The ramp over the first `share` of all rows: half of it at a quarter of the batch, half of it at half."""
        stretches: list[tuple[int, int, int]] = []
        step = row = 0
        for part in PARTS if share else ():
            small = rows // part
            count = round(total_rows * share / len(PARTS)) // small
            if small and count:
                stretches.append((step, row, small))
                step, row = step + count, row + count * small
        stretches.append((step, row, rows))
        return cls(rows, tuple(stretches), step + (total_rows - row) // rows)

    def at(self, step: int) -> range:
        """The rows of a step, numbered through the run."""
        first_step, first_row, rows = self.stretches[bisect_right([s for s, _, _ in self.stretches], step) - 1]
        begin = first_row + (step - first_step) * rows
        return range(begin, begin + rows)
