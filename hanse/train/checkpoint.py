"""Checkpoints: a renamed directory with hashes, so that one cut off at any instant is either whole or not there.

    <folder>/step-000123/
        shard-00001-...safetensors   each rank's part of parameters, buffers, momenta and moments, written by
                                     torch.distributed.checkpoint and read back by any number of ranks
        state.json                   the step (all that the loader needs), the fingerprint, the guard, tallies
        SHA256SUMS                   `sha256sum -c SHA256SUMS` checks it without Hanse

No random state is kept: every draw comes from (seed, step).
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter

from hanse.errors import InputError
from hanse.parallel.ranks import Ranks
from hanse.store.digest import SUMS, canonical_json, parse_sums, sha256_file, sha256_text, sums_text
from hanse.store.disk import fsync_folder, fsync_tree, is_full_disk
from hanse.train.optimizer import Optimizer

PARTIAL = ".partial-"
STATE = "state.json"
SHAPES = "shapes"
MOST_DIFFERENCES = 4  # that a refusal names


@dataclass(frozen=True)
class Checkpoint:
    """One that was found whole and belongs to this run."""

    path: Path
    state: dict[str, Any]


def fingerprint(model: nn.Module, identity: Mapping[str, object]) -> str:
    """What a checkpoint must agree on to be continued: the model's tensors by name and shape, and `identity`.

    It is readable, so that a refusal can say what differs.

    Args:
        model: its parameters and persistent buffers; how they are sharded makes no difference.
        identity: whatever else makes the run what it is (data digest, settings, steps); JSON values only.

    Returns:
        JSON: `identity`, and the SHA-256 of names and shapes.

    Raises:
        TypeError: `identity` holds something without a stable text form.
        ValueError: `identity` holds a number that is not finite.
    """
    shapes = {name: list(tensor.shape) for name, tensor in _model_tensors(model).items()}
    return canonical_json({SHAPES: sha256_text(canonical_json(shapes)), **identity})


class Checkpoints:
    """The checkpoints of one run. With several ranks, all of them call each method together.

    Args:
        folder: holds them; every rank must see it.
        model: its parameters and buffers are written in their own type.
        optimizer: its state is written in float32.
        ranks: who writes.
        keep: how many of the newest stay; the one before the newest is what damage falls back to.
        milestones: steps whose checkpoints stay, whatever comes after.
        is_asynchronous: write from a copy while training goes on.
    """

    def __init__(
        self,
        folder: Path,
        model: nn.Module,
        optimizer: Optimizer,
        ranks: Ranks,
        *,
        keep: int = 2,
        milestones: Collection[int] = (),
        is_asynchronous: bool = False,
    ) -> None:
        self.folder, self.ranks, self.keep, self.milestones = folder, ranks, keep, frozenset(milestones)
        self._model, self._optimizer = model, optimizer
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint") if is_asynchronous else None
        self._pending: tuple[Future[dict[str, str]], dict[str, Any]] | None = None

    def save(self, state: Mapping[str, Any]) -> None:
        """Write `step-N` for `state["step"]`, then delete what is too old: see `_superfluous`.

        Args:
            state: JSON values; at least "step" and "fingerprint".

        Raises:
            InputError: the disk is full or not writable; earlier checkpoints are left as they were.
        """
        self.finish()
        name = _name(state["step"])
        partial = self.folder / f"{PARTIAL}{name}"
        try:
            self._together(lambda: self._open(partial) if self.ranks.is_first else None)
            writer = HuggingFaceStorageWriter(str(partial), save_distributed=True)
            if self._thread is None:
                _quietly(dcp.save, self._tensors(), storage_writer=writer, **self._how())
                self._close(dict(state), self._together(lambda: self._hash(partial)))
                return
            how = self._how() if self.ranks.size == 1 else {"process_group": self.ranks.saving}
            written = _quietly(dcp.async_save, self._tensors(), storage_writer=writer, **how)
            self._pending = self._thread.submit(lambda: (written.result(), self._hash(partial))[1]), dict(state)
        except (OSError, SafetensorError, CheckpointException) as error:
            raise self._not_saved(name, error) from error

    def poll(self) -> None:
        """Put a checkpoint in its place as soon as all ranks have written theirs."""
        if self._pending and not self.ranks.any(not self._pending[0].done()):
            self.finish()

    def finish(self) -> None:
        """Wait for the checkpoint that is being written, if any. Raises InputError as `save`."""
        if not self._pending:
            return
        (future, state), self._pending = self._pending, None
        try:
            self._close(state, self._together(future.result))
        except (OSError, SafetensorError, CheckpointException) as error:
            raise self._not_saved(_name(state["step"]), error) from error

    def newest(self, expected_fingerprint: str, *, at_most: int | None = None) -> Checkpoint | None:
        """The newest checkpoint that is whole, or None to start from the beginning.

        A damaged one is passed over with a warning; half-written ones are deleted.

        Args:
            expected_fingerprint: of this run.
            at_most: only those of this step or before.

        Raises:
            InputError: the newest whole checkpoint belongs to another model, other data or other settings.
        """
        self.finish()
        if self.ranks.is_first:
            for partial in self.folder.glob(f"{PARTIAL}*"):
                _remove(partial)
        for path in self.ranks.broadcast(list(_newest_first(self.folder))):
            if at_most is not None and _step(path) > at_most:
                continue
            damages = [damage for damage in self.ranks.gather(self._damage(path)) if damage]
            if damages:
                if self.ranks.is_first:
                    warnings.warn(
                        f"checkpoint {path.name}: {damages[0]}; falling back to the one before.", stacklevel=2
                    )
                continue
            state = json.loads((path / STATE).read_text(encoding="utf-8"))
            if state["fingerprint"] != expected_fingerprint:
                difference = differing(state["fingerprint"], expected_fingerprint)
                raise InputError(
                    f"{path}: was made with {difference}; continue with what it was made with, or delete {self.folder} "
                    "to start again."
                )
            return Checkpoint(path, state)
        return None

    @torch.no_grad()
    def load(self, checkpoint: Checkpoint) -> None:
        """Copy a checkpoint into model and optimizer, in place, whatever the ranks it was written by.

        Raises:
            InputError: it holds other tensors than the model and its optimizer.
        """
        try:
            reader = HuggingFaceStorageReader(str(checkpoint.path))
            _quietly(dcp.load, self._tensors(), storage_reader=reader, **self._how())
        except (CheckpointException, RuntimeError, KeyError, ValueError) as error:
            raise InputError(
                f"{checkpoint.path}: does not fit this model and its optimizer ({_first_line(error)}); delete "
                f"{self.folder} to start again."
            ) from error

    def forget_after(self, step: int) -> None:
        """Delete the checkpoints of later steps: the run went back behind them."""
        self.finish()
        if self.ranks.is_first:
            for path in list(_newest_first(self.folder)):
                if _step(path) > step:
                    _remove(path)
        self.ranks.barrier()

    def move_milestones(self, folder: Path) -> None:
        """At the end of a run, put the checkpoints that should stay where the scratch folder's end does not reach."""
        for step in sorted(self.milestones) if self.ranks.is_first else ():
            if (self.folder / _name(step)).is_dir():
                folder.mkdir(parents=True, exist_ok=True)
                shutil.move(self.folder / _name(step), folder / _name(step))

    def _tensors(self) -> dict[str, Tensor]:
        model = {f"model.{name}": tensor for name, tensor in _model_tensors(self._model).items()}
        return model | {f"optimizer.{name}": tensor for name, tensor in self._optimizer.state().items()}

    def _how(self) -> dict[str, Any]:
        return {"no_dist": True} if self.ranks.size == 1 else {"process_group": self.ranks.control}

    def _together(self, act: Any) -> Any:
        """Do something on every rank; an error on one is an error on all."""
        result, failure = None, ""
        try:
            result = act()
        except (OSError, SafetensorError, CheckpointException) as error:
            if self.ranks.size == 1:
                raise
            failure = f"rank {self.ranks.rank}: {error}"
        failures = [text for text in self.ranks.gather(failure) if text]
        if failures:
            raise OSError(failures[0])
        return result

    def _open(self, partial: Path) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        _remove(partial)
        partial.mkdir()

    def _hash(self, partial: Path) -> dict[str, str]:
        """SHA-256 of the files that this rank wrote, each synced to disk."""
        files = sorted(partial.glob(f"shard-{self.ranks.rank + 1:05d}-*"))
        for file in files:
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
        return {file.name: sha256_file(file) for file in files}

    def _close(self, state: Mapping[str, Any], sums: dict[str, str]) -> None:
        """Name, hash and rename what all ranks have written, then drop what is too old."""
        name = _name(state["step"])
        all_sums = {file: digest for part in self.ranks.gather(sums) for file, digest in part.items()}
        self._together(lambda: self._rename(name, state, all_sums) if self.ranks.is_first else None)

    def _rename(self, name: str, state: Mapping[str, Any], sums: dict[str, str]) -> None:
        partial = self.folder / f"{PARTIAL}{name}"
        (partial / STATE).write_text(json.dumps(state, sort_keys=True), encoding="utf-8")
        sums[STATE] = sha256_file(partial / STATE)
        (partial / SUMS).write_text(sums_text(sums), encoding="utf-8")
        fsync_tree(partial)
        _remove(self.folder / name)  # one of this step is here only if it was found damaged
        os.rename(partial, self.folder / name)
        fsync_folder(self.folder)
        for old in self._superfluous(state):
            _remove(old)

    def _superfluous(self, state: Mapping[str, Any]) -> list[Path]:
        """All but the newest `keep`, the milestones, and the newest from before the bad steps that the guard counts.

        It is that one that the run may have to go back to.
        """
        guard = state.get("guard", {})
        calm_step = state["step"] - max(guard.get("failures_in_row", 0), guard.get("high_in_row", 0))
        found = [path for path in _newest_first(self.folder) if _step(path) not in self.milestones]
        calm = next((path for path in found if _step(path) <= calm_step), None)
        return [path for path in found[self.keep :] if path != calm]

    def _damage(self, path: Path) -> str:
        """What is wrong with this rank's share of a checkpoint's files, or "" for nothing."""
        try:
            sums = parse_sums((path / SUMS).read_text(encoding="utf-8"))
            if STATE not in sums or len(sums) < 2:
                return f"{SUMS} does not name its files"
            for name in sorted(sums)[self.ranks.rank :: self.ranks.size]:
                if sums[name] != sha256_file(path / name):
                    return f"{name} does not match {SUMS}"
        except (OSError, UnicodeDecodeError, InputError) as error:
            return f"cannot be read ({error})"
        return ""

    def _not_saved(self, name: str, error: BaseException) -> InputError:
        before = next(_newest_first(self.folder), None)
        if self.ranks.is_first:
            _remove(self.folder / f"{PARTIAL}{name}", ignore_errors=True)
        return not_saved(self.folder, name, error, kept=before.name if before else "")


