"""The figures of the papers, each with the place it was read from: texts, bytes, tokens, dates, domains, evidence.

What is counted is what was trained on: documents of the split `train` and conversations that were not held out. The
source of a count reads as SQL over the file that it names, so that anybody can count again:

    dataset/europe/1 documents.parquet: select count(*), sum(bytes) where split = 'train' and language = 'bg'
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from hanse.errors import InputError
from hanse.release.ledger import Ledger, SourceRecord, table_of
from hanse.release.papers.paper import Cell
from hanse.store import record as records
from hanse.store.documents import count_documents
from hanse.store.stage import Artifact
from hanse.store.tables import EVIDENCE

TALK = "train.jsonl"
COUNTS = "counts.json"
SHARDS = "shards.json"
_TALK_COLUMNS = ("source", "collection", "language", "licence", "domain", "retrieved")


@dataclass(frozen=True)
class Counted:
    """Texts of one artifact that agree in the columns asked for.

    Attributes:
        artifact: a dataset or conversations.
        values: by column; an empty text where the text itself says nothing.
        texts: documents or conversations.
        bytes: of their text, in UTF-8.
        source: the query that counts them.
    """

    artifact: Artifact
    values: Mapping[str, str]
    texts: int
    bytes: int
    source: str

    @property
    def is_talk(self) -> bool:
        """Whether these are conversations."""
        return self.artifact.kind == "conversations"


@dataclass(frozen=True)
class Signal:
    """Statements about rights that a dataset's evidence holds, of one kind and meaning.

    Attributes:
        first, last: days on which they were seen, ISO 8601; empty where no statement has a day.
        hosts: sites that they were found at; 0 where they stood in records.
    """

    artifact: Artifact
    kind: str
    says: str
    statements: int
    hosts: int
    first: str
    last: str

    @property
    def source(self) -> str:
        """The query that counts them."""
        where = f"kind = {_quoted(self.kind)} and says = {_quoted(self.says)}"
        return f"{self.artifact.ref} {EVIDENCE}: select count(*), min(seen), max(seen) where {where}"


@contextmanager
def sound(path: Path) -> Iterator[None]:
    """Turn whatever a damaged or hand-edited file causes into one sentence that names it.

    Raises:
        InputError: the file cannot be read, or has not the form that it was written in.
    """
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        told = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: is not as it was written ({told}); restore it, or make it again.") from None


def counted(ledger: Ledger, *columns: str) -> list[Counted]:
    """What was trained on, grouped by columns of the document table, artifact by artifact, most bytes first."""
    found: list[Counted] = []
    for artifact in ledger.of_kind("dataset"):
        if table_of(artifact).is_file():
            found += _documents(artifact, columns)
    for artifact in ledger.of_kind("conversations"):
        if (artifact.path / TALK).is_file():
            found += _conversations(artifact, columns)
    return sorted(found, key=lambda each: (-each.bytes, tuple(each.values.values()), each.artifact.ref))


def of_source(found: Iterable[Counted], source: SourceRecord) -> list[Counted]:
    """Those rows, grouped by source among others, that belong to a declared source."""
    return [row for row in found if row.artifact.ref == source.artifact.ref and row.values["source"] == source.name]


def documents_cell(ledger: Ledger, rows: Iterable[Counted]) -> Cell:
    """How many documents; empty where a dataset has no table."""
    own = [row for row in rows if not row.is_talk]
    return _sum(own, lambda row: row.texts) if own else _none(ledger, "dataset", "documents.parquet")


def conversations_cell(ledger: Ledger, rows: Iterable[Counted]) -> Cell:
    """How many conversations; none where the model was tuned on none, empty where they are not at hand."""
    own = [row for row in rows if row.is_talk]
    return _sum(own, lambda row: row.texts) if own else _none(ledger, "conversations", TALK)


def bytes_cell(rows: Iterable[Counted]) -> Cell:
    """How many bytes of text, of documents and conversations together."""
    return _sum(list(rows), lambda row: row.bytes)


def share_cell(rows: Iterable[Counted], whole: int) -> Cell:
    """Which share of some bytes, in percent."""
    part = bytes_cell(rows)
    if not part.is_recorded or not whole:
        return Cell(None)
    return Cell(round(100 * part.value / whole, 4), part.source, percent(part.value / whole))


def percent(share: float | Fraction) -> str:
    """A share of one as people read it; what is there never reads as nothing."""
    return "<0.1 %" if 0 < share < 0.0005 else f"{100 * float(share):.1f} %"


def tokens_cell(ledger: Ledger, *, language: str = "", source: str = "") -> Cell:
    """Tokens of the training split of all shards, in one language or of one source where named.

    Empty where any shards do not say. An end of text is a token of its text.
    """
    total, places = 0, []
    for shards in ledger.of_kind("shards"):
        with sound(shards.path / SHARDS):
            train = read_json(shards.path / SHARDS).get("splits", {}).get("train")
            if train is None:
                return Cell(None)
            for code, held in train.items():
                if language in ("", code):
                    of = held.get("sources", {}).get(source, {"tokens": 0}) if source else held
                    total += of["tokens"]
        place = ".".join(
            filter(None, ["splits.train", language or "*", f"sources.{source}" if source else "", "tokens"])
        )
        places.append(f"{shards.ref} {SHARDS} {place}")
    return Cell(total, "; ".join(places)) if places else Cell(None)


def latest(ledger: Ledger, source: SourceRecord) -> Cell:
    """The last day on which text of a source was obtained, ISO 8601, as far as its documents say.

    Text that Hanse's rules wrote was obtained when the step wrote it.
    """
    if source.declared.get("kind") == "atlas":
        ended = source.artifact.record["predicate"]["runDetails"]["metadata"]["finishedOn"][:10]
        return Cell(ended, f"{source.artifact.ref} step.json finishedOn")
    rows = of_source(counted(ledger, "source", "retrieved"), source)
    days = [row.values["retrieved"] for row in rows]
    if not all(days) or not days:
        return Cell(None)
    where = f"split = 'train' and source = {_quoted(source.name)}"
    return Cell(max(days), f"{source.artifact.ref} documents.parquet: select max(retrieved) where {where}")


def dropped(dataset: Artifact) -> dict[str, int]:
    """Documents left out, by reason; empty where the dataset did not count them. A document can have two reasons."""
    reasons: Counter[str] = Counter()
    with sound(dataset.path / COUNTS):
        for row in read_json(dataset.path / COUNTS).get("dropped", []):
            reasons[row["reason"]] += row["documents"]
    return dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0])))


def dropped_cell(dataset: Artifact, *reasons: str) -> Cell:
    """How many times documents were left out for these reasons."""
    if not (dataset.path / COUNTS).is_file():
        return Cell(None)
    found = dropped(dataset)
    return Cell(sum(found.get(each, 0) for each in reasons), f"{dataset.ref} {COUNTS} dropped")


def unknown_cell(dataset: Artifact) -> Cell:
    """How many documents that were trained on have no clear statement on reservations; empty where no table says."""
    table = table_of(dataset)
    if not table.is_file() or "reservation" not in _columns(table, dataset.digest):
        return Cell(None)
    rows = _documents(dataset, ("reservation",))
    unknown = sum(row.texts for row in rows if row.values["reservation"] in ("", "unknown"))
    where = "split = 'train'" if "split" in _columns(table, dataset.digest) else "len(drop_reason) = 0"
    query = f"select count(*) where {where} and coalesce(reservation, '') in ('', 'unknown')"
    text = f"{unknown:,} of {sum(row.texts for row in rows):,}"
    return Cell(unknown, f"{dataset.ref} documents.parquet: {query}", text)


def signals(dataset: Artifact) -> list[Signal]:
    """The statements about rights in a dataset's evidence, by signal and what they say."""
    import pyarrow.parquet as pq

    path = dataset.path / EVIDENCE
    if not path.is_file():
        return []
    counts: Counter[tuple[str, str]] = Counter()
    hosts: dict[tuple[str, str], set[str]] = {}
    days: dict[tuple[str, str], set[str]] = {}
    with sound(path), pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=["kind", "says", "seen", "place"]):
            for row in batch.to_pylist():
                key = row["kind"], row["says"]
                counts[key] += 1
                days.setdefault(key, set()).update(filter(None, [row["seen"]]))
                hosts.setdefault(key, set()).update(_host(row["place"]))
    return [
        Signal(dataset, *key, counts[key], len(hosts[key]), min(days[key], default=""), max(days[key], default=""))
        for key in sorted(counts)
    ]


