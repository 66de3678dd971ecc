"""A small hand-made model, what it was made from, and how it is released."""

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hanse.recipe import Release
from hanse.release.folder import Publishing, release
from hanse.store.stage import Built, Store, Work

CONFIG: dict[str, Any] = {
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "vocab_size": 32, "hidden_size": 8,
    "intermediate_size": 16, "moe_intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "q_lora_rank": 4, "kv_lora_rank": 4, "qk_nope_head_dim": 4, "qk_rope_head_dim": 2,
    "v_head_dim": 4, "n_routed_experts": 2, "n_shared_experts": 1, "num_experts_per_tok": 1, "n_group": 1,
    "topk_group": 1, "routed_scaling_factor": 1.0, "norm_topk_prob": True, "first_k_dense_replace": 1,
    "max_position_embeddings": 64, "rope_theta": 10000.0, "rope_parameters": {"rope_theta": 10000.0},
    "rope_interleave": True, "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "num_nextn_predict_layers": 0,
    "initializer_range": 0.02, "topk_method": "noaux_tc", "scoring_func": "sigmoid", "moe_router_dtype": "float32",
}  # fmt: skip
TOKENIZER = {
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}},
    "added_tokens": [{"id": 30, "content": "<|end_of_text|>"}, {"id": 31, "content": "<|end_of_turn|>"}],
}
TEMPLATE = "{%- generation %}{{ message }}{% endgeneration -%}"
DOCUMENTS = [
    {"id": "1", "source": "novels", "licence": "CC-BY-SA-4.0", "rights_holder": "Library", "author": "Ana | Bó",
     "bytes": 10, "drop_reason": []},
    {"id": "2", "source": "novels", "licence": "CC-BY-SA-4.0", "rights_holder": "Library", "author": None, "bytes": 7,
     "drop_reason": []},
    {"id": "3", "source": "laws", "licence": "CC0-1.0", "rights_holder": None, "author": None, "bytes": 100,
     "drop_reason": []},
    {"id": "4", "source": "laws", "licence": "LicenseRef-closed", "rights_holder": None, "author": "Nobody",
     "bytes": 9, "drop_reason": ["licence"]},
]  # fmt: skip
SCORES = [
    {"language": "da", "task": "all", "metric": "exact_answer", "value": 0.975, "low": 0.9, "high": 1.0, "n": 40},
    {"language": "mean", "task": "all", "metric": "exact_answer", "value": 0.9, "low": 0.8, "high": 1.0, "n": 80},
    {"language": "nb", "task": "all", "metric": "bits_per_byte", "value": 1.25, "low": 1.2, "high": 1.3, "n": 5},
]
SETTINGS = {"title": "Toy: the model", "contact": "lab@example.org"}


def shapes() -> dict[str, tuple[str, list[int]]]:
    """Names, dtypes and shapes of the hand-made model."""
    found: dict[str, tuple[str, list[int]]] = {
        "model.embed_tokens.weight": ("F32", [32, 8]),
        "lm_head.weight": ("F32", [32, 8]),
        "model.norm.weight": ("F32", [8]),
    }
    attention = ("q_a_proj", "q_a_layernorm", "q_b_proj", "kv_a_proj_with_mqa", "kv_a_layernorm", "kv_b_proj", "o_proj")
    for layer in range(2):
        start = f"model.layers.{layer}."
        for name in ("input_layernorm", "post_attention_layernorm", *(f"self_attn.{part}" for part in attention)):
            found[f"{start}{name}.weight"] = ("F32", [8] if "norm" in name else [8, 8])
        places = ["mlp."] if layer == 0 else ["mlp.experts.0.", "mlp.experts.1.", "mlp.shared_experts."]
        for place in places:
            for name in ("gate_proj", "up_proj", "down_proj"):
                found[f"{start}{place}{name}.weight"] = ("F32", [8, 8])
    found["model.layers.1.mlp.gate.weight"] = ("F32", [2, 8])
    found["model.layers.1.mlp.gate.e_score_correction_bias"] = ("F32", [2])
    return found


def write_model(folder: Path, config: dict[str, Any] = CONFIG, *, tensors=None, metadata=None) -> None:
    """A model folder whose weights are all zero."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"} if metadata is None else metadata}
    end = 0
    for name, (dtype, shape) in (shapes() if tensors is None else tensors).items():
        size = math.prod(shape) * (4 if dtype == "F32" else 2)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(end))
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "chat_template.jinja").write_text(TEMPLATE)


def write_dataset(work: Work) -> None:
    names = ("id", "source", "licence", "rights_holder", "author")
    schema = pa.schema(
        [(n, pa.string()) for n in names] + [("bytes", pa.int64()), ("drop_reason", pa.list_(pa.string()))]
    )
    pq.write_table(pa.Table.from_pylist(DOCUMENTS, schema), work.folder / "documents.parquet")


def write_conversations(work: Work) -> None:
    row = {"source": "atlas", "licence": "Unicode-3.0", "messages": [{"role": "user", "content": "æ"}] * 2}
    (work.folder / "train.jsonl").write_text((json.dumps(row) + "\n") * 3)
    (work.folder / "heldout.jsonl").write_text(json.dumps(row) + "\n")
    work.note(sources=[{"name": "atlas", "rights_holder": "Unicode, Inc."}])


def writing(name: str, text: str):
    return lambda work: (work.folder / name).write_text(text) and None


def modelling(**facts: object):
    def make(work: Work) -> None:
        write_model(work.folder)
        work.note(**facts)

    return make


def publish(store: Store, settings: Release, version: str = "1", **changes: Any) -> Built:
    """Release the model of a store."""
    model, evaluation = store.find("model/toy-chat"), store.find("evaluation/toy-chat")
    about: dict[str, Any] = {"recipe_name": "toy", "version": version, "languages": ("da", "nb")} | changes
    publishing = Publishing(settings, **about)

    def make(work: Work) -> None:
        release(work, model=model, evaluation=evaluation, store=store, publishing=publishing)

    return store.build(
        "release", "toy", version, definition=publishing.definition(),
        inputs={"model": model, "evaluation": evaluation}, make=make,
    )  # fmt: skip
