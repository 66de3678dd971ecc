"""The export contract of the families beside `deepseek_v3`: what a released folder of theirs has to say."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

_APERTUS: dict[str, tuple[object, str]] = {
    "hidden_act": ("xielu", "the weights were trained with it"),
    "qk_norm": (True, "MLX reads it without a default"),
    "post_norm": (False, "MLX reads it without a default"),
    "mlp_bias": (False, "MLX reads it without a default"),
    "tie_word_embeddings": (False, "the head is written out, as for every family"),
}
_OWN = {"DeepseekV3ForCausalLM": "deepseek_v3", "ApertusForCausalLM": "apertus"}
_APERTUS_PARTS = (
    "attention_layernorm.weight", "feedforward_layernorm.weight", "self_attn.q_proj.weight", "self_attn.k_proj.weight",
    "self_attn.v_proj.weight", "self_attn.o_proj.weight", "self_attn.q_norm.weight", "self_attn.k_norm.weight",
    "mlp.up_proj.weight", "mlp.down_proj.weight", "mlp.act_fn.alpha_p", "mlp.act_fn.alpha_n", "mlp.act_fn.beta",
    "mlp.act_fn.eps",
)  # fmt: skip


class Header(Protocol):
    """What a safetensors file says about itself."""

    @property
    def tensors(self) -> dict[str, tuple[str, tuple[int, ...]]]: ...
    @property
    def metadata(self) -> dict[str, str]: ...


def apertus_problems(config: Mapping[str, Any], header: Header) -> list[str]:
    """Every broken rule of an `apertus` folder, a sentence part each."""
    problems = []
    for key, (wanted, why) in _APERTUS.items():
        if config.get(key) != wanted or isinstance(config.get(key), bool) != isinstance(wanted, bool):
            problems.append(f"config.json: {key} has to be {json.dumps(wanted)}: {why}")
    rope, theta = config.get("rope_parameters"), config.get("rope_theta")
    if not isinstance(rope, Mapping) or "rope_type" not in rope:
        problems.append("config.json: rope_parameters is missing; transformers would take scaled rotation")
    elif theta is None or theta != rope.get("rope_theta"):
        problems.append("config.json: rope_theta at the top level, where older runtimes read it, is not the nested one")
    return problems or [*_metadata(header), *_missing(config, header)]


def foreign_problems(config: Mapping[str, Any], header: Header) -> list[str]:
    """Every broken rule of a folder that transformers wrote: it knows its own layout, so there are few."""
    classes, problems = config.get("architectures"), []
    if not classes or not isinstance(classes, list):
        problems.append("config.json: architectures is missing, so no runtime can open it")
    elif _OWN.get(str(classes[0]), config.get("model_type")) != config.get("model_type"):
        problems.append(
            f"config.json: model_type is {json.dumps(config.get('model_type'))}, but architectures {classes[0]}"
        )
    if config.get("auto_map"):
        problems.append("config.json: auto_map asks for code from outside, which no release carries")
    return problems + list(_metadata(header))


def _metadata(header: Header) -> Iterator[str]:
    if list(header.metadata) != ["format"]:
        found = ", ".join(header.metadata) or "none"
        yield f"model.safetensors: its metadata has to be 'format' alone, or equal weights differ in digest ({found})"


def _missing(config: Mapping[str, Any], header: Header) -> Iterator[str]:
    layers, table = config.get("num_hidden_layers"), (config.get("vocab_size"), config.get("hidden_size"))
    if not isinstance(layers, int) or not 0 < layers <= len(header.tensors):
        yield f"config.json: num_hidden_layers is {json.dumps(layers)}, but the weights hold other layers"
        return
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name not in header.tensors or header.tensors[name][1] != table:
            yield f"model.safetensors: {name} is missing or not {list(table)}; a head is written out even when tied"
    wanted = ["model.norm.weight", *(f"model.layers.{n}.{part}" for n in range(layers) for part in _APERTUS_PARTS)]
    yield from (f"model.safetensors: {name} is missing" for name in wanted if name not in header.tensors)
