"""Bounds of a share: known values, and that they cover as often as they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from hanse.evaluate.proportion import Proportion, difference, lower_bound, upper_bound


@pytest.mark.parametrize(
    ("found", "tested", "low", "high"),
    [
        # By their definition as quantiles of the beta distribution, from R's binom.test.
        (0, 10, 0.0, 0.3084971),
        (1, 10, 0.002528579, 0.4450161),
        (5, 10, 0.1870860, 0.8129140),
        (10, 10, 0.6915029, 1.0),
        (81, 263, 0.2527033, 0.3676530),
    ],
)
def test_intervals_are_those_of_clopper_and_pearson(found: int, tested: int, low: float, high: float) -> None:
    share = Proportion.of(found, tested)
    assert (share.low, share.high) == pytest.approx((low, high), abs=2e-4 if tested == 263 else 1e-6)


@pytest.mark.parametrize("tested", [1, 20, 64, 300, 5000])
def test_none_found_is_bounded_in_closed_form_and_near_the_rule_of_three(tested: int) -> None:
    share = Proportion.of(0, tested)
    assert share.low == 0.0
    assert share.below == pytest.approx(1 - 0.05 ** (1 / tested), rel=1e-9)
    assert share.high == pytest.approx(1 - 0.025 ** (1 / tested), rel=1e-9)
    if tested >= 20:
        assert share.below == pytest.approx(3 / tested, rel=0.08)


def test_nothing_tested_says_nothing() -> None:
    share = Proportion.of(0, 0)
    assert (share.share, share.low, share.high, share.below) == (None, 0.0, 1.0, 1.0)
    assert difference(share, Proportion.of(1, 2)) is None


@pytest.mark.parametrize(("found", "tested"), [(-1, 3), (4, 3)])
def test_an_impossible_count_is_refused(found: int, tested: int) -> None:
    with pytest.raises(ValueError, match=f"{found} found of {tested}"):
        Proportion.of(found, tested)


@given(st.integers(0, 300), st.integers(0, 300))
def test_a_bound_is_where_the_tail_has_its_size(first: int, second: int) -> None:
    found, tested = sorted((first, second))
    share = Proportion.of(found, tested)
    assert 0.0 <= share.low <= (share.share or 0.0) <= share.below <= share.high <= 1.0
    if found < tested:
        assert binom.cdf(found, tested, share.high) == pytest.approx(0.025, rel=1e-6)
    if found:
        assert 1 - binom.cdf(found - 1, tested, share.low) == pytest.approx(0.025, rel=1e-6)


@given(st.integers(1, 60), st.floats(0.001, 0.999))
def test_the_interval_covers_the_true_share_in_95_of_100_samples_or_more(tested: int, true: float) -> None:
    probabilities = [math.comb(tested, k) * true**k * (1 - true) ** (tested - k) for k in range(tested + 1)]
    shares = [Proportion.of(k, tested) for k in range(tested + 1)]
    covered = sum(p for p, share in zip(probabilities, shares, strict=True) if share.low <= true <= share.high)
    one_sided = sum(p for p, share in zip(probabilities, shares, strict=True) if true <= share.below)
    assert covered >= 0.95 - 1e-9
    assert one_sided >= 0.95 - 1e-9


def test_bounds_mirror_each_other() -> None:
    assert lower_bound(3, 17, tail=0.1) == pytest.approx(1 - upper_bound(14, 17, tail=0.1))


def test_a_difference_is_near_the_published_example_and_a_little_wider() -> None:
    # Newcombe 1998, table II, row (a), method 10: 56/70 - 48/80 is 0.2000, 0.0524 to 0.3339.
    value, low, high = difference(Proportion.of(56, 70), Proportion.of(48, 80)) or (0.0, 0.0, 0.0)
    assert value == pytest.approx(0.2)
    assert 0.0524 - 0.02 < low < 0.0524
    assert 0.3339 < high < 0.3339 + 0.02


@pytest.mark.slow
def test_the_interval_of_a_difference_covers_about_as_often_as_it_says() -> None:
    draw = np.random.default_rng(3)
    for first, second in ((0.02, 0.02), (0.3, 0.05), (0.9, 0.5)):
        inside = 0
        for _ in range(400):
            sides = [Proportion.of(int(draw.binomial(64, share)), 64) for share in (first, second)]
            _, low, high = difference(*sides) or (0.0, 0.0, 0.0)
            inside += low <= first - second <= high
        assert inside / 400 >= 0.93
