"""Checks of the gate on the text behind a release: examination items in it, copies, personal data.

The text itself is not published; it lies in the datasets of the store. Everything is read batch by batch.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanse.release.gate.audit import Finding, Outcome
from hanse.release.ledger import table_of
from hanse.store import record as records

if TYPE_CHECKING:
    import pyarrow as pa

    from hanse.data.contamination import Items
    from hanse.data.pii.detect import Detector
    from hanse.release.ledger import Ledger
    from hanse.store.stage import Artifact, Store

#: Documents of each dataset that are searched for personal data, spread evenly, and characters of each.
SAMPLED, SAMPLED_CHARACTERS = 2000, 20_000
#: Share of the questions that may stand in training text of the source that they were held out from. The embedded
#: atlas, which asks for the same facts in other words, has 0.11.
MOST_OWN = 0.25
_BATCH = 2048
_NAMED = 3  # documents or items that a finding names
_Sampled = tuple[list[str], list[str], list[str | None]]  # ids, beginnings of the texts, languages


@dataclass
class _Held:
    """Items that training text holds: all of them, and which of those are short or come from the same source."""

    long: set[str] = field(default_factory=set)
    short: set[str] = field(default_factory=set)
    own: set[str] = field(default_factory=set)
    documents: dict[str, str] = field(default_factory=dict)


def contamination(ledger: Ledger) -> Iterator[Finding]:
    """Whether the training text holds the questions that the model was examined on.

    Red where text of another source holds an item of eight words or more, and where more than MOST_OWN of the items
    stand in text of their own source. What a source's own split left alike, and items so short that they occur by
    chance, are named with their share of all items.
    """
    yield from _recorded(ledger)
    items, source_of = _items(ledger)
    if items is None or not items.searched:
        yield Finding(
            "contamination", "passed", "no questions that could be looked for were asked", ledger.evaluation.ref
        )
        return
    held = _Held()
    for name, source, texts in _training_texts(ledger):
        _look(items, source_of, held, name, source, texts)
    for item in sorted(held.long)[:_NAMED]:
        yield Finding("contamination", "failed", f"holds the question '{item}'", held.documents[item])
    if len(held.long) > _NAMED:
        yield Finding("contamination", "failed", f"and {len(held.long) - _NAMED:,} more questions")
    looked = f"of {items.searched:,} questions looked for"
    if own := held.own - held.long:
        share = len(own) / items.searched
        what = f"{share:.1%} {looked} stand in training text of the source that they were held out from"
        outcome: Outcome = "failed" if share > MOST_OWN else "warned"
        yield Finding("contamination", outcome, what, held.documents[min(own)])
    if short := held.short - held.long - held.own:
        share = len(short) / items.searched
        what = f"{share:.1%} {looked} stand in it, but have under eight words, which proves nothing"
        yield Finding("contamination", "warned", what, held.documents[min(short)])
    if not held.long:
        yield Finding("contamination", "passed", f"none {looked} came in from another source")


def duplicates(ledger: Ledger) -> Iterator[Finding]:
    """No document was kept twice, and none is both in training and in validation. Conversations are not looked at."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    clean, is_clean = 0, True
    for dataset in ledger.of_kind("dataset"):
        path = table_of(dataset)
        with pq.ParquetFile(path) as file:
            known = set(file.schema_arrow.names)
        columns = [name for name in ("id", "cluster", "split", "drop_reason") if name in known]
        table = pq.read_table(path, columns=columns)
        if "drop_reason" in known:
            table = table.filter(pc.equal(pc.fill_null(pc.list_value_length(table["drop_reason"]), 0), 0))
        told = list(_repeated(dataset, table, "id", "kept more than once"))
        looks_near = records.definition_of(dataset.record).get("curate", {}).get("near_duplicates", False)
        if "cluster" in known and looks_near:
            told += _repeated(dataset, table, "cluster", "kept beside a near copy")
        yield from told
        clean += len(table)
        is_clean = is_clean and not told
    if is_clean:
        yield Finding("duplicates", "passed", f"{clean:,} kept documents, none of them twice")


