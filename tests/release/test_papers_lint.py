"""What keeps papers from being final: open questions, and answers that the records contradict."""

import dataclasses
import json

import pytest
import toy_papers

from hanse.release.papers import copyright, documentation, lint, summary
from hanse.release.papers.paper import Cell, Entry, Paper, Section
from hanse.store.stage import Store


def answered(ledger, **sections):
    return dataclasses.replace(ledger, answers=sections)


def test_open_mandatory_questions_are_named_once(papers_ledger):
    papers = [summary.paper(papers_ledger), documentation.paper(papers_ledger), copyright.paper(papers_ledger)]
    found = lint.missing(papers)
    keys = [entry.key for entry in found]
    assert len(keys) == len(set(keys)) and all(entry.is_mandatory for entry in found)
    assert {"provider.name", "code.is_signatory", "model.intended_uses", "copyright.lawful_access",
            "data.crawler_behaviour"} <= set(keys)  # fmt: skip
    assert "provider.contact" not in keys  # the recipe says it


def test_an_answer_closes_its_question_in_every_paper(papers_ledger):
    said = answered(papers_ledger, provider={"name": "Lab"}, data={"crawler_behaviour": "It waits."})
    keys = [
        entry.key for entry in lint.missing([summary.paper(said), documentation.paper(said), copyright.paper(said)])
    ]
    assert "provider.name" not in keys and "data.crawler_behaviour" not in keys


def test_questions_that_only_records_answer_stay_apart():
    body = (Entry("1", "A", Cell(None), True), Entry("2", "B", Cell(None), True), Entry("3", "C", Cell(None)))
    assert len(lint.missing([Paper("p", "", "", (Section("", "", body),))])) == 2


def test_records_and_answers_that_agree_are_let_pass(papers_ledger):
    assert lint.contradictions(papers_ledger) == []
    said = answered(
        papers_ledger, provider={"contact": "lab@example.org"},
        data={"uses_crawled_data": True, "uses_synthetic_data": True, "latest_acquisition": "12/2999",
              "private_third_party": ["bought"], "from_model_interaction": ["chats", "forum"],
              "generator_links": {"toy-writer-7": "https://example.org"}},
        model={"union_market_date": "2999-01-02", "release_date": "2999-01-01"},
    )  # fmt: skip
    assert lint.contradictions(said) == []


@pytest.mark.parametrize(
    ("sections", "both"),
    [
        ({"data": {"uses_crawled_data": False}}, ("data.uses_crawled_data is false", 'source.2.obtained is "crawl"')),
        ({"data": {"uses_licensed_data": False}}, ("uses_licensed_data is false", '"licensed" (source news)')),
        (
            {"provider": {"contact": "other@example.org"}},
            ("'other@example.org'", "[release] contact", "'lab@example.org'"),
        ),
        (
            {"model": {"union_market_date": "2001-01-01"}},
            ("is 2001-01-01", "training ended on", "step.json finishedOn"),
        ),
        ({"model": {"union_market_date": "2999-01-01", "release_date": "2999-02-01"}}, ("2999-01-01", "2999-02-01")),
        ({"data": {"private_third_party": ["books"]}}, ("names 'books'", 'is "public-dataset", not "other"')),
        ({"data": {"from_other_services": ["nobody"]}}, ("names 'nobody'", "the records have atlas, books")),
        ({"data": {"generator_links": {"gpt": "x"}}}, ("names 'gpt'", "the records have toy-writer-7")),
        ({"model": {"base_model": "Big 1"}}, ("base_model is 'Big 1'", "random weights")),
        ({"code": {"is_signatory": "perhaps"}}, ("[code] is_signatory", "true or false")),
        ({"nonsense": {}}, ("[nonsense]: unknown section",)),
    ],
)
def test_an_answer_that_a_record_contradicts_is_shown_with_the_record(papers_ledger, sections, both):
    found = lint.contradictions(answered(papers_ledger, **sections))
    assert len(found) == 1 and found[0].startswith("answers.toml "), found
    assert all(part in found[0] for part in both), found
    assert not found[0].endswith(".")


def test_text_obtained_after_the_last_month_that_was_stated_is_named(papers_ledger):
    found = lint.contradictions(answered(papers_ledger, data={"latest_acquisition": "02/2026"}))
    assert any("is 02/2026, but text of source 'news' was obtained in 03/2026" in each for each in found)
    assert not any("'web'" in each or "'books'" in each for each in found)


def test_a_claim_of_what_no_source_is_shows_how_each_was_obtained(tmp_path):
    store = toy_papers.build(tmp_path / "s", sources=[toy_papers.source("books", "public-dataset")])
    found = lint.contradictions(answered(toy_papers.ledger_of(store), data={"uses_crawled_data": True}))
    assert len(found) == 1 and "books: public-dataset" in found[0] and "written by rules" in found[0]


def test_two_records_of_one_source_have_to_agree(tmp_path):
    other = [toy_papers.source("atlas", "public-dataset", licence="CC0-1.0")]
    store = toy_papers.build(tmp_path / "s", sources=other)
    found = lint.contradictions(toy_papers.ledger_of(store))
    assert any("'synthetic'" in each and "'public-dataset'" in each for each in found)
    assert any("'CC-BY-4.0'" in each and "'CC0-1.0'" in each for each in found)


@pytest.mark.parametrize("where", ["counts.json", "step.json"])
def test_counts_that_the_table_of_documents_does_not_bear_out_are_named(tmp_path, where):
    store = toy_papers.build(tmp_path / "s")
    path = store.find("dataset/trail").path / where
    path.chmod(0o644)
    data = json.loads(path.read_text())
    if where == "counts.json":
        data["kept"] += 1
    else:
        data["predicate"]["runDetails"]["metadata"]["hanse_facts"]["kept"] += 1
    path.write_text(json.dumps(data))
    found = lint.contradictions(toy_papers.ledger_of(Store.open(store.root)))
    assert found and all("dataset/trail/1" in each and "kept is" in each for each in found)
