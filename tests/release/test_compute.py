"""The compute meter: sums over an ancestry, both methods, thresholds, energy, and records that cannot be believed."""

import pytest
from compute_ledger import CONFIG, LENGTH, PRETRAIN, RUNTIME, Family, edited, facts_of_run
from hypothesis import given
from hypothesis import strategies as st

from hanse.errors import InputError
from hanse.plan import operations
from hanse.release.compute import meter
from hanse.release.papers import render
from hanse.release.papers.paper import NOT_RECORDED, Paper, Table

RUN = 16_000 * CONFIG.flop_per_token(LENGTH)  # one run of `facts_of_run`


@pytest.fixture
def family(tmp_path) -> Family:
    return Family(tmp_path / "store")


def section(paper: Paper, number: str):
    return next(each for each in paper.sections if each.number == number)


def tables(paper: Paper, number: str) -> list[Table]:
    return [part for part in section(paper, number).body if isinstance(part, Table)]


def rows(paper: Paper, number: str) -> dict[str, tuple[str, ...]]:
    """First cell -> the others, as people read them, of all tables of a section."""
    return {
        row[0].shown(): tuple(cell.shown() for cell in row[1:]) for table in tables(paper, number) for row in table.rows
    }


def answers(paper: Paper) -> dict[str, str]:
    return {entry.question: entry.cell.shown() for entry in paper.entries}


def wrongs(paper: Paper) -> list[tuple[str, str]]:
    return [tuple(cell.shown() for cell in row) for row in tables(paper, "8")[0].rows]


# --------------------------------------------------------------------------- sums


def test_both_runs_of_a_chat_model_are_added_up(family):
    ledger = family.ledger(family.tuned("chat", family.pretrained(), tokens=1600))
    assert meter.training_flop(ledger).value == RUN + RUN // 10
    assert meter.cumulative_total(ledger).flop.value == RUN + RUN // 10
    assert meter.training_flop(ledger).source == "model/base/1 step.json flop; model/chat/1 step.json flop"


def test_an_ancestor_that_two_parents_share_counts_once(family):
    base = family.pretrained()
    one, two = family.tuned("one", base, tokens=1600), family.tuned("two", base, tokens=3200)
    ledger = family.ledger(family.merged("soup", one, two))
    assert meter.training_flop(ledger).value == RUN + RUN // 10 + RUN // 5
    assert rows(meter.paper(ledger), "4")["merging: model/soup/1"][:3] == ("0 FLOP", "yes", "yes")


def test_an_ancestor_that_the_ledger_names_twice_counts_once(family):
    ledger = family.ledger(family.tuned("chat", family.pretrained()))
    twice = type(ledger)(**{**vars_of(ledger), "ancestors": ledger.ancestors * 2})
    assert meter.training_flop(twice).value == meter.training_flop(ledger).value == 2 * RUN


def vars_of(ledger):
    return {name: getattr(ledger, name) for name in ledger.__dataclass_fields__}


def test_operations_beyond_two_to_the_fifty_three_stay_exact_as_text(family):
    huge = 10**23 + 7
    ledger = edited(family.ledger(family.pretrained()), "model/base/1", flop=str(huge))
    assert meter.training_flop(ledger).value == str(huge)
    assert meter.training_flop(ledger).shown() == "1e23 FLOP"


def test_a_step_without_operations_leaves_the_sum_open_with_what_is_known_of_it(family):
    ledger = family.ledger(family.tuned("chat", family.pretrained(), flop=None))
    paper = meter.paper(ledger)
    assert meter.training_flop(ledger).shown() == NOT_RECORDED
    assert answers(paper)["Of which recorded, a lower bound"] == f"at least {RUN:,} FLOP"
    assert [row[0].shown() for row in tables(paper, "8")[1].rows] == ["model/chat/1"]
    assert rows(paper, "5")["systemic risk presumed: above 1e25"][-1] == NOT_RECORDED


# --------------------------------------------------------------------------- what belongs to the sums


def synthetic(family, name="stories", **declared):
    source = {"name": name, "kind": "jsonl", "obtained": "synthetic", "model": "Big 2", **declared}
    data = family.make("dataset/toy", definition={"source": [source]})
    base = family.make("model/base", definition=PRETRAIN, inputs={"shards": data}, **facts_of_run())
    return lambda **stated: family.ledger(base, answers={"compute": {"synthetic": {name: stated}}})


