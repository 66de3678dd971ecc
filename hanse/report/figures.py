"""The figures behind the data report: sums that the artifacts hold already, and one pass over the document table."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanse.errors import InputError
from hanse.report.tally import Tally
from hanse.store.documents import TABLE
from hanse.store.query import COPY_REASONS, id_words
from hanse.store.tables import EVIDENCE

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

NO_LANGUAGE = "none"  # where the language of a document could not be settled
BATCH_ROWS = 2**16
SAMPLES = 3  # for a language
MOST_ROWS = 30  # of domains, clusters, evaluation items

_COLUMNS = (
    "id", "language", "source", "domain", "title", "licence", "bytes", "reservation", "evidence", "pii",
    "contamination", "drop_reason", "cluster", "split",
)  # fmt: skip


@dataclass(frozen=True)
class Folders:
    """The artifacts of one run that a report is made from; None where the run has not got that far.

    Attributes:
        made_from: `kind/name/version` and digest of each.
    """

    dataset: Path
    tokenizer: Path | None = None
    shards: Path | None = None
    made_from: tuple[tuple[str, str], ...] = ()

    def counts(self) -> dict[str, Any]:
        """`counts.json` of the dataset. Raises InputError if there is none, or one of an older Hanse."""
        path = self.dataset / "counts.json"
        counts = _json(path)
        if not {"documents", "kept", "kept_bytes", "groups", "dropped"} <= counts.keys():
            raise InputError(f"{path}: lacks sums that a report needs; make the dataset again under a new version.")
        return counts

    def premium(self) -> dict[str, dict[str, Any]]:
        """What the tokenizer found about each language, by code."""
        if self.tokenizer is None:
            return {}
        return {row["language"]: row for row in _json(self.tokenizer / "premium.json")["languages"]}

    def splits(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Documents, tokens and bytes by split and language, and in it by source and licence."""
        return {} if self.shards is None else _json(self.shards / "shards.json")["splits"]


@dataclass(frozen=True)
class Language:
    """What one language brings.

    Attributes:
        read, kept: documents.
        reasons: why documents were dropped, most frequent first; one document may have several.
        bytes: of the text kept, in UTF-8.
        tokens: of the text kept, with end tokens; None without shards.
        premium: tokens over English for the same content: 1.12 is 12 % more.
    """

    code: str
    read: int
    kept: int
    reasons: tuple[tuple[str, int], ...]
    bytes: int
    tokens: int | None
    bytes_per_token: float | None
    premium: float | None
    premium_basis: str | None

    @property
    def dropped(self) -> int:
        """Documents that were read and not kept."""
        return self.read - self.kept


def as_dict(row: Language) -> dict[str, Any]:
    """A language as JSON values."""
    return {**asdict(row), "reasons": dict(row.reasons), "dropped": row.dropped}


def languages(folders: Folders) -> list[Language]:
    """One row for each language that was read, the ones with most text first."""
    counts, premium, splits = folders.counts(), folders.premium(), folders.splits()
    read: Counter[str] = Counter()
    kept: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for group in counts["groups"]:
        code = group["language"] or NO_LANGUAGE
        read[code] += group["documents"]
        if group["split"]:
            kept[code] += group["documents"]
            sizes[code] += group["bytes"]
    reasons: dict[str, Counter[str]] = {code: Counter() for code in read}
    for row in counts["dropped"]:
        reasons.setdefault(row["language"] or NO_LANGUAGE, Counter())[row["reason"]] += row["documents"]
    rows = []
    for code in read:
        held = [languages[code] for languages in splits.values() if code in languages]
        tokens = sum(each["tokens"] for each in held) if splits else None
        measured = premium.get(code, {})
        rows.append(
            Language(
                code, read[code], kept[code], tuple(sorted(reasons[code].items(), key=lambda r: (-r[1], r[0]))),
                sizes[code], tokens,
                sum(each["bytes"] for each in held) / tokens if tokens else measured.get("bytes_per_token"),
                measured.get("premium"), measured.get("basis"),
            )
        )  # fmt: skip
    return sorted(rows, key=lambda row: (-row.bytes, -row.read, row.code))


@dataclass(frozen=True)
class Scan:
    """What one pass over the document table found.

    Attributes:
        reservations: documents by (signal, what it says, outcome); signal and saying are "" where nothing was found.
        personal: by language and kind, of the documents kept: documents, findings, and findings that a checksum holds.
        domains: domain, documents `read` and `kept`, and `bytes` kept; the largest MOST_ROWS of `domains_found`.
        clusters: the document that stayed, and `copies`, `exact`, `near` of it; the largest of `clusters_found`.
        items: evaluation items in documents: item, documents, kept, containment, longest; the most frequent of
            `items_found`.
        samples: rows of some documents kept, by language.
    """

    reservations: dict[tuple[str, str, str], int]
    personal: list[dict[str, Any]]
    domains: list[dict[str, Any]]
    domains_found: int
    clusters: list[dict[str, Any]]
    clusters_found: int
    items: list[dict[str, Any]]
    items_found: int
    samples: dict[str, list[dict[str, Any]]]


