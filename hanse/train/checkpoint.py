"""Checkpoints: a renamed directory with hashes, so that one cut off at any instant is either whole or not there.

    <folder>/step-000123/
        model.safetensors        parameters and buffers
        optimizer.safetensors    momenta and moments
        state.json               the step (all that the loader needs), the fingerprint, the guard, tallies of the run
        SHA256SUMS               `sha256sum -c SHA256SUMS` checks it without Hanse

No random state is kept: every draw comes from (seed, step).
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hanse.errors import InputError
from hanse.store.digest import SUMS, canonical_json, parse_sums, sha256_file, sha256_text, sums_text
from hanse.store.disk import fsync_folder, fsync_tree
from hanse.train.optimizer import Optimizer

KEEP = 2  # the newest and the one before, should the newest be damaged
PARTIAL = ".partial-"
FILES = ("model.safetensors", "optimizer.safetensors", "state.json")


@dataclass(frozen=True)
class Checkpoint:
    """One that was found whole and belongs to this run."""

    path: Path
    state: dict[str, Any]


def fingerprint(model: nn.Module, identity: Mapping[str, object]) -> str:
    """What a checkpoint must agree on to be continued: the model's tensors by name and shape, and `identity`.

    Args:
        model: its parameters and persistent buffers.
        identity: whatever else makes the run what it is (data digest, settings, steps); JSON values only.

    Returns:
        SHA-256, hexadecimal.

    Raises:
        TypeError: `identity` holds something without a stable text form.
        ValueError: `identity` holds a number that is not finite.
    """
    shapes = {name: list(tensor.shape) for name, tensor in _model_tensors(model).items()}
    return sha256_text(canonical_json({"shapes": shapes, "identity": identity}))


def save(folder: Path, model: nn.Module, optimizer: Optimizer, state: Mapping[str, Any]) -> Path:
    """Write `step-N` for `state["step"]`, then delete all but the newest `KEEP`.

    Args:
        folder: holds the checkpoints of one run.
        model: parameters and buffers are written in their own type.
        optimizer: its state is written in float32.
        state: JSON values; at least "step" and "fingerprint".

    Returns:
        The checkpoint's folder.

    Raises:
        InputError: the disk is full or not writable; earlier checkpoints are left as they were.
    """
    name = f"step-{state['step']:06d}"
    partial = folder / f"{PARTIAL}{name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove(partial)
        partial.mkdir()
        # One metadata key only: with more, equal weights can give different bytes.
        save_file(_contiguous(_model_tensors(model)), partial / FILES[0], metadata={"format": "pt"})
        save_file(_contiguous(optimizer.state()), partial / FILES[1], metadata={"format": "pt"})
        (partial / FILES[2]).write_text(json.dumps(state, sort_keys=True), encoding="utf-8")
        (partial / SUMS).write_text(sums_text({file: sha256_file(partial / file) for file in FILES}), encoding="utf-8")
        fsync_tree(partial)
        _remove(folder / name)  # one of this step is here only if it was found damaged
        os.rename(partial, folder / name)
        fsync_folder(folder)
    except (OSError, SafetensorError) as error:
        raise _not_saved(folder, name, error) from error
    for old in list(_newest_first(folder))[KEEP:]:
        _remove(old)
    return folder / name


def find(folder: Path, expected_fingerprint: str) -> Checkpoint | None:
    """The newest checkpoint that is whole, or None to start from the beginning.

    A damaged one is passed over with a warning; half-written ones are deleted.

    Raises:
        InputError: the newest whole checkpoint belongs to another model, other data or other settings.
    """
    for partial in folder.glob(f"{PARTIAL}*"):
        _remove(partial)
    for path in _newest_first(folder):
        damage = _damage(path)
        if damage:
            warnings.warn(f"checkpoint {path.name}: {damage}; falling back to the one before.", stacklevel=2)
            continue
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        if state["fingerprint"] != expected_fingerprint:
            raise InputError(
                f"{path}: was made with another model, other data or other settings; continue with those, "
                f"or delete {folder} to start again."
            )
        return Checkpoint(path, state)
    return None


@torch.no_grad()
def load(checkpoint: Checkpoint, model: nn.Module, optimizer: Optimizer) -> None:
    """Copy a checkpoint into model and optimizer, in place.

    Raises:
        InputError: it holds other tensors than the model and its optimizer.
    """
    tensors = _model_tensors(model)
    saved = load_file(checkpoint.path / FILES[0])
    if tensors.keys() != saved.keys():
        raise InputError(f"{checkpoint.path}: holds other tensors than this model; delete it to start again.")
    for name, tensor in tensors.items():
        tensor.copy_(saved[name])
    try:
        optimizer.load_state(load_file(checkpoint.path / FILES[1]))
    except ValueError as error:
        raise InputError(f"{checkpoint.path}: {error}; delete it to start again.") from None


def _model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name; one that is shared (tied) appears once, under its first name."""
    seen: set[int] = set()
    tensors = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            tensors[name] = tensor.detach()
    return tensors


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def _newest_first(folder: Path) -> Iterator[Path]:
    found = [path for path in folder.glob("step-*") if path.name.removeprefix("step-").isdigit() and path.is_dir()]
    yield from sorted(found, key=lambda path: int(path.name.removeprefix("step-")), reverse=True)


def _damage(path: Path) -> str:
    """What is wrong with a checkpoint, or "" for nothing."""
    try:
        sums = parse_sums((path / SUMS).read_text(encoding="utf-8"))
        for name in FILES:
            if sums.get(name) != sha256_file(path / name):
                return f"{name} does not match {SUMS}"
    except (OSError, UnicodeDecodeError, InputError) as error:
        return f"cannot be read ({error})"
    return ""


def _not_saved(folder: Path, name: str, error: Exception) -> InputError:
    with_previous = next(_newest_first(folder), None)
    _remove(folder / f"{PARTIAL}{name}", ignore_errors=True)
    kept = f"{with_previous.name} is kept" if with_previous else "there is no earlier one"
    number = getattr(error, "errno", None)
    # safetensors reports the system's error in its text only.
    if number in (errno.ENOSPC, errno.EDQUOT) or f"os error {errno.ENOSPC}" in str(error):
        return InputError(
            f"{folder}: the disk is full, checkpoint {name} could not be written ({kept}); free space there and "
            "run again."
        )
    return InputError(f"{folder}: checkpoint {name} could not be written: {error} ({kept}); put that right, run again.")


def _remove(path: Path, *, ignore_errors: bool = False) -> None:
    if path.exists():
        shutil.rmtree(path, ignore_errors=ignore_errors)
