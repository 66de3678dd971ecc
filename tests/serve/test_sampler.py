"""What is drawn from a row of logits."""

from __future__ import annotations

import torch

from hanse.serve.sampler import sample

LOGITS = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))


def shares(*, temperature: float, top_p: float, draws: int = 4000) -> list[float]:
    generator = torch.Generator().manual_seed(3)
    found = [sample(LOGITS, temperature=temperature, top_p=top_p, generator=generator) for _ in range(draws)]
    return [found.count(token) / draws for token in range(len(LOGITS))]


def test_temperature_zero_takes_the_likeliest_and_draws_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert sample(LOGITS, temperature=0.0, top_p=0.1, generator=generator) == 0
    assert torch.equal(generator.get_state(), before)


def test_temperature_one_draws_by_the_models_own_probabilities() -> None:
    # Four standard deviations of a share over 4000 draws are 0.032 at most.
    for share, expected in zip(shares(temperature=1.0, top_p=1.0), [0.5, 0.3, 0.15, 0.05], strict=True):
        assert abs(share - expected) < 0.032


def test_top_p_keeps_the_fewest_tokens_that_reach_it() -> None:
    kept = [share > 0 for share in shares(temperature=1.0, top_p=0.79)]
    assert kept == [True, True, False, False]
    assert [share > 0 for share in shares(temperature=1.0, top_p=0.81)] == [True, True, True, False]
    assert [share > 0 for share in shares(temperature=1.0, top_p=1e-9)] == [True, False, False, False]


def test_a_tiny_temperature_is_almost_greedy_and_stays_finite() -> None:
    assert shares(temperature=1e-6, top_p=1.0, draws=50) == [1.0, 0.0, 0.0, 0.0]
