"""The public summary: its figures counted again by another engine, its answers against what the records hold."""

import dataclasses
import re
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import toy_papers
from hypothesis import given
from hypothesis import strategies as st

from hanse.errors import InputError
from hanse.release.papers import copyright, render, summary
from hanse.release.papers.paper import NOT_APPLICABLE, NOT_RECORDED
from hanse.release.papers.summary_data import counted, documents_cell
from hanse.release.papers.summary_sources import SME_DOMAINS, listed_domains
from hanse.store.stage import Store

REAL = Path(__file__).parents[2] / "build" / "bench" / "store"


@pytest.fixture(scope="module")
def paper(papers_ledger):
    return summary.paper(papers_ledger)


def answered(ledger, **sections):
    return dataclasses.replace(ledger, answers=sections, answers_digest="0" * 64)


def test_sections_have_the_numbers_and_order_of_the_template(paper):
    numbers = [section.number for section in paper.sections]
    assert numbers == ["", "1", "1.1", "1.2", "1.3", "2", "2.1", "2.2", "2.2.1", "2.2.2", "2.3", "2.4", "2.5", "2.6",
                       "3", "3.1", "3.2", "3.3"]  # fmt: skip
    titles = {section.number: section.title for section in paper.sections}
    assert titles["2.3"] == "Data crawled and scraped from online sources"
    assert titles["3.1"] == "Respect of reservation of rights from text and data mining exception or limitation"


def test_every_count_of_documents_is_what_its_own_query_gives_in_sqlite(papers_store, paper):
    base, asked = toy_papers.in_sqlite(papers_store.find("dataset/trail")), 0
    for table in toy_papers.tables(paper):
        if not {"documents", "bytes"} <= set(table.columns):
            continue
        places = [table.columns.index(name) for name in ("documents", "bytes")]
        for row in table.rows:
            found = re.findall(
                r"documents\.parquet: (select count\(\*\), sum\(bytes\) where [^;]+)", row[places[0]].source
            )
            if found:
                rows = [
                    base.execute(query.replace(" where ", " from documents where ", 1)).fetchone() for query in found
                ]
                assert row[places[0]].value == sum(count for count, _ in rows), row
                if "train.jsonl: select" not in row[places[1]].source:
                    assert row[places[1]].value == sum(size for _, size in rows), row
                asked += 1
    assert asked == 15


