"""The command line: quick, torch-free where it can be, and refusing in one sentence with exit code 2."""

import json
import os
import subprocess
import sys

import pytest

from hanse.cli import main


def run(*arguments: str, cwd=None, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hanse.cli", *arguments]
    env = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env, timeout=300)


def imported(*arguments: str) -> set[str]:
    """The top-level modules that a command has in memory at its end."""
    program = (
        "import sys, json, contextlib, io; from hanse.cli import main\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()): main(sys.argv[1:])\n"
        "print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=300)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_help_teaches_and_imports_nothing_heavy():
    done = run("--help")
    assert done.returncode == 0
    assert "a first walk:" in done.stdout
    assert not imported("--help") & {"torch", "pydantic", "numpy", "pyarrow", "daft", "rich", "transformers"}


@pytest.mark.parametrize(
    "verb", ["run", "data", "launch", "find", "chat", "export", "serve", "verify", "path", "show", "lineage", "list"]
)
def test_every_verb_explains_itself(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    assert "--store" in capsys.readouterr().out


def test_dry_run_prints_sizes_and_estimates_without_torch_or_a_store(tmp_path):
    done = run("run", "--dry-run", "--store", str(tmp_path / "store"))
    assert done.returncode == 0
    for word in ("budget_tokens", "kv_lora_rank", "parameters", "FLOP", "memory", "time"):
        assert word in done.stdout
    assert not (tmp_path / "store").exists()
    assert "torch" not in imported("run", "--dry-run")


def test_dry_run_as_json_holds_recipe_model_and_plan():
    found = json.loads(run("run", "--dry-run", "--json").stdout)
    assert found["model"]["model_type"] == "deepseek_v3"
    assert found["plan"]["tokens"] == found["plan"]["steps"] * found["recipe"]["pretrain"]["batch_tokens"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "nowhere.toml"], "nowhere.toml: no such recipe"),
        (["run", "--dry-run", "--set", "pretrain.budget=5"], "Did you mean budget_tokens?"),
        (["run", "--dry-run", "--set", "model.num_hidden_layers=27"], "27"),
        (["run", "--dry-run", "--set", "model.qk_rope_head_dim=15"], "qk_rope_head_dim"),
        (["path", "model/none", "--store", "empty"], "empty"),
        (["chat", "--store", "empty", "--prompt", "x"], "empty"),
        (["verify", "model/none", "--store", "empty"], "empty"),
        (["run", "--until", "cake", "--store", "new"], "--until cake"),
        (["run", "--device", "abacus", "--store", "new"], "abacus"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_two(tmp_path, arguments, expected):
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("hanse: ")
    assert expected in last
    assert "Traceback" not in done.stderr
