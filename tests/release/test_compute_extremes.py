"""The compute meter at the edges: figures that round to a limit, huge and impossible ones, circles, nothing at all."""

import json
from dataclasses import replace
from fractions import Fraction

import pytest
from compute_ledger import PRETRAIN, Family, edited

from hanse.release.compute import meter
from hanse.release.compute.jobs import plain, scientific
from hanse.release.papers import render
from hanse.release.papers.paper import NOT_RECORDED, Cell, Table


@pytest.fixture
def family(tmp_path):
    return Family(tmp_path / "s")


def section(paper, number):
    return next(each for each in paper.sections if each.number == number)


def answers(paper):
    return {entry.question: entry.cell.shown() for entry in paper.entries}


def contradictions(paper):
    table = next(part for part in section(paper, "8").body if isinstance(part, Table))
    return [row[1].value for row in table.rows]


def thresholds(ledger):
    (table,) = (part for part in section(meter.paper(ledger), "5").body if isinstance(part, Table))
    return {row[0].value.partition(":")[0]: [cell.shown() for cell in row] for row in table.rows}


# --------------------------------------------------------------------------- rounding


@pytest.mark.parametrize(
    ("number", "power", "two"),
    [
        (1, "10^0", "1.0e0"), (9, "10^0", "9.0e0"), (10, "10^1", "1.0e1"), (99, "10^1", "9.9e1"),
        (994, "10^2", "9.9e2"), (995, "10^2", "1.0e3"), (10**23 - 1, "10^22", "1.0e23"), (10**23, "10^23", "1.0e23"),
        (10**23 + 1, "10^23", "1.0e23"), (104_999 * 10**18, "10^23", "1.0e23"), (105 * 10**21, "10^23", "1.1e23"),
        (10**25 - 1, "10^24", "1.0e25"), (2**127, "10^38", "1.7e38"),
    ],
)  # fmt: skip
def test_powers_and_two_figures_are_taken_from_the_digits(number, power, two):
    assert (meter.power(number), meter.rounded(number)) == (power, two)
    cell = Cell(number if number < 2**53 else str(number), "r")
    assert (meter.order_of_magnitude(cell).value, meter.two_figures(cell).value) == (power, two)


@pytest.mark.parametrize(
    ("value", "figures", "text"),
    [
        (999.96, 4, "1,000"), (999.4, 3, "999"), (1234567.0, 3, "1,230,000"), (0.000123456, 2, "0.00012"),
        (0.0, 3, "0"), (1e7, 6, "10,000,000"), (375.0, 4, "375"), (0.9999, 2, "1"),
    ],
)  # fmt: skip
def test_a_figure_has_no_exponent_however_it_rounds(value, figures, text):
    assert plain(value, figures) == text


@pytest.mark.parametrize(
    ("wh", "shown"),
    [
        (999.96, "0.0010 MWh (1,000 Wh)"), (1000.0, "0.0010 MWh (1 kWh)"), (999_999.9, "1.0 MWh (1,000 kWh)"),
        (4.2e12, "4200000 MWh (4,200 GWh)"), (0.004, "0.0000000040 MWh (0.004 Wh)"),
    ],
)  # fmt: skip
def test_energy_around_a_power_of_ten_reads_as_a_number(family, wh, shown):
    assert meter.energy(family.ledger(family.pretrained(energy_wh=wh))).shown().startswith(shown + ", measured")


def test_energy_of_a_large_run_is_multiplied_out_without_exponents(family):
    said = {"pue": 1.25, "grid_g_co2e_per_kwh": 300, "price_eur_per_kwh": 0.1}
    paper = meter.paper(family.ledger(family.pretrained(energy_wh=5.28e9), answers={"compute": said}))
    assert answers(paper)["Emissions"] == "5,280,000 kWh x 1.25 x 300 g/kWh = 1,980,000 kg CO2e"
    assert answers(paper)["Cost of energy"] == "5,280,000 kWh x 1.25 x 0.1 euros/kWh = 660,000.00 euros"


# --------------------------------------------------------------------------- thresholds


@pytest.mark.parametrize(("flop", "side"), [(10**23 - 1, "less"), (10**23 + 1, "more")])
def test_a_sum_that_rounds_to_the_limit_says_on_which_side_it_is(family, flop, side):
    ledger = edited(family.ledger(family.pretrained()), "model/base/1", flop=str(flop), operations={})
    row = thresholds(ledger)["general-purpose model"]
    assert row[-1] == ("above" if side == "more" else "not above")
    assert row[-2] == f"1e23 / 1e23 = 1: {flop:,} is {side} than 1e23"


