"""Energy, emissions and cost of training: measured, else from stated power, else at most what rated power allows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

from hanse.plan.power import rated
from hanse.release.compute.hardware import stated_number
from hanse.release.compute.jobs import TOLERANCE, Job, Problem, finite, joined, plain, wall_time
from hanse.release.ledger import Ledger
from hanse.release.papers.paper import Cell, Entry, Section, Table

SECONDS_PER_HOUR = 3600.0
_MOST_WH = 1e17  # all power stations of the world together give less in a year
MEASURED, STATED, RATED = "measured", "stated power x time", "rated power x time: an upper estimate"


@dataclass(frozen=True)
class Used:
    """Energy of one training step.

    Attributes:
        wh: in Wh; empty where nothing backs it.
        method: one of MEASURED, STATED, RATED; empty where `wh` is.
        how: the meter that was read, or the arithmetic; why nothing was measured, where `wh` is empty.
    """

    job: Job
    wh: Cell
    method: str
    how: str


def used_by(ledger: Ledger, job: Job) -> Used:
    """Energy of one step, by the best method that there is.

    Raises:
        InputError: a stated power that cannot be.
    """
    facts, ref = job.artifact.facts, job.ref
    said = facts.get("energy_method")
    said = said if isinstance(said, str) else ""
    measured = _wh(facts.get("energy_wh"))
    if measured is not None:
        source = f"{ref} step.json energy_wh; {ref} step.json energy_method"
        return Used(job, Cell(measured, source, _wh_text(measured)), MEASURED, said)
    if not job.seconds.is_recorded:
        return Used(job, Cell(None), "", said)
    seconds, power = job.seconds.value, stated_number(ledger, "compute.power_w")
    if power.is_recorded and power.value > 0:
        wh = power.value * seconds / SECONDS_PER_HOUR
        how = f"{plain(power.value, 6)} W x {seconds:,.1f} s"
        return Used(job, Cell(wh, f"{power.source}; {job.seconds.source}", _wh_text(wh)), STATED, how)
    return _rated(job) or Used(job, Cell(None), "", said)


def energy(ledger: Ledger, found: tuple[Job, ...]) -> Cell:
    """Energy of all training steps in Wh, with the methods; empty where a step has none."""
    used = _all(ledger, found)
    if not used or not all(each.wh.is_recorded for each in used):
        return Cell(None)
    total, how = math.fsum(each.wh.value for each in used), _methods(used)
    return Cell(total, joined(each.wh.source for each in used), f"{_mwh_text(total)} ({_wh_text(total)}), {how}")


def method(ledger: Ledger, found: tuple[Job, ...]) -> Cell:
    """How the energy of training is known; empty where that energy is."""
    total = energy(ledger, found)
    return Cell(_methods(_all(ledger, found)), total.source) if total.is_recorded else Cell(None)


def _methods(used: list[Used]) -> str:
    names = ", ".join(dict.fromkeys(each.method for each in used))
    meters = dict.fromkeys(each.how or "meter not recorded" for each in used if each.method == MEASURED)
    return f"{names} ({'; '.join(meters)})" if meters else names


def problems(ledger: Ledger, found: tuple[Job, ...]) -> Iterator[Problem]:
    """Energy that cannot be, and stated power that contradicts a meter by more than 30 %."""
    for job in found:
        value = job.artifact.facts.get("energy_wh")
        if value is not None and _wh(value) is None:
            yield Problem(f"energy_wh is {value!r}, which cannot be; taken as not recorded",
                          f"{job.ref} step.json energy_wh")  # fmt: skip
        measured, power = _wh(value), stated_number(ledger, "compute.power_w")
        if measured and power.is_recorded and job.seconds.is_recorded:
            stated = power.value * job.seconds.value / SECONDS_PER_HOUR
            if abs(stated - measured) > TOLERANCE * measured:
                yield Problem(
                    f"{_wh_text(measured)} were measured, but {plain(power.value, 6)} W over "
                    f"{job.seconds.value:,.1f} s are {_wh_text(stated)}; the meter counts",
                    f"{job.ref} step.json energy_wh; {power.source}",
                )


def section(ledger: Ledger, found: tuple[Job, ...]) -> Section:
    """Section 6 of the paper: time, energy by step, and what follows from the total."""
    rows = tuple(
        (Cell(each.job.ref, f"{each.job.ref} step.json"), each.wh, Cell(each.method or None, each.wh.source),
         Cell(each.how or None, each.wh.source or f"{each.job.ref} step.json energy_method"))
        for each in _all(ledger, found)
    )  # fmt: skip
    total, pue = energy(ledger, found), stated_number(ledger, "compute.pue")
    return Section("6", "Time, energy, emissions, cost", (
        "Energy of training alone: without curation, evaluation and trials. A meter counts what it says it reads; a "
        "rated power is that of processors or accelerators without hosts, network and cooling.",
        Entry("6.1", "Training time", wall_time(found)),
        Table(("run", "energy", "method", "how"), rows, title="Energy by run"),
        Entry("6.2", "Energy of training", total),
        Entry("6.3", "Energy of training, MWh with two significant figures", _megawatt_hours(total), readers=("AIO",)),
        Entry("6.4", "Power usage effectiveness of the site", pue, key="compute.pue"),
        Entry("6.5", "Energy with the site's overhead", _with_overhead(total, pue)),
        Entry("6.6", "Grid factor", _grid(ledger), key="compute.grid_g_co2e_per_kwh"),
        Entry("6.7", "Emissions", _emissions(ledger, total, pue)),
        Entry("6.8", "Price of energy", _price(ledger), key="compute.price_eur_per_kwh"),
        Entry("6.9", "Cost of energy", _cost(ledger, total, pue)),
    ))  # fmt: skip


def _all(ledger: Ledger, found: tuple[Job, ...]) -> list[Used]:
    return [used_by(ledger, job) for job in found if job.kind != "merging"]


def _rated(job: Job) -> Used | None:
    known = rated(str(job.device.value)) if job.device.is_recorded else None
    if known is None or not known.watts or not job.ranks.is_recorded:
        return None
    devices = job.ranks.value
    if known.cores:  # a process on each package at least, and packages for all threads
        devices = max(devices, math.ceil(job.ranks.value * job.threads / known.cores))
    wh = devices * known.watts * job.seconds.value / SECONDS_PER_HOUR
    how = (
        f"{devices} x {known.watts:g} W ({known.what}; {known.source}, as of {known.date}) x {job.seconds.value:,.1f} s"
    )
    source = f"{job.device.source}; {job.seconds.source}; hanse/plan/power.toml {known.name}"
    return Used(job, Cell(wh, source, f"at most {_wh_text(wh)}"), RATED, how)


def _megawatt_hours(total: Cell) -> Cell:
    """As the documentation form wants it."""
    if not total.is_recorded:
        return Cell(None)
    return Cell(float(f"{total.value / 1e6:.1e}"), total.source, _mwh_text(total.value))


def _with_overhead(total: Cell, pue: Cell) -> Cell:
    if not (total.is_recorded and pue.is_recorded):
        return Cell(None)
    wh = total.value * pue.value
    return Cell(wh, f"{total.source}; {pue.source}", f"{_wh_text(total.value)} x {pue.value:g} = {_wh_text(wh)}")


def _billed(total: Cell, pue: Cell) -> tuple[float, str, str]:
    """kWh to reckon with, what they are, and their sources: with the site's overhead where that is stated."""
    if pue.is_recorded:
        return (
            total.value * pue.value / 1e3,
            f"{plain(total.value / 1e3, 4)} kWh x {pue.value:g}",
            f"{total.source}; {pue.source}",
        )
    return total.value / 1e3, f"{plain(total.value / 1e3, 4)} kWh", total.source


