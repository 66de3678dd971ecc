"""What is drawn from logits: as a slow and plain reference says, alone and in company."""

from __future__ import annotations

import math
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, reject
from hypothesis import strategies as st
from scipy.stats import chisquare

from hanse.serve.request import Sampling
from hanse.serve.sampler import BrokenModel, Sampler, choose, logprobs

NO_END: frozenset[int] = frozenset()


class Chosen(Sampler):
    """Draws what it is told."""

    number = 0.0

    def draw(self) -> float:
        return self.number


def weights(logits: list[float], sampling: Sampling, prompt: list[int], answer: list[int]) -> list[float]:
    """The weight of each token, by the definitions, one number at a time."""
    logits = list(logits)
    near: list[float] = []
    for token in set(prompt) | set(answer):
        factor = sampling.repetition_penalty
        logits[token] = logits[token] / factor if logits[token] > 0 else logits[token] * factor
        if token in answer:
            logits[token] -= sampling.presence_penalty + sampling.frequency_penalty * answer.count(token)
    logits = torch.tensor(logits, dtype=torch.float32).tolist()  # as the model's own are
    found = [math.exp((logit - max(logits)) / sampling.temperature) for logit in logits]
    best = sorted(logits, reverse=True)
    floor = best[sampling.top_k - 1] if 0 < sampling.top_k < len(logits) else -math.inf
    if sampling.top_p < 1.0:
        kept = [logit for logit in best if logit >= floor]
        total = sum(math.exp((logit - best[0]) / sampling.temperature) for logit in kept)
        running = 0.0
        for logit in kept:
            running += math.exp((logit - best[0]) / sampling.temperature) / total
            near.append(abs(running - sampling.top_p))
            if running >= sampling.top_p:
                floor = logit
                break
    near += [abs(weight - sampling.min_p) for weight in found if sampling.min_p]
    if near and min(near) < 1e-9:
        reject()  # rounding would decide
    return [
        weight if logit >= floor and weight >= sampling.min_p else 0.0
        for weight, logit in zip(found, logits, strict=True)
    ]


def check_against_reference(logits: list[float], sampling: Sampling, prompt: list[int], answer: list[int]) -> None:
    """The middle of each token's share of [0, 1) gives that token: so the shares are right, and so is their order."""
    expected = weights(logits, sampling, prompt, answer)
    total, below = sum(expected), 0.0
    samplers, tokens = [], []
    for token, weight in enumerate(expected):
        if weight / total > 1e-6:
            sampler = Chosen(sampling, prompt, vocab_size=len(logits))
            for said in answer:
                sampler.accept(said)
            sampler.number = (below + weight / 2) / total
            samplers.append(sampler)
            tokens.append(token)
        below += weight
    assert choose(torch.tensor([logits] * len(tokens)), samplers, end_ids=NO_END) == tokens


settings = st.builds(
    Sampling,
    temperature=st.floats(0.05, 5.0),
    top_k=st.integers(0, 12).filter(lambda count: count != 1),
    top_p=st.floats(0.01, 1.0),
    min_p=st.floats(0.0, 1.0),
    repetition_penalty=st.sampled_from([1.0, 0.5, 1.7]),
    presence_penalty=st.sampled_from([0.0, 1.5, -0.5]),
    frequency_penalty=st.sampled_from([0.0, 0.5, -0.25]),
)
# Halves, so that equal logits are the rule.
rows = st.lists(st.integers(-8, 8).map(lambda number: number / 2), min_size=1, max_size=30)


@pytest.mark.parametrize("head", [2, 256])
@given(logits=rows, sampling=settings, data=st.data())
def test_every_setting_gives_the_shares_of_the_plain_definition(
    head: int, logits: list[float], sampling: Sampling, data: st.DataObject
) -> None:
    spoken = st.lists(st.integers(0, len(logits) - 1), max_size=6)
    with patch("hanse.serve.sampler._HEAD", head):
        check_against_reference(logits, sampling, data.draw(spoken), data.draw(spoken))


