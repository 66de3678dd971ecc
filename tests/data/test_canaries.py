"""Canaries: always the same for a seed, in the training split only, as often as the recipe says, and marked."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from library import new_work, record

from hanse.data import canaries
from hanse.data.curate import curate
from hanse.errors import InputError
from hanse.recipe import Curate, Source

MakeSource = Callable[..., Source]
FORM = re.compile(r"Canary:( [a-z]{5}){5}")


def place(folder: Path, source: Source, *, seed: int = 7, **settings: Any) -> Path:
    folder.mkdir(exist_ok=True)
    work = new_work(folder)
    chosen = Curate(
        **{"identify_language": False, "quality": False, "pii": "keep", "validation_share": 0.3, **settings}
    )
    curate(work, [source], chosen, languages=("de", "en"), seed=seed)
    (folder / "facts.json").write_text(json.dumps(work.facts))
    return work.folder


@pytest.fixture
def library(source: MakeSource) -> Source:
    return source([record(language, n) for language in ("de", "en") for n in range(30)])


def test_canaries_are_the_same_for_a_seed_and_differ_from_all_others() -> None:
    made = canaries.make(50, (1, 4, 16), seed=3)
    assert made == canaries.make(50, (1, 4, 16), seed=3)
    assert made[:10] == canaries.make(10, (1, 4, 16), seed=3)
    others = canaries.candidates(500, seed=3)
    texts = [each.text for each in made] + [each.text for each in canaries.make(50, (1,), seed=4)] + others
    assert len(set(texts)) == 600
    assert all(FORM.fullmatch(text) for text in texts)
    assert Counter(each.repeats for each in made) == {1: 17, 4: 17, 16: 16}
    letters = Counter("".join(texts).replace("Canary:", "").replace(" ", ""))
    assert len(letters) == 26 and min(letters.values()) > 0.7 * max(letters.values())


def test_each_canary_is_in_the_training_text_as_often_as_asked_for_and_nowhere_else(
    library: Source, tmp_path: Path
) -> None:
    # Policies that would drop them do not touch them.
    strict = {"licences": ("CC-BY-4.0",), "min_characters": 100}
    folder = place(tmp_path / "with", library, canaries=3, canary_repeats=(1, 4, 16), **strict)
    made = canaries.read(folder)
    assert [(each.number, each.repeats) for each in made] == [(1, 1), (2, 4), (3, 16)]
    held = {
        split: [row for path in (folder / "text").glob(f"{split}-*.parquet") for row in pq.read_table(path).to_pylist()]
        for split in ("train", "validation")
    }
    for each in made:
        copies = [row["text"] for row in held["train"] if row["text"].startswith(each.text)]
        assert len(copies) == len(set(copies)) == each.repeats
    assert held["validation"] and not any("Canary" in row["text"] for row in held["validation"])


def test_canary_documents_are_marked_and_counted(library: Source, tmp_path: Path) -> None:
    folder = place(tmp_path / "with", library, canaries=2, canary_repeats=(2, 3))
    rows = pq.read_table(folder / "documents.parquet").to_pylist()
    own = [row for row in rows if row["source"] == "canary"]
    assert len(own) == 5 and len({row["id"] for row in own}) == 5
    for row in own:
        about = {
            "licence": "CC0-1.0", "licence_basis": "generated", "language": "de", "flags": ["canary"], "split": "train",
            "drop_reason": [], "reservation": "none", "collection": "canary", "file": "canaries.jsonl",
        }  # fmt: skip
        assert row | about == row
        assert row["cluster"] == row["id"]
    assert [json.loads(row["extra"])["canary"] for row in own] == [1, 1, 2, 2, 2]
    assert len({row["ordinal"] for row in rows}) == len(rows)
    counts = json.loads((folder / "counts.json").read_text())
    (group,) = [each for each in counts["groups"] if each["source"] == "canary"]
    assert (group["documents"], group["split"]) == (5, "train")
    facts = json.loads((tmp_path / "with" / "facts.json").read_text())
    assert (facts["canaries"], facts["canary_documents"]) == (2, 5)


def test_other_documents_are_what_they_are_without_canaries(library: Source, tmp_path: Path) -> None:
    plain, marked = (place(tmp_path / str(count), library, canaries=count) for count in (0, 2))
    before, after = (pq.read_table(folder / "documents.parquet").to_pylist() for folder in (plain, marked))
    assert [row for row in after if row["source"] != "canary"] == before
    assert not (plain / "canaries.jsonl").exists()
    assert canaries.read(plain) == ()
    assert "canaries" not in json.loads((tmp_path / "0" / "facts.json").read_text())


def test_a_dataset_with_canaries_is_the_same_every_time(library: Source, tmp_path: Path) -> None:
    first, second = (place(tmp_path / name, library, canaries=3) for name in ("first", "second"))
    for name in ("documents.parquet", "canaries.jsonl", "counts.json", "text/train-00000.parquet"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    other = place(tmp_path / "other", library, canaries=3, seed=8)
    assert canaries.read(other) != canaries.read(first)


def test_a_source_of_the_canaries_name_is_refused(source: MakeSource, tmp_path: Path) -> None:
    named = source([record("de", n) for n in range(30)] + [record("en", n) for n in range(30)], name="canary")
    with pytest.raises(InputError, match="source 'canary': this name belongs to the canaries"):
        place(tmp_path / "with", named, canaries=1)
    place(tmp_path / "without", named, canaries=0)
