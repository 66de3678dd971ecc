"""The rule for learning rates that a recipe leaves out."""

from __future__ import annotations

import pytest

from hanse import plan, recipe
from hanse.recipe import Pretrain, Tune
from hanse.train.rates import rule, with_rates


def test_the_rate_of_matrices_is_the_same_for_all_widths_and_the_others_fall_with_it() -> None:
    narrow, wide, wider = (rule(Pretrain(), width) for width in (192, 768, 1536))
    assert narrow.learning_rate == wide.learning_rate == wider.learning_rate
    assert narrow.adam_learning_rate == pytest.approx(4 * wide.adam_learning_rate)
    assert wide.adam_learning_rate == pytest.approx(2 * wider.adam_learning_rate)
    assert rule(Pretrain(), 16).adam_learning_rate == narrow.adam_learning_rate


def test_where_adam_moves_the_matrices_their_rate_falls_with_the_width() -> None:
    settings = Pretrain(optimizer="adamw")
    assert rule(settings, 384).learning_rate == pytest.approx(rule(settings, 192).learning_rate / 2)


def test_what_a_recipe_names_stays_and_tuning_takes_half() -> None:
    named = with_rates(Pretrain(learning_rate=0.007), 384)
    assert named.learning_rate == 0.007 and named.adam_learning_rate == rule(Pretrain(), 384).adam_learning_rate
    tuned = with_rates(Tune(source="talk"), 384, is_tuning=True)
    assert tuned.learning_rate == rule(Pretrain(), 384).learning_rate / 2
    assert tuned.adam_learning_rate == rule(Pretrain(), 384).adam_learning_rate / 2


def test_the_derivation_is_printed_with_the_width_and_what_the_recipe_names(capsys: pytest.CaptureFixture) -> None:
    parsed = recipe.load(recipe.embedded(), ["pretrain.learning_rate=0.03"])
    plan.show(parsed, as_json=False)
    printed = capsys.readouterr().out
    assert "learning_rate 0.03 (named in the recipe)" in printed
    assert f"min(1, 192 / width {plan.model_config(parsed).hidden_size})" in printed
