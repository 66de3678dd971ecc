"""What the tests of the data stages are made of: records, JSON lines, a work folder, a curation."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from hanse.data.curate import curate
from hanse.recipe import Curate, Source
from hanse.store.stage import Work

CORPUS = Path(__file__).resolve().parents[2].parent / "shared" / "corpus"

WORDS = {
    "de": (
        "der", "die", "das", "und", "ist", "nicht", "ein", "Haus", "Straße", "über", "schön", "Wasser", "Morgen",
        "geht", "kommt", "alt", "jung", "weiß", "Brot", "Tür",
    ),
    "en": (
        "the", "a", "and", "is", "not", "house", "street", "over", "beautiful", "water", "morning", "goes", "comes",
        "old", "young", "white", "bread", "door", "of",
    ),
    "el": (
        "το", "και", "είναι", "δεν", "ένα", "σπίτι", "δρόμος", "πάνω", "όμορφο", "νερό", "πρωί", "έρχεται", "παλιό",
        "νέος", "λευκό", "ψωμί", "πόρτα", "με", "για",
    ),
}  # fmt: skip


def sentences(language: str, number: int, *, words: int = 40) -> str:
    """Repeatable text of a language's words; another number, another text."""
    pick = random.Random(f"{language} {number}")
    return " ".join(pick.choice(WORDS[language]) for _ in range(words)) + "."


def record(language: str, number: int, /, *, words: int = 40, **fields: Any) -> dict[str, Any]:
    """A complete record for a JSON lines source, its text made of one language's words."""
    text = sentences(language, number, words=words)
    return {"id": f"{language}/{number}", "text": text, "language": language, "licence": "CC-BY-4.0", **fields}


def write_lines(path: Path, records: list[Any]) -> Path:
    """Write records as JSON lines; bytes go in as they are."""
    lines = [r if isinstance(r, bytes) else json.dumps(r, ensure_ascii=False).encode() for r in records]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def new_work(folder: Path) -> Work:
    """A fresh work folder, as the store hands it to a stage."""
    return Work(folder / "artifact", folder / "scratch", "dataset/test/1")


def run_curate(folder: Path, *sources: Source, languages: tuple[str, ...] = ("de", "en"), **settings: Any) -> Path:
    """Curate into a new folder; what judges the text is off unless asked for."""
    work = new_work(folder)
    chosen = Curate(**{"identify_language": False, "quality": False, "pii": "keep", **settings})
    curate(work, sources, chosen, languages=languages, seed=7)
    return work.folder
