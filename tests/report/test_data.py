"""The data report says what the artifacts say, no more, and says it twice in the same way."""

import json
import random
from collections import Counter
from dataclasses import replace

import pyarrow as pa
import pytest
import toy_dataset as toy
from test_page import Page

from hanse.errors import InputError
from hanse.report import data, figures, samples, tally
from hanse.report.page import Quotes, Table, render


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> figures.Folders:
    return toy.write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def scan(run) -> figures.Scan:
    return figures.scan(run.dataset)


@pytest.fixture(scope="module")
def chapter(run):
    return data.chapter(run)


def table(chapter, caption: str) -> list[tuple]:
    """The rows of the one table with this caption."""
    blocks = [block for section in chapter.sections for block in section.blocks]
    (found,) = [block for block in blocks if isinstance(block, Table) and block.caption == caption]
    return list(found.rows)


def quotes(chapter, caption: str) -> Quotes:
    blocks = [block for section in chapter.sections for block in section.blocks]
    (found,) = [block for block in blocks if isinstance(block, Quotes) and block.caption == caption]
    return found


def test_page_is_well_formed_and_harmless_with_a_hostile_corpus(chapter):
    text = render("Data report: toy", [chapter])
    page = Page(text)
    shown = " ".join(page.words)
    assert "<script" in shown and "evil.example" in shown  # as text, for a person has to see it
    assert "<script" not in text and "\x1b" not in text


def test_equal_artifacts_give_equal_bytes(run, tmp_path):
    other = toy.write_run(tmp_path)
    pages = []
    for number, folders in enumerate((run, other, other)):
        path = tmp_path / f"{number}.html"
        data.write(path, "toy 1", folders)
        pages.append(path.read_bytes())
    assert pages[0] == pages[1] == pages[2]


def test_languages_add_up_to_all_that_was_read(run):
    rows = {row.code: row for row in figures.languages(run)}
    assert {code: (row.read, row.kept, row.dropped) for code, row in rows.items()} == {
        "de": (8, 3, 5), "mt": (1, 1, 0), "none": (1, 0, 1),
    }  # fmt: skip
    assert rows["de"].reasons[0] == ("near-duplicate", 2)
    assert (rows["de"].tokens, rows["de"].bytes_per_token, rows["de"].premium) == (75, 4.0, 1.12)
    assert (rows["none"].tokens, rows["none"].premium) == (0, None)


def test_reservations_are_counted_by_what_was_found_and_what_came_of_it(scan):
    assert scan.reservations == {
        ("", "", "none"): 7,
        ("", "", "unknown"): 1,
        ("robots.txt", "reserved", "none"): 1,
        ("robots.txt", "reserved", "reserved"): 1,
        ("tdmrep-header", "allowed", "none"): 1,
    }


def test_personal_data_is_counted_by_language_and_kind_of_what_is_kept(scan):
    assert scan.personal == [
        {"language": "de", "kind": "email", "documents": 1, "findings": 2, "checked": 0},
        {"language": "de", "kind": "iban", "documents": 1, "findings": 1, "checked": 1},
        {"language": "mt", "kind": "email", "documents": 1, "findings": 1, "checked": 0},
    ]


def test_largest_cluster_comes_first_with_the_document_that_stayed(scan):
    assert [(c["cluster"], c["exact"], c["near"]) for c in scan.clusters] == [
        (toy.name(1), 1, 1), (toy.name(2), 0, 1),
    ]  # fmt: skip
    assert scan.clusters[0]["title"] == toy.HOSTILE


def test_domains_count_what_was_read_and_what_was_kept(scan):
    assert scan.domains_found == 2
    assert scan.domains[0] == {"domain": "example.org", "read": 2, "kept": 1, "bytes": 100}
    assert scan.domains[1] | {"domain": ""} == {"domain": "", "read": 1, "kept": 1, "bytes": 100}


def test_evaluation_items_are_told_with_their_strongest_hit(scan):
    assert scan.items == [{"item": "quiz/1", "documents": 2, "kept": 1, "containment": 0.75, "longest": 20}]


def test_composition_counts_documents_bytes_and_tokens(chapter):
    assert table(chapter, "Documents by source") == [("web", 9, 3, 300, 75), ("books", 1, 1, 50, 20)]
    assert table(chapter, "Documents by licence, basis") == [("CC0-1.0, stated", 10, 4, 350)]
    assert table(chapter, "Documents by jurisdiction") == [("EU", 9, 3, 300), ("not recorded", 1, 1, 50)]
    assert table(chapter, "Tokens by licence") == [("CC0-1.0", 95)]