def test_the_limit_itself_is_not_above_it(family):
    ledger = edited(family.ledger(family.pretrained()), "model/base/1", flop=str(10**23), operations={})
    assert thresholds(ledger)["general-purpose model"][-2:] == ["1e23 / 1e23 = 1", "not above"]


def test_one_third_is_taken_exactly(family):
    definition = PRETRAIN | {"model": {"start": {"model.safetensors": "ab" * 32}}}
    ledger = family.ledger(family.pretrained(definition=definition), answers={"compute": {"parent_flop": "1e24"}})
    third = 10**24 // 3
    for flop, side in ((third, "not above"), (third + 1, "above")):
        row = thresholds(edited(ledger, "model/base/1", flop=str(flop), operations={}))["provider of a modified model"]
        assert row[-1] == side and row[2] == "1e24 FLOP / 3 = 3.33e23"
    assert scientific(Fraction(10**24, 3)) == "3.33e23"


# --------------------------------------------------------------------------- what cannot be


@pytest.mark.parametrize("seconds", [1e300, 1e308, 10**11])
def test_a_run_of_centuries_counts_as_not_recorded(family, seconds):
    said = {"compute": {"power_w": 1e6, "peak_flops": 1e15, "utilisation": 0.4}}
    ledger = edited(family.ledger(family.pretrained(), answers=said), "model/base/1", seconds=seconds)
    paper = meter.paper(ledger)
    assert contradictions(paper) == [f"seconds is {seconds!r}, which cannot be; taken as not recorded"]
    assert meter.training_time(ledger).shown() == meter.energy(ledger).shown() == NOT_RECORDED


@pytest.mark.parametrize("wh", [1e308, 1e18, -1.0, "much"])
def test_more_energy_than_the_world_makes_counts_as_not_recorded(family, wh):
    tuned = family.tuned("chat", family.pretrained(energy_wh=1.0), energy_wh=1.0)
    ledger = family.ledger(tuned)
    for ref in ("model/base/1", "model/chat/1"):
        ledger = edited(ledger, ref, energy_wh=wh, seconds="unknown")
    assert meter.energy(ledger).shown() == NOT_RECORDED
    told = [each for each in contradictions(meter.paper(ledger)) if each.startswith("energy_wh")]
    assert told == [f"energy_wh is {wh!r}, which cannot be; taken as not recorded"] * 2


def test_the_largest_figures_that_can_be_still_make_a_paper(family):
    said = {"compute": {"power_w": 1e10, "pue": 10, "grid_g_co2e_per_kwh": 10_000, "price_eur_per_kwh": 1000,
                        "peak_flops": 1e21, "utilisation": 1}}  # fmt: skip
    runtime = {"device": "cuda", "device_name": "X", "compute_dtype": "bfloat16", "ranks": 10**39, "threads": 10**39}
    ledger = edited(family.ledger(family.pretrained(), answers=said), "model/base/1", seconds=9e9, flop=10**40 - 1,
                    tokens=10**40 - 1, runtime=runtime, operations={})  # fmt: skip
    json.loads(render.as_json(meter.paper(ledger)))
    assert meter.training_flop(ledger).value == str(10**40 - 1)


# --------------------------------------------------------------------------- circles and nothing


def test_records_that_name_each_other_are_counted_once_each(family):
    base = family.pretrained()
    chat = family.tuned("chat", base)
    ledger = family.ledger(chat)
    whole = int(meter.training_flop(ledger).value)
    named = {"name": chat.ref, "digest": {"sha256": chat.digest}, "annotations": {"role": "model", "record": "0" * 64}}
    for artifact in ledger.ancestors:
        if artifact.ref == base.ref:
            artifact.record["predicate"]["buildDefinition"]["resolvedDependencies"].append(named)
            start = {"model.safetensors": next(iter(set(_digests(artifact))))}
            artifact.record["predicate"]["buildDefinition"]["externalParameters"]["model"] = {"start": start}
    assert int(meter.cumulative_total(ledger).flop.value) == whole
    render.as_json(meter.paper(ledger))


def _digests(artifact):
    return [each["digest"]["sha256"] for each in artifact.record["subject"] if each["name"].endswith("config.json")]


def test_a_release_without_sources_or_training_steps_has_no_sums_and_divides_by_nothing(family):
    ledger = family.ledger(family.make("model/bare"))
    bare = replace(ledger, ancestors=tuple(each for each in ledger.ancestors if each.kind != "model"))
    paper = meter.paper(bare)
    assert bare.sources == ()
    assert answers(paper)["Compute that contributed directly to parameter updates"] == NOT_RECORDED
    assert answers(paper)["Cumulative compute"] == answers(paper)["Energy of training"] == NOT_RECORDED
    assert {row[-1] for row in thresholds(bare).values()} <= {
        NOT_RECORDED,
        "not applicable: its first weights are its own",
    }
    render.html(paper)
