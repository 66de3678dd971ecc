"""The last step of curation: apply the policy to annotated parts, and write what stays, and a row for what does not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hanse.data.dedup import Clusters
from hanse.data.samples import Samples
from hanse.data.schema import DOCUMENTS, TEXT
from hanse.errors import InputError
from hanse.trace.leaving import NAMING, REASON, Leaving

if TYPE_CHECKING:
    from hanse.recipe import Curate

FILE_BYTES = 512 * 2**20  # of text in one Parquet file
VALIDATION_FLOOR = 10  # a language with this many documents has at least one in validation
COUNTED = ("language", "source", "collection", "licence", "licence_basis", "jurisdiction", "reservation", "split")
Replace = Callable[[str, Sequence[dict[str, Any]], str], str]  # text, findings, language -> the text without them


@dataclass(frozen=True)
class Verdict:
    """What is decided about documents together: copies, who is held out for validation (ordinals, sorted), and what was
    withdrawn.
    """

    clusters: Clusters
    validation: np.ndarray
    leaving: Leaving = field(default_factory=Leaving)


def choose_validation(
    parts: Sequence[Path],
    clusters: Clusters,
    settings: Curate,
    *,
    languages: tuple[str, ...],
    seed: int,
    leaving: Leaving | None = None,
) -> np.ndarray:
    """Ordinals of the validation documents, sorted: in each language those whose id hashes lowest under the seed.

    A document's place in that order depends on its text and the seed alone, so a document rarely changes its split when
    others come or go.

    Raises:
        InputError: a language of the recipe has no document left, or there are too few for a split.
    """
    chosen = []
    hashes: dict[str, list[np.ndarray]] = {}
    ordinals: dict[str, list[np.ndarray]] = {}
    reasons: Counter[tuple[str, str]] = Counter()
    withdrawn = (leaving or Leaving()).ordinals
    for table in _tables(parts, ["id", "language", "ordinal", "drop_reason"]):
        own = table["ordinal"].to_numpy()
        leaves = _among(own, withdrawn)
        _count_reasons(table, leaves, reasons)
        stays = (pc.list_value_length(table["drop_reason"]).to_numpy() == 0) & ~_among(own, clusters.ordinals)
        stays &= ~leaves
        kept = table.select(["id", "language"]).filter(pa.array(stays))
        own = own[stays]
        keys = np.array([int(name[:16], 16) for name in kept["id"].to_pylist()], np.uint64)
        code_of = kept["language"].to_numpy(zero_copy_only=False)
        for language in sorted(set(code_of.tolist())):
            mask = code_of == language
            hashes.setdefault(language, []).append(_mixed(keys[mask], seed))
            ordinals.setdefault(language, []).append(own[mask])
    counts = {language: sum(map(len, found)) for language, found in ordinals.items()}
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


def _check_languages(languages: tuple[str, ...], counts: dict[str, int], reasons: Counter[tuple[str, str]]) -> None:
    missing = [language for language in languages if not counts.get(language)]
    if missing:
        why = [f"{n} dropped as {reason}" for (language, reason), n in reasons.most_common() if language == missing[0]]
        raise InputError(
            f"languages: no document is left in '{missing[0]}' ({', '.join(why[:3]) or 'the sources hold none'}); "
            f"add a source or take {', '.join(missing)} out of the recipe's languages."
        )


def select(
    folder: Path, parts: Sequence[Path], verdict: Verdict, *, replace: Replace, say: Callable[[int], None]
) -> dict[str, Any]:
    """Write the kept text by split, the whole document table, and some samples of what was dropped.

    Args:
        folder: of the dataset.
        parts: annotated documents, in order.
        replace: takes personal data out of a text.
        say: called with the documents done.

    Returns:
        Counts by language, source, licence and so on, kept and dropped, with reasons: what goes to `counts.json`.
    """
    (folder / "text").mkdir()
    counts, samples = _Counts(), Samples()
    writers = {split: _TextFiles(folder / "text", split) for split in ("train", "validation")}
    ids = _survivor_ids(parts, verdict.clusters)
    done = 0
    with pq.ParquetWriter(folder / "documents.parquet", DOCUMENTS, compression="zstd") as writer:
        for table in _tables(parts, None):
            documents = _decide(table, verdict, ids)
            writer.write_table(documents)
            counts.add(documents)
            samples.add(table, documents)
            for split, text_files in writers.items():
                text_files.write(_texts(table, documents["split"], split, replace))
            done += table.num_rows
            say(done)
    for text_files in writers.values():
        text_files.close()
    samples.write(folder / "samples.jsonl")
    return counts.summary()


def _decide(table: pa.Table, verdict: Verdict, ids: dict[int, str]) -> pa.Table:
    """A batch of annotated documents as rows of the document table."""
    ordinals = table["ordinal"].to_numpy()
    reasons = table["drop_reason"].to_pylist()
    own = table["id"].to_pylist()
    clusters = list(own)
    copies = np.flatnonzero(_among(ordinals, verdict.clusters.ordinals))
    survivors = verdict.clusters.survivors[np.searchsorted(verdict.clusters.ordinals, ordinals[copies])]
    leaves = _among(ordinals, verdict.leaving.ordinals)
    for row, survivor in zip(copies.tolist(), survivors.tolist(), strict=True):
        clusters[row] = ids[survivor]
        if not leaves[row]:
            reasons[row].append("duplicate" if ids[survivor] == own[row] else "near-duplicate")
    for row in np.flatnonzero(leaves).tolist():
        reasons[row].append(REASON)
    is_nameless = pa.array(_among(ordinals, verdict.leaving.nameless))
    held_out = _among(ordinals, verdict.validation).tolist()
    splits = [
        None if why else "validation" if is_held_out else "train"
        for why, is_held_out in zip(reasons, held_out, strict=True)
    ]
    made = {
        "cluster": pa.array(clusters, pa.string()),
        "drop_reason": pa.array(reasons, DOCUMENTS.field("drop_reason").type),
        "split": pa.array(splits, pa.string()),
    }
    made |= {name: _blanked(table[name], is_nameless) for name in NAMING} if verdict.leaving.nameless.size else {}
    return pa.table(
        [made.get(name, table[name] if name in table.column_names else None) for name in DOCUMENTS.names],
        schema=DOCUMENTS,
    )


def _blanked(column: pa.ChunkedArray, is_nameless: pa.Array) -> pa.ChunkedArray:
    return pc.if_else(is_nameless, pa.scalar(None, column.type), column)


def _texts(table: pa.Table, splits: pa.ChunkedArray, split: str, replace: Replace) -> pa.Table:
    """The texts of one split, personal data replaced."""
    kept = table.filter(pc.fill_null(pc.equal(splits, split), False))
    found = kept["pii"]
    hit = np.flatnonzero(pc.fill_null(pc.list_value_length(found), 0).to_numpy())
    if not len(hit):
        return kept.select(TEXT.names)
    texts, languages = kept["text"].to_pylist(), kept["language"].to_pylist()
    for row, findings in zip(hit.tolist(), found.take(pa.array(hit)).to_pylist(), strict=True):
        texts[row] = replace(texts[row], findings, languages[row])
    place = kept.column_names.index("text")
    return kept.set_column(place, "text", pa.array(texts, pa.string())).select(TEXT.names)


def _survivor_ids(parts: Sequence[Path], clusters: Clusters) -> dict[int, str]:
    wanted = np.unique(clusters.survivors)
    ids: dict[int, str] = {}
    if len(wanted):
        for table in _tables(parts, ["ordinal", "id"]):
            chosen = table.filter(pa.array(_among(table["ordinal"].to_numpy(), wanted)))
            ids.update(zip(chosen["ordinal"].to_pylist(), chosen["id"].to_pylist(), strict=True))
    return ids


def _tables(parts: Sequence[Path], columns: list[str] | None) -> Iterator[pa.Table]:
    """The row groups of all parts, in order."""
    for path in parts:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                yield file.read_row_group(group, columns=columns)


def _count_reasons(table: pa.Table, leaves: np.ndarray, reasons: Counter[tuple[str, str]]) -> None:
    for language in table["language"].filter(pa.array(leaves)).to_pylist():
        reasons[language, REASON] += 1
    dropped = table.filter(pc.greater(pc.list_value_length(table["drop_reason"]), 0))
    for language, why in zip(dropped["language"].to_pylist(), dropped["drop_reason"].to_pylist(), strict=True):
        for reason in why:
            reasons[language, reason] += 1


def _among(values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Which values are in `wanted` (sorted), bool."""
    if not len(wanted):
        return np.zeros(len(values), bool)
    places = np.minimum(np.searchsorted(wanted, values), len(wanted) - 1)
    return wanted[places] == values


def _mixed(values: np.ndarray, seed: int) -> np.ndarray:
    """A keyed order over 64-bit values that are uniform already: one multiply-xorshift round (Vigna's splitmix64)."""
    mixed = values ^ np.uint64((seed * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) % 2**64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    return mixed ^ (mixed >> np.uint64(27))


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

    def add(self, documents: pa.Table) -> None:
        """Count rows of the document table."""
        grouped = documents.group_by(list(COUNTED)).aggregate([("bytes", "sum"), ("bytes", "count")])
        for row in grouped.to_pylist():
            key = tuple(row[column] for column in COUNTED)
            self._groups[key] += row["bytes_count"]
            self._bytes[key] += row["bytes_sum"]
        dropped = documents.select(["language", "source", "drop_reason"]).filter(pc.is_null(documents["split"]))
        for row in dropped.to_pylist():
            for reason in row["drop_reason"]:
                self._reasons[row["language"] or "", row["source"], reason] += 1

    def summary(self) -> dict[str, Any]:
        """JSON data, in sorted order."""
        ordered = sorted(self._groups, key=lambda key: tuple(value or "" for value in key))
        groups = [
            {**dict(zip(COUNTED, key, strict=True)), "documents": self._groups[key], "bytes": self._bytes[key]}
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
