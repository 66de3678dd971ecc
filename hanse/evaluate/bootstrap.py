"""Bootstrap intervals of a ratio of sums: accuracy (correct over asked) and bits per byte (bits over bytes).

The unit that is drawn again is the item that was sampled from the world: a question, or a document (never a token: the
tokens of one document depend on each other, and intervals over tokens would be far too narrow).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
#: Counts held at a time, 4 million int64: 32 MB.
COUNTS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval, over `n` items. At n = 1, or if all items agree, the interval has no width."""

    value: float
    low: float
    high: float
    n: int


def replicates(numerators: Floats, denominators: Floats, *, resamples: int, key: str) -> Floats:
    """The ratio of sums in `resamples` draws of as many items, with replacement.

    Args:
        numerators: one number an item, for example its bits.
        denominators: one number an item, for example its bytes; their sum is above 0 in every draw.
        resamples: how many draws.
        key: names the figure ("0/exact_answer/de/capital"): the same key gives the same draws, whatever came before.

    Returns:
        (resamples,) float64.
    """
    items = len(numerators)
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(hashlib.sha256(key.encode()).digest()[:16])))
    shares = np.full(items, 1.0 / items)
    parts = []
    step = max(1, COUNTS_AT_ONCE // items)
    for start in range(0, resamples, step):
        counts = generator.multinomial(items, shares, size=min(step, resamples - start))
        parts.append((counts @ numerators) / (counts @ denominators))
    return np.concatenate(parts)


def estimate(numerators: Floats, denominators: Floats, drawn: Floats) -> Estimate:
    """The ratio of sums, with the percentile interval of its replicates (Efron and Tibshirani 1993, section 13.3)."""
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Estimate(float(numerators.sum() / denominators.sum()), float(low), float(high), len(numerators))


def mean_of(estimates: list[Estimate], drawn: list[Floats]) -> Estimate:
    """The unweighted mean of several estimates; each was drawn on its own, so the draws are averaged one by one."""
    low, high = np.percentile(np.mean(drawn, axis=0), [2.5, 97.5])
    value = float(np.mean([one.value for one in estimates]))
    return Estimate(value, float(low), float(high), sum(one.n for one in estimates))
