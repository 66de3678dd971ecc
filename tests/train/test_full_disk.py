"""A disk that is really full: a file system of its own, in a name space where this process may mount one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from toy import toy_model, toy_train, weights_digest

HERE = Path(__file__).parent
ALONE = ["unshare", "--map-root-user", "--mount"]


def _may_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*ALONE, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not _may_mount(), reason="this system lets nobody mount a file system in a name space of its own")
def test_a_full_disk_stops_the_run_keeps_the_last_good_checkpoint_and_goes_on_when_there_is_room(
    tmp_path: Path,
) -> None:
    straight = toy_model()
    toy_train(tmp_path / "straight", model=straight)
    saved = tmp_path / "straight" / "scratch" / "step-000020"
    one = sum(file.stat().st_size for file in saved.iterdir())
    (tmp_path / "small").mkdir()
    path = os.pathsep.join([str(HERE.parents[1]), str(HERE), *sys.path])
    done = subprocess.run(
        [*ALONE, sys.executable, str(HERE / "full_disk_run.py"), str(tmp_path / "small"), str(int(2.6 * one))],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert "the disk is full, checkpoint step-000015 could not be written (step-000010 is kept)" in found["said"]
    assert found["left"] == ["metrics.jsonl", "step-000005", "step-000010"]
    assert found["digest"] == weights_digest(straight)
