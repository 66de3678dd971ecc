"""Chains on a real Slurm: cut by the time cap, killed, stopped by an error; they end as one long job does."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from slurm_cluster import Cluster, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

STEPS = 26
IDLE = "had nothing to do, or was cancelled"
SLOWED = Path(__file__).parent / "slowed"
SECONDS = 3  # that a step lasts in the run that is cut
RECIPE = f"""
name = "tiny"
languages = ["mt"]
[[source]]
name = "atlas"
kind = "atlas"
licence = "Unicode-3.0"
licence_basis = "generated"
reservation = "none"
[tokenizer]
vocab_size = 800
[model]
size = "1M"
n_routed_experts = 4
num_experts_per_tok = 2
moe_intermediate_size = 32
first_k_dense_replace = 1
[pretrain]
budget_tokens = {STEPS * 256}
sequence_length = 64
batch_tokens = 256
checkpoint_seconds = 4
[evaluate]
items_per_language = 5
validation_bytes_per_language = 500
"""
MACHINE = """
[trial]
title = "two nodes on one computer"
nodes = 2
accelerators_per_node = 1
accelerator = "none, but Slurm counts one"
vendor = "nvidia"
host = "x86_64"
memory_bytes = 1e9
peak_bf16_flops = 1e9
node_link_bytes_per_second = 1e9
network_bytes_per_second = 1e9
max_hours = 1
partition = "main"
cpus_per_node = 1
"""


def hanse(cluster: Cluster, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = cluster.environment | {"HOME": str(home), "XDG_CONFIG_HOME": str(home / "config")}
    return subprocess.run(
        [sys.executable, "-m", "hanse.cli", *arguments],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def launch(cluster: Cluster, home: Path, *arguments: str) -> list[str]:
    """Launch the tiny recipe. Returns the numbers of the jobs."""
    (home / "tiny.toml").write_text(RECIPE)
    (home / "trial.toml").write_text(MACHINE)
    done = hanse(cluster, home, "launch", "tiny.toml", "--machine", "trial.toml", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["jobs"]


def status(cluster: Cluster, home: Path) -> dict:
    done = hanse(cluster, home, "launch", "tiny.toml", "--status", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def wait_for_the_end(cluster: Cluster, home: Path) -> dict:
    """Wait until no job is left; what they said is printed if the test fails."""
    try:
        wait_until(lambda: not cluster.queue(), "the chain's end", seconds=900)
    finally:
        for path in sorted((home / "store/launch/tiny-1").glob("job-*.log")):
            print(f"--- {path.name}\n{path.read_text()}")
    found = status(cluster, home)
    print(json.dumps(found, indent=1))
    return found


def kill(cluster: Cluster, job: str, *steps: str) -> None:
    """Kill every process of a job's steps, as the kernel does where memory is short, or as a node that goes dark."""
    for line in cluster.command("scontrol", "listpids", job).splitlines()[1:]:
        pid, _, step, *_ = line.split()
        if step in steps:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


def wait_for_a_checkpoint(home: Path) -> None:
    scratch = home / "store/.work/model/tiny-base/1"
    wait_until(lambda: any(scratch.glob("scratch-*/step-*")), "a checkpoint")


def weights(home: Path) -> str:
    return hashlib.sha256((home / "store/model/tiny-base/1/model.safetensors").read_bytes()).hexdigest()


def losses(home: Path) -> list[tuple[int, float]]:
    lines = (home / "store/model/tiny-base/1/run/metrics.jsonl").read_text().splitlines()
    return [(row["step"], row["loss"]) for row in map(json.loads, lines)]


