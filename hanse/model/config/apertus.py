"""Sizes of an `apertus` model (Swiss AI Initiative, arXiv:2509.14233): what fits together, costs, its config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from hanse.errors import InputError
from hanse.model.config.operations import ATTENTION, DENSE, PROJECTIONS, UNEMBEDDING, flop_of
from hanse.model.config.rotary import Llama3Scaling, Rotary, rope_of, scaling_of
from hanse.model.config.values import refuse_variants, require_positive, typed


@dataclass(frozen=True)
class ApertusConfig:
    """An `apertus` model: dense, with grouped queries. Every plain field is the key of the Hugging Face `config.json`.

    `rope_scaling` is None for plain rotation.
    """

    #: There are none, and no multi-token block; asked for of every family.
    n_routed_experts: ClassVar[int] = 0
    num_nextn_predict_layers: ClassVar[int] = 0

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int = 4096
    rope_theta: float = 10000.0
    rope_scaling: Llama3Scaling | None = None
    rms_norm_eps: float = 1e-5
    tie_word_embeddings: bool = False
    initializer_range: float = 0.02

    @property
    def rotary(self) -> Rotary:
        """Heads are rotated whole."""
        return Rotary(self.head_dim, self.rope_theta, self.rope_scaling)

    @property
    def cache_width(self) -> int:
        """Numbers that the cache keeps of a token in each layer: keys and values."""
        return 2 * self.num_key_value_heads * self.head_dim

    def is_moe(self, layer: int) -> bool:
        """No block has experts."""
        return False

    def parameters(self) -> int:
        """Trained numbers; a tied output head counts once."""
        embedding = 0 if self.tie_word_embeddings else self.vocab_size * self.hidden_size
        # Two norms over the hidden size, two over a head, and the two slopes of the activation.
        vectors = 2 * self.hidden_size + 2 * self.head_dim + 2
        return self._matrices() + embedding + self.num_hidden_layers * vectors + self.hidden_size

    def active_parameters(self) -> int:
        """All of them meet every token."""
        return self.parameters()

    def operations(self, sequence_length: int) -> dict[str, int]:
        """FLOP of the forward pass of one token, by part; counted as `ModelConfig.operations` says."""
        layers, heads = self.num_hidden_layers, self.num_attention_heads
        return {
            PROJECTIONS: 2 * layers * self._attention_numbers(),
            ATTENTION: layers * heads * 2 * self.head_dim * (sequence_length + 1),
            DENSE: 2 * layers * 2 * self.hidden_size * self.intermediate_size,
            UNEMBEDDING: 2 * self.vocab_size * self.hidden_size,
        }

    def flop_per_token(self, sequence_length: int) -> int:
        """FLOP of forward and backward for one training token; counted as `ModelConfig.flop_per_token` says."""
        return flop_of(self.operations(sequence_length))

    def _attention_numbers(self) -> int:
        """Numbers in the projections of one block: queries and output, keys and values."""
        return 2 * self.hidden_size * self.head_dim * (self.num_attention_heads + self.num_key_value_heads)

    def _matrices(self) -> int:
        """Numbers that take part in a product with every token, the output head included."""
        feed_forward = 2 * self.hidden_size * self.intermediate_size
        blocks = self.num_hidden_layers * (self._attention_numbers() + feed_forward)
        return blocks + self.vocab_size * self.hidden_size

    def check(self) -> ApertusConfig:
        """Return the config unchanged, or raise InputError for sizes that cannot work."""
        require_positive(self, _POSITIVE)
        if self.head_dim % 2:
            raise InputError(f"[model] head_dim = {self.head_dim} is odd, but positions rotate pairs: make it even.")
        if self.num_attention_heads % self.num_key_value_heads:
            raise InputError(
                f"[model] num_key_value_heads = {self.num_key_value_heads} does not divide num_attention_heads = "
                f"{self.num_attention_heads}: each key and value serves an equal group of queries."
            )
        if not self.rope_theta > 1 or not self.initializer_range > 0 or not 0 < self.rms_norm_eps < 1:
            raise InputError(
                "[model] rope_theta must be above 1, initializer_range above 0 and rms_norm_eps between 0 and 1."
            )
        return self

    def to_hf(self, **token_ids: int | None) -> dict[str, Any]:
        """The `config.json` for ApertusForCausalLM.

        Rotation is always written out, because transformers takes scaled rotation with a base of 12 million where
        nothing is said; tied weights are declared untied, as for `deepseek_v3`.

        Args:
            token_ids: `bos_token_id`, `eos_token_id`, `pad_token_id`; absent ones are written as null, because
                transformers would otherwise assume 1, 2 and 3.
        """
        sizes = asdict(self)
        scaling = sizes.pop("rope_scaling")
        rope = {"rope_type": "llama3", **scaling} if scaling else {"rope_type": "default"}
        tied = {"hanse_tied_in_training": True} if self.tie_word_embeddings else {}
        return {
            "architectures": ["ApertusForCausalLM"],
            "model_type": "apertus",
            **sizes,
            "tie_word_embeddings": False,
            **tied,
            "hidden_act": "xielu",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "mlp_bias": False,
            "post_norm": False,
            "qk_norm": True,
            "rope_parameters": {**rope, "rope_theta": self.rope_theta},
            "bos_token_id": token_ids.get("bos_token_id"),
            "eos_token_id": token_ids.get("eos_token_id"),
            "pad_token_id": token_ids.get("pad_token_id"),
            "dtype": "float32",
            "torch_dtype": "float32",
            "use_cache": True,
        }

    @classmethod
    def from_hf(cls, values: Mapping[str, Any]) -> ApertusConfig:
        """Read an `apertus` config.json.

        Raises:
            InputError: for another model type, a missing or impossible size, or a variant that this code does not
                compute (another activation, biases, rotation scaled in another way).
        """
        if values.get("model_type") != "apertus":
            raise InputError(f"config.json: model_type is {values.get('model_type')!r}, not 'apertus'.")
        refuse_variants(values, _ONLY)
        rope = rope_of({**_THEIR_ROPE, **{key: value for key, value in values.items() if value is not None}})
        rope = {"original_max_position_embeddings": values.get("max_position_embeddings"), **rope}
        sizes = typed(cls, {**values, "rope_theta": rope["rope_theta"]}, where="config.json")
        sizes["tie_word_embeddings"] = sizes.get("tie_word_embeddings", False) or bool(
            values.get("hanse_tied_in_training")
        )
        heads = sizes.get("num_attention_heads", 0)
        sizes.setdefault("num_key_value_heads", heads)
        if heads > 0 and "hidden_size" in sizes:
            sizes.setdefault("head_dim", sizes["hidden_size"] // heads)
        missing = [name for name in _POSITIVE if name not in sizes]
        if missing:
            raise InputError(f"config.json: {', '.join(missing)} missing; an apertus model needs them as integers.")
        return cls(**sizes, rope_scaling=scaling_of(rope)).check()


_POSITIVE = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
)

#: What an apertus config may say otherwise and this code does not compute.
_ONLY = {"hidden_act": "xielu", "attention_bias": False, "mlp_bias": False, "post_norm": False, "qk_norm": True}

#: What a config.json means that does not say how it rotates: these are the defaults of ApertusConfig in transformers.
_THEIR_ROPE = {
    "rope_theta": 12_000_000.0,
    "rope_parameters": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_theta": 12_000_000.0,
    },
}
