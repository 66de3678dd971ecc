"""From sources to a dataset: read strictly, annotate every document, then select by the recipe's policy.

    read -> annotate -> find duplicates -> choose the validation split -> write what stays, and a row for what does not

Nothing is dropped before the end: each document gets its reasons, and the document table keeps them, so that a changed
policy, an audit or a summary needs no second reading.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hanse.data import dedup, rights
from hanse.data.language_id import SHORT_CHARACTERS, LanguageIdentifier, agrees
from hanse.data.schema import DOCUMENTS, INGEST, TEXT
from hanse.data.sources import Fault, read
from hanse.errors import InputError

if TYPE_CHECKING:
    from hanse.recipe import Curate, Source
    from hanse.store.stage import Work

Progress = Callable[[str, int, int | None], None]

BATCH_BYTES = 16 * 2**20  # of text held in memory at a time
BATCH_DOCUMENTS = 4096
FILE_BYTES = 512 * 2**20  # of text in one Parquet file
HOPELESS_FAULTS = 10_000  # enough to judge a source before its end
VALIDATION_FLOOR = 10  # a language with this many documents has at least one in validation
_COUNTED = ("language", "source", "collection", "licence", "split")


def curate(
    work: Work,
    sources: Sequence[Source],
    settings: Curate,
    *,
    languages: tuple[str, ...],
    seed: int,
    progress: Progress | None = None,
) -> None:
    """Write a dataset artifact: `text/`, `documents.parquet`, `quarantine.jsonl`, `counts.json`.

    Args:
        work: the folder to fill, and a scratch folder for the ingested text (about the size of the text, compressed).
        sources: the recipe's sources of running text, in order of preference among copies.
        settings: the recipe's [curate].
        languages: ISO 639-1 codes that the recipe asks for.
        seed: of the atlas and of the validation split.
        progress: called with a phrase, the documents done, and their total where it is known.

    Raises:
        InputError: a source that cannot be read or holds too many bad records; a language without documents; too few
            documents for a validation split.
    """
    say = progress or (lambda phrase, done, total: None)
    work.scratch.mkdir(parents=True, exist_ok=True)
    ingest = work.scratch / "ingest.parquet"
    with open(work.folder / "quarantine.jsonl", "w", encoding="utf-8", newline="\n") as quarantine:
        faults = _ingest(ingest, sources, settings, languages, seed, quarantine, say)
    say("looking for duplicates", 0, None)
    duplicates = dedup.duplicates(ingest)
    validation = _validation(ingest, duplicates, settings, languages, seed)
    counts = _select(work.folder, ingest, duplicates, validation, say)
    counts["quarantined"] = [
        {"source": source, "reason": reason, "records": n} for (source, reason), n in sorted(faults.items())
    ]
    text = json.dumps(counts, ensure_ascii=False, indent=1, sort_keys=True)
    (work.folder / "counts.json").write_text(text + "\n", encoding="utf-8")
    ingest.unlink()
    broken = sum(n for (_, reason), n in faults.items() if reason == "broken-file")
    work.note(
        documents=counts["documents"], kept=counts["kept"], text_bytes=counts["kept_bytes"],
        quarantined=sum(faults.values()), broken_files=broken,
    )  # fmt: skip


def _ingest(
    path: Path,
    sources: Sequence[Source],
    settings: Curate,
    languages: tuple[str, ...],
    seed: int,
    quarantine: TextIO,
    say: Progress,
) -> Counter[tuple[str, str]]:
    """Read and annotate every document into one Parquet file; count the faults by source and reason."""
    annotate = Annotator(settings, languages)
    faults: Counter[tuple[str, str]] = Counter()
    ordinal = 0
    with pq.ParquetWriter(path, INGEST, compression="zstd", compression_level=1) as writer:
        for index, source in enumerate(sources):
            watch = _Watch(source, settings.max_quarantine_share, quarantine, faults)
            batch: list[dict[str, Any]] = []
            held = 0
            for row in read(source, languages=languages, seed=seed, on_fault=watch.fault):
                watch.documents += 1
                row["ordinal"] = ordinal
                annotate(row, index, is_own=source.kind == "atlas")
                ordinal += 1
                batch.append(row)
                held += row["bytes"]
                if held >= BATCH_BYTES or len(batch) >= BATCH_DOCUMENTS:
                    writer.write_batch(pa.RecordBatch.from_pylist(batch, INGEST))
                    say(f"reading {source.name}", watch.documents, None)
                    batch, held = [], 0
            if batch:
                writer.write_batch(pa.RecordBatch.from_pylist(batch, INGEST))
            watch.judge(is_finished=True)
            say(f"read {source.name}", watch.documents, watch.documents)
    return faults


class Annotator:
    """Adds the ANNOTATIONS columns to a row: what can be said about one document by itself."""

    def __init__(self, settings: Curate, languages: tuple[str, ...]) -> None:
        self._settings = settings
        self._languages = frozenset(languages)
        self._identifier = LanguageIdentifier(languages) if settings.identify_language else None

    def __call__(self, row: dict[str, Any], source_index: int, *, is_own: bool) -> None:
        """Annotate in place; `is_own` text was generated by Hanse and is not asked which language it is in."""
        settings = self._settings
        text = row["text"]
        licence = row["licence"] = rights.canonical(row["licence"], settings.licences)
        row["bytes"] = len(text.encode())
        row["characters"] = len(text)
        row["cluster"] = row["id"]
        row["rank"] = dedup.rank(duties=rights.duties(licence), source_index=source_index, ordinal=row["ordinal"])
        reasons = rights.reservation_reasons(row["reservation"], on_unknown=settings.on_unknown_reservation)
        if not rights.is_allowed(licence, settings.licences):
            reasons.append("licence-not-allowed")
        if row["characters"] < settings.min_characters and not is_own:
            reasons.append("too-short")
        if row["characters"] > settings.max_characters:
            reasons.append("too-long")
        row["flags"] = []
        row["lang"] = row["lang_score"] = None
        if not is_own and self._identifier is not None:
            row["lang"], row["lang_score"] = self._identifier.identify(text)
        reasons += self._language_reasons(row)
        row["drop_reason"] = reasons

    def _language_reasons(self, row: dict[str, Any]) -> list[str]:
        """Settle the language; a declared one stands unless a long enough text clearly speaks against it."""
        identified, score = row["lang"], row["lang_score"]
        is_sure = identified is not None and score >= self._settings.min_language_score
        if row["language"] is None:
            if not is_sure:
                return ["language-unknown"]
            row["language"] = identified
        reasons = []
        if row["language"] not in self._languages:
            reasons.append("language-not-asked-for")
        if identified is not None and row["language"] != identified:
            row["flags"].append("language-doubtful")
            if is_sure and row["characters"] >= SHORT_CHARACTERS and not agrees(row["language"], identified):
                reasons.append("language-mismatch")
        return reasons


class _Watch:
    """Writes the faults of one source to the quarantine file and stops the run when they are too many."""

    def __init__(self, source: Source, limit: float, file: TextIO, counts: Counter[tuple[str, str]]) -> None:
        self._source, self._limit, self._file, self._counts = source, limit, file, counts
        self._first: Fault | None = None
        self.documents = self._faults = 0

    def fault(self, fault: Fault) -> None:
        """Record one fault."""
        self._first = self._first or fault
        self._faults += 1
        self._counts[fault.source, fault.reason] += 1
        self._file.write(json.dumps(dataclasses.asdict(fault), ensure_ascii=False) + "\n")
        if self._faults % HOPELESS_FAULTS == 0:
            self.judge(is_finished=False)

    def judge(self, *, is_finished: bool) -> None:
        """Raise InputError if the share of faults is over the limit."""
        seen = self.documents + self._faults
        share = self._faults / seen if seen else 0.0
        if self._first is None or share <= self._limit:
            return
        place = f"{self._first.file}, line {self._first.line}" if self._first.line else self._first.file
        so_far = "" if is_finished else " so far"
        raise InputError(
            f"source '{self._source.name}', {place}: {self._first.detail}. Quarantined ({self._faults} of "
            f"{seen}{so_far}, {100 * share:.1f} %; the limit is {100 * self._limit:g} %); mend the source or raise "
            "[curate] max_quarantine_share."
        )


def _validation(
    ingest: Path, duplicates: np.ndarray, settings: Curate, languages: tuple[str, ...], seed: int
) -> np.ndarray:
    """Ordinals of the validation documents, sorted: in each language those whose id hashes lowest under the seed.

    A document's place in that order depends on its text and the seed alone, so a document rarely changes its split when
    others come or go.
    """
    chosen = []
    counts: Counter[str] = Counter()
    reasons: Counter[tuple[str, str]] = Counter()
    hashes: dict[str, list[np.ndarray]] = {}
    ordinals: dict[str, list[np.ndarray]] = {}
    for language, hash_, ordinal in _kept(ingest, duplicates, seed, reasons):
        hashes.setdefault(language, []).append(hash_)
        ordinals.setdefault(language, []).append(ordinal)
        counts[language] += len(ordinal)
    _check_languages(languages, counts, reasons)
    for language in sorted(counts):
        count = counts[language]
        size = round(settings.validation_share * count)
        if settings.validation_share > 0 and count >= VALIDATION_FLOOR:
            size = max(size, 1)
        order = np.argsort(np.concatenate(hashes[language]), kind="stable")
        chosen.append(np.concatenate(ordinals[language])[order[: min(size, count - 1)]])
    validation = np.sort(np.concatenate(chosen))
    if settings.validation_share > 0 and not len(validation):
        raise InputError(
            f"[curate] validation_share: {sum(counts.values())} documents are too few for a validation split, which "
            f"needs {VALIDATION_FLOOR} in at least one language; add documents or set it to 0."
        )
    return validation


def _check_languages(languages: tuple[str, ...], counts: Counter[str], reasons: Counter[tuple[str, str]]) -> None:
    missing = [language for language in languages if not counts[language]]
    if missing:
        why = [f"{n} dropped as {reason}" for (language, reason), n in reasons.most_common() if language == missing[0]]
        raise InputError(
            f"languages: no document is left in '{missing[0]}' ({', '.join(why[:3]) or 'the sources hold none'}); "
            f"add a source or take {', '.join(missing)} out of the recipe's languages."
        )


def _kept(
    ingest: Path, duplicates: np.ndarray, seed: int, reasons: Counter[tuple[str, str]]
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Per batch and language, the keyed hashes and ordinals of documents that stay; counts the reasons of others."""
    with pq.ParquetFile(ingest) as file:
        for batch in file.iter_batches(columns=["id", "language", "ordinal", "drop_reason"]):
            rows: dict[str, tuple[list[int], list[int]]] = {}
            is_duplicate = np.isin(batch.column("ordinal").to_numpy(), duplicates, assume_unique=True).tolist()
            for row, duplicate in zip(batch.to_pylist(), is_duplicate, strict=True):
                for reason in row["drop_reason"]:
                    reasons[row["language"], reason] += 1
                if not row["drop_reason"] and not duplicate:
                    hashes, ordinals = rows.setdefault(row["language"], ([], []))
                    hashes.append(int(row["id"][:16], 16))
                    ordinals.append(row["ordinal"])
            for language, (hashes, ordinals) in rows.items():
                yield language, _mixed(np.array(hashes, np.uint64), seed), np.array(ordinals, np.int64)


