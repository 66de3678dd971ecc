"""Machines as plans and batch scripts need them: facts in machines.toml, each with its source. Torch-free."""

from __future__ import annotations

import os
import platform
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

from hanse import toml
from hanse.errors import InputError

KNOWN = Path(__file__).with_name("machines.toml")
LOCAL = "local"
VENDORS = ("nvidia", "amd", "cpu")
HOSTS = ("x86_64", "aarch64")


@dataclass(frozen=True)
class Machine:
    """One machine. Bandwidths are one way, in bytes per second, as one accelerator has them.

    Attributes:
        name: how the command line refers to it.
        title: name, owner and place, for people.
        nodes: with accelerators, in all.
        max_nodes: that one job may have.
        accelerators_per_node: as torch counts devices: an MI250X is two.
        accelerator: its name.
        vendor: "nvidia", "amd" or "cpu".
        host: instruction set of the hosts, "x86_64" or "aarch64".
        memory_bytes: of one accelerator; of the whole machine where the CPU computes.
        peak_bf16_flops: dense bfloat16 products of one accelerator, FLOP per second. For `local`, the measured float32
            rate of all cores.
        node_link_bytes_per_second: to the other accelerators of the node.
        network_bytes_per_second: to other nodes.
        max_hours: longest job.
        partition: of Slurm; "" where there is no batch system.
        cpus_per_node: cores that a job may use.
        watts: thermal design power of one accelerator (on GH200 with its CPU); 0 where no source says.
        source: for each figure the document it is from.
    """

    name: str
    title: str
    nodes: int
    max_nodes: int
    accelerators_per_node: int
    accelerator: str
    vendor: str
    host: str
    memory_bytes: int
    peak_bf16_flops: float
    node_link_bytes_per_second: float
    network_bytes_per_second: float
    max_hours: float
    partition: str
    cpus_per_node: int
    source: Mapping[str, str]
    watts: float = 0.0

    @property
    def accelerators(self) -> int:
        """In the whole machine."""
        return self.nodes * self.accelerators_per_node

    def unsourced(self) -> tuple[str, ...]:
        """Figures that rest on memory or on a choice of ours, to be checked on the machine."""
        return tuple(key for key, text in self.source.items() if "recalled" in text or text.startswith("assumed"))


def names() -> tuple[str, ...]:
    """Every machine that `machine` knows by name."""
    return (*_known(), LOCAL)


def machine(name: str) -> Machine:
    """Look a machine up.

    Args:
        name: one of `names()`; `local` is the computer this runs on, its rate measured in a moment. Or the path of
            a TOML file with one table as in machines.toml, for a lab's own.

    Raises:
        InputError: no such machine, or a file that describes none.
    """
    if name == LOCAL:
        return _local()
    if name.endswith(".toml"):
        return _from_file(Path(name))
    if name not in _known():
        near = get_close_matches(name, names(), n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(names())}, or a TOML file of your own."
        raise InputError(f"--machine {name}: no such machine; {hint}")
    return _parse(name, _known()[name], where=str(KNOWN))


@lru_cache
def _known() -> dict[str, dict[str, Any]]:
    return tomllib.loads(KNOWN.read_text(encoding="utf-8"))


def _from_file(path: Path) -> Machine:
    where = f"--machine {path}"
    tables = toml.parse(toml.content(path, "the machine's file", where=where), where=where)
    if len(tables) != 1 or not isinstance(next(iter(tables.values())), dict):
        raise InputError(f"{where}: has to hold one table, the machine's, as in {KNOWN}.")
    ((name, values),) = tables.items()
    return _parse(name, values, where=str(path))


def _parse(name: str, values: Mapping[str, Any], *, where: str) -> Machine:
    """Check a table and make a machine of it."""
    where = f"{where}: [{name}]"
    known = {field.name: field.type for field in fields(Machine) if field.name != "name"}
    for key in values:
        if key not in known:
            near = get_close_matches(key, known, n=1)
            raise InputError(f"{where} {key}: unknown key.{f' Did you mean {near[0]}?' if near else ''}")
    missing = [key for key in known if key not in values and key not in ("max_nodes", "source", "watts")]
    if missing:
        raise InputError(f"{where} {missing[0]}: missing; a plan needs it.")
    facts = {"max_nodes": values["nodes"], "source": {}, "watts": 0.0, **values}
    for key, kind in known.items():
        facts[key] = _value(facts[key], str(kind), f"{where} {key}", may_be_zero=key == "watts")
    for key, allowed in (("vendor", VENDORS), ("host", HOSTS)):
        if facts[key] not in allowed:
            raise InputError(f"{where} {key} = '{facts[key]}': has to be one of {', '.join(allowed)}.")
    return Machine(name=name, **facts)


def _value(value: Any, kind: str, where: str, *, may_be_zero: bool) -> Any:
    if kind == "str" and isinstance(value, str):
        return value
    if kind.startswith("Mapping") and isinstance(value, dict):
        return dict(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind in ("int", "float") and is_number and (value > 0 or (value == 0 and may_be_zero)):
        return int(value) if kind == "int" else float(value)
    wanted = {"str": "text", "int": "a number above 0", "float": "a number above 0"}.get(kind, "a table of texts")
    raise InputError(f"{where} = {value!r}: has to be {wanted}.")


@lru_cache
def _local() -> Machine:
    from hanse.plan.estimate import measured_matrix_rate

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    host = "aarch64" if platform.machine().lower() in ("aarch64", "arm64") else "x86_64"
    return Machine(
        name=LOCAL,
        title="the computer this runs on",
        nodes=1,
        max_nodes=1,
        accelerators_per_node=1,
        accelerator=f"CPU, {cores} cores",
        vendor="cpu",
        host=host,
        memory_bytes=memory,
        peak_bf16_flops=measured_matrix_rate(),
        # Ranks on one computer talk through memory; a round figure, for nothing is planned to the byte here.
        node_link_bytes_per_second=5e9,
        network_bytes_per_second=5e9,
        max_hours=720.0,
        partition="",
        cpus_per_node=cores,
        source={"memory_bytes": "the system", "peak_bf16_flops": "measured now", "max_hours": "assumed"},
    )
