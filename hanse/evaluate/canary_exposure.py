"""Exposure: how much likelier a model finds a canary than random texts of the same form.

Carlini et al., "The Secret Sharer" (USENIX Security 2019, arXiv:1802.08232), sections 4.2 and 4.3: the rank of a canary
among all texts R of its form, by the model's bits; exposure = log2 |R| - log2 rank. R is too large to go through, so
the rank is taken among a sample: exposure = log2 (candidates + 1) - log2 rank, which is at most log2 (candidates + 1).
A text that was never placed has 1.44 bits on average, since its rank is any with equal chance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hanse.evaluate.bits_per_byte import Document, bits
from hanse.tune.template import END_OF_TEXT, encode_text

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from hanse.data.canaries import Canary
    from hanse.model.transformer import Transformer

CANDIDATES = 1023


@dataclass(frozen=True)
class Exposure:
    """What was found for a canary.

    Attributes:
        number, repeats: of the canary.
        bits: that the model needs for it; all its tokens but the end.
        rank: 1 if no candidate needs as few bits, and so on.
        value: the exposure in bits.
    """

    number: int
    repeats: int
    bits: float
    rank: int
    value: float


def measure(
    model: Transformer, tokenizer: Tokenizer, canaries: Sequence[Canary], candidates: Sequence[str]
) -> list[Exposure]:
    """The exposure of each canary.

    Args:
        model: in float32, on its device.
        tokenizer: the model's.
        canaries: what was placed.
        candidates: texts of the same form that were not.
    """
    texts = [canary.text for canary in canaries] + list(candidates)
    bits_T = bits(model, [_document(tokenizer, text) for text in texts])
    placed_C, others_N = bits_T[: len(canaries)], np.sort(bits_T[len(canaries) :])
    return [
        Exposure(canary.number, canary.repeats, float(amount), rank, exposure_of(rank, len(others_N)))
        for canary, amount in zip(canaries, placed_C, strict=True)
        for rank in [rank_of(float(amount), others_N)]
    ]


def rank_of(amount: float, others_N: NDArray[np.float64]) -> int:
    """One more than the candidates that need as few bits or fewer; `others_N` are sorted."""
    return 1 + int(np.searchsorted(others_N, amount, side="right"))


def exposure_of(rank: int, candidates: int) -> float:
    """Bits by which a rank among `candidates` + 1 texts tells the canary from the others."""
    return math.log2(candidates + 1) - math.log2(rank)


def _document(tokenizer: Tokenizer, text: str) -> Document:
    opener = tokenizer.token_to_id(END_OF_TEXT)
    ids = [opener, *encode_text(tokenizer, text)]
    return Document("", "", "", np.array(ids, np.int64), len(text.encode()))
