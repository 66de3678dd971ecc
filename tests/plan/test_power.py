"""Rated power: found by the names that drivers give, and never without a source."""

import datetime

import pytest

from hanse.plan import machines, power


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA H200 NVL", "h200-nvl"),
        ("AMD EPYC 7763 64-Core Processor", "epyc-7763"),
        ("Intel(R) Xeon(R) Platinum 8480+", "xeon-8480"),
        ("amd instinct mi250x", "mi250x"),
    ],
)
def test_a_device_is_known_by_the_name_that_its_driver_gives_it(device, name):
    assert power.rated(device).name == name


@pytest.mark.parametrize("device", ["AMD EPYC", "AMD EPYC 77630", "XMI250X", "NVIDIA H2000", "", "x" * 100_000])
def test_a_name_that_is_only_near_is_not_taken(device):
    assert power.rated(device) is None


def test_every_entry_has_a_source_and_a_day_and_its_machine_exists():
    for known in power._known():
        assert known.source and known.what and known.watts >= 0
        assert datetime.date.fromisoformat(known.date)
        assert not known.machine or known.peak_bf16_flops == machines.machine(known.machine).peak_bf16_flops
        assert known.cores or "CPU package" not in known.what