def withdrawals(ledger: Ledger, store: Store) -> Iterator[Finding]:
    """Nothing that was withdrawn stands in the text behind the release."""
    from hanse.trace import leaving, withdrawal

    known = withdrawal.read(store.root)
    named = {each.id: each for each in known}
    clean = True
    for artifact in ledger.ancestors if known else ():
        if artifact.kind in leaving.KINDS:
            for name, count in leaving.held(functools.partial(leaving.tables, artifact), known).items():
                clean = False
                what = f"{count:,} of its texts were withdrawn by {named[name].file_name} ({named[name].reason})"
                yield Finding("withdrawals", "failed", what, artifact.ref)
    if clean:
        yield Finding("withdrawals", "passed", f"{len(known)} withdrawals known, none of a text behind this release")


def personal_data(ledger: Ledger) -> Iterator[Finding]:
    """Whether a sample of the kept text still holds personal data that curation was told to replace.

    Conversations are read as they came, so what they hold is a warning.
    """
    from hanse.data.pii.detect import Detector

    detector = Detector(ledger.languages)
    for dataset in ledger.of_kind("dataset"):
        how = records.definition_of(dataset.record).get("curate", {}).get("pii")
        if how == "keep":
            yield Finding(
                "personal data", "warned", 'was kept: [curate] pii = "keep"', f"{dataset.ref} step.json curate"
            )
        yield _personal(detector, dataset, "documents", _sample(dataset), "warned" if how == "keep" else "failed")
    for talk in ledger.of_kind("conversations"):
        yield _personal(detector, talk, "conversations", _sampled_talk(talk), "warned")
    if not (ledger.of_kind("dataset") or ledger.of_kind("conversations")):
        yield Finding("personal data", "failed", "no record names any text", ledger.model.ref)


# --------------------------------------------------------------------------- contamination


def _recorded(ledger: Ledger) -> Iterator[Finding]:
    """Documents that were kept although curation found items of [curate] contamination in them."""
    import pyarrow.parquet as pq

    from hanse.data.contamination import Hit, reasons

    for dataset in ledger.of_kind("dataset"):
        kept = []
        with pq.ParquetFile(table_of(dataset)) as file:
            if not {"contamination", "split"} <= set(file.schema_arrow.names):
                continue
            for batch in file.iter_batches(columns=["id", "contamination", "split"]):
                for row in batch.filter(batch["contamination"].is_valid()).to_pylist():
                    hits = [Hit(**each) for each in row["contamination"]]
                    if row["split"] == "train" and reasons([hits])[0]:
                        kept.append(row["id"])
        if kept:
            what = f"{len(kept):,} documents were kept that hold items of [curate] contamination"
            yield Finding("contamination", "failed", what, f"{dataset.ref} {', '.join(kept[:_NAMED])}")


def _items(ledger: Ledger) -> tuple[Items | None, dict[str, str]]:
    """The questions that were asked, and the source that each was held out from."""
    from hanse.data.contamination import Item, Items

    path = ledger.evaluation.path / "answers.jsonl"
    if not path.is_file():
        return None, {}
    asked = {row["id"]: row for row in _lines(path)}
    source_of: dict[str, str] = {}
    for talk in ledger.of_kind("conversations"):
        if (talk.path / "heldout.jsonl").is_file():
            source_of |= {
                row["id"]: str(row.get("source") or "") for row in _lines(talk.path / "heldout.jsonl") if "id" in row
            }
    found = [Item(name, (str(row["question"]), str(row["expected"]))) for name, row in asked.items()]
    return Items(found), source_of


