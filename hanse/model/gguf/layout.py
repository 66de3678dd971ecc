"""Which tensors and sizes a GGUF file has, by family, and what they are made of in a model folder.

The names and shapes are those that llama.cpp loads as `deepseek2` and `apertus`. Shapes are numpy's: the last axis is
the width of a row, the one that is packed.

# V vocabulary, D hidden, H heads, K kv latent width, E experts, F feed-forward width
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from hanse.errors import InputError
from hanse.model.config import ApertusConfig, ModelConfig
from hanse.model.config.rotary import Rotary

#: exact: norms and what decides about experts stay float32. table: embedding and head. latent: keys and values out of
#: the latent space, whose rows are narrow. matrix: everything else.
Role = Literal["exact", "table", "latent", "matrix"]
#: A tensor of the folder by name, None where there is none.
Read = Callable[[str], np.ndarray | None]

#: llama.cpp has room for no more in a layer (LLAMA_MAX_EXPERTS).
LARGEST_EXPERTS = 512
#: Of Apertus' activation, where a folder leaves them to the code.
_CONSTANTS = {"beta": 0.5, "eps": -1e-6}
_SIGMOID = 2  # gguf.ExpertGatingFuncType.SIGMOID


@dataclass(frozen=True)
class Entry:
    """One tensor of the file.

    Attributes:
        name: as llama.cpp calls it.
        shape: of the tensor.
        role: decides how it is packed.
        sources: tensors of the folder; several are laid one after the other along the first axis.
        source_shape: of each of them.
        prepare: what is done to each of them; None leaves it.
        constant: what the tensor is where it has no source.
    """

    name: str
    shape: tuple[int, ...]
    role: Role
    sources: tuple[str, ...] = ()
    source_shape: tuple[int, ...] = ()
    prepare: Callable[[np.ndarray], np.ndarray] | None = None
    constant: np.ndarray | None = None


def architecture(config: ModelConfig | ApertusConfig) -> str:
    """What llama.cpp calls the family."""
    return "deepseek2" if isinstance(config, ModelConfig) else "apertus"


def entries(config: ModelConfig | ApertusConfig) -> list[Entry]:
    """Every tensor of the file, without a multi-token block: llama.cpp computes none for these families."""
    wide = (config.vocab_size, config.hidden_size)
    found = [
        _plain("token_embd.weight", "model.embed_tokens.weight", wide, "table"),
        _plain("output_norm.weight", "model.norm.weight", (config.hidden_size,), "exact"),
        _plain("output.weight", "lm_head.weight", wide, "table"),
    ]
    if isinstance(config, ApertusConfig):
        if config.rotary.scaling is not None:
            factors = rotation_factors(config.rotary)
            found.append(Entry("rope_freqs.weight", factors.shape, "exact", constant=factors))
        for layer in range(config.num_hidden_layers):
            found += _apertus_block(config, layer)
        return found
    for layer in range(config.num_hidden_layers):
        found += _deepseek_block(config, layer)
    return found


def fields(config: ModelConfig | ApertusConfig, read: Read) -> dict[str, Any]:
    """The sizes of a file's header, by key.

    Args:
        config: of the model.
        read: gives a tensor of the folder; the slopes of Apertus' activation are part of the header.

    Raises:
        InputError: more experts than llama.cpp has room for, or a slope that is missing.
    """
    common = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "vocab_size": config.vocab_size,
        "attention.head_count": config.num_attention_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": config.rope_theta,
        "rope.dimension_count": config.rotary.width,
    }
    if isinstance(config, ModelConfig):
        return _prefixed(config, common | _deepseek_fields(config))
    heads = {
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
    }
    # These alone go without the name of the architecture.
    slopes = {f"xielu.{name}": _slopes(config, read, name) for name in ("alpha_p", "alpha_n", "beta", "eps")}
    return _prefixed(config, common | heads) | slopes


def _prefixed(config: ModelConfig | ApertusConfig, found: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{architecture(config)}.{key}": value for key, value in found.items()}


def rotation_factors(rotary: Rotary) -> np.ndarray:
    """What llama.cpp divides each pair's frequency by to stretch positions as Llama 3.1 does; float32 (width / 2,)."""
    scaling = rotary.scaling
    assert scaling is not None
    frequencies = rotary.theta ** (-np.arange(0, rotary.width, 2, dtype=np.float64) / rotary.width)
    turns = scaling.original_max_position_embeddings * frequencies / (2 * math.pi)
    ramp = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    ramp = np.clip(ramp, 0.0, 1.0)
    return (1.0 / ((1.0 - ramp) / scaling.factor + ramp)).astype(np.float32)