def test_writing_text_that_is_not_public_counts_only_as_cumulative_compute(family):
    ledger = synthetic(family)(flop="5e20", is_public=False)
    assert meter.training_flop(ledger).value == RUN
    assert meter.cumulative_total(ledger).flop.value == str(RUN + 5 * 10**20)


def test_writing_text_that_is_public_counts_nowhere(family):
    ledger = synthetic(family)(flop=5e20, is_public=True)
    assert meter.cumulative_total(ledger).flop.value == RUN
    writing = rows(meter.paper(ledger), "4")["writing the synthetic text of source 'stories', thrown-away samples too"]
    assert writing[:3] == ("5e20 FLOP", "no", "no")
    assert "publicly accessible" in writing[3]


def test_writing_text_of_which_nobody_says_anything_leaves_cumulative_compute_open(family):
    ledger = synthetic(family, name="sto.ries-1")()
    assert meter.training_flop(ledger).value == RUN
    assert meter.cumulative_total(ledger).flop.shown() == NOT_RECORDED
    stated = synthetic(Family(family.store.root.with_name("other")), name="sto.ries-1")(flop=10**6)
    assert meter.cumulative_total(stated).flop.value == RUN + 10**6


def test_a_source_that_stands_in_two_records_counts_once(family):
    source = {"name": "stories", "kind": "jsonl", "obtained": "synthetic", "model": "Big 2"}
    data = family.make("dataset/toy", definition={"source": [source]})
    talk = family.make("conversations/toy", definition={"source": [source]})
    base = family.make("model/base", definition=PRETRAIN, inputs={"a": data, "b": talk}, **facts_of_run())
    stated = {"compute": {"synthetic": {"stories": {"flop": 1000, "is_public": False}}}}
    assert meter.cumulative_total(family.ledger(base, answers=stated)).flop.value == RUN + 1000


def test_each_exclusion_is_in_the_list_with_its_reason(family):
    ledger = synthetic(family)(flop=1, is_public=False)
    listed = rows(meter.paper(ledger), "4")
    for what in (
        "curation, tokenizer and shards", "training of Big 2, which wrote source 'stories'",
        "optimizer steps (muon) of model/base/1", "activations computed again in model/base/1",
        "merged or averaged weights", "evaluation", "exploratory runs",
    ):  # fmt: skip
        assert listed[what][1:3] == ("no", "no"), what
        assert listed[what][3]
    assert listed["pre-training: model/base/1"][1:3] == ("yes", "yes")


def test_rules_that_write_text_take_no_pass_of_a_model(family):
    ledger = synthetic(family, name="atlas", kind="atlas", model="")()
    assert meter.cumulative_total(ledger).flop.value == RUN


# --------------------------------------------------------------------------- a model that was continued

START = {"start": {"model.safetensors": "ab" * 32, "config.json": "cd" * 32}}


def continued(family, flop=None, **stated):
    base = family.pretrained(definition=PRETRAIN | {"model": START})
    if flop is not None:
        family = family.ledger(base, answers={"compute": stated})
        return edited(family, "model/base/1", flop=str(flop), operations=None)
    return family.ledger(base, answers={"compute": stated})


def test_the_parents_compute_belongs_to_the_cumulative_sum_only(family):
    ledger = continued(family, parent_flop="6e23")
    assert meter.training_flop(ledger).value == RUN
    assert meter.cumulative_total(ledger).flop.value == str(RUN + 6 * 10**23)
    assert meter.cumulative_total(continued(Family(family.store.root.with_name("b")))).flop.shown() == NOT_RECORDED


@pytest.mark.parametrize(
    ("flop", "stated", "limit", "side"),
    [
        (2 * 10**23 + 1, {"parent_flop": "6e23"}, "6e23 FLOP / 3 = 2e23", "above"),
        (2 * 10**23, {"parent_flop": 6e23}, "6e23 FLOP / 3 = 2e23", "not above"),
        (3 * 10**22, {}, "1e23 / 3 = 3.33e22", "not above"),
        (4 * 10**22, {}, "1e23 / 3 = 3.33e22", "above"),
        (4 * 10**22, {"parent_is_systemic": True}, "1e25 / 3 = 3.33e24", "not above"),
        (4 * 10**24, {"parent_is_systemic": True}, "1e25 / 3 = 3.33e24", "above"),
    ],
)
def test_a_modification_is_held_against_one_third_of_the_parent(family, flop, stated, limit, side):
    found = rows(meter.paper(continued(family, flop, **stated)), "5")
    (modified,) = [row for what, row in found.items() if what.startswith("provider of a modified model")]
    assert (modified[1], modified[3]) == (limit, side)