@pytest.mark.parametrize(
    "change",
    [{"top_k": 3}, {"top_p": 0.6}, {"min_p": 0.3}, {"top_k": 5, "top_p": 0.8}, {"top_p": 0.9, "min_p": 0.1}],
    ids=str,
)
@given(logits=st.lists(st.floats(-6.0, 6.0, width=32), min_size=1, max_size=30))
def test_each_filter_alone_gives_the_shares_of_the_plain_definition(
    change: dict[str, float], logits: list[float]
) -> None:
    check_against_reference(logits, replace(Sampling(temperature=1.0), **change), [], [])


def test_a_nucleus_of_nearly_all_that_top_k_left_adds_nothing_to_it() -> None:
    sampling = Sampling(temperature=1.0, top_k=60, top_p=1 - 2**-53)
    logits = torch.randn(3000, 120, generator=torch.Generator().manual_seed(8)) * 0.01
    samplers = [Sampler(replace(sampling, seed=seed), [], vocab_size=120) for seed in range(3000)]
    tokens = torch.tensor(choose(logits, samplers, end_ids=NO_END))[:, None]
    assert (logits.gather(1, tokens) >= logits.topk(60).values[:, 59:]).all()


@pytest.mark.parametrize("spread", [0.01, 3.0], ids=["flat", "peaked"])
@pytest.mark.parametrize("change", [{"top_p": 0.9}, {"top_k": 700, "top_p": 0.95}, {"top_k": 700}, {"top_p": 0.3}])
def test_a_nucleus_wider_than_the_first_look_is_found_all_the_same(spread: float, change: dict[str, float]) -> None:
    logits = (torch.randn(1200, generator=torch.Generator().manual_seed(4)) * spread).tolist()
    check_against_reference(logits, replace(Sampling(temperature=1.0), **change), [], [])


@pytest.mark.parametrize(
    "sampling", [Sampling(temperature=1.0), Sampling(temperature=0.7, top_k=20, top_p=0.9, min_p=0.01)]
)
def test_frequencies_of_seeded_draws_are_those_of_the_model(sampling: Sampling) -> None:
    logits_V = torch.randn(40, generator=torch.Generator().manual_seed(1))
    samplers = [Sampler(replace(sampling, seed=seed), [], vocab_size=40) for seed in range(500)]
    found = torch.zeros(40, dtype=torch.float64)
    for _ in range(40):
        tokens = choose(logits_V.expand(500, -1), samplers, end_ids=NO_END)
        found += torch.bincount(torch.tensor(tokens), minlength=40)
    expected = torch.tensor(weights(logits_V.tolist(), sampling, [], []), dtype=torch.float64)
    assert not found[expected == 0].any()
    kept = expected > 0
    shares = expected[kept] / expected[kept].sum() * found.sum()
    assert chisquare(found[kept].numpy(), shares.numpy()).pvalue > 0.001


MIXED = [
    Sampling(),
    Sampling(temperature=1.0),
    Sampling(temperature=0.5, top_k=7),
    Sampling(temperature=1.3, top_p=0.8),
    Sampling(temperature=1.0, min_p=0.05, repetition_penalty=1.3),
    Sampling(repetition_penalty=1.5, presence_penalty=0.4),
    Sampling(temperature=2.0, top_k=40, top_p=0.95, frequency_penalty=0.3),
    Sampling(temperature=1.0, top_k=1),
    Sampling(temperature=1.0, ignore_end=True),
]


def walk(chosen: list[int], company: int) -> dict[int, list[int]]:
    """Eight tokens for the chosen ones of many requests; the logits depend on the request and the step alone."""
    samplers = [
        Sampler(replace(MIXED[number % len(MIXED)], seed=number), [number, 3], vocab_size=300)
        for number in range(company)
    ]
    said: dict[int, list[int]] = {number: [] for number in chosen}
    for step in range(8):
        logits = [
            torch.randn(300, generator=torch.Generator().manual_seed(100 * number + step)) * 2 for number in chosen
        ]
        tokens = choose(torch.stack(logits), [samplers[number] for number in chosen], end_ids=frozenset({1, 2}))
        for number, token in zip(chosen, tokens, strict=True):
            samplers[number].accept(token)
            said[number].append(token)
    return said


