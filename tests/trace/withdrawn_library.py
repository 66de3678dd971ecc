"""A small library of documents by several people, curated into a store, for the tests of withdrawal."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from hanse.console import Console
from hanse.parallel.ranks import Ranks
from hanse.pipeline import Outcome
from hanse.pipeline import run as run_pipeline
from hanse.recipe import parse
from hanse.runtime import Runtime
from hanse.store.stage import Store
from hanse.trace import withdrawal
from hanse.trace.withdrawal import Withdrawal

WORDS = (
    "Haus", "Straße", "über", "schön", "Wasser", "Morgen", "geht", "kommt", "alt", "jung", "weiß", "Brot", "Tür",
    "Garten", "Stern", "Wolke", "Fluss", "Berg", "Licht", "Schatten", "Vogel", "Kind", "Brief", "Buch", "Wort",
)  # fmt: skip
FONTANE = {"author": "Fontane, Theodor (1819-1898)", "url": "https://letters.example.org/fontane/"}
STORM = {"author": "Storm, Theodor (1817-1888)", "url": "https://example.net/storm/"}
RAABE = {"author": "Raabe, Wilhelm", "url": "https://raabe.example.com/"}


def prose(number: int, words: int = 120) -> str:
    """Repeatable text; another number, another text."""
    pick = random.Random(f"prose {number}")
    return " ".join(pick.choice(WORDS) for _ in range(words)) + "."


def document(number: int, about: dict[str, str], **fields: Any) -> dict[str, Any]:
    """A record of a JSON lines source."""
    return {
        "id": f"d/{number}", "text": prose(number), "language": "de", "licence": "CC-BY-4.0",
        "title": f"Band {number}", **about, "url": f"{about['url']}{number}", **fields,
    }  # fmt: skip


def library() -> list[dict[str, Any]]:
    """Ten documents by each of three authors."""
    return [document(10 * place + n, about) for place, about in enumerate((FONTANE, STORM, RAABE)) for n in range(10)]


def conversation(number: int, **fields: Any) -> dict[str, Any]:
    """A record of conversations."""
    said = [{"role": "user", "content": f"Frage {number}?"}, {"role": "assistant", "content": prose(1000 + number)}]
    return {"id": f"c/{number}", "language": "de", "licence": "CC-BY-4.0", "messages": said, **fields}


class Lab:
    """A folder with sources, a recipe and a store."""

    def __init__(
        self, folder: Path, records: Sequence[dict[str, Any]], talk: Sequence[dict[str, Any]] = (), **curate: Any
    ) -> None:
        self.folder = folder
        self.sources = [self._source("library", "jsonl", records)]
        if talk:
            self.sources.append(self._source("talk", "conversations", talk))
        self.curate = {"identify_language": False, "quality": False, "pii": "keep", "validation_share": 0.1, **curate}
        self.store = Store.open(folder / "store")

    def _source(self, name: str, kind: str, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
        path = self.folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in records), encoding="utf-8")
        return {"name": name, "kind": kind, "path": str(path), "licence_basis": "stated", "reservation": "none"}

    def run(self, version: str = "1", until: str = "dataset") -> Outcome:
        """Make the data of the recipe."""
        data: dict[str, Any] = {
            "name": "lab", "version": version, "languages": ["de"], "source": self.sources, "curate": self.curate,
        }  # fmt: skip
        if len(self.sources) > 1:
            data["tune"] = [{"source": "talk"}]
        runtime = Runtime.detect("cpu", 1)
        return run_pipeline(
            parse(data, where="lab"), self.store, runtime=runtime, ranks=Ranks(runtime),
            console=Console(is_quiet=True), until=until,
        )  # fmt: skip

    def withdraw(self, reason: str = "opt-out", *, copies: bool = False, **criteria: str) -> Withdrawal:
        """Record a withdrawal as the command does, with what it finds."""
        from hanse.trace import withdraw_command

        asked = withdrawal.draft(criteria, reason=reason, copies=copies)
        found = withdraw_command.find(self.store, asked)
        return withdraw_command.record(self.store, asked, found)

    def table(self, version: str = "1") -> list[dict[str, Any]]:
        """The document table."""
        rows: list[dict[str, Any]] = pq.read_table(
            self.store.folder(f"dataset/lab/{version}") / "documents.parquet"
        ).to_pylist()
        return rows

    def texts(self, version: str = "1") -> dict[str, str]:
        """The texts of the dataset by id."""
        folder = self.store.folder(f"dataset/lab/{version}") / "text"
        return {row["id"]: row["text"] for path in folder.iterdir() for row in pq.read_table(path).to_pylist()}

    def counts(self, version: str = "1", kind: str = "dataset") -> Any:
        """`counts.json`."""
        return json.loads((self.store.folder(f"{kind}/lab/{version}") / "counts.json").read_text())