def test_a_model_with_weights_of_its_own_modifies_none(family):
    found = rows(meter.paper(family.ledger(family.pretrained())), "5")
    assert found["provider of a modified model: above one third of the parent"][3].startswith("not applicable: ")


def test_a_parent_whose_weights_are_in_the_ancestry_is_not_counted_twice(family):
    parent = family.pretrained("parent")
    weights = {"model.safetensors": next(s["digest"]["sha256"] for s in parent.record["subject"][1:])}
    child = family.make("model/child", definition=PRETRAIN | {"model": {"start": weights}}, inputs={"from": parent},
                        **facts_of_run(tokens=1600))  # fmt: skip
    ledger = family.ledger(child)
    assert meter.training_flop(ledger).value == RUN // 10
    assert meter.cumulative_total(ledger).flop.value == RUN + RUN // 10
    found = rows(meter.paper(ledger), "5")["provider of a modified model: above one third of the parent"]
    assert found[3] == "not above"


# --------------------------------------------------------------------------- thresholds and roundings


@pytest.mark.parametrize(
    ("flop", "gpai", "systemic", "arithmetic"),
    [
        (52 * 10**21, "not above", "not above", "5.2e22 / 1e23 = 0.52"),
        (10**23, "not above", "not above", "1e23 / 1e23 = 1"),
        (10**23 + 1, "above", "not above", f"1e23 / 1e23 = 1: {10**23 + 1:,} is more than 1e23"),
        (10**25 + 1, "above", "above", "1e25 / 1e23 = 100"),
    ],
)
def test_thresholds_say_the_side_and_print_the_arithmetic(family, flop, gpai, systemic, arithmetic):
    ledger = edited(family.ledger(family.pretrained()), "model/base/1", flop=str(flop))
    found = rows(meter.paper(ledger), "5")
    assert found["general-purpose model: above 1e23"][3] == gpai
    assert found["systemic risk presumed: above 1e25"][3] == systemic
    assert found["general-purpose model: above 1e23"][2] == arithmetic


def test_a_lower_bound_above_a_threshold_decides_and_one_below_does_not(family):
    ledger = family.ledger(family.tuned("chat", family.pretrained(), flop=None))
    found = rows(meter.paper(edited(ledger, "model/base/1", flop="2" + "0" * 23)), "5")
    assert found["general-purpose model: above 1e23"][0] == "at least 2e23 FLOP"
    assert found["general-purpose model: above 1e23"][3] == "above"
    assert found["systemic risk presumed: above 1e25"][3] == NOT_RECORDED


@pytest.mark.parametrize(
    ("number", "power", "figures"),
    [(1, "10^0", "1.0e0"), (999, "10^2", "1.0e3"), (5_249 * 10**20, "10^23", "5.2e23"),
     (525 * 10**21, "10^23", "5.3e23"), (10**25 - 1, "10^24", "1.0e25"), (26_986_328_358_912, "10^13", "2.7e13")],
)  # fmt: skip
def test_recipients_get_the_rounding_that_each_asks_for(number, power, figures):
    assert (meter.power(number), meter.rounded(number)) == (power, figures)


@given(st.integers(1, 10**30))
def test_the_order_of_magnitude_is_the_power_at_or_below(number):
    power = int(meter.power(number).removeprefix("10^"))
    assert 10**power <= number < 10 ** (power + 1)


def test_each_rounding_goes_to_its_recipient_only(family):
    paper = meter.paper(family.ledger(family.pretrained()))
    to_nca, to_aio = render.markdown(paper, reader="NCA"), render.markdown(paper, reader="AIO")
    assert "order of magnitude" in to_nca and "significant figures" not in to_nca
    assert "significant figures" in to_aio and "order of magnitude" not in to_aio


# --------------------------------------------------------------------------- both methods

GPU = RUNTIME | {"device": "cuda", "device_name": "NVIDIA H100 80GB HBM3", "compute_dtype": "bfloat16", "ranks": 4}


