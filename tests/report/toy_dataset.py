"""A small data run by hand: dataset, tokenizer and shards folders with everything that a report can show."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hanse.data.rights.evidence import EVIDENCE
from hanse.data.schema import DOCUMENTS, TEXT
from hanse.report.figures import Folders

COUNTED = ("language", "source", "collection", "licence", "licence_basis", "jurisdiction", "reservation", "split")
HOSTILE = '</title><script src="https://evil.example/x.js">alert(1)</script>\x1b[2J\u202e'
MAIL = "ana.kovac@posta.hr"
ROBOTS, HEADER = "a" * 32, "b" * 32


def name(number: int) -> str:
    """A document id."""
    return hashlib.sha256(str(number).encode()).hexdigest()[:32]


def document(number: int, language: str | None = "de", **fields: Any) -> dict[str, Any]:
    """A row of the document table: kept, unless the fields say otherwise."""
    row = dict.fromkeys(DOCUMENTS.names) | {
        "id": name(number), "language": language, "source": "web", "collection": "crawl", "file": "a.jsonl",
        "line": number, "licence": "CC0-1.0", "licence_basis": "stated", "jurisdiction": "EU", "bytes": 100,
        "characters": 100, "reservation": "none", "evidence": [], "pii": [], "contamination": [], "flags": [],
        "drop_reason": [], "cluster": name(number), "split": "train", "ordinal": number,
    }  # fmt: skip
    return row | fields


def dropped(number: int, *reasons: str, **fields: Any) -> dict[str, Any]:
    return document(number, **{"split": None, "drop_reason": list(reasons), **fields})


def finding(kind: str, *, checksum: bool = False) -> dict[str, Any]:
    return {"kind": kind, "start": 0, "end": 5, "checksum": checksum}


ROWS = [
    document(1, title=HOSTILE, domain='"><img src=//evil.example>', pii=[finding("email"), finding("email")]),
    document(2, domain="example.org", evidence=[ROBOTS, HEADER], pii=[finding("iban", checksum=True)]),
    document(3, "mt", split="validation", source="books", bytes=50, jurisdiction=None, pii=[finding("email")]),
    dropped(4, "duplicate", cluster=name(1)),
    dropped(5, "near-duplicate", cluster=name(1)),
    dropped(6, "near-duplicate", cluster=name(2)),
    dropped(7, "rights-reserved", "too-short", evidence=[ROBOTS], reservation="reserved", domain="example.org"),
    dropped(8, "language-unknown", language=None, reservation="unknown"),
    dropped(9, "contamination", contamination=[{"item": "quiz/1", "containment": 0.75, "longest": 12}]),
    document(10, contamination=[{"item": "quiz/1", "containment": 0.5, "longest": 20}]),
]
FAULTS = [
    {"source": "web", "file": "a.jsonl", "line": 11, "reason": "not-json", "detail": f"Expecting <b> {MAIL}"},
    *({"source": "web", "file": "b.jsonl", "line": n, "reason": "text-missing", "detail": "'text'"} for n in range(5)),
]


def counts(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What curation writes to `counts.json`."""
    documents: Counter[tuple[Any, ...]] = Counter()
    sizes: Counter[tuple[Any, ...]] = Counter()
    reasons: Counter[tuple[Any, ...]] = Counter()
    for row in rows:
        key = tuple(row[column] for column in COUNTED)
        documents[key] += 1
        sizes[key] += row["bytes"]
        reasons.update((row["language"], row["source"], reason) for reason in row["drop_reason"])
    faults = Counter((fault["source"], fault["reason"]) for fault in FAULTS)
    kept = [row for row in rows if row["split"]]
    return {
        "documents": len(rows), "bytes": sum(row["bytes"] for row in rows),
        "kept": len(kept), "kept_bytes": sum(row["bytes"] for row in kept),
        "groups": [
            {**dict(zip(COUNTED, key, strict=True)), "documents": n, "bytes": sizes[key]}
            for key, n in documents.items()
        ],
        "dropped": [
            {"language": key[0], "source": key[1], "reason": key[2], "documents": n} for key, n in reasons.items()
        ],
        "quarantined": [{"source": key[0], "reason": key[1], "records": n} for key, n in faults.items()],
    }  # fmt: skip


def write_dataset(folder: Path, rows: list[dict[str, Any]]) -> Path:
    (folder / "text").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, DOCUMENTS), folder / "documents.parquet", row_group_size=3)
    texts = [
        {"id": row["id"], "text": f"Text {row['line']} {HOSTILE} {MAIL} {'und ' * 200}", "language": row["language"],
         "source": row["source"]}
        for row in rows
        if row["split"]
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(texts, TEXT), folder / "text" / "train-00000.parquet", row_group_size=2)
    shown = {"place": "https://example.org/robots.txt", "raw": "x", "seen": "", "file_digest": "", "parser": "robots/1"}
    evidence = [
        {"id": ROBOTS, "kind": "robots.txt", "says": "reserved", **shown},
        {"id": HEADER, "kind": "tdmrep-header", "says": "allowed", **shown},
    ]
    pq.write_table(pa.Table.from_pylist(evidence, EVIDENCE), folder / "evidence.parquet")
    (folder / "counts.json").write_text(json.dumps(counts(rows)))
    (folder / "quarantine.jsonl").write_text("".join(json.dumps(fault) + "\n" for fault in FAULTS))
    return folder


def write_run(root: Path, rows: list[dict[str, Any]] = ROWS) -> Folders:
    """All three folders."""
    dataset = write_dataset(root / "dataset", rows)
    for kind in ("tokenizer", "shards"):
        (root / kind).mkdir()
    measured = [
        {"language": "de", "bytes_per_token": 4.2, "premium": 1.12, "basis": "parallel"},
        {"language": "mt", "bytes_per_token": 3.1, "premium": None, "basis": None},
    ]
    (root / "tokenizer" / "premium.json").write_text(json.dumps({"reference": "en", "languages": measured}))
    splits = {
        "train": {"de": held("web", tokens=75, size=300)},
        "validation": {"mt": held("books", tokens=20, size=50)},
    }
    (root / "shards" / "shards.json").write_text(json.dumps({"splits": splits}))
    return Folders(dataset, root / "tokenizer", root / "shards", (("dataset/toy/1", "0" * 64),))


def held(source: str, *, tokens: int, size: int) -> dict[str, Any]:
    """One language of a split in `shards.json`."""
    facts = {"documents": 1, "tokens": tokens, "bytes": size}
    return {**facts, "sources": {source: {**facts, "offset": 0, "licences": {"CC0-1.0": facts}}}}
