"""What a config.json or a recipe says about a model, checked before anything is computed with it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from hanse.errors import InputError

#: No size of a model is larger; beyond, products of sizes would leave what a tensor can be.
LARGEST = 2**31 - 1
_WORDS = {"int": "a whole number", "float": "a number", "bool": "true or false"}


def typed(sizes: type, values: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """The values that are plain fields of a dataclass of sizes; null counts as absent.

    Args:
        sizes: a dataclass whose fields of type int, float and bool are looked for.
        values: what was read.
        where: of the values, for the error: "config.json" or "[model]".

    Raises:
        InputError: a value of another type, a number that is not finite or beyond what a tensor can be.
    """
    found = {}
    for field in fields(sizes):
        value = values.get(field.name)
        if value is None or field.type not in _WORDS:
            continue
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        fits = {"int": isinstance(value, int) and is_number, "float": is_number, "bool": isinstance(value, bool)}
        if not fits[field.type] or (is_number and not (math.isfinite(value) and abs(value) <= LARGEST)):
            shown = repr(value) if len(repr(value)) < 80 else f"{repr(value)[:80]}..."
            raise InputError(f"{where} {field.name} = {shown}: must be {_WORDS[field.type]} of ordinary size.")
        found[field.name] = float(value) if field.type == "float" else value
    return found


def plain_keys(sizes: type) -> tuple[str, ...]:
    """The fields of a dataclass of sizes that a person can set."""
    return tuple(field.name for field in fields(sizes) if field.type in _WORDS)


def require_positive(config: object, names: Iterable[str]) -> None:
    """Raise InputError for the first of these sizes that is below 1."""
    for name in names:
        if getattr(config, name) < 1:
            raise InputError(f"[model] {name} = {getattr(config, name)}: must be at least 1.")


def refuse_variants(values: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raise InputError for a key of a config.json that asks for what this code does not compute."""
    for key, value in expected.items():
        if values.get(key, value) != value:
            raise InputError(f"config.json: {key} = {values[key]!r} is not supported, only {value!r}.")
    if values.get("quantization_config"):
        raise InputError("config.json: quantization_config: quantised weights cannot be read; use a folder without.")
