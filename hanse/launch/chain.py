"""The record of a chain of jobs, and whether the next one should run.

A job looks at its start at what is in the store and at what the jobs before it found there: so nothing depends on how a
job ended, be it by itself, at its time limit, or with its node. The record is one file of JSON lines that only grows:

    launch      a person launched: recipe, number of jobs; what follows belongs to this launch
    submitted   a job's number in Slurm
    begin, end  of a job's ranks: progress found before, exit status, whether they had got through
    stop        why nothing more will run
"""

from __future__ import annotations

import enum
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hanse.errors import InputError

RECORD = "chain.jsonl"
PATIENCE = 2  # jobs in a row that may leave things as they found them
_STEP = re.compile(r"step-(\d+)")


class Verdict(enum.IntEnum):
    """What the beginning or the end of a job says, as the exit code that its script reads."""

    GO_ON = 0
    FINISHED = 10  # the release is there: cancel the jobs that wait
    STOPPED = 11  # nothing will get better by itself: cancel them too
    NOTHING_TO_DO = 12  # for this job; those that wait have work
    AGAIN = 13  # in this job: it crashed, but after it got somewhere


@dataclass(frozen=True)
class Progress:
    """How far the work on a recipe is, read from the store alone.

    Attributes:
        made: artifacts that are there, `kind/name/version`.
        steps: of artifacts in the making, the step of the newest checkpoint.
        files: of artifacts in the making, files in scratch that outlive a job, for example annotated parts.
    """

    made: tuple[str, ...]
    steps: Mapping[str, int]
    files: Mapping[str, int]

    @classmethod
    def of(cls, store: Path, name: str, version: str) -> Progress:
        """Look at what a recipe's stages have left in a store."""
        places = [place for place in _places(store) if _is_of(place, name, version)]
        working = [place for place in _places(store / ".work") if _is_of(place, name, version)]
        steps: dict[str, int] = {}
        files: dict[str, int] = {}
        for place in working:
            ref, scratch = "/".join(place.parts[-3:]), sorted(place.glob("scratch-*"))
            found = [
                int(match[1]) for each in scratch for path in _entries(each) if (match := _STEP.fullmatch(path.name))
            ]
            if found:
                steps[ref] = max(found)
            if kept := sum(map(_kept_files, scratch)):
                files[ref] = kept
        return cls(tuple("/".join(place.parts[-3:]) for place in places), steps, files)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Progress:
        """What `as_json` wrote."""
        return cls(tuple(value["made"]), dict(value["steps"]), dict(value["files"]))

    def as_json(self) -> dict[str, Any]:
        """As the record keeps it."""
        return asdict(self)

    def has(self, kind: str) -> bool:
        """Whether an artifact of this kind is there."""
        return any(ref.startswith(f"{kind}/") for ref in self.made)

    def text(self) -> str:
        """The furthest point, in a few words."""
        if self.has("release"):
            return next(ref for ref in self.made if ref.startswith("release/"))
        if self.steps:
            ref, step = list(self.steps.items())[-1]
            return f"{ref}, step {step:,}"
        busy = [f"{ref}, {count:,} files" for ref, count in self.files.items()]
        return busy[-1] if busy else (f"{len(self.made)} artifacts" if self.made else "nothing yet")


@dataclass(frozen=True)
class Attempt:
    """The ranks of a job at work. `status` is None while they are, and for ever if the job was cut off."""

    job: str
    kind: str
    started: str
    found: Progress
    status: int | None = None


