"""The verb: what it prints, what it refuses, and that pages and recipes agree with it."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hanse import cli, plan, recipe
from hanse.model.transformer import Transformer
from hanse.plan.choose import Wishes
from hanse.plan.cluster import cluster_plan
from hanse.plan.machines import machine

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes"
LARGE = RECIPES / "soofi-100b.toml"
SHOWN = re.compile(r"^```\n(hanse plan [^\n]*)\n```\n\n```\n(.*?)\n```", re.MULTILINE | re.DOTALL)


def printed(capsys, *arguments):
    code = cli.main(["plan", *arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_scale_page_shows_what_the_command_prints(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    found = SHOWN.findall((ROOT / "docs" / "scale.md").read_text(encoding="utf-8"))
    assert len(found) == 2
    for command, shown in found:
        code, out, _ = printed(capsys, *shlex.split(command)[2:])
        assert code == 0
        assert out.rstrip() == shown


def test_the_large_recipe_is_a_model_of_the_size_it_says():
    config = plan.model_config(recipe.load(LARGE))
    with torch.device("meta"):
        model = Transformer(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == config.parameters()
    assert 95e9 < config.parameters() < 105e9
    assert 6e9 < config.active_parameters() < 10.5e9


@pytest.mark.parametrize(
    ("name", "place", "nodes", "hours"),
    [
        ("one-gpu", "h100", 1, (0.5, 1.5)),
        ("node", "h100-node", 1, (18, 26)),
        ("soofi-100b", "jupiter", 128, (60 * 24, 180 * 24)),
    ],
)
def test_the_recipes_fit_the_machine_that_they_name_and_take_as_long_as_they_say(name, place, nodes, hours):
    made = cluster_plan(recipe.load(RECIPES / f"{name}.toml"), machine(place), nodes)
    assert made.choice.memory.fits
    assert hours[0] < made.duration.wall / 3600 < hours[1]


def test_the_json_holds_the_same_figures_as_the_text(capsys):
    arguments = [str(LARGE), "--machine", "jupiter", "--nodes", "128"]
    _, text, _ = printed(capsys, *arguments)
    code, out, _ = printed(capsys, *arguments, "--json")
    found = json.loads(out)
    assert code == 0
    assert f"{found['parameters']:,} parameters" in text
    assert f"{found['memory']['bytes'] / 1e9:.1f} GB of" in text
    assert found["layout"]["options"] in text
    assert found["layout"]["ranks"] == 512 == found["layout"]["replicate"] * found["layout"]["shard"]
    assert found["step_seconds"] == found["duration"]["step"]["muon"] + max(
        found["duration"]["step"]["compute"], found["duration"]["step"]["links"]
    )
    assert found["duration"]["wall"] > found["duration"]["training"] > 0
    assert "max_hours" in found["machine"]["unsourced"]


def test_jobs_are_as_many_as_the_longest_allowed_make_necessary():
    parsed = recipe.load(LARGE)
    short, long = (cluster_plan(parsed, machine(name), 128).duration for name in ("alps", "jupiter"))
    assert short.jobs == long.jobs  # both allow 12 hours and have the same GPUs
    assert long.jobs >= long.wall / (12 * 3600)


def test_twice_the_share_of_the_peak_is_half_the_time_until_links_decide():
    parsed, place = recipe.load(LARGE), machine("jupiter")
    wishes = Wishes(replicate=4, expert=4, recompute=True, micro_batch_tokens=32768)
    slow, fast, fastest = (
        cluster_plan(parsed, place, 128, wishes=wishes, share=s).choice.step for s in (0.05, 0.1, 0.9)
    )
    assert slow.compute == pytest.approx(2 * fast.compute)
    assert slow.seconds == slow.compute + slow.muon
    assert fastest.seconds == fastest.links + fastest.muon


def test_this_computer_is_planned_where_no_machine_is_named(capsys):
    code, out, _ = printed(capsys, "--set", "pretrain.batch_tokens=1024")
    assert code == 0
    assert "the computer this runs on" in out
    assert "traffic: none" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--machine", "jupitr"], "did you mean jupiter"),
        (["--machine", "jupiter", "--nodes", "4"], "GB too much"),
        (["--machine", "jupiter", "--nodes", "128", "--mfu", "15"], "--mfu 15: give a share"),
        (["--machine", "jupiter", "--nodes", "128", "--expert", "3"], "--expert 3"),
        (["--machine", "jupiter", "--nodes", "100"], "cannot be dealt out to 400 ranks"),
    ],
)
def test_what_cannot_be_planned_is_one_sentence_and_code_2(capsys, arguments, said):
    code, out, err = printed(capsys, str(LARGE), *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert err.startswith("hanse: ") and err.count("\n") == 1


def test_planning_loads_no_torch():
    code = (
        "import sys\nfrom hanse import cli\n"
        f"cli.main(['plan', {str(LARGE)!r}, '--machine', 'jupiter', '--nodes', '128'])\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
