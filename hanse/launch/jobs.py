"""The jobs of a chain: what a person asked for, checked against the recipe and the machine, and the plan in words."""

from __future__ import annotations

import hashlib
import re
import shlex
import sys
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanse.errors import InputError
from hanse.launch import script
from hanse.launch.chain import Progress
from hanse.launch.script import Job
from hanse.plan.dealing import refuse_uneven
from hanse.plan.layout import Layout
from hanse.plan.machines import Machine
from hanse.recipe import Recipe

DATA_JOBS = 2  # the second costs a second where the first was enough
MOST_JOBS = 1000
SAVE_SECONDS = 600
MOST_SAVE_SECONDS = 65535  # Slurm counts them in 16 bits
_WORD = re.compile(r"[A-Za-z0-9_.,:@%+/=-]+")
_OPTION = re.compile(r"--[a-z][a-z-]*(=[A-Za-z0-9_.,:@%+/=\[\]&|*()-]+)?")


def job_name(recipe: Recipe, store: Path) -> str:
    """The name of a chain's jobs in Slurm: one for a recipe's version in one store."""
    place = hashlib.sha256(f"{recipe.name}\n{recipe.version}\n{store}".encode()).hexdigest()[:6]
    return f"hanse-{recipe.name}-{recipe.version}-{place}"


def plan(recipe: Recipe, options: Namespace, machine: Machine, store: Path, folder: Path) -> list[Job]:
    """The jobs of a chain in order, those for the data first.

    Args:
        options: of the command line; see options.py.
        store, folder: where artifacts go, and where the chain keeps its record; both absolute.

    Raises:
        InputError: a number, word or file that the machine or Slurm would not take.
    """
    shape = _shape(options, machine)
    replicate, expert = (_positive(f"--{name}", getattr(options, name)) or 1 for name in ("replicate", "expert"))
    refuse_uneven(recipe, Layout(shape.nodes, shape.ranks, replicate, expert))
    has_shards = Progress.of(store, recipe.name, recipe.version).has("shards")
    if not any((store / "shards" / recipe.name).glob("*/step.json")):  # of any version, for it may be the same
        _refuse_hub(recipe)
    minutes = _minutes(options, machine)
    common: dict[str, Any] = {
        "name": job_name(recipe, store),
        "minutes": minutes,
        "save_seconds": _save_seconds(options.save_seconds, minutes),
        "environment": script.site(machine.name).environment,
        "folder": folder,
        "directory": Path.cwd(),
        "setup": _setup(options.setup),
        "prefix": _words("--prefix", options.prefix),
        "python": options.python or ("python3" if options.prefix else sys.executable),
    }
    paths = (str(folder / "recipe.toml"), "--store", str(store))
    count = _between("--jobs", options.jobs, 1, MOST_JOBS)
    data_jobs = 0 if shape.nodes * shape.ranks == 1 or has_shards else DATA_JOBS
    if options.data_jobs is not None:
        data_jobs = _between("--data-jobs", options.data_jobs, 0, MOST_JOBS)
    data = _data_job(options, machine, shape, common | {"command": ("data", *paths)})
    train = _train_job(options, machine, shape, common | {"command": ("run", *paths, *_run_options(options))})
    return [data] * data_jobs + [train] * count


@dataclass(frozen=True)
class _Shape:
    """Of a training job. `is_whole`: it takes all of its nodes."""

    nodes: int
    ranks: int
    cpus: int
    accelerators: int
    is_whole: bool
    partition: str
    account: tuple[str, ...]


