"""The loader: sample i of a run, computed from i alone.

Languages take turns by a fixed table of slots; within a language a keyed permutation goes through all windows once an
epoch. So the state of a loader is one integer, the number of samples given out. The order does not depend on batch size
or the number of processes, and whether a document was seen before step N can be computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hanse.data.permutation import mix, permute
from hanse.data.shards import Shards
from hanse.errors import InputError

if TYPE_CHECKING:
    import torch

# B batch, T positions, N samples, S slots, L languages

IGNORED = -100  # a target that does not count
SLOTS = 4096  # a language's weight is rounded to 1/SLOTS


@dataclass(frozen=True)
class Batch:
    """Tokens to read, and what to predict at each.

    Attributes:
        tokens_BT: int64.
        targets_BT: int64, the next token; IGNORED at the end of a document.
        documents_BT: int64, a number for the document that the position belongs to, unique within the row. A position
            attends only to positions with its number.
    """

    tokens_BT: torch.Tensor
    targets_BT: torch.Tensor
    documents_BT: torch.Tensor


@dataclass(frozen=True)
class Places:
    """Where samples come from: the language's number, its pass over the data, and the window within the language."""

    language_N: np.ndarray
    epoch_N: np.ndarray
    window_N: np.ndarray


class Loader:
    """Windows of `sequence_length` + 1 tokens over the shards of one split.

    A window starts where the last one's targets end, so an epoch predicts every token once; the last window of a
    language is filled up with end tokens, which are never targets.

    Args:
        folder: a shards artifact.
        split: "train" or "validation".
        sequence_length: positions in a sample.
        seed: of the order.
        temperature: a language's weight is its tokens to the power 1/temperature; above 1 lifts the small.
        languages: which to take; all by default.

    Raises:
        InputError: the shards cannot be used, or hold nothing in one of the languages.
    """

    def __init__(
        self,
        folder: Path,
        split: str = "train",
        *,
        sequence_length: int,
        seed: int,
        temperature: float = 1.0,
        languages: Sequence[str] | None = None,
    ) -> None:
        shards = Shards.open(folder)
        held = shards.splits.get(split, {})
        self.languages = tuple(sorted(held if languages is None else languages))
        missing = [language for language in self.languages if not held.get(language, {}).get("tokens")]
        if missing or not self.languages:
            raise InputError(f"{folder}: holds no {split} text{f' in {missing[0]!r}' if missing else ''}.")
        self.sequence_length = sequence_length
        self.seed = seed
        self.end_of_text = shards.end_of_text
        self._tokens = [shards.tokens(split, language) for language in self.languages]
        sizes_L = np.array([len(tokens) for tokens in self._tokens], np.int64)
        self.windows_L = np.maximum(1, -(-(sizes_L - 1) // sequence_length))
        self.slots_S = slot_table(sizes_L.astype(np.float64) ** (1 / temperature), seed=seed)
        self._slots_L = np.bincount(self.slots_S, minlength=len(self.languages))
        self._rank_S = _ranks(self.slots_S, len(self.languages))

    def weights(self) -> dict[str, float]:
        """The share of the samples that each language gets."""
        return {language: n / SLOTS for language, n in zip(self.languages, self._slots_L.tolist(), strict=True)}

    def epochs(self, samples: int) -> dict[str, float]:
        """How often each language's text is seen in that many samples."""
        passes_L = samples * self._slots_L / SLOTS / self.windows_L
        return dict(zip(self.languages, passes_L.tolist(), strict=True))

    def places(self, indices_N: np.ndarray) -> Places:
        """Where the samples of these numbers come from."""
        cycle_N, slot_N = np.divmod(indices_N.astype(np.int64), SLOTS)
        language_N = self.slots_S[slot_N]
        counter_N = cycle_N * self._slots_L[language_N] + self._rank_S[slot_N]
        epoch_N, step_N = np.divmod(counter_N, self.windows_L[language_N])
        window_N = np.empty_like(step_N)
        for language in np.unique(language_N):
            chosen = language_N == language
            key = int(mix(np.array([language], np.uint64), key=self.seed)[0])
            keys_N = mix(epoch_N[chosen].astype(np.uint64), key=key)
            window_N[chosen] = permute(step_N[chosen], int(self.windows_L[language]), keys_N=keys_N)
        return Places(language_N, epoch_N, window_N)

    def samples(self, start: int, count: int) -> np.ndarray:
        """Samples start to start + count as token ids, (count, sequence_length + 1), int64."""
        places = self.places(np.arange(start, start + count, dtype=np.int64))
        samples_NT = np.full((count, self.sequence_length + 1), self.end_of_text, np.int64)
        for row in range(count):
            tokens = self._tokens[places.language_N[row]]
            begin = int(places.window_N[row]) * self.sequence_length
            piece = tokens[begin : begin + self.sequence_length + 1]
            samples_NT[row, : len(piece)] = piece
        return samples_NT

    def batch(self, start: int, count: int) -> Batch:
        """Samples start to start + count, ready for a model."""
        import torch

        tokens_BT, targets_BT, documents_BT = split_windows(self.samples(start, count), self.end_of_text)
        return Batch(torch.from_numpy(tokens_BT), torch.from_numpy(targets_BT), torch.from_numpy(documents_BT))


def split_windows(samples_NT: np.ndarray, end_of_text: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, targets and document numbers of windows (N, T + 1), each (N, T) int64.

    What follows an end token belongs to another document: it has another number, and predicting it does not count.
    """
    tokens_NT = np.ascontiguousarray(samples_NT[:, :-1])
    is_end_NT = tokens_NT == end_of_text
    targets_NT = np.where(is_end_NT, IGNORED, samples_NT[:, 1:])
    documents_NT = np.cumsum(is_end_NT, axis=1, dtype=np.int64) - is_end_NT
    return tokens_NT, targets_NT, documents_NT


def slot_table(weights_L: np.ndarray, *, seed: int) -> np.ndarray:
    """SLOTS turns among languages by weight: largest remainder, at least one each, in keyed order; int64 (S,).

    Raises:
        InputError: more languages than slots.
    """
    if len(weights_L) > SLOTS:
        raise InputError(f"languages: {len(weights_L)} are more than the loader's {SLOTS} slots.")
    exact_L = weights_L / weights_L.sum() * SLOTS
    count_L = np.maximum(1, np.floor(exact_L)).astype(np.int64)
    short = SLOTS - int(count_L.sum())
    if short > 0:
        count_L[np.argsort(count_L - exact_L, kind="stable")[:short]] += 1
    while short < 0:  # the slots that the smallest were given come from the largest
        count_L[np.argmax(count_L)] -= 1
        short += 1
    turns_S = np.repeat(np.arange(len(weights_L), dtype=np.int64), count_L)
    return turns_S[np.argsort(mix(np.arange(SLOTS, dtype=np.uint64), key=seed), kind="stable")]


def _ranks(slots_S: np.ndarray, languages: int) -> np.ndarray:
    """For each slot, how many earlier slots of the cycle belong to the same language."""
    ranks_S = np.empty(len(slots_S), np.int64)
    for language in range(languages):
        own = np.flatnonzero(slots_S == language)
        ranks_S[own] = np.arange(len(own))
    return ranks_S
