"""From one dial to every size of a model, by rule.

Each family has its rule; what they share (depth, width of a head, when a head is tied) is the same for both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Any, Literal, overload

from hanse.errors import InputError
from hanse.model.config.apertus import ApertusConfig
from hanse.model.config.deepseek_v3 import ModelConfig
from hanse.model.config.values import plain_keys, typed

#: Families with an implementation of their own here.
NATIVE: dict[str, type[ModelConfig] | type[ApertusConfig]] = {"deepseek_v3": ModelConfig, "apertus": ApertusConfig}


@overload
def derive(
    size: str,
    *,
    vocab_size: int,
    family: Literal["deepseek_v3"] = ...,
    max_position_embeddings: int = ...,
    overrides: Mapping[str, Any] | None = ...,
) -> ModelConfig: ...
@overload
def derive(
    size: str,
    *,
    vocab_size: int,
    family: str,
    max_position_embeddings: int = ...,
    overrides: Mapping[str, Any] | None = ...,
) -> ModelConfig | ApertusConfig: ...
def derive(
    size: str,
    *,
    vocab_size: int,
    family: str = "deepseek_v3",
    max_position_embeddings: int = 4096,
    overrides: Mapping[str, Any] | None = None,
) -> ModelConfig | ApertusConfig:
    """Sizes for about `size` active parameters ("3M", "100M", "1.5B"), the rest by rule.

    The hidden size is the multiple (of 32 below 256, then 64, then 256 from 2,048) whose model comes closest to the
    dial; in `apertus` heads fill it. `_deepseek_v3` and `_apertus` are the rules; each family's own large model is the
    upper end of its rule.

    Args:
        size: active parameters as `active_parameters` counts them: a number with M or B.
        vocab_size: tokens in the vocabulary.
        family: "deepseek_v3" or "apertus".
        max_position_embeddings: longest sequence, in tokens.
        overrides: Hugging Face keys that replace what the rule gives. A `hidden_size` here settles the search.

    Raises:
        InputError: for a dial that cannot be read or reached, an unknown family or key, a value of another type, or
            sizes that cannot work.
    """
    target = _read_size(size)
    given = _overrides(family, overrides or {})
    common = {"vocab_size": vocab_size, "max_position_embeddings": max_position_embeddings}
    shape: Callable[..., Any] = {"deepseek_v3": _deepseek_v3, "apertus": _apertus}[family]
    widths = [given["hidden_size"]] if "hidden_size" in given else _widths(family, target)
    candidates: list[ModelConfig | ApertusConfig] = [replace(shape(w, target, common), **given) for w in widths]
    best = min(candidates, key=lambda config: abs(config.active_parameters() - target))
    if "hidden_size" not in given and not 0.5 < best.active_parameters() / target < 2:
        raise InputError(
            f"[model] size = {size!r} cannot be reached with vocab_size = {best.vocab_size}: the nearest model has "
            f"{best.active_parameters():,} active parameters; choose a size near that or another vocabulary."
        )
    return best.check()


def keys(family: str) -> tuple[str, ...]:
    """The Hugging Face keys that a person can set in a model of this family.

    Raises:
        InputError: there is no such family with sizes of its own.
    """
    if family not in NATIVE:
        raise InputError(f"[model] family = {family!r}: has no size dial; those that have: {', '.join(NATIVE)}.")
    return plain_keys(NATIVE[family])


def key_of_another(family: str, key: str) -> str:
    """What to say of a key that only another family has, "" of one that none has."""
    other = next((other for other in NATIVE if other != family and key in keys(other)), None)
    if other is None:
        return ""
    if "expert" in key:
        return f'{key}: {family} models are dense; experts belong to family = "{other}".'
    return f'{key}: not a key of {family}, but of family = "{other}".'


def _overrides(family: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    known = keys(family)
    for key in overrides:
        if key not in known:
            near = get_close_matches(key, known, n=1)
            unknown = f"{key}: unknown key." + (f" Did you mean {near[0]}?" if near else "")
            raise InputError(f"[model] {key_of_another(family, key) or unknown}")
    given = typed(NATIVE[family], overrides, where="[model]")
    if given.get("hidden_size", 1) < 1:
        raise InputError(f"[model] hidden_size = {given['hidden_size']}: must be at least 1.")
    return given


_WIDTHS = [*range(64, 256, 32), *range(256, 2048, 64), *range(2048, 16385, 256)]


def _widths(family: str, target: float) -> list[int]:
    """Hidden sizes to choose from. In apertus heads fill them, since some runtimes take hidden size over heads for a
    head's width, and many heads are a number that leaves each key a few queries."""
    if family != "apertus":
        return _WIDTHS
    heads = {width: width / _head_width(width, target) for width in _WIDTHS}
    return [width for width, count in heads.items() if count % (1 if count <= 8 else 2 if count <= 16 else 4) == 0]


