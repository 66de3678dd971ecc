"""Weights in the Hugging Face `deepseek_v3` layout: save, load, and the map of names in both directions.

The layout is the export contract: per-expert matrices, gate and up apart, an output head even where trained tied,
router biases in float32. transformers, vLLM, SGLang, llama.cpp (through GGUF), MLX and mistral.rs read it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hanse.errors import InputError
from hanse.model.config import ModelConfig
from hanse.model.transformer import Transformer

WEIGHTS = "model.safetensors"
_BIAS = "e_score_correction_bias"


def save(
    model: Transformer,
    folder: Path,
    *,
    with_mtp: bool = True,
    token_ids: Mapping[str, int] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write `config.json` and `model.safetensors`; equal weights give equal bytes.

    Args:
        with_mtp: write the multi-token block too. MLX refuses a file that has it; vLLM and SGLang use it.
        token_ids: bos_token_id, eos_token_id, pad_token_id for config.json.
        dtype: of everything but the router biases.
    """
    folder.mkdir(parents=True, exist_ok=True)
    values = model.config.to_hf(**(token_ids or {}))
    if not with_mtp:
        values["num_nextn_predict_layers"] = 0
    values["dtype"] = values["torch_dtype"] = str(dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    state = to_hf_state(model, with_mtp=with_mtp)
    tensors = {name: tensor if name.endswith(_BIAS) else tensor.to(dtype) for name, tensor in state.items()}
    # clone: safetensors refuses tensors that share memory, as a tied head and the embedding do.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    # One metadata key only: with more, their order and so the file's hash differ from save to save.
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def load(folder: Path, *, device: torch.device | str = "cpu") -> Transformer:
    """Read a folder in the Hugging Face layout, ours or another's, in one file or several. Weights become float32.

    Raises:
        InputError: missing or unreadable files, a model this code does not compute, weights that do not fit its sizes.
    """
    path = folder / "config.json"
    try:
        config = ModelConfig.from_hf(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); a model folder needs its config.json.") from error
    state = _read_weights(folder)
    if config.num_nextn_predict_layers and f"model.layers.{config.num_hidden_layers}.eh_proj.weight" not in state:
        # transformers announces the block by default, and drops its weights.
        config = ModelConfig(**{**vars(config), "num_nextn_predict_layers": 0})
    if config.tie_word_embeddings:
        head, embedding = state.get("lm_head.weight"), state.get("model.embed_tokens.weight")
        if head is not None and embedding is not None and not torch.equal(head, embedding):
            config = ModelConfig(**{**vars(config), "tie_word_embeddings": False})
    with torch.device(device):
        model = Transformer(config)
    from_hf_state(model, state, source=str(folder))
    return model


def _read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, following the index where there are several files."""
    index = folder / f"{WEIGHTS}.index.json"
    names = [WEIGHTS]
    try:
        if index.exists():
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        state: dict[str, Tensor] = {}
        for name in names:
            state |= load_file(folder / name)
        return state
    except Exception as error:  # safetensors raises its own type for a truncated file
        raise InputError(f"{folder}: weights cannot be read ({error}); copy the model folder again.") from error


def to_hf_state(model: Transformer, *, with_mtp: bool = True) -> dict[str, Tensor]:
    """Tensors under their Hugging Face names, as views of the model's own memory where possible."""
    state: dict[str, Tensor] = {}
    for name, tensor in _own(model):
        if name.startswith("mtp.") and not with_mtp:
            continue
        state |= dict(_spread(_hf_name(name, model.config.num_hidden_layers), tensor.detach()))
    state.setdefault("lm_head.weight", model.head_VD.detach())
    if model.mtp is not None and with_mtp:
        prefix = f"model.layers.{model.config.num_hidden_layers}."
        state[prefix + "embed_tokens.weight"] = model.embed_tokens.detach()
        state[prefix + "shared_head.head.weight"] = model.head_VD.detach()
    return state


@torch.no_grad()
def from_hf_state(model: Transformer, state: Mapping[str, Tensor], *, source: str = "the weights") -> None:
    """Copy Hugging Face tensors into the model.

    Raises:
        InputError: naming the first tensor that is missing or has another shape, or one that nothing here can take.
    """
    expected: set[str] = {"lm_head.weight"}
    for name, tensor in _own(model):
        for hf_name, part in _spread(_hf_name(name, model.config.num_hidden_layers), tensor):
            expected.add(hf_name)
            given = state.get(hf_name)
            if given is None:
                raise InputError(f"{source}: {hf_name} is missing; config.json promises it.")
            if given.shape != part.shape:
                raise InputError(
                    f"{source}: {hf_name} has shape {tuple(given.shape)}, config.json says {tuple(part.shape)}."
                )
            part.copy_(given)
    block = f"model.layers.{model.config.num_hidden_layers}."
    ignored = block if block + "eh_proj.weight" in state else "rotary_emb"
    unknown = sorted(name for name in state.keys() - expected if not name.startswith(ignored))
    if unknown:
        raise InputError(f"{source}: holds {unknown[0]}, which config.json does not mention; is it another model's?")


def _own(model: Transformer) -> Iterator[tuple[str, Tensor]]:
    """Every trained tensor and router bias of the model, by its name here."""
    yield from model.named_parameters()
    yield from (item for item in model.named_buffers() if item[0].endswith(_BIAS))


def _hf_name(name: str, layers: int) -> str:
    """The Hugging Face name of a tensor before stacks are spread."""
    if name == "lm_head":
        return "lm_head.weight"
    if name == "embed_tokens":
        return "model.embed_tokens.weight"
    if name.startswith("mtp."):
        name = name.replace("mtp.norm.", "mtp.shared_head.norm.").replace("mtp.block.", "mtp.")
        name = name.replace("mtp.", f"layers.{layers}.", 1)
    return f"model.{name}"


def _spread(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Take stacks apart: experts (E, ...) one by one, and gate and up (2, F, D) under their own names."""
    prefix, _, last = name.rpartition(".")
    if last not in ("gate_up", "down"):
        yield name, tensor
        return
    is_stack = tensor.ndim == (4 if last == "gate_up" else 3)
    experts = [(f"{prefix}.experts.{i}", part) for i, part in enumerate(tensor)] if is_stack else [(prefix, tensor)]
    for expert, part in experts:
        if last == "gate_up":
            yield f"{expert}.gate_proj.weight", part[0]
            yield f"{expert}.up_proj.weight", part[1]
        else:
            yield f"{expert}.down_proj.weight", part
