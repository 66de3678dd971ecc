"""Beginnings of dropped documents, so that people can see what a rule does; never of text that may not be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from hanse.data.pii.finding import Finding
from hanse.data.pii.replace import masked

CHARACTERS = 200
EACH = 2  # of a language and reason
# What was dropped for its rights is not shown, so a reason has to be here to be.
_SHOWN = ("too-", "language-", "quality-", "duplicate", "near-duplicate", "contamination")


class Samples:
    """Collects, for each language and first reason, the documents with the lowest ids."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}

    def add(self, table: pa.Table, documents: pa.Table) -> None:
        """Look through a batch.

        Args:
            table: annotated documents with their texts.
            documents: the same rows as they go to the document table.
        """
        rows = pc.indices_nonzero(pc.is_null(documents["split"])).to_pylist()
        reasons, ids = documents["drop_reason"].to_pylist(), documents["id"].to_pylist()
        for row in rows:
            if not all(reason.startswith(_SHOWN) for reason in reasons[row]):
                continue
            language = documents["language"][row].as_py() or ""
            held = self._held.setdefault((language, reasons[row][0]), {})
            if len(held) == EACH and ids[row] > max(held):
                continue
            findings = [Finding(**each) for each in documents["pii"][row].as_py() or ()]
            text = masked(table["text"][row].as_py(), findings, CHARACTERS)
            held[ids[row]] = {
                "id": ids[row], "language": language or None, "source": documents["source"][row].as_py(),
                "reason": reasons[row][0], "text": text,
            }  # fmt: skip
            if len(held) > EACH:
                del held[max(held)]

    def write(self, path: Path) -> None:
        """One JSON object a line, by language, reason and id."""
        with path.open("w", encoding="utf-8", newline="\n") as file:
            for key in sorted(self._held):
                for _, row in sorted(self._held[key].items()):
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
