"""A small store with everything that papers for machines speak of, some of it hostile, and the ledger of a release."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hanse.data.schema import DOCUMENTS, TEXT
from hanse.release.attribution import credits
from hanse.release.ledger import Ledger
from hanse.store import record as records
from hanse.store.stage import Artifact, Store, Work

#: What a source may be called by somebody who wishes us ill.
HOSTILE = 'novels"}]}, "@id": "javascript:alert(1)" | <script>`\n# x'
SOURCES: list[dict[str, Any]] = [
    {"name": HOSTILE, "kind": "jsonl", "obtained": "public-dataset", "licence": None, "licence_basis": "stated",
     "reservation": "unknown", "rights_holder": 'Library "of" <b>Riga</b>', "url": "javascript:alert(1)",
     "files": {"a.jsonl": "ab" * 32}},
    {"name": "laws", "kind": "jsonl", "obtained": "crawl", "licence": "CC0-1.0", "licence_basis": "stated",
     "reservation": "none", "crawler": "HanseBot", "period": "01/2024 to 03/2024", "url": "https://laws.example/eu"},
    {"name": "atlas", "kind": "atlas", "obtained": "synthetic", "licence": "Unicode-3.0", "licence_basis": "generated",
     "reservation": "none", "generated_from": [{"name": "CLDR", "version": "47", "licence": "Unicode-3.0"}]},
]  # fmt: skip
CURATE = {
    "licences": ["CC0-1.0", "CC-BY-SA-4.0", "Unicode-3.0"], "min_characters": 20, "max_characters": 5000,
    "identify_language": True, "min_language_score": 0.5, "pii": "mask", "quality": True, "near_duplicates": True,
    "policy": "cd" * 32, "quality_model": "", "contamination": [], "on_contamination": "drop",
}  # fmt: skip
#: language, source, licence, bytes, split, drop reasons, kinds of personal data (None: not searched)
ROWS: list[tuple[str, str, str | None, int, str | None, list[str], list[str] | None]] = [
    ("da", HOSTILE, "CC-BY-SA-4.0", 300, "train", [], ["email", "email"]),
    ("da", HOSTILE, "CC-BY-SA-4.0 OR MIT", 100, "train", [], []),
    ("nb", "laws", "CC0-1.0", 500, "train", [], ["iban"]),
    ("nb", "laws", "CC0-1.0", 50, "validation", [], []),
    ("nb", "laws", "NOASSERTION", 40, "train", [], []),
    ("nb", "atlas", "Unicode-3.0", 10, "train", [], None),
    ("nb", "laws", "CC0-1.0", 999, None, ["near-duplicate"], ["phone"]),
    ("da", "laws", "LicenseRef-closed", 999, None, ["licence-not-allowed", "too-short"], []),
]
SCORES = [
    {"language": "da", "task": "all", "metric": "exact_answer", "value": 0.975, "low": 0.9, "high": 1.0, "n": 40},
    {"language": "nb", "task": "all", "metric": "bits_per_byte", "value": 1.25, "low": 1.2, "high": 1.3, "n": 5},
    {"language": "nb", "task": "capital", "metric": "exact_answer", "value": None, "low": None, "high": None, "n": 0},
]
CONFIG = {
    "model_type": "deepseek_v3", "architectures": ["DeepseekV3ForCausalLM"], "vocab_size": 32,
    "max_position_embeddings": 64, "num_hidden_layers": 2,
}  # fmt: skip
RUNTIME = {"device": "cuda", "device_name": "H100", "ranks": 8, "threads": 2, "compute_dtype": "bfloat16"}


def write_dataset(work: Work) -> None:
    """Text, the table of documents, and files that are neither."""
    columns: dict[str, list[Any]] = {name: [None] * len(ROWS) for name in DOCUMENTS.names}
    for number, (language, source, licence, size, split, reasons, personal) in enumerate(ROWS):
        found = [{"kind": kind, "start": 0, "end": 1, "checksum": False} for kind in personal or ()]
        row = {
            "id": f"{number:032x}", "language": language, "source": source, "licence": licence, "bytes": size,
            "split": split, "drop_reason": reasons, "pii": None if personal is None else found, "line": number + 1,
            "author_died": 1900 if number else None, "url": "javascript:alert(2)", "title": HOSTILE,
            "collection": f"collection of {language}",
        }  # fmt: skip
        for name, value in row.items():
            columns[name][number] = value
    pq.write_table(pa.table(columns, schema=DOCUMENTS), work.folder / "documents.parquet")
    (work.folder / "text").mkdir()
    for split in ("train", "validation"):
        kept = [(f"{n:032x}", f"text {n} æøå", row[0], row[1]) for n, row in enumerate(ROWS) if row[4] == split]
        table = pa.Table.from_arrays([pa.array(column) for column in zip(*kept, strict=True)], schema=TEXT)
        pq.write_table(table, work.folder / "text" / f"{split}-00000.parquet")
    (work.folder / "counts.json").write_text("{}\n")
    work.note(documents=len(ROWS), kept=6)


def write_conversations(work: Work) -> None:
    """Three conversations to train on and one held out."""
    row = {"language": "da", "source": "talk", "licence": "MIT", "messages": [{"role": "user", "content": "æ"}] * 2}
    for split, count in (("train", 3), ("heldout", 1)):
        lines = [json.dumps({"id": f"{split}-{n}", **row}) + "\n" for n in range(count)]
        (work.folder / f"{split}.jsonl").write_text("".join(lines))


def write_shards(work: Work) -> None:
    """Counts of tokens as the stage writes them, and a file of tokens."""
    splits: dict[str, Any] = {}
    for language, source, licence, size, split, reasons, _ in ROWS:
        if reasons or split is None:
            continue
        own = splits.setdefault(split, {}).setdefault(language, {"tokens": 0, "sources": {}})
        of_source = own["sources"].setdefault(source, {"tokens": 0, "licences": {}})
        of_licence = of_source["licences"].setdefault(licence, {"tokens": 0})
        for each in (own, of_source, of_licence):
            each["tokens"] += size // 5
    (work.folder / "shards.json").write_text(json.dumps({"splits": splits}))
    (work.folder / "da.bin").write_bytes(b"x")


def _writing(name: str, text: str) -> Any:
    return lambda work: (work.folder / name).write_text(text) and None


def _modelling(weights: str, **facts: object) -> Any:
    def make(work: Work) -> None:
        (work.folder / "model.safetensors").write_text(weights)
        (work.folder / "config.json").write_text(json.dumps(CONFIG))
        work.note(**facts)

    return make


def make_store(root: Path) -> Store:
    """Everything up to an evaluation, by the real store."""
    store = Store.open(root)

    def step(kind: str, name: str, make: Any, definition: dict[str, Any], **inputs: Artifact) -> Artifact:
        return store.build(kind, name, "1", definition=definition, inputs=inputs, make=make).artifact

    talk_source = {"name": "talk", "kind": "conversations", "obtained": "user", "licence": "MIT"}
    dataset = step("dataset", "toy", write_dataset, {"curate": CURATE, "source": SOURCES, "seed": 0})
    talk = step("conversations", "toy", write_conversations, {"source": [talk_source], "seed": 0})
    tokenizer = step("tokenizer", "toy", _writing("tokenizer.json", "{}"), {}, dataset=dataset, conversations=talk)
    shards = step("shards", "toy", write_shards, {}, dataset=dataset, tokenizer=tokenizer)
    base = step(
        "model", "toy-base", _modelling("w", tokens=1000, flop=10**18, seconds=12.5, runtime=RUNTIME, energy_wh=1500.0),
        {"pretrain": {"learning_rate": 0.02, "optimizer": "muon"}}, shards=shards, tokenizer=tokenizer,
    )  # fmt: skip
    tuned = step(
        "model", "toy-chat", _modelling("v", tokens=500, flop=10**17, runtime=RUNTIME), {"tune": {"kind": "sft"}},
        model=base, conversations=talk,
    )  # fmt: skip
    scores = _writing("scores.json", json.dumps(SCORES))
    step("evaluation", "toy-chat", scores, {}, model=tuned, shards=shards, conversations=talk)
    return store


def ledger_of(store: Store, **changes: Any) -> Ledger:
    """What a release of the chat model would know."""
    model, evaluation = store.find("model/toy-chat"), store.find("evaluation/toy-chat")
    found: dict[str, Artifact] = {}
    pending = [model.ref, evaluation.ref]
    while pending:
        artifact = store.find(pending.pop())
        found[artifact.ref] = artifact
        pending += [each.ref for each in records.inputs_of(artifact.record) if each.ref not in found]
    ancestors = tuple(found[ref] for ref in sorted(found))
    ledger = Ledger(
        name="toy", version="1", title='Toy: "the" model', description="", contact="lab@example.org",
        licence="Apache-2.0", languages=("da", "nb"), model=model, evaluation=evaluation, ancestors=ancestors,
        config=CONFIG, parameters=1234, active_parameters=1000, scores=SCORES, credits=credits(ancestors), is_chat=True,
        key_fingerprint="ef" * 32, lineage="",
    )  # fmt: skip
    return dataclasses.replace(ledger, **changes)
