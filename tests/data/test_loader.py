"""The loader: sample i is a function of i, whatever the batch size, the number of processes or the order of asking."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from streams import END, LENGTH, budget, stream, write_tokens

from hanse.data.loader import IGNORED, Loader, split_windows
from hanse.data.mixture import Mixture
from hanse.data.shards import Shards

TEXTS = {
    ("de", "books"): stream(10_000, 5000),
    ("de", "web"): stream(15_000, 333),
    ("el", "web"): stream(20_000, 700),
    ("mt", "web"): stream(30_000, 5),
}
WINDOWS = [313, 21, 44, 1]
STAGES = [{"until": 0.3}, {"until": 1.0, "language_temperature": 1.0, "source_weight": {"books": 3.0}}]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return write_tokens(tmp_path_factory.mktemp("tokens"), TEXTS)


def load(shards: Shards, samples: int, *, seed: int = 5, **changes) -> Loader:
    return Loader(shards, Mixture.of(shards, budget(samples, **changes)), seed=seed)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**63 - 1),
    start=st.integers(0, 4_000_000_000),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=8),
    temperature=st.floats(1, 10),
)
def test_samples_do_not_depend_on_batch_size_or_order(
    shards: Shards, seed: int, start: int, sizes: list[int], temperature: float
) -> None:
    loader = load(shards, start + sum(sizes), seed=seed, language_temperature=temperature, stage=STAGES)
    whole = loader.samples(start, sum(sizes))
    starts = start + np.cumsum([0, *sizes[:-1]])
    again = load(shards, start + sum(sizes), seed=seed, language_temperature=temperature, stage=STAGES)
    parts = [again.samples(int(at), size) for at, size in reversed(list(zip(starts, sizes, strict=True)))]
    assert np.array_equal(whole, np.concatenate(parts[::-1]))


@pytest.mark.parametrize("world", [1, 2, 4])
def test_samples_of_a_step_do_not_depend_on_the_number_of_processes(shards: Shards, world: int) -> None:
    loader = load(shards, 64)
    step = 8
    for start in range(0, 64, step):
        shares = [loader.samples(start + rank * step // world, step // world) for rank in range(world)]
        assert np.array_equal(np.concatenate(shares), loader.samples(start, step))


def test_an_epoch_predicts_every_token_once_the_first_of_a_document_too(tmp_path: Path) -> None:
    tokens = stream(10_000, 5000)
    loader = load(write_tokens(tmp_path, {("de", "web"): tokens}), 3 * 313)
    for epoch in range(3):
        _, targets, _ = split_windows(loader.samples(epoch * 313, 313), END)
        assert np.array_equal(np.sort(targets[targets != IGNORED]), np.sort(tokens))


def test_two_sources_of_a_language_are_predicted_whole_and_never_each_other(shards: Shards) -> None:
    loader = load(shards, 10_000)
    assert loader.mixture.windows_S.tolist() == WINDOWS
    places = loader.places(np.arange(10_000))
    samples = loader.samples(0, 10_000)
    for number, tokens in enumerate(TEXTS.values()):
        first = np.flatnonzero((places.stream_N == number) & (places.epoch_N == 0))
        _, targets, _ = split_windows(samples[first], END)
        assert np.array_equal(np.sort(targets[targets != IGNORED]), np.sort(tokens))


def test_every_token_is_predicted_from_the_one_before_it(shards: Shards) -> None:
    before = {
        token: earlier for tokens in TEXTS.values() for earlier, token in zip([END, *tokens], tokens, strict=False)
    }
    tokens, targets, _ = split_windows(load(shards, 2000).samples(0, 2000), END)
    counted = (targets != IGNORED) & (targets != END)
    assert counted.sum() > 10_000
    assert [before[target] for target in targets[counted].tolist()] == tokens[counted].tolist()


def test_each_stream_finishes_an_epoch_before_the_next_over_all_stages(shards: Shards) -> None:
    loader = load(shards, 3000, language_temperature=2.0, stage=STAGES)
    places = loader.places(np.arange(3000))
    for number, windows in enumerate(WINDOWS):
        own = places.stream_N == number
        epochs, seen = places.epoch_N[own], places.window_N[own]
        assert np.array_equal(epochs, np.arange(len(epochs)) // windows)
        for epoch in range(int(epochs[-1])):
            assert np.array_equal(np.sort(seen[epochs == epoch]), np.arange(windows))


def test_epochs_seeds_and_streams_have_different_orders(tmp_path: Path) -> None:
    tokens = stream(10_000, 5000)
    loader = load(write_tokens(tmp_path / "one", {("de", "web"): tokens}), 626)
    first, second = (loader.places(np.arange(at, at + 313)) for at in (0, 313))
    assert (set(first.epoch_N), set(second.epoch_N)) == ({0}, {1})
    assert not np.array_equal(first.window_N, second.window_N)
    other = load(write_tokens(tmp_path / "seed", {("de", "web"): tokens}), 626, seed=6)
    assert not np.array_equal(first.window_N, other.places(np.arange(313)).window_N)
    named = load(write_tokens(tmp_path / "name", {("de", "books"): tokens}), 626)
    assert not np.array_equal(first.window_N, named.places(np.arange(313)).window_N)


def test_a_language_that_comes_later_leaves_the_order_of_the_others_alone(shards: Shards, tmp_path: Path) -> None:
    alone = load(write_tokens(tmp_path, {("el", "web"): TEXTS["el", "web"]}), 44)
    beside = load(shards, 4000)
    places = beside.places(np.arange(4000))
    assert np.array_equal(places.window_N[places.stream_N == 2][:44], alone.places(np.arange(44)).window_N)


@settings(max_examples=30, deadline=None)
@given(samples=st.integers(0, 3000))
def test_how_often_a_window_was_seen_before_a_sample_can_be_computed(shards: Shards, samples: int) -> None:
    loader = load(shards, 3000, stage=STAGES)
    places = loader.places(np.arange(samples))
    for number, windows in enumerate(WINDOWS):
        counted = np.bincount(places.window_N[places.stream_N == number], minlength=windows)
        assert np.array_equal(loader.times_seen(number, np.arange(windows), samples), counted)


def test_the_windows_of_a_document_are_where_its_tokens_are_predicted(shards: Shards) -> None:
    loader = load(shards, 4000)
    document = TEXTS["de", "web"][70:77]  # whole, with its end token
    samples = loader.samples(0, 4000)
    _, targets, _ = split_windows(samples, END)
    first, last = 70 // LENGTH, 76 // LENGTH
    for at in (0, 1, 500, 4000):
        seen = [int((targets[:at] == token).sum()) for token in document[:-1]]
        windows = loader.times_seen(1, np.arange(first, last + 1), at)
        assert seen == [windows[(70 + n) // LENGTH - first] for n in range(6)]


def test_a_stream_smaller_than_a_window_is_filled_up_without_targets(tmp_path: Path) -> None:
    loader = load(write_tokens(tmp_path, {("mt", "web"): [30, 31, END, 33, END]}), 2)
    batch = loader.batch(0, 2)
    assert batch.tokens_BT.tolist() == [[END, 30, 31, END, 33] + [END] * 11] * 2
    assert batch.targets_BT.tolist() == [[30, 31, END, 33, END] + [IGNORED] * 11] * 2
    assert batch.documents_BT[0].tolist() == [1, 1, 1, 2, 2, *range(3, 14)]
    assert {t.dtype for t in (batch.tokens_BT, batch.targets_BT, batch.documents_BT)} == {torch.int64}


@given(rows=st.lists(st.lists(st.sampled_from([END, 2, 3]), min_size=9, max_size=9), min_size=1, max_size=4))
def test_an_end_token_closes_its_document_as_target_and_opens_the_next_as_input(rows: list[list[int]]) -> None:
    tokens, targets, documents = (part.tolist() for part in split_windows(np.array(rows), END))
    for row, t, y, d in zip(rows, tokens, targets, documents, strict=True):
        assert t == row[:-1]
        for place in range(8):
            assert y[place] == (IGNORED if row[place] == row[place + 1] == END else row[place + 1])
            assert d[place] == row[: place + 1].count(END)


def test_wide_vocabularies_are_read_as_they_were_written(tmp_path: Path) -> None:
    tokens = [*range(70_000, 70_015), END]
    loader = load(write_tokens(tmp_path, {("de", "web"): tokens}, dtype="<u4"), 1)
    assert loader.samples(0, 1).tolist() == [[END, *tokens]]


@pytest.mark.parametrize(("start", "count"), [(0, 65), (64, 1), (-1, 1)])
def test_samples_that_the_run_has_not_are_an_error(shards: Shards, start: int, count: int) -> None:
    with pytest.raises(IndexError):
        load(shards, 64).samples(start, count)
