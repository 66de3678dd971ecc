"""A second opinion: a linear classifier over hashed character n-grams, trained on good text against damaged text.

Sequences of 3 and 5 characters, spaces and punctuation among them, are hashed to slots with one weight each; a text's
score is the logistic function of their mean. So it sees what counting cannot: words in an order that no sentence has.

Only integers are summed, so that a text has the same score in every batch and on every machine.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from hanse.data.quality.damage import DAMAGES, damaged
from hanse.errors import InputError

SAMPLE_CHARACTERS = 2048  # at the beginning, and as many from the middle: a longer text is judged by these
MIN_CHARACTERS = 200  # a shorter text says too little; see docs/quality.md
SLOT_BITS = 18  # for each length of sequence
LENGTHS = (3, 5)
_FACTORS = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1)  # the primes of xxHash32, one a place
_BATCH_DOCUMENTS = 64
_FORMAT = "hanse-quality-classifier-1"


@dataclass(frozen=True)
class Classifier:
    """Weights of n-gram slots.

    Attributes:
        weights_N: int16, 2 * 2**SLOT_BITS: first the shorter sequences, then the longer ones.
        step: what one unit of a weight is worth.
        bias: score, before the logistic function, of a text without any known sequence.
    """

    weights_N: np.ndarray
    step: float
    bias: float

    def score(self, texts: pa.Array | pa.ChunkedArray | Sequence[str | None]) -> np.ndarray:
        """How much like good text each text is.

        Returns:
            float32, 0 to 1; 0.5 for texts of fewer than 5 characters, which hold nothing to judge.
        """
        given = texts.to_pylist() if isinstance(texts, pa.Array | pa.ChunkedArray) else texts
        scores = [
            self._score(given[first : first + _BATCH_DOCUMENTS * 4])
            for first in range(0, len(given), _BATCH_DOCUMENTS * 4)
        ]
        return np.concatenate([np.zeros(0, np.float32), *scores])

    def _score(self, texts: Sequence[str | None]) -> np.ndarray:
        slots_LP, bounds_D, positions_D = _slots([_sample(text or "") for text in texts])
        sums = np.zeros(slots_LP.shape[1] + 1, np.int64)
        np.cumsum(self.weights_N[slots_LP].sum(axis=0, dtype=np.int32), out=sums[1:])
        sum_D = sums[bounds_D + positions_D] - sums[bounds_D]
        logit_D = self.bias + self.step * sum_D / np.maximum(positions_D, 1)
        score_D = np.where(positions_D > 0, _logistic(logit_D), 0.5)
        return np.round(score_D, 4).astype(np.float32)  # rounded, so that the last bit of an exponential never decides

    def save(self, path: Path) -> None:
        """Write as safetensors; equal weights give equal bytes."""
        from safetensors.numpy import save_file

        numbers = np.array([self.step, self.bias], np.float64)
        save_file({"weights": self.weights_N, "numbers": numbers}, path, metadata={"format": _FORMAT})

    @classmethod
    def load(cls, path: Path) -> Classifier:
        """Read what `save` wrote.

        Raises:
            InputError: the file cannot be read or is no classifier of this format.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                if (file.metadata() or {}).get("format") != _FORMAT:
                    raise InputError(f"{path} is no quality classifier of this version; train one and name its file.")
                weights_N, numbers = file.get_tensor("weights"), file.get_tensor("numbers")
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path} cannot be read as a quality classifier ({error}); train one.") from None
        if weights_N.shape != (len(LENGTHS) << SLOT_BITS,) or weights_N.dtype != np.int16 or numbers.shape != (2,):
            raise InputError(f"{path} is a quality classifier of another size; train one with this version.")
        return cls(weights_N, float(numbers[0]), float(numbers[1]))


