"""The loader: sample i is a function of i, whatever the batch size, the number of processes or the order of asking."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hanse.data.loader import IGNORED, SLOTS, Loader, slot_table, split_windows
from hanse.data.permutation import mix, unpermute
from hanse.errors import InputError

END = 1


def write_tokens(folder: Path, languages: dict[str, list[int]], *, dtype: str = "<u2") -> Path:
    """A shards folder of given token ids."""
    (folder / "train").mkdir(parents=True)
    counts = {}
    for language, tokens in languages.items():
        np.array(tokens, dtype).tofile(folder / "train" / f"{language}.bin")
        counts[language] = {"documents": tokens.count(END), "tokens": len(tokens), "bytes": len(tokens)}
    facts = {"dtype": dtype, "vocab_size": 60_000, "end_of_text": END, "splits": {"train": counts}}
    (folder / "shards.json").write_text(json.dumps(facts))
    return folder


def stream(base: int, count: int, *, every: int = 7) -> list[int]:
    """`count` different tokens from `base`, with an end token now and then and at the end."""
    return [END if n % every == every - 1 else base + n for n in range(count - 1)] + [END]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    languages = {"de": stream(10_000, 5000), "el": stream(20_000, 700), "mt": stream(30_000, 5)}
    return write_tokens(tmp_path_factory.mktemp("tokens"), languages)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**63 - 1),
    start=st.integers(0, 10**12),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=8),
    temperature=st.floats(1, 10),
)
def test_samples_do_not_depend_on_batch_size_or_order(
    folder: Path, seed: int, start: int, sizes: list[int], temperature: float
) -> None:
    loader = Loader(folder, sequence_length=16, seed=seed, temperature=temperature)
    whole = loader.samples(start, sum(sizes))
    pieces = []
    at = start
    for size in sizes:
        pieces.append((at, size))
        at += size
    again = Loader(folder, sequence_length=16, seed=seed, temperature=temperature)
    parts = {at: again.samples(at, size) for at, size in reversed(pieces)}
    assert np.array_equal(whole, np.concatenate([parts[at] for at, _ in pieces]))


@pytest.mark.parametrize("world", [1, 2, 4])
def test_samples_of_a_step_do_not_depend_on_the_number_of_processes(folder: Path, world: int) -> None:
    loader = Loader(folder, sequence_length=16, seed=1)
    step = 8
    for start in range(0, 64, step):
        shares = [loader.samples(start + rank * step // world, step // world) for rank in range(world)]
        assert np.array_equal(np.concatenate(shares), loader.samples(start, step))


def test_an_epoch_predicts_every_token_of_a_language_once(folder: Path) -> None:
    tokens = stream(10_000, 5000)
    loader = Loader(folder, sequence_length=16, seed=5, languages=["de"])
    windows = int(loader.windows_L[0])
    for epoch in range(3):
        _, targets, _ = split_windows(loader.samples(epoch * windows, windows), END)
        counted = np.sort(targets[targets != IGNORED])
        expected = [token for before, token in pairwise(tokens) if before != END]
        assert counted.tolist() == sorted(expected)


def test_in_a_mixture_each_language_finishes_an_epoch_before_the_next(folder: Path) -> None:
    loader = Loader(folder, sequence_length=16, seed=5, temperature=2.0)
    places = loader.places(np.arange(3 * SLOTS))
    for language, windows in enumerate(loader.windows_L.tolist()):
        own = places.language_N == language
        epochs, seen = places.epoch_N[own], places.window_N[own]
        assert np.array_equal(epochs, np.arange(len(epochs)) // windows)
        for epoch in range(int(epochs[-1])):
            assert np.array_equal(np.sort(seen[epochs == epoch]), np.arange(windows))


def test_epochs_and_seeds_have_different_orders(folder: Path) -> None:
    loader = Loader(folder, sequence_length=16, seed=5, languages=["de"])
    windows = int(loader.windows_L[0])
    first, second = (loader.places(np.arange(e * windows, (e + 1) * windows)) for e in (0, 1))
    assert set(first.epoch_N) == {0}
    assert set(second.epoch_N) == {1}
    assert not np.array_equal(first.window_N, second.window_N)
    other = Loader(folder, sequence_length=16, seed=6, languages=["de"])
    assert not np.array_equal(first.window_N, other.places(np.arange(windows)).window_N)


def test_the_step_at_which_a_window_is_seen_can_be_computed(folder: Path) -> None:
    loader = Loader(folder, sequence_length=16, seed=5, languages=["de"])
    places = loader.places(np.arange(1000))
    key = int(mix(np.array([0], np.uint64), key=5)[0])
    keys = mix(places.epoch_N.astype(np.uint64), key=key)
    steps = unpermute(places.window_N, int(loader.windows_L[0]), keys_N=keys)
    assert np.array_equal(places.epoch_N * loader.windows_L[0] + steps, np.arange(1000))


def test_a_language_smaller_than_a_window_is_filled_up_without_targets(folder: Path) -> None:
    loader = Loader(folder, sequence_length=16, seed=0, languages=["mt"])
    batch = loader.batch(0, 2)
    assert batch.tokens_BT.tolist() == [[30_000, 30_001, 30_002, 30_003, END] + [END] * 11] * 2
    assert batch.targets_BT.tolist() == [[30_001, 30_002, 30_003, END] + [IGNORED] * 12] * 2
    assert batch.documents_BT[0].tolist() == [0, 0, 0, 0, 0, *range(1, 12)]
    assert {t.dtype for t in (batch.tokens_BT, batch.targets_BT, batch.documents_BT)} == {torch.int64}


@given(rows=st.lists(st.lists(st.sampled_from([END, 2, 3]), min_size=9, max_size=9), min_size=1, max_size=4))
def test_targets_and_attention_stop_at_the_end_of_a_document(rows: list[list[int]]) -> None:
    samples = np.array(rows)
    tokens, targets, documents = split_windows(samples, END)
    for row, (t, y, d) in zip(
        rows, zip(tokens.tolist(), targets.tolist(), documents.tolist(), strict=True), strict=True
    ):
        assert t == row[:-1]
        for place in range(8):
            assert y[place] == (IGNORED if row[place] == END else row[place + 1])
            assert d[place] == row[:place].count(END)


def test_weights_follow_the_temperature_and_no_language_is_left_out(folder: Path) -> None:
    plain = Loader(folder, sequence_length=16, seed=0).weights()
    assert plain["de"] == pytest.approx(5000 / 5705, abs=1 / SLOTS)
    assert plain["mt"] == pytest.approx(5 / 5705, abs=1 / SLOTS)
    warm = Loader(folder, sequence_length=16, seed=0, temperature=2.0).weights()
    assert warm["mt"] / warm["de"] == pytest.approx((5 / 5000) ** 0.5, rel=0.05)


def test_languages_appear_in_proportion_within_every_cycle(folder: Path) -> None:
    loader = Loader(folder, sequence_length=16, seed=0, temperature=2.0)
    for start in (0, 10 * SLOTS):
        language_N = loader.places(np.arange(start, start + SLOTS)).language_N
        shares = np.bincount(language_N) / SLOTS
        assert dict(zip(loader.languages, shares.tolist(), strict=True)) == loader.weights()


@given(st.lists(st.floats(1e-6, 1e9), min_size=1, max_size=200), st.integers(0, 2**64 - 1))
def test_the_slot_table_is_full_and_fair(weights: list[float], seed: int) -> None:
    weights_L = np.array(weights)
    counts = np.bincount(slot_table(weights_L, seed=seed), minlength=len(weights))
    assert counts.sum() == SLOTS
    assert counts.min() >= 1
    exact = weights_L / weights_L.sum() * SLOTS
    if (exact >= 1).all():
        assert np.abs(counts - exact).max() < 1 + 1e-6


def test_wide_vocabularies_are_read_as_they_were_written(tmp_path: Path) -> None:
    tokens = [70_000, 80_000, END]
    loader = Loader(write_tokens(tmp_path, {"de": tokens}, dtype="<u4"), sequence_length=2, seed=0)
    assert loader.samples(0, 1).tolist() == [tokens]


@pytest.mark.parametrize("asked", [{"split": "validation"}, {"languages": ["fr"]}, {"languages": []}])
def test_what_the_shards_do_not_hold_is_an_error(folder: Path, asked: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="holds no"):
        Loader(folder, sequence_length=16, seed=0, **asked)