def test_every_reason_is_told_by_language(chapter):
    rows = {row[0]: row[1:] for row in table(chapter, "Documents by reason and language")}
    assert rows["language-unknown"] == (0, 1)
    assert rows["near-duplicate"] == (2, 0)
    assert set(rows) == {reason for row in toy.ROWS for reason in row["drop_reason"]}


def test_quarantine_shows_the_first_of_each_reason_without_personal_data(chapter):
    assert table(chapter, "Records by reason") == [("text-missing", 5, "web 5"), ("not-json", 1, "web 1")]
    shown = quotes(chapter, "The first ones of each reason").quotes
    assert [quote.about for quote in shown] == [
        "not-json: web, a.jsonl, line 11", *(f"text-missing: web, b.jsonl, line {n}" for n in range(3)),
    ]  # fmt: skip
    assert shown[0].text == "Expecting <b> <email>"


def test_samples_are_short_and_hold_no_personal_data(run, chapter, tmp_path):
    shown = quotes(chapter, "Kept").quotes
    assert len(shown) == 4  # three of German at most, one of Maltese
    for quote in shown:
        assert len(quote.text) <= samples.CHARACTERS and toy.MAIL not in quote.text
    assert any("<email>" in quote.text for quote in shown)


def test_which_documents_are_sampled_does_not_depend_on_their_order(tmp_path):
    rows = [toy.document(number) for number in range(200)]
    chosen = []
    for seed in (1, 2):
        random.Random(seed).shuffle(rows)
        folder = toy.write_dataset(tmp_path / str(seed), rows)
        chosen.append([row["id"] for row in figures.scan(folder).samples["de"]])
    assert chosen[0] == chosen[1] == sorted(row["id"] for row in rows)[: figures.SAMPLES]


def test_samples_of_dropped_text_are_shown_where_the_dataset_keeps_some(run, tmp_path):
    assert samples.dropped(run.dataset) is None
    rows = [
        {"id": toy.name(n), "language": None, "source": "web", "reason": "too-short", "text": f"kurz {toy.MAIL}"}
        for n in range(5)
    ]
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shown = samples.dropped(tmp_path)
    assert shown is not None and [quote.text for quote in shown] == ["kurz <email>"] * samples.EXAMPLES
    assert all(quote.about.startswith("none, too-short, web, ") for quote in shown)


def test_report_without_tokenizer_and_shards_says_not_recorded(run):
    chapter = data.chapter(replace(run, tokenizer=None, shards=None))
    assert dict(chapter.facts)["tokens"] == "not recorded"
    assert table(chapter, "Tokens by language")[0][1:] == (None, None, None, None, None)
    Page(render("T", [chapter]))


def test_dataset_without_anything_special_makes_a_page(tmp_path):
    folder = toy.write_dataset(tmp_path / "plain", [toy.document(1)])
    chapter = data.chapter(figures.Folders(folder))
    assert dict(chapter.facts)["documents read"] == "1"
    assert "documents read" in " ".join(Page(render("T", [chapter])).words)


def test_sums_of_an_older_dataset_are_refused_in_one_sentence(tmp_path):
    (tmp_path / "counts.json").write_text('{"documents": 1}')
    with pytest.raises(InputError, match="lacks sums that a report needs"):
        data.chapter(figures.Folders(tmp_path))
    with pytest.raises(InputError, match="cannot be read"):
        data.chapter(figures.Folders(tmp_path / "none"))


def test_tally_over_many_pieces_equals_one_count(monkeypatch):
    monkeypatch.setattr(tally, "HELD_ROWS", 1)
    generator = random.Random(7)
    rows = [(generator.choice("abcdef") * generator.randint(1, 9), generator.randint(0, 9)) for _ in range(2000)]
    held = tally.Tally(("key",), {"n": "sum", "most": "max"})
    for start in range(0, len(rows), 37):
        piece = rows[start : start + 37]
        values = [value for _, value in piece]
        held.add(pa.table({"key": [key for key, _ in piece], "n": values, "most": values}))
    expected: Counter[str] = Counter()
    for key, value in rows:
        expected[key] += value
    assert {row["key"]: row["n"] for row in held.rows(("key",))} == expected
    assert len(held) == len(expected)
    largest = held.rows(("-n", "key"), 3)
    assert [row["key"] for row in largest] == sorted(expected, key=lambda key: (-expected[key], key))[:3]
    assert all(row["most"] == max(value for key, value in rows if key == row["key"]) for row in largest)