def train(texts: Sequence[str], *, seed: int, epochs: int = 4, learning_rate: float = 4.0) -> Classifier:
    """Logistic regression by Adagrad on each text and one damaged copy of it (Duchi and others, JMLR 12, 2011).

    Args:
        texts: good ones, of all languages that will be scored, best a few hundred each; short ones are left out.
        seed: of the damages and the order.
        epochs: times that each pair is seen, damaged in another way each time.
        learning_rate: of Adagrad.

    Raises:
        InputError: fewer than 10 texts of MIN_CHARACTERS.
    """
    good = [_sample(text) for text in texts if len(text) >= MIN_CHARACTERS]
    if len(good) < 10:
        raise InputError(
            f"quality classifier: {len(good)} texts have {MIN_CHARACTERS} characters or more; give at least 10, "
            "better thousands."
        )
    weights = np.zeros(len(LENGTHS) << SLOT_BITS, np.float64)
    squares = np.full(len(weights), 1e-12)
    bias = 0.0
    for epoch in range(epochs):
        pairs = _pairs(good, seed, epoch)
        for first in range(0, len(pairs), _BATCH_DOCUMENTS):
            batch = pairs[first : first + _BATCH_DOCUMENTS]
            slots_LP, bounds_D, positions_D = _slots([text for text, _ in batch])
            labels_D = np.array([label for _, label in batch])
            gradient, slope = _gradient(weights, bias, slots_LP, bounds_D, positions_D, labels_D)
            squares += gradient**2
            weights -= learning_rate * gradient / np.sqrt(squares)
            bias -= 0.1 * slope
    step = float(np.abs(weights).max()) / 32_767 or 1.0
    return Classifier(np.round(weights / step).astype(np.int16), step, bias)


def _pairs(good: Sequence[str], seed: int, epoch: int) -> list[tuple[str, float]]:
    """Good texts and damaged ones in a random order; which damage changes from text to text and from epoch to epoch."""
    kinds = sorted(set(DAMAGES) - {"repeated"})
    pairs = [(text, 1.0) for text in good]
    for number, text in enumerate(good):
        spoiled = damaged(text, kinds[(number + epoch) % len(kinds)], seed=seed + epoch)
        if spoiled == text:  # nothing outside ASCII to read wrongly, for example
            spoiled = damaged(text, "shuffled", seed=seed + epoch)
        pairs.append((_sample(spoiled), 0.0))
    random.Random(f"{seed} {epoch}").shuffle(pairs)
    return pairs


def _gradient(
    weights: np.ndarray,
    bias: float,
    slots_LP: np.ndarray,
    bounds_D: np.ndarray,
    positions_D: np.ndarray,
    labels_D: np.ndarray,
) -> tuple[np.ndarray, float]:
    """Of the mean logistic loss, by the weights and by the bias."""
    sums = np.concatenate([[0.0], np.cumsum(weights[slots_LP].sum(axis=0))])
    size_D = np.maximum(positions_D, 1)
    logit_D = bias + (sums[bounds_D + positions_D] - sums[bounds_D]) / size_D
    error_D = (_logistic(logit_D) - labels_D) / len(labels_D)
    share_P = np.zeros(slots_LP.shape[1])
    for start, size, error in zip(bounds_D, positions_D, error_D / size_D, strict=True):
        share_P[start : start + size] = error
    gradient = np.bincount(slots_LP.ravel(), np.tile(share_P, len(LENGTHS)), minlength=len(weights))
    return gradient, float(error_D.sum())


def _slots(samples: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The slots of all sequences of all texts.

    Returns:
        slots of each length at each position, int64 (LENGTHS, positions); where each text begins among the positions,
        and how many of the positions from there lie wholly inside it, int64 (texts).
    """
    widest = max(LENGTHS)
    codes = np.frombuffer("".join(samples).encode("utf-32-le", "replace"), np.uint32)
    codes = np.where(codes - np.uint32(48) < 10, np.uint32(48), codes)  # one digit stands for all
    sizes_D = np.array([len(sample) for sample in samples], np.int64)
    bounds_D = np.cumsum(sizes_D) - sizes_D
    positions = max(len(codes) - widest + 1, 0)
    slots = []
    for place, length in enumerate(LENGTHS):
        value = np.zeros(positions, np.uint32)
        for offset in range(length):
            value += codes[offset : offset + positions] * np.uint32(_FACTORS[offset])
        value = (value ^ (value >> np.uint32(15))) * np.uint32(_FACTORS[0])
        slots.append((value >> np.uint32(32 - SLOT_BITS)).astype(np.int64) + (place << SLOT_BITS))
    return np.stack(slots), np.minimum(bounds_D, positions), np.maximum(sizes_D - widest + 1, 0)


def _sample(text: str) -> str:
    if len(text) <= 2 * SAMPLE_CHARACTERS:
        return text
    middle = len(text) // 2
    return text[:SAMPLE_CHARACTERS] + text[middle : middle + SAMPLE_CHARACTERS]


def _logistic(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(values, -500, 500)))
