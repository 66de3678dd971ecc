"""A store whose records answer nearly all that papers ask: sources of every category, dates, domains, evidence."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from toy_release import CONFIG, SCORES, write_model

from hanse.data.rights.evidence import EVIDENCE, observed
from hanse.data.rights.policy import Policy
from hanse.release.attribution import credits
from hanse.release.ledger import Ledger
from hanse.release.papers.paper import Cell, Entry, Paper, Table
from hanse.store.stage import Artifact, Store, Work

DOMAINS = 30  # crawled ones
COLUMNS = ("id", "source", "collection", "language", "licence", "licence_basis", "domain", "retrieved", "author",
           "split", "reservation", "jurisdiction", "rights_holder")  # fmt: skip
SCHEMA = pa.schema(
    [(name, pa.string()) for name in COLUMNS] + [("bytes", pa.int64()), ("drop_reason", pa.list_(pa.string()))]
)


def source(name: str, obtained: str, **more: Any) -> dict[str, Any]:
    """A declared source as the record of a step holds it."""
    plain = {"name": name, "kind": "jsonl", "obtained": obtained, "licence": "CC-BY-4.0", "licence_basis": "stated",
             "rights_holder": "", "contract": "", "crawler": "", "model": "", "period": "", "url": "", "revision": "",
             "reservation": "unknown", "files": {"a.jsonl": "0" * 64}}  # fmt: skip
    return plain | more


SOURCES = [
    source("books", "public-dataset", url="https://example.org/books", period="2020"),
    source("news", "licensed", contract="C-7", rights_holder="The Paper", licence="LicenseRef-news"),
    source("web", "crawl", crawler="ToyBot/1", period="01/2026 to 02/2026", licence_basis="tdm-art-4"),
    source("forum", "user"),
    source("stories", "synthetic", model="toy-writer-7"),
    source("bought", "other"),
    source(
        "atlas", "synthetic", kind="atlas", generated_from=[{"name": "tables", "version": "1", "licence": "CC0-1.0"}]
    ),
]
TALK = [source("atlas", "synthetic", kind="atlas"), source("chats", "user", kind="conversations")]


def documents() -> list[dict[str, Any]]:
    """Rows of the document table: a few of each source, some of them held out or dropped."""
    rows: list[dict[str, Any]] = []

    def add(of: str, size: int, split: str | None = "train", **more: Any) -> None:
        row = {"id": f"{len(rows):032x}", "source": of, "collection": of, "language": "da", "licence": "CC-BY-4.0",
               "licence_basis": "stated", "retrieved": "2026-01-05", "split": split, "reservation": "none",
               "bytes": size, "drop_reason": [] if split else ["rights-reserved"]}  # fmt: skip
        rows.append(row | more)

    for number in range(6):
        add("books", 1000 + number, collection="novels", language="fr" if number % 2 else "da")
    add("books", 20, collection="poems", language="uk", licence="CC0-1.0")
    add("books", 500, "validation", collection="novels")
    add("books", 77, None, collection="novels")
    add("news", 400, licence="LicenseRef-news", retrieved="2026-03-09")
    for number in range(DOMAINS):
        add("web", 10 * (number + 1), domain=f"site{number:02}.example", retrieved=f"2026-02-{number % 28 + 1:02}")
    add("web", 5, domain=None)
    add("web", 9, None, domain="closed.example", drop_reason=["rights-reserved", "quality-menu"])
    add("forum", 60, reservation="unknown")
    add("stories", 70)
    add("bought", 80)
    add("atlas", 90, retrieved=None)
    return rows


def conversations() -> list[dict[str, Any]]:
    """Lines of the training conversations."""

    def talk(of: str, language: str, text: str) -> dict[str, Any]:
        return {"source": of, "language": language, "licence": "CC0-1.0",
                "messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "æ"}]}  # fmt: skip

    return [talk("atlas", "da", "hej"), talk("chats", "fr", "ça va"), talk("chats", "de", "ja")]


def counts(rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """`counts.json` of the rows."""
    groups: Counter[tuple[str | None, ...]] = Counter()
    sizes: Counter[tuple[str | None, ...]] = Counter()
    reasons: Counter[tuple[str, str, str]] = Counter()
    for row in rows:
        key = tuple(row[name] for name in ("language", "source", "split"))
        groups[key] += 1
        sizes[key] += row["bytes"]
        for reason in row["drop_reason"]:
            reasons[row["language"], row["source"], reason] += 1
    listed = [
        {"language": key[0], "source": key[1], "split": key[2], "documents": n, "bytes": sizes[key]}
        for key, n in groups.items()
    ]
    kept = [group for group in listed if group["split"]]
    dropped = [{"language": a, "source": b, "reason": c, "documents": n} for (a, b, c), n in sorted(reasons.items())]
    return {"documents": sum(groups.values()), "kept": sum(group["documents"] for group in kept), "groups": listed,
            "dropped": dropped}  # fmt: skip


def statements() -> list[dict[str, str]]:
    """Evidence: two robots.txt of different days, one of them a reservation, and a record's own word."""
    site = "https://site00.example/robots.txt"
    found = [
        observed("robots.txt", "allowed", "Allow: /", place=site, seen="2024-05-01", parser="robots/1"),
        observed("robots.txt", "allowed", "Allow: /", place=site, seen="2026-02-01", parser="robots/1"),
        observed("robots.txt", "reserved", "Disallow: /", place="https://closed.example/robots.txt", seen="2026-01-31",
                 parser="robots/1"),
        observed("declared", "allowed", "none", place="record", seen="", parser="record/1"),
    ]  # fmt: skip
    return [{name: getattr(each, name) for name in EVIDENCE.names} for each in found]


