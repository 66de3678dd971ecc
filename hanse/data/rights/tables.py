"""The data tables of the rights room: agents and vocabularies, read once when first asked for."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

_FOLDER = Path(__file__).parent


@cache
def vocabulary(section: str) -> Mapping[str, Any]:
    """One section of `vocabulary.toml`; lists come as tuples."""
    table = _read("vocabulary.toml")[section]
    return MappingProxyType({key: tuple(value) if isinstance(value, list) else value for key, value in table.items()})


@cache
def agents() -> Mapping[str, str]:
    """Purpose of every agent of `agents.toml`, by its name as the table spells it, in the table's order."""
    return MappingProxyType({agent["name"]: agent["purpose"] for agent in _read("agents.toml")["agent"]})


@cache
def agent_names() -> Mapping[str, str]:
    """The table's spelling of an agent, by its lower-case name."""
    return MappingProxyType({name.lower(): name for name in agents()})


@cache
def terms() -> Mapping[str, Any]:
    """`public_domain.toml`: terms of protection by jurisdiction, and their exceptions."""
    return MappingProxyType(_read("public_domain.toml"))


@cache
def member_states() -> frozenset[str]:
    """Codes of the member states of the European Union."""
    return frozenset(terms()["EU"]["members"])


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads((_FOLDER / name).read_text(encoding="utf-8"))