def _read_size(size: str) -> float:
    """Active parameters from "3M" or "1.5B"."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([MB])\s*", size, re.IGNORECASE)
    if not match or float(match[1]) == 0:
        raise InputError(
            f"[model] size = {size!r}: write active parameters as a number with M or B, such as '3M' or '1.5B'."
        )
    return float(match[1]) * {"M": 1e6, "B": 1e9}[match[2].upper()]


def _depth(hidden: int) -> int:
    """Blocks for a width: 5 at 256 and 61 at 7,168 (DeepSeek-V3), a power law between."""
    return max(2, round(5 * (hidden / 256) ** 0.75))


def _head_width(hidden: int, target: float) -> int:
    """Heads are 128 wide from 100M active parameters up, the width that fast kernels exist for."""
    return 128 if target >= 100e6 else 32 if hidden < 256 else 64


def _start(hidden: int) -> float:
    """Weights start at 0.5 / sqrt(hidden), which is DeepSeek-V3's 0.006 at its width."""
    return round(0.5 / hidden**0.5, 4)


def _deepseek_v3(hidden: int, target: float, common: Mapping[str, Any]) -> ModelConfig:
    """The rule: all sizes from the hidden size, and from the target what depends on the scale of the run.

    From 100M active parameters up the latent is 512 + 64. Routed and shared experts of a token together are as wide as
    a dense layer. Below 10M active parameters experts cost more time than they save.
    """
    layers = _depth(hidden)
    if layers in (26, 27):
        layers = 25 if layers == 26 else 28
    if layers in (47, 48):
        layers = 49
    is_large = target >= 100e6
    head = _head_width(hidden, target)
    config = ModelConfig(
        hidden_size=hidden,
        intermediate_size=_multiple(hidden * 8 / 3, 256 if is_large else 64),
        num_hidden_layers=layers,
        num_attention_heads=max(1, round(hidden / head)),
        q_lora_rank=min(1536, _multiple(hidden / 2, 32)),
        kv_lora_rank=512 if is_large else _multiple(hidden / 4, 32),
        qk_nope_head_dim=head,
        qk_rope_head_dim=64 if is_large else head // 2,
        v_head_dim=head,
        tie_word_embeddings=not is_large,
        initializer_range=_start(hidden),
        **common,
    )
    return config if target < 10e6 else _with_experts(config, target)


def _with_experts(config: ModelConfig, target: float) -> ModelConfig:
    """Replace dense layers by experts: 16, 64, 128 or 256, of which 4 or 8 a token."""
    experts = 16 if target < 100e6 else 64 if target < 3e9 else 128 if target < 20e9 else 256
    top_k = 4 if experts == 16 else 8
    step = 256 if target >= 1e9 else 32
    return replace(
        config,
        n_routed_experts=experts,
        num_experts_per_tok=top_k,
        n_shared_experts=1,
        moe_intermediate_size=_multiple(config.intermediate_size / (top_k + 1), step),
        first_k_dense_replace=3 if target >= 10e9 else 1,
        routed_scaling_factor=2.5 if experts >= 128 else 1.0,
    )


def _apertus(hidden: int, target: float, common: Mapping[str, Any]) -> ApertusConfig:
    """The rule: Apertus-70B's proportions (a layer 5.25 times as wide, four queries to a key) at every width.

    Positions are not scaled: the context is no longer than training shows.
    """
    head = _head_width(hidden, target)
    heads = max(1, round(hidden / head))
    return ApertusConfig(
        hidden_size=hidden,
        intermediate_size=_multiple(hidden * 5.25, 256 if target >= 100e6 else 64),
        num_hidden_layers=_depth(hidden),
        num_attention_heads=heads,
        num_key_value_heads=max(number for number in range(1, max(1, heads // 4) + 1) if heads % number == 0),
        head_dim=head,
        tie_word_embeddings=target < 100e6,
        initializer_range=_start(hidden),
        **common,
    )


def _multiple(value: float, step: int) -> int:
    """The multiple of `step` nearest to `value`, at least one step."""
    return max(step, round(value / step) * step)
