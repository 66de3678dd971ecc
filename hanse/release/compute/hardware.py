"""The hardware method: N accelerators x L seconds x H operations a second at most x U the share of that reached.

It checks the operations of the architecture only where U was measured by something else than those operations, such as
the tensor-core counters of the GPU: U worked out from the count itself would agree with it whatever the count is.
Guidelines C(2025) 5045, annex, paragraphs 118 to 133.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hanse.errors import InputError
from hanse.plan.power import rated
from hanse.release.compute.jobs import TOLERANCE, Job, exact, finite, flop_text, integer, joined, scientific
from hanse.release.ledger import Ledger, runtime_of
from hanse.release.papers.paper import Cell, Entry, Section, Table
from hanse.release.papers.questions import BY_KEY


@dataclass(frozen=True)
class Run:
    """One training step by the hardware method.

    Attributes:
        job: the step.
        peak: H, operations a second of one accelerator.
        utilisation: U, 0 to 1, from something else than the count of operations.
        flop: N x L x H x U; empty where one of them is not known.
        achieved: what the counted operations make of N x L x H: no check, for it is the count itself.
    """

    job: Job
    peak: Cell
    utilisation: Cell
    flop: Cell
    achieved: Cell


def by_hardware(ledger: Ledger, job: Job) -> Run:
    """The hardware method for one step.

    Raises:
        InputError: a stated rate or utilisation that cannot be.
    """
    peak, utilisation = _peak(ledger, job), _utilisation(ledger)
    flop, achieved = Cell(None), Cell(None)
    if peak.is_recorded and job.ranks.is_recorded and job.seconds.is_recorded:
        most = job.ranks.value * job.seconds.value * peak.value
        places = joined((job.ranks.source, job.seconds.source, peak.source))
        counted = integer(job.flop)
        if counted is not None:
            achieved = Cell(counted / most, f"{places}; {job.flop.source}", f"{counted / most:.1%}")
        if utilisation.is_recorded:
            found = round(most * utilisation.value)
            arithmetic = (
                f"{job.ranks.value} x {job.seconds.value:,.1f} s x {scientific(peak.value)} FLOP/s x "
                f"{utilisation.value:g} = {flop_text(found)}"
            )
            flop = Cell(exact(found), f"{places}; {utilisation.source}", arithmetic)
    return Run(job, peak, utilisation, flop, achieved)


def difference(run: Run) -> Cell:
    """How far the hardware method lies from the count, as a share of the count; empty where there is no check."""
    by_hand, counted = integer(run.flop), integer(run.job.flop)
    if by_hand is None or not counted:
        return Cell(None)
    share = by_hand / counted - 1
    verdict = "within 30 %" if abs(share) <= TOLERANCE else "beyond 30 %"
    return Cell(share, f"{run.flop.source}; {run.job.flop.source}", f"{share:+.0%}: {verdict}")


def hardware_section(ledger: Ledger, found: tuple[Job, ...]) -> Section:
    """Section 3 of the paper: both methods side by side, with a warning where they part."""
    runs = [by_hardware(ledger, job) for job in found if job.kind != "merging"]
    rows = tuple(
        (
            Cell(run.job.ref, f"{run.job.ref} step.json"), run.job.ranks, _seconds(run.job.seconds), run.peak,
            run.utilisation, run.flop, run.job.flop, difference(run), run.achieved,
        )
        for run in runs
    )  # fmt: skip
    columns = (
        "period", "N: accelerators", "L: time", "H: rate of one at most", "U: share reached, measured",
        "N x L x H x U", "operations of the architecture", "difference", "share by the count itself",
    )  # fmt: skip
    beyond = [run.job.ref for run in runs if abs(difference(run).value or 0) > TOLERANCE]
    body: list[Entry | Table | str] = [
        "Each run is a period of its own. The last column is worked out from the operations of the architecture, so it "
        "agrees with them whatever they are, and checks nothing.",
        Table(columns, rows),
    ]
    if beyond:
        body.append(
            f"Warning: the two methods differ by more than 30 % for {', '.join(beyond)}. One of the figures is wrong; "
            "look before you report either."
        )
    checked = [run for run in runs if difference(run).is_recorded]
    if len(checked) < len(runs):
        body.append(
            f"No independent check for {len(runs) - len(checked)} of {len(runs)} runs: the share reached was not "
            "measured by anything but the count. State compute.utilisation in answers.toml where a counter of the "
            "hardware gave it."
        )
    total = sum(integer(run.flop) or 0 for run in checked)
    if runs and len(checked) == len(runs):
        source = joined(run.flop.source for run in runs)
        body.append(Entry("3.1", "Sum over the periods", Cell(exact(total), source, flop_text(total))))
    return Section("3", "Hardware method and cross-check", tuple(body))


def stated_number(ledger: Ledger, key: str) -> Cell:
    """A number of `answers.toml`; empty where it says nothing.

    Raises:
        InputError: it is no number between the limits of its question.
    """
    cell, asked = ledger.answer(key), BY_KEY[key]
    value = cell.value
    if not cell.is_recorded:
        return Cell(None)
    number, least, most = finite(value), asked.least or 0.0, math.inf if asked.most is None else asked.most
    if number is None or not least <= number <= most:
        raise InputError(f"answers.toml {key} = {value!r}: has to be a number from {least:g} to {most:g}.")
    return Cell(number, cell.source, f"{number:g}")


def _peak(ledger: Ledger, job: Job) -> Cell:
    """H: stated, else measured on one machine by this step or by another there, else rated for bfloat16."""
    stated = stated_number(ledger, "compute.peak_flops")
    if stated.is_recorded:
        return Cell(stated.value, stated.source, f"{scientific(stated.value)} FLOP/s, stated")
    runtime = runtime_of(job.artifact)
    if runtime.get("device") == "cpu" and job.ranks.value == 1:
        # Only pre-training measures it. The rate is the processor's, so it holds for tuning there with as many threads.
        for step in (job.artifact, *ledger.of_kind("model")):
            other = runtime_of(step)
            is_same = all(
                other.get(name) == runtime.get(name) for name in ("device", "device_name", "ranks", "threads")
            )
            measured = finite(step.facts.get("matrix_flop_per_second"))
            if is_same and measured and measured > 0:
                source = f"{step.ref} step.json matrix_flop_per_second"
                return Cell(measured, source, f"{scientific(measured)} FLOP/s, measured in float32")
    known = rated(str(job.device.value)) if job.device.is_recorded else None
    if known is None or known.peak_bf16_flops is None or runtime.get("compute_dtype") != "bfloat16":
        return Cell(None)
    source = f"{job.device.source}; hanse/plan/machines.toml {known.machine} peak_bf16_flops"
    return Cell(known.peak_bf16_flops, source, f"{scientific(known.peak_bf16_flops)} FLOP/s, rated in bfloat16")


def _utilisation(ledger: Ledger) -> Cell:
    stated = stated_number(ledger, "compute.utilisation")
    if not stated.is_recorded:
        return Cell(None)
    who = ledger.answer("compute.utilisation_source")
    text = f"{stated.value:g}" + (f" ({who.value})" if who.is_recorded else ", source not stated")
    return Cell(stated.value, joined((stated.source, who.source)), text)


def _seconds(cell: Cell) -> Cell:
    return Cell(cell.value, cell.source, f"{cell.value:,.1f} s") if cell.is_recorded else cell