def _grid(ledger: Ledger) -> Cell:
    factor = stated_number(ledger, "compute.grid_g_co2e_per_kwh")
    if not factor.is_recorded:
        return Cell(None)
    source, date = ledger.answer("compute.grid_source"), ledger.answer("compute.grid_date")
    text = f"{factor.value:g} g CO2e/kWh ({source.shown()}; {date.shown()})"
    return Cell(factor.value, joined((factor.source, source.source, date.source)), text)


def _emissions(ledger: Ledger, total: Cell, pue: Cell) -> Cell:
    factor = _grid(ledger)
    if not (total.is_recorded and factor.is_recorded):
        return Cell(None)
    kwh, shown, source = _billed(total, pue)
    kilograms = kwh * factor.value / 1e3
    text = f"{shown} x {factor.value:g} g/kWh = {plain(kilograms, 3)} kg CO2e"
    return Cell(kilograms, f"{source}; {factor.source}", text)


def _price(ledger: Ledger) -> Cell:
    price = stated_number(ledger, "compute.price_eur_per_kwh")
    return Cell(price.value, price.source, f"{price.value:g} euros/kWh") if price.is_recorded else price


def _cost(ledger: Ledger, total: Cell, pue: Cell) -> Cell:
    price = _price(ledger)
    if not (total.is_recorded and price.is_recorded):
        return Cell(None)
    kwh, shown, source = _billed(total, pue)
    euros = kwh * price.value
    amount = f"{euros:,.2f}" if euros >= 1 else plain(euros, 2)
    return Cell(euros, f"{source}; {price.source}", f"{shown} x {price.value:g} euros/kWh = {amount} euros")


def _wh(value: object) -> float | None:
    number = finite(value)
    return number if number is not None and 0 <= number < _MOST_WH else None


def _wh_text(wh: float) -> str:
    unit, size = next((each for each in (("GWh", 1e9), ("MWh", 1e6), ("kWh", 1e3)) if wh >= each[1]), ("Wh", 1))
    return f"{plain(wh / size, 4)} {unit}"


def _mwh_text(wh: float) -> str:
    """MWh with two significant figures, without an exponent."""
    value = Decimal(f"{wh / 1e6:.1e}")
    places = max(0, 1 - value.adjusted()) if value else 0
    return f"{value:.{places}f} MWh"
