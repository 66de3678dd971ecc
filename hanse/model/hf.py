"""Model folders in the Hugging Face layout: the one place that opens and writes them, for every family.

The layout is the export contract. `deepseek_v3`: per-expert matrices, gate and up apart, router biases in float32.
`apertus`: the constants of the activation beside its slopes. Both: an output head even where trained tied. Such folders
are read by transformers, vLLM, SGLang, llama.cpp (through GGUF), MLX and mistral.rs. A model that transformers computes
is written by transformers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hanse.errors import InputError
from hanse.model.config import ApertusConfig, ForeignConfig, ModelConfig, open_config
from hanse.model.config.folder import WEIGHTS, weight_files
from hanse.model.config.opening import Section
from hanse.model.foreign import ForeignModel
from hanse.model.transformer import Transformer

__all__ = ["WEIGHTS", "begin", "from_hf_state", "load", "save", "to_hf_state"]

_BIAS = "e_score_correction_bias"
_CONSTANTS = (".act_fn.beta", ".act_fn.eps")


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
    if isinstance(model, ForeignModel):
        model.save(folder, token_ids=token_ids or {}, dtype=dtype)
        return
    values = model.config.to_hf(**(token_ids or {}))
    if not with_mtp and "num_nextn_predict_layers" in values:
        values["num_nextn_predict_layers"] = 0
    values["dtype"] = values["torch_dtype"] = str(dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    state = to_hf_state(model, with_mtp=with_mtp)
    tensors = {name: tensor if name.endswith(_BIAS) else tensor.to(dtype) for name, tensor in state.items()}
    # clone: safetensors refuses tensors that share memory, as a tied head and the embedding do.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    # One metadata key only: with more, their order and so the file's hash differ from save to save.
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def load(
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    family: str | None = None,
    with_mtp: bool = True,
    vocab_size: int = 0,
) -> Transformer:
    """Read a model folder, ours or another's, in one file or several. Weights become float32.

    Args:
        folder: `config.json` and safetensors files.
        device: where the model is made.
        family: see `open_config`; None goes by `config.json`.
        with_mtp: read the multi-token block too, if there is one.
        vocab_size: grow embedding and head to this many rows if they have fewer (`Transformer.grow_vocabulary`).

    Raises:
        InputError: missing or unreadable files, a model that cannot be computed, weights that do not fit its sizes.
    """
    config = open_config(folder, family=family)
    if isinstance(config, ForeignConfig):
        model: Transformer = ForeignModel.load(folder, config, device=device)
    else:
        model = _load_native(folder, config, device=device, with_mtp=with_mtp)
    model.grow_vocabulary(vocab_size)
    return model


def begin(
    section: Section,
    config: ModelConfig | ApertusConfig | ForeignConfig,
    *,
    vocab_size: int,
    seed: int,
    device: torch.device | str = "cpu",
) -> Transformer:
    """The model that a recipe's training begins with: one with random weights, or that of the folder named as `start`.

    Args:
        section: the recipe's `[model]`.
        config: what `configure` made of it.
        vocab_size: of the tokenizer; the model of a folder grows to it.
        seed: of random weights.
        device: where a new model is made; "meta" for one whose weights are drawn later. A folder is read on the CPU.

    Raises:
        InputError: as `load`.
    """
    if section.start:
        return load(Path(section.start), family=section.family, with_mtp=False, vocab_size=vocab_size)
    if isinstance(config, ForeignConfig):
        raise ValueError("a model that transformers computes begins with a folder")
    with torch.device(device):
        model = Transformer(config)
    return model.init_weights(torch.Generator().manual_seed(seed))


def _load_native(
    folder: Path, config: ModelConfig | ApertusConfig, *, device: torch.device | str, with_mtp: bool
) -> Transformer:
    state = _read_weights(folder)
    if isinstance(config, ModelConfig) and config.num_nextn_predict_layers:
        # transformers announces the block by default, and drops its weights.
        is_there = f"model.layers.{config.num_hidden_layers}.eh_proj.weight" in state
        config = replace(config, num_nextn_predict_layers=int(is_there and with_mtp))
    if config.tie_word_embeddings:
        head, embedding = state.get("lm_head.weight"), state.get("model.embed_tokens.weight")
        if head is not None and embedding is not None and not torch.equal(head, embedding):
            config = replace(config, tie_word_embeddings=False)
    with torch.device(device):
        model = Transformer(config)
    from_hf_state(model, state, source=str(folder))
    return model


def _read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, following the index where there are several files."""
    state: dict[str, Tensor] = {}
    try:
        for path in weight_files(folder):
            state |= load_file(path)
    except InputError:
        raise
    except Exception as error:  # safetensors raises its own type for a truncated file
        raise InputError(f"{folder}: weights cannot be read ({error}); copy the model folder again.") from error
    return state


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
            if given is None and hf_name.endswith(_CONSTANTS):
                continue
            if given is None:
                raise InputError(f"{source}: {hf_name} is missing; config.json promises it.")
            if given.shape != part.shape:
                raise InputError(
                    f"{source}: {hf_name} has shape {tuple(given.shape)}, config.json says {tuple(part.shape)}."
                )
            if hf_name.endswith(".act_fn.eps") and not -1e-4 <= float(given) <= 0:
                raise InputError(
                    f"{source}: {hf_name} is {float(given)}, far from 0; the activation here has no bound."
                )
            part.copy_(given)
    block = f"model.layers.{model.config.num_hidden_layers}."
    # A multi-token block that is not asked for, and frequencies that some libraries store.
    ignored = (block,) if block + "eh_proj.weight" in state else ()
    unknown = sorted(
        name for name in state.keys() - expected if not name.startswith(ignored) and ".rotary_emb." not in name
    )
    if unknown:
        raise InputError(f"{source}: holds {unknown[0]}, which config.json does not mention; is it another model's?")


def _own(model: Transformer) -> Iterator[tuple[str, Tensor]]:
    """Every trained tensor, router bias and constant of the model, by its name here."""
    yield from model.named_parameters()
    kept = (_BIAS, *_CONSTANTS)
    yield from (item for item in model.named_buffers() if item[0].endswith(kept))


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
    experts = [(f"{prefix}.{i}", part) for i, part in enumerate(tensor)] if is_stack else [(prefix, tensor)]
    for expert, part in experts:
        if last == "gate_up":
            yield f"{expert}.gate_proj.weight", part[0]
            yield f"{expert}.up_proj.weight", part[1]
        else:
            yield f"{expert}.down_proj.weight", part
