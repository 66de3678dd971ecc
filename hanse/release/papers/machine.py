"""The papers for machines: Croissant and a card for each dataset, an AI-BOM in SPDX, an ML-BOM in CycloneDX."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hanse.release.ledger import Ledger
from hanse.release.papers.bill import bill
from hanse.release.papers.croissant import croissant
from hanse.release.papers.cyclonedx import cyclonedx
from hanse.release.papers.dataset_card import dataset_card
from hanse.release.papers.dataset_facts import datasets
from hanse.release.papers.spdx import spdx

SPDX = "sbom.spdx.json"
CYCLONEDX = "bom.cdx.json"


def write(ledger: Ledger, folder: Path) -> list[str]:
    """Write all of them into a folder that is there; equal ledgers give equal bytes.

    Returns:
        The names of the files, sorted: `dataset-NAME-VERSION.croissant.json` and `dataset-NAME-VERSION.md` for each
        dataset (and the same for conversations), `sbom.spdx.json`, `bom.cdx.json`.

    Raises:
        OSError: a file cannot be written.
    """
    found = datasets(ledger)
    materials = bill(ledger, found)
    texts = {SPDX: as_json(spdx(materials)), CYCLONEDX: as_json(cyclonedx(materials))}
    for facts in found:
        stem = facts.stem
        if f"{stem}.md" in texts:  # a-1/2 and a/1-2
            stem += f"-{facts.artifact.digest[:12]}"
        texts[f"{stem}.croissant.json"] = as_json(croissant(ledger, facts))
        texts[f"{stem}.md"] = dataset_card(ledger, facts).encode("utf-8", "replace")
    for name in sorted(texts):
        (folder / name).write_bytes(texts[name])
    return sorted(texts)


def as_json(value: Mapping[str, Any]) -> bytes:
    """A document as it stands on disk; half a surrogate pair from outside stays an escape, for UTF-8 has none."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return text.encode("utf-8", "backslashreplace")
