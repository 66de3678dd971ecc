"""Locks that end with their process: `flock`, which the kernel releases on exit, crash and kill -9 alike."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from hanse.errors import InputError


@dataclass
class Held:
    """A lock in our hands."""

    descriptor: int
    owner: int

    def say(self, doing: str) -> None:
        """Replace what a second process is told we are doing."""
        if os.getpid() == self.owner:
            text = json.dumps({"pid": self.owner, "doing": doing}).encode()
            with suppress(OSError):  # a full disk must not end the work that the note describes
                os.ftruncate(self.descriptor, 0)
                os.pwrite(self.descriptor, text, 0)


@contextmanager
def hold(path: Path, doing: str, *, waits: bool = False) -> Iterator[Held]:
    """Hold the lock file at `path` while the block runs.

    The file stays behind, unlocked: removing it would let two processes hold two files of one name.

    Args:
        path: the lock file; its folder is made.
        doing: what to tell whoever finds it locked, for example `building model/atlas/1`.
        waits: for a process that holds it, instead of refusing.

    Raises:
        InputError: another process holds it and we do not wait, or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise InputError(f"{path}: cannot be locked ({error.strerror}).") from None
    held = Held(descriptor, os.getpid())
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
        except BlockingIOError:
            raise InputError(_busy(path)) from None
        # A forked worker inherits the open file and would keep the lock alive after our death.
        os.register_at_fork(after_in_child=lambda: _close(held))
        held.say(doing)
        yield held
    finally:
        _close(held)


def _close(held: Held) -> None:
    if held.descriptor >= 0:
        os.close(held.descriptor)
        held.descriptor = -1


def _busy(path: Path) -> str:
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        return (
            f"process {note['pid']} is at work here ({note['doing']}); wait for it, or stop it with: kill {note['pid']}"
        )
    except (OSError, ValueError, KeyError, TypeError):  # between its lock and its note
        return f"another process has just begun to work here (it holds {path.name}); wait for it."
