"""What came out of a model is looked for in all of the text, by the index of `hanse trace`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from by_heart import CONFIG, FakeWork, Settings, artifact, document, learnt, rows_of, save_model, write_shards
from tokenizers import Tokenizer

from hanse.data.schema import DOCUMENTS, TEXT
from hanse.evaluate import elsewhere
from hanse.evaluate.memorisation import memorise
from hanse.model.transformer import Transformer
from hanse.runtime import Runtime
from hanse.store.stage import Artifact, Store, Work
from hanse.trace.index import build, find_index, place_of

SONGS = [document(f"song {number}") for number in range(3)]
QUOTING = document("quoting", "news", text=SONGS[0]["text"])
UNSEEN = document("unseen", split="validation")
WORLD = [*SONGS, QUOTING, UNSEEN]


@pytest.fixture(scope="module")
def singer(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows the songs by heart."""
    model = learnt(rows_of(tokenizer, [song["text"] for song in SONGS]), steps=240, window=36)
    return save_model(tmp_path_factory.mktemp("singer") / "model", model, tokenizer)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


@pytest.fixture
def dataset(store: Store) -> Artifact:
    def make(work: Work) -> None:
        (work.folder / "text").mkdir()
        rows = [dict.fromkeys(DOCUMENTS.names) | row | {"bytes": len(row["text"])} for row in WORLD]
        pq.write_table(pa.Table.from_pylist(rows, DOCUMENTS), work.folder / "documents.parquet")
        for split in ("train", "validation"):
            own = pa.Table.from_pylist([row for row in rows if row["split"] == split], TEXT)
            pq.write_table(own, work.folder / "text" / f"{split}-00000.parquet")

    return store.build("dataset", "toy", "1", definition={}, inputs={}, make=make).artifact


@pytest.fixture
def run(store: Store, dataset: Artifact, tokenizer: Tokenizer, tmp_path: Path):
    """Measure a model; what the stage noted, and its attempts."""
    write_shards(tmp_path / "shards", WORLD, tokenizer)

    def measure(model: Path, name: str = "measured") -> tuple[dict[str, Any], list[dict[str, Any]]]:
        work = FakeWork(tmp_path / name)
        memorise(
            work, model_folder=model, dataset=dataset, shards=artifact("shards", tmp_path / "shards"),  # type: ignore[arg-type]
            conversations=None, settings=Settings(samples=0),  # type: ignore[arg-type]
            runtime=Runtime(device=torch.device("cpu")), seed=3, store=store,
        )  # fmt: skip
        return work.noted, [json.loads(line) for line in (work.folder / "extractions.jsonl").read_text().splitlines()]

    return measure


def test_a_passage_that_another_document_holds_too_is_said_to_stand_there_twice(singer: Path, run) -> None:
    noted, attempts = run(singer)
    times = {row["id"]: row["stands_in_text"] for row in attempts if row["extracted"]}
    assert times == {SONGS[0]["id"]: 2, QUOTING["id"]: 2, SONGS[1]["id"]: 1, SONGS[2]["id"]: 1}
    assert {row["stands_in_text"] for row in attempts if not row["extracted"]} == {None}
    assert (noted["extracted_elsewhere"], noted["control_elsewhere"]) == (2, 0)


def test_where_nothing_came_out_no_index_is_made(
    run, store: Store, dataset: Artifact, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    newborn = Transformer(CONFIG).init_weights(torch.Generator().manual_seed(9)).eval()
    noted, _ = run(save_model(tmp_path / "newborn", newborn, tokenizer))
    assert (noted["extracted_elsewhere"], noted["control_elsewhere"]) == (0, 0)
    assert not place_of(store, dataset).exists()


def test_of_a_large_dataset_an_index_is_used_and_none_is_made(
    singer: Path, run, store: Store, dataset: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elsewhere, "INDEXED_AT_ONCE", 100)
    noted, attempts = run(singer)
    assert "extracted_elsewhere" not in noted
    assert {row["stands_in_text"] for row in attempts} == {None}
    assert find_index(store, dataset) is None
    build(dataset, store)
    assert run(singer, "again")[0]["extracted_elsewhere"] == 2