def check(
    found: list[Entry], shapes: Mapping[str, tuple[int, ...]], config: ModelConfig | ApertusConfig
) -> tuple[list[Entry], bool]:
    """Hold the tensors that are needed against those that a folder has.

    Returns:
        The entries that can be made, without a head where it is the embedding; whether a multi-token block is left out.

    Raises:
        InputError: naming a tensor that is missing, has another shape, or has no place in the file.
    """
    if config.tie_word_embeddings and "lm_head.weight" not in shapes:
        found = [entry for entry in found if entry.name != "output.weight"]  # llama.cpp takes the embedding
    used: set[str] = set()
    for entry in found:
        used.update(entry.sources)
        for name in entry.sources:
            if name not in shapes:
                raise InputError(f"{name} is missing; config.json promises it.")
            if shapes[name] != entry.source_shape:
                raise InputError(f"{name} has shape {shapes[name]}, config.json says {entry.source_shape}.")
    block = f"model.layers.{config.num_hidden_layers}."
    left_out = f"{block}eh_proj.weight" in shapes
    elsewhere = (".act_fn.", ".rotary_emb.", *((block,) if left_out else ()))
    unknown = sorted(name for name in shapes.keys() - used if not any(part in name for part in elsewhere))
    if unknown:
        raise InputError(f"holds {unknown[0]}, which config.json does not mention; is it another model's?")
    return found, left_out


def _plain(name: str, source: str, shape: tuple[int, ...], role: Role) -> Entry:
    return Entry(name, shape, role, (source,), shape)


# --------------------------------------------------------------------------- deepseek_v3


def _deepseek_fields(config: ModelConfig) -> dict[str, Any]:
    latent = config.kv_lora_rank
    found: dict[str, Any] = {
        # With absorbed weights all heads share one key, which is the latent, and one value, which is part of it.
        "attention.head_count_kv": 1,
        "attention.q_lora_rank": config.q_lora_rank,
        "attention.kv_lora_rank": latent,
        "attention.key_length": latent + config.qk_rope_head_dim,
        "attention.value_length": latent,
        "attention.key_length_mla": config.qk_head_dim,
        "attention.value_length_mla": config.v_head_dim,
        "expert_gating_func": _SIGMOID,
        "expert_weights_scale": config.routed_scaling_factor,
        "expert_weights_norm": config.norm_topk_prob,
    }
    if not config.n_routed_experts:
        return found | {
            "leading_dense_block_count": config.num_hidden_layers,
            "expert_feed_forward_length": config.intermediate_size,
            "expert_shared_count": 0,
        }
    if config.n_routed_experts > LARGEST_EXPERTS:
        raise InputError(
            f"config.json: n_routed_experts = {config.n_routed_experts}, but llama.cpp has room for {LARGEST_EXPERTS}."
        )
    found |= {
        "leading_dense_block_count": config.first_k_dense_replace,
        "expert_feed_forward_length": config.moe_intermediate_size,
        "expert_count": config.n_routed_experts,
        "expert_used_count": config.num_experts_per_tok,
        "expert_shared_count": config.n_shared_experts,
    }
    if config.topk_group < config.n_group:  # llama.cpp aborts on groups that exclude nothing
        found |= {"expert_group_count": config.n_group, "expert_group_used_count": config.topk_group}
    return found


def _deepseek_block(config: ModelConfig, layer: int) -> Iterator[Entry]:
    hidden, heads, latent = config.hidden_size, config.num_attention_heads, config.kv_lora_rank
    nope, value = config.qk_nope_head_dim, config.v_head_dim
    ours, theirs = f"model.layers.{layer}.", f"blk.{layer}."
    yield _plain(f"{theirs}attn_norm.weight", f"{ours}input_layernorm.weight", (hidden,), "exact")
    yield _plain(f"{theirs}ffn_norm.weight", f"{ours}post_attention_layernorm.weight", (hidden,), "exact")
    shapes: tuple[tuple[str, str, tuple[int, ...], Role], ...] = (
        ("attn_q_a", "q_a_proj", (config.q_lora_rank, hidden), "matrix"),
        ("attn_q_a_norm", "q_a_layernorm", (config.q_lora_rank,), "exact"),
        ("attn_q_b", "q_b_proj", (heads * config.qk_head_dim, config.q_lora_rank), "matrix"),
        ("attn_kv_a_mqa", "kv_a_proj_with_mqa", (config.cache_width, hidden), "matrix"),
        ("attn_kv_a_norm", "kv_a_layernorm", (latent,), "exact"),
        ("attn_output", "o_proj", (hidden, heads * value), "matrix"),
    )
    for name, source, shape, role in shapes:
        yield _plain(f"{theirs}{name}.weight", f"{ours}self_attn.{source}.weight", shape, role)
    both = (f"{ours}self_attn.kv_b_proj.weight",)
    shape = (heads * (nope + value), latent)

    def heads_of(matrix: np.ndarray) -> np.ndarray:
        return matrix.reshape(heads, nope + value, latent)

    yield Entry(
        f"{theirs}attn_k_b.weight", (heads, latent, nope), "latent", both, shape,
        lambda matrix: heads_of(matrix)[:, :nope].transpose(0, 2, 1),
    )  # fmt: skip
    yield Entry(
        f"{theirs}attn_v_b.weight", (heads, value, latent), "latent", both, shape,
        lambda matrix: heads_of(matrix)[:, nope:],
    )  # fmt: skip
    yield from _experts(config, layer) if config.is_moe(layer) else _dense(config, layer)


