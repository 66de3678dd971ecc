"""Energy: counters that start again at zero, counters that may not be read, and what a run notes of them."""

import sys
import time
import types
from pathlib import Path

import pytest
import torch
from toy import CPU, LENGTH, ROWS, TOY_CONFIG, toy_batch_at, toy_model, toy_train

from hanse.errors import Interrupted
from hanse.plan.operations import Work, attended_pairs, training
from hanse.train import energy, loop
from hanse.train.energy import EnergyMeter

WH = 3600.0


def zone(root: Path, name: str, kind: str, microjoules: int, span: int = 10**9) -> Path:
    """One counter as Linux shows it under /sys/class/powercap."""
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{kind}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{span}\n")
    return folder


def advance(folder: Path, microjoules: int) -> None:
    """At once, as the kernel's own files: nobody ever reads half a number."""
    (folder / "next").write_text(f"{microjoules}\n")
    (folder / "next").replace(folder / "energy_uj")


@pytest.fixture
def host(tmp_path, monkeypatch):
    """Two packages with memory, beside what must not be added: a part of one, the whole platform, a second view."""
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    root = tmp_path / "powercap"
    zones = {
        "package 0": zone(root, "intel-rapl:0", "package-0", 1_000_000),
        "memory 0": zone(root, "intel-rapl:0:1", "dram", 500),
        "package 1": zone(root, "intel-rapl:1", "package-1", 0),
    }
    for name, kind in (("intel-rapl:0:0", "core"), ("intel-rapl:2", "psys"), ("intel-rapl-mmio:0", "package-0")):
        zones[name] = zone(root, name, kind, 0)
    (root / "intel-rapl").mkdir()
    return root, zones


def meter_of(root: Path, **others) -> EnergyMeter:
    return EnergyMeter(torch.device("cpu"), powercap=root, **others)


def test_packages_and_memory_are_added_up_and_nothing_twice(host):
    root, zones = host
    with meter_of(root) as meter:
        advance(zones["package 0"], 1_000_000 + 7_200_000)
        advance(zones["memory 0"], 500 + 3_600_000)
        advance(zones["package 1"], 1_800_000)
        for name in ("intel-rapl:0:0", "intel-rapl:2", "intel-rapl-mmio:0"):
            advance(zones[name], 999_000_000)
        assert meter.lap() == pytest.approx((7.2 + 3.6 + 1.8) / WH)
        assert meter.lap() == 0
        assert meter.is_readable
        assert meter.method == "RAPL, processors and memory of each host, other work there included"


def test_a_counter_that_starts_again_at_zero_loses_nothing(host):
    root, zones = host
    advance(zones["package 1"], 900_000_000)
    with meter_of(root) as meter:
        advance(zones["package 1"], 50_000_000)
        assert meter.lap() == pytest.approx((1000 - 900 + 50) / WH)


def test_the_thread_sees_a_counter_go_round_between_two_laps(host, monkeypatch):
    root, zones = host
    monkeypatch.setattr(energy, "SAMPLE_SECONDS", 0.001)
    with meter_of(root) as meter:
        for microjoules in (700_000_000, 300_000_000, 900_000_000):
            before, limit = meter._joules, time.monotonic() + 120
            advance(zones["package 1"], microjoules)
            while meter._joules == before:
                assert time.monotonic() < limit, "the thread did not look"
        assert meter.lap() == pytest.approx((700 + 600 + 600) / WH)


def test_without_counters_a_run_goes_on_and_says_why_nothing_was_measured(tmp_path):
    with meter_of(tmp_path / "absent") as meter:
        assert not meter.is_readable
        assert meter.lap() == 0
        assert meter.method.startswith("not readable: hosts without RAPL, since ")


def test_a_package_that_may_not_be_read_is_not_passed_over_in_silence(host):
    root, zones = host
    (zones["package 1"] / "energy_uj").unlink()  # as a file that only root may read
    with meter_of(root) as meter:
        assert not meter.is_readable
        assert "intel-rapl:1/energy_uj may not be read" in meter.method


def test_a_counter_that_is_lost_on_the_way_ends_the_measuring_and_not_the_training(host):
    root, zones = host
    with meter_of(root) as meter:
        (zones["package 0"] / "energy_uj").unlink()
        assert meter.lap() == 0
        assert not meter.is_readable
        assert "was lost on the way" in meter.method


def test_one_process_of_a_host_reads_for_all(host, monkeypatch):
    root, zones = host
    monkeypatch.setenv("LOCAL_RANK", "1")
    with meter_of(root, ranks=4) as second:
        advance(zones["package 0"], 5_000_000)
        assert (second.lap(), second.is_readable) == (0, True)
    monkeypatch.delenv("LOCAL_RANK")
    with meter_of(root, ranks=4) as nobody_knows:
        assert not nobody_knows.is_readable


# --------------------------------------------------------------------------- a GPU that is not here


