"""The memorisation dossier: every figure with its record, and "not recorded" where nobody measured."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hanse.errors import InputError
from hanse.release.ledger import Ledger
from hanse.release.papers import render
from hanse.release.papers.memorisation import paper
from hanse.release.papers.paper import NOT_RECORDED, Cell, Entry, Paper, Table
from hanse.store.stage import Artifact, Store, Work


def figure(extracted: int, tested: int, longest: int | None = 40) -> dict[str, Any]:
    share = extracted / tested if tested else None
    return {
        "extracted": extracted, "tested": tested, "share": share, "low": 0.01, "high": 0.21, "below": 0.0457,
        "longest_characters": longest, "mean_characters": longest,
    }  # fmt: skip


def results(found: int) -> list[dict[str, Any]]:
    apart = {"value": found / 64, "low": -0.02, "high": 0.2}
    return [
        {"prefix_tokens": 16, "decoding": "greedy", "train": figure(found, 64), "control": figure(0, 10),
         "difference": apart},
        {"prefix_tokens": 16, "decoding": "sampled", "train": figure(found, 64, None), "control": figure(0, 0, None),
         "difference": None},
    ]  # fmt: skip


SUPPLY = {
    "documents": 1000, "tokens": 90_000, "never_read": 612, "read_tokens": 31_000, "short": 30, "testable": 358,
    "testable_tokens": 29_500, "times_read": {"least": 1, "mean": 1.25, "most": 2},
}  # fmt: skip
UNREAD = SUPPLY | {"never_read": 1000, "read_tokens": 0, "short": 0, "testable": 0, "times_read": None}
HELD_OUT = SUPPLY | {"documents": 20, "never_read": None, "read_tokens": None, "times_read": None}


def group(kind: str, name: str, found: int) -> dict[str, Any]:
    return {
        "kind": kind, "name": name, "train": SUPPLY | {"tested": 64}, "control": HELD_OUT | {"tested": 10},
        "results": results(found),
    }  # fmt: skip


REPORT = {
    "confidence": 0.95,
    "asked": {"prefix_tokens": [16, 4000], "continuation_tokens": 32},
    "used": {"prefix_tokens": [16], "continuation_tokens": 32},
    "samples": 2,
    "temperature": 0.8,
    "is_reading_recorded": True,
    "window_tokens": 256,
    "population": SUPPLY,
    "rights_holders_left_out": 7,
    "groups": [group("source", "novels", 3), group("source", "laws", 0), group("rights_holder", "Library | Ana", 3)],
    "conversations": [
        {"source": "atlas", "answers": "long", "conversations": 500, "never_shown": 40, "train": figure(1, 20),
         "control": figure(0, 20), "difference": {"value": 0.05, "low": -0.1, "high": 0.2}}
    ],
    "canaries": {
        "candidates": 1023, "highest": 10.0,
        "each": [{"number": 1, "repeats": 4, "times_read": 8, "bits": 90.5, "rank": 1, "exposure": 10.0}],
        "by_repeats": [{"repeats": 4, "canaries": 1, "mean": 9.123, "least": 8.0, "most": 10.0}],
    },
    "goldfish": {"k": 4, "documents": 64, "targets": 6400, "hidden": 1600, "share": 0.25, "sources": []},
}  # fmt: skip


@pytest.fixture
def measure(store: Store):
    """Puts a measurement with a report into the store."""

    def build(report: Any, *, of: str = "model/toy-chat", name: str = "toy-chat") -> Artifact:
        def make(work: Work) -> None:
            text = report if isinstance(report, str) else json.dumps(report)
            (work.folder / "memorisation.json").write_text(text)
            work.note(tested_documents=64, extracted_documents=3, control_documents=10, control_extracted=0)
            work.note(extracted_elsewhere=2, control_elsewhere=0)

        inputs = {"model": store.find(of)}
        return store.build("memorisation", name, "1", definition={}, inputs=inputs, make=make).artifact

    return build


@pytest.fixture
def ledger_of(store: Store):
    """What a release knows, as far as this paper asks for it."""

    def build(measured: Artifact | None, *, goldfish: int | None = None) -> Ledger:
        model, evaluation = store.find("model/toy-chat"), store.find("evaluation/toy-chat")
        ancestors = [store.find("model/toy-base"), model]
        if goldfish is not None:
            made = store.build(
                "model", "toy-fish", "1", definition={"pretrain": {"goldfish": goldfish}}, inputs={},
                make=lambda work: (work.folder / "x").write_text("x") and None,
            )  # fmt: skip
            ancestors.insert(0, made.artifact)
        return Ledger(
            name="toy", version="1", title="Toy", description="", contact="", licence="CC0-1.0", languages=("da",),
            model=model, evaluation=evaluation, ancestors=tuple(ancestors), config={}, parameters=10,
            active_parameters=None, scores=[], credits=[], is_chat=True, key_fingerprint="", lineage="",
            memorisation=measured,
        )  # fmt: skip

    return build


def cells(made: Paper) -> Iterator[Cell]:
    for section in made.sections:
        for part in section.body:
            if isinstance(part, Entry):
                yield part.cell
            elif isinstance(part, Table):
                yield from (cell for row in part.rows for cell in row)


def row_of(made: Paper, section: str, name: str, decoding: str) -> tuple[str, ...]:
    tables = [part for each in made.sections if each.number == section for part in each.body if isinstance(part, Table)]
    (found,) = (row for row in tables[-1].rows if (row[0].shown(), row[2].shown()) == (name, decoding))
    return tuple(cell.shown() for cell in found)


def test_every_figure_is_shown_with_bounds_control_and_record(measure, ledger_of) -> None:
    made = paper(ledger_of(measure(REPORT), goldfish=4))
    assert row_of(made, "2", "novels", "greedy") == (
        "novels", "16", "greedy", "3 of 64: 4.7 % (1.0 % to 21.0 %)", "0 of 10 (below 4.6 %)",
        "+4.7 points (-2.0 to +20.0)", "40", "40",
    )  # fmt: skip
    assert row_of(made, "2", "laws", "greedy")[3] == "0 of 64 (below 4.6 %)"
    assert row_of(made, "2", "laws", "sampled")[4] == "not applicable: nothing to test"
    assert row_of(made, "2", "laws", "sampled")[5:7] == (
        "not applicable: not both were tested", "not applicable: only greedy ones are compared",
    )  # fmt: skip
    assert row_of(made, "3", "Library | Ana", "greedy")[3].startswith("3 of 64")
    shown = {entry.number: entry.cell.shown() for entry in made.entries}
    assert shown["1.1"] == "model/toy-chat/1"
    assert shown["1.2"] == "16 (too long for the context or the window: 4000)"
    assert [shown[f"1.{number}"] for number in range(6, 12)] == [
        "yes", "256", "31,000 of 90,000", "358 of 1,000", "29,500 of 90,000", "1 to 2, 1.2 on average",
    ]  # fmt: skip
    assert (shown["1.12"], shown["1.13"], shown["3.1"]) == ("64", "3", "7")
    assert (shown["1.16"], shown["1.17"]) == ("2", "0")
    (talk,) = (part for part in made.sections[3].body if isinstance(part, Table))
    assert [cell.shown() for cell in talk.rows[0]][:4] == ["atlas", "500", "40", "long"]
    assert (shown["5.1"], shown["5.3"]) == ("1", "10.0")
    assert shown["6.1"] == "one in 4"
    assert shown["6.2"] == "25.0 % (1,600 of 6,400 tokens)"
    backed = [cell for cell in cells(made) if cell.is_recorded]
    assert len(backed) > 50 and all(cell.source for cell in backed)
    assert {cell.source.split(" ")[0] for cell in backed} == {"memorisation/toy-chat/1", "model/toy-fish/1"}


def supply_of(made: Paper, name: str) -> dict[str, str]:
    (section,) = (each for each in made.sections if each.number == "2")
    table = next(part for part in section.body if isinstance(part, Table))
    (row,) = (row for row in table.rows if row[0].shown() == name)
    return dict(zip(table.columns, (cell.shown() for cell in row), strict=True))


def test_each_source_says_how_much_of_it_was_read_and_could_be_tested(measure, ledger_of) -> None:
    report = REPORT | {"groups": [REPORT["groups"][0], REPORT["groups"][1] | {"train": UNREAD | {"tested": 0}}]}
    made = paper(ledger_of(measure(report)))
    assert supply_of(made, "novels") == {
        "source": "novels", "in training": "1,000", "never read": "612", "too short": "30",
        "could be tested": "358", "their tokens": "29,500", "times read": "1 to 2, 1.2 on average", "tested": "64",
        "held out": "20", "of these tested": "10",
    }  # fmt: skip
    laws = supply_of(made, "laws")
    assert (laws["could be tested"], laws["times read"]) == ("0", "not applicable: nothing could be tested")


def test_what_an_unrecorded_run_read_is_not_recorded(measure, ledger_of) -> None:
    unknown = SUPPLY | {"never_read": None, "read_tokens": None, "times_read": None, "testable": 900}
    groups = [REPORT["groups"][0] | {"train": unknown | {"tested": 64}}]
    report = REPORT | {
        "is_reading_recorded": False, "window_tokens": None, "population": unknown, "groups": groups,
    }  # fmt: skip
    made = paper(ledger_of(measure(report)))
    shown = {entry.number: entry.cell.shown() for entry in made.entries}
    assert [shown[f"1.{number}"] for number in range(6, 12)] == [
        "no", NOT_RECORDED, NOT_RECORDED, "900 of 1,000", "29,500 of 90,000", NOT_RECORDED,
    ]  # fmt: skip
    assert (supply_of(made, "novels")["never read"], supply_of(made, "novels")["times read"]) == (NOT_RECORDED,) * 2


def held(value: Any) -> Iterator[Any]:
    """A JSON value, and everything in it."""
    yield value
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from held(each)


def test_each_place_that_is_named_holds_the_value(measure, ledger_of) -> None:
    checked = 0
    for cell in cells(paper(ledger_of(measure(REPORT)))):
        places = [source.split(" ", 2) for source in cell.source.split("; ") if cell.source]
        found = [place for _, file, place in places if file == "memorisation.json"]
        if not found or str(cell.value).startswith("not applicable") or cell.source.endswith("canaries.each"):
            continue
        value: Any = REPORT
        for part in found[0].split("."):
            value = value[int(part)] if isinstance(value, list) else value[part]
        assert cell.value in list(held(value)), (cell, found)
        checked += 1
    assert checked > 40


def test_what_nobody_measured_is_not_recorded(ledger_of) -> None:
    made = paper(ledger_of(None))
    assert [section.number for section in made.sections] == ["1", "2", "3", "4", "5", "6", "7"]
    assert {entry.cell.shown() for entry in made.entries} == {NOT_RECORDED}
    assert not any(isinstance(part, Table) for section in made.sections for part in section.body)


def test_what_did_not_apply_is_written_out(measure, ledger_of) -> None:
    bare = REPORT | {"canaries": None, "conversations": None, "goldfish": None, "rights_holders_left_out": 0}
    made = paper(ledger_of(measure(bare), goldfish=0))
    shown = {entry.number: entry.cell.shown() for entry in made.entries}
    assert shown["4.1"].startswith("not applicable")
    assert shown["5.1"] == "none were placed"
    assert (shown["6.1"], shown["6.2"]) == ("no", NOT_RECORDED)
    assert "3.1" not in shown


def test_sources_without_a_rights_holder_leave_that_part_not_recorded(measure, ledger_of) -> None:
    made = paper(ledger_of(measure(REPORT | {"groups": REPORT["groups"][:2]})))
    assert {entry.number: entry.cell.shown() for entry in made.entries}["3.1"] == NOT_RECORDED


def test_the_same_ledger_gives_the_same_paper_in_every_form(measure, ledger_of) -> None:
    ledger = ledger_of(measure(REPORT))
    assert paper(ledger) == paper(ledger)
    for form in (render.markdown, render.html, render.as_json):
        text = form(paper(ledger))
        assert text == form(paper(ledger))
        assert "42 O 14139/24" in text and "Library" in text


@pytest.mark.parametrize("text", ["", "no json", "[]"])
def test_a_report_that_cannot_be_read_is_refused(measure, ledger_of, text: str) -> None:
    with pytest.raises(InputError, match=r"memorisation\.json: cannot be read"):
        paper(ledger_of(measure(text or " ")))


def test_a_measurement_of_another_model_is_refused(measure, ledger_of) -> None:
    with pytest.raises(InputError, match="measures another model than model/toy-chat/1"):
        paper(ledger_of(measure(REPORT, of="model/toy-base", name="toy-base")))


def test_the_dossier_needs_no_torch(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = "import hanse.release.papers.memorisation, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False).returncode == 0