def test_the_same_seed_gives_the_same_answer_alone_and_in_any_company(monkeypatch: pytest.MonkeyPatch) -> None:
    everybody = list(range(2 * len(MIXED)))
    together = walk(everybody, len(everybody))
    assert walk(everybody[::-1], len(everybody)) == together
    for number in everybody:
        assert walk([number], len(everybody)) == {number: together[number]}
    monkeypatch.setattr("hanse.serve.sampler._BLOCK_CPU", 700)  # two rows at a time
    assert walk(everybody, len(everybody)) == together


def test_each_drawn_token_takes_one_number_and_a_greedy_one_none() -> None:
    samplers = [Sampler(replace(sampling, seed=9), [0], vocab_size=300) for sampling in MIXED]
    for step in range(5):
        logits = torch.randn(len(MIXED), 300, generator=torch.Generator().manual_seed(step))
        choose(logits, samplers, end_ids=frozenset({1}))
    numbers = torch.rand(6, dtype=torch.float64, generator=torch.Generator().manual_seed(9)).tolist()
    for sampler in samplers:
        assert sampler.draw() == numbers[0 if sampler.is_greedy else 5], sampler.sampling


def test_without_a_seed_two_requests_draw_differently() -> None:
    one, other = (Sampler(Sampling(temperature=1.0), [], vocab_size=10) for _ in range(2))
    assert [one.draw() for _ in range(4)] != [other.draw() for _ in range(4)]


@pytest.mark.parametrize(
    "logits, sampling, prompt, answer, expected",
    [
        ([2.0, 1.5], Sampling(repetition_penalty=1.3), [0], [], 0),  # 2 / 1.3 = 1.54
        ([2.0, 1.5], Sampling(repetition_penalty=1.4), [0], [], 1),  # 2 / 1.4 = 1.43
        ([-1.0, -1.5], Sampling(repetition_penalty=1.4), [], [0], 0),  # -1 * 1.4
        ([-1.0, -1.5], Sampling(repetition_penalty=1.6), [], [0], 1),  # -1 * 1.6
        ([2.0, 1.5], Sampling(repetition_penalty=1.4), [0, 0, 0], [0, 0], 1),  # once, however often it came
        ([2.0, 1.6], Sampling(presence_penalty=0.3), [], [0, 0, 0], 0),  # 2 - 0.3
        ([2.0, 1.6], Sampling(presence_penalty=0.5), [], [0], 1),  # 2 - 0.5
        ([2.0, 1.6], Sampling(presence_penalty=0.5), [0], [], 0),  # the prompt does not count
        ([2.0, 1.6], Sampling(frequency_penalty=0.15), [0], [0, 0], 0),  # 2 - 0.3
        ([2.0, 1.6], Sampling(frequency_penalty=0.15), [0], [0, 0, 0], 1),  # 2 - 0.45
        ([1.0, 1.2], Sampling(frequency_penalty=-0.15), [], [0, 0], 0),  # 1 + 0.3
        ([2.0, 1.0], Sampling(repetition_penalty=1.25, presence_penalty=0.3, frequency_penalty=0.2), [0], [0], 0),
        ([2.0, 1.0], Sampling(repetition_penalty=1.25, presence_penalty=0.3, frequency_penalty=0.2), [0], [0, 0], 1),
    ],
)
def test_penalties_lower_logits_as_by_hand(
    logits: list[float], sampling: Sampling, prompt: list[int], answer: list[int], expected: int
) -> None:
    sampler = Sampler(sampling, prompt, vocab_size=2)
    for token in answer:
        sampler.accept(token)
    given_logits = torch.tensor([logits])
    assert choose(given_logits, [sampler], end_ids=NO_END) == [expected]
    assert given_logits.tolist() == torch.tensor([logits]).tolist(), "the caller's logits changed"


def test_of_equally_likely_tokens_greedy_takes_the_lowest_id() -> None:
    logits = torch.zeros(3, 5000)
    logits[:, [7, 4000]] = 2.0
    penalised = Sampler(Sampling(repetition_penalty=2.0), [3], vocab_size=5000)
    top_1 = Sampler(Sampling(temperature=1.0, top_k=1), [], vocab_size=5000)
    assert choose(logits, [Sampler(Sampling(), [], vocab_size=5000), penalised, top_1], end_ids=NO_END) == [7, 7, 7]


