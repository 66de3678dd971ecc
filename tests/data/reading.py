"""Reading a source to its end, with its faults."""

from __future__ import annotations

from typing import Any

from hanse.data.sources import Fault, read
from hanse.recipe import Source


def collect(source: Source, *, day: str = "") -> tuple[list[dict[str, Any]], list[Fault]]:
    """Rows and faults of a source."""
    faults: list[Fault] = []
    return list(read(source, languages=("de",), seed=0, on_fault=faults.append, day=day)), faults
