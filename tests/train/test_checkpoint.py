"""Checkpoints: whole or not there, of this run or refused."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from toy import ToySettings, toy_batch_at, toy_model, toy_train, weights_digest

from hanse.data.loader import Batch
from hanse.errors import InputError, Interrupted
from hanse.train import checkpoint
from hanse.train.optimizer import Optimizer, assign


def _optimizer(model: torch.nn.Module) -> Optimizer:
    return Optimizer(model, assign(model, ToySettings()), newton_schulz_dtype=torch.float32)


def _stopped(folder: Path, after: int) -> None:
    """A run of 20 steps that was interrupted after `after` of them; checkpoints every 5."""

    def batch_at(step: int) -> list[Batch]:
        if step == after - 1:
            os.kill(os.getpid(), 15)
        return toy_batch_at(step)

    with pytest.raises(Interrupted):
        toy_train(folder, batch_at=batch_at)


def test_a_checkpoint_verifies_with_coreutils_and_holds_one_metadata_key(tmp_path: Path) -> None:
    model = toy_model()
    path = checkpoint.save(tmp_path, model, _optimizer(model), {"step": 3, "fingerprint": "f"})
    assert path.name == "step-000003"
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=path, check=True, capture_output=True)
    raw = (path / "model.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    assert header["__metadata__"] == {"format": "pt"}


def test_load_gives_back_weights_buffers_and_optimizer_state(tmp_path: Path) -> None:
    model = toy_model()
    optimizer = _optimizer(model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step(1.0)
    for router in model.routers().values():
        router.e_score_correction_bias += 0.5
    checkpoint.save(tmp_path, model, optimizer, {"step": 1, "fingerprint": "f"})
    other = toy_model(seed=9)
    other_optimizer = _optimizer(other)
    found = checkpoint.find(tmp_path, "f")
    assert found is not None
    checkpoint.load(found, other, other_optimizer)
    assert weights_digest(other) == weights_digest(model)
    for name, tensor in optimizer.state().items():
        assert torch.equal(other_optimizer.state()[name], tensor), name


def test_only_the_last_two_are_kept(tmp_path: Path) -> None:
    toy_train(tmp_path)
    assert sorted(path.name for path in (tmp_path / "scratch").glob("step-*")) == ["step-000015", "step-000020"]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "SHA256SUMS"])
def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(tmp_path: Path, name: str) -> None:
    straight = toy_model()
    toy_train(tmp_path / "straight", model=straight)
    _stopped(tmp_path / "run", after=12)
    file = tmp_path / "run" / "scratch" / "step-000012" / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    resumed = toy_model()
    with pytest.warns(UserWarning, match="step-000012.*falling back"):
        toy_train(tmp_path / "run", model=resumed)
    assert weights_digest(resumed) == weights_digest(straight)


def test_a_missing_file_counts_as_damage(tmp_path: Path) -> None:
    _stopped(tmp_path, after=12)
    (tmp_path / "scratch" / "step-000012" / "optimizer.safetensors").unlink()
    shutil.rmtree(tmp_path / "scratch" / "step-000010")
    with pytest.warns(UserWarning, match=r"optimizer\.safetensors"):
        assert toy_train(tmp_path).steps == 20


@pytest.mark.parametrize(
    "change",
    [
        {"identity": {"data": "other"}},
        {"steps": 30},
        {"model": toy_model(moe_intermediate_size=24)},
    ],
    ids=["data", "steps", "model"],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path, change: dict) -> None:
    _stopped(tmp_path, after=7)
    with pytest.raises(InputError, match="another model, other data or other settings"):
        toy_train(tmp_path, **change)


def test_an_identity_without_a_stable_form_is_an_error() -> None:
    with pytest.raises(TypeError):
        checkpoint.fingerprint(toy_model(), {"data": Path("corpus")})


def test_a_full_disk_keeps_the_last_good_checkpoint_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = toy_model()
    toy_train(tmp_path / "straight", model=straight)
    write, calls = checkpoint.save_file, []

    def full(tensors, path, **options):
        calls.append(path)
        write(tensors, path, **options)
        if len(calls) == 6:  # the optimizer of the third checkpoint
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full)
        with pytest.raises(InputError, match=r"disk is full.*step-000015.*step-000010 is kept.*free space"):
            toy_train(tmp_path / "run")
    scratch = tmp_path / "run" / "scratch"
    assert sorted(path.name for path in scratch.iterdir()) == ["metrics.jsonl", "step-000005", "step-000010"]
    resumed = toy_model()
    toy_train(tmp_path / "run", model=resumed)
    assert weights_digest(resumed) == weights_digest(straight)


def test_a_full_disk_is_recognised_in_the_text_of_safetensors_error(tmp_path: Path) -> None:
    error = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert "disk is full" in str(checkpoint._not_saved(tmp_path, "step-000001", error))
    other = SafetensorError("Error while serializing: I/O error: File too large (os error 27)")
    assert "could not be written: Error while" in str(checkpoint._not_saved(tmp_path, "step-000001", other))


def test_tied_weights_are_saved_once_and_loaded(tmp_path: Path) -> None:
    model = toy_model(tie_word_embeddings=True)
    toy_train(tmp_path, model=model)
    again = toy_model(seed=4, tie_word_embeddings=True)
    toy_train(tmp_path, model=again)
    assert weights_digest(again) == weights_digest(model)
