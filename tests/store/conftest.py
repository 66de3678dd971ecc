"""A small store with an ancestry: dataset -> tokenizer -> shards -> model."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hanse.store.stage import Artifact, Store, Work

DOCUMENTS = [
    {"id": "1", "source": "letters", "licence": "CC-BY-4.0", "author": "Ana", "bytes": 10, "drop_reason": []},
    {"id": "2", "source": "letters", "licence": "CC-BY-4.0", "author": "Ana", "bytes": 20, "drop_reason": []},
    {"id": "3", "source": "letters", "licence": "CC-BY-4.0", "author": None, "bytes": 5, "drop_reason": []},
    {"id": "4", "source": "laws", "licence": "CC0-1.0", "author": None, "bytes": 100, "drop_reason": []},
    {
        "id": "5",
        "source": "laws",
        "licence": "LicenseRef-closed",
        "author": None,
        "bytes": 9,
        "drop_reason": ["licence"],
    },
]


def write_documents(path: Path, documents: list[dict[str, object]] = DOCUMENTS) -> None:
    schema = pa.schema(
        [(name, pa.string()) for name in ("id", "source", "licence", "author")]
        + [("bytes", pa.int64()), ("drop_reason", pa.list_(pa.string()))]
    )
    pq.write_table(pa.Table.from_pylist(documents, schema), path, row_group_size=2)


@pytest.fixture
def store(tmp_path) -> Store:
    store = Store.open(tmp_path / "store")

    def step(ref: str, **inputs: Artifact) -> Artifact:
        def make(work: Work) -> None:
            (work.folder / "content").write_text(ref)
            (work.run / "metrics.jsonl").write_text("{}\n")
            work.note(tokens=1_000_000)
            if ref.startswith("dataset"):
                write_documents(work.folder / "documents.parquet")

        return store.build(*ref.split("/"), definition={"ref": ref}, inputs=inputs, make=make).artifact

    dataset = step("dataset/a/1")
    tokenizer = step("tokenizer/a/1", text=dataset)
    shards = step("shards/a/1", text=dataset, tokenizer=tokenizer)
    step("model/a/1", shards=shards, tokenizer=tokenizer)
    return store
