"""The sovereignty card: what a model hangs on, and a range that only what is known makes narrower."""

import tomllib
from dataclasses import replace

import pytest
from licensed_store import SOURCES, TALK, ledger_of, make_store

from hanse.errors import InputError
from hanse.release.papers import render
from hanse.release.papers.paper import Cell, Table
from hanse.release.sovereignty import card as sovereignty
from hanse.release.sovereignty import components as parts
from hanse.release.sovereignty.card import objectives, score
from hanse.release.sovereignty.components import Component, components, facts

#: Everything that a person can say about the toy, all of it in the Union.
UNION = {
    "provider_country": "DK", "control_country": "DK", "operators_country": "DK", "security_country": "DK",
    "grid_country": "NO",
    "hosts": {"Cluster": {"country": "FI", "control_country": "FI"}},
    "data": {"laws": {"country": "EU"}, "chat": {"country": "DK"}},
    "teachers": {"Teacher 7B": {"origin": "A lab", "country": "FR", "licence": "Apache-2.0", "effect": "none"}},
}  # fmt: skip


def levels(ledger, **said):
    asked = replace(ledger, answers={"sovereignty": said})
    return {number: (each.low, each.high) for number, each in objectives(asked, components(asked)).items()}


def of_kind(found, kind):
    return {str(each.name.value): each for each in found if each.kind == kind}


def test_weights_are_those_of_the_framework():
    assert [entry["weight"] for entry in facts()["objective"]] == [15, 10, 10, 15, 20, 15, 10, 5]
    assert [entry["number"] for entry in facts()["objective"]] == [f"SOV-{n}" for n in range(1, 9)]


def test_every_fact_names_its_source_and_the_day_it_was_read():
    for entry in (facts()["framework"], *facts()["package"], *facts()["chip"]):
        assert entry["source"] and entry["date"] >= "2026-11-01", entry
    for entry in facts()["package"]:
        assert {"publisher", "licence", "substitute", "effect"} <= set(entry), entry["name"]


def test_components_come_from_the_records(licensed_ledger):
    found = components(licensed_ledger)
    assert set(of_kind(found, "data")) == {"daily", "novels", "laws", "chat"}
    assert of_kind(found, "data")["daily"].country == Cell("DK", "dataset/toy/1 step.json source.0.jurisdiction")
    assert of_kind(found, "data")["daily"].licence.value == "contract C-1"
    assert "contract ends on 2090-12-31" in of_kind(found, "data")["daily"].effect.shown()
    assert set(of_kind(found, "teacher")) == {"Teacher 7B"}
    (chip,) = of_kind(found, "chip").values()
    assert chip.name == Cell("AMD EPYC 9654", "model/toy-base/1 step.json runtime.device_name")
    assert chip.origin.value == "Advanced Micro Devices, Inc." and "read 2026-11-22" in chip.origin.source
    assert any(name.startswith("numpy ") for name in of_kind(found, "code"))
    assert all(each.name.source for each in found if each.name.is_recorded)


def test_a_package_that_is_not_in_the_table_is_not_recorded(licensed_ledger, monkeypatch):
    known = {**facts(), "package": [entry for entry in facts()["package"] if entry["name"] != "numpy"]}
    monkeypatch.setattr(parts, "facts", lambda: known)
    numpy = next(each for each in components(licensed_ledger) if str(each.name.value).startswith("numpy "))
    for cell in (numpy.origin, numpy.country, numpy.licence, numpy.substitute, numpy.effect):
        assert cell.shown() == "not recorded" and not cell.source
    assert numpy.is_free is None
    assert objectives(licensed_ledger, components(licensed_ledger))["SOV-6"].low == 0


@pytest.mark.parametrize(
    ("device", "maker"),
    [("NVIDIA H100 80GB HBM3", "NVIDIA Corporation"), ("NVIDIA GH200 480GB", "NVIDIA Corporation"),
     ("AMD Instinct MI250X", "Advanced Micro Devices, Inc."), ("SiPearl Rhea1", "SiPearl"),
     ("Some accelerator", None), ("amdahl 470", None)],
)  # fmt: skip
def test_a_chip_is_known_by_a_word_of_its_name(device, maker):
    assert parts._chip(device).get("maker") == maker


def test_what_a_person_says_fills_gaps_and_replaces_no_fact(licensed_ledger):
    said = {
        "packages": {"numpy": {"origin": "me"}, "daft": {"country": "US"}},
        "chips": {"AMD EPYC 9654": {"origin": "me"}},
    }
    found = components(replace(licensed_ledger, answers={"sovereignty": said}))
    numpy = next(each for each in found if str(each.name.value).startswith("numpy "))
    daft = next(each for each in found if str(each.name.value).startswith("daft "))
    assert numpy.origin.value == "NumFOCUS (fiscal sponsor)"
    assert daft.country == Cell("US", "answers.toml sovereignty.packages.daft.country")
    assert of_kind(found, "chip")["AMD EPYC 9654"].origin.value == "Advanced Micro Devices, Inc."


def test_what_nobody_knows_spans_from_worst_to_best(licensed_ledger):
    found = levels(licensed_ledger)
    assert found["SOV-1"] == found["SOV-2"] == (0, 4)
    assert found["SOV-7"] == (1, 4)  # it is signed; who keeps it safe is not known
    assert found["SOV-5"] == (1, 1)  # the chip is known, and not of the Union