class Driver(types.ModuleType):
    """Answers as nvidia-ml-py does for one GPU."""

    def __init__(self, *, has_counter: bool = True) -> None:
        super().__init__("pynvml")
        self.millijoules, self.has_counter, self.is_open = 10_000, has_counter, False

    def nvmlInit(self) -> None:
        self.is_open = True

    def nvmlShutdown(self) -> None:
        self.is_open = False

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        assert self.is_open and uuid == "GPU-7"
        return uuid

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        if not self.has_counter:
            raise RuntimeError("Not Supported")
        return self.millijoules

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        return 250_000


def test_a_gpu_is_measured_by_its_counter_beside_the_host(host, monkeypatch):
    root, zones = host
    driver = Driver()
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    with EnergyMeter(torch.device("cuda"), powercap=root, uuid="GPU-7") as meter:
        driver.millijoules += 36_000_000
        advance(zones["package 1"], 3_600_000)
        assert meter.lap() == pytest.approx(10 + 3.6 / WH)
        assert meter.method.startswith("NVML, energy counter of each GPU board; RAPL")
    assert not driver.is_open


def test_a_gpu_without_a_counter_is_measured_by_its_power(tmp_path, monkeypatch):
    moments = iter(range(0, 10_000, 8))
    monkeypatch.setattr(energy, "time", types.SimpleNamespace(monotonic=lambda: next(moments)))
    monkeypatch.setattr(energy, "POWER_SECONDS", 3600.0)
    monkeypatch.setitem(sys.modules, "pynvml", Driver(has_counter=False))
    with EnergyMeter(torch.device("cuda"), powercap=tmp_path, uuid="GPU-7") as meter:
        assert meter.lap() == pytest.approx(250 * 8 / WH)
        assert "hosts without RAPL" in meter.method


def test_a_gpu_that_cannot_be_measured_is_not_replaced_by_its_host(host, monkeypatch):
    root, zones = host
    monkeypatch.setitem(sys.modules, "pynvml", None)  # as if it were not installed
    with EnergyMeter(torch.device("cuda"), powercap=root, uuid="GPU-7") as meter:
        advance(zones["package 0"], 9_000_000)
        assert not meter.is_readable
        assert meter.lap() == 0
        assert meter.method == "not readable: the GPU, since nvidia-ml-py is not installed"


# --------------------------------------------------------------------------- a real run


@pytest.fixture
def metered(host, monkeypatch):
    """The loop with counters under which every step burns 3.6 J."""
    root, zones = host
    real = loop.EnergyMeter
    burnt = iter(range(10**9))

    class Burning(real):
        def lap(self) -> float:
            advance(zones["package 1"], 3_600_000 * (next(burnt) + 1))
            return super().lap()

    monkeypatch.setattr(loop, "EnergyMeter", lambda device, ranks: Burning(device, ranks=ranks, powercap=root))
    return root


def test_a_run_notes_the_energy_of_all_its_steps_over_its_resumptions(metered, tmp_path, monkeypatch):
    class Stopping(loop.StopSignals):
        def __enter__(self):
            self.is_requested = True
            return self

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(loop, "StopSignals", Stopping)
        toy_train(tmp_path, steps=6)
    summary = toy_train(tmp_path, steps=6)
    # Two meters: each one's first lap also sees the step of the counter from where the other left it.
    assert summary.energy_wh == pytest.approx(6 * 3.6 / WH)
    assert summary.energy_method.startswith("RAPL")


def test_a_run_without_a_meter_notes_none_and_why(tmp_path, monkeypatch):
    monkeypatch.setattr(energy, "POWERCAP", tmp_path / "absent")
    monkeypatch.setattr(
        loop, "EnergyMeter", lambda device, ranks: EnergyMeter(device, ranks=ranks, powercap=tmp_path / "absent")
    )
    summary = toy_train(tmp_path, steps=2)
    assert summary.energy_wh is None
    assert summary.energy_method.startswith("not readable: ")


def test_a_run_notes_operations_by_what_really_went_through(tmp_path):
    summary = toy_train(tmp_path, steps=4)
    tokens = 4 * ROWS * LENGTH
    batches = [batch for step in range(4) for batch in toy_batch_at(step)]
    pairs = sum(attended_pairs(batch.documents_BT.numpy()) for batch in batches)
    counted = sum(int((batch.targets_BT != -100).sum()) for batch in batches)
    assert counted < tokens
    assert (summary.tokens, summary.counted_tokens, summary.attended_pairs) == (tokens, counted, pairs)
    assert summary.operations == training(TOY_CONFIG, Work(tokens, counted, pairs))
    assert summary.flop == sum(summary.operations.values()) < tokens * TOY_CONFIG.flop_per_token(LENGTH)


def test_an_extra_block_that_is_not_trained_is_not_counted(tmp_path):
    summary = toy_train(tmp_path, steps=2, model=toy_model(num_nextn_predict_layers=1), runtime=CPU)
    assert not [part for part in summary.operations if part.startswith("multi-token")]
    assert summary.mtp_tokens == 0
