"""How positions turn queries and keys: widths and frequencies (RoPE, arXiv:2104.09864), and how Llama 3 scales them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hanse.errors import InputError


@dataclass(frozen=True)
class Llama3Scaling:
    """Stretches slow turns by `factor` and leaves fast ones, with a ramp between; so in Llama 3.1 and in Apertus.

    A pair that turns fewer than `low_freq_factor` times within `original_max_position_embeddings` tokens is slow, more
    than `high_freq_factor` times is fast.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: float


@dataclass(frozen=True)
class Rotary:
    """Rotated width of a head (even), the base of its frequencies, and their scaling if any."""

    width: int
    theta: float
    scaling: Llama3Scaling | None = None


def rope_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a config.json says of rotation, from whichever of its places: `rope_theta`, `rope_type`, and its numbers.

    Where it says it twice, the same place counts as in transformers.
    """
    rope = values.get("rope_scaling") or values.get("rope_parameters") or {}
    if not isinstance(rope, Mapping):
        raise InputError(f"config.json: rope_parameters = {str(rope)[:80]!r} is not a table of numbers.")
    theta = rope.get("rope_theta", values.get("rope_theta"))
    rope = {**rope, "rope_theta": theta, "rope_type": rope.get("rope_type", rope.get("type", "default"))}
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise InputError("config.json: partial_rotary_factor is not supported, only heads that are rotated whole.")
    return rope


def scaling_of(rope: Mapping[str, Any]) -> Llama3Scaling | None:
    """The scaling that `rope_of` found, None for plain rotation.

    Raises:
        InputError: another type of scaling, or numbers that make none.
    """
    if rope["rope_type"] == "default":
        return None
    if rope["rope_type"] != "llama3":
        raise InputError(f"config.json: rope_type {rope['rope_type']!r} is not supported, only 'default' and 'llama3'.")
    found = {}
    for name in Llama3Scaling.__dataclass_fields__:
        value = rope.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool) or not (0 < value < math.inf):
            raise InputError(f"config.json: rope_parameters.{name} = {value!r} must be a number above 0.")
        found[name] = float(value)
    if found["low_freq_factor"] >= found["high_freq_factor"]:
        raise InputError("config.json: rope_parameters.low_freq_factor must be below high_freq_factor.")
    return Llama3Scaling(**found)
