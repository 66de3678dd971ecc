"""The training steps behind a release, as the compute meter reads them: once each, checked before they are added up."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from typing import Any

from hanse.errors import InputError
from hanse.model.config import Config
from hanse.plan import operations
from hanse.release.ledger import Ledger, runtime_of
from hanse.release.papers.paper import Cell
from hanse.store import record as records
from hanse.store.digest import LARGEST_EXACT_INTEGER
from hanse.store.stage import Artifact

TOLERANCE = 0.30  # of the guidelines' annex: an estimate may be so far off
_IMPOSSIBLE = 10**40  # operations: all computers of the world together stay far below
_LONGEST = 1e10  # seconds: three centuries
_KINDS = {"pretrain": "pre-training", "tune": "tuning", "merge": "merging"}


@dataclass(frozen=True)
class Problem:
    """Something in the records or answers that does not hold together, in one sentence, and where it stands."""

    what: str
    source: str


@dataclass(frozen=True)
class Job:
    """One step that made weights.

    Attributes:
        artifact: what it made.
        kind: "pre-training", "tuning", "merging" or "training".
        flop: forward and backward passes, an integer; empty where the record says nothing usable.
        operations: the same by part; empty where it was not recorded.
        recount: the same counted here, from recorded tokens and the model's sizes; None where one of them is missing.
        tokens: positions that went through the model.
        seconds: of wall time.
        ranks: accelerators, or processes on CPUs, that computed.
        device: their name.
        threads: CPU threads of each process; 0 where nothing says.
    """

    artifact: Artifact
    kind: str
    flop: Cell
    operations: Mapping[str, int]
    recount: int | None
    tokens: Cell
    seconds: Cell
    ranks: Cell
    device: Cell
    threads: int

    @property
    def ref(self) -> str:
        """`model/name/version`."""
        return self.artifact.ref

    @property
    def section(self) -> Mapping[str, Any]:
        """The recipe's section that ran: sequence_length, optimizer and so on."""
        definition = records.definition_of(self.artifact.record)
        found: object = next((definition[key] for key in _KINDS if key in definition), {})
        return found if isinstance(found, Mapping) else {}

    @functools.cached_property
    def config(self) -> Config | None:
        """Sizes of the model that it made; None where its `config.json` cannot be read."""
        try:
            values = json.loads((self.artifact.path / "config.json").read_text(encoding="utf-8"))
            return operations.config_of(values, self.artifact.path)
        except (OSError, ValueError, LookupError, TypeError, InputError):
            return None

    @property
    def start(self) -> Mapping[str, str]:
        """SHA-256 of the weight files that it went on from, by name, where these came from outside; else empty."""
        model = records.definition_of(self.artifact.record).get("model")
        files = model.get("start") if isinstance(model, Mapping) else None
        if not isinstance(files, Mapping):
            return {}
        return {str(name): str(digest) for name, digest in files.items() if str(name).endswith(".safetensors")}


def jobs(ledger: Ledger) -> tuple[Job, ...]:
    """Every step that made weights in the ancestry, once, in the order in which they were finished."""
    unique = {artifact.ref: artifact for artifact in ledger.of_kind("model")}
    return tuple(_job(artifact) for artifact in unique.values())


def problems(found: tuple[Job, ...]) -> Iterator[Problem]:
    """What is wrong with these steps' records: impossible values, and two statements that contradict each other."""
    for job in found:
        facts, ref = job.artifact.facts, job.ref
        for name, usable in (("flop", _whole), ("tokens", _whole), ("seconds", _duration)):
            if facts.get(name) is not None and usable(facts[name]) is None:
                yield Problem(f"{name} is {_shown(facts[name])}, which cannot be; taken as not recorded",
                              f"{ref} step.json {name}")  # fmt: skip
        tokens, counted = _whole(facts.get("tokens")), _whole(facts.get("counted_tokens"))
        if tokens is not None and counted is not None and counted > tokens:
            yield Problem(f"{counted:,} tokens entered the loss, but only {tokens:,} went through the model",
                          f"{ref} step.json counted_tokens; {ref} step.json tokens")  # fmt: skip
        yield from _flop_problems(job)
        metadata = job.artifact.record["predicate"]["runDetails"]["metadata"]
        if metadata["startedOn"] > metadata["finishedOn"]:
            yield Problem(f"finished at {metadata['finishedOn']}, before it started at {metadata['startedOn']}",
                          f"{ref} step.json startedOn; {ref} step.json finishedOn")  # fmt: skip


def gaps(found: tuple[Job, ...]) -> Iterator[Problem]:
    """What these steps' records leave out and the sums need."""
    for job in found:
        missing = [name for name, cell in (("flop", job.flop), ("seconds", job.seconds)) if not cell.is_recorded]
        missing = [name for name in missing if job.artifact.facts.get(name) is None]
        if missing and job.kind != "merging":
            yield Problem(f"{' and '.join(missing)} not recorded, so no sum that needs it can be made",
                          f"{job.ref} step.json")  # fmt: skip


def exact(number: int) -> int | str:
    """As records write it: text beyond 2**53, where readers of JSON would round."""
    return number if abs(number) <= LARGEST_EXACT_INTEGER else str(number)


def flop_text(number: int) -> str:
    """Operations for people: all figures where that is still readable, else three."""
    return f"{scientific(number)} FLOP" if number >= 10**15 else f"{number:,} FLOP"


def scientific(number: float | Fraction) -> str:
    """Three significant figures: `5.21e23`."""
    return f"{float(number):.3g}".replace("e+", "e")