def test_the_hardware_method_multiplies_what_the_record_and_the_rated_peak_say(family):
    # 4 GPUs x 100 s x 989e12 FLOP/s x 0.4 = 1.5824e17; the count is put at 1.5e17, so +5 %.
    ledger = family.ledger(family.pretrained(runtime=GPU, seconds=100.0), answers={"compute": {
        "utilisation": 0.4, "utilisation_source": "DCGM, tensor activity"}})  # fmt: skip
    ledger = edited(ledger, "model/base/1", flop=str(15 * 10**16), operations={})
    row = rows(meter.paper(ledger), "3")["model/base/1"]
    assert row[2] == "9.89e14 FLOP/s, rated in bfloat16"
    assert row[4] == "4 x 100.0 s x 9.89e14 FLOP/s x 0.4 = 1.58e17 FLOP"
    assert row[6] == "+5%: within 30 %"
    assert "Warning" not in render.markdown(meter.paper(ledger))


def test_methods_that_part_by_more_than_thirty_per_cent_are_warned_of(family):
    ledger = family.ledger(family.pretrained(runtime=GPU, seconds=100.0), answers={"compute": {"utilisation": 0.4}})
    ledger = edited(ledger, "model/base/1", flop=str(11 * 10**16), operations={})
    paper = meter.paper(ledger)
    assert rows(paper, "3")["model/base/1"][6] == "+44%: beyond 30 %"
    assert "Warning: the two methods differ by more than 30 % for model/base/1" in section(paper, "3").body[2]


def test_a_share_that_comes_from_the_count_itself_checks_nothing(family):
    ledger = family.ledger(family.pretrained(runtime=GPU, seconds=100.0))
    row = rows(meter.paper(ledger), "3")["model/base/1"]
    assert row[3] == row[4] == row[6] == NOT_RECORDED
    assert row[7].endswith("%")
    assert "No independent check for 1 of 1 runs" in render.markdown(meter.paper(ledger))


def test_a_rate_that_one_step_measured_holds_for_the_others_on_that_processor(family):
    base = family.pretrained(matrix_flop_per_second=5e10)
    for name, runtime, rate in (
        ("same", RUNTIME, "5e10 FLOP/s, measured in float32"),
        ("other", RUNTIME | {"device_name": "Processor X"}, NOT_RECORDED),
        ("fewer", RUNTIME | {"threads": 1}, NOT_RECORDED),
        ("several", RUNTIME | {"ranks": 2}, NOT_RECORDED),
    ):
        paper = meter.paper(family.ledger(family.tuned(name, base, runtime=runtime)))
        assert [row[2] for row in rows(paper, "3").values()] == ["5e10 FLOP/s, measured in float32", rate], name
    (table,) = tables(meter.paper(family.ledger(family.store.find("model/same"))), "3")
    assert {row[3].source for row in table.rows} == {"model/base/1 step.json matrix_flop_per_second"}


def test_a_device_that_nobody_knows_has_no_rate(family):
    ledger = family.ledger(family.pretrained(runtime=GPU | {"device_name": "Accelerator X"}))
    assert rows(meter.paper(ledger), "3")["model/base/1"][2] == NOT_RECORDED
    assert rows(meter.paper(family.ledger(family.pretrained("cpu"))), "3")["model/cpu/1"][2] == NOT_RECORDED


def test_parts_of_the_architecture_add_up_and_the_optimizer_stands_beside_them(family):
    paper = meter.paper(family.ledger(family.pretrained()))
    (table,) = tables(paper, "2")
    parts = {row[0].value: row[1].value for row in table.rows}
    beside = {name: flop for name, flop in parts.items() if name.startswith("optimizer: ")}
    whole = parts["all of forward and backward"]
    assert sum(flop for name, flop in parts.items() if name not in beside) == 2 * whole == 2 * RUN
    assert sum(beside.values()) == sum(operations.updating(CONFIG, "muon", 10).values())


# --------------------------------------------------------------------------- energy