def definition(artifact: Artifact, *keys: str) -> Cell:
    """A value of the definition that an artifact was made by, with its place."""
    value: Any = records.definition_of(artifact.record)
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return Cell(value, f"{artifact.ref} step.json {'.'.join(keys)}") if value not in (None, "") else Cell(None)


def roots(ledger: Ledger) -> list[Artifact]:
    """The models that no other model of this record was the start of."""
    return [
        model
        for model in ledger.of_kind("model")
        if not any(each.ref.startswith("model/") for each in records.inputs_of(model.record))
    ]


def started_from(ledger: Ledger) -> list[Artifact]:
    """The models whose training began with somebody's finished weights, which this record does not hold."""
    return [model for model in roots(ledger) if definition(model, "model", "start").is_recorded]


def _documents(dataset: Artifact, columns: Sequence[str]) -> list[Counted]:
    known = _columns(table_of(dataset), dataset.digest)
    found = []
    for key, documents, size in _groups(table_of(dataset), dataset.digest, (*columns, "split")):
        if key[-1] in ("", "train"):  # a table without splits holds training text only
            where = ["split = 'train'" if "split" in known else "len(drop_reason) = 0"]
            where += [_equals(name, value) for name, value in zip(columns, key, strict=False) if name in known]
            source = f"{dataset.ref} documents.parquet: select count(*), sum(bytes) where {' and '.join(where)}"
            found.append(Counted(dataset, dict(zip(columns, key, strict=False)), documents, size, source))
    return found


