"""The Model Documentation Form and the copyright policy, against the records that they are made from."""

import dataclasses
from datetime import UTC, datetime

import pytest
import toy_papers

from hanse.data.rights.signals import SIGNALS
from hanse.release.papers import copyright, documentation, render, training
from hanse.release.papers.paper import NOT_APPLICABLE, Cell
from hanse.store.stage import Store
from hanse.trace import withdrawal


@pytest.fixture(scope="module")
def form(papers_ledger):
    return documentation.paper(papers_ledger)


@pytest.fixture(scope="module")
def policy(papers_ledger):
    return copyright.paper(papers_ledger)


@pytest.mark.parametrize(
    ("parameters", "band"),
    [(1, "1 to 500 million"), (500_000_000, "1 to 500 million"), (500_000_001, "500 million to 5 billion"),
     (15 * 10**9, "5 to 15 billion"), (70 * 10**9, "50 to 100 billion"), (10**12, "500 billion to 1 trillion"),
     (10**12 + 1, "more than 1 trillion")],
)  # fmt: skip
def test_bands_of_parameters_are_those_of_the_form(parameters, band):
    assert documentation.parameter_band(parameters) == band


@pytest.mark.parametrize(
    ("days", "band"),
    [(1, "less than 1 month"), (30, "1 to 3 months"), (100, "3 to 6 months"), (200, "more than 6 months")],
)
def test_bands_of_training_time_are_those_of_the_form(days, band):
    assert training.time_band(Cell(days * 86400.0, "r")).value == band
    assert not training.time_band(Cell(None)).is_recorded


def test_exact_figures_are_for_the_ai_office_and_bands_for_the_others(form):
    exact, band = (
        toy_papers.entry(form, "Total model size: parameters"),
        toy_papers.entry(form, "Total model size: band"),
    )
    assert exact.cell.value == 2_853_184 and exact.readers == ("AIO",)
    assert band.cell.value == "1 to 500 million" and band.readers == ("NCA", "DP")
    for reader, shows in (("AIO", True), ("NCA", False), ("DP", False)):
        assert ("2,853,184" in render.markdown(form, reader=reader)) == shows
    downstream = render.markdown(form, reader="DP")
    assert "Amount of computation" not in downstream and "Energy used" not in downstream
    assert "Required hardware" in downstream and "Acceptable use policy" in downstream


def test_the_form_says_what_the_configuration_and_the_records_say(papers_ledger, form):
    assert toy_papers.entry(form, "Model architecture").cell.value.startswith(
        "deepseek_v3: decoder-only transformer, 2 layers"
    )
    assert "at most 64 tokens" in toy_papers.entry(form, "Input modalities").cell.shown()
    assert toy_papers.entry(form, "Model authenticity").cell.value == papers_ledger.model.digest
    documents = [row for row in toy_papers.documents() if row["split"] == "train"]
    assert toy_papers.entry(form, "Number of data points: documents", "").cell.value == len(documents)
    steps = toy_papers.table(form, "Training steps")
    assert [row[1].value for row in steps.rows] == ["pre-training", "supervised fine-tuning"]
    assert [row[3].value for row in steps.rows] == [1000, 500]
    assert "goldfish 4" in steps.rows[0][4].shown()


def test_the_form_counts_what_training_never_saw(form):
    held = toy_papers.table(form, "Data for validation")
    assert [(row[0].value, row[1].value) for row in held.rows] == [("dataset/trail/1", 1), ("conversations/trail/1", 0)]


def test_the_form_gives_the_provenance_of_every_category_in_bytes(form):
    rows = {row[0].value: row for row in toy_papers.table(form, "Data provenance").rows}
    web = sum(row["bytes"] for row in toy_papers.documents() if row["source"] == "web" and row["split"])
    assert rows["Web crawling"][1].value is True and rows["Web crawling"][2].value == web
    assert rows["Private datasets licensed by rightsholders"][2].value == 400


def test_curation_counts_what_each_reason_left_out(form):
    left_out = {row[0].value: row[1].value for row in toy_papers.table(form, "Left out by curation").rows}
    assert left_out == {"rights-reserved": 2, "quality-menu": 1}
    assert toy_papers.entry(form, "Curation: personal data").cell.shown() == "masked where found"


def test_the_policy_names_every_signal_and_what_was_found(policy):
    rows = {row[0].value: row for row in toy_papers.table(policy, "Signals that are read").rows}
    assert list(rows) == [signal.kind for signal in SIGNALS]
    assert [cell.value for cell in rows["robots.txt"][3:]] == [True, 3, 1]
    assert [cell.value for cell in rows["ai.txt"][3:]] == [True, 0, 0]


def test_the_policy_gives_the_days_on_which_robots_files_were_seen(policy):
    rows = [[cell.value for cell in row] for row in toy_papers.table(policy, "Statements of sites").rows]
    assert rows == [["robots.txt", "allowed", 2, 1, "2024-05-01", "2026-02-01"],
                    ["robots.txt", "reserved", 1, 1, "2026-01-31", "2026-01-31"]]  # fmt: skip