def _mixed(values: np.ndarray, seed: int) -> np.ndarray:
    """A keyed order over 64-bit values that are uniform already: one multiply-xorshift round (Vigna's splitmix64)."""
    mixed = values ^ np.uint64((seed * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) % 2**64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    return mixed ^ (mixed >> np.uint64(27))


def _select(
    folder: Path, ingest: Path, duplicates: np.ndarray, validation: np.ndarray, say: Progress
) -> dict[str, Any]:
    """Write the kept text by split and the whole document table; count by language, source, licence and reason."""
    (folder / "text").mkdir()
    counts = _Counts()
    writers = {split: _TextFiles(folder / "text", split) for split in ("train", "validation")}
    table = pq.ParquetWriter(folder / "documents.parquet", DOCUMENTS, compression="zstd")
    with pq.ParquetFile(ingest) as file, table:
        total = file.metadata.num_rows
        for group in range(file.num_row_groups):
            batch = file.read_row_group(group)
            ordinals = batch.column("ordinal").to_numpy()
            is_duplicate = np.isin(ordinals, duplicates, assume_unique=True).tolist()
            in_validation = np.isin(ordinals, validation, assume_unique=True).tolist()
            rows = batch.drop_columns(["text", "rank"]).to_pylist()
            for row, duplicate, held_out in zip(rows, is_duplicate, in_validation, strict=True):
                if duplicate:
                    row["drop_reason"].append("duplicate")
                row["split"] = None if row["drop_reason"] else "validation" if held_out else "train"
                counts.add(row)
            table.write_table(pa.Table.from_pylist(rows, DOCUMENTS))
            for split, writer in writers.items():
                mask = pa.array([row["split"] == split for row in rows])
                writer.write(batch.select(TEXT.names).filter(mask))
            say("writing", int(ordinals[-1]) + 1, total)
    for writer in writers.values():
        writer.close()
    return counts.summary()


class _TextFiles:
    """`text/<split>-00000.parquet` and on, a new file when one is full; a split without documents has no file."""

    def __init__(self, folder: Path, split: str) -> None:
        self._folder, self._split = folder, split
        self._number = self._held = 0
        self._writer: pq.ParquetWriter | None = None

    def write(self, table: pa.Table) -> None:
        """Append rows of the TEXT schema."""
        if not table.num_rows:
            return
        if self._held >= FILE_BYTES:
            self.close()
        if self._writer is None:
            path = self._folder / f"{self._split}-{self._number:05d}.parquet"
            self._writer = pq.ParquetWriter(path, TEXT, compression="zstd")
            self._number += 1
            self._held = 0
        self._writer.write_table(table.cast(TEXT))
        self._held += table.nbytes

    def close(self) -> None:
        """Finish the open file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class _Counts:
    """Documents and bytes, kept and dropped, for `counts.json`."""

    def __init__(self) -> None:
        self._groups: Counter[tuple[str | None, ...]] = Counter()
        self._bytes: Counter[tuple[str | None, ...]] = Counter()
        self._reasons: Counter[tuple[str, str, str]] = Counter()

    def add(self, row: dict[str, Any]) -> None:
        """Count one document."""
        key = tuple(row[column] for column in _COUNTED)
        self._groups[key] += 1
        self._bytes[key] += row["bytes"]
        for reason in row["drop_reason"]:
            self._reasons[row["language"] or "", row["source"], reason] += 1

    def summary(self) -> dict[str, Any]:
        """JSON data, in sorted order."""
        ordered = sorted(self._groups, key=lambda key: tuple(value or "" for value in key))
        groups = [
            {**dict(zip(_COUNTED, key, strict=True)), "documents": self._groups[key], "bytes": self._bytes[key]}
            for key in ordered
        ]
        kept = [group for group in groups if group["split"]]
        return {
            "documents": sum(self._groups.values()),
            "bytes": sum(self._bytes.values()),
            "kept": sum(group["documents"] for group in kept),
            "kept_bytes": sum(group["bytes"] for group in kept),
            "groups": groups,
            "dropped": [
                {"language": language or None, "source": source, "reason": reason, "documents": n}
                for (language, source, reason), n in sorted(self._reasons.items())
            ],
        }
