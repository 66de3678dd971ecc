"""Ranks that meet trouble together: they save beside the training, fall back, miss a compiler, or are not alike.

And one model that is not ours.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from loopback import reserved_port

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def _run(folder: Path, ranks: int = 2, *, environment: dict[str, str] | None = None, **job: Any) -> list[Any]:
    """Exit code, JSON and stderr of every rank."""
    folder.mkdir(exist_ok=True)
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "train"), *sys.path])
    common = {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "WORLD_SIZE": str(ranks), "GLOO_SOCKET_IFNAME": "lo"}
    common |= {"MASTER_ADDR": "127.0.0.1", **(environment or {})}
    command = [sys.executable, str(HERE / "troubled_rank.py"), json.dumps({"folder": str(folder), **job})]
    with reserved_port() as port:
        started = [
            subprocess.Popen(
                command,
                env=os.environ | common | {"MASTER_PORT": str(port), "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for rank in range(ranks)
        ]  # fmt: skip
        said = [process.communicate(timeout=600) for process in started]
    return [
        (process.returncode, json.loads(out) if out else {}, error)
        for process, (out, error) in zip(started, said, strict=True)
    ]


def _result(folder: Path, ranks: int = 2, **job: Any) -> dict[str, Any]:
    """What the first rank of a run that has to succeed found."""
    ended = _run(folder, ranks, **job)
    assert [code for code, _, _ in ended] == [0] * ranks, ended
    return ended[0][1]


def _saved(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in (folder / "scratch").glob("step-*"))


def test_a_rank_with_another_torch_is_refused_by_all(tmp_path: Path) -> None:
    for code, _, said in _run(tmp_path, torch_version="2.11.0"):
        assert code == 2
        assert ", rank 1 has 2.11.0; install and start the same everywhere." in said and "Traceback" not in said
    assert not (tmp_path / "scratch").exists()


@pytest.mark.slow
def test_ranks_that_save_beside_the_training_end_as_those_that_wait_and_go_on_from_there(tmp_path: Path) -> None:
    straight = _result(tmp_path / "straight")
    assert _result(tmp_path / "beside", is_asynchronous=True)["digest"] == straight["digest"]
    assert _saved(tmp_path / "beside") == _saved(tmp_path / "straight") == [9, 12]
    stopped = _result(tmp_path / "stopped", is_asynchronous=True, stop_after=8)
    assert "stopped after step 8 of 12; everything is saved" in stopped["stopped"]
    assert _saved(tmp_path / "stopped") == [6, 8]
    assert _result(tmp_path / "stopped", is_asynchronous=True)["digest"] == straight["digest"]


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "event"), [(0, 6), (0, 9), (1, 6)])
def test_ranks_that_are_killed_while_they_save_beside_the_training_end_the_same(
    tmp_path: Path, rank: int, event: int
) -> None:
    """The dry batch and three steps are four events; from the fifth on the first checkpoint is written."""
    straight = _result(tmp_path / "straight", is_asynchronous=True)
    ended = _run(tmp_path / "killed", is_asynchronous=True, kill=[rank, event])
    assert ended[rank][0] == -9 and ended[1 - rank][0] != 0
    assert _saved(tmp_path / "killed") in ([], [3])
    assert _result(tmp_path / "killed", is_asynchronous=True)["digest"] == straight["digest"]


@pytest.mark.slow
def test_a_loss_that_is_no_number_takes_all_ranks_back_to_one_checkpoint(tmp_path: Path) -> None:
    ended = _run(tmp_path, steps=14, poisoned=[4, 5, 6, 7, 8, 9])
    assert [code for code, _, _ in ended] == [0, 0], ended
    expected = {
        "why": "the loss was not a finite number for 5 steps in a row",
        "at_step": 9,
        "to_step": "step-000003",
        "skipped_data_steps": [3, 9],
    }
    assert [found["rollbacks"] for _, found, _ in ended] == [[expected], [expected]]


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_without_a_compiler_training_goes_on_and_says_so(tmp_path: Path, ranks: int) -> None:
    nowhere = {"CXX": str(tmp_path / "no-c++"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    job = {"steps": 4}
    plain = _result(tmp_path / "plain", ranks, **job)
    without = _result(tmp_path / "without", ranks, environment=nowhere, must_compile=True, **job)
    assert without["digest"] == plain["digest"]
    said = [text for text in without["warned"] if "torch.compile failed, training goes on without it" in text]
    assert len(said) == 1 and ("rank 0: " in said[0]) is (ranks == 2)


@pytest.mark.slow
def test_two_ranks_train_a_model_that_transformers_computes_as_one_does(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=32, tie_word_embeddings=False,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "llama")
    one, two = (_result(tmp_path / f"on-{ranks}", ranks, start=str(tmp_path / "llama")) for ranks in (1, 2))
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-4)
    assert two["losses"][1] < two["losses"][0]