def test_the_policy_counts_what_reservations_left_out(policy):
    rows = {row[0].value.partition(":")[0]: row[2].value for row in toy_papers.table(policy, "Documents left out").rows}
    assert rows == {"rights-reserved": 2, "reservation-unknown": 0}


@pytest.mark.parametrize(("decided", "says"), [("keep", "kept: curation was set"), ("drop", "left out")])
def test_the_policy_says_how_many_documents_nobody_made_a_statement_on(papers_store, decided, says):
    dataset = papers_store.find("dataset/trail")
    dataset.record["predicate"]["buildDefinition"]["externalParameters"]["curate"]["on_unknown_reservation"] = decided
    ledger = toy_papers.ledger_of(papers_store)
    changed = tuple(dataset if each.kind == "dataset" else each for each in ledger.ancestors)
    made = copyright.paper(dataclasses.replace(ledger, ancestors=changed))
    assert toy_papers.entry(made, "Documents whose reservation is unknown").cell.shown().startswith(says)
    trained = [row["reservation"] for row in toy_papers.documents() if row["split"] == "train"]
    cell = toy_papers.entry(made, "Documents trained on whose reservation is unknown").cell
    assert 0 < cell.value == trained.count("unknown") < len(trained)
    assert cell.shown() == f"{trained.count('unknown')} of {len(trained)}"
    query = cell.source.partition(": ")[2].replace(" where ", " from documents where ", 1)
    assert toy_papers.in_sqlite(dataset).execute(query).fetchone() == (cell.value,)


def test_the_policy_file_is_known_by_its_digest(papers_store, policy):
    cell = toy_papers.entry(policy, "Policy that decides").cell
    assert cell.shown().endswith("the policy that comes with Hanse") and len(cell.value) == 64
    dataset = papers_store.find("dataset/trail")
    dataset.record["predicate"]["buildDefinition"]["externalParameters"]["curate"]["policy"] = "a" * 64
    ledger = toy_papers.ledger_of(papers_store)
    changed = tuple(dataset if each.kind == "dataset" else each for each in ledger.ancestors)
    own = copyright.paper(dataclasses.replace(ledger, ancestors=changed))
    assert "provider's own" in toy_papers.entry(own, "Policy that decides").cell.shown()
    assert not any(row[3].is_recorded for row in toy_papers.table(own, "Signals that are read").rows)


def test_crawling_makes_its_questions_mandatory_and_its_absence_settles_them(tmp_path, policy):
    assert toy_papers.entry(policy, "Sites listed").is_mandatory
    store = toy_papers.build(tmp_path / "s", sources=[toy_papers.source("books", "public-dataset")])
    cell = toy_papers.entry(copyright.paper(toy_papers.ledger_of(store)), "Sites listed").cell
    assert cell.value == NOT_APPLICABLE and cell.source


def test_the_goldfish_loss_is_told_for_each_pretraining(policy):
    assert toy_papers.entry(policy, "Targets hidden").cell.shown() == "one target in 4, 25.0 %"


def test_withdrawals_are_logged_and_personal_data_stays_out_of_the_log(tmp_path, papers_ledger):
    root = tmp_path / "store"
    root.mkdir()
    for criteria, reason in (({"author": "Ann | Other"}, "opt-out"), ({"author": "Secret Person"}, "personal-data")):
        asked = withdrawal.draft(criteria, reason=reason, requester="author", evidence="a letter of Secret Person")
        withdrawal.write(root, withdrawal.sealed(asked, ["1" * 32], {"dataset/a/1": 2, "dataset/b/1": 3}, ()))
    known = tuple(each.as_dict() for each in withdrawal.read(root))
    paper = copyright.paper(dataclasses.replace(papers_ledger, withdrawals=known))
    rows = {row[3].value: row for row in toy_papers.table(paper, "Withdrawal log").rows}
    assert rows["opt-out"][5].shown() == "author: Ann | Other" and rows["opt-out"][6].value == 5
    assert rows["personal-data"][5].shown() == "kept as hashes only"
    today = datetime.now(UTC).date().isoformat()
    assert rows["opt-out"][2].value <= today and rows["opt-out"][0].source.startswith("withdrawals/")
    for text in (render.markdown(paper), render.html(paper), render.as_json(paper)):
        assert "Secret" not in text and "author: Ann" in text.replace("\\", "")


@pytest.mark.parametrize("maker", [documentation, copyright])
def test_every_answer_of_the_forms_names_what_backs_it(papers_ledger, maker):
    for cell, is_head in toy_papers.cells(maker.paper(papers_ledger)):
        assert cell.source or is_head or not cell.is_recorded, cell


@pytest.mark.parametrize("maker", [documentation, copyright])
def test_the_forms_made_again_have_the_same_bytes(papers_store, maker):
    one, two = (maker.paper(toy_papers.ledger_of(Store.open(papers_store.root))) for _ in range(2))
    assert render.html(one) == render.html(two) and render.as_json(one) == render.as_json(two)
