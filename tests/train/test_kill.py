"""A run that is killed with -9, wherever it is, and started again ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


class Runs:
    """Runs in processes of their own."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, str(HERE / "kill_server.py")],
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, folder: Path, event: int) -> tuple[int, str, str]:
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(f"{folder} {event}\n")
        self._server.stdin.flush()
        status, events, digest = self._server.stdout.readline().split()
        return int(status), events, digest

    def finish(self, folder: Path) -> tuple[int, str]:
        """Events and digest of a run that is left alone."""
        status, events, digest = self.ask(folder, 0)
        assert status == 0
        return int(events), digest

    def kill(self, folder: Path, event: int) -> None:
        assert self.ask(folder, event)[0] == -signal.SIGKILL

    def close(self) -> None:
        self._server.communicate()


@pytest.fixture(scope="module")
def runs() -> Iterator[Runs]:
    started = Runs()
    yield started
    started.close()


def test_resume_after_kill_equals_uninterrupted_run(runs: Runs, tmp_path: Path) -> None:
    events, straight = runs.finish(tmp_path / "straight")
    draw = random.Random(0)
    for number in range(3):
        folder = tmp_path / f"killed-{number}"
        # What is left after a first kill is at least the steps, the dry batch and the last save of the rest.
        moments = [draw.randint(2, events // 2), draw.randint(1, events // 4), draw.randint(1, 8)]
        print(f"run {number}: killed at events {moments} of {events}")
        for moment in moments:
            runs.kill(folder, moment)
        assert runs.finish(folder)[1] == straight
        rows = (folder / "run" / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(row)["step"] for row in rows] == list(range(1, 17))


def test_resume_after_kill_at_every_instant_of_a_save_equals_uninterrupted_run(runs: Runs, tmp_path: Path) -> None:
    _, straight = runs.finish(tmp_path / "straight")
    # Events 1 to 4 are the dry batch and three steps; then come the syncs of the shard (by torch, by its hasher), of
    # three files and their folder, the rename, the sync of the parent.
    for event in range(5, 13):
        folder = tmp_path / f"killed-{event}"
        runs.kill(folder, event)
        whole = [path.name for path in (folder / "scratch").glob("step-*")]
        assert whole == (["step-000003"] if event == 12 else []), event
        assert runs.finish(folder)[1] == straight, event
        assert not list((folder / "scratch").glob(".partial-*"))


def test_a_second_checkpoint_cut_off_leaves_the_first(runs: Runs, tmp_path: Path) -> None:
    _, straight = runs.finish(tmp_path / "straight")
    runs.kill(tmp_path / "killed", 18)  # three more steps, then the third sync of step 6
    assert [path.name for path in (tmp_path / "killed" / "scratch").glob("step-*")] == ["step-000003"]
    assert runs.finish(tmp_path / "killed")[1] == straight