@pytest.mark.parametrize("temperature", [1e-3, 1e-6, 1e-45, 5e-324])
def test_a_tiny_temperature_is_greedy_and_stays_finite(temperature: float) -> None:
    logits = torch.tensor([[5.0, 5.01, -30.0, 5.0]])
    for sampling in (Sampling(temperature=temperature), Sampling(temperature=temperature, top_p=0.5, min_p=0.1)):
        sampler = Sampler(replace(sampling, seed=1), [], vocab_size=4)
        assert {choose(logits, [sampler], end_ids=NO_END)[0] for _ in range(50)} == {1}


@pytest.mark.parametrize("number", [0.0, 0.25, 0.5, 1 - 2**-53])
def test_no_draw_falls_beside_the_tokens_that_are_left(number: float) -> None:
    sampler = Chosen(Sampling(temperature=1.0, top_k=2), [], vocab_size=6)
    sampler.number = number
    token = choose(torch.tensor([[-1.0, 1.0, 0.0, -1.0, 1.0, 0.0]]), [sampler], end_ids=NO_END)
    assert token == [1 if number < 0.5 else 4]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_logits_that_are_no_numbers_are_an_error_that_names_the_rows_and_draws_nothing(bad: float) -> None:
    samplers = [Sampler(Sampling(temperature=1.0, seed=3), [], vocab_size=9) for _ in range(3)]
    logits = torch.zeros(3, 9)
    logits[1, 4] = bad
    with pytest.raises(BrokenModel, match="The model is broken") as caught:
        choose(logits, samplers, end_ids=NO_END)
    assert caught.value.rows == (1,)
    assert len({sampler.draw() for sampler in samplers}) == 1


def test_large_finite_logits_are_no_error() -> None:
    logits = torch.full((1, 9), 3e38)
    assert choose(logits, [Sampler(Sampling(), [], vocab_size=9)], end_ids=NO_END) == [0]


def test_end_tokens_are_passed_over_where_asked() -> None:
    logits = torch.tensor([[0.0, 9.0, 1.0, 8.0]] * 3)
    ignoring = Sampling(ignore_end=True)
    samplers = [
        Sampler(sampling, [], vocab_size=4)
        for sampling in (Sampling(), ignoring, replace(ignoring, temperature=0.01, seed=1))
    ]
    assert choose(logits, samplers, end_ids=frozenset({1, 3, 77})) == [1, 2, 2]


def test_a_batch_needs_a_sampler_for_every_row_and_may_be_empty() -> None:
    assert choose(torch.zeros(0, 5), [], end_ids=NO_END) == []
    with pytest.raises(ValueError, match="1 samplers for 2 rows"):
        choose(torch.zeros(2, 5), [Sampler(Sampling(), [], vocab_size=5)], end_ids=NO_END)
    with pytest.raises(ValueError, match="outside the vocabulary of 5"):
        Sampler(Sampling(), [5], vocab_size=5)


def test_logprobs_are_those_of_the_model_itself() -> None:
    logits_BV = torch.randn(6, 50, generator=torch.Generator().manual_seed(2)) * 3
    tokens = [3, 1, 4, 1, 5, 9]
    expected_BV = torch.log_softmax(logits_BV.double(), -1)
    found = logprobs(logits_BV, tokens, 4)
    for row, logprob in enumerate(found):
        assert logprob.token == tokens[row]
        assert logprob.value == pytest.approx(float(expected_BV[row, tokens[row]]), abs=1e-5)
        best = expected_BV[row].sort(descending=True)
        assert [token for token, _ in logprob.top] == best.indices[:4].tolist()
        assert [value for _, value in logprob.top] == pytest.approx(best.values[:4].tolist(), abs=1e-5)
    assert logprobs(torch.tensor([[90.0, -90.0]]), [0], 5)[0].value == 0.0
    assert [len(one.top) for one in logprobs(logits_BV, tokens, 0)] == [0] * 6
    assert len(logprobs(torch.zeros(1, 3), [0], 20)[0].top) == 3
