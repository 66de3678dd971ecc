"""The whole pack: every paper in three forms, an index, and a stamp by which an old paper is known."""

import dataclasses
import json
import re

import pytest
import toy_papers
from lxml import html as parser

from hanse.release.papers import answers, lint, pack, render
from hanse.release.papers.paper import Cell, Entry, Paper, Section
from hanse.store.stage import Store

NAMES = ("public-summary", "model-documentation-form", "copyright-policy")


@pytest.fixture(scope="module")
def folder(papers_ledger, tmp_path_factory):
    place = tmp_path_factory.mktemp("papers")
    pack.write(pack.papers(papers_ledger), papers_ledger, place)
    return place


def test_each_paper_is_written_in_three_forms_and_linked_from_the_index(papers_ledger, folder):
    names = sorted(path.name for path in folder.iterdir())
    papers = [paper.name for paper in pack.papers(papers_ledger)]
    assert names == sorted([pack.INDEX, *(f"{name}{form}" for name in papers for form in pack.FORMS)])
    assert set(NAMES) < set(papers) and len(set(papers)) == len(papers)
    tree = parser.document_fromstring((folder / pack.INDEX).read_bytes())
    assert sorted(each.get("href") for each in tree.xpath("//a")) == sorted(set(names) - {pack.INDEX})


def test_written_again_every_file_has_the_same_bytes(papers_store, folder, tmp_path):
    again = toy_papers.ledger_of(Store.open(papers_store.root))
    for name in pack.write(pack.papers(again), again, tmp_path):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name


def test_no_paper_names_this_machine(papers_store, folder):
    for path in folder.iterdir():
        assert str(papers_store.root) not in path.read_text(encoding="utf-8"), path.name


def test_every_cell_of_every_paper_names_its_record_or_is_not_recorded(folder):
    for path in folder.glob("*.json"):
        for section in json.loads(path.read_text(encoding="utf-8"))["sections"]:
            for part in section["body"]:
                if part["kind"] == "answer":
                    assert part["source"] or not part["is_recorded"], (path.name, part)
                    assert part["shown"]


def test_every_paper_says_what_it_was_made_from_and_how_to_check_it(papers_ledger, folder):
    for paper in pack.papers(papers_ledger):
        text = (folder / f"{paper.name}.md").read_text(encoding="utf-8").replace("\\", "")
        for words in (f"sha256:{pack.digest(papers_ledger)}", papers_ledger.key_fingerprint, "verify.py --key"):
            assert words in text


@pytest.mark.parametrize(
    "change",
    [
        {"answers_digest": "1" * 64}, {"contact": "new@example.org"}, {"version": "3"}, {"key_fingerprint": "cd" * 32},
        {"withdrawals": ({"id": "a", "digest": "2" * 64},)}, {"ancestors": ()}, {"licence": "MIT"},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_whatever_a_paper_is_made_of_changes_its_digest(papers_ledger, change):
    assert pack.digest(dataclasses.replace(papers_ledger, **change)) != pack.digest(papers_ledger)


def test_an_ancestor_made_anew_changes_the_digest(papers_ledger):
    first, *others = papers_ledger.ancestors
    for change in ({"digest": "3" * 64}, {"record_digest": "4" * 64}):
        changed = (dataclasses.replace(first, **change), *others)
        assert pack.digest(dataclasses.replace(papers_ledger, ancestors=changed)) != pack.digest(papers_ledger)


def test_two_papers_of_one_name_are_a_mistake(papers_ledger, tmp_path):
    paper = Paper("p", "T", "", (Section("", "S", (Entry("", "Q", Cell(1, "r")),)),))
    with pytest.raises(ValueError, match="two papers are called p"):
        pack.write([paper, paper], papers_ledger, tmp_path)


def test_the_example_answers_leave_nothing_open_about_the_embedded_recipe(tmp_path):
    from test_answers import EXAMPLE

    atlas = [each for each in toy_papers.SOURCES if each["name"] == "atlas"]
    ledger = toy_papers.ledger_of(toy_papers.build(tmp_path / "s", sources=atlas), contact="")
    talk = next(each for each in ledger.ancestors if each.kind == "conversations")
    talk.record["predicate"]["buildDefinition"]["externalParameters"]["source"] = atlas
    said, digest = answers.read(EXAMPLE)
    ledger = dataclasses.replace(ledger, answers=said, answers_digest=digest)
    assert lint.contradictions(ledger) == []
    left = [entry for entry in lint.missing(pack.papers(ledger)) if entry.key]
    assert [entry.key for entry in left] == []


def test_the_index_leads_with_the_public_summary(folder):
    first = re.search(r'href="([^"]+)"', (folder / pack.INDEX).read_text(encoding="utf-8"))
    assert first is not None and first[1] == "public-summary.html"


def test_a_downstream_view_can_be_written_of_any_paper(papers_ledger):
    for paper in pack.papers(papers_ledger):
        assert render.markdown(paper, reader="DP").startswith(f"# {paper.title[:1]}")
