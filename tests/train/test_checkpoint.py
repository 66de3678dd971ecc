"""Checkpoints: whole or not there, of this run or refused."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from toy import CPU, ToySettings, toy_batch_at, toy_model, toy_train, weights_digest

from hanse.data.loader import Batch
from hanse.errors import InputError, Interrupted
from hanse.parallel.ranks import Ranks
from hanse.train import checkpoint
from hanse.train.checkpoint import Checkpoints
from hanse.train.optimizer import Optimizer, assign

ALONE = Ranks(CPU)
SHARD = "shard-00001-model-00001-of-00001.safetensors"


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


def test_a_checkpoint_verifies_with_coreutils(tmp_path: Path) -> None:
    model = toy_model()
    Checkpoints(tmp_path, model, _optimizer(model), ALONE).save({"step": 3, "fingerprint": "f"})
    path = tmp_path / "step-000003"
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=path, check=True, capture_output=True)


def test_a_checkpoint_written_beside_the_training_holds_the_weights_of_its_step(tmp_path: Path) -> None:
    model = toy_model()
    before = weights_digest(model)
    beside = Checkpoints(tmp_path, model, _optimizer(model), ALONE, is_asynchronous=True)
    beside.save({"step": 3, "fingerprint": "f"})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()  # training goes on: what is saved is a copy
    beside.finish()
    found = beside.newest("f")
    assert found is not None and found.state["step"] == 3
    beside.load(found)
    assert weights_digest(model) == before


def test_load_gives_back_weights_buffers_and_optimizer_state(tmp_path: Path) -> None:
    model = toy_model()
    optimizer = _optimizer(model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step(1.0)
    for router in model.routers().values():
        router.e_score_correction_bias += 0.5
    Checkpoints(tmp_path, model, optimizer, ALONE).save({"step": 1, "fingerprint": "f"})
    other = toy_model(seed=9)
    other_optimizer = _optimizer(other)
    checkpoints = Checkpoints(tmp_path, other, other_optimizer, ALONE)
    found = checkpoints.newest("f")
    assert found is not None
    checkpoints.load(found)
    assert weights_digest(other) == weights_digest(model)
    for name, tensor in optimizer.state().items():
        assert torch.equal(other_optimizer.state()[name], tensor), name


def test_milestones_stay_and_end_up_beside_the_metrics(tmp_path: Path) -> None:
    toy_train(tmp_path, milestones=3, checkpoint_steps=2)
    assert sorted(path.name for path in (tmp_path / "scratch").glob("step-*")) == ["step-000018", "step-000020"]
    assert sorted(path.name for path in (tmp_path / "run").glob("step-*")) == [
        "step-000005",
        "step-000010",
        "step-000015",
    ]


@pytest.mark.parametrize(("keep", "steps"), [(1, [20]), (2, [15, 20]), (3, [10, 15, 20])])
def test_as_many_of_the_newest_are_kept_as_the_recipe_asks_for(tmp_path: Path, keep: int, steps: list[int]) -> None:
    toy_train(tmp_path, settings=ToySettings(keep_checkpoints=keep))
    assert sorted(path.name for path in (tmp_path / "scratch").glob("step-*")) == [f"step-{step:06d}" for step in steps]


@pytest.mark.parametrize("name", [SHARD, "state.json", "SHA256SUMS"])
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
    (tmp_path / "scratch" / "step-000012" / SHARD).unlink()
    shutil.rmtree(tmp_path / "scratch" / "step-000010")
    with pytest.warns(UserWarning, match=r"shard-00001"):
        assert toy_train(tmp_path).steps == 20


@pytest.mark.parametrize(
    ("change", "differing"),
    [
        ({"identity": {"data": "other"}}, "other data"),
        ({"steps": 30}, "steps 20 instead of 30"),
        ({"model": toy_model(moe_intermediate_size=24)}, "a model of other shapes"),
        ({"identity": {"data": "toy", "settings": {"z_loss": 0.1}}}, 'settings null instead of {"z_loss": 0.1}'),
    ],
    ids=["data", "steps", "model", "settings"],
)
def test_a_checkpoint_of_another_run_is_refused_with_what_differs(tmp_path: Path, change: dict, differing: str) -> None:
    _stopped(tmp_path, after=7)
    with pytest.raises(InputError) as refused:
        toy_train(tmp_path, **change)
    said = str(refused.value)
    assert f"step-000007: was made with {differing}; continue with what it was made with, or delete" in said


def test_a_refusal_names_the_most_important_differences_and_counts_the_others() -> None:
    settings = {f"key_{number}": number for number in range(5)}
    was = checkpoint.fingerprint(toy_model(), {"data": "a", "settings": settings})
    now = checkpoint.fingerprint(toy_model(), {"data": "b", "settings": dict.fromkeys(settings, 9)})
    assert checkpoint.differing(was, now) == (
        "other data, key_0 0 instead of 9, key_1 1 instead of 9, key_2 2 instead of 9, 2 more"
    )
    assert checkpoint.differing("0123abcd", now) == "another model, other data or other settings"


def test_an_identity_without_a_stable_form_is_an_error() -> None:
    with pytest.raises(TypeError):
        checkpoint.fingerprint(toy_model(), {"data": Path("corpus")})


def test_a_full_disk_keeps_the_last_good_checkpoint_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = toy_model()
    toy_train(tmp_path / "straight", model=straight)
    write, calls = checkpoint.dcp.save, []

    def full(*arguments, **options):
        calls.append(arguments)
        write(*arguments, **options)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.dcp, "save", full)
        with pytest.raises(InputError, match=r"disk is full.*step-000015.*step-000010 is kept.*free space"):
            toy_train(tmp_path / "run")
    scratch = tmp_path / "run" / "scratch"
    assert sorted(path.name for path in scratch.iterdir()) == ["metrics.jsonl", "step-000005", "step-000010"]
    resumed = toy_model()
    toy_train(tmp_path / "run", model=resumed)
    assert weights_digest(resumed) == weights_digest(straight)


def test_a_full_disk_is_recognised_in_the_text_of_safetensors_error(tmp_path: Path) -> None:
    error = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert "disk is full" in str(checkpoint.not_saved(tmp_path, "step-000001", error, kept=""))
    other = SafetensorError("Error while serializing: I/O error: File too large (os error 27)")
    assert "could not be written: Error while" in str(checkpoint.not_saved(tmp_path, "step-000001", other, kept=""))


def test_tied_weights_are_saved_once_and_loaded(tmp_path: Path) -> None:
    model = toy_model(tie_word_embeddings=True)
    toy_train(tmp_path, model=model)
    again = toy_model(seed=4, tie_word_embeddings=True)
    toy_train(tmp_path, model=again)
    assert weights_digest(again) == weights_digest(model)
