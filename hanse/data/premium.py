"""What a language pays: bytes per token, and tokens over English for the same content.

Where the same documents exist in both languages (they share a parallel key), the premium is a ratio of their tokens.
Else it is the ratio of English bytes per token to the language's own, which favours scripts of two bytes a letter; the
table says which.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow.parquet as pq

SAMPLE_BYTES = 200_000  # per language, validation first
PARALLEL_DOCUMENTS = 100  # pairs with English that are compared, per language
MIN_PARALLEL_TOKENS = 500  # less says nothing
REFERENCE = "en"


class Counter(Protocol):
    """Whatever says how many tokens a text has."""

    def lengths(self, texts: Sequence[bytes]) -> np.ndarray:
        """Tokens of each text, int64."""
        ...


def measure(tokenizer: Counter, dataset: Path) -> dict[str, Any]:
    """Bytes per token and premium over English, per language, on a dataset's own text.

    Returns:
        {"reference": "en", "languages": [{"language", "bytes", "characters", "tokens", "bytes_per_token", "premium",
        "basis": "parallel" | "bytes" | None}]}; premium 1.12 means 12 % more tokens than English.
    """
    samples, parallel = _collect(dataset)
    totals: dict[str, tuple[int, int, int]] = {}
    for language, texts in sorted(samples.items()):
        encoded = [text.encode() for text in texts]
        totals[language] = (sum(map(len, encoded)), sum(map(len, texts)), int(tokenizer.lengths(encoded).sum()))
    premiums = _parallel_premiums(tokenizer, parallel)
    reference = totals.get(REFERENCE)
    rows = []
    for language, (size, characters, tokens) in totals.items():
        premium, basis = premiums.get(language), "parallel"
        if premium is None and reference is not None:
            premium, basis = (reference[0] / reference[2]) / (size / tokens), "bytes"
        rows.append(
            {
                "language": language, "bytes": size, "characters": characters, "tokens": tokens,
                "bytes_per_token": round(size / tokens, 4),
                "premium": None if premium is None else round(premium, 4),
                "basis": None if premium is None else basis,
            }
        )  # fmt: skip
    return {"reference": REFERENCE, "languages": rows}


def table(premium: dict[str, Any]) -> str:
    """The figures as lines for people."""
    lines = ["language   bytes/token   characters/token   tokens over English"]
    for row in premium["languages"]:
        over = "-" if row["premium"] is None else f"{100 * (row['premium'] - 1):+.0f} % ({row['basis']})"
        characters = row["characters"] / row["tokens"]
        lines.append(f"{row['language']:<8} {row['bytes_per_token']:>13.2f} {characters:>18.2f}   {over:>19}")
    return "\n".join(lines)


def _collect(dataset: Path) -> tuple[dict[str, list[str]], dict[str, dict[str, str]]]:
    """Texts by language up to SAMPLE_BYTES, and texts by parallel key and language."""
    key_of = _parallel_keys(dataset)
    samples: dict[str, list[str]] = defaultdict(list)
    held: dict[str, int] = defaultdict(int)
    parallel: dict[str, dict[str, str]] = defaultdict(dict)
    for row in _rows(dataset):
        language, text = row["language"], row["text"]
        if held[language] < SAMPLE_BYTES and text:
            samples[language].append(text[:SAMPLE_BYTES])
            held[language] += len(text)
        if key := key_of.get(row["id"]):
            parallel[key][language] = text
    return samples, parallel


def _parallel_keys(dataset: Path) -> dict[str, str]:
    """Document id -> parallel key, for a bounded number of keys that English has too."""
    chosen: dict[str, str] = {}
    others: list[tuple[str, str]] = []
    columns = ["id", "language", "collection", "extra", "split"]
    with pq.ParquetFile(dataset / "documents.parquet") as file:
        for batch in file.iter_batches(columns=columns):
            for row in batch.to_pylist():
                if row["split"] is None or not row["extra"] or "parallel_key" not in row["extra"]:
                    continue
                extra = json.loads(row["extra"])
                key = extra.get("parallel_key") if isinstance(extra, dict) else None
                if isinstance(key, str):
                    others.append((row["id"], f"{row['collection']} {key}"))
                    if row["language"] == REFERENCE and len(chosen) < PARALLEL_DOCUMENTS:
                        chosen[others[-1][1]] = row["id"]
    return {document: key for document, key in others if key in chosen}


def _parallel_premiums(tokenizer: Counter, parallel: dict[str, dict[str, str]]) -> dict[str, float]:
    """Tokens of a language over tokens of English, on the documents that both have."""
    own: dict[str, int] = defaultdict(int)
    english: dict[str, int] = defaultdict(int)
    for texts in parallel.values():
        if REFERENCE not in texts:
            continue
        # Half-translated pages lack paragraphs; they would look cheap.
        paragraphs = texts[REFERENCE].count("\n")
        languages = [language for language, text in texts.items() if text.count("\n") == paragraphs]
        lengths = tokenizer.lengths([texts[language].encode() for language in languages])
        counts = dict(zip(languages, lengths.tolist(), strict=True))
        for language in languages:
            own[language] += counts[language]
            english[language] += counts[REFERENCE]
    return {language: own[language] / english[language] for language in own if english[language] >= MIN_PARALLEL_TOKENS}


def _rows(dataset: Path) -> Iterator[dict[str, Any]]:
    """Validation text, which the tokenizer has not seen, then train."""
    for split in ("validation", "train"):
        for path in sorted((dataset / "text").glob(f"{split}-*.parquet")):
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(columns=["id", "language", "text"], batch_size=1024):
                    yield from batch.to_pylist()
