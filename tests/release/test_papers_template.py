"""The form and the summary against their templates: who gets which answer, how exact; comments, links to records."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from urllib.parse import unquote

import pytest
import toy_papers
from lxml import html as parser

from hanse.release.ledger import record_names
from hanse.release.papers import documentation, lint, pack, render, summary
from hanse.release.papers.paper import NOT_APPLICABLE, NOT_RECORDED, Entry

ALL, AUTHORITIES = {"AIO", "NCA", "DP"}, {"AIO", "NCA"}
#: Of the Model Documentation Form, in its order: what a question begins with, and who gets the answer.
RECIPIENTS = {
    "Legal name": ALL, "Model name": ALL, "Model authenticity": AUTHORITIES, "Release date": ALL,
    "Union market release date": ALL, "Model dependencies": ALL, "Model architecture": ALL,
    "Design specifications": AUTHORITIES, "Input modalities": ALL, "Output modalities": ALL,
    "Total model size: parameters": {"AIO"}, "Total model size: band": {"NCA", "DP"}, "Distribution channels": ALL,
    "Category of the licence": ALL, "Link to the licence": ALL, "Further assets": ALL, "Acceptable use policy": ALL,
    "Intended uses": ALL, "Type and nature of AI systems": ALL, "Technical means": ALL, "Required hardware": {"DP"},
    "Required software": {"DP"}, "Design specifications of the training process": AUTHORITIES,
    "Rationale of key design": AUTHORITIES, "Type or modality of data": ALL, "How data was obtained": AUTHORITIES,
    "Number of data points: documents": {"AIO"}, "Number of data points: tokens of documents, order": {"NCA"},
    "Scope and main characteristics": AUTHORITIES, "Curation: personal data": ALL,
    "Measures against unsuitable": AUTHORITIES, "Measures against identifiable bias": AUTHORITIES,
    "Training time": {"AIO"}, "Training time: band": {"NCA"}, "Amount of computation for training": {"AIO"},
    "Amount of computation for training: order of magnitude": {"NCA"}, "Measurement method": AUTHORITIES,
    "Energy used for training": AUTHORITIES, "Measurement method of the energy": AUTHORITIES,
    "Benchmarked amount of computation": AUTHORITIES, "Measurement method of inference": AUTHORITIES,
}  # fmt: skip


@pytest.fixture(scope="module")
def form(papers_ledger):
    return documentation.paper(papers_ledger)


def entries(paper, begins: str) -> list[Entry]:
    return [each for each in paper.entries if each.question.startswith(begins)]


def test_each_answer_goes_to_the_recipients_of_the_form(form):
    questions = [each.question for each in form.entries]
    for begins, recipients in RECIPIENTS.items():
        found = entries(form, begins)[0]
        assert (set(found.readers) or ALL) == recipients, begins
    places = [questions.index(entries(form, begins)[0].question) for begins in RECIPIENTS]
    assert sorted(places) == places, "the order is that of the form"


@pytest.mark.parametrize("reader", ["NCA", "DP"])
def test_no_form_of_a_view_holds_the_exact_figures_that_are_for_the_ai_office(papers_ledger, form, reader):
    view = render.for_reader(form, reader)
    kept = json.loads(render.as_json(view))
    exact = {documentation.meter.two_figures(documentation.meter.training_flop(papers_ledger)).value,
             papers_ledger.parameters}  # fmt: skip
    points = [each.cell.value for each in form.entries if each.question.startswith("Number of data points: tokens")
              and each.readers == ("AIO",)]  # fmt: skip
    values = [part["value"] for section in kept["sections"] for part in section["body"] if part["kind"] == "answer"]
    assert points and not (exact | set(points)) & {value for value in values if isinstance(value, int | str)}


def test_data_points_for_national_authorities_are_a_power_of_ten_in_every_form(form):
    (cell,) = (each.cell for each in entries(form, "Number of data points: tokens of documents, order"))
    (exact,) = (each.cell.value for each in entries(form, "Number of data points: tokens of documents")
                if each.readers == ("AIO",))  # fmt: skip
    assert cell.value == f"10^{len(str(exact)) - 1}" and cell.shown() == f"order of magnitude {cell.value}"


@pytest.mark.parametrize(
    ("licence", "category"),
    [
        ("Apache-2.0", "free and open-source"), ("CC-BY-SA-4.0", "free and open-source"),
        ("CC-BY-NC-SA-4.0", "restricted: share-alike, non-commercial"), ("LicenseRef-own", NOT_RECORDED),
        ("", NOT_RECORDED),
    ],
)  # fmt: skip
def test_the_category_of_the_licence_follows_from_the_licence(papers_ledger, licence, category):
    paper = documentation.paper(dataclasses.replace(papers_ledger, licence=licence))
    assert toy_papers.entry(paper, "Category of the licence").cell.shown().startswith(category)


def test_how_energy_and_inference_are_known_is_an_answer_of_its_own(form):
    energy, inference = (
        toy_papers.entry(form, f"Measurement method of {what}").cell for what in ("the energy", "inference")
    )
    assert energy.is_recorded == toy_papers.entry(form, "Energy used for training").cell.is_recorded
    assert inference.is_recorded == toy_papers.entry(form, "Benchmarked amount").cell.is_recorded


# --------------------------------------------------------------------------- comments of the summary


def comments(paper):
    return {each.number: each.cell for each in paper.entries if each.question == "Additional comments"}


def test_every_section_that_the_template_comments_on_ends_in_its_comment_or_not_applicable(papers_ledger):
    said = dataclasses.replace(papers_ledger, answers={"summary": {"comments": {"2.1": "As downloaded."}}})
    found = comments(summary.paper(said))
    assert list(found) == ["1.3", "2.1", "2.2.2", "2.3", "2.4", "2.5", "2.6", "3.1"]
    assert found["2.1"].value == "As downloaded." and found["2.1"].source == "answers.toml summary.comments.2.1"
    assert {cell.value for number, cell in found.items() if number != "2.1"} == {NOT_APPLICABLE}
    assert lint.contradictions(said) == []
    for section in summary.paper(said).sections:
        if section.number in found:
            assert section.body[-1].question == "Additional comments"


@pytest.mark.parametrize(
    ("said", "words"),
    [({"2.7": "x"}, "names section '2.7', but they belong to 1.3, 2.1"), ({"2.1": 5}, "is 5, but a comment is text")],
)
def test_a_comment_on_no_section_or_of_no_text_is_refused(papers_ledger, said, words):
    found = lint.contradictions(dataclasses.replace(papers_ledger, answers={"summary": {"comments": said}}))
    assert len(found) == 1 and words in found[0]


# --------------------------------------------------------------------------- links


def test_each_figure_leads_to_the_record_that_the_release_carries(released):
    followed = Counter[str]()
    for path in (released.path / "papers").glob("*.html"):
        for link in parser.document_fromstring(path.read_bytes()).xpath("//*[contains(@class, 'source')]//a"):
            record = path.parent / unquote(link.get("href"))
            assert record.resolve().parent in (released.path / "provenance", released.path)
            statement = json.loads(record.read_bytes())
            assert link.text_content() in {each["name"] for each in statement["subject"]}, (path.name, link.get("href"))
            followed[path.stem] += 1
            followed[link.text_content()] += 1
    assert followed[released.ref] > 5
    assert followed.keys() >= {"public-summary", "compute", "copyright-policy"} and followed.total() > 80


def test_without_a_release_around_it_a_page_links_no_record(form):
    assert not parser.document_fromstring(render.html(form)).xpath("//*[contains(@class, 'source')]//a")


def test_records_of_two_names_that_look_alike_have_names_of_their_own(papers_ledger):
    one, two = papers_ledger.ancestors[:2]
    alike = [dataclasses.replace(one, name="a-1", version="2"), dataclasses.replace(two, kind=one.kind, name="a",
                                                                                   version="1-2")]  # fmt: skip
    names = record_names(alike)
    assert len(set(names.values())) == 2 and names[alike[1].ref].endswith(alike[1].digest[:12])
    assert pack.PROVENANCE.endswith("provenance/")
