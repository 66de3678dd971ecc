"""The export contract: what a `deepseek_v3` folder has to say so that every runtime reads the same model. The other
families' is in `families`.

Each rule is here because a runtime failed without it, often with wrong text and no error. Nothing is loaded: the rules
are checked on `config.json`, on the header of the safetensors file, and on the tokenizer's files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanse.errors import InputError
from hanse.model.config.opening import FAMILY_KEY
from hanse.release.families import apertus_problems, foreign_problems

CONFIG, WEIGHTS, TEMPLATE, TOKENIZER = "config.json", "model.safetensors", "chat_template.jinja", "tokenizer.json"
#: The safetensors format allows no larger header.
LARGEST_HEADER_BYTES = 100_000_000

_EXACT: dict[str, tuple[object, str]] = {
    "topk_method": ("noaux_tc", "vLLM and SGLang do not find the router bias without it"),
    "scoring_func": ("sigmoid", "llama.cpp would route by softmax without saying so"),
    "moe_router_dtype": ("float32", "vLLM would route in the model's precision"),
    "tie_word_embeddings": (False, "vLLM cannot tie and would answer token 0 for ever"),
    "rms_norm_eps": (1e-6, "transformers uses 1e-6 for the latent norms whatever the file says"),
    "rope_interleave": (True, "vLLM always pairs even with odd positions"),
}
_ATTENTION = (
    "q_a_proj", "q_a_layernorm", "q_b_proj", "kv_a_proj_with_mqa", "kv_a_layernorm", "kv_b_proj", "o_proj",
)  # fmt: skip
_MLP = ("gate_proj", "up_proj", "down_proj")
_EXTRA_BLOCK = ("enorm", "hnorm", "eh_proj", "shared_head.norm")


@dataclass(frozen=True)
class Header:
    """What a safetensors file says about itself: name -> (dtype, shape), and its metadata."""

    tensors: dict[str, tuple[str, tuple[int, ...]]]
    metadata: dict[str, str]

    @property
    def parameters(self) -> int:
        """Numbers in the file."""
        total = 0
        for _, shape in self.tensors.values():
            count = 1
            for width in shape:
                count *= width
            total += count
        return total


def check_export(folder: Path) -> None:
    """Refuse a model folder that some runtime would misread.

    Raises:
        InputError: names the first rule that is broken, why it is one, and how many more there are.
    """
    problems = export_problems(folder)
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise InputError(f"{folder} cannot be released: {problems[0]}{more}.")


def export_problems(folder: Path) -> list[str]:
    """Every broken rule, a sentence part each; empty when the folder obeys the contract."""
    try:
        config = read_json(folder / CONFIG)
        header = read_header(folder / WEIGHTS)
    except InputError as error:
        return [str(error).rstrip(".")]
    family = config.get("model_type")
    if family == "deepseek_v3" and config.get(FAMILY_KEY) is None:
        problems = list(_config_problems(config))
        if not problems:
            problems += _weight_problems(config, header)
    elif family == "apertus" and config.get(FAMILY_KEY) is None:
        problems = apertus_problems(config, header)
    else:
        problems = foreign_problems(config, header)
    return problems + list(_tokenizer_problems(folder, config))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises InputError when it cannot be read or is something else."""
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path.name}: cannot be read ({error.strerror}).") from None
    except ValueError as error:
        raise InputError(f"{path.name}: is not JSON ({error}).") from None
    if not isinstance(value, dict):
        raise InputError(f"{path.name}: is not a JSON object.")
    return value


def read_header(path: Path) -> Header:
    """The header of a safetensors file; the numbers are not read.

    Raises:
        InputError: the file is missing, or no safetensors file.
    """
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > LARGEST_HEADER_BYTES:
                raise InputError(f"{path.name}: is no safetensors file; its header would be {length} bytes long.")
            values = json.loads(stream.read(length))
        metadata = values.pop("__metadata__", {})
        tensors = {name: (str(each["dtype"]), tuple(map(int, each["shape"]))) for name, each in values.items()}
        return Header(tensors, dict(metadata))
    except OSError as error:
        raise InputError(f"{path.name}: cannot be read ({error.strerror}).") from None
    except (ValueError, LookupError, TypeError, AttributeError):
        raise InputError(f"{path.name}: is no safetensors file.") from None


def _config_problems(config: Mapping[str, Any]) -> Iterator[str]:
    for key, (wanted, why) in _EXACT.items():
        value = config.get(key)
        if value != wanted or isinstance(value, bool) != isinstance(wanted, bool):
            shown = json.dumps(value) if key in config else "missing"
            yield f"{CONFIG}: {key} is {shown} and has to be {json.dumps(wanted)}: {why}"
    theta = config.get("rope_theta")
    if not isinstance(theta, int | float) or isinstance(theta, bool):
        yield f"{CONFIG}: rope_theta is not at the top level, where mistral.rs reads it"
    elif config.get("rope_parameters", {}).get("rope_theta", theta) != theta:
        yield f"{CONFIG}: rope_theta and rope_parameters.rope_theta differ"
    rank = config.get("q_lora_rank")
    if not isinstance(rank, int) or isinstance(rank, bool) or rank <= 0:
        yield f"{CONFIG}: q_lora_rank is {json.dumps(rank)} and has to be a whole number above 0 for llama.cpp"
    if config.get("num_nextn_predict_layers") not in (0, 1) or config.get("num_nextn_predict_layers") is True:
        yield f"{CONFIG}: num_nextn_predict_layers has to be 0 or 1; transformers takes 1 where it is missing"
    yield from _size_problems(config)