def not_saved(folder: Path, name: str, error: BaseException, *, kept: str) -> InputError:
    """The sentence for a checkpoint that could not be written; `kept` is the name of the one before, if any."""
    left = f"{kept} is kept" if kept else "there is no earlier one"
    if is_full_disk(error):
        return InputError(
            f"{folder}: the disk is full, checkpoint {name} could not be written ({left}); free space there and "
            "run again."
        )
    return InputError(
        f"{folder}: checkpoint {name} could not be written: {_first_line(error)} ({left}); put that right, run again."
    )


def _model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name; one that is shared (tied) appears once, under its first name."""
    seen: set[int] = set()
    tensors = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            tensors[name] = tensor.detach()
    return tensors


def differing(was: str, now: str) -> str:
    """What two fingerprints disagree on, in words: data and model first, a few of the rest, and how many more."""
    try:
        old, new = json.loads(was), json.loads(now)
        words = list(_differences(old, new))
    except (ValueError, AttributeError):  # of an older version
        words = []
    more = [f"{len(words) - MOST_DIFFERENCES} more"] if len(words) > MOST_DIFFERENCES else []
    return ", ".join(words[:MOST_DIFFERENCES] + more) or "another model, other data or other settings"


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    spoken = {
        SHAPES: "a model of other shapes",
        "data": "other data",
        "model": "another model",
        "start": "another start",
    }
    for name in sorted({*old, *new}, key=lambda key: (key not in spoken, key)):
        was, now = old.get(name), new.get(name)
        if was == now:
            continue
        if name in spoken:
            yield spoken[name]
        elif isinstance(was, dict) and isinstance(now, dict):
            yield from _differences(was, now)
        else:
            yield f"{name} {json.dumps(was)} instead of {json.dumps(now)}"


def _quietly(call: Any, *arguments: Any, **options: Any) -> Any:
    """torch warns that a process alone saves for itself only; that is what is meant."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*assuming the intent is to.*")
        return call(*arguments, **options)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _name(step: int) -> str:
    return f"step-{step:06d}"


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _newest_first(folder: Path) -> Iterator[Path]:
    found = [path for path in folder.glob("step-*") if path.name.removeprefix("step-").isdigit() and path.is_dir()]
    yield from sorted(found, key=_step, reverse=True)


def _remove(path: Path, *, ignore_errors: bool = False) -> None:
    if path.exists():
        shutil.rmtree(path, ignore_errors=ignore_errors)
