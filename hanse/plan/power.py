"""Rated power of named devices, for energy that nobody measured. Facts in power.toml, each with source and date."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from hanse.plan.machines import machine

KNOWN = Path(__file__).with_name("power.toml")


@dataclass(frozen=True)
class Rated:
    """One kind of device.

    Attributes:
        name: its key in power.toml.
        names: what drivers and systems call it.
        what: what the power is that of: a GPU board, a CPU package, a module.
        watts: at most, W; 0 where no source says.
        source, date: where the figure is from, and of which day that is.
        cores: of a CPU package; 0 for others.
        machine: whose accelerator it is in machines.toml; empty where none there has it.
    """

    name: str
    names: tuple[str, ...]
    what: str
    watts: float
    source: str
    date: str
    cores: int = 0
    machine: str = ""

    @property
    def peak_bf16_flops(self) -> float | None:
        """Dense bfloat16 products, FLOP per second, as machines.toml has them; None where no entry there does."""
        return machine(self.machine).peak_bf16_flops if self.machine else None


def rated(device: str) -> Rated | None:
    """What is known of a device, by the name that its driver or system gives it; None where nothing is.

    A name has to stand in `device` as whole words, and the longest one wins: an "H200 NVL" is no "H200".
    """
    found = [(len(name), known) for known in _known() for name in known.names if _stands_in(name, device)]
    return max(found, key=lambda each: each[0])[1] if found else None


def _stands_in(name: str, device: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", device, re.IGNORECASE) is not None


@lru_cache
def _known() -> tuple[Rated, ...]:
    tables = tomllib.loads(KNOWN.read_text(encoding="utf-8"))
    return tuple(
        Rated(**{**values, "name": key, "names": tuple(values["names"]), "date": values["date"].isoformat()})
        for key, values in tables.items()
    )
