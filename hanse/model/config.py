"""Sizes of a model: their names, what fits together, what they cost, and how to derive them from one dial.

Runs without torch, so that `plan` and the command line can use it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from typing import Any

from hanse.errors import InputError


@dataclass(frozen=True)
class ModelConfig:
    """A `deepseek_v3` model. Every name is the key of the Hugging Face `config.json`.

    `n_routed_experts = 0` means that every layer is dense. The Hugging Face layout has no such value: see `to_hf`.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    q_lora_rank: int
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    moe_intermediate_size: int = 0
    n_routed_experts: int = 0
    n_shared_experts: int = 1
    num_experts_per_tok: int = 1
    n_group: int = 1
    topk_group: int = 1
    routed_scaling_factor: float = 1.0
    norm_topk_prob: bool = True
    first_k_dense_replace: int = 0
    max_position_embeddings: int = 4096
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False
    num_nextn_predict_layers: int = 0
    initializer_range: float = 0.02

    @property
    def qk_head_dim(self) -> int:
        """Width of a query or key head: the part without position plus the rotated part."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    def is_moe(self, layer: int) -> bool:
        """Whether block `layer` (0-based; the multi-token block is `num_hidden_layers`) has routed experts."""
        return self.n_routed_experts > 0 and layer >= self.first_k_dense_replace

    def parameters(self) -> int:
        """Trained numbers in the whole model, the multi-token block included; a tied output head counts once."""
        return self._count(self.n_routed_experts, self.num_nextn_predict_layers)

    def active_parameters(self) -> int:
        """Numbers that one token meets in the main model, counted as DeepSeek-V3's "37B active" is:
        embedding and head in full, the chosen and the shared experts, without the multi-token block."""
        return self._count(self.num_experts_per_tok, 0)

    def flop_per_token(self, sequence_length: int) -> int:
        """FLOP of forward and backward for one training token in sequences of `sequence_length` tokens.

        6 for each number that takes part in a matrix product with this token (two for forward, four for backward;
        the embedding look-up and the norm weights take part in none), plus attention: queries x keys and
        weights x values, 2 x heads x (qk + v) a pair forward and twice that backward, where causality leaves a query
        (sequence_length + 1) / 2 keys on average. Recomputation is not counted.
        """
        blocks = self.num_hidden_layers + self.num_nextn_predict_layers
        matmul = self._count(self.num_experts_per_tok, self.num_nextn_predict_layers, matmul_only=True)
        pairs = 3 * blocks * self.num_attention_heads * (self.qk_head_dim + self.v_head_dim) * (sequence_length + 1)
        return 6 * matmul + pairs

    def _count(self, experts: int, mtp_blocks: int, *, matmul_only: bool = False) -> int:
        """Numbers with `experts` routed experts a layer and `mtp_blocks` multi-token blocks."""
        hidden, heads = self.hidden_size, self.num_attention_heads
        head = self.vocab_size * hidden
        blocks = range(self.num_hidden_layers + mtp_blocks)
        attention = (
            hidden * (self.q_lora_rank + self.kv_lora_rank + self.qk_rope_head_dim)
            + self.q_lora_rank * heads * self.qk_head_dim
            + self.kv_lora_rank * heads * (self.qk_nope_head_dim + self.v_head_dim)
            + heads * self.v_head_dim * hidden
        )
        total = head + sum(attention + self._feed_forward(layer, experts) for layer in blocks)
        total += mtp_blocks * 2 * hidden * hidden
        if matmul_only:
            return total + mtp_blocks * head
        norms = 2 * hidden + self.q_lora_rank + self.kv_lora_rank
        embedding = 0 if self.tie_word_embeddings else head
        return total + embedding + len(blocks) * norms + hidden + mtp_blocks * 3 * hidden

    def _feed_forward(self, layer: int, experts: int) -> int:
        """Numbers in the feed-forward part of a block, `experts` routed ones counted."""
        if not self.is_moe(layer):
            return 3 * self.hidden_size * self.intermediate_size
        expert = 3 * self.hidden_size * self.moe_intermediate_size
        return expert * (experts + self.n_shared_experts) + self.hidden_size * self.n_routed_experts

    def check(self) -> ModelConfig:
        """Return the config unchanged, or raise InputError for sizes that cannot work here or in a known runtime."""
        for name in _POSITIVE:
            if getattr(self, name) < 1:
                raise InputError(f"[model] {name} = {getattr(self, name)}: must be at least 1.")
        if self.qk_rope_head_dim % 2:
            raise InputError(
                f"[model] qk_rope_head_dim = {self.qk_rope_head_dim} is odd, but positions rotate pairs: make it even."
            )
        if self.rms_norm_eps != 1e-6:
            raise InputError(
                f"[model] rms_norm_eps = {self.rms_norm_eps}: runtimes disagree on anything but 1e-6 (transformers "
                "fixes it for the latent norms), so leave it out."
            )
        if self.num_nextn_predict_layers not in (0, 1):
            raise InputError(f"[model] num_nextn_predict_layers = {self.num_nextn_predict_layers}: must be 0 or 1.")
        if self.rope_theta <= 1 or self.initializer_range <= 0:
            raise InputError("[model] rope_theta must be above 1 and initializer_range above 0.")
        self._check_known_traps()
        if self.n_routed_experts:
            self._check_experts()
        return self

    def _check_known_traps(self) -> None:
        """llama.cpp recognises DeepSeek's "lite" models by these numbers and then reads the weights wrongly."""
        layers, vocab = self.num_hidden_layers, self.vocab_size
        if layers in (26, 27) or (layers == 48 and vocab == 128256) or (layers in (47, 48) and vocab == 154880):
            more = f" with vocab_size = {vocab}" if layers in (47, 48) else ""
            raise InputError(
                f"[model] num_hidden_layers = {layers}{more}: llama.cpp takes exactly this for another model family "
                f"and would load wrong weights; use {'25 or 28' if layers < 30 else '46 or 49'} layers."
            )

    def _check_experts(self) -> None:
        """Sizes that only matter with routed experts."""
        experts, groups, top_k = self.n_routed_experts, self.n_group, self.num_experts_per_tok
        for name in ("moe_intermediate_size", "num_experts_per_tok", "n_group", "topk_group", "n_shared_experts"):
            if getattr(self, name) < 1:
                raise InputError(f"[model] {name} = {getattr(self, name)}: must be at least 1 with routed experts.")
        if top_k > experts:
            raise InputError(f"[model] num_experts_per_tok = {top_k} exceeds n_routed_experts = {experts}: lower it.")
        if experts % groups or experts // groups < 2:
            raise InputError(
                f"[model] n_group = {groups} does not divide n_routed_experts = {experts} into groups of two or more."
            )
        if self.topk_group > groups:
            raise InputError(f"[model] topk_group = {self.topk_group} exceeds n_group = {groups}.")
        if top_k > self.topk_group * (experts // groups):
            raise InputError(
                f"[model] num_experts_per_tok = {top_k} cannot be met: {self.topk_group} groups of "
                f"{experts // groups} experts hold only {self.topk_group * (experts // groups)}."
            )
        if not 0 <= self.first_k_dense_replace < self.num_hidden_layers:
            raise InputError(
                f"[model] first_k_dense_replace = {self.first_k_dense_replace}: must lie between 0 and "
                f"{self.num_hidden_layers - 1}; for a model without experts set n_routed_experts = 0."
            )

    def to_hf(self, **token_ids: int | None) -> dict[str, Any]:
        """The `config.json` that transformers, vLLM, SGLang, llama.cpp, MLX and mistral.rs all read alike.

        A dense model gets `first_k_dense_replace` past its last block and expert keys that are valid but unused, for no
        runtime reads 0 experts. Tied weights are declared untied, since vLLM and MLX cannot tie.

        Args:
            token_ids: `bos_token_id`, `eos_token_id`, `pad_token_id`; absent ones are written as null, because
                transformers would otherwise assume 0 and 1.
        """
        sizes = asdict(self)
        if not self.n_routed_experts:
            sizes |= {"n_routed_experts": 2, "num_experts_per_tok": 1, "n_shared_experts": 1, "n_group": 1}
            sizes |= {"topk_group": 1, "moe_intermediate_size": self.intermediate_size}
            sizes["first_k_dense_replace"] = self.num_hidden_layers + self.num_nextn_predict_layers
        tied = {"hanse_tied_in_training": True} if self.tie_word_embeddings else {}
        return {
            "architectures": ["DeepseekV3ForCausalLM"],
            "model_type": "deepseek_v3",
            **sizes,
            "tie_word_embeddings": False,
            **tied,
            "num_key_value_heads": self.num_attention_heads,
            "hidden_act": "silu",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "moe_layer_freq": 1,
            "moe_router_dtype": "float32",
            "scoring_func": "sigmoid",
            "topk_method": "noaux_tc",
            "rope_interleave": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta},
            "bos_token_id": token_ids.get("bos_token_id"),
            "eos_token_id": token_ids.get("eos_token_id"),
            "pad_token_id": token_ids.get("pad_token_id"),
            "dtype": "float32",
            "torch_dtype": "float32",
            "use_cache": True,
        }

    @classmethod
    def from_hf(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Read a `deepseek_v3` config.json.

        Raises:
            InputError: for another model type, a missing size, or a variant that this code does not compute
                (scaled RoPE, softmax routing, half-split pairs, attention bias).
        """
        if values.get("model_type") != "deepseek_v3":
            raise InputError(
                f"config.json: model_type is {values.get('model_type')!r}; only 'deepseek_v3' can be read."
            )
        rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
        _refuse_variants(values, rope)
        known = {field.name for field in fields(cls)}
        sizes = {key: value for key, value in values.items() if key in known and value is not None}
        sizes["rope_theta"] = float(rope.get("rope_theta", values.get("rope_theta", 10000.0)))
        sizes["rms_norm_eps"] = float(sizes.get("rms_norm_eps", 1e-6))
        sizes["tie_word_embeddings"] = bool(
            values.get("tie_word_embeddings") or values.get("hanse_tied_in_training", False)
        )
        if "num_mtp_layers" in values:
            sizes.setdefault("num_nextn_predict_layers", values["num_mtp_layers"])
        missing = [field.name for field in fields(cls) if field.name in _POSITIVE and field.name not in sizes]
        if missing:
            raise InputError(f"config.json: {', '.join(missing)} missing; a deepseek_v3 model needs them as integers.")
        if sizes.get("first_k_dense_replace", 0) >= sizes["num_hidden_layers"]:
            sizes |= {"n_routed_experts": 0, "first_k_dense_replace": 0, "moe_intermediate_size": 0}
            sizes |= {"num_experts_per_tok": 1, "n_group": 1, "topk_group": 1}
        return cls(**sizes).check()


_POSITIVE = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "q_lora_rank",
    "kv_lora_rank",
    "qk_nope_head_dim",
    "qk_rope_head_dim",
    "v_head_dim",
    "max_position_embeddings",
)


def _refuse_variants(values: Mapping[str, Any], rope: Mapping[str, Any]) -> None:
    """Raise InputError for what a deepseek_v3 config may say and this code does not compute."""
    expected = {"scoring_func": "sigmoid", "topk_method": "noaux_tc", "rope_interleave": True, "hidden_act": "silu"}
    expected |= {"attention_bias": False, "moe_layer_freq": 1}
    for key, value in expected.items():
        if values.get(key, value) != value:
            raise InputError(f"config.json: {key} = {values[key]!r} is not supported, only {value!r}.")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise InputError(f"config.json: rope_type {kind!r} is not supported, only unscaled rotation ('default').")


def derive(
    size: str,
    *,
    vocab_size: int,
    max_position_embeddings: int = 4096,
    overrides: Mapping[str, Any] | None = None,
) -> ModelConfig:
    """Sizes for about `size` active parameters ("3M", "100M", "1.5B"), the rest by rule.

    The hidden size is the multiple (of 32 below 256, then 64, then 256 from 2,048) whose model comes closest to the
    dial; `_shape` is the rule. DeepSeek-V3's own proportions are its upper end.

    Args:
        size: active parameters as `active_parameters` counts them: a number with M or B.
        vocab_size: tokens in the vocabulary.
        max_position_embeddings: longest sequence, in tokens.
        overrides: Hugging Face keys that replace what the rule gives. A `hidden_size` here settles the search.

    Raises:
        InputError: for a dial that cannot be read or reached, an unknown key, or sizes that cannot work.
    """
    target = _read_size(size)
    overrides = dict(overrides or {})
    known = {field.name for field in fields(ModelConfig)}
    for key in overrides:
        if key not in known:
            near = get_close_matches(key, known, n=1)
            raise InputError(f"[model] {key}: unknown key." + (f" Did you mean {near[0]}?" if near else ""))
    common = {"vocab_size": vocab_size, "max_position_embeddings": max_position_embeddings}
    widths = [overrides["hidden_size"]] if "hidden_size" in overrides else _WIDTHS
    candidates = [replace(_shape(width, target, common), **overrides) for width in widths]
    best = min(candidates, key=lambda config: abs(config.active_parameters() - target))
    if "hidden_size" not in overrides and not 0.5 < best.active_parameters() / target < 2:
        raise InputError(
            f"[model] size = {size!r} cannot be reached with vocab_size = {best.vocab_size}: the nearest model has "
            f"{best.active_parameters():,} active parameters; choose a size near that or another vocabulary."
        )
    return best.check()


_WIDTHS = [*range(64, 256, 32), *range(256, 2048, 64), *range(2048, 16385, 256)]


def _read_size(size: str) -> float:
    """Active parameters from "3M" or "1.5B"."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([MB])\s*", size, re.IGNORECASE)
    if not match or float(match[1]) == 0:
        raise InputError(
            f"[model] size = {size!r}: write active parameters as a number with M or B, such as '3M' or '1.5B'."
        )
    return float(match[1]) * {"M": 1e6, "B": 1e9}[match[2].upper()]


