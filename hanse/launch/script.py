"""The text of a job: directives for Slurm, then one step that runs a process per accelerator.

Directives hold checked words and numbers only, for Slurm reads them with rules of its own; every path is below them,
quoted for bash. The log's place is relative, so the script is submitted from its folder.
"""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from hanse.launch.chain import Verdict

SITES = Path(__file__).with_name("sites.toml")
LOG = "job-%j.log"
FIRST_PORT, PORTS = 15000, 15000  # below the ports that Linux hands out by itself
EARLY_SECONDS = 90  # by which Slurm may send its signal before the time that was asked for
PAUSE_SECONDS = 10
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")


@dataclass(frozen=True)
class Site:
    """What a machine's Slurm wants beside nodes, tasks and time; see sites.toml."""

    options: tuple[str, ...] = ()
    binding: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    data_options: tuple[str, ...] = ()
    data_cpus: int = 0
    source: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """One job of a chain.

    Attributes:
        kind: "data" or "train".
        name: of all jobs of the chain in Slurm.
        nodes, ranks_per_node, cpus_per_rank: processes and their cores.
        accelerators: asked for on each node; 0 for none.
        minutes: until Slurm ends it.
        save_seconds: how long before that Slurm sends SIGTERM to the ranks.
        options: more of sbatch, one word each; later ones override earlier ones.
        binding: options of srun.
        environment: for the ranks, where the person has not set it.
        command: arguments of `hanse`.
        folder: of the chain.
        directory: where the command was given.
        setup: a shell file that is read before anything else, for modules and environments.
        prefix: words before Python, for example of a container.
        python: the interpreter.
    """

    kind: str
    name: str
    nodes: int
    ranks_per_node: int
    cpus_per_rank: int
    accelerators: int
    minutes: int
    save_seconds: int
    options: tuple[str, ...]
    binding: tuple[str, ...]
    environment: Mapping[str, str]
    command: tuple[str, ...]
    folder: Path
    directory: Path
    setup: Path | None
    prefix: tuple[str, ...]
    python: str

    @property
    def ranks(self) -> int:
        """Processes of the whole job."""
        return self.nodes * self.ranks_per_node

    @property
    def hours(self) -> float:
        """The longest it can run."""
        return self.minutes / 60


@lru_cache
def site(name: str) -> Site:
    """What is known about a machine's Slurm; nothing for a machine that is not in sites.toml."""
    known = tomllib.loads(SITES.read_text(encoding="utf-8")).get(name, {})
    facts: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in known.items()}
    return Site(**facts)


def text(job: Job) -> str:
    """The script, to be given to sbatch from the chain's folder."""
    return "\n".join([*_directives(job), "", *_environment(job), "", *_body(job), ""])


def _directives(job: Job) -> list[str]:
    options = [
        f"--job-name={job.name}",
        f"--nodes={job.nodes}",
        f"--ntasks-per-node={job.ranks_per_node}",
        f"--cpus-per-task={job.cpus_per_rank}",
        *([f"--gres=gpu:{job.accelerators}"] if job.accelerators else []),
        f"--time={job.minutes // 60:02d}:{job.minutes % 60:02d}:00",
        f"--signal=TERM@{job.save_seconds}",
        "--no-requeue",
        "--open-mode=append",
        f"--output={LOG}",
        *job.options,
    ]
    return [
        "#!/bin/bash",
        "# One job of a chain, written by hanse launch. The next starts when this one ends, however it ends, and looks",
        "# whether there is something left to do. Hence --no-requeue: with a node that fails the job ends.",
        *(f"#SBATCH {option}" for option in options),
    ]


def _environment(job: Job) -> list[str]:
    lines = [f"cd -- {shlex.quote(str(job.directory))} || exit 1"]
    if job.setup is not None:
        lines.append(f"source {shlex.quote(str(job.setup))} || exit 1")
    lines += [f"export {name}=1" for name in OFFLINE]
    lines += [f'export {name}="${{{name}:-{value}}}"' for name, value in job.environment.items()]
    if job.ranks > 1:
        lines += [
            'MASTER_ADDR="${MASTER_ADDR:-$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)}"',
            "export MASTER_ADDR",
        ]
    return [*lines, f"export OMP_NUM_THREADS={job.cpus_per_rank} PYTHONUNBUFFERED=1"]


def _body(job: Job) -> list[str]:
    python = shlex.join([*job.prefix, job.python])
    folder = shlex.quote(str(job.folder))
    step = [
        "srun",
        f"--ntasks-per-node={job.ranks_per_node}",
        f"--cpus-per-task={job.cpus_per_rank}",
        # Every rank sees all accelerators of its node and takes the one with its local number.
        *(["--gpu-bind=none"] if job.accelerators else []),
        *job.binding,
        # One rank that fails takes the others along; one that is done early does not.
        "--kill-on-bad-exit=1",
        "--wait=0",
        *(["--label"] if job.ranks > 1 else []),
    ]
    retry_before = job.minutes * 60 - job.save_seconds - EARLY_SECONDS
    return [
        f'rest() {{ scancel --user="$(id -un)" --name={job.name} --state=PENDING; }}',
        "trap : TERM  # of a job that is cancelled: wait for the ranks to save, and note it",
        "",
        "for ((try = 0; ; try++)); do",
        f"  {python} -m hanse.launch.job begin {folder} {job.kind}",
        "  case $? in",
        f"    {Verdict.GO_ON:d}) ;;",
        f"    {Verdict.NOTHING_TO_DO:d}) exit 0 ;;",
        f"    {Verdict.FINISHED:d}) rest; exit 0 ;;",
        f"    {Verdict.STOPPED:d}) rest; exit 1 ;;",
        "    *) exit 1 ;;",
        "  esac",
        "",
        f'  export MASTER_PORT="$(({FIRST_PORT} + (SLURM_JOB_ID + try) % {PORTS}))"',
        f"  {shlex.join(step)} \\",
        f"    {python} -m hanse.launch.rank {folder} \\",
        f"    {shlex.join(job.command)}",
        "  status=$?",
        "",
        f"  {python} -m hanse.launch.job end {folder} {job.kind} $status",
        "  case $? in",
        # Slurm sends its signal once; ranks that start after it would never hear of it.
        f"    {Verdict.AGAIN:d}) [ $SECONDS -lt {retry_before} ] || exit $status; sleep {PAUSE_SECONDS} ;;",
        f"    {Verdict.FINISHED:d} | {Verdict.STOPPED:d}) rest; exit $status ;;",
        "    *) exit $status ;;",
        "  esac",
        "done",
    ]
