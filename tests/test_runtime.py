"""Where to run: what is detected, what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from hanse import runtime
from hanse.errors import InputError
from hanse.runtime import Runtime


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch):
    for name in ("HANSE_THREADS", "OMP_NUM_THREADS", "WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    threads, is_deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(is_deterministic)


def test_detect_describes_this_machine() -> None:
    found = Runtime.detect("cpu")
    assert found.threads == runtime.usable_cores() >= 1
    assert found.dtype in (torch.float32, torch.bfloat16)
    assert not found.threads_chosen
    facts = found.describe()
    assert facts["device"] == "cpu" and facts["torch"] == torch.__version__ and facts["threads"] == found.threads
    assert found.peak_memory_bytes() > 10_000_000


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [
        ("flags\t\t: fpu sse2 avx2", torch.float32),
        ("flags\t\t: avx512f avx512_bf16", torch.bfloat16),
        ("flags\t\t: amx_bf16 amx_tile", torch.bfloat16),
        ("Features\t: fp asimd bf16", torch.bfloat16),
        ("flags\t\t: f16c avx512_fp16", torch.float32),
    ],
)
def test_the_compute_type_follows_the_cpu_and_is_never_float16(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, dtype: torch.dtype
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nmodel name\t: Testing 9\n{flags}\n")
    monkeypatch.setattr(runtime, "CPU_FLAGS", tmp_path / "cpuinfo")
    found = Runtime.detect("cpu")
    assert found.dtype == dtype
    assert found.describe()["device_name"] == "Testing 9"


def test_without_cpu_flags_float32_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "CPU_FLAGS", tmp_path / "absent")
    assert Runtime.detect("cpu").dtype == torch.float32


def test_threads_by_argument_then_variable_then_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert Runtime.detect("cpu").threads == 7
    monkeypatch.setenv("HANSE_THREADS", "3")
    assert Runtime.detect("cpu").threads == 3
    chosen = Runtime.detect("cpu", 5)
    assert chosen.threads == 5 and chosen.threads_chosen


@pytest.mark.parametrize("value", ["0", "-2", "many"])
def test_a_senseless_number_of_threads_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("HANSE_THREADS", value)
    with pytest.raises(InputError, match="HANSE_THREADS"):
        Runtime.detect("cpu")
    with pytest.raises(InputError, match="threads"):
        Runtime.detect("cpu", 0)


def test_a_container_quota_limits_the_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3, 4, 5}, raising=False)
    monkeypatch.setattr(runtime, "CORES", tmp_path / "no-topology")
    quota = tmp_path / "cpu.max"
    monkeypatch.setattr(runtime, "CGROUP_QUOTA", quota)
    assert runtime.usable_cores() == 6
    for text, cores in (("max 100000", 6), ("250000 100000", 2), ("50000 100000", 1)):
        quota.write_text(text)
        assert runtime.usable_cores() == cores


def test_two_threads_of_one_core_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(runtime, "CORES", tmp_path)
    monkeypatch.setattr(runtime, "CGROUP_QUOTA", tmp_path / "absent")
    for core in range(4):
        folder = tmp_path / f"cpu{core}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{core % 2},{core % 2 + 2}\n")
    assert runtime.usable_cores() == 2


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta", "mps"])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(InputError, match="device"):
        Runtime.detect(device)


def test_a_launcher_says_who_this_process_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "8", "RANK": "3", "LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "1000"}.items():
        monkeypatch.setenv(name, value)
    detected = Runtime.detect("cpu", replicate=2, expert=4, recompute=True)
    assert (detected.rank, detected.ranks, detected.replicate, detected.expert) == (3, 8, 2, 4)
    assert detected.recompute and detected.threads == 1  # the cores are shared with the other ranks here


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"replicate": 3}, "--replicate 3: does not divide the 8 ranks"),
        ({"replicate": 2, "expert": 3}, "--expert 3: does not divide the 4 ranks of one copy"),
        ({"replicate": 0}, "--replicate 0"),
        ({"expert": 16}, "--expert 16"),
    ],
)
def test_ranks_that_cannot_be_divided_like_that_are_refused(
    monkeypatch: pytest.MonkeyPatch, layout: dict, message: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")
    with pytest.raises(InputError, match=message):
        Runtime.detect("cpu", **layout)


def test_a_rank_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "first")
    with pytest.raises(InputError, match="RANK=first"):
        Runtime.detect("cpu")


def test_more_threads_than_cores_are_warned_of() -> None:
    with pytest.warns(UserWarning, match="wait for one another"):
        Runtime.detect("cpu", threads=4096)


def test_autocast_covers_products_only_where_a_type_is_set() -> None:
    x = torch.ones(4, 4)
    with Runtime(torch.device("cpu"), torch.bfloat16).autocast():
        assert (x @ x).dtype == torch.bfloat16
    with Runtime(torch.device("cpu"), torch.float32).autocast():
        assert (x @ x).dtype == torch.float32


def test_apply_sets_threads_and_determinism() -> None:
    Runtime(torch.device("cpu"), threads=1).apply()
    assert torch.get_num_threads() == 1
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.utils.deterministic.fill_uninitialized_memory
