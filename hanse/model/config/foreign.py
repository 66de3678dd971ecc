"""Sizes of a model that transformers computes, from its `config.json` and the shapes of its weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hanse.errors import InputError
from hanse.model.config.folder import Shapes, numbers_in
from hanse.model.config.operations import ATTENTION, BLOCKS, UNEMBEDDING, flop_of
from hanse.model.config.values import LARGEST

#: Sizes, and what older families call them.
_NAMES = {
    "vocab_size": (),
    "hidden_size": ("n_embd", "d_model"),
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "num_attention_heads": ("n_head", "n_heads", "num_heads"),
    "max_position_embeddings": ("n_positions", "max_seq_len", "max_sequence_length"),
}
_EXPERTS = ("n_routed_experts", "num_local_experts", "num_experts", "moe_num_experts")
_CHOSEN = ("num_experts_per_tok", "num_experts_per_token", "moe_top_k", "moe_k")
_POSITION_TABLES = ("wpe.", "embed_positions.", "position_embeddings.")
#: Keys with which a model changes its logits after the head; the chunked loss knows nothing of them.
_AFTER_THE_HEAD = {
    "final_logit_softcapping": None,
    "logit_scale": 1.0,
    "logits_scaling": 1.0,
    "lm_head_multiplier": 1.0,
}


@dataclass(frozen=True)
class ForeignConfig:
    """A causal language model of any family that transformers has.

    Attributes:
        model_type: the family's name in transformers.
        head_dim: width of a head, for the cost of attention.
        weights: numbers in the weight files.
        active: of these, those that one token meets.
        matrices: of these, those that take part in a matrix product with it.
        values: the whole `config.json`.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    head_dim: int
    max_position_embeddings: int
    tie_word_embeddings: bool
    weights: int
    active: int
    matrices: int
    values: Mapping[str, Any] = field(repr=False, compare=False)

    @classmethod
    def of(cls, values: Mapping[str, Any], shapes: Shapes) -> ForeignConfig:
        """Read the sizes.

        Args:
            values: of `config.json`; where it describes several parts, the one for text counts.
            shapes: of the weights, by name.

        Raises:
            InputError: a size is missing or no number, weights are quantised, or logits are changed after the head.
        """
        text = values.get("text_config")
        text = {**values, **text} if isinstance(text, Mapping) else values
        if values.get("quantization_config"):
            raise InputError("config.json: quantization_config: quantised weights cannot be trained; use others.")
        for key, harmless in _AFTER_THE_HEAD.items():
            if text.get(key) not in (None, harmless):
                raise InputError(
                    f"config.json: {key} = {text[key]!r}: this family changes its logits after the output head, which "
                    "training here does not compute; choose another model."
                )
        sizes = {name: _size(text, name, *others) for name, others in _NAMES.items()}
        given = {"head_dim": text["head_dim"]} if text.get("head_dim") is not None else {}
        tables = [shape for shape in shapes.values() if len(shape) == 2 and shape[0] == sizes["vocab_size"]]
        looked_up = math.prod(tables[0]) * (len(tables) - 1) if tables else 0
        looked_up += sum(math.prod(s) for name, s in shapes.items() if any(part in name for part in _POSITION_TABLES))
        idle = _idle(text, shapes)
        products = sum(math.prod(shape) for shape in shapes.values() if len(shape) > 1)
        total = numbers_in(shapes)
        return cls(
            model_type=str(values.get("model_type")),
            **sizes,
            head_dim=_size({"head_dim": sizes["hidden_size"] // sizes["num_attention_heads"], **given}, "head_dim"),
            tie_word_embeddings=len(tables) < 2,
            weights=total,
            active=total - idle,
            matrices=products - looked_up - idle,
            values=values,
        )

    def parameters(self) -> int:
        """Numbers in the weight files."""
        return self.weights

    def active_parameters(self) -> int:
        """Numbers that one token meets: without the experts that are not chosen."""
        return self.active

    def operations(self, sequence_length: int) -> dict[str, int]:
        """FLOP of the forward pass of one token, by part; counted as `ModelConfig.operations` says.

        What the products of the blocks are for is not known here. Attention is taken to be causal over the whole
        sequence in every layer: too much for windows and recurrences.
        """
        head = min(self.vocab_size * self.hidden_size, self.matrices)
        return {
            BLOCKS: 2 * (self.matrices - head),
            ATTENTION: self.num_hidden_layers * self.num_attention_heads * 2 * self.head_dim * (sequence_length + 1),
            UNEMBEDDING: 2 * head,
        }

    def flop_per_token(self, sequence_length: int) -> int:
        """FLOP of forward and backward for one training token; counted as `ModelConfig.flop_per_token` says."""
        return flop_of(self.operations(sequence_length))

    def check(self) -> ForeignConfig:
        """Itself: whether it works is seen when it is loaded."""
        return self

    def to_hf(self, **token_ids: int | None) -> dict[str, Any]:
        """The `config.json` that it was read from, with these token ids."""
        return {**self.values, **token_ids}


def _size(values: Mapping[str, Any], name: str, *others: str) -> int:
    value = next((values[key] for key in (name, *others) if values.get(key) is not None), None)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= LARGEST:
        found = "missing" if value is None else f"{value!r} and no ordinary whole number"
        raise InputError(f"config.json: {name} is {found}; is it the config.json of a language model?")
    return value


def _idle(values: Mapping[str, Any], shapes: Shapes) -> int:
    """Numbers of routed experts that a token does not meet; 0 where the config does not say how many it meets."""
    experts = next((values[key] for key in _EXPERTS if isinstance(values.get(key), int)), 0)
    chosen = next((values[key] for key in _CHOSEN if isinstance(values.get(key), int)), experts)
    routed = sum(math.prod(shape) for name, shape in shapes.items() if ".experts." in name)
    return routed * (experts - chosen) // experts if 0 < chosen <= experts else 0
