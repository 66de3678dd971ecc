"""Small stores with text in them: what a trace looks through."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hanse.data.schema import DOCUMENTS, TEXT
from hanse.store.stage import Artifact, Store, Work
from hanse.trace.suffix_array import SEPARATOR, write_shard

FOX = "Der schnelle braune Fuchs springt über den faulen Hund, und keiner weiß warum."
SHIP = "Ένα καράβι φεύγει από το λιμάνι του Πειραιά κάθε πρωί στις οκτώ ακριβώς."
HELD_OUT = "This sentence was kept back to measure the model and nothing was trained on it."
QUESTION, ANSWER = "Which city is the capital of the Netherlands, by its constitution?", "It is Amsterdam, since 1814."


def document(number: int, text: str, split: str | None = "train", **fields: Any) -> dict[str, Any]:
    """A row of the document table with its text; one without a split was dropped."""
    row = dict.fromkeys(DOCUMENTS.names) | {
        "id": hashlib.sha256(str(number).encode()).hexdigest()[:32], "text": text, "language": "de", "source": "web",
        "collection": "letters", "file": "a.jsonl", "line": number, "licence": "CC-BY-4.0", "bytes": len(text.encode()),
        "evidence": [], "pii": [], "contamination": [], "flags": [], "split": split,
        "drop_reason": [] if split else ["too-short"],
    }  # fmt: skip
    return row | fields


DOCUMENTS_OF_TOY = [
    document(1, f"Vorwort. {FOX} Ende.", author="Ana Kovač", title="Der Fuchs", url="https://example.org/fuchs"),
    document(2, "Das hier wurde verworfen, und niemand soll es jemals wiederfinden können.", None),
    document(3, HELD_OUT, "validation", language="en"),
    document(4, f"{SHIP} {SHIP}", language="el", rights_holder="Εκδόσεις Λιμάνι"),
    document(5, f"Noch einmal: {FOX}", licence="CC0-1.0"),
]
CONVERSATION = {
    "id": "quiz/1", "language": "en", "licence": "MIT", "source": "quiz",
    "messages": [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}],
}  # fmt: skip


def write_dataset(folder: Path, documents: Sequence[dict[str, Any]]) -> None:
    """What curation leaves: text by split, in several row groups, and the table of all documents."""
    (folder / "text").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(list(documents), DOCUMENTS), folder / "documents.parquet")
    for split in ("train", "validation"):
        rows = [row for row in documents if row["split"] == split]
        if rows:
            path = folder / "text" / f"{split}-00000.parquet"
            pq.write_table(pa.Table.from_pylist(rows, TEXT), path, row_group_size=2)


def add_dataset(
    store: Store, documents: Sequence[dict[str, Any]] = DOCUMENTS_OF_TOY, ref: str = "dataset/toy/1"
) -> Artifact:
    """A dataset artifact."""
    told = hashlib.sha256(json.dumps([row["text"] for row in documents]).encode()).hexdigest()

    def make(work: Work) -> None:
        write_dataset(work.folder, documents)

    return store.build(*ref.split("/"), definition={"text": told}, inputs={}, make=make).artifact


def add_conversations(store: Store, rows: Sequence[dict[str, Any]] = (CONVERSATION,)) -> Artifact:
    """A conversations artifact."""

    def make(work: Work) -> None:
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (work.folder / "train.jsonl").write_text(lines, encoding="utf-8")
        work.note(sources=[{"name": "quiz", "rights_holder": "Quiz Club"}])

    return store.build("conversations", "toy", "1", definition={"rows": len(rows)}, inputs={}, make=make).artifact


def add_made(store: Store, ref: str, **inputs: Artifact) -> Artifact:
    """Anything that is made from something."""

    def make(work: Work) -> None:
        (work.folder / "content").write_text(ref)

    return store.build(*ref.split("/"), definition={"ref": ref}, inputs=inputs, make=make).artifact


def full_store(root: Path) -> Store:
    """Dataset and conversations, a model from both, and its release."""
    store = Store.open(root)
    model = add_made(store, "model/toy/1", text=add_dataset(store), talk=add_conversations(store))
    add_made(store, "release/toy/1", model=model)
    return store


def write_texts(folder: Path, texts: Sequence[bytes], number: int = 0) -> bytes:
    """One shard of these texts; returns what `tokenized` holds."""
    content, offsets = bytearray(), []
    for text in texts:
        offsets.append(len(content))
        content += SEPARATOR + text
    write_shard(folder, number, content, offsets)
    return bytes(content)
