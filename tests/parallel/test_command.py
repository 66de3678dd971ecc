"""The whole way on several ranks, as a launcher starts it, and what a person sees when that goes wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from loopback import reserved_port

from hanse.errors import InputError
from hanse.parallel.ranks import _compare

PATIENCE_SECONDS = 600.0  # for what has to end at all, however busy the machine is
TINY = """
name = "tiny"
languages = ["de", "mt"]
[[source]]
name = "atlas"
kind = "atlas"
licence = "Unicode-3.0"
licence_basis = "generated"
reservation = "none"
[tokenizer]
vocab_size = 1000
[model]
size = "1M"
n_routed_experts = 4
num_experts_per_tok = 2
moe_intermediate_size = 64
first_k_dense_replace = 1
[pretrain]
budget_tokens = 20480
sequence_length = 128
batch_tokens = 1024
[[tune]]
source = "atlas"
epochs = 0.1
sequence_length = 128
batch_tokens = 1024
[evaluate]
items_per_language = 5
validation_bytes_per_language = 1000
"""


def _start(home: Path, rank: int, ranks: int, port: int, *more: str, **environment: str) -> subprocess.Popen[str]:
    launched = {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank), "MASTER_PORT": str(port)}
    launched |= {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo", "HANSE_THREADS": "1", "HOME": str(home)}
    return subprocess.Popen(
        [sys.executable, "-m", "hanse.cli", "run", "tiny.toml", *more],
        cwd=home, env=os.environ | launched | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def _run(home: Path, ranks: int, *more: str) -> list[tuple[int, str]]:
    with reserved_port() as port:
        started = [_start(home, rank, ranks, port, *more) for rank in range(ranks)]
        said = [process.communicate(timeout=PATIENCE_SECONDS)[1] for process in started]
    return [(process.returncode, text) for process, text in zip(started, said, strict=True)]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "tiny.toml").write_text(TINY)
    return tmp_path


@pytest.mark.slow
def test_a_recipe_runs_on_two_ranks_from_documents_to_a_release(home: Path) -> None:
    (first, said), (second, quiet) = _run(home, 2, "--expert", "2")
    assert (first, second) == (0, 0), said + quiet
    assert "hanse verify release/tiny" in said and "Pre-train" not in quiet
    step = json.loads((home / "store/model/tiny-base/1/step.json").read_text())
    made = json.dumps(step)
    assert '"ranks": 2' in made and '"expert": 2' in made
    assert (home / "store/release/tiny/1/model.safetensors").is_file()


@pytest.mark.slow
def test_a_rank_that_dies_ends_the_others_with_a_sentence_and_the_next_run_goes_on(home: Path) -> None:
    with reserved_port() as port:
        first, second = (_start(home, rank, 2, port, "--set", "pretrain.budget_tokens=2000000") for rank in range(2))
        assert first.stderr is not None
        for line in first.stderr:
            if line.startswith("pretrain: step"):
                break
        os.kill(second.pid, signal.SIGKILL)
        said = first.communicate(timeout=PATIENCE_SECONDS)[1]
        second.communicate()
    assert first.returncode == 1
    assert "another rank has ended (" in said
    assert "All go on from the last checkpoint with: hanse run tiny.toml" in said
    assert "Traceback" not in said


def test_the_same_recipe_with_ranks_that_do_not_divide_is_refused_by_all(home: Path) -> None:
    for status, said in _run(home, 2, "--expert", "3"):
        assert status == 2 and "--expert 3: does not divide the 2 ranks" in said


def test_a_launcher_without_an_address_is_told_so(home: Path) -> None:
    process = _start(home, 0, 2, 1, MASTER_ADDR="")
    said = process.communicate(timeout=PATIENCE_SECONDS)[1]
    assert process.returncode == 2 and "WORLD_SIZE is set but MASTER_ADDR is not" in said


def test_ranks_with_another_torch_are_named() -> None:
    mine: Mapping[str, str] = {"torch": "2.13.0", "layout": "2 ranks"}
    _compare([mine, dict(mine)])
    with pytest.raises(InputError, match=r"rank 0 has torch 2\.13\.0, rank 1 has 2\.11\.0"):
        _compare([mine, {**mine, "torch": "2.11.0"}])
