"""The mixture: shares follow the formulas, caps hold exactly, and whose turn it is needs nothing but a number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streams import LENGTH, budget, stream, write_tokens

from hanse.data.mixture import Mixture, fill, lines, table, take_turns, turns_taken
from hanse.data.shards import Shards
from hanse.errors import InputError
from hanse.recipe import parse

SIZES = {("de", "books"): 4000, ("de", "web"): 12_000, ("el", "web"): 3200, ("mt", "web"): 400}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    texts = {key: stream(1000 + 13 * n, size) for n, (key, size) in enumerate(SIZES.items())}
    return write_tokens(tmp_path_factory.mktemp("tokens"), texts)


def mix(shards: Shards, samples: int, **changes: Any) -> Mixture:
    return Mixture.of(shards, budget(samples, **changes))


def quotas(mixture: Mixture) -> dict[tuple[str, str], int]:
    """Samples of the whole run by language and source."""
    return {(s.language, s.source): int(n) for s, n in zip(mixture.streams, mixture.quotas_KS.sum(0), strict=True)}


# --------------------------------------------------------------------------- turns

some_quotas = st.lists(st.integers(0, 40), min_size=1, max_size=40).filter(any)


@given(given_quotas=some_quotas)
def test_everybody_gets_exactly_their_turns_in_order(given_quotas: list[int]) -> None:
    total = sum(given_quotas)
    who, turn = take_turns(np.arange(total), np.array(given_quotas))
    for number, quota in enumerate(given_quotas):
        assert turn[who == number].tolist() == list(range(quota))


@given(given_quotas=some_quotas, data=st.data())
def test_turns_are_the_same_whoever_asks_for_them(given_quotas: list[int], data: st.DataObject) -> None:
    indices = np.array(data.draw(st.lists(st.integers(0, sum(given_quotas) - 1), min_size=1, max_size=10)))
    who, turn = take_turns(np.arange(sum(given_quotas)), np.array(given_quotas))
    found = take_turns(indices, np.array(given_quotas))
    assert found[0].tolist() == who[indices].tolist()
    assert found[1].tolist() == turn[indices].tolist()


@given(given_quotas=some_quotas, data=st.data())
def test_turns_taken_are_counted_without_going_through_them(given_quotas: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(0, sum(given_quotas)))
    who, _ = take_turns(np.arange(count), np.array(given_quotas))
    expected = np.bincount(who, minlength=len(given_quotas))
    assert turns_taken(count, np.array(given_quotas)).tolist() == expected.tolist()


@given(given_quotas=st.lists(st.integers(0, 2**32 // 64), min_size=1, max_size=60).filter(any), data=st.data())
def test_turns_are_spread_evenly_however_long_the_run(given_quotas: list[int], data: st.DataObject) -> None:
    total = sum(given_quotas)
    count = data.draw(st.integers(0, total))
    taken = turns_taken(count, np.array(given_quotas))
    assert taken.sum() == count
    depth = (len(given_quotas) - 1).bit_length()
    even = np.array([count * quota / total for quota in given_quotas])
    assert np.abs(taken - even).max() <= depth / 2 + 1e-3


def test_the_largest_run_does_not_overflow() -> None:
    total = 2**32 - 1
    thirds = np.array([total // 3, total // 3, total // 3])
    who, turn = take_turns(np.array([0, total - 1]), thirds)
    assert turn[1] == total // 3 - 1
    assert turns_taken(total, thirds).tolist() == thirds.tolist()
    assert turns_taken(total - 1, thirds).tolist() == [n - (k == who[1]) for k, n in enumerate(thirds.tolist())]


# --------------------------------------------------------------------------- shares


@given(
    held=st.lists(
        st.tuples(st.one_of(st.just(0.0), st.floats(1e-6, 1e9)), st.integers(0, 10**6)), min_size=1, max_size=50
    ),
    data=st.data(),
)
def test_filling_is_exact_fair_and_within_capacities(held: list[tuple[float, int]], data: st.DataObject) -> None:
    weights, capacities = np.array([w for w, _ in held]), np.array([c for _, c in held])
    room = int(capacities[weights > 0].sum())
    total = data.draw(st.integers(0, room))
    counts = fill(total, weights, capacities)
    assert counts.sum() == total
    assert (counts >= 0).all()
    assert (counts <= capacities).all()
    assert not counts[weights == 0].any()
    low, high = 0.0, 1e18  # the level at which water stands in vessels as wide as the weights
    for _ in range(200):
        level = (low + high) / 2
        low, high = (low, level) if np.minimum(capacities, level * weights).sum() > total else (level, high)
    assert np.abs(counts - np.minimum(capacities, low * weights)).max() <= 1 + 1e-6
    with pytest.raises(ValueError, match="capacities"):
        fill(room + 1, weights, capacities)


def test_without_settings_every_stream_is_seen_equally_often(shards: Shards) -> None:
    found = quotas(mix(shards, 9800))
    assert found == {key: size // 2 for key, size in SIZES.items()}


def test_temperature_lifts_small_languages_and_leaves_sources_in_proportion(shards: Shards) -> None:
    found = quotas(mix(shards, 20_000, language_temperature=2.0))
    roots = {"de": 16_000**0.5, "el": 3200**0.5, "mt": 400**0.5}
    for language, root in roots.items():
        got = sum(n for (code, _), n in found.items() if code == language)
        assert got == pytest.approx(20_000 * root / sum(roots.values()), abs=1)
    assert found["de", "web"] == pytest.approx(3 * found["de", "books"], abs=3)


def test_a_source_weight_moves_text_within_its_language_only(shards: Shards) -> None:
    plain, lifted = quotas(mix(shards, 9800)), quotas(mix(shards, 9800, source_weight={"books": 9.0}))
    assert lifted["de", "books"] == 3 * lifted["de", "web"] == 6000
    assert (lifted["el", "web"], lifted["mt", "web"]) == (plain["el", "web"], plain["mt", "web"])


def test_a_source_of_weight_zero_is_left_out_and_so_is_a_language_that_has_no_other(shards: Shards) -> None:
    found = quotas(mix(shards, 500, source_weight={"web": 0.0}))
    assert found == {("de", "books"): 500, ("de", "web"): 0, ("el", "web"): 0, ("mt", "web"): 0}


def test_what_a_capped_stream_cannot_take_goes_to_its_language_first(shards: Shards) -> None:
    plain = quotas(mix(shards, 1000, source_weight={"books": 1000.0}))
    capped = quotas(mix(shards, 1000, source_weight={"books": 1000.0}, max_epochs=2))
    assert plain["de", "books"] > 800
    assert capped["de", "books"] == 2 * 250
    assert capped["de", "web"] == plain["de", "books"] + plain["de", "web"] - 500
    assert (capped["el", "web"], capped["mt", "web"]) == (plain["el", "web"], plain["mt", "web"])


def test_what_a_capped_language_cannot_take_goes_to_the_others(shards: Shards) -> None:
    plain = quotas(mix(shards, 1600, language_temperature=100.0))
    capped = quotas(mix(shards, 1600, language_temperature=100.0, max_epochs=1.5))
    assert plain["mt", "web"] > 500
    assert capped["mt", "web"] == 37  # 1.5 times 25 windows, rounded down
    assert capped["el", "web"] == 300
    assert capped["de", "books"] + capped["de", "web"] == 1600 - 337


@settings(max_examples=60, deadline=None)
@given(
    share=st.floats(0.01, 1.0),
    cap=st.floats(0.1, 5.0),
    temperature=st.floats(1, 100),
    factors=st.lists(st.floats(0, 100), min_size=4, max_size=4),
    until=st.floats(0.05, 0.95),
)
def test_no_window_is_seen_more_often_than_the_cap_whatever_the_stages(
    shards: Shards, share: float, cap: float, temperature: float, factors: list[float], until: float
) -> None:
    capacity = sum(int(-(-size // LENGTH) * cap) for size in SIZES.values())
    samples = max(1, int(capacity * share))
    weights = [{"books": a, "web": b} for a, b in zip(factors[:2], factors[2:], strict=True)]
    stages = [{"until": until, "source_weight": weights[0]}, {"until": 1.0, "source_weight": weights[1]}]
    try:
        mixture = mix(shards, samples, max_epochs=cap, language_temperature=temperature, stage=stages)
    except InputError as error:
        assert "max_epochs" in str(error)
        return
    assert mixture.samples == samples
    assert (mixture.quotas_KS.sum(0) <= np.floor(mixture.windows_S * cap)).all()


def test_the_whole_capacity_can_be_used(shards: Shards) -> None:
    mixture = mix(shards, 2 * 1225, max_epochs=2, language_temperature=5.0, source_weight={"web": 0.1})
    assert np.array_equal(mixture.quotas_KS[0], 2 * mixture.windows_S)


def test_a_budget_that_the_caps_cannot_fill_says_by_how_much(shards: Shards) -> None:
    with pytest.raises(InputError, match=r"max_epochs: 2 passes .* leave stage 1 of 1 800 tokens short of the 40,000"):
        mix(shards, 2500, max_epochs=2)
    with pytest.raises(InputError, match=r"stage 1 of 2 .* tokens short"):
        mix(shards, 2450, max_epochs=2, stage=[{"until": 0.9, "source_weight": {"books": 0}}, {"until": 1.0}])


def test_a_stage_without_text_is_refused(shards: Shards) -> None:
    with pytest.raises(InputError, match="leaves no text at all for stage 2 of 2"):
        mix(shards, 50, stage=[{"until": 0.5}, {"until": 1, "source_weight": {"books": 0, "web": 0}}])


def test_shards_without_training_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no train text"):
        mix(write_tokens(tmp_path, {}), 5)


def test_a_run_of_too_many_samples_is_refused(shards: Shards) -> None:
    with pytest.raises(InputError, match="raise sequence_length"):
        mix(shards, 2**32)


# --------------------------------------------------------------------------- stages


def test_stages_have_their_share_of_the_budget_and_their_own_weights(shards: Shards) -> None:
    stages = [{"until": 0.75}, {"until": 1.0, "language_temperature": 100.0, "source_weight": {"books": 1e6}}]
    mixture = mix(shards, 1000, stage=stages, source_weight={"web": 2.0})
    assert mixture.quotas_KS.sum(1).tolist() == [750, 250]
    who, _ = mixture.turns(np.arange(1000))
    named = [(mixture.streams[n].language, mixture.streams[n].source) for n in who.tolist()]
    assert (named[:750].count(("de", "web")), named[:750].count(("de", "books"))) == (525, 87)  # 6 to 1
    assert named[750:].count(("de", "web")) == 0
    assert named[750:].count(("mt", "web")) > 70


def test_what_a_stage_leaves_out_is_as_the_section_says(shards: Shards) -> None:
    said = {"language_temperature": 3.0, "source_weight": {"books": 5.0}}
    whole = mix(shards, 1000, **said)
    assert quotas(mix(shards, 1000, **said, stage=[{"until": 1.0}])) == quotas(whole)
    changed = mix(shards, 1000, **said, stage=[{"until": 1.0, "source_weight": {"web": 10.0}}])
    assert quotas(changed) == quotas(mix(shards, 1000, language_temperature=3.0, source_weight={"books": 0.5}))


def test_the_last_stage_has_the_first_claim_on_capped_text(shards: Shards) -> None:
    last = {"until": 1.0, "source_weight": {"books": 1e6}}
    mixture = mix(shards, 800, max_epochs=1, stage=[{"until": 0.75}, last])
    books = next(n for n, s in enumerate(mixture.streams) if s.source == "books")
    assert mixture.quotas_KS[1, books] > 150
    assert mixture.quotas_KS[:, books].sum() <= 250


@settings(max_examples=30, deadline=None)
@given(count=st.integers(0, 900))
def test_what_was_given_before_a_sample_is_counted_across_stages(shards: Shards, count: int) -> None:
    mixture = mix(shards, 900, stage=[{"until": 0.1}, {"until": 0.4, "source_weight": {"web": 0}}, {"until": 1.0}])
    who, turn = mixture.turns(np.arange(count))
    assert mixture.given(count).tolist() == np.bincount(who, minlength=4).tolist()
    for number in range(4):
        assert turn[who == number].tolist() == list(range(int((who == number).sum())))


# --------------------------------------------------------------------------- the table


def test_the_table_adds_up_by_stage_and_licence(tmp_path: Path) -> None:
    folder = write_tokens(tmp_path, {("de", "web"): stream(1000, 1600), ("mt", "web"): stream(5000, 160)}).folder
    facts = json.loads((folder / "shards.json").read_text())
    source = facts["splits"]["train"]["de"]["sources"]["web"]
    source["licences"] = {
        "CC0-1.0": {"documents": 1, "tokens": 400, "bytes": 1000},
        "MIT": {"documents": 2, "tokens": 1200, "bytes": 3800},
    }
    (folder / "shards.json").write_text(json.dumps(facts))
    rows = table(mix(Shards.open(folder), 220, stage=[{"until": 0.25}, {"until": 1.0}]))
    assert len(rows) == 2 * 3
    assert sum(row["share"] for row in rows) == pytest.approx(1, abs=1e-5)
    assert sum(row["share"] for row in rows if row["stage"] == 1) == pytest.approx(0.25, abs=1e-5)
    mit = [row for row in rows if row["licence"] == "MIT"]
    assert [row["epochs"] for row in mit] == [0.5, 1.5]
    assert sum(row["share"] for row in mit) == pytest.approx(1200 / 1760, abs=1e-5)
    assert {(row["documents"], row["bytes"], row["tokens"]) for row in mit} == {(2, 3800, 1200)}
    assert json.loads(json.dumps(rows)) == rows


def test_people_see_languages_sources_and_licences(shards: Shards) -> None:
    shown = lines(table(mix(shards, 9800)))
    assert [line.split()[0] for line in shown] == [
        *("language", "de", "el", "mt"), *("source", "books", "web"), *("licence", "CC0-1.0"),
    ]  # fmt: skip
    german = shown[1].split()
    assert german == ["de", "48,000", "16,000", "8.00", "81.6%"]
    two = lines(table(mix(shards, 9800, stage=[{"until": 0.5}, {"until": 1.0, "source_weight": {"books": 0}}])))
    assert two[0].endswith("share 1  share 2")
    assert two[5].split()[-2:] == ["20.4%", "0.0%"]


# --------------------------------------------------------------------------- the recipe


@pytest.mark.parametrize(
    ("pretrain", "expected"),
    [
        (
            {"source_weight": {"boks": 2}},
            "pretrain: source_weight names 'boks', which is no source. Did you mean books?",
        ),
        (
            {"stage": [{"until": 1, "source_weight": {"web": 2}}]},
            "pretrain: source_weight names 'web', which is no source.",
        ),
        ({"source_weight": {"books": -1}}, "[pretrain source_weight] books: "),
        ({"max_epochs": 0}, "[pretrain] max_epochs: "),
        ({"stage": [{"until": 0.5}]}, "[pretrain] stage: 'until' has to rise from stage to stage and end at 1.0"),
        ({"stage": [{"until": 1}, {"until": 1}]}, "[pretrain] stage: 'until' has to rise"),
        ({"stage": [{"untill": 1}]}, "[pretrain stage #0] unti"),
    ],
)
def test_a_mixture_that_does_not_fit_the_recipe_is_refused(pretrain: dict[str, Any], expected: str) -> None:
    books = {"name": "books", "kind": "jsonl", "path": "books/*.jsonl"}
    with pytest.raises(InputError) as caught:
        parse({"name": "tiny", "source": [books], "pretrain": pretrain}, where="tiny.toml")
    assert str(caught.value).startswith(f"tiny.toml: {expected}")