def test_the_sum_over_languages_is_the_whole(paper):
    rows = toy_papers.table(paper, "Text by language").rows
    kept = [row for row in toy_papers.documents() if row["split"] == "train"]
    assert sum(row[2].value for row in rows) == len(kept) == toy_papers.entry(paper, "Documents").cell.value
    talk = sum(len(m["content"].encode()) for line in toy_papers.conversations() for m in line["messages"])
    whole = sum(row["bytes"] for row in kept) + talk
    assert sum(row[4].value for row in rows) == whole == toy_papers.entry(paper, "Bytes of text").cell.value
    assert sum(row[6].value for row in rows) == sum(row["bytes"] // 4 for row in kept)


def test_languages_are_named_with_those_of_the_union_marked(paper):
    shown = toy_papers.entry(paper, "Linguistic characteristics").cell.shown()
    assert shown.startswith("4, of which 3 are official") and "French (EU)" in shown
    assert "Ukrainian" in shown and "Ukrainian (EU)" not in shown


@pytest.mark.parametrize(
    ("number", "question", "names"),
    [("2.1", "Publicly available", "books"), ("2.2.1", "Commercial licences", "news"), ("2.3", "Crawlers used", "web"),
     ("2.5", "Synthetic AI", "stories"), ("2.6", "Other sources used", "atlas, bought")],
)  # fmt: skip
def test_each_category_says_yes_and_names_its_sources(paper, number, question, names):
    cell = toy_papers.entry(paper, question, number).cell
    assert cell.value is True and cell.shown() == f"yes: {names}" and "source." in cell.source


def test_without_sources_of_a_category_the_answer_is_no_and_the_rest_not_applicable(tmp_path):
    store = toy_papers.build(tmp_path / "s", sources=[toy_papers.source("books", "public-dataset")])
    paper = summary.paper(toy_papers.ledger_of(store))
    for number in ("2.2.1", "2.3", "2.5"):
        section = next(each for each in paper.sections if each.number == number)
        first, *rest = [part for part in section.body if hasattr(part, "cell")]
        assert first.cell.value is False and first.cell.source
        assert rest and all(each.cell.value == NOT_APPLICABLE and each.cell.source for each in rest)


def test_a_source_of_unknown_origin_turns_every_no_into_a_question(tmp_path):
    store = toy_papers.build(tmp_path / "s", sources=[toy_papers.source("books", "unknown")])
    ledger = toy_papers.ledger_of(store)
    crawled = toy_papers.entry(summary.paper(ledger), "Crawlers used")
    assert not crawled.cell.is_recorded and crawled.is_mandatory and crawled.key == "data.uses_crawled_data"
    said = toy_papers.entry(summary.paper(answered(ledger, data={"uses_crawled_data": False})), "Crawlers used").cell
    assert said.value is False and said.source == "answers.toml data.uses_crawled_data"


def test_private_datasets_are_unknown_until_somebody_says_which_sources_are(papers_ledger, paper):
    assert not toy_papers.entry(paper, "Private datasets obtained").cell.is_recorded
    none = summary.paper(answered(papers_ledger, data={"private_third_party": []}))
    assert toy_papers.entry(none, "Private datasets obtained").cell.value is False
    some = summary.paper(answered(papers_ledger, data={"private_third_party": ["bought"]}))
    assert toy_papers.entry(some, "Private datasets obtained").cell.shown() == "yes: bought"
    assert toy_papers.entry(some, "Other sources used").cell.shown() == "yes: atlas"


def test_user_data_asks_where_it_comes_from(papers_ledger, paper):
    for question in ("Data from interactions", "Data from the provider's other"):
        assert not toy_papers.entry(paper, question).cell.is_recorded
    said = {"from_model_interaction": ["chats"], "from_other_services": []}
    paper = summary.paper(answered(papers_ledger, data=said))
    assert toy_papers.entry(paper, "Data from interactions").cell.value is True
    assert toy_papers.entry(paper, "Data from the provider's other").cell.value is False


def test_large_public_datasets_are_named_with_link_version_and_share(paper):
    table = toy_papers.table(paper, "Large publicly available")
    assert [row[0].value for row in table.rows] == ["novels"]
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert row["link"].value == "https://example.org/books" and row["version or date"].value == "2020"
    assert row["documents"].value == 6 and row["bytes"].value == 6015
    assert row["share of public text"].value == pytest.approx(100 * 6015 / 6035, abs=1e-3)
    assert "20 bytes" in table.note and "poems" in table.note


def test_the_largest_tenth_of_the_domains_is_listed(papers_ledger, paper):
    table = toy_papers.table(paper, "Most relevant domain")
    assert [row[0].value for row in table.rows] == ["site29.example", "site28.example", "site27.example"]
    assert "3 of 30" in table.note and "1 crawled documents name no host" in table.note
    assert "does not say" in table.note
    small = toy_papers.table(summary.paper(answered(papers_ledger, provider={"is_sme": True})), "Most relevant domain")
    assert [row[0].value for row in small.rows] == ["site29.example", "site28.example"]
    large = toy_papers.table(summary.paper(answered(papers_ledger, provider={"is_sme": False})), "Most relevant domain")
    assert len(large.rows) == 3 and "does not say" not in large.note


@given(st.integers(0, 10**7))
def test_an_sme_lists_the_lower_of_a_twentieth_and_a_thousand(found):
    small, large = listed_domains(found, is_sme=True), listed_domains(found, is_sme=False)
    assert small == min(-(-found // 20), SME_DOMAINS) and large == -(-found // 10)
    assert small <= large <= found


@pytest.mark.parametrize(
    ("tokens", "band"),
    [(0, "less than 1 billion"), (10**9 - 1, "less than 1 billion"), (10**9, "1 billion to 10 trillion"),
     (10**13, "1 billion to 10 trillion"), (10**13 + 1, "more than 10 trillion")],
)  # fmt: skip
def test_size_bands_begin_and_end_where_the_template_says(tokens, band):
    assert summary.size_band(tokens).startswith(band)


def test_the_latest_date_is_asked_for_while_a_source_has_none(papers_ledger, paper):
    entry = toy_papers.entry(paper, "Latest date")
    assert not entry.cell.is_recorded and entry.key == "data.latest_acquisition"  # conversations carry no dates
    dates = {row[0].value.split()[0]: row[1].shown() for row in toy_papers.table(paper, "Dates of acquisition").rows}
    assert dates["news"] == "03/2026" and dates["web"] == "02/2026" and dates["chats"] == NOT_RECORDED
    said = summary.paper(answered(papers_ledger, data={"latest_acquisition": "03/2026"}))
    assert toy_papers.entry(said, "Latest date").cell.shown() == "03/2026"


def test_the_latest_date_is_that_of_the_last_document_where_all_have_one(tmp_path):
    store = toy_papers.build(tmp_path / "s", sources=[s for s in toy_papers.SOURCES if s["name"] in ("books", "news")])
    ledger = toy_papers.ledger_of(store)
    only = tuple(each for each in ledger.ancestors if each.kind != "conversations")
    cell = toy_papers.entry(summary.paper(dataclasses.replace(ledger, ancestors=only)), "Latest date").cell
    assert cell.value == "2026-03-09" and cell.shown() == "03/2026" and "max(retrieved)" in cell.source


def test_models_that_wrote_text_are_listed_with_the_link_that_people_give(papers_ledger, paper):
    table = toy_papers.table(paper, "AI models that wrote")
    assert [(row[0].value, row[1].shown()) for row in table.rows] == [("toy-writer-7", NOT_RECORDED)]
    linked = summary.paper(answered(papers_ledger, data={"generator_links": {"toy-writer-7": "https://example.org/w"}}))
    assert toy_papers.table(linked, "AI models that wrote").rows[0][1].value == "https://example.org/w"


def test_text_written_by_rules_is_no_text_of_an_ai_model(paper):
    assert "no AI model" in toy_papers.entry(paper, "Text written by rules").cell.shown()
    assert toy_papers.table(paper, "Facts it is written from").rows[0][0].value == "tables"


def test_a_model_that_goes_on_from_others_weights_has_to_name_them(tmp_path, paper):
    fresh = toy_papers.entry(paper, "Model dependencies").cell
    assert fresh.value == NOT_APPLICABLE and "random weights" in fresh.shown()
    store = toy_papers.build(tmp_path / "s", start={"model.safetensors": "1" * 64})
    going_on = toy_papers.ledger_of(store)
    assert not toy_papers.entry(summary.paper(going_on), "Model dependencies").cell.is_recorded
    named = summary.paper(answered(going_on, model={"base_model": "Big 1, https://example.org/big"}))
    cell = toy_papers.entry(named, "Model dependencies").cell
    assert cell.value.startswith("Big 1") and "model.start" in cell.source


def test_the_predecessor_is_named_with_its_digest(papers_store, papers_ledger, paper):
    assert toy_papers.entry(paper, "Predecessor").cell.value == NOT_APPLICABLE
    before = papers_store.find("evaluation/trail-chat")
    cell = toy_papers.entry(summary.paper(dataclasses.replace(papers_ledger, predecessor=before)), "Predecessor").cell
    assert cell.value == before.ref and before.digest in cell.source


def test_every_answer_names_what_backs_it(paper):
    for cell, is_head in toy_papers.cells(paper):
        assert cell.source or is_head or not cell.is_recorded, cell


def test_no_answer_is_left_empty_in_the_markdown(paper):
    for line in render.markdown(paper).splitlines():
        if line.startswith("| ") and not set(line) <= set("|- "):
            assert all(part.strip() for part in re.split(r"(?<!\\)\|", line)[1:-1]), line


def test_made_again_from_the_same_store_it_has_the_same_bytes(papers_store, paper):
    again = summary.paper(toy_papers.ledger_of(Store.open(papers_store.root)))
    for form in (render.markdown, render.html, render.as_json):
        assert form(again) == form(paper)


def test_nothing_is_guessed_about_a_record_that_says_nothing(papers_ledger):
    left = (papers_ledger.model, papers_ledger.evaluation)
    bare = dataclasses.replace(papers_ledger, ancestors=left, contact="", credits=[])
    paper = summary.paper(bare)
    for question in (
        "Modality: text",
        "Training data size",
        "Tokens of the documents",
        "Linguistic",
        "Publicly available",
    ):
        assert not toy_papers.entry(paper, question).cell.is_recorded, question


def test_counts_of_nothing_are_zero_only_where_everything_was_counted(papers_ledger):
    found = [row for row in counted(papers_ledger, "language") if row.values["language"] == "de"]
    assert documents_cell(papers_ledger, found).value == 0
    no_table = dataclasses.replace(papers_ledger.ancestors[1], path=papers_ledger.model.path)
    lost = dataclasses.replace(
        papers_ledger, ancestors=tuple(no_table if a.kind == "dataset" else a for a in papers_ledger.ancestors)
    )
    assert papers_ledger.ancestors[1].kind == "dataset" and documents_cell(lost, found).value is None


@pytest.mark.parametrize(
    ("ref", "name", "content"),
    [("dataset/trail", "counts.json", "{"), ("dataset/trail", "counts.json", '{"dropped": [{"reason": "x"}]}'),
     ("dataset/trail", "documents.parquet", "PAR1"), ("dataset/trail", "evidence.parquet", ""),
     ("conversations/trail", "train.jsonl", '{"messages": 1}\n'), ("shards/trail", "shards.json", '{"splits": []}')],
)  # fmt: skip
def test_a_record_that_was_damaged_is_named_in_one_sentence(tmp_path, ref, name, content):
    store = toy_papers.build(tmp_path / "s")
    ledger = toy_papers.ledger_of(store)
    path = store.find(ref).path / name
    path.chmod(0o644)
    path.write_text(content)
    with pytest.raises(InputError, match="is not as it was written") as caught:
        render.markdown(copyright.paper(ledger)), summary.paper(ledger)
    assert name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.skipif(not (REAL / "store.json").is_file(), reason="the benchmark's store of real text is not built")
def test_figures_of_real_text_are_those_that_arrow_counts(papers_ledger):
    store = Store.open(REAL, create=False)
    data, shards = store.find("dataset/europe"), store.find("shards/europe")
    models = [each for each in papers_ledger.ancestors if each.kind in ("model", "evaluation")]
    paper = summary.paper(dataclasses.replace(papers_ledger, ancestors=(data, shards, *models)))
    rows = pq.read_table(data.path / "documents.parquet", columns=["split", "language", "bytes"])
    train = rows.filter(pc.equal(rows["split"], "train")).group_by("language")
    counts = {row["language"]: row for row in train.aggregate([("bytes", "sum"), ("bytes", "count")]).to_pylist()}
    index = pq.read_table(shards.path / "index.parquet", columns=["split", "language", "tokens"])
    tokens = index.filter(pc.equal(index["split"], "train")).group_by("language").aggregate([("tokens", "sum")])
    held = {row["language"]: row["tokens_sum"] for row in tokens.to_pylist()}
    shown = {row[0].value[-3:-1]: row for row in toy_papers.table(paper, "Text by language").rows}
    assert shown.keys() == counts.keys() == held.keys() and len(shown) > 20
    for code, row in shown.items():
        told = (row[2].value, row[4].value, row[6].value)
        assert told == (counts[code]["bytes_count"], counts[code]["bytes_sum"], held[code]), code
