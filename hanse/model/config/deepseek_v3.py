"""Sizes of a `deepseek_v3` model (arXiv:2412.19437): what fits together, what it costs, its config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from hanse.errors import InputError
from hanse.model.config.operations import (
    ATTENTION,
    DENSE,
    MTP_ATTENTION,
    MTP_BLOCK,
    MTP_UNEMBEDDING,
    PROJECTIONS,
    ROUTED,
    ROUTER,
    SHARED,
    UNEMBEDDING,
    flop_of,
)
from hanse.model.config.rotary import Rotary, rope_of
from hanse.model.config.values import refuse_variants, require_positive, typed


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
    def rotary(self) -> Rotary:
        """The part of a head that positions turn."""
        return Rotary(self.qk_rope_head_dim, self.rope_theta)

    @property
    def cache_width(self) -> int:
        """Numbers that the cache keeps of a token in each layer: the latent, and the shared rotated key."""
        return self.kv_lora_rank + self.qk_rope_head_dim

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

    def operations(self, sequence_length: int) -> dict[str, int]:
        """FLOP of the forward pass of one token, by part (the names in `hanse.model.config.operations`).

        Two for each number that takes part in a matrix product with this token; the embedding look-up and the norm
        weights take part in none. Attention: queries x keys and weights x values, 2 x heads x (qk + v) a pair, where
        causality leaves a query (sequence_length + 1) / 2 keys on average.
        """
        main = self._block_operations(range(self.num_hidden_layers), sequence_length)
        main[UNEMBEDDING] = 2 * self.vocab_size * self.hidden_size
        if not self.num_nextn_predict_layers:
            return main
        last = self.num_hidden_layers
        block = self._block_operations(range(last, last + self.num_nextn_predict_layers), sequence_length)
        joining = 2 * self.num_nextn_predict_layers * 2 * self.hidden_size * self.hidden_size
        return main | {
            MTP_ATTENTION: block.pop(ATTENTION),
            MTP_BLOCK: joining + sum(block.values()),
            MTP_UNEMBEDDING: self.num_nextn_predict_layers * main[UNEMBEDDING],
        }

    def flop_per_token(self, sequence_length: int) -> int:
        """FLOP of forward and backward for one training token in sequences of `sequence_length` tokens.

        Three times `operations`: the backward pass takes each product twice. Recomputation is not counted.
        """
        return flop_of(self.operations(sequence_length))

    def _block_operations(self, layers: range, sequence_length: int) -> dict[str, int]:
        """Forward FLOP of some blocks for one token, by part."""
        expert = 2 * 3 * self.hidden_size * self.moe_intermediate_size
        moe = sum(self.is_moe(layer) for layer in layers)
        pair_width = self.num_attention_heads * (self.qk_head_dim + self.v_head_dim)
        found = {
            PROJECTIONS: 2 * len(layers) * self._attention_numbers(),
            ATTENTION: len(layers) * pair_width * (sequence_length + 1),
            DENSE: 2 * 3 * (len(layers) - moe) * self.hidden_size * self.intermediate_size,
            ROUTER: 2 * moe * self.hidden_size * self.n_routed_experts,
            ROUTED: moe * self.num_experts_per_tok * expert,
            SHARED: moe * self.n_shared_experts * expert,
        }
        return {part: flop for part, flop in found.items() if flop}

    def _attention_numbers(self) -> int:
        """Numbers in the projections of one block's latent attention."""
        hidden, heads = self.hidden_size, self.num_attention_heads
        return (
            hidden * (self.q_lora_rank + self.kv_lora_rank + self.qk_rope_head_dim)
            + self.q_lora_rank * heads * self.qk_head_dim
            + self.kv_lora_rank * heads * (self.qk_nope_head_dim + self.v_head_dim)
            + heads * self.v_head_dim * hidden
        )

    def _count(self, experts: int, mtp_blocks: int) -> int:
        """Numbers with `experts` routed experts a layer and `mtp_blocks` multi-token blocks."""
        hidden = self.hidden_size
        head = self.vocab_size * hidden
        blocks = range(self.num_hidden_layers + mtp_blocks)
        attention = self._attention_numbers()
        total = head + sum(attention + self._feed_forward(layer, experts) for layer in blocks)
        total += mtp_blocks * 2 * hidden * hidden
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
        require_positive(self, _POSITIVE)
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
        if not self.rope_theta > 1 or not self.initializer_range > 0:
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
        rope = rope_of(values)
        refuse_variants(values, _ONLY)
        if rope["rope_type"] != "default":
            raise InputError(
                f"config.json: rope_type {rope['rope_type']!r} is not supported, only unscaled rotation ('default')."
            )
        values = {**values, "rope_theta": rope["rope_theta"]}
        if "num_mtp_layers" in values:
            values.setdefault("num_nextn_predict_layers", values["num_mtp_layers"])
        sizes = typed(cls, values, where="config.json")
        sizes["tie_word_embeddings"] = sizes.get("tie_word_embeddings", False) or bool(
            values.get("hanse_tied_in_training")
        )
        missing = [name for name in _POSITIVE if name not in sizes]
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


#: What a deepseek_v3 config may say otherwise and this code does not compute.
_ONLY = {
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "rope_interleave": True,
    "hidden_act": "silu",
    "attention_bias": False,
    "moe_layer_freq": 1,
}