def plain(value: float, figures: int) -> str:
    """At most so many significant figures, without an exponent: `1,230,000`."""
    return f"{Decimal(f'{value:.{figures - 1}e}').normalize():,f}"


def joined(places: Iterable[str]) -> str:
    """What backs a figure, each place once."""
    return "; ".join(dict.fromkeys(each for place in places for each in place.split("; ") if each))


def wall_time(found: tuple[Job, ...]) -> Cell:
    """Wall time of all training steps in seconds, and hardware-days; empty where a step did not record it."""
    runs = [job for job in found if job.kind != "merging"]
    if not runs or not all(job.seconds.is_recorded for job in runs):
        return Cell(None)
    seconds = math.fsum(job.seconds.value for job in runs)
    text = (
        f"{_time_text(seconds)} of wall time ({plain(seconds / 86400, 2)} days) in {len(runs)} "
        f"run{'s' * (len(runs) > 1)}, one after the other"
    )
    if all(job.ranks.is_recorded and job.device.is_recorded for job in runs):
        days = math.fsum(job.seconds.value * job.ranks.value for job in runs) / 86400
        devices = dict.fromkeys(f"{job.ranks.value} x {job.device.value}" for job in runs)
        text += f"; {plain(days, 2)} hardware-days ({', '.join(devices)})"
    return Cell(seconds, joined(job.seconds.source for job in runs), text)


def finite(value: object) -> float | None:
    """A number as a float; None for anything else, and for one that is none or too large."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def integer(cell: Cell) -> int | None:
    """The number in a cell of operations."""
    return None if cell.value is None else int(cell.value)


def _job(artifact: Artifact) -> Job:
    facts, runtime = artifact.facts, runtime_of(artifact)
    definition = records.definition_of(artifact.record)
    kind = next((name for key, name in _KINDS.items() if key in definition), "training")
    flop = _whole(facts.get("flop"))
    place = f"{artifact.ref} step.json flop"
    if kind == "merging" and facts.get("flop") is None:
        flop, place = 0, f"{artifact.ref} step.json merge"  # averaging weights takes no pass through a model
    by_part = facts.get("operations")
    by_part = by_part if isinstance(by_part, Mapping) else {}
    counts = {str(part): _whole(value) for part, value in by_part.items()}
    parts = {part: value for part, value in counts.items() if value is not None}
    ranks, device, threads = runtime.get("ranks"), runtime.get("device_name"), runtime.get("threads")
    job = Job(
        artifact=artifact,
        kind=kind,
        flop=Cell(None) if flop is None else Cell(exact(flop), place, flop_text(flop)),
        operations=parts if len(parts) == len(by_part) else {},
        recount=None,
        tokens=_recorded(artifact, "tokens", _whole(facts.get("tokens"))),
        seconds=_recorded(artifact, "seconds", _duration(facts.get("seconds"))),
        ranks=_recorded(artifact, "runtime.ranks", _count(ranks)),
        device=_recorded(artifact, "runtime.device_name", device if isinstance(device, str) else None),
        threads=_count(threads) or 0,
    )
    return _with_recount(job)


def _with_recount(job: Job) -> Job:
    facts, tokens = job.artifact.facts, integer(job.tokens)
    if job.config is None or tokens is None:
        return job
    counted, pairs = _whole(facts.get("counted_tokens")), _whole(facts.get("attended_pairs"))
    if job.operations and counted is not None and pairs is not None:
        mtp = (_whole(facts.get("mtp_tokens")) or 0, _whole(facts.get("mtp_counted_tokens")) or 0)
        work = operations.Work(tokens, counted, pairs, *mtp)
    else:
        length = _count(job.section.get("sequence_length"))
        if length is None:
            return job
        work = operations.Work.whole_sequences(tokens, length, with_mtp=bool(job.section.get("mtp_weight")))
    recount = sum(operations.training(job.config, work).values())
    return replace(job, recount=recount)


def _flop_problems(job: Job) -> Iterator[Problem]:
    flop, source = integer(job.flop), f"{job.ref} step.json flop"
    if flop is None or job.kind == "merging":
        return
    if job.recount and abs(flop - job.recount) > TOLERANCE * job.recount:
        yield Problem(
            f"flop is {flop_text(flop)}, but tokens and the model's sizes give {flop_text(job.recount)}: "
            f"{(flop - job.recount) / job.recount:+.0%}",
            f"{source}; {job.ref} step.json tokens; {job.ref} config.json",
        )
    parts = sum(job.operations.values())
    if job.operations and parts != flop:
        yield Problem(
            f"flop is {flop_text(flop)}, but its parts add up to {flop_text(parts)}",
            f"{source}; {job.ref} step.json operations",
        )


def _recorded(artifact: Artifact, name: str, value: Any) -> Cell:
    return Cell(None) if value is None else Cell(value, f"{artifact.ref} step.json {name}")


def _whole(value: object) -> int | None:
    """A number of operations or tokens, also as text; None for anything else, NaN and less than 1 among them."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 100:
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and 0 < value < _IMPOSSIBLE else None


def _duration(value: object) -> float | None:
    number = finite(value)
    return number if number is not None and 0 < number < _LONGEST else None


def _time_text(seconds: float) -> str:
    if seconds < 3600:
        return f"{seconds:,.0f} s"
    return f"{seconds / 3600:,.1f} h" if seconds < 2 * 86400 else f"{seconds / 86400:,.1f} days"


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < _IMPOSSIBLE else None


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
