"""The verb: check, show, write the scripts, submit the chain; or tell how it stands."""

from __future__ import annotations

import json
import shlex
import sys
from argparse import Namespace
from pathlib import Path

from hanse.errors import InputError
from hanse.launch import jobs as planned
from hanse.launch import script, slurm
from hanse.launch.chain import Chain, Progress, note
from hanse.launch.script import Job
from hanse.plan import machines
from hanse.recipe import Recipe


def run(recipe: Recipe, options: Namespace) -> int:
    """Carry out `hanse launch`. Returns 0; raises InputError for everything that a person can put right."""
    store = options.store.absolute()
    folder = store / "launch" / f"{recipe.name}-{recipe.version}"
    if options.status:
        from hanse.launch import status

        return status.show(recipe, folder, planned.job_name(recipe, store), as_json=options.json)
    _refuse_other(recipe, folder)
    if options.machine is None:
        raise InputError(f"--machine: missing; name one of {', '.join(machines.names())}, or a TOML file of your own.")
    jobs = planned.plan(recipe, options, machines.machine(options.machine), store, folder)
    if options.dry_run:
        print(json.dumps(planned.as_dict(jobs), indent=1) if options.json else planned.shown(jobs))
        return 0
    slurm.require()
    _refuse_done(recipe, store)
    numbers, left = _submit(recipe, jobs, store, folder)
    if options.json:
        print(json.dumps({"folder": str(folder), "jobs": numbers, **planned.as_dict(jobs)}, indent=1))
        return 0
    name = jobs[0].name
    print(planned.lines(jobs))
    if left:
        print(f"submitted  {len(numbers)} of {len(jobs)}: {left}", file=sys.stderr)
    print(f"jobs       {numbers[0]}" + (f" to {numbers[-1]}" if len(numbers) > 1 else ""))
    print(f"scripts    {folder}\nlogs       {folder}/job-NUMBER.log")
    print(f"watch      {slurm.watch_command(name)}\n           hanse launch {_recipe_words(options)} --status")
    print(f"stop       {slurm.cancel_command(name)}")
    return 0


def _submit(recipe: Recipe, jobs: list[Job], store: Path, folder: Path) -> tuple[list[str], str]:
    """Write what the jobs need and submit them, each after the one before. Returns their numbers, and why not all."""
    from hanse.store.stage import Store

    with Store.open(store).lock(f"launch/{recipe.name}/{recipe.version}", f"launching {recipe.name}"):
        if running := slurm.queue(jobs[0].name):
            raise InputError(
                f"{recipe.name} {recipe.version}: a chain is under way, {planned.count(len(running), 'job')} in the "
                f"queue ({running[0].job} is {running[0].state}); wait for it, or end it with: "
                f"{slurm.cancel_command(jobs[0].name)}"
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            keep(recipe, folder / "recipe.toml")
            for job in jobs:
                (folder / f"{job.kind}.sh").write_text(script.text(job), encoding="utf-8")
        except OSError as error:
            raise InputError(f"{folder}: cannot be written ({error.strerror}).") from None
        data_jobs = sum(job.kind == "data" for job in jobs)
        facts = {"store": str(store), "name": recipe.name, "version": recipe.version, "data_jobs": data_jobs}
        note(folder, "launch", machine_jobs=len(jobs), **facts)  # before the first job can begin
        numbers: list[str] = []
        for job in jobs:
            try:
                numbers.append(slurm.submit(folder / f"{job.kind}.sh", after=numbers[-1] if numbers else None))
            except InputError as error:
                if not numbers:
                    note(folder, "stop", job="", reason=str(error))
                    raise
                return numbers, f"{error} When these are used up, launch again."
            note(folder, "submitted", job=numbers[-1], kind=job.kind)
    return numbers, ""


def keep(recipe: Recipe, path: Path) -> None:
    """Write a recipe with all its values, so that a chain goes on with it also if the file changes while jobs wait."""
    import tomli_w

    path.write_text(tomli_w.dumps(recipe.model_dump(mode="json", exclude_none=True)), encoding="utf-8")


def _refuse_other(recipe: Recipe, folder: Path) -> None:
    """`a-b` version `c` and `a` version `b-c` would share a folder."""
    chain = Chain.read(folder)
    if chain is not None and (chain.name, chain.version) != (recipe.name, recipe.version):
        raise InputError(
            f"{folder}: holds the chain of {chain.name} version {chain.version}; name another store with --store."
        )


def _refuse_done(recipe: Recipe, store: Path) -> None:
    if Progress.of(store, recipe.name, recipe.version).has("release"):
        raise InputError(
            f"release/{recipe.name}/{recipe.version} is there, so there is nothing to launch; for another, raise "
            "`version` in the recipe."
        )


def _recipe_words(options: Namespace) -> str:
    words = [options.recipe] if options.recipe else []
    for setting in options.set:
        if setting.startswith(("name=", "version=")):
            words += ["--set", setting]
    return shlex.join([*words, "--store", str(options.store)])
