"""Slurm's commands, as far as a chain needs them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hanse.errors import InputError

_TIMEOUT_SECONDS = 120


@dataclass(frozen=True)
class Queued:
    """A job that Slurm has not ended: its number, PENDING, RUNNING or the like, time used, and why it waits."""

    job: str
    state: str
    used: str
    reason: str


def require() -> None:
    """Raises InputError where there is no Slurm."""
    if shutil.which("sbatch") is None:
        raise InputError(
            "sbatch: there is no Slurm on this computer; launch from a login node, or see the scripts with --dry-run."
        )


def submit(script: Path, *, after: str | None) -> str:
    """Submit a script from its folder, where its log goes too.

    Args:
        after: a job that has to end first, however it ends.

    Returns:
        The job's number.

    Raises:
        InputError: with what Slurm said.
    """
    wait = [f"--dependency=afterany:{after}"] if after else []
    done = _run(["sbatch", "--parsable", *wait, script.name], folder=script.parent)
    # A site's wrapper may say more; with several clusters it is `number;cluster`.
    numbers = re.findall(r"^(\d+)(?:;\S*)?$", done.stdout, re.MULTILINE)
    if done.returncode or not numbers:
        raise InputError(f"sbatch: {_said(done)}")
    return numbers[-1]


def queue(name: str) -> list[Queued]:
    """This person's jobs of a name that have not ended.

    Raises:
        InputError: with what Slurm said.
    """
    done = _run(["squeue", "--noheader", f"--user={_user()}", f"--name={name}", "--sort=i", "--format=%i|%T|%M|%r"])
    if done.returncode:
        raise InputError(f"squeue: {_said(done)}")
    rows = [line.strip().split("|", 3) for line in done.stdout.splitlines() if line.count("|") >= 3]
    return [Queued(*row) for row in rows]


def cancel_command(name: str) -> str:
    """What a person types to end a chain, the job that runs and all that wait."""
    return f"scancel --user={_user()} --name={name}"


def watch_command(name: str) -> str:
    """What a person types to see the jobs."""
    return f"squeue --user={_user()} --name={name}"


def _user() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container without this user's entry
        return str(os.getuid())


def _run(command: Sequence[str], folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    # Inside another job, its SLURM_ variables would shape ours; RANK and the like would make every rank the first.
    foreign = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    kept = {
        key: value
        for key, value in os.environ.items()
        if key == "SLURM_CONF" or not (key.startswith("SLURM_") or key in foreign)
    }
    try:
        return subprocess.run(
            command, cwd=folder, env=kept, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False
        )
    except FileNotFoundError:
        raise InputError(f"{command[0]}: is not on this computer.") from None
    except subprocess.TimeoutExpired:
        raise InputError(f"{command[0]}: Slurm did not answer in {_TIMEOUT_SECONDS} s; try again later.") from None


def _said(done: subprocess.CompletedProcess[str]) -> str:
    """The end of what a command complained about: a site's own checks say why in the lines before the last."""
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    told = [re.sub(r"^(sbatch|squeue): (error: )?", "", line) for line in lines[-3:]]
    return " ".join(told) or f"ended with code {done.returncode}."