def test_energy_that_was_measured_comes_before_all_else(family):
    instrument = "RAPL, processors and memory of each host, other work there included"
    ledger = family.ledger(family.pretrained(energy_wh=250.0, energy_method=instrument), answers={"compute": {
        "power_w": 260, "pue": 1.5, "grid_g_co2e_per_kwh": 400, "grid_source": "Agency", "grid_date": "2025-12-31",
        "price_eur_per_kwh": 0.2}})  # fmt: skip
    found = answers(meter.paper(ledger))
    assert meter.energy(ledger).value == 250.0
    assert meter.energy(ledger).shown() == f"0.00025 MWh (250 Wh), measured ({instrument})"
    assert found["Energy of training, MWh with two significant figures"] == "0.00025 MWh"
    assert found["Energy with the site's overhead"] == "250 Wh x 1.5 = 375 Wh"
    assert found["Grid factor"] == "400 g CO2e/kWh (Agency; 2025-12-31)"
    assert found["Emissions"] == "0.25 kWh x 1.5 x 400 g/kWh = 0.15 kg CO2e"  # 0.375 kWh x 400 g
    assert found["Cost of energy"] == "0.25 kWh x 1.5 x 0.2 euros/kWh = 0.075 euros"
    assert not wrongs(meter.paper(ledger))


def test_without_a_meter_stated_power_counts_and_without_that_the_rated_one_as_an_upper_estimate(family):
    base = family.pretrained(seconds=7200.0)
    stated = meter.energy(family.ledger(base, answers={"compute": {"power_w": 90}}))
    assert (stated.value, stated.shown()) == (180.0, "0.00018 MWh (180 Wh), stated power x time")
    rated = meter.energy(family.ledger(base))  # an EPYC 7763 is rated at 280 W, two hours
    assert (rated.value, rated.shown()) == (560.0, "0.00056 MWh (560 Wh), rated power x time: an upper estimate")
    assert "hanse/plan/power.toml epyc-7763" in rated.source


def test_an_unknown_processor_leaves_energy_and_all_that_follows_from_it_open(family):
    runtime = RUNTIME | {"device_name": "AMD EPYC"}
    paper = meter.paper(
        family.ledger(family.pretrained(runtime=runtime), answers={"compute": {"price_eur_per_kwh": 1}})
    )
    found = answers(paper)
    assert {found[what] for what in ("Energy of training", "Emissions", "Cost of energy")} == {NOT_RECORDED}
    assert rows(paper, "6")["model/base/1"][2] == "not readable: hosts without RAPL"


def test_more_threads_than_a_processor_has_cores_take_more_processors(family):
    base = family.pretrained(runtime=RUNTIME | {"threads": 65}, seconds=3600.0)
    assert meter.energy(family.ledger(base)).value == 2 * 280


def test_stated_power_that_contradicts_the_meter_is_named_and_the_meter_counts(family):
    ledger = family.ledger(family.pretrained(energy_wh=250.0), answers={"compute": {"power_w": 1000}})
    ((where, what),) = wrongs(meter.paper(ledger))
    assert where == "model/base/1"
    assert what == "250 Wh were measured, but 1,000 W over 3,600.0 s are 1 kWh; the meter counts"
    assert meter.energy(ledger).value == 250.0


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("pue", 0.5, "from 1 to 10"), ("power_w", "much", "a number"), ("utilisation", 40, "from 1e-06 to 1"),
        ("utilisation", float("nan"), "a number"), ("parent_flop", -1, "no number of operations"),
        ("parent_flop", "a lot", "no number of operations"), ("power_w", 10**400, "a number"),
        ("power_w", True, "a number"),
    ],
)  # fmt: skip
def test_answers_that_cannot_be_are_refused_by_name(family, key, value, words):
    base = family.pretrained(definition=PRETRAIN | {"model": START}, energy_wh=1.0)
    with pytest.raises(InputError, match=rf"answers.toml compute.{key} = .*{words}") as caught:
        meter.paper(family.ledger(base, answers={"compute": {key: value}}))
    assert "\n" not in str(caught.value)


# --------------------------------------------------------------------------- records that cannot be believed


@pytest.mark.parametrize("seconds", [-5.0, float("nan"), float("inf"), 0, "long", True])
def test_impossible_seconds_are_named_and_count_as_not_recorded(family, seconds):
    ledger = edited(family.ledger(family.pretrained()), "model/base/1", seconds=seconds)
    paper = meter.paper(ledger)
    assert wrongs(paper) == [("model/base/1", f"seconds is {seconds!r}, which cannot be; taken as not recorded")]
    assert meter.training_time(ledger).shown() == NOT_RECORDED
    assert meter.energy(ledger).shown() == NOT_RECORDED


