"""Exact bounds of a share: what "3 of 64" or "none of 64" says about all that was not tested.

Clopper and Pearson (Biometrika 26:404, 1934): the lower bound is the share at which as many or more would be found in
half of the allowed errors only, the upper bound that at which as few or fewer would be. They hold at every share, so
they are on the wide side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Proportion:
    """A share of tested cases.

    Attributes:
        found, tested: cases.
        low, high: the exact interval on two sides at 95 %; 0 to 1 where nothing was tested.
        below: the upper bound alone at 95 %: what to say when none was found. There it is nearly 3 / tested, the "rule
            of three".
    """

    found: int
    tested: int
    low: float
    high: float
    below: float

    @classmethod
    def of(cls, found: int, tested: int) -> Proportion:
        """Bounds for `found` of `tested` cases.

        Raises:
            ValueError: more found than tested, or less than none.
        """
        tail = (1.0 - CONFIDENCE) / 2
        high, below = (upper_bound(found, tested, tail=each) for each in (tail, 2 * tail))
        return cls(found, tested, lower_bound(found, tested, tail=tail), high, below)

    @property
    def share(self) -> float | None:
        """Found over tested; None where nothing was tested."""
        return self.found / self.tested if self.tested else None


def upper_bound(found: int, tested: int, *, tail: float) -> float:
    """The share at which `found` or fewer of `tested` come up with probability `tail`; 1 where all were found.

    Raises:
        ValueError: `found` is not between 0 and `tested`.
    """
    from scipy.special import betaincinv

    if not 0 <= found <= tested:
        raise ValueError(f"{found} found of {tested} tested")
    return 1.0 if found == tested else float(betaincinv(found + 1, tested - found, 1.0 - tail))


def lower_bound(found: int, tested: int, *, tail: float) -> float:
    """The share at which `found` or more of `tested` come up with probability `tail`; 0 where none was found."""
    return 1.0 - upper_bound(tested - found, tested, tail=tail)


def difference(first: Proportion, second: Proportion) -> tuple[float, float, float] | None:
    """First share minus second share with bounds from those of both; None where one of them was not tested.

    The square-and-add method (Newcombe, Statistics in Medicine 17:873, 1998, method 10; Zou and Donner 2008) over exact
    intervals instead of score intervals: about 95 %, rather more.
    """
    if first.share is None or second.share is None:
        return None
    value = first.share - second.share
    down = math.hypot(first.share - first.low, second.high - second.share)
    up = math.hypot(first.high - first.share, second.share - second.low)
    return value, max(-1.0, value - down), min(1.0, value + up)