def scan(dataset: Path) -> Scan:
    """Read the document table of a dataset once, and once more for the largest clusters if there are any.

    Memory holds a row for each domain, each cluster of copies and each evaluation item.

    Raises:
        InputError: a table that cannot be read.
    """
    signals = _Signals.load(dataset / EVIDENCE)
    reservations = Tally(("signal", "outcome"), {"documents": "sum"})
    personal = Tally(("language", "kind"), {"documents": "sum", "findings": "sum", "checked": "sum"})
    domains = Tally(("domain",), {"read": "sum", "kept": "sum", "bytes": "sum"})
    copies = Tally(("cluster",), {"copies": "sum", "exact": "sum", "near": "sum"})
    items = Tally(("item",), {"documents": "sum", "kept": "sum", "containment": "max", "longest": "max"})
    samples: dict[str, list[dict[str, Any]]] = {}
    for table in _batches(dataset / TABLE):
        kept = table.filter(_is_valid(table["split"]))
        reservations.add(_reservations(table, signals))
        personal.add(_personal(kept))
        domains.add(_domains(table))
        copies.add(_copies(table))
        items.add(_items(table))
        _sample(kept, samples)
    named = {
        (*signals.labels[row["signal"]], row["outcome"]): row["documents"] for row in reservations.rows(("signal",))
    }
    return Scan(
        reservations=named,
        personal=personal.rows(("language", "kind")),
        domains=domains.rows(("-bytes", "-read", "domain"), MOST_ROWS),
        domains_found=len(domains),
        clusters=_with_survivors(dataset / TABLE, copies.rows(("-copies", "cluster"), MOST_ROWS)),
        clusters_found=len(copies),
        items=items.rows(("-documents", "item"), MOST_ROWS),
        items_found=len(items),
        samples={language: samples[language] for language in sorted(samples)},
    )


@dataclass(frozen=True)
class _Signals:
    """The evidence of a dataset: which kind of signal each statement is, and what it says.

    Attributes:
        words: first 64 bits of each id, sorted.
        codes: number of its label.
        labels: (kind, says); the last one stands for no evidence.
    """

    words: np.ndarray
    codes: np.ndarray
    labels: list[tuple[str, str]]

    @classmethod
    def load(cls, path: Path) -> _Signals:
        import numpy as np
        import pyarrow.parquet as pq

        if not path.is_file():
            return cls(np.zeros(0, np.uint64), np.zeros(0, np.int64), [("", "")])
        table = pq.read_table(path, columns=["id", "kind", "says"])
        pairs = list(zip(table["kind"].to_pylist(), table["says"].to_pylist(), strict=True))
        labels = sorted(set(pairs))
        number = {label: place for place, label in enumerate(labels)}
        words = id_words(table["id"])
        order = np.argsort(words, kind="stable")
        return cls(words[order], np.array([number[pair] for pair in pairs], np.int64)[order], [*labels, ("", "")])

    def of(self, ids: pa.Array) -> np.ndarray:
        """The label of each statement; that of no evidence for one that is not in the file."""
        import numpy as np

        if not len(self.words):
            return np.full(len(ids), len(self.labels) - 1)
        words = id_words(ids)
        places = np.minimum(np.searchsorted(self.words, words), len(self.words) - 1)
        return np.where(self.words[places] == words, self.codes[places], len(self.labels) - 1)


