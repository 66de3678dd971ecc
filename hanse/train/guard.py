"""What stops a run or a step: a signal, a loss that is no number, a gradient far out of line."""

from __future__ import annotations

import math
import signal
import statistics
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType, TracebackType

SPIKE_FACTOR = 20.0  # clipping already bounds a step's length; only gradients that point nowhere are worth dropping
SPIKE_WINDOW = 50  # steps whose gradient norms make the median
PATIENCE = 5  # non-finite steps in a row before the run goes back
LOSS_WINDOW = 100  # steps whose losses make the median
HIGH_FACTOR = 1.3  # a change of mixture moves the loss less; a diverging run doubles it
HIGH_PATIENCE = 10  # high steps in a row before the run goes back


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


@dataclass(frozen=True)
class Trouble:
    """Why the run should go back behind step `since`."""

    what: str
    since: int
    is_high_loss: bool = False


class Guard:
    """Decides whether a step's gradient may move the weights. Its state is small and goes into the checkpoint.

    A step is dropped if its loss or gradient norm is not finite, or if the norm exceeds `SPIKE_FACTOR` times the median
    of the last `SPIKE_WINDOW`. A dropped norm still enters the median, so a lasting change is accepted after a while.

    After `PATIENCE` steps in a row without a finite number, or `HIGH_PATIENCE` with a loss far above the last
    `LOSS_WINDOW`, there is `trouble`: the run should go back and leave out that data. A loss that is high again after
    that is accepted as the new level, for then it is not the data.
    """

    def __init__(
        self,
        norms: Sequence[float] = (),
        failures_in_row: int = 0,
        skipped: int = 0,
        losses: Sequence[float] = (),
        high_in_row: int = 0,
        accepts_high: bool = False,
    ) -> None:
        self.norms: deque[float] = deque(norms, maxlen=SPIKE_WINDOW)
        self.losses: deque[float] = deque(losses, maxlen=LOSS_WINDOW)
        self.failures_in_row, self.high_in_row, self.skipped = failures_in_row, high_in_row, skipped
        self.accepts_high = accepts_high
        self.trouble: Trouble | None = None

    def verdict(self, step: int, *, loss: float, gradient_norm: float) -> str:
        """Why this step must be dropped, or "" if it may be taken. Sets `trouble` where dropping is not enough."""
        if not (math.isfinite(loss) and math.isfinite(gradient_norm)):
            self.skipped += 1
            self.failures_in_row += 1
            if self.failures_in_row >= PATIENCE:
                what = f"the loss was not a finite number for {PATIENCE} steps in a row"
                self.trouble = Trouble(what, step + 1 - PATIENCE)
            return "not finite"
        self.failures_in_row = 0
        self._watch(step, loss)
        is_spike = len(self.norms) == SPIKE_WINDOW and gradient_norm > SPIKE_FACTOR * statistics.median(self.norms)
        self.norms.append(gradient_norm)
        self.skipped += is_spike
        return "gradient spike" if is_spike else ""

    def _watch(self, step: int, loss: float) -> None:
        """Count losses that are far too high; they do not enter the window, or it would get used to them."""
        if len(self.losses) == LOSS_WINDOW and loss > HIGH_FACTOR * statistics.median(self.losses):
            self.high_in_row += 1
        else:
            self.high_in_row = 0
            self.losses.append(loss)
        if self.high_in_row < HIGH_PATIENCE:
            return
        if self.accepts_high:
            self.losses.clear()
            self.accepts_high = False
        else:
            what = f"the loss was over {HIGH_FACTOR:g} times its median for {HIGH_PATIENCE} steps in a row"
            self.trouble = Trouble(what, step + 1 - HIGH_PATIENCE, is_high_loss=True)
        self.high_in_row = 0

    def state(self) -> dict[str, object]:
        """What a checkpoint keeps; the keywords of the constructor. JSON keeps every float exactly."""
        return {
            "norms": list(self.norms),
            "failures_in_row": self.failures_in_row,
            "skipped": self.skipped,
            "losses": list(self.losses),
            "high_in_row": self.high_in_row,
            "accepts_high": self.accepts_high,
        }
