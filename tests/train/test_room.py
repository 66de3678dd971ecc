"""A machine that is too small or too busy: by how much, and what to change."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from toy import CPU, toy_model, toy_train

from hanse.errors import InputError
from hanse.model.config import ForeignConfig, derive
from hanse.plan.layout import Layout
from hanse.plan.memory import memory
from hanse.recipe import Pretrain
from hanse.train import room
from hanse.train.room import crowded, enough_memory

SETTINGS = Pretrain(sequence_length=1024, batch_tokens=32768, micro_batch_tokens=16384, budget_tokens=65536)
LONG = Pretrain(sequence_length=8192, batch_tokens=32768, budget_tokens=65536)
CONFIG = derive("20M", vocab_size=8192, max_position_embeddings=1024)


def _needed(micro: int, *, recompute: bool = False, ranks: int = 1, length: int = 1024) -> float:
    layout = Layout(1, ranks, recompute=recompute, micro_batch_tokens=micro)
    return memory(CONFIG, layout, vendor="cpu", memory_bytes=0, sequence_length=length, compute_bytes=4).bytes / 1e9


def _refusal(monkeypatch: pytest.MonkeyPatch, gigabytes: float, error: BaseException, **changes) -> str:
    monkeypatch.setattr(room, "memory_bytes", lambda device: int(gigabytes * 1e9))
    config, settings = changes.pop("config", CONFIG), changes.pop("settings", SETTINGS)
    with pytest.raises(InputError) as refused, enough_memory(config, settings, replace(CPU, **changes)):
        raise error
    return str(refused.value)


OUT = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. If reserved memory is large, try this.")


def test_what_does_not_fit_is_refused_with_how_much_too_little_there_is_and_what_fits(monkeypatch) -> None:
    there = (_needed(16384) + _needed(8192)) / 2
    said = _refusal(monkeypatch, there, OUT)
    assert f"{_needed(16384):.1f} GB by plan, and this computer has {there:.1f} GB to use" in said
    assert f"{_needed(16384) - there:.1f} GB too little; it would fit with micro_batch_tokens = 8192." in said


def test_recomputing_is_proposed_where_smaller_micro_batches_are_not_enough(monkeypatch) -> None:
    there = (_needed(8192, length=8192) + _needed(8192, recompute=True, length=8192)) / 2
    said = _refusal(monkeypatch, there, OUT, settings=LONG)
    found = re.search(r"it would fit with micro_batch_tokens = (\d+) and --recompute\.", said)
    assert found and _needed(int(found[1]), recompute=True, length=8192) <= there


def test_where_nothing_fits_more_ranks_or_less_model_are_what_is_left(monkeypatch) -> None:
    said = _refusal(monkeypatch, 0.4, OUT)
    assert "GB too little; nothing else fits here either: use more ranks, a smaller model" in said


def test_ranks_of_one_computer_share_its_memory(monkeypatch) -> None:
    there = 1.2 * _needed(16384, ranks=2)  # enough for one of two
    said = _refusal(monkeypatch, there, OUT, ranks=2)
    assert f"{_needed(16384, ranks=2):.1f} GB by plan, and this computer has {there / 2:.1f} GB to use" in said


def test_where_the_plan_says_that_it_fits_what_torch_said_is_told(monkeypatch) -> None:
    said = _refusal(monkeypatch, 500, OUT)
    assert "(CUDA out of memory. Tried to allocate 2.00 GiB)" in said and "halve micro_batch_tokens" in said


def test_a_model_that_transformers_computes_gets_the_general_advice(monkeypatch) -> None:
    foreign = object.__new__(ForeignConfig)
    said = _refusal(monkeypatch, 1, MemoryError(), config=foreign)
    assert "micro-batches of 16,384 tokens do not fit into memory (MemoryError); set micro_batch_tokens lower" in said


def test_memory_that_runs_out_in_training_is_told_and_other_errors_are_left_alone(tmp_path: Path) -> None:
    model = toy_model()
    full = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
    for error, expected in ((full, InputError), (RuntimeError("something else"), RuntimeError)):

        def fail(*inputs, error=error):
            raise error

        model.forward = fail  # type: ignore[method-assign]
        with pytest.raises(expected), enough_memory(model.config, SETTINGS, CPU):
            toy_train(tmp_path, model=model)


def _stat(idle: list[int], busy: list[int]) -> str:
    cores = [f"cpu{core} {b} 0 0 {i} 0 0 0 0 0 0" for core, (i, b) in enumerate(zip(idle, busy, strict=True))]
    return "\n".join([f"cpu  {sum(busy)} 0 0 {sum(idle)} 0 0 0 0 0 0", *cores, "intr 1 2 3", ""])


@pytest.mark.parametrize(
    ("busy", "threads", "said"),
    [
        ([0, 0, 0, 0], 4, ""),
        ([0, 0, 0, 8], 3, ""),
        ([20, 20, 0, 10], 4, "4 threads, but only 1.5 cores are free at the moment"),
        ([20, 20, 20, 20], 4, "--threads 1 (or HANSE_THREADS)"),
        ([20, 20, 20, 20], 1, ""),
    ],
)
def test_cores_that_others_hold_are_told_of(tmp_path: Path, monkeypatch, busy, threads, said) -> None:
    """Twenty clock ticks pass, of which others take some on each core."""
    stat = tmp_path / "stat"
    stat.write_text(_stat([100] * 5, [50] * 5))
    monkeypatch.setattr(room, "STAT", stat)
    monkeypatch.setattr(room.os, "sched_getaffinity", lambda process: {0, 1, 2, 3}, raising=False)  # core 4 is others'
    monkeypatch.setattr(room, "usable_cores", lambda: 4)
    after = _stat([120 - b for b in busy] + [100], [50 + b for b in busy] + [70])
    monkeypatch.setattr(room, "time", SimpleNamespace(sleep=lambda seconds: stat.write_text(after)))
    found = crowded(replace(CPU, threads=threads))
    assert said in found and bool(said) == bool(found)


def test_where_the_system_does_not_tell_nothing_is_said(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(room, "STAT", tmp_path / "absent")
    assert crowded(replace(CPU, threads=4)) == ""