def _conversations(talk: Artifact, columns: Sequence[str]) -> list[Counted]:
    found = []
    for key, texts, size in _talk_groups(talk.path / TALK, talk.digest, tuple(columns)):
        where = " and ".join(_equals(name, value) for name, value in zip(columns, key, strict=True))
        source = f"{talk.ref} {TALK}: select count(*), sum(bytes of messages)"
        source += f" where {where}" if where else ""
        found.append(Counted(talk, dict(zip(columns, key, strict=True)), texts, size, source))
    return found


# A release asks for the same groups in several papers; the digest names the content.
@functools.lru_cache(maxsize=64)
def _groups(path: Path, digest: str, columns: tuple[str, ...]) -> tuple[tuple[tuple[str, ...], int, int], ...]:
    with sound(path):
        return tuple((group.key, group.documents, group.bytes) for group in count_documents(path, columns))


@functools.lru_cache(maxsize=64)
def _columns(path: Path, digest: str) -> frozenset[str]:
    import pyarrow.parquet as pq

    with sound(path):
        return frozenset(pq.read_schema(path).names)


def _talk_groups(path: Path, digest: str, columns: tuple[str, ...]) -> list[tuple[tuple[str, ...], int, int]]:
    texts: Counter[tuple[str, ...]] = Counter()
    sizes: Counter[tuple[str, ...]] = Counter()
    for values, count, size in _talk_totals(path, digest):
        of = dict(zip(_TALK_COLUMNS, values, strict=True))
        key = tuple(of[name] for name in columns)
        texts[key] += count
        sizes[key] += size
    return [(key, texts[key], sizes[key]) for key in sorted(texts)]


@functools.lru_cache(maxsize=8)
def _talk_totals(path: Path, digest: str) -> list[tuple[tuple[str, ...], int, int]]:
    """Conversations by all the columns that papers ask for, read once: there can be gigabytes of lines."""
    totals: dict[tuple[str, ...], list[int]] = {}
    with sound(path), path.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            total = totals.setdefault(tuple(str(row.get(name) or "") for name in _TALK_COLUMNS), [0, 0])
            total[0] += 1
            total[1] += sum(len(str(message.get("content") or "").encode("utf-8")) for message in row["messages"])
    return [(key, texts, size) for key, (texts, size) in sorted(totals.items())]


def _sum(rows: Sequence[Counted], of: Callable[[Counted], int]) -> Cell:
    if not rows:
        return Cell(None)
    return Cell(sum(map(of, rows)), "; ".join(dict.fromkeys(row.source for row in rows)))


def _none(ledger: Ledger, kind: str, file: str) -> Cell:
    """Zero, where everything of a kind was counted and none of it was meant."""
    artifacts = ledger.of_kind(kind)
    if not all((artifact.path / file).is_file() for artifact in artifacts):
        return Cell(None)
    return Cell(0, "; ".join(f"{each.ref} {file}" for each in artifacts) or f"{ledger.model.ref} step.json inputs")


def _equals(column: str, value: str) -> str:
    return f"{column} = {_quoted(value)}" if value else f"coalesce({column}, '') = ''"


def _quoted(value: str) -> str:
    doubled = value.replace("'", "''")
    return f"'{doubled}'"


def _host(place: str) -> list[str]:
    """The site of an address; nothing for a place that is none."""
    _, separator, rest = place.partition("://")
    return [rest.partition("/")[0]] if separator else []


def read_json(path: Path) -> dict[str, Any]:
    """What a JSON file holds; nothing where there is none. Raises InputError for a damaged one."""
    if not path.is_file():
        return {}
    with sound(path):
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("no object")
    return found
