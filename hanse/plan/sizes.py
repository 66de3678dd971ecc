"""Every weight of a model by name, shape and treatment, without building it: what memory and traffic are counted from.

Names and shapes are those of hanse/model; the tests hold them against it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod

from hanse.errors import InputError
from hanse.model.config import ApertusConfig, Config, ModelConfig

# Muon keeps a momentum, AdamW two moments, AdEMAMix a slow momentum beside them.
STATE_VALUES = {"muon": 1, "adamw": 2, "ademamix": 3}
ROOT = "root"  # embedding, head and final norm, which belong to no block


@dataclass(frozen=True)
class Weight:
    """One parameter.

    Attributes:
        name: as `Transformer.named_parameters` has it.
        shape: its axes.
        block: "layers.3", "mtp", or "root" for what lies outside the blocks.
        group: as the optimizer groups them: "matrices", "routed experts", "embeddings", "head", "router" or
            "norms and biases".
    """

    name: str
    shape: tuple[int, ...]
    block: str
    group: str

    @cached_property
    def count(self) -> int:
        """Numbers in it."""
        return prod(self.shape)

    @property
    def is_routed(self) -> bool:
        """Whether it is a stack of routed experts, which expert parallelism splits."""
        return self.group == "routed experts"

    def moved_by(self, optimizer: str) -> str:
        """What moves it where a recipe asks for `optimizer`: Muon moves matrices only, and AdamW the rest."""
        is_matrix = self.group in ("matrices", "routed experts")
        return "adamw" if optimizer == "muon" and not is_matrix else optimizer

    def optimizer_values(self, optimizer: str) -> int:
        """Float32 values that the optimizer keeps for each number."""
        return STATE_VALUES[self.moved_by(optimizer)]


@lru_cache(maxsize=64)
def weights(config: Config) -> tuple[Weight, ...]:
    """All trained parameters of `Transformer(config)`. Raises InputError for a model that transformers computes."""
    if not isinstance(config, ModelConfig | ApertusConfig):
        raise InputError("[model] family = transformers: what such a model holds while it trains is not known here.")
    return tuple(_weights(config))


def total(chosen: Iterable[Weight]) -> int:
    """Numbers in these weights."""
    return sum(weight.count for weight in chosen)


def _weights(config: ModelConfig | ApertusConfig) -> Iterator[Weight]:
    vocab, hidden = config.vocab_size, config.hidden_size
    yield Weight("embed_tokens", (vocab, hidden), ROOT, "embeddings")
    if not config.tie_word_embeddings:
        yield Weight("lm_head", (vocab, hidden), ROOT, "head")
    for layer in range(config.num_hidden_layers):
        name = f"layers.{layer}"
        yield from _block(config, layer, name, name) if isinstance(config, ModelConfig) else _apertus(config, name)
    yield _vector("norm", hidden, ROOT)
    if isinstance(config, ModelConfig) and config.num_nextn_predict_layers:
        yield from (_vector(f"mtp.{norm}", hidden, "mtp") for norm in ("enorm", "hnorm", "norm"))
        yield Weight("mtp.eh_proj.weight", (hidden, 2 * hidden), "mtp", "matrices")
        yield from _block(config, config.num_hidden_layers, "mtp.block", "mtp")


def _block(config: ModelConfig, layer: int, prefix: str, block: str) -> Iterator[Weight]:
    hidden, heads = config.hidden_size, config.num_attention_heads
    attention = {
        "q_a_proj": (config.q_lora_rank, hidden),
        "q_b_proj": (heads * config.qk_head_dim, config.q_lora_rank),
        "kv_a_proj_with_mqa": (config.kv_lora_rank + config.qk_rope_head_dim, hidden),
        "kv_b_proj": (heads * (config.qk_nope_head_dim + config.v_head_dim), config.kv_lora_rank),
        "o_proj": (hidden, heads * config.v_head_dim),
    }
    for name, shape in attention.items():
        yield Weight(f"{prefix}.self_attn.{name}.weight", shape, block, "matrices")
    yield _vector(f"{prefix}.self_attn.q_a_layernorm", config.q_lora_rank, block)
    yield _vector(f"{prefix}.self_attn.kv_a_layernorm", config.kv_lora_rank, block)
    yield _vector(f"{prefix}.input_layernorm", hidden, block)
    yield _vector(f"{prefix}.post_attention_layernorm", hidden, block)
    if not config.is_moe(layer):
        yield from _dense(f"{prefix}.mlp", hidden, config.intermediate_size, block)
        return
    experts, width = config.n_routed_experts, config.moe_intermediate_size
    yield Weight(f"{prefix}.mlp.gate.weight", (experts, hidden), block, "router")
    yield Weight(f"{prefix}.mlp.experts.gate_up", (experts, 2, width, hidden), block, "routed experts")
    yield Weight(f"{prefix}.mlp.experts.down", (experts, hidden, width), block, "routed experts")
    yield from _dense(f"{prefix}.mlp.shared_experts", hidden, width * config.n_shared_experts, block)


def _dense(prefix: str, hidden: int, width: int, block: str) -> Iterator[Weight]:
    yield Weight(f"{prefix}.gate_up", (2, width, hidden), block, "matrices")
    yield Weight(f"{prefix}.down", (hidden, width), block, "matrices")


def _apertus(config: ApertusConfig, block: str) -> Iterator[Weight]:
    hidden, width = config.hidden_size, config.head_dim
    queries, pairs = config.num_attention_heads * width, config.num_key_value_heads * width
    matrices = {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (pairs, hidden),
        "self_attn.v_proj": (pairs, hidden),
        "self_attn.o_proj": (hidden, queries),
        "mlp.up_proj": (config.intermediate_size, hidden),
        "mlp.down_proj": (hidden, config.intermediate_size),
    }
    for name, shape in matrices.items():
        yield Weight(f"{block}.{name}.weight", shape, block, "matrices")
    for name in ("attention_layernorm", "feedforward_layernorm"):
        yield _vector(f"{block}.{name}", hidden, block)
    for name in ("q_norm", "k_norm"):
        yield _vector(f"{block}.self_attn.{name}", width, block)
    for name in ("alpha_p", "alpha_n"):
        yield Weight(f"{block}.mlp.act_fn.{name}", (1,), block, "norms and biases")


def _vector(name: str, width: int, block: str) -> Weight:
    return Weight(f"{name}.weight", (width,), block, "norms and biases")
