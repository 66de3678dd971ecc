"""The dataset card: front matter that the Hub reads, figures that the table has, and text that cannot break out."""

import dataclasses
import subprocess
import sys

import pytest
from paper_store import HOSTILE, ROWS

from hanse.release.papers.dataset_card import dataset_card
from hanse.release.papers.dataset_facts import Part
from hanse.release.papers.machine import write


@pytest.fixture(scope="module")
def card(hostile_ledger, hostile_facts):
    return dataset_card(hostile_ledger, hostile_facts["dataset"])


def test_the_front_matter_is_valid_for_the_hub(hostile_ledger, hostile_facts, card):
    hub = pytest.importorskip("huggingface_hub")
    data = hub.DatasetCard(card).data.to_dict()
    assert data["license"] == "other" and "CC-BY-SA-4.0 OR MIT" in data["license_name"]
    assert data["language"] == ["nb", "da"] and data["size_categories"] == ["n<1K"]
    assert data["configs"][0]["data_files"] == [
        {"split": "train", "path": "text/train-*.parquet"},
        {"split": "validation", "path": "text/validation-*.parquet"},
    ]
    talk = hub.DatasetCard(dataset_card(hostile_ledger, hostile_facts["conversations"])).data.to_dict()
    assert talk["license"] == ["mit"] and [each["split"] for each in talk["configs"][0]["data_files"]] == [
        "train",
        "test",
    ]


def test_a_licence_or_language_called_no_stays_text(hostile_ledger, hostile_facts):
    hub = pytest.importorskip("huggingface_hub")
    odd = dataclasses.replace(
        hostile_facts["dataset"],
        licences=(Part('x"\nlicense: mit', 1, 1),),
        languages=(Part("no", 1, 1), Part("---\na: b", 1, 1)),
    )
    data = hub.DatasetCard(dataset_card(hostile_ledger, odd)).data.to_dict()
    assert data["license"] == "other" and data["license_name"] == 'x"\nlicense: mit'
    assert data["language"] == ["no", "---\na: b"] and "a" not in data


@pytest.mark.parametrize(
    "line",
    ["| [CC0-1.0](https://spdx.org/licenses/CC0-1.0.html) | - | 2 | 550 | 55.0 % | 110 |",
     "| [CC-BY-SA-4.0](https://spdx.org/licenses/CC-BY-SA-4.0.html) | share-alike | 1 | 300 | 30.0 % | 60 |",
     "| Danish (da) | 2 | 400 | 40.0 % | 80 |",
     "| collection of nb | 4 | 600 | 60.0 % | not recorded |",
     "| train | 5 | 950 | 95.0 % | 190 |",
     "| near-duplicate | 1 |",
     "Left out as copies of a document that stayed: 0 exact, 1 near.",
     "8 documents seen, 6 kept",
     "masked: email 2, iban 1",
     "* Training of model/toy-base/1.",
     "* Evaluation of model/toy-chat/1, on the part held back from training.",
     "* 1 document came without a licence",
     "@misc{dataset-toy-1,",
     "This is not legal advice."],
)  # fmt: skip
def test_the_card_says_what_the_table_says(card, line):
    assert line in card, card


def test_totals_equal_those_of_the_rows(hostile_facts):
    kept = [row for row in ROWS if not row[5]]
    dataset = hostile_facts["dataset"]
    assert (dataset.kept.texts, dataset.kept.bytes) == (len(kept), sum(row[3] for row in kept))
    for parts in (dataset.languages, dataset.licences, dataset.sources, dataset.splits):
        assert sum(part.bytes or 0 for part in parts) == dataset.kept.bytes
        assert sum(part.texts for part in parts) == dataset.kept.texts
        assert sum(part.tokens or 0 for part in parts) == dataset.kept.tokens


def test_text_from_outside_cannot_break_out(card):
    assert HOSTILE not in card and "<script>" not in card.replace("\\<script\\>", "") and "\n# x" not in card
    assert "javascript:alert(1)" not in "".join(
        line for line in card.splitlines() if "](" in line or line.startswith("<")
    )
    assert "<https://laws.example/eu>" in card and "<javascript" not in card


def test_what_nobody_recorded_says_so(hostile_ledger, hostile_facts):
    bare = dataclasses.replace(
        hostile_facts["dataset"], settings={}, searched=None, personal={}, languages=(), licences=(), sources=(),
        collections=(), splits=(), declared=(), dropped={}, seen=None, kept=Part("", 0, None),
    )  # fmt: skip
    text = dataset_card(hostile_ledger, bare)
    for line in ("Licences: not recorded.", "By language: not recorded.", "Sources: not recorded.",
                 "Steps of curation: not recorded.", "Duplicates: not recorded.", "By split: not recorded.",
                 "Whether personal data was looked for in these documents is not recorded."):  # fmt: skip
        assert line in text, line


def test_all_papers_for_machines_are_written_the_same_each_time(hostile_ledger, tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        names = write(hostile_ledger, folder)
        assert names == sorted(path.name for path in folder.iterdir())
    assert names == [
        "bom.cdx.json", "conversations-toy-1.croissant.json", "conversations-toy-1.md", "dataset-toy-1.croissant.json",
        "dataset-toy-1.md", "sbom.spdx.json",
    ]  # fmt: skip
    for name in names:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    assert b"\r" not in (folders[0] / "dataset-toy-1.md").read_bytes()


def test_the_papers_load_no_torch():
    program = (
        "import sys; import hanse.release.papers.machine; sys.exit('torch' in sys.modules or 'pyarrow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