def _training_texts(ledger: Ledger) -> Iterator[tuple[list[str], list[str], pa.Array]]:
    """Batches of what training read: where each text stands, its source, the text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for dataset in ledger.of_kind("dataset"):
        for path in _text_files(dataset):
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=_BATCH, columns=["id", "source", "text"]):
                    names = [f"{dataset.ref} {name}" for name in batch["id"].to_pylist()]
                    yield names, batch["source"].to_pylist(), batch["text"]
    for talk in ledger.of_kind("conversations"):
        rows: list[dict[str, Any]] = []
        for row in _lines(talk.path / "train.jsonl"):
            rows.append(row)
            if len(rows) == _BATCH:
                yield _spoken(talk, rows, pa)
                rows = []
        if rows:
            yield _spoken(talk, rows, pa)


def _spoken(talk: Artifact, rows: list[dict[str, Any]], pa: Any) -> tuple[list[str], list[str], pa.Array]:
    names = [f"{talk.ref} {row.get('id', 'train.jsonl')}" for row in rows]
    return (
        names,
        [str(row.get("source") or "") for row in rows],
        pa.array([_said(row) for row in rows], pa.large_string()),
    )


def _look(
    items: Items, source_of: dict[str, str], held: _Held, names: list[str], sources: list[str], texts: pa.Array
) -> None:
    """Note which items the texts of a batch hold."""
    from hanse.data.contamination import MIN_CONTAINMENT, MIN_LONGEST, NGRAM_WORDS

    for name, source, hits in zip(names, sources, items.scan(texts), strict=True):
        for hit in hits:
            if hit.containment < MIN_CONTAINMENT and hit.longest < MIN_LONGEST:
                continue
            if source and source == source_of.get(hit.item):
                held.own.add(hit.item)
            elif hit.longest < NGRAM_WORDS:
                held.short.add(hit.item)
            else:
                held.long.add(hit.item)
                held.documents[hit.item] = name
            held.documents.setdefault(hit.item, name)


# --------------------------------------------------------------------------- personal data


def _personal(detector: Detector, artifact: Artifact, what: str, sample: Iterable[_Sampled], bad: Outcome) -> Finding:
    seen, kinds, where = 0, Counter[str](), list[str]()
    for ids, texts, codes in sample:
        seen += len(texts)
        for name, found in zip(ids, detector.find_batch(texts, codes), strict=True):
            kinds.update(finding.kind for finding in found)
            where += [name] if found else []
    if not seen:
        return Finding("personal data", "failed", "has no text to look at", artifact.ref)
    if not kinds:
        return Finding("personal data", "passed", f"none in {seen:,} sampled {what}", artifact.ref)
    told = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    place = f"{artifact.ref} {', '.join(where[:_NAMED])}"
    return Finding("personal data", bad, f"{len(where)} of {seen:,} sampled {what} hold {told}", place)


# --------------------------------------------------------------------------- reading


def _repeated(dataset: Artifact, table: pa.Table, column: str, what: str) -> Iterator[Finding]:
    import pyarrow.compute as pc

    counts = table[column].value_counts()
    if not len(counts):
        return
    names, copies = pc.struct_field(counts, "values"), pc.struct_field(counts, "counts")
    several = names.filter(pc.and_(pc.greater(copies, 1), pc.is_valid(names))).to_pylist()
    if several:
        told = f"{len(several):,} documents are {what}"
        yield Finding("duplicates", "failed", told, f"{dataset.ref} {', '.join(sorted(several)[:_NAMED])}")


def _sample(dataset: Artifact) -> Iterator[_Sampled]:
    """Ids, beginnings and languages of up to SAMPLED documents, every n-th one of all."""
    import pyarrow.parquet as pq

    files = list(_text_files(dataset))
    total = sum(pq.read_metadata(path).num_rows for path in files)
    step, place = max(1, -(-total // SAMPLED)), 0
    for path in files:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH, columns=["id", "text", "language"]):
                chosen = batch.slice(-place % step)[::step] if -place % step < len(batch) else batch.slice(0, 0)
                place += len(batch)
                texts = [text[:SAMPLED_CHARACTERS] for text in chosen["text"].to_pylist()]
                yield chosen["id"].to_pylist(), texts, chosen["language"].to_pylist()


def _sampled_talk(talk: Artifact) -> Iterator[_Sampled]:
    """The same of up to SAMPLED training conversations."""
    path = talk.path / "train.jsonl"
    with path.open("rb") as lines:
        total = sum(1 for _ in lines)
    with path.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in itertools.islice(lines, 0, None, max(1, -(-total // SAMPLED)))]
    names = [str(row.get("id", "")) for row in rows]
    yield names, [_said(row)[:SAMPLED_CHARACTERS] for row in rows], [row.get("language") for row in rows]


def _said(row: Mapping[str, Any]) -> str:
    return "\n".join(str(each.get("content") or "") for each in row["messages"])


def _text_files(dataset: Artifact) -> list[Path]:
    return sorted((dataset.path / "text").glob("train-*.parquet"))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)
