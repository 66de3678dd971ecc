"""What cannot be dealt out to ranks is refused before anything runs."""

import os
import subprocess
import sys

import pytest

from hanse.errors import InputError
from hanse.plan.dealing import micro_batches, refuse_uneven
from hanse.plan.layout import Layout
from hanse.recipe import Recipe

ATLAS = {
    "name": "atlas", "kind": "atlas", "licence": "Unicode-3.0", "licence_basis": "generated", "reservation": "none",
}  # fmt: skip
TALK = {"source": "atlas", "sequence_length": 128, "batch_tokens": 1024}
EXPERTS = {"size": "3M", "n_routed_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 64}


def recipe(**more):
    return Recipe.model_validate({"name": "tiny", "languages": ["mt"], "source": [ATLAS], **more})


def test_every_row_is_computed_by_one_rank():
    rows = [row for rank in range(4) for part in micro_batches(16, 2, rank=rank, ranks=4) for row in part]
    assert rows == list(range(16))


def test_rows_that_cannot_be_dealt_out_evenly_are_refused():
    with pytest.raises(InputError, match="batch_tokens: 6 sequences a step cannot be dealt out to 4 ranks"):
        micro_batches(6, 1, rank=0, ranks=4)
    with pytest.raises(InputError, match="micro_batch_tokens: 2 sequences do not divide the 3"):
        micro_batches(6, 2, rank=0, ranks=2)


@pytest.mark.parametrize(
    ("more", "layout", "said"),
    [
        ({}, Layout(1, 3), "batch_tokens: 32 sequences a step cannot be dealt out to 3 ranks"),
        ({"tune": [TALK]}, Layout(1, 16), "batch_tokens: 8 sequences a step cannot be dealt out to 16 ranks"),
        ({"pretrain": {"batch_ramp_share": 0.5}}, Layout(2, 8), "batch_tokens: 8 sequences a step"),
        ({"pretrain": {"micro_batch_tokens": 4096}}, Layout(1, 1), ""),
        ({"pretrain": {"batch_tokens": 6144, "micro_batch_tokens": 2048}}, Layout(1, 2), "do not divide the 12"),
        ({"model": EXPERTS}, Layout(1, 4, expert=4), "--expert 4: does not divide the 6 routed experts"),
        ({}, Layout(1, 4, expert=2), "--expert 2: this model has no experts to split"),
        ({"model": EXPERTS}, Layout(1, 4, expert=2), ""),
    ],
)
def test_a_recipe_that_some_training_of_it_would_refuse_is_refused(more, layout, said):
    if not said:
        refuse_uneven(recipe(**more), layout)
        return
    with pytest.raises(InputError, match=said):
        refuse_uneven(recipe(**more), layout)


@pytest.mark.parametrize(
    ("ranks", "options", "said"),
    [
        ("3", ["--expert", "3", "--set", "model.n_routed_experts=4"], "--expert 3: does not divide the 4 routed"),
        ("3", [], "cannot be dealt out to 3 ranks evenly"),
    ],
)
def test_hanse_run_refuses_before_it_looks_for_other_ranks_or_makes_data(tmp_path, ranks, options, said):
    (tmp_path / "tiny.toml").write_text(
        'name = "tiny"\nlanguages = ["mt"]\n[[source]]\nname = "atlas"\nkind = "atlas"\nlicence = "Unicode-3.0"\n'
        'licence_basis = "generated"\nreservation = "none"\n[model]\nsize = "3M"\nnum_experts_per_tok = 2\n'
        "moe_intermediate_size = 64\n"
    )
    launched = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "hanse.cli", "run", "tiny.toml", *options],
        cwd=tmp_path, env=os.environ | launched, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.startswith("hanse: ") and said in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.toml"]
