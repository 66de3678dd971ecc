"""Warm up, stay, decay."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.train.schedule import warmup_stable_decay


def test_the_shape_is_linear_up_flat_and_linear_down() -> None:
    factors = [warmup_stable_decay(step, 20, warmup_share=0.2, decay_share=0.25) for step in range(20)]
    assert factors == pytest.approx([0.25, 0.5, 0.75, *[1.0] * 13, 0.8, 0.6, 0.4, 0.2])


def test_without_warm_up_and_decay_the_rate_is_constant() -> None:
    assert {warmup_stable_decay(step, 7, warmup_share=0, decay_share=0) for step in range(7)} == {1.0}


@given(st.integers(1, 3000), st.floats(0, 1), st.data())
def test_every_step_of_every_run_moves_the_weights_and_none_too_far(steps: int, warmup: float, data) -> None:
    decay = data.draw(st.floats(0, 1 - warmup))
    step = data.draw(st.integers(0, steps - 1))
    assert 0 < warmup_stable_decay(step, steps, warmup_share=warmup, decay_share=decay) <= 1


@pytest.mark.parametrize("step", [-1, 10])
def test_a_step_outside_the_run_is_an_error(step: int) -> None:
    with pytest.raises(ValueError, match="outside"):
        warmup_stable_decay(step, 10, warmup_share=0.1, decay_share=0.1)
