"""Keyed permutations: a bijection for every size and key, and its inverse."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hanse.data.permutation import mix, permute, unpermute

keys = st.integers(0, 2**64 - 1)


@given(size=st.integers(1, 3000), key=keys)
def test_every_element_is_met_exactly_once(size: int, key: int) -> None:
    places = permute(np.arange(size), size, keys_N=np.full(size, key, np.uint64))
    assert np.array_equal(np.sort(places), np.arange(size))


@given(size=st.integers(1, 2**40), key=keys, data=st.data())
def test_the_inverse_leads_back(size: int, key: int, data: st.DataObject) -> None:
    indices = np.array(data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=20)))
    keys_N = np.full(len(indices), key, np.uint64)
    places = permute(indices, size, keys_N=keys_N)
    assert ((places >= 0) & (places < size)).all()
    assert np.array_equal(unpermute(places, size, keys_N=keys_N), indices)


def test_elements_with_different_keys_do_not_disturb_each_other() -> None:
    size, count = 1000, 500
    indices = np.arange(count)
    keys_N = np.arange(count, dtype=np.uint64) % 3
    together = permute(indices, size, keys_N=keys_N)
    alone = np.array([permute(indices[i : i + 1], size, keys_N=keys_N[i : i + 1])[0] for i in range(count)])
    assert np.array_equal(together, alone)


def test_places_are_spread_evenly_and_neighbours_are_torn_apart() -> None:
    size = 4096
    places = permute(np.arange(size), size, keys_N=np.full(size, 5, np.uint64))
    # The first quarter of the walk falls into 16 equal bins: 64 each, standard deviation below 8.
    bins = np.bincount(places[: size // 4] // 256, minlength=16)
    assert abs(bins - 64).max() < 40
    assert np.mean(np.abs(np.diff(places)) == 1) < 0.01


def test_mix_is_the_finaliser_of_splitmix64() -> None:
    # First output of splitmix64 seeded with 0, as published with the algorithm.
    assert int(mix(np.array([0], np.uint64), key=0)[0]) == 0xE220A8397B1DCDAF
