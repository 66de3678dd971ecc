"""Machines: facts that are whole, sourced and in a sane range, and errors that lead somewhere."""

from dataclasses import fields

import pytest

from hanse.errors import InputError
from hanse.plan.machines import LOCAL, Machine, machine, names

SITES = [name for name in names() if name != LOCAL]
FIGURES = {f.name for f in fields(Machine)} - {"name", "title", "accelerator", "vendor", "host", "source"}
OWN = """
[house]
title = "House"
nodes = 2
accelerators_per_node = 2
accelerator = "card"
vendor = "amd"
host = "x86_64"
memory_bytes = 48e9
peak_bf16_flops = 1e14
node_link_bytes_per_second = 3e10
network_bytes_per_second = 1e10
max_hours = 24
partition = ""
cpus_per_node = 32
"""


def test_the_machines_that_european_labs_use_are_known():
    assert {"lumi", "leonardo", "jupiter", "marenostrum5", "alps", "snellius", "h100-node", "h100", LOCAL} <= set(
        names()
    )


@pytest.mark.parametrize("name", SITES)
def test_every_figure_of_a_site_has_a_source(name):
    found = machine(name)
    given = {key for key in FIGURES if getattr(found, key) or key == "partition"}
    if found.max_nodes > 1:
        assert given <= set(found.source), given - set(found.source)
    assert set(found.source) <= FIGURES
    assert all(found.source.values())


@pytest.mark.parametrize("name", SITES)
def test_figures_lie_where_such_machines_are(name):
    found = machine(name)
    assert 32e9 <= found.memory_bytes <= 512e9
    assert 1e14 <= found.peak_bf16_flops <= 3e15
    assert found.network_bytes_per_second <= found.node_link_bytes_per_second
    assert 1 <= found.max_nodes <= found.nodes
    assert found.accelerators == found.nodes * found.accelerators_per_node


def test_what_is_recalled_or_assumed_is_named():
    assert "max_hours" in machine("jupiter").unsourced()
    assert "memory_bytes" not in machine("jupiter").unsourced()


def test_lumi_counts_devices_as_torch_does():
    assert machine("lumi").accelerators_per_node == 8


def test_this_computer_has_a_measured_rate():
    found = machine(LOCAL)
    assert found.peak_bf16_flops > 1e8
    assert found.memory_bytes > 2**28
    assert machine(LOCAL) == found


def test_a_lab_describes_its_own_machine_in_a_file(tmp_path):
    path = tmp_path / "house.toml"
    path.write_text(OWN)
    found = machine(str(path))
    assert (found.name, found.max_nodes, found.memory_bytes, found.watts) == ("house", 2, 48_000_000_000, 0.0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("nodes = 2", "nodes = 0"), "[house] nodes = 0: has to be a number above 0"),
        (("nodes = 2\n", ""), "[house] nodes: missing"),
        (("vendor", "vender"), "[house] vender: unknown key. Did you mean vendor?"),
        (('"amd"', '"arm"'), "vendor = 'arm': has to be one of nvidia, amd, cpu"),
        (("[house]", "["), "is not valid TOML"),
        (("[house]", "x = 1\n[house]"), "has to hold one table"),
        (('"card"', "4"), "accelerator = 4: has to be text"),
    ],
)
def test_a_wrong_description_is_refused_with_its_place(tmp_path, change, said):
    path = tmp_path / "house.toml"
    path.write_text(OWN.replace(*change))
    with pytest.raises(InputError) as refused:
        machine(str(path))
    assert said in str(refused.value)
    assert str(path) in str(refused.value)


def test_a_misspelt_name_is_corrected():
    with pytest.raises(InputError, match="did you mean lumi"):
        machine("lumy")
    with pytest.raises(InputError, match="jupiter"):
        machine("zzz")
    with pytest.raises(InputError, match="cannot be read"):
        machine("nowhere.toml")