def _shape(options: Namespace, machine: Machine) -> _Shape:
    nodes = _between("--nodes", options.nodes, 1, machine.max_nodes, f"a job on {machine.title}")
    has_accelerators = machine.vendor != "cpu"
    most = machine.accelerators_per_node if has_accelerators else machine.cpus_per_node
    ranks = machine.accelerators_per_node if has_accelerators else 1
    if options.ranks_per_node is not None:
        # A rank takes an accelerator of its own, or at least a core.
        ranks = _between("--ranks-per-node", options.ranks_per_node, 1, most, f"a node of {machine.title}")
    partition = _word("--partition", options.partition) if options.partition else machine.partition
    return _Shape(
        nodes=nodes,
        ranks=ranks,
        cpus=max(1, machine.cpus_per_node // (most if has_accelerators else ranks)),
        accelerators=ranks if has_accelerators else 0,
        is_whole=nodes > 1 or (has_accelerators and ranks == most),
        partition=partition,
        account=(f"--account={_word('--account', options.account)}",) if options.account else (),
    )


def _train_job(options: Namespace, machine: Machine, shape: _Shape, common: Mapping[str, Any]) -> Job:
    site = script.site(machine.name)
    return Job(
        kind="train",
        nodes=shape.nodes,
        ranks_per_node=shape.ranks,
        cpus_per_rank=shape.cpus,
        accelerators=shape.accelerators,
        options=(
            *_place(shape),
            *site.options,
            *shape.account,
            *(_option("--sbatch", each) for each in options.sbatch),
        ),
        binding=site.binding if shape.is_whole and shape.ranks == machine.accelerators_per_node else (),
        **common,
    )


def _data_job(options: Namespace, machine: Machine, shape: _Shape, common: Mapping[str, Any]) -> Job:
    """On one node without accelerators, or where the machine has none, on one of those that train."""
    site = script.site(machine.name)
    has_own_nodes = bool(site.data_options)
    takes_all = shape.is_whole or machine.vendor == "cpu"
    return Job(
        kind="data",
        nodes=1,
        ranks_per_node=1,
        cpus_per_rank=site.data_cpus or (machine.cpus_per_node if takes_all else shape.cpus * shape.ranks),
        accelerators=0 if has_own_nodes else shape.accelerators,
        options=(
            *(site.data_options if has_own_nodes else (*_place(shape), *site.options)),
            *shape.account,
            *(_option("--sbatch-data", each) for each in options.sbatch_data),
        ),
        binding=(),
        **common,
    )


def _place(shape: _Shape) -> tuple[str, ...]:
    partition = (f"--partition={shape.partition}",) if shape.partition else ()
    return (*partition, "--exclusive") if shape.is_whole else partition


def lines(jobs: list[Job]) -> str:
    """The plan for people: how many jobs, how long, how much of the machine."""
    told = []
    for kind, title in (("data", "data"), ("train", "training")):
        same = [job for job in jobs if job.kind == kind]
        if not same:
            continue
        job = same[0]
        each = f"{len(same)} x {_clock(job.minutes)}" if len(same) > 1 else _clock(job.minutes)
        size = ", ".join(
            (
                count(job.nodes, "node"),
                count(job.ranks, "process", "processes") + f" of {count(job.cpus_per_rank, 'core')}",
            )
        )
        hours = len(same) * job.hours * job.nodes
        told.append(f"{title:<10} {each} on {size}; at most {hours:,.1f} node hours")
        if job.accelerators:
            told[-1] += f", {hours * job.accelerators:,.0f} accelerator hours"
    told.append(
        f"each job   saves {jobs[0].save_seconds} s before its end, and runs only if there is something left to do"
    )
    return "\n".join(told)


def shown(jobs: list[Job]) -> str:
    """Plan and scripts, as `--dry-run` prints them."""
    scripts = {job.kind: job for job in jobs}
    return "\n".join([lines(jobs), *(f"\n--- {kind}.sh\n{script.text(job)}" for kind, job in scripts.items())])


def as_dict(jobs: list[Job]) -> dict[str, Any]:
    """Plan and scripts for JSON."""
    return {
        "name": jobs[0].name,
        "plan": [
            {
                "kind": kind,
                "jobs": sum(other.kind == kind for other in jobs),
                "nodes": job.nodes,
                "ranks": job.ranks,
                "cpus_per_rank": job.cpus_per_rank,
                "accelerators_per_node": job.accelerators,
                "minutes": job.minutes,
                "save_seconds": job.save_seconds,
                "node_hours": sum(other.hours * other.nodes for other in jobs if other.kind == kind),
                "script": script.text(job),
            }
            for kind, job in {job.kind: job for job in jobs}.items()
        ],
    }


def _refuse_hub(recipe: Recipe) -> None:
    for source in recipe.source:
        if source.kind == "hub":
            raise InputError(
                f"source '{source.name}' comes from the hub, and jobs are kept off the internet; make the data on a "
                "computer that has it, in the same store: hanse data RECIPE"
            )


def _minutes(options: Namespace, machine: Machine) -> int:
    most = int(machine.max_hours * 60)
    minutes = _positive("--minutes", options.minutes) or most
    if minutes > most and not options.partition:  # another partition has another cap, which Slurm knows
        raise InputError(
            f"--minutes {minutes}: a job on {machine.title} can last {most} ({machine.max_hours:g} hours)."
        )
    return minutes


def _save_seconds(wanted: int | None, minutes: int) -> int:
    if wanted is None:
        return min(SAVE_SECONDS, minutes * 60 // 5)
    if not 1 <= wanted < min(minutes * 60, MOST_SAVE_SECONDS + 1):
        raise InputError(f"--save-seconds {wanted}: has to be shorter than the job, which lasts {minutes * 60} s.")
    return wanted


def _run_options(options: Namespace) -> tuple[str, ...]:
    given: Mapping[str, object] = {
        "--device": options.device,
        "--threads": _positive("--threads", options.threads),
        "--replicate": options.replicate,
        "--expert": options.expert,
    }
    words = [word for name, value in given.items() if value is not None for word in (name, str(value))]
    flags = [name for name, is_set in (("--recompute", options.recompute), ("--float8", options.float8)) if is_set]
    return (*words, *flags)


def _between(option: str, value: int, least: int, most: int, whose: str = "") -> int:
    if not least <= value <= most:
        raise InputError(f"{option} {value}: {f'{whose} takes' if whose else 'give'} {least} to {most}.")
    return value


def _positive(option: str, value: int | None) -> int | None:
    if value is not None and value < 1:
        raise InputError(f"{option} {value}: give 1 or more.")
    return value


def _word(option: str, value: str) -> str:
    if not _WORD.fullmatch(value):
        raise InputError(f"{option} '{value}': is no single word of letters, digits and . , : @ % + / = - _")
    return value


def _option(option: str, value: str) -> str:
    if not _OPTION.fullmatch(value):
        raise InputError(
            f"{option} '{value}': write one option of sbatch with its value, for example {option}=--qos=debug"
        )
    return value


def _words(option: str, value: str | None) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(value or ""))
    except ValueError as error:
        raise InputError(f"{option} {value}: cannot be read as words ({error}).") from None


def _setup(path: Path | None) -> Path | None:
    if path is not None and not path.is_file():
        raise InputError(f"--setup {path}: no such file.")
    return path.absolute() if path else None


def _clock(minutes: int) -> str:
    return f"{minutes // 60}:{minutes % 60:02d} h"


def count(number: int, one: str, many: str = "") -> str:
    """A number with its noun."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