def _dense(config: ModelConfig, layer: int) -> Iterator[Entry]:
    for name, shape in _gated(config.hidden_size, config.intermediate_size):
        yield _plain(f"blk.{layer}.ffn_{name}.weight", f"model.layers.{layer}.mlp.{name}_proj.weight", shape, "matrix")


def _experts(config: ModelConfig, layer: int) -> Iterator[Entry]:
    hidden, count, width = config.hidden_size, config.n_routed_experts, config.moe_intermediate_size
    ours, theirs = f"model.layers.{layer}.mlp.", f"blk.{layer}."
    yield _plain(f"{theirs}ffn_gate_inp.weight", f"{ours}gate.weight", (count, hidden), "exact")
    yield _plain(f"{theirs}exp_probs_b.bias", f"{ours}gate.e_score_correction_bias", (count,), "exact")
    for name, shape in _gated(hidden, width):
        sources = tuple(f"{ours}experts.{expert}.{name}_proj.weight" for expert in range(count))
        yield Entry(f"{theirs}ffn_{name}_exps.weight", (count, *shape), "matrix", sources, shape)
    for name, shape in _gated(hidden, width * config.n_shared_experts):
        source = f"{ours}shared_experts.{name}_proj.weight"
        yield _plain(f"{theirs}ffn_{name}_shexp.weight", source, shape, "matrix")


def _gated(hidden: int, width: int) -> tuple[tuple[str, tuple[int, int]], ...]:
    return ("gate", (width, hidden)), ("up", (width, hidden)), ("down", (hidden, width))


# --------------------------------------------------------------------------- apertus


def _apertus_block(config: ApertusConfig, layer: int) -> Iterator[Entry]:
    hidden, width = config.hidden_size, config.head_dim
    queries, keys = config.num_attention_heads * width, config.num_key_value_heads * width
    shapes: tuple[tuple[str, str, tuple[int, ...], Role], ...] = (
        ("attn_norm", "attention_layernorm", (hidden,), "exact"),
        ("ffn_norm", "feedforward_layernorm", (hidden,), "exact"),
        ("attn_q", "self_attn.q_proj", (queries, hidden), "matrix"),
        ("attn_k", "self_attn.k_proj", (keys, hidden), "matrix"),
        ("attn_v", "self_attn.v_proj", (keys, hidden), "matrix"),
        ("attn_output", "self_attn.o_proj", (hidden, queries), "matrix"),
        ("attn_q_norm", "self_attn.q_norm", (width,), "exact"),
        ("attn_k_norm", "self_attn.k_norm", (width,), "exact"),
        ("ffn_up", "mlp.up_proj", (config.intermediate_size, hidden), "matrix"),
        ("ffn_down", "mlp.down_proj", (hidden, config.intermediate_size), "matrix"),
    )
    for name, source, shape, role in shapes:
        yield _plain(f"blk.{layer}.{name}.weight", f"model.layers.{layer}.{source}.weight", shape, role)


def _slopes(config: ApertusConfig, read: Read, name: str) -> list[float]:
    """A number of every layer's activation, as it is stored: llama.cpp applies the softplus too."""
    found = []
    for layer in range(config.num_hidden_layers):
        source = f"model.layers.{layer}.mlp.act_fn.{name}"
        value = read(source)
        if value is None and name not in _CONSTANTS:
            raise InputError(f"{source} is missing; config.json promises it.")
        if value is not None and value.size != 1:
            raise InputError(f"{source} holds {value.size} numbers, but is one.")
        found.append(_CONSTANTS[name] if value is None else float(value.reshape(-1)[0]))
    return found
