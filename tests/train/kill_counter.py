"""Kills the process that it is in with -9 at a known instant, counted in what a run does to the disk and asks for."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from typing import Any


class KillCounter:
    """Counts events: a file synced, a rename, a folder removed, and calls of whatever else is `counted`.

    Args:
        last: the number of the event before which the process kills itself; 0 for never.

    Attributes:
        count: events so far.
    """

    def __init__(self, last: int) -> None:
        self.count, self._last = 0, last
        os.fsync, os.rename = self.counted(os.fsync), self.counted(os.rename)
        shutil.rmtree = self.counted(shutil.rmtree)  # type: ignore[assignment]

    def counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, each call of which is an event."""

        def event(*arguments: Any, **options: Any) -> Any:
            self.count += 1
            if self.count == self._last:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)

        return event