@dataclass(frozen=True)
class Chain:
    """What the record says about the newest launch.

    Attributes:
        jobs: Slurm's numbers, in order, with their kind.
        attempts: to do something, in order; a job may make several.
        done: kinds of jobs that got through. Artifacts alone do not tell: what another version of the recipe has made
            already, unchanged, is not made again under this one's name.
        stopped: why nothing more will run, or "".
    """

    store: Path
    name: str
    version: str
    data_jobs: int
    jobs: tuple[tuple[str, str], ...]
    attempts: tuple[Attempt, ...]
    done: frozenset[str]
    stopped: str

    @classmethod
    def read(cls, folder: Path) -> Chain | None:
        """The newest launch in a chain's folder, or None where nothing was launched.

        Raises:
            InputError: the record cannot be read.
        """
        try:
            lines = (folder / RECORD).read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{folder / RECORD}: cannot be read ({error}).") from None
        events = [event for line in lines if (event := _event(line))]
        starts = [number for number, event in enumerate(events) if event["event"] == "launch"]
        if not starts:
            return None
        launch, *rest = events[starts[-1] :]
        return cls(
            store=Path(launch["store"]),
            name=launch["name"],
            version=launch["version"],
            data_jobs=launch["data_jobs"],
            jobs=tuple((event["job"], event["kind"]) for event in rest if event["event"] == "submitted"),
            attempts=_attempts(rest),
            done=frozenset(event["kind"] for event in rest if event["event"] == "end" and event["done"]),
            stopped=next((event["reason"] for event in rest if event["event"] == "stop"), ""),
        )

    def progress(self) -> Progress:
        """How far the work is now."""
        return Progress.of(self.store, self.name, self.version)

    def is_finished(self, now: Progress) -> bool:
        """Whether nothing is left to do."""
        return now.has("release") or "train" in self.done

    def before(self, kind: str, now: Progress) -> tuple[Verdict, str]:
        """Whether a job of this kind has something to do, and why not."""
        if self.is_finished(now):
            return Verdict.FINISHED, "the release is there"
        if self.stopped:
            return Verdict.STOPPED, self.stopped
        has_data = now.has("shards") or "data" in self.done
        if kind == "data" and has_data:
            return Verdict.NOTHING_TO_DO, "the data are there"
        if kind == "train" and self.data_jobs and not has_data:
            last = next((each.job for each in reversed(self.attempts) if each.kind == "data"), None)
            where = f"see job-{last}.log" if last else "none of them began"
            return Verdict.STOPPED, f"the jobs for the data ended without them ({where}); launch again to go on"
        idle = [attempt for attempt in self.attempts[-PATIENCE:] if attempt.found == now]
        if len(idle) == PATIENCE:
            logs = " and ".join(dict.fromkeys(f"job-{attempt.job}.log" for attempt in idle))
            return Verdict.STOPPED, f"{PATIENCE} jobs in a row left nothing new; see {logs}"
        return Verdict.GO_ON, now.text()


def note(folder: Path, event: str, **facts: object) -> None:
    """Add a line to the record. One write of one line: jobs follow one another, and a person may launch meanwhile."""
    line = json.dumps({"event": event, "at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), **facts}, sort_keys=True)
    try:
        with (folder / RECORD).open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")
            stream.flush()
            os.fsync(stream.fileno())  # the next reader may sit on another node
    except OSError as error:
        raise InputError(f"{folder / RECORD}: cannot be written ({error.strerror}).") from None


def _attempts(events: list[dict[str, Any]]) -> tuple[Attempt, ...]:
    """Each beginning with the end that follows it, if one does."""
    found: list[Attempt] = []
    for event in events:
        if event["event"] == "begin":
            progress = Progress.from_json(event["progress"])
            found.append(Attempt(event["job"], event["kind"], event["at"], progress))
        elif event["event"] == "end" and found and found[-1].job == event["job"]:
            found[-1] = replace(found[-1], status=event["status"])
    return tuple(found)


def _event(line: str) -> dict[str, Any] | None:
    """A line of the record; one that was cut off counts as not there."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "event" in event else None


def _places(root: Path) -> list[Path]:
    """The folders `kind/name/version` below a root, sorted; nothing that begins with a dot."""
    found = [root]
    for _ in range(3):
        found = [entry for folder in found for entry in _entries(folder) if entry.is_dir() and entry.name[0] != "."]
    return found


def _is_of(place: Path, name: str, version: str) -> bool:
    own = re.escape(name) + r"(-base|-chat|-tune\d+)?"
    return place.name == version and re.fullmatch(own, place.parent.name) is not None


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:  # gone meanwhile: a stage has just been finished
        return []


def _kept_files(scratch: Path) -> int:
    """Files below a scratch folder, without checkpoints, logs and what is half written."""
    count = 0
    for _, folders, files in os.walk(scratch):
        folders[:] = [name for name in folders if name[0] != "." and not _STEP.fullmatch(name)]
        count += sum(not name.startswith((".", "metrics")) for name in files)
    return count
