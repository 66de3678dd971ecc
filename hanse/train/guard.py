"""What stops a run or a step: a signal, a loss that is no number, a gradient far out of line."""

from __future__ import annotations

import math
import signal
import statistics
import threading
from collections import deque
from collections.abc import Sequence
from types import FrameType, TracebackType

from hanse.errors import InputError

SPIKE_FACTOR = 20.0  # clipping already bounds a step's length; only gradients that point nowhere are worth dropping
SPIKE_WINDOW = 50  # steps whose gradient norms make the median
PATIENCE = 5  # non-finite steps in a row before the run stops


class StopSignals:
    """Turns SIGTERM and Ctrl-C into a request, so that the step in hand is finished and saved.

    A second Ctrl-C stops at once. Outside the main thread Python lets nobody catch signals; then it does nothing.
    """

    def __init__(self) -> None:
        self.is_requested = False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.is_requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.is_requested = True


class Guard:
    """Decides whether a step's gradient may move the weights. Its state is small and goes into the checkpoint.

    A step is dropped if its loss or gradient norm is not finite, or if the norm exceeds `SPIKE_FACTOR` times the median
    of the last `SPIKE_WINDOW`. A dropped norm still enters the median, so a lasting change is accepted after a while.
    """

    def __init__(self, norms: Sequence[float] = (), failures_in_row: int = 0, skipped: int = 0) -> None:
        self.norms: deque[float] = deque(norms, maxlen=SPIKE_WINDOW)
        self.failures_in_row = failures_in_row
        self.skipped = skipped

    def verdict(self, step: int, *, loss: float, gradient_norm: float) -> str:
        """Why this step must be dropped, or "" if it may be taken.

        Raises:
            InputError: `PATIENCE` steps in a row were not finite. Data and seeds depend on the step alone, so going
                back and trying again would meet the same numbers.
        """
        if not (math.isfinite(loss) and math.isfinite(gradient_norm)):
            self.skipped += 1
            self.failures_in_row += 1
            if self.failures_in_row >= PATIENCE:
                raise InputError(
                    f"training: the loss was not a finite number for {PATIENCE} steps in a row, the last is step "
                    f"{step + 1}; lower learning_rate and adam_learning_rate, or raise warmup_share, and run again."
                )
            return "not finite"
        self.failures_in_row = 0
        is_spike = len(self.norms) == SPIKE_WINDOW and gradient_norm > SPIKE_FACTOR * statistics.median(self.norms)
        self.norms.append(gradient_norm)
        self.skipped += is_spike
        return "gradient spike" if is_spike else ""

    def state(self) -> dict[str, object]:
        """What a checkpoint keeps; the keywords of the constructor. JSON keeps every float exactly."""
        return {"norms": list(self.norms), "failures_in_row": self.failures_in_row, "skipped": self.skipped}
