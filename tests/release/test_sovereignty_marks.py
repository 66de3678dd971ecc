"""Which facts of the sovereignty card are second-hand, and which are Hanse's own judgement: its reader is told."""

import re

import pytest

from hanse.release.papers import render
from hanse.release.sovereignty import card as sovereignty
from hanse.release.sovereignty.components import components, facts

#: Where a fact about a party stands first-hand: its own pages, a register, the package or its licence.
FIRST_HAND = re.compile(
    r"package metadata|licence file|docs\.python\.org|numfocus\.org|whimsy\.apache\.org|huggingface\.co|sec\.gov"
    r"|commission\.europa\.eu"
)
PRESS = ("benevity.org", "groundy.com", "conductatlas.com", "itdaily.com")


def entries():
    return [facts()["framework"], *facts()["package"], *facts()["chip"]]


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.get("name") or entry["maker"])
def test_what_rests_on_press_alone_is_marked_in_the_table(entry):
    marked = entry.get("second_hand", [])
    assert set(marked) <= set(entry)
    assert bool(marked) == any(name in entry["source"] for name in PRESS), "mark what was read there"
    assert marked or FIRST_HAND.search(entry["source"]), "a new place: is it first-hand?"


def test_what_is_second_hand_says_so_wherever_it_is_printed(licensed_ledger):
    found = {str(each.name.value).partition(" ")[0]: each for each in components(licensed_ledger)}
    assert found["python"].country.shown() == "US (second-hand)" and found["python"].country.value == "US"
    assert found["numpy"].country.shown() == "US"
    paper = sovereignty.paper(licensed_ledger)
    for text in (render.markdown(paper), render.html(paper), render.as_json(paper)):
        assert "US (second-hand)" in text and "check it before you rely on it" in text


def test_substitutes_and_effects_are_not_put_into_the_mouth_of_a_source(licensed_ledger):
    for part in components(licensed_ledger):
        for cell in (part.substitute, part.effect):
            if cell.source.startswith("sovereignty.toml"):
                assert cell.source == "sovereignty.toml of Hanse: its own judgement of 2026-11-22"
        if part.origin.source.startswith("sovereignty.toml"):
            assert "read 2026-11-22" in part.origin.source