def test_a_chain_cut_by_a_kill_and_the_time_cap_ends_as_one_long_job(cluster, home, tmp_path):
    whole = tmp_path / "whole"
    whole.mkdir()
    launch(cluster, whole, "--nodes", "2", "--minutes", "60", "--jobs", "1")
    found = wait_for_the_end(cluster, whole)
    assert found["state"] == "finished"
    states = [(job["kind"], job["state"]) for job in found["jobs"]]
    assert states == [("data", "ended"), ("data", IDLE), ("train", "ended")]

    # Slurm sends the signal up to a minute early, here between second 30 and 60. So the second job makes no more than
    # 20 steps, and the first is killed after a few: a third has to come.
    (home / "store").mkdir()
    for name in ("store.json", "dataset", "tokenizer", "shards"):
        place = whole / "store" / name
        (shutil.copytree if place.is_dir() else shutil.copy)(place, home / "store" / name)
    (home / "slowed.sh").write_text(f"export STEP_SECONDS={SECONDS} PYTHONPATH={SLOWED}\n")
    limits = ["--minutes", "2", "--save-seconds", "60", "--jobs", "8", "--setup", "slowed.sh"]
    first, *_ = launch(cluster, home, "--nodes", "2", *limits)
    wait_for_a_checkpoint(home)
    kill(cluster, first, "0", "batch")
    found = wait_for_the_end(cluster, home)

    assert found["state"] == "finished"
    began = [job["state"] for job in found["jobs"] if job["began"]]
    assert 3 <= len(began) < 8 and began == ["was cut off", *["ended"] * (len(began) - 1)]
    assert losses(home) == losses(whole) and len(losses(home)) == STEPS
    assert weights(home) == weights(whole)


def test_ranks_that_crash_after_some_progress_are_started_again_in_the_same_job(cluster, home):
    (home / "slowed.sh").write_text(f"export STEP_SECONDS=2 PYTHONPATH={SLOWED}\n")
    first, _ = launch(cluster, home, "--jobs", "2", "--minutes", "60", "--setup", "slowed.sh")
    wait_for_a_checkpoint(home)
    kill(cluster, first, "0")
    found = wait_for_the_end(cluster, home)
    assert found["state"] == "finished"
    assert [job["state"] for job in found["jobs"]] == ["ended", IDLE]
    said = (home / f"store/launch/tiny-1/job-{first}.log").read_text()
    assert said.count(f"job {first} (train), begin") == 2 and "continuing after step" in said


def test_an_error_in_the_input_stops_the_chain_and_takes_the_waiting_jobs_away(cluster, home):
    (home / "policy.toml").write_text("nonsense = 1\n")
    first, *_ = launch(cluster, home, "--jobs", "4", "--set", "curate.policy=policy.toml")
    found = wait_for_the_end(cluster, home)
    assert found["state"] == "stopped" and "policy.toml" in found["stopped"]
    assert [job["state"] for job in found["jobs"]] == ["ended with code 2", IDLE, IDLE, IDLE]
    logs = [path.name for path in (home / "store/launch/tiny-1").glob("job-*.log")]
    assert logs == [f"job-{first}.log"]  # the others never started
    again = launch(cluster, home, "--jobs", "1", "--sbatch=--hold")  # a new launch forgets the stop
    assert status(cluster, home)["state"] == "waiting"
    cluster.command("scancel", *again)


def test_two_jobs_that_get_nowhere_stop_the_chain(cluster, home):
    (home / "poor.sh").write_text("ulimit -v 1000000\n")  # enough for Python, too little for torch
    launch(cluster, home, "--jobs", "6", "--setup", "poor.sh")
    found = wait_for_the_end(cluster, home)
    assert found["state"] == "stopped" and "2 jobs in a row" in found["stopped"]
    assert sum(job["began"] is not None for job in found["jobs"]) == 2


def test_a_second_chain_of_the_same_recipe_is_refused_until_the_first_is_cancelled(cluster, home):
    jobs = launch(cluster, home, "--jobs", "2", "--sbatch=--hold")
    refused = hanse(cluster, home, "launch", "tiny.toml", "--machine", "trial.toml")
    assert refused.returncode == 2 and f"{jobs[0]} is PENDING" in refused.stderr
    command = refused.stderr[refused.stderr.index("scancel") :].strip()
    assert cluster.command(*command.split()) == ""
    wait_until(lambda: not cluster.queue(), "an empty queue")
    assert status(cluster, home)["state"] == "used up"
    cluster.command("scancel", *launch(cluster, home, "--jobs", "1", "--sbatch=--hold"))


def test_what_slurm_refuses_is_told_in_its_own_words(cluster, home):
    (home / "tiny.toml").write_text(RECIPE)
    (home / "trial.toml").write_text(MACHINE)
    done = hanse(cluster, home, "launch", "tiny.toml", "--machine", "trial.toml", "--partition", "nowhere")
    assert done.returncode == 2 and done.stderr.startswith("hanse: sbatch: ") and "partition" in done.stderr
    assert not cluster.queue()
    assert status(cluster, home)["state"] == "stopped"
