"""Language identification on real documents: which language is read as which, whole documents and short sentences.

    python bench/languages.py [--corpus ../shared/corpus] [--output bench/results/languages.json]

A short sentence is the beginning of a document's longest line, cut at a word within 60 characters. Agreement counts
languages that even good identifiers read as each other (Norwegian and Danish of 1880, Croatian and Serbian) as wrong.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import conditions

from hanse.data.language_id import LanguageIdentifier
from hanse.languages import LANGUAGES

ROOT = Path(__file__).parents[1]
SHORT = 60


def documents(corpus: Path) -> dict[str, list[str]]:
    """Texts by declared language."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(corpus.glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                found[row["language"].split("-")[0]].append(row["text"])
    return dict(sorted(found.items()))


def sentence(text: str) -> str:
    """At most SHORT characters of the longest line."""
    line = max(text.splitlines() or [""], key=len)
    return line[:SHORT].rsplit(" ", 1)[0] if len(line) > SHORT else line


def confusion(texts: dict[str, list[str]]) -> tuple[list[dict[str, Any]], float]:
    """A row for each language, and CPU seconds."""
    identifier = LanguageIdentifier(LANGUAGES)
    begin = time.process_time()
    rows = []
    for language, own in texts.items():
        read_as = Counter(code for code, _ in identifier.identify(own))
        right = read_as.pop(language, 0)
        rows.append({
            "language": language, "documents": len(own), "agreement": round(right / len(own), 4),
            "read_as": dict(read_as.most_common(5)),
        })  # fmt: skip
    return rows, time.process_time() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    conditions.add_corpus(parser)
    parser.add_argument("--output", type=Path, default=conditions.RESULTS / "languages.json")
    arguments = parser.parse_args()
    texts = documents(arguments.corpus)
    short = {language: [sentence(text) for text in own] for language, own in texts.items()}
    whole_rows, whole_seconds = confusion(texts)
    short_rows, _ = confusion(short)
    print(f"{'':4}{'documents':>10}{'whole':>9}{'60 chars':>10}  read as, of 60 characters")
    for whole, brief in zip(whole_rows, short_rows, strict=True):
        others = ", ".join(f"{code} {n}" for code, n in brief["read_as"].items())
        print(
            f"{whole['language']:4}{whole['documents']:>10}{100 * whole['agreement']:>8.1f}%"
            f"{100 * brief['agreement']:>9.1f}%  {others}"
        )
    count = sum(row["documents"] for row in whole_rows)
    print(f"{1e6 * whole_seconds / count:.0f} CPU microseconds a document")
    result = conditions.conditions() | {
        "documents": whole_rows, "sentences": short_rows,
        "cpu_microseconds_per_document": round(1e6 * whole_seconds / count, 1),
    }  # fmt: skip
    conditions.store(result, arguments.output)


if __name__ == "__main__":
    main()
