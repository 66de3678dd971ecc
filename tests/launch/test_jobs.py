"""What a person asks for becomes jobs that the machine takes, in scripts that bash and Slurm read as meant."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from hanse import cli
from hanse import recipe as recipes
from hanse.launch import jobs as planned
from hanse.launch import script, submit
from hanse.plan import machines
from hanse.recipe import Recipe

ATLAS = {
    "name": "atlas",
    "kind": "atlas",
    "licence": "Unicode-3.0",
    "licence_basis": "generated",
    "reservation": "none",
}
CLUSTERS = [name for name in machines.names() if name != "local" and machines.machine(name).partition]


def recipe(**more) -> Recipe:
    return Recipe.model_validate({"name": "tiny", "languages": ["mt"], "source": [ATLAS], **more})


def plan(home: Path, *arguments: str, of: Recipe | None = None) -> list[script.Job]:
    options = cli.parser().parse_args(["launch", "--machine", "lumi", *arguments])
    store = home / "store"
    return planned.plan(of or recipe(), options, machines.machine(options.machine), store, store / "launch" / "tiny-1")


def directives(job: script.Job) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in script.text(job).splitlines() if line.startswith("#SBATCH")]


def bash(text: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", text], capture_output=True, text=True, env=os.environ | environment, timeout=300
    )


def run(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hanse.cli", "launch", *arguments]
    return subprocess.run(
        command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_whole_node_of_every_machine_gets_one_rank_per_accelerator_and_shares_its_cores(name, home):
    machine = machines.machine(name)
    job = plan(home, "--machine", name, "--nodes", "2")[-1]
    asked = directives(job)
    assert f"--ntasks-per-node={machine.accelerators_per_node}" in asked
    assert f"--gres=gpu:{machine.accelerators_per_node}" in asked
    assert f"--partition={machine.partition}" in asked and "--exclusive" in asked
    assert job.cpus_per_rank * machine.accelerators_per_node <= machine.cpus_per_node
    hours, minutes, _ = next(each for each in asked if each.startswith("--time=")).removeprefix("--time=").split(":")
    assert int(hours) * 60 + int(minutes) == machine.max_hours * 60
    assert bash(f"bash -n <<'END'\n{script.text(job)}\nEND").stderr == ""
    assert "cuda" not in script.text(job).lower()


def test_the_signal_goes_to_the_ranks_a_while_before_the_end_and_a_job_is_never_requeued(home):
    assert {"--time=48:00:00", "--signal=TERM@600", "--no-requeue"} <= set(directives(plan(home)[-1]))
    assert {"--time=01:30:00", "--signal=TERM@240"} <= set(
        directives(plan(home, "--minutes", "90", "--save-seconds", "240")[-1])
    )
    assert "--signal=TERM@60" in directives(plan(home, "--minutes", "5")[-1])  # a fifth of a short job


def test_data_are_made_first_without_accelerators_where_the_machine_has_nodes_for_that(home):
    jobs = plan(home, "--nodes", "4", "--jobs", "3", "--account", "project_1")
    assert [job.kind for job in jobs] == ["data", "data", "train", "train", "train"]
    data = directives(jobs[0])
    assert {"--partition=standard", "--nodes=1", "--cpus-per-task=128", "--account=project_1"} <= set(data)
    assert not any("gpu" in each for each in data)
    assert jobs[0].command[0] == "data" and jobs[-1].command[0] == "run"


def test_data_are_made_on_one_node_with_accelerators_where_there_are_no_others(home):
    data = directives(plan(home, "--machine", "alps", "--nodes", "4")[0])
    assert {"--partition=normal", "--nodes=1", "--ntasks-per-node=1", "--cpus-per-task=288"} <= set(data)


def test_no_job_for_the_data_where_they_are_there_or_one_process_trains(home):
    assert {job.kind for job in plan(home, "--machine", "local")} == {"train"}
    (home / "store/shards/tiny/1").mkdir(parents=True)
    assert {job.kind for job in plan(home, "--nodes", "4")} == {"train"}
    assert [job.kind for job in plan(home, "--data-jobs", "1", "--jobs", "1")] == ["data", "train"]


def test_part_of_a_node_takes_its_share_and_leaves_the_rest_to_others(home):
    job = plan(home, "--machine", "snellius", "--ranks-per-node", "1")[-1]
    assert {"--gres=gpu:1", "--cpus-per-task=16"} <= set(directives(job))
    assert "--exclusive" not in directives(job)


def test_cores_of_lumi_are_bound_to_their_gpus_only_where_a_node_is_full(home):
    assert "mask_cpu" in script.text(plan(home)[-1])
    assert "mask_cpu" not in script.text(plan(home, "--ranks-per-node", "4")[-1])


def test_options_of_training_reach_hanse_run_and_no_others(home):
    experts = recipe(model={"n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64})
    words = ["--nodes", "2", "--replicate", "2", "--expert", "4", "--recompute", "--float8", "--device", "cuda"]
    job = plan(home, *words, of=experts)[-1]
    assert job.command[:4] == ("run", str(home / "store/launch/tiny-1/recipe.toml"), "--store", str(home / "store"))
    assert job.command[4:] == ("--device", "cuda", "--replicate", "2", "--expert", "4", "--recompute", "--float8")
    cli.parser().parse_args(job.command)


def test_later_options_of_sbatch_override_the_machines(home):
    asked = directives(plan(home, "--machine", "marenostrum5", "--sbatch=--qos=acc_debug", "--partition", "other")[-1])
    assert asked.index("--qos=acc_debug") > asked.index("--qos=acc_ehpc")
    assert "--partition=other" in asked and "--partition=acc" not in asked


def test_names_and_paths_that_bash_would_read_otherwise_arrive_as_they_are(tmp_path, monkeypatch):
    folder = tmp_path / "a 'b' $(touch hit) \"c\"; #d"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / "set up.sh").write_text('export SEEN="$PWD"\n')
    job = plan(folder, "--setup", "set up.sh", "--prefix", "printf '%s\\n'")[-1]
    text = script.text(job)
    assert not any("hit" in each for each in directives(job))
    # Slurm's commands are replaced by ones that print their words, each on a line.
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("srun", "scontrol"):
        (tools / name).write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
        (tools / name).chmod(0o755)
    done = bash(text + 'echo "$SEEN"', PATH=f"{tools}:{os.environ['PATH']}", SLURM_JOB_ID="7", SLURM_JOB_NODELIST="n1")
    printed = done.stdout.splitlines()
    for word in (*job.command, str(job.folder)):
        assert word in printed
    assert not (folder / "hit").exists()


@pytest.mark.parametrize("name", ["x; rm -rf /", "a b", "$(id)", "a\n#SBATCH --nodes=9", "-n", "../x"])
def test_a_hostile_recipe_name_never_reaches_a_script(name, home):
    (home / "tiny.toml").write_text(f"name = {json.dumps(name)}\n[[source]]\nname = 'atlas'\nkind = 'atlas'\n")
    done = run("tiny.toml", "--machine", "lumi", "--dry-run", cwd=home)
    assert done.returncode == 2 and "#SBATCH" not in done.stdout and "name" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--machine", "lumy"], "did you mean lumi?"),
        (["--nodes", "2000"], "--nodes 2000: a job on LUMI-G"),
        (["--nodes", "0"], "--nodes 0"),
        (["--minutes", "2881"], "--minutes 2881: a job on LUMI-G, CSC, Kajaani can last 2880 (48 hours)"),
        (["--minutes", "-5"], "--minutes -5"),
        (["--minutes", "1", "--save-seconds", "60"], "--save-seconds 60: has to be shorter than the job"),
        (["--ranks-per-node", "9"], "takes 1 to 8"),
        (["--replicate", "3"], "--replicate 3: does not divide 8 ranks"),
        (["--replicate", "2", "--expert", "3"], "--expert 3: does not divide the 4 ranks"),
        (["--expert", "4"], "--expert 4"),
        (["--nodes", "3"], "cannot be dealt out to 24 ranks evenly"),
        (["--set", "model.num_hidden_layers=27"], "27"),
        (["--jobs", "0"], "--jobs 0"),
        (["--data-jobs", "-1"], "--data-jobs -1"),
        (["--account", "a b"], "--account 'a b'"),
        (["--partition", "x\n#SBATCH --nodes=9"], "--partition"),
        (["--sbatch=--qos=a b"], "--sbatch '--qos=a b'"),
        (["--sbatch", "qos"], "--sbatch 'qos'"),
        (["--setup", "nowhere.sh"], "nowhere.sh: no such file"),
        (["--prefix", "a 'b"], "--prefix"),
    ],
)
def test_what_the_machine_would_not_take_is_one_sentence_and_exit_code_two(arguments, expected, home, capsys):
    words = ["launch", "--machine", "lumi", "--dry-run", "--store", str(home / "store"), *arguments]
    assert cli.main(words) == 2
    said = capsys.readouterr()
    assert expected in said.err and said.err.startswith("hanse: ") and not said.out
    assert not (home / "store").exists()


def test_without_a_machine_the_known_ones_are_named(home, capsys):
    assert cli.main(["launch", "--store", str(home / "store")]) == 2
    said = capsys.readouterr().err
    assert all(name in said for name in machines.names())


def test_another_partition_may_have_another_time_cap(home):
    assert "--time=72:00:00" in directives(plan(home, "--minutes", "4320", "--partition", "small-g")[-1])


def test_a_source_of_the_hub_is_refused_until_its_data_are_there(home):
    hub = {"name": "web", "kind": "hub", "path": "a/b", "revision": "0" * 40, "licence": "CC0-1.0"}
    with pytest.raises(Exception, match="source 'web' comes from the hub"):
        plan(home, of=recipe(source=[ATLAS, hub]))
    (home / "store/shards/tiny/1").mkdir(parents=True)
    (home / "store/shards/tiny/1/step.json").touch()
    plan(home, of=recipe(source=[ATLAS, hub]))
    plan(home, of=recipe(source=[ATLAS, hub], version="2"))


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "recipes").glob("*.toml")), ids=lambda path: path.stem
)
def test_the_recipe_that_a_chain_keeps_is_the_one_that_was_launched(path, tmp_path):
    launched = recipes.load(path, ["seed=7"])
    submit.keep(launched, tmp_path / "recipe.toml")
    assert recipes.load(tmp_path / "recipe.toml") == launched


def test_dry_run_shows_plan_and_scripts_and_leaves_nothing_behind(home):
    words = ["--machine", "jupiter", "--nodes", "2", "--jobs", "5", "--account", "us"]
    done = run(*words, "--dry-run", cwd=home)
    assert done.returncode == 0, done.stderr
    assert (
        "5 x 12:00 h on 2 nodes, 8 processes of 72 cores; at most 120.0 node hours, 480 accelerator hours"
        in done.stdout
    )
    assert done.stdout.count("#!/bin/bash") == 2
    assert not list(home.iterdir())


def test_without_slurm_it_says_so_and_leaves_nothing_behind(home):
    (home / "bin").mkdir()
    done = run("--machine", "lumi", "--store", "store", cwd=home, PATH=str(home / "bin"))
    assert done.returncode == 2 and "there is no Slurm on this computer" in done.stderr
    assert not (home / "store").exists()


def test_launching_and_its_status_need_no_torch(home):
    program = (
        "import sys; from hanse.cli import main\n"
        "main(['launch', '--machine', 'lumi', '--dry-run'])\n"
        "import hanse.launch.job, hanse.launch.status, hanse.launch.rank\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=home, capture_output=True, timeout=300).returncode == 0


def test_every_option_is_explained_and_every_machine_named():
    page = (Path(__file__).parents[2] / "docs/launch.md").read_text(encoding="utf-8")
    (verbs,) = [each.choices for each in cli.parser()._actions if isinstance(each, argparse._SubParsersAction)]
    options = {name for action in verbs["launch"]._actions for name in action.option_strings if name.startswith("--")}
    assert not {name for name in options - {"--help"} if f"`{name}" not in page}
    assert not {name for name in [*CLUSTERS, "local"] if f"`{name}`" not in page}


def test_each_chain_has_a_name_of_its_own_that_slurm_takes(home):
    one = plan(home)[0].name
    assert re.fullmatch(r"hanse-tiny-1-[0-9a-f]{6}", one)
    assert plan(home / "elsewhere")[0].name != one
    assert plan(home, of=recipe(version="2"))[0].name != one
    assert shlex.quote(one) == one