def _shape(hidden: int, target: float, common: Mapping[str, Any]) -> ModelConfig:
    """The rule: all sizes from the hidden size, and from the target what depends on the scale of the run.

    Depth is 5 at width 256 and 61 at 7,168 (DeepSeek-V3), a power law between. From 100M active parameters
    up the latent is 512 + 64 and heads are 128 wide, the shapes that fast kernels exist for. Routed and
    shared experts of a token together are as wide as a dense layer. Weights start at 0.5 / sqrt(hidden), which is
    DeepSeek-V3's 0.006 at its width. Below 10M active parameters experts cost more time than they save.
    """
    layers = max(2, round(5 * (hidden / 256) ** 0.75))
    if layers in (26, 27):
        layers = 25 if layers == 26 else 28
    if layers in (47, 48):
        layers = 49
    is_large = target >= 100e6
    head = 128 if is_large else 32 if hidden < 256 else 64
    intermediate = _multiple(hidden * 8 / 3, 256 if is_large else 64)
    config = ModelConfig(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=max(1, round(hidden / head)),
        q_lora_rank=min(1536, _multiple(hidden / 2, 32)),
        kv_lora_rank=512 if is_large else _multiple(hidden / 4, 32),
        qk_nope_head_dim=head,
        qk_rope_head_dim=64 if is_large else head // 2,
        v_head_dim=head,
        tie_word_embeddings=not is_large,
        initializer_range=round(0.5 / hidden**0.5, 4),
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


def _multiple(value: float, step: int) -> int:
    """The multiple of `step` nearest to `value`, at least one step."""
    return max(step, round(value / step) * step)
