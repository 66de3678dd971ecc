"""A store with text under contract, free text, conversations and a model made from them; and its ledger."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from toy_release import write_model

from hanse.data.schema import DOCUMENTS, TEXT
from hanse.release.attribution import credits
from hanse.release.folder import collect_ancestors
from hanse.release.ledger import Ledger
from hanse.store.stage import Artifact, Store, Work

LICENSED = {"kind": "jsonl", "obtained": "licensed", "licence": "LicenseRef-press", "licence_basis": "contract"}
SOURCES: list[dict[str, Any]] = [
    {"name": "daily", **LICENSED, "rights_holder": "Daily Press", "contract": "C-1", "contract_start": "2020-01-01",
     "contract_expiry": "2090-12-31", "jurisdiction": "DK"},
    {"name": "novels", **LICENSED, "rights_holder": "", "contract": "C-2", "contract_start": "2020-01-01",
     "contract_expiry": "2090-06-30", "jurisdiction": "NO"},
    {"name": "laws", "kind": "jsonl", "obtained": "public-dataset", "licence": "CC0-1.0", "licence_basis": "stated"},
]  # fmt: skip
TALK: list[dict[str, Any]] = [
    {"name": "chat", "kind": "conversations", "obtained": "synthetic", "licence": "MIT", "licence_basis": "generated",
     "model": "Teacher 7B"},
]  # fmt: skip
CURATE = {"pii": "mask", "near_duplicates": True, "licences": ["CC0-1.0"]}
WORDS = (
    "Skibet sejler langs kysten",
    "Vinden kommer fra vest",
    "I havnen ligger mange både",
    "Byen har et gammelt torv",
)
#: language, source, rights holder, bytes, tokens, split, reasons to drop
ROWS: list[tuple[str, str, str | None, int, int, str | None, list[str]]] = [
    ("da", "daily", "Daily Press", 400, 100, "train", []),
    ("da", "daily", "Daily Press", 100, 20, "validation", []),
    ("nb", "daily", "Daily Press", 200, 50, "train", []),
    ("nb", "novels", "Publisher A", 300, 80, "train", []),
    ("nb", "novels", "Publisher B", 500, 120, "train", []),
    ("nb", "novels", "Publisher B", 900, 0, None, ["near-duplicate"]),
    ("da", "laws", None, 1000, 250, "train", []),
    ("nb", "laws", None, 40, 10, "train", []),
]
#: stage, language, source, epochs
PASSES = [
    (1, "da", "daily", 1.5), (1, "nb", "daily", 2.0), (1, "nb", "novels", 0.25), (1, "da", "laws", 1.0),
    (1, "nb", "laws", 1.0), (2, "da", "daily", 0.5), (2, "nb", "daily", 0.0), (2, "nb", "novels", 0.5),
    (2, "da", "laws", 0.0), (2, "nb", "laws", 0.0),
]  # fmt: skip
RUNTIME = {"device": "cpu", "device_name": "AMD EPYC 9654", "ranks": 1, "threads": 2, "compute_dtype": "float32"}
QUESTION = "Hvad hedder hovedstaden i det land der ligger nord for Tyskland"
SCORES = [
    {"language": code, "task": "all", "metric": "bits_per_byte", "value": 1.5, "low": 1.4, "high": 1.6, "n": 5}
    for code in ("da", "nb")
]
Write = Callable[[Path], None]


def text_of(number: int) -> str:
    """A text that no other document shares."""
    return " ".join(f"{words} {number}-{place}." for place, words in enumerate(WORDS * 3))


def write_dataset(
    rows: Sequence[tuple[Any, ...]] = ROWS, *, texts: dict[int, str] | None = None
) -> Callable[[Work], None]:
    """The table of documents, their text, and the counts."""

    def make(work: Work) -> None:
        columns: dict[str, list[Any]] = {name: [None] * len(rows) for name in DOCUMENTS.names}
        for number, (language, source, holder, size, _, split, reasons) in enumerate(rows):
            row = {
                "id": f"{number:032x}", "language": language, "source": source, "rights_holder": holder, "bytes": size,
                "split": split, "drop_reason": reasons, "cluster": f"{number:032x}",
                "licence": "CC0-1.0" if source == "laws" else "LicenseRef-press",
            }  # fmt: skip
            for name, value in row.items():
                columns[name][number] = value
        pq.write_table(pa.table(columns, schema=DOCUMENTS), work.folder / "documents.parquet")
        (work.folder / "text").mkdir()
        kept = [
            (f"{n:032x}", (texts or {}).get(n, text_of(n)), row[0], row[1])
            for n, row in enumerate(rows)
            if row[5] == "train"
        ]
        table = pa.Table.from_arrays([pa.array(column) for column in zip(*kept, strict=True)], schema=TEXT)
        pq.write_table(table, work.folder / "text" / "train-00000.parquet")
        groups = [
            {"language": row[0], "source": row[1], "split": row[5], "documents": 1, "bytes": row[3],
             "licence": "CC0-1.0" if row[1] == "laws" else "LicenseRef-press",
             "licence_basis": "stated" if row[1] == "laws" else "contract"}
            for row in rows if row[5] is not None
        ]  # fmt: skip
        stays = [row for row in rows if row[5] is not None]
        totals = {"documents": len(rows), "kept": len(stays), "kept_bytes": sum(row[3] for row in stays)}
        dropped = [{"language": "nb", "source": "novels", "reason": "near-duplicate", "documents": 1}]
        counts = {**totals, "bytes": sum(row[3] for row in rows), "groups": groups, "dropped": dropped}
        (work.folder / "counts.json").write_text(json.dumps(counts))
        work.note(documents=len(rows), kept=len(stays))

    return make


def write_shards(work: Work) -> None:
    rows = [
        {"id": f"{n:032x}", "language": row[0], "source": row[1], "split": row[5], "offset": 0, "tokens": row[4]}
        for n, row in enumerate(ROWS)
        if row[5] is not None
    ]
    pq.write_table(pa.Table.from_pylist(rows), work.folder / "index.parquet")


def mixture() -> list[dict[str, Any]]:
    """`mixture.json` of the base model: two stages, one of them with two licences in a stream."""
    tokens: dict[tuple[str, str], int] = {}
    for language, source, _, _, count, split, _ in ROWS:
        tokens[language, source] = tokens.get((language, source), 0) + (count if split == "train" else 0)
    rows = []
    for stage, language, source, epochs in PASSES:
        common = {"stage": stage, "language": language, "source": source, "epochs": epochs, "documents": 1, "bytes": 1}
        whole = tokens[language, source]
        if source == "novels":  # licences within a stream share its passes
            rows += [{**common, "licence": name, "tokens": whole // 2, "share": 0.1} for name in ("MIT", "CC0-1.0")]
        else:
            rows.append({**common, "licence": "CC0-1.0", "tokens": whole, "share": 0.1})
    return rows


def write_conversations(work: Work) -> None:
    row = {"language": "da", "source": "chat", "licence": "MIT"}
    said = [{"role": "user", "content": "Hvem er du?"}, {"role": "assistant", "content": "En model."}]
    train = [{"id": f"train-{n}", **row, "messages": said} for n in range(3)]
    asked = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "Det hedder København"}]
    (work.folder / "train.jsonl").write_text("".join(json.dumps(each) + "\n" for each in train))
    (work.folder / "heldout.jsonl").write_text(json.dumps({"id": "held-0", **row, "messages": asked}) + "\n")
    (work.folder / "counts.json").write_text(json.dumps({"train/chat/da": 3, "heldout/chat/da": 1}))


def write_evaluation(work: Work) -> None:
    row = {"id": "held-0", "language": "da", "task": "capital", "question": QUESTION, "expected": "København"}
    (work.folder / "scores.json").write_text(json.dumps(SCORES))
    (work.folder / "answers.jsonl").write_text(json.dumps({**row, "given": "x", "correct": False}) + "\n")


def make_store(
    root: Path,
    *,
    sources: Sequence[dict[str, Any]] = SOURCES,
    talk: Sequence[dict[str, Any]] = TALK,
    write: Write = write_model,
    dataset: Callable[[Work], None] | None = None,
    start: bool = False,
) -> Store:
    """Everything up to the evaluation, by the real store."""
    store = Store.open(root)

    def step(kind: str, name: str, make: Any, definition: dict[str, Any] | None = None, **inputs: Artifact) -> Artifact:
        return store.build(kind, name, "1", definition=definition or {}, inputs=inputs, make=make).artifact

    def base(work: Work) -> None:
        write(work.folder)
        (work.folder / "mixture.json").write_text(json.dumps(mixture()))
        work.note(tokens=1000, flop=10**15, runtime=RUNTIME, energy_wh=12.5)

    def tuned(work: Work) -> None:
        write(work.folder)
        work.note(tokens=600, flop=10**14, runtime=RUNTIME, energy_wh=2.5)

    languages = {"languages": ["da", "nb"], "seed": 0}
    made = step("dataset", "toy", dataset or write_dataset(), {**languages, "curate": CURATE, "source": list(sources)})
    talking = step("conversations", "toy", write_conversations, {**languages, "source": list(talk)})
    cut = step("tokenizer", "toy", lambda work: (work.folder / "x").write_text("x") and None, dataset=made)
    shards = step("shards", "toy", write_shards, dataset=made, tokenizer=cut)
    begun = {"model": {"size": "1M", **({"start": {"config.json": "ab" * 32}} if start else {})}, "pretrain": {}}
    first = step("model", "toy-base", base, begun, shards=shards, tokenizer=cut)
    last = step("model", "toy-chat", tuned, {"tune": {"source": "chat"}}, model=first, conversations=talking)
    step("evaluation", "toy-chat", write_evaluation, model=last, shards=shards, conversations=talking)
    return store


def ledger_of(store: Store, **changes: Any) -> Ledger:
    """What a release of the store's model would be made of."""
    model, evaluation = store.find("model/toy-chat"), store.find("evaluation/toy-chat")
    found = tuple(collect_ancestors(store, (model, evaluation)))
    about: dict[str, Any] = {
        "name": "toy", "version": "1", "title": "Toy", "description": "", "contact": "lab@example.org",
        "licence": "Apache-2.0", "languages": ("da", "nb"), "model": model, "evaluation": evaluation,
        "ancestors": found, "config": json.loads((model.path / "config.json").read_text()), "parameters": 1,
        "active_parameters": None, "scores": SCORES, "credits": credits(found), "is_chat": True,
        "key_fingerprint": "ab" * 32, "lineage": "",
    }  # fmt: skip
    return Ledger(**about | changes)