def _batches(path: Path) -> Iterator[pa.Table]:
    """The table in pieces, each with all of _COLUMNS; nulls where the file lacks one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            known = [name for name in _COLUMNS if name in file.schema_arrow.names]
            for batch in file.iter_batches(BATCH_ROWS, columns=known):
                columns = [batch[name] if name in known else _nulls(name, len(batch)) for name in _COLUMNS]
                yield pa.table(columns, names=list(_COLUMNS))
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read ({error}); make the dataset again.") from None


def _nulls(name: str, rows: int) -> pa.Array:
    """Stands for a column that an older table lacks."""
    import pyarrow as pa

    from hanse.data.schema import DOCUMENTS

    return pa.nulls(rows, DOCUMENTS.field(name).type)


def _exploded(column: pa.ChunkedArray) -> tuple[np.ndarray, Any]:
    """The row of each entry of a column of lists, and the entries."""
    import numpy as np
    import pyarrow.compute as pc

    lists = column.combine_chunks()
    return np.asarray(pc.list_parent_indices(lists)), pc.list_flatten(lists)


def _is_valid(column: pa.ChunkedArray) -> pa.ChunkedArray:
    import pyarrow.compute as pc

    return pc.is_valid(column)


def _reservations(table: pa.Table, signals: _Signals) -> pa.Table:
    """Each document once for each kind of signal that it carries, or once without any."""
    import numpy as np
    import pyarrow as pa

    rows, ids = _exploded(table["evidence"])
    bare = np.setdiff1d(np.arange(len(table)), rows)
    labels = np.concatenate([signals.of(ids), np.full(len(bare), len(signals.labels) - 1)])
    pairs = np.unique(np.stack([np.concatenate([rows, bare]), labels]), axis=1)
    outcome = table["reservation"].fill_null("unknown").take(pa.array(pairs[0]))
    return pa.table({"signal": pairs[1], "outcome": outcome, "documents": np.ones(pairs.shape[1], np.int64)})


def _personal(table: pa.Table) -> pa.Table:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    rows, findings = _exploded(table["pii"])
    kinds = pc.struct_field(findings, "kind")
    checked = pc.cast(pc.fill_null(pc.struct_field(findings, "checksum"), False), pa.int64())
    # A document counts once for each kind.
    codes = np.asarray(kinds.dictionary_encode().indices)
    first = np.zeros(len(rows), np.int64)
    first[np.unique(np.stack([rows, codes]), axis=1, return_index=True)[1]] = 1
    return pa.table(
        {
            "language": table["language"].take(pa.array(rows)), "kind": kinds, "documents": first,
            "findings": np.ones(len(rows), np.int64), "checked": checked,
        }
    )  # fmt: skip


def _domains(table: pa.Table) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    known = table.filter(_is_valid(table["domain"]))
    kept = pc.cast(_is_valid(known["split"]), pa.int64())
    sizes = pc.multiply(pc.fill_null(known["bytes"], 0), kept)
    return pa.table({"domain": known["domain"], "read": pa.repeat(1, len(known)), "kept": kept, "bytes": sizes})


def _copies(table: pa.Table) -> pa.Table:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    rows, reasons = _exploded(table["drop_reason"])
    exact, near = (rows[np.asarray(pc.equal(reasons, reason), bool)] for reason in COPY_REASONS)
    clusters = table["cluster"].take(pa.array(np.concatenate([exact, near])))
    is_exact = np.repeat([1, 0], [len(exact), len(near)])
    return pa.table({"cluster": clusters, "copies": np.ones_like(is_exact), "exact": is_exact, "near": 1 - is_exact})


def _items(table: pa.Table) -> pa.Table:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    rows, hits = _exploded(table["contamination"])
    kept = pc.cast(_is_valid(table["split"]).take(pa.array(rows)), pa.int64())
    values = {name: pc.struct_field(hits, name) for name in ("item", "containment", "longest")}
    return pa.table({**values, "documents": np.ones(len(rows), np.int64), "kept": kept})


def _sample(kept: pa.Table, samples: dict[str, list[dict[str, Any]]]) -> None:
    """Keep the documents of each language whose ids are lowest: ids are hashes, so this is a fair draw."""
    import pyarrow.compute as pc

    rows = kept.select(["id", "language", "source", "title", "licence"])
    for language in pc.unique(rows["language"]).drop_null().to_pylist():
        own = rows.filter(pc.equal(rows["language"], language))
        best = own.take(pc.select_k_unstable(own, k=SAMPLES, sort_keys=[("id", "ascending")])).to_pylist()
        samples[language] = sorted([*samples.get(language, ()), *best], key=lambda row: row["id"])[:SAMPLES]


def _with_survivors(path: Path, clusters: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The clusters, with what is known about the document that stayed."""
    import pyarrow as pa
    import pyarrow.compute as pc

    wanted = pa.array([cluster["cluster"] for cluster in clusters], pa.string())
    found: dict[str, dict[str, Any]] = {}
    shown = ["language", "source", "title", "domain", "licence"]
    for table in _batches(path) if clusters else ():
        is_survivor = pc.and_(_is_valid(table["split"]), pc.is_in(table["id"], value_set=wanted))
        for row in table.select(["id", *shown]).filter(is_survivor).to_pylist():
            found[row.pop("id")] = row
    return [{**dict.fromkeys(shown), **found.get(cluster["cluster"], {}), **cluster} for cluster in clusters]


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); make the artifact again.") from None
