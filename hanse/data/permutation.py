"""Keyed permutations in closed form: the i-th element without the ones before it, and back.

A balanced Feistel network over an even number of bits, narrowed to any size by walking the cycle until the value falls
inside (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002). Not for secrecy: for order.
"""

from __future__ import annotations

import numpy as np

ROUNDS = 6
_GOLDEN = 0x9E3779B97F4A7C15
_MASK = 2**64 - 1


def mix(values_N: np.ndarray, *, key: int) -> np.ndarray:
    """A keyed hash of 64-bit values: the finaliser of splitmix64 (Steele, Lea and Flood, OOPSLA 2014).

    Args:
        values_N: uint64.
        key: any integer.
    """
    values_N = values_N.astype(np.uint64) + np.uint64((key * _GOLDEN + _GOLDEN) & _MASK)
    values_N = (values_N ^ (values_N >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values_N = (values_N ^ (values_N >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    hashed_N: np.ndarray = values_N ^ (values_N >> np.uint64(31))
    return hashed_N


def permute(indices_N: np.ndarray, size: int, *, keys_N: np.ndarray) -> np.ndarray:
    """Where each index goes under its own permutation of range(size).

    Args:
        indices_N: int64 in [0, size).
        size: elements permuted, at least 1.
        keys_N: uint64, one permutation each; equal keys, equal permutation.

    Returns:
        int64 in [0, size).
    """
    return _walk(indices_N, size, keys_N, range(ROUNDS))


def unpermute(places_N: np.ndarray, size: int, *, keys_N: np.ndarray) -> np.ndarray:
    """The inverse of `permute`: which index came to each place."""
    return _walk(places_N, size, keys_N, range(ROUNDS - 1, -1, -1))


def _walk(values_N: np.ndarray, size: int, keys_N: np.ndarray, rounds: range) -> np.ndarray:
    half_bits = max(1, -(-max(size - 1, 1).bit_length() // 2))
    values_N = _network(values_N.astype(np.uint64), keys_N, half_bits, rounds)
    # At most three of four values lie outside, so this ends after a few rounds.
    while (outside := np.flatnonzero(values_N >= np.uint64(size))).size:
        values_N[outside] = _network(values_N[outside], keys_N[outside], half_bits, rounds)
    return values_N.astype(np.int64)


def _network(values_N: np.ndarray, keys_N: np.ndarray, half_bits: int, rounds: range) -> np.ndarray:
    shift, mask = np.uint64(half_bits), np.uint64(2**half_bits - 1)
    left_N, right_N = values_N >> shift, values_N & mask
    is_inverse = rounds.step < 0
    for number in rounds:
        # (left, right) -> (right, left ^ f(right)); backwards with the sides exchanged.
        known_N = left_N if is_inverse else right_N
        new_N = (right_N if is_inverse else left_N) ^ (mix(known_N ^ keys_N, key=number) & mask)
        left_N, right_N = (new_N, known_N) if is_inverse else (known_N, new_N)
    return (left_N << shift) | right_N
