"""How a chain stands: from its record, the store, and Slurm's queue where there is one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from hanse.errors import InputError
from hanse.launch import slurm
from hanse.launch.chain import Chain, Progress
from hanse.recipe import Recipe


def show(recipe: Recipe, folder: Path, name: str, *, as_json: bool) -> int:
    """Print it. Returns 0; raises InputError where nothing was launched."""
    found = of(recipe, folder, name)
    print(json.dumps(found, indent=1) if as_json else text(found))
    return 0


def of(recipe: Recipe, folder: Path, name: str) -> dict[str, Any]:
    """The chain as JSON values.

    `state` is finished, running, waiting, stopped, used up (all jobs have ended without the release), or unknown where
    Slurm does not answer; `no_queue` then says why.
    """
    chain = Chain.read(folder)
    if chain is None:
        raise InputError(f"{folder}: nothing was launched from this store; name another with --store.")
    queue, no_queue = _queue(name)
    now = chain.progress()
    attempts = {attempt.job: attempt for attempt in chain.attempts}
    jobs = []
    for number, kind in chain.jobs:
        attempt, waiting = attempts.get(number), (queue or {}).get(number)
        jobs.append(
            {
                "job": number,
                "kind": kind,
                "state": _job_state(attempt, waiting, has_queue=queue is not None),
                "began": attempt and attempt.started,
                "found": attempt and attempt.found.text(),
                "waits": waiting.reason if waiting and waiting.state == "PENDING" else None,
            }
        )
    return {
        "folder": str(folder),
        "name": name,
        "state": _state(chain, now, queue),
        "no_queue": no_queue,
        "stopped": chain.stopped,
        "reached": now.text(),
        "steps": recipe.pretrain.steps,
        "latest": _latest(chain),
        "progress": now.as_json(),
        "jobs": jobs,
    }


def text(found: dict[str, Any]) -> str:
    """The same for people."""
    why = f": {found['stopped']}" if found["state"] == "stopped" else ""
    told = [f"{found['state']}{why}", f"saved      {found['reached']} (pre-training has {found['steps']:,} steps)"]
    if found["latest"] and found["state"] in ("running", "unknown"):
        latest = found["latest"]
        told.append(
            f"at work on {latest['ref']}, step {latest['step']:,}, loss {latest['loss'] or float('nan'):.3f}, "
            f"{latest['tokens_per_second']:,.0f} tokens/s"
        )
    told.append("")
    for job in found["jobs"]:
        about = [job["state"]]
        if job["waits"] and job["waits"] != "None":
            about[0] += f" ({job['waits']})"
        if job["began"]:
            about.append(f"began {job['began']} at: {job['found']}")
        told.append(f"{job['job']:>10}  {job['kind']:<5}  {', '.join(about)}")
    told += ["", f"logs and scripts lie in {found['folder']}"]
    if found["state"] == "used up":
        told.append("launch again to go on")
    if found["no_queue"]:
        told.append(f"what runs or waits is not known: {found['no_queue']}")
    return "\n".join(told)


def _latest(chain: Chain) -> dict[str, Any] | None:
    """The newest line of metrics of what is in training, also behind its last checkpoint."""
    work = chain.store / ".work"
    logs = [
        path
        for ref in chain.progress().steps
        for path in (work / ref).glob("scratch-*/metrics.jsonl")
        if path.is_file()
    ]
    for path in sorted(logs, key=lambda path: path.stat().st_mtime, reverse=True):
        with path.open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - 65536))
            lines = stream.read().decode("utf-8", errors="replace").splitlines()
        for line in reversed(lines):
            try:
                row = json.loads(line)
                shown = {key: row[key] for key in ("step", "loss", "tokens_per_second")}
            except (ValueError, KeyError, TypeError):
                continue
            return {"ref": "/".join(path.parts[-5:-2]), **shown}
    return None


def _queue(name: str) -> tuple[dict[str, slurm.Queued] | None, str]:
    """Jobs that have not ended, by number; or None and why they are not known."""
    try:
        slurm.require()
        return {each.job: each for each in slurm.queue(name)}, ""
    except InputError as error:  # the record answers all the same
        return None, str(error)


def _state(chain: Chain, now: Progress, queue: dict[str, slurm.Queued] | None) -> str:
    if chain.is_finished(now):
        return "finished"
    if chain.stopped:
        return "stopped"
    if queue is None:
        return "unknown"
    if any(each.state != "PENDING" for each in queue.values()):
        return "running"
    return "waiting" if queue else "used up"


def _job_state(attempt: Any, waiting: slurm.Queued | None, *, has_queue: bool) -> str:
    if waiting is not None:
        return waiting.state.lower()
    if attempt is None:
        return "had nothing to do, or was cancelled" if has_queue else "unknown"
    if attempt.status is None:
        return "was cut off" if has_queue else "began"
    return "ended" if attempt.status == 0 else f"ended with code {attempt.status}"
