"""Passages for the data report: beginnings of documents, kept and dropped, and records that could not be read.

Personal data is masked here once more, whatever the recipe leaves in the text itself.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hanse.languages import LANGUAGES
from hanse.report.figures import NO_LANGUAGE
from hanse.report.page import Quote

# One JSON object a line: id, language, source, reason, and the beginning of the text, at most CHARACTERS, masked.
DROPPED = "samples.jsonl"
CHARACTERS = 200
EXAMPLES = 3  # of each reason
_READ_CHARACTERS = 4000  # of a text, in which personal data is looked for before it is cut


def kept(dataset: Path, rows: Mapping[str, Sequence[dict[str, Any]]]) -> tuple[Quote, ...]:
    """The beginnings of these documents, by language."""
    chosen = [row for held in rows.values() for row in held]
    found = _texts(dataset, {row["id"] for row in chosen})
    texts = _masked([(found.get(row["id"], ""), row["language"]) for row in chosen])
    return tuple(
        Quote(_about(row, row["title"] or "untitled", row["licence"]), text, row["language"])
        for row, text in zip(chosen, texts, strict=True)
    )


def dropped(dataset: Path) -> tuple[Quote, ...] | None:
    """The samples that the dataset keeps of dropped documents, by language and reason; None if it keeps none."""
    if not (dataset / DROPPED).is_file():
        return None
    held: Counter[tuple[str, str]] = Counter()
    chosen = []
    for row in _json_lines(dataset / DROPPED):
        key = (row["language"] or NO_LANGUAGE, row["reason"])
        held[key] += 1
        if held[key] <= EXAMPLES:
            chosen.append({**row, "language": key[0]})
    chosen.sort(key=lambda row: (row["language"], row["reason"], row["id"]))
    texts = _masked([(row["text"], row["language"]) for row in chosen])
    return tuple(
        Quote(_about(row, row["reason"]), text, row["language"]) for row, text in zip(chosen, texts, strict=True)
    )


def faults(dataset: Path, reasons: set[str]) -> tuple[Quote, ...]:
    """The first records of each reason in the quarantine; reads no further than it has to."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in _json_lines(dataset / "quarantine.jsonl"):
        held = found.setdefault(row["reason"], [])
        if len(held) < EXAMPLES:
            held.append(row)
            if all(len(found.get(reason, ())) == EXAMPLES for reason in reasons):
                break
    chosen = [row for reason in sorted(found) for row in found[reason]]
    details = _masked([(str(row["detail"]), NO_LANGUAGE) for row in chosen])
    return tuple(
        Quote(f"{row['reason']}: {row['source']}, {row['file']}, line {row['line']}", detail)
        for row, detail in zip(chosen, details, strict=True)
    )


def _about(row: Mapping[str, Any], *more: str) -> str:
    return ", ".join([row["language"], *more, row["source"], row["id"]])


def _texts(dataset: Path, wanted: set[str]) -> dict[str, str]:
    """The beginnings of kept texts by id. A text is read only where one of its row group is wanted."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    names = pa.array(sorted(wanted), pa.string())
    found: dict[str, str] = {}
    for path in sorted((dataset / "text").glob("*.parquet")):
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                if len(found) == len(wanted):
                    return found
                is_wanted = pc.is_in(file.read_row_group(group, columns=["id"])["id"], value_set=names)
                if pc.any(is_wanted).as_py():
                    table = file.read_row_group(group, columns=["id", "text"]).filter(is_wanted)
                    heads = pc.utf8_slice_codeunits(table["text"], 0, _READ_CHARACTERS)
                    found.update(zip(table["id"].to_pylist(), heads.to_pylist(), strict=True))
    return found


def _masked(texts: Sequence[tuple[str, str]]) -> list[str]:
    """The beginning of each (text, language), without personal data."""
    from hanse.data.pii.detect import Detector
    from hanse.data.pii.replace import masked

    if not texts:
        return []
    detector = Detector(sorted({language for _, language in texts} & set(LANGUAGES)) or sorted(LANGUAGES))
    heads = [(text[:_READ_CHARACTERS], language) for text, language in texts]
    return [masked(head, detector.find(head, language), CHARACTERS) for head, language in heads]


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                yield json.loads(line)