def test_an_objective_is_as_strong_as_its_weakest_part(licensed_ledger):
    found = levels(licensed_ledger, **UNION)
    assert found["SOV-1"] == found["SOV-2"] == (4, 4)
    assert found["SOV-3"] == (1, 3)  # novels from Norway, under a contract that nothing here can read
    assert found["SOV-4"] == (3, 3)  # packages from the United States that anybody may keep and change
    assert found["SOV-5"] == (1, 1) and found["SOV-6"] == (4, 4) and found["SOV-7"] == (4, 4)
    outside = {**UNION, "hosts": {**UNION["hosts"], "Mirror": {"country": "US"}}}
    assert levels(licensed_ledger, **outside)["SOV-2"] == (0, 0)
    behind = {**UNION, "hosts": {"Cloud": {"country": "IE", "control_country": "US"}}}
    assert levels(licensed_ledger, **behind)["SOV-2"] == (1, 1)


def test_the_score_is_the_weighted_sum_in_percent(licensed_ledger):
    asked = replace(licensed_ledger, answers={"sovereignty": UNION})
    found = objectives(asked, components(asked))
    assert (found["SOV-8"].low, found["SOV-8"].high) == (1, 1)  # energy was measured, the grid is not in the Union
    by_hand = 15 * 4 + 10 * 4 + 15 * 3 + 20 * 1 + 15 * 4 + 10 * 4 + 5 * 1  # all but SOV-3, in quarters
    assert score(found) == ((by_hand + 10 * 1) / 4, (by_hand + 10 * 3) / 4)
    unknown = {number: replace(each, low=0, high=4) for number, each in found.items()}
    assert score(unknown) == (0, 100)


@pytest.mark.parametrize("key", ["provider_country", "operators_country", "security_country", "grid_country"])
def test_an_answer_never_makes_the_range_wider(licensed_ledger, key):
    before = levels(licensed_ledger)
    for country in ("DK", "US"):
        after = levels(licensed_ledger, **{key: country})
        for number, (low, high) in after.items():
            assert before[number][0] <= low <= high <= before[number][1]


@pytest.mark.parametrize(
    ("made_in", "wanted"), [(Cell(None), (4, 4)), (Cell("DE", "x"), (4, 4)), (Cell("TW", "x"), (2, 2))]
)
def test_a_chip_that_is_only_designed_in_the_union_depends_on_others(made_in, wanted):
    chip = Component("chip", Cell("Rhea1", "x"), country=Cell("FR", "x"), made_in=made_in)
    level = sovereignty._made(chip)
    assert (level.low, level.high) == wanted


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"provider": "DK"}, "provider: unknown key"),
        ({"provider_country": "Denmark"}, "no country"),
        ({"provider_country": 45}, "no country"),
        ({"hosts": {"A": {"country": "fi"}}}, "no country"),
        ({"hosts": {"A": {"land": "FI"}}}, "land: unknown key"),
        ({"hosts": ["A"]}, "has to be a section"),
        ({"base_model": "x"}, "has to be a section"),
    ],
)
def test_answers_that_do_not_fit_are_refused_with_their_key(licensed_ledger, said, words):
    with pytest.raises(InputError, match=words):
        sovereignty.paper(replace(licensed_ledger, answers={"sovereignty": said}))


def test_a_model_that_was_continued_hangs_on_the_one_before(tmp_path):
    begun = ledger_of(make_store(tmp_path / "s", start=True))
    (base,) = of_kind(components(begun), "weights").values()
    assert base.name.source == "model/toy-base/1 step.json model.start" and base.licence.shown() == "not recorded"
    assert objectives(begun, components(begun))["SOV-3"].low == 0
    said = {"model": {"base_model": "Base 1B"}, "sovereignty": {"base_model": {"country": "FR", "licence": "MIT"}}}
    (base,) = of_kind(components(replace(begun, answers=said)), "weights").values()
    assert (base.name.value, base.country.value, base.is_free) == ("Base 1B", "FR", True)


def test_no_teacher_and_no_start_are_written_out(tmp_path):
    plain = ledger_of(make_store(tmp_path / "s", talk=[{**TALK[0], "model": "", "obtained": "other"}]))
    text = render.markdown(sovereignty.paper(plain))
    assert "not applicable: no text on record was written by a model" in text
    assert "not applicable: training began with random weights" in text


def test_text_that_may_not_be_used_commercially_is_not_free(tmp_path):
    closed = ledger_of(make_store(tmp_path / "s", sources=[*SOURCES[:2], {**SOURCES[2], "licence": "CC-BY-NC-4.0"}]))
    assert of_kind(components(closed), "data")["laws"].is_free is False


def test_the_card_says_whose_reading_it_is_and_every_cell_has_its_source(licensed_ledger):
    paper = sovereignty.paper(licensed_ledger)
    assert "no rating by the Commission" in paper.about
    for section in paper.sections:
        for part in section.body:
            for cell in (each for row in part.rows for each in row) if isinstance(part, Table) else ():
                assert cell.source or not cell.is_recorded, cell
    assert render.as_json(paper) == render.as_json(sovereignty.paper(licensed_ledger))
    assert "unknown: SEAL-0 to SEAL-4" in render.markdown(paper)


def test_the_page_prints_the_weights_that_the_table_holds():
    from pathlib import Path

    page = (Path(__file__).parents[2] / "docs/sovereignty.md").read_text(encoding="utf-8")
    table = tomllib.loads(Path(parts.__file__).with_name(parts.FACTS).read_text(encoding="utf-8"))
    for entry in table["objective"]:
        assert f"| {entry['number']} | {entry['title']} | {entry['weight']} % |" in page
