"""One author leaves a real corpus: his words are in no later text and no later token, and the papers can say so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from hanse.cli import main
from hanse.store.stage import Store
from hanse.trace import withdrawal
from hanse.trace.passages import WINDOW, Filter, Folding

pytestmark = pytest.mark.slow

CORPUS = Path(__file__).resolve().parents[2].parent / "shared" / "corpus"
AUTHOR = "Fontane, Theodor"
RECIPE = """
name = "novels"
languages = ["de", "ga"]
[[source]]
name = "corpus"
kind = "jsonl"
path = "{corpus}/eltec.[dg][ea].jsonl.gz"
licence_basis = "stated"
obtained = "public-dataset"
[tokenizer]
vocab_size = 4096
sample_bytes = 3_000_000
[model]
size = "1M"
[pretrain]
budget_tokens = 100000
sequence_length = 128
batch_tokens = 2048
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the novels were made into shards, one author withdrawn, and the same made again."""
    if not CORPUS.is_dir():
        pytest.skip(f"{CORPUS}: the corpus of real text is not here")
    folder = tmp_path_factory.mktemp("novels")
    (folder / "novels.toml").write_text(RECIPE.format(corpus=CORPUS))
    data = ["data", str(folder / "novels.toml"), "--threads", "1", "--store", str(folder / "store")]
    assert main(data) == 0
    assert main(withdraw(folder, "--author", AUTHOR, "--reason", "opt-out", "--requester", "author", "--yes")) == 0
    assert main(data) == 2, "the old dataset must not be used in silence"
    assert main([*data, "--set", "version=2"]) == 0
    return folder


def withdraw(folder: Path, *arguments: str) -> list[str]:
    return ["withdraw", "--store", str(folder / "store"), *arguments]


def rows(folder: Path, version: int) -> list[dict[str, Any]]:
    table = folder / f"store/dataset/novels/{version}/documents.parquet"
    found: list[dict[str, Any]] = pq.read_table(table).to_pylist()
    return found


def his(folder: Path) -> dict[str, str]:
    """The texts of the author that the first dataset kept, by id."""
    ids = {row["id"] for row in rows(folder, 1) if AUTHOR in (row["author"] or "") and row["split"]}
    return {name: text for name, text in texts(folder, 1).items() if name in ids}


def texts(folder: Path, version: int) -> dict[str, str]:
    paths = (folder / f"store/dataset/novels/{version}/text").glob("*.parquet")
    return {row["id"]: row["text"] for path in paths for row in pq.read_table(path).to_pylist()}


def passages(text: str) -> list[str]:
    """Passages of a text, at equal distances, long enough to be nobody else's."""
    return [text[start : start + 80] for start in range(0, len(text) - 80, max(80, len(text) // 20))]


def test_he_was_there_and_every_document_of_his_is_named(place: Path) -> None:
    (made,) = withdrawal.read(place / "store")
    assert len(his(place)) > 10
    assert set(his(place)) <= set(made.documents)


def test_no_text_of_his_is_left_by_the_index(place: Path) -> None:
    pytest.importorskip("pydivsufsort")
    from hanse.trace.index import indexes

    store = Store.open(place / "store")
    (before,) = indexes(store, store.find("dataset/novels/1"), build_missing=True)
    (after,) = indexes(store, store.find("dataset/novels/2"), build_missing=True)
    sought = [passage.encode() for text in his(place).values() for passage in passages(text)]
    assert len(sought) > 200
    assert all(before.count(each) >= 1 for each in sought), "the index finds what is there"
    assert [each for each in sought if after.count(each)] == []


def test_no_token_of_his_is_left_in_the_shards(place: Path) -> None:
    ids = set(his(place))
    for version, is_there in ((1, True), (2, False)):
        shards = place / f"store/shards/novels/{version}"
        indexed = set(pq.read_table(shards / "index.parquet", columns=["id"])["id"].to_pylist())
        assert bool(ids & indexed) is is_there
        tokenizer = Tokenizer.from_file(str(place / f"store/tokenizer/novels/{version}/tokenizer.json"))
        decoded = "".join(
            tokenizer.decode(np.fromfile(path, np.dtype(kind["dtype"])).tolist())
            for kind in [json.loads((shards / "shards.json").read_text())]
            for path in sorted(shards.glob("*/de.bin"))
        )
        found = sum(passage in decoded for text in his(place).values() for passage in passages(text))
        assert (found > 200) is is_there and (found > 0) is is_there


def test_counts_name_the_change_and_nobody_else_left(place: Path) -> None:
    dropped = {
        row["reason"]: row["documents"]
        for row in json.loads((place / "store/dataset/novels/2/counts.json").read_text())["dropped"]
    }
    (made,) = withdrawal.read(place / "store")
    after = {row["id"]: row for row in rows(place, 2)}
    gone = {name for name, row in after.items() if "withdrawn" in row["drop_reason"]}
    assert dropped["withdrawn"] == len(gone) == len(made.documents)
    before = {row["id"] for row in rows(place, 1) if row["split"]}
    assert {name for name, row in after.items() if row["split"]} >= before - gone


def test_the_filter_stops_his_sentences_and_not_his_neighbours(place: Path) -> None:
    withdrawn = Filter.open(place / "store/withdrawals/passages.bin")
    mine = [passage for text in his(place).values() for passage in passages(text)]
    stopped = sum(withdrawn.holds(each) for each in mine)
    assert stopped == sum(len(each.translate(Folding())) >= WINDOW for each in mine) > 200
    others = [passage for name, text in texts(place, 2).items() for passage in passages(text)]
    assert len(others) > 1000
    assert sum(withdrawn.holds(each) for each in others) == 0