def _size_problems(config: Mapping[str, Any]) -> Iterator[str]:
    keys = ("num_hidden_layers", "vocab_size", "hidden_size", "first_k_dense_replace", "n_routed_experts")
    for key in keys:
        if not isinstance(config.get(key), int) or isinstance(config.get(key), bool):
            yield f"{CONFIG}: {key} is {json.dumps(config.get(key))} and has to be a whole number"
            return
    layers, vocabulary = config["num_hidden_layers"], config["vocab_size"]
    is_taken = layers in (26, 27) or (layers == 48 and vocabulary == 128256)
    if is_taken or (layers in (47, 48) and vocabulary == 154880):
        yield (
            f"{CONFIG}: {layers} layers with a vocabulary of {vocabulary} are what llama.cpp takes for a model of "
            f"another family; choose another num_hidden_layers"
        )


def _weight_problems(config: Mapping[str, Any], header: Header) -> Iterator[str]:
    if list(header.metadata) != ["format"]:
        found = ", ".join(header.metadata) or "none"
        yield f"{WEIGHTS}: its metadata has to be 'format' alone, or equal weights get unequal digests (found: {found})"
    for name, shape in _needed(config):
        if name not in header.tensors:
            why = "; it is written out even when trained tied" if name == "lm_head.weight" else ""
            yield f"{WEIGHTS}: {name} is missing{why}"
        elif shape is not None and header.tensors[name][1] != shape:
            yield f"{WEIGHTS}: {name} has shape {list(header.tensors[name][1])} and has to have {list(shape)}"
    for name, (dtype, shape) in header.tensors.items():
        if re.search(r"\.experts\.(gate_up_proj|gate_proj|up_proj|down_proj)", name) or (
            ".experts." in name and len(shape) != 2
        ):
            yield f"{WEIGHTS}: {name} is fused; experts are written one by one, as two-dimensional weights"
        if name.endswith("e_score_correction_bias") and dtype != "F32":
            yield f"{WEIGHTS}: {name} is {dtype} and has to be F32, or near-ties between experts flip"
    extra = [name for name in header.tensors if _layer(name) >= config["num_hidden_layers"]]
    if extra and not config["num_nextn_predict_layers"]:
        yield f"{WEIGHTS}: {extra[0]} belongs to a layer that {CONFIG} does not count"


def _needed(config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...] | None]]:
    """Names that must be there, with the shape where it decides whether runtimes agree."""
    table = (config["vocab_size"], config["hidden_size"])
    yield "model.embed_tokens.weight", table
    yield "lm_head.weight", table
    yield "model.norm.weight", (config["hidden_size"],)
    layers, extra = config["num_hidden_layers"], config["num_nextn_predict_layers"]
    for layer in range(layers + extra):
        start = f"model.layers.{layer}."
        for part in ("input_layernorm", "post_attention_layernorm", *(f"self_attn.{name}" for name in _ATTENTION)):
            yield f"{start}{part}.weight", None
        if layer < config["first_k_dense_replace"]:
            yield from ((f"{start}mlp.{name}.weight", None) for name in _MLP)
        else:
            yield f"{start}mlp.gate.weight", (config["n_routed_experts"], config["hidden_size"])
            yield f"{start}mlp.gate.e_score_correction_bias", (config["n_routed_experts"],)
            for expert in range(config["n_routed_experts"]):
                yield from ((f"{start}mlp.experts.{expert}.{name}.weight", None) for name in _MLP)
        if layer >= layers:
            yield from ((f"{start}{name}.weight", None) for name in _EXTRA_BLOCK)


def _tokenizer_problems(folder: Path, config: Mapping[str, Any]) -> Iterator[str]:
    try:
        tokenizer = read_json(folder / TOKENIZER)
        template = (folder / TEMPLATE).read_text(encoding="utf-8")
    except InputError as error:
        yield str(error).rstrip(".")
        return
    except (OSError, UnicodeDecodeError):
        yield f"{TEMPLATE}: is missing or not UTF-8 text"
        return
    for marker in ("generation", "endgeneration"):
        if re.search(r"\{%[-+]?\s*" + marker + r"\s*[-+]?%\}", template) is None:
            yield f"{TEMPLATE}: has no {{% {marker} %}}, so nobody can tell what the assistant wrote"
    model = tokenizer.get("model", {})
    if model.get("type") != "BPE":
        yield f"{TOKENIZER}: is {model.get('type')}, not byte-level BPE"
    ids = [*model.get("vocab", {}).values(), *(token["id"] for token in tokenizer.get("added_tokens", []))]
    if ids and isinstance(config.get("vocab_size"), int) and max(ids) >= config["vocab_size"]:
        yield f"{TOKENIZER}: has token {max(ids)}, but the model's vocabulary ends at {config['vocab_size'] - 1}"


def _layer(name: str) -> int:
    match = re.match(r"model\.layers\.([0-9]+)\.", name)
    return int(match[1]) if match else -1