@pytest.mark.parametrize("flop", [-1, float("nan"), "many", 1.5, [], 10**70, "1" * 500])
def test_impossible_operations_are_named_and_count_as_not_recorded(family, flop):
    ledger = edited(family.ledger(family.pretrained()), "model/base/1", flop=flop)
    ((where, what),) = wrongs(meter.paper(ledger))
    assert where == "model/base/1" and what.startswith("flop is ") and "which cannot be" in what
    assert meter.training_flop(ledger).shown() == NOT_RECORDED


def test_operations_that_tokens_and_sizes_contradict_are_named_with_both_figures(family):
    ledger = edited(family.ledger(family.pretrained()), "model/base/1", flop=2 * RUN, operations={})
    assert wrongs(meter.paper(ledger)) == [
        ("model/base/1", f"flop is {2 * RUN:,} FLOP, but tokens and the model's sizes give {RUN:,} FLOP: +100%")
    ]
    within = edited(family.ledger(family.pretrained()), "model/base/1", flop=RUN * 5 // 4, operations={})
    assert not wrongs(meter.paper(within))


def test_parts_that_do_not_add_up_are_named(family):
    ledger = edited(family.ledger(family.pretrained()), "model/base/1", operations={"attention": 5})
    assert wrongs(meter.paper(ledger)) == [("model/base/1", f"flop is {RUN:,} FLOP, but its parts add up to 5 FLOP")]


def test_a_clock_that_went_backwards_is_named(family):
    ledger = edited(family.ledger(family.pretrained()), "model/base/1", startedOn="2099-01-01T00:00:00Z")
    ((_, what),) = wrongs(meter.paper(ledger))
    assert "before it started at 2099-01-01T00:00:00Z" in what


def test_more_counted_tokens_than_tokens_are_named(family):
    ledger = edited(family.ledger(family.pretrained()), "model/base/1", counted_tokens=16_001, operations={})
    assert ("model/base/1", "16,001 tokens entered the loss, but only 16,000 went through the model") in wrongs(
        meter.paper(ledger)
    )


def test_records_of_an_older_version_have_no_parts_and_still_add_up(family):
    old = {"operations": None, "attended_pairs": None, "mtp_tokens": None, "energy_method": None, "counted_tokens": 400}
    ledger = family.ledger(family.pretrained(**old))
    paper = meter.paper(ledger)
    assert meter.training_flop(ledger).value == RUN
    assert not wrongs(paper)
    assert len(tables(paper, "2")[0].rows) == 1 + 3  # the sum, and the optimizer beside it


# --------------------------------------------------------------------------- the paper as a whole


def test_the_same_records_give_the_same_paper_and_every_answer_names_what_backs_it(family):
    ledger = family.ledger(family.tuned("chat", family.pretrained(energy_wh=3.0)))
    paper = meter.paper(ledger)
    assert render.as_json(paper) == render.as_json(meter.paper(ledger))
    assert render.html(paper)
    cells = [entry.cell for entry in paper.entries]
    cells += [
        cell for part in paper.sections for table in tables(paper, part.number) for row in table.rows for cell in row
    ]
    assert not [cell for cell in cells if cell.is_recorded and not cell.source]


def test_time_is_wall_time_and_hardware_days(family):
    ledger = family.ledger(family.tuned("chat", family.pretrained(runtime=GPU, seconds=86400.0), seconds=43200.0))
    time = meter.training_time(ledger)
    assert time.value == 129600.0
    assert time.shown() == (
        "36.0 h of wall time (1.5 days) in 2 runs, one after the other; 4.5 hardware-days (4 x NVIDIA H100 80GB HBM3, "
        "1 x AMD EPYC 7763 64-Core Processor)"
    )


def test_inference_is_counted_for_a_stated_task(family):
    cell = meter.inference_flop(family.ledger(family.pretrained()))
    assert cell.value == operations.inference(CONFIG, 32, 32)
    assert cell.shown().endswith("to read 32 tokens and write 32 with a cache, counted from the architecture")
    broken = family.ledger(family.pretrained("other"), config={"model_type": "unheard-of"})
    assert meter.inference_flop(broken).shown() == NOT_RECORDED