def write_dataset(work: Work) -> None:
    """Documents, counts and evidence."""
    rows = documents()
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), work.folder / "documents.parquet", row_group_size=16)
    pq.write_table(pa.Table.from_pylist(statements(), EVIDENCE), work.folder / "evidence.parquet")
    found = counts(rows)
    (work.folder / "counts.json").write_text(json.dumps(found))
    work.note(documents=found["documents"], kept=found["kept"])


def write_conversations(work: Work) -> None:
    """Lines to train on, and none held out."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in conversations())
    (work.folder / "train.jsonl").write_text(text, encoding="utf-8")
    work.note(conversations={"train": 3, "heldout": 0})


def write_shards(work: Work) -> None:
    """As many tokens as a quarter of the bytes of each document, by language and source."""
    splits: dict[str, Any] = {}
    for row in documents():
        if row["split"]:
            held = splits.setdefault(row["split"], {}).setdefault(row["language"], {"tokens": 0, "sources": {}})
            held["tokens"] += row["bytes"] // 4
            of = held["sources"].setdefault(row["source"], {"tokens": 0})
            of["tokens"] += row["bytes"] // 4
    (work.folder / "shards.json").write_text(json.dumps({"splits": splits}))


def noted(write: Callable[[Path], None], **facts: Any) -> Callable[[Work], None]:
    """A step that writes a folder and notes facts."""

    def make(work: Work) -> None:
        write(work.folder)
        work.note(**facts)

    return make


def build(root: Path, *, sources: list[dict[str, Any]] = SOURCES, start: dict[str, str] | None = None) -> Store:
    """The whole store, up to the evaluation."""
    store = Store.open(root)

    def step(kind: str, name: str, make: Callable[[Work], None], given: dict[str, Any], **inputs: Artifact) -> Artifact:
        return store.build(kind, name, "1", definition=given, inputs=inputs, make=make).artifact

    curate = {"licences": ["CC-BY-4.0", "CC0-1.0"], "on_unknown_reservation": "drop", "pii": "mask", "quality": True,
              "near_duplicates": True, "day": "2026-04-01", "site_files": "f" * 64,
              "policy": Policy.load(None, on_unknown="drop").digest}  # fmt: skip
    dataset = step("dataset", "trail", write_dataset, {"curate": curate, "source": sources})
    talk = step("conversations", "trail", write_conversations, {"source": TALK})
    tokenizer = step("tokenizer", "trail", noted(lambda p: (p / "tokenizer.json").write_text("{}"), vocab_size=512), {},
                     dataset=dataset)  # fmt: skip
    shards = step("shards", "trail", write_shards, {"seed": 0}, dataset=dataset, tokenizer=tokenizer)
    ran = {
        "runtime": {"device": "cpu", "device_name": "Toy CPU", "ranks": 1, "threads": 1},
        "seconds": 3600.0,
        "steps": 10,
    }
    model = {"family": "deepseek_v3", **({"start": start} if start else {})}
    base = step("model", "trail-base", noted(write_model, tokens=1000, flop=10**15, **ran),
                {"model": model, "pretrain": {"optimizer": "muon", "goldfish": 4}}, shards=shards)  # fmt: skip
    tuned = step("model", "trail-chat", noted(write_model, tokens=500, flop=10**14, **ran),
                 {"tune": {"optimizer": "muon", "epochs": 2.0}}, model=base, talk=talk)  # fmt: skip
    step("evaluation", "trail-chat", noted(lambda p: (p / "scores.json").write_text(json.dumps(SCORES))), {},
         model=tuned, shards=shards)  # fmt: skip
    return store


def ledger_of(store: Store, name: str = "trail", **changes: Any) -> Ledger:
    """The ledger of the last model of a store."""
    ancestors = tuple(sorted(store.artifacts(), key=lambda each: each.ref))
    ancestors = tuple(each for each in ancestors if each.kind != "release")
    given: dict[str, Any] = {
        "name": name, "version": "2", "title": "Trail", "description": "", "contact": "lab@example.org",
        "licence": "Apache-2.0", "languages": ("da", "fr"), "model": store.find(f"model/{name}-chat"),
        "evaluation": store.find(f"evaluation/{name}-chat"), "ancestors": ancestors, "config": CONFIG,
        "parameters": 2_853_184, "active_parameters": 2_000_000, "scores": SCORES, "credits": credits(ancestors),
        "is_chat": True, "key_fingerprint": "ab" * 32, "lineage": "",
    }  # fmt: skip
    return Ledger(**(given | changes))


def entry(paper: Paper, question: str, number: str = "") -> Entry:
    """The question of a paper, or the only one that begins so."""
    there = [each for each in paper.entries if each.number in (number or each.number,)]
    found = [each for each in there if each.question == question]
    found = found or [each for each in there if each.question.startswith(question)]
    assert len(found) == 1, (question, [each.question for each in paper.entries])
    return found[0]


def tables(paper: Paper) -> Iterator[Table]:
    """Every table of a paper."""
    for section in paper.sections:
        yield from (part for part in section.body if isinstance(part, Table))


def table(paper: Paper, title: str) -> Table:
    """The one table whose title begins so."""
    found = [each for each in tables(paper) if each.title.startswith(title)]
    assert len(found) == 1, [each.title for each in tables(paper)]
    return found[0]


def cells(paper: Paper) -> Iterator[tuple[Cell, bool]]:
    """Every cell, and whether it heads a row."""
    for each in paper.entries:
        yield each.cell, False
    for each_table in tables(paper):
        for row in each_table.rows:
            yield from ((cell, number == 0) for number, cell in enumerate(row))


def in_sqlite(artifact: Artifact) -> sqlite3.Connection:
    """The document table of a dataset as `documents`, to be counted by another engine."""
    rows = pq.read_table(artifact.path / "documents.parquet").to_pylist()
    names = [name for name in rows[0] if name != "drop_reason"]
    base = sqlite3.connect(":memory:")
    base.create_function("len", 1, lambda text: len(json.loads(text)))
    base.execute(f"create table documents ({', '.join(names)}, drop_reason)")
    base.executemany(
        f"insert into documents values ({', '.join('?' * (len(names) + 1))})",
        [(*(row[name] for name in names), json.dumps(row["drop_reason"])) for row in rows],
    )
    return base
