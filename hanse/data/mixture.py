"""The mixture: how many samples of a run come from each stream, that is, from each language and source.

In a stage a language is due a share that grows with its tokens to the power 1 / temperature, and within a language a
stream is due a share by its tokens times the weight of its source. So a source weight moves text within a language and
never takes from another one. Nothing is seen more often than `max_epochs` allows: what a full stream cannot take goes
to the others of its language, and what a full language cannot take goes to the other languages, by the same shares.
Stages are filled from the last to the first, because the last one is where a run puts its best text.

Whose turn it is follows from the number of the sample alone: quotas are halved down a binary tree, and at each fork the
samples are dealt out as evenly as whole numbers allow. docs/mixture.md has the formulas.

# N samples, K stages, S streams, L languages
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from hanse.data.shards import Shards, Stream
from hanse.errors import InputError
from hanse.recipe import Pretrain, Stage

MAX_SAMPLES = 2**32 - 1  # products of two numbers of samples have to fit into 64 bits


@dataclass(frozen=True)
class Mixture:
    """How many samples each stream gives to each stage.

    Attributes:
        streams: ordered by language and source.
        sequence_length: tokens that a sample predicts.
        quotas_KS: samples, int64; the stages one after the other.
    """

    streams: tuple[Stream, ...]
    sequence_length: int
    quotas_KS: np.ndarray

    @classmethod
    def of(cls, shards: Shards, settings: Pretrain) -> Mixture:
        """Weigh the training text for a recipe's [pretrain].

        Raises:
            InputError: no training text, a stage without any stream, a budget that the caps on repeats cannot fill.
        """
        streams = tuple(stream for stream in shards.streams("train") if stream.tokens)
        if not streams:
            raise InputError(f"{shards.folder}: holds no train text.")
        length = settings.sequence_length
        samples = settings.tokens // length
        if samples > MAX_SAMPLES:
            raise InputError(
                f"[pretrain] budget_tokens: {samples:,} samples are more than {MAX_SAMPLES:,}; raise sequence_length."
            )
        if settings.max_epochs is None:
            left_S = np.full(len(streams), samples)
        else:
            left_S = np.floor(_windows(streams, length) * settings.max_epochs).astype(np.int64)
        stages = settings.stage or (Stage(until=1.0),)
        borders = [0, *(round(stage.until * samples) for stage in stages)]
        quotas_KS = np.zeros((len(stages), len(streams)), np.int64)
        for k in reversed(range(len(stages))):
            factors = {**settings.source_weight, **stages[k].source_weight}
            factors_S = np.array([factors.get(stream.source, 1.0) for stream in streams])
            wanted = borders[k + 1] - borders[k]
            _check_supply(wanted, int(left_S[factors_S > 0].sum()), f"stage {k + 1} of {len(stages)}", settings)
            temperature = stages[k].language_temperature or settings.language_temperature
            quotas_KS[k] = _quotas(streams, factors_S, wanted, left_S, temperature=temperature)
            left_S = left_S - quotas_KS[k]
        return cls(streams, length, quotas_KS)

    @cached_property
    def windows_S(self) -> np.ndarray:
        """Samples in one pass over each stream, int64."""
        return _windows(self.streams, self.sequence_length)

    @property
    def samples(self) -> int:
        """Samples of the whole run."""
        return int(self.quotas_KS.sum())

    def turns(self, indices_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For the samples of these numbers: the stream, and how many samples it gave before. Both int64 (N,)."""
        ends_K = np.cumsum(self.quotas_KS.sum(1))
        given_KS = np.cumsum(self.quotas_KS, axis=0) - self.quotas_KS
        stage_N = np.searchsorted(ends_K, indices_N, side="right")
        stream_N, turn_N = np.empty_like(stage_N), np.empty_like(stage_N)
        for k in np.unique(stage_N):
            chosen = stage_N == k
            first = ends_K[k] - self.quotas_KS[k].sum()
            stream_N[chosen], turn_N[chosen] = take_turns(indices_N[chosen] - first, self.quotas_KS[k])
            turn_N[chosen] += given_KS[k][stream_N[chosen]]
        return stream_N, turn_N

    def given(self, samples: int) -> np.ndarray:
        """How many of the first `samples` samples came from each stream, int64 (S,)."""
        given_S = np.zeros(len(self.streams), np.int64)
        for quotas_S in self.quotas_KS:
            part = min(samples, int(quotas_S.sum()))
            given_S += turns_taken(part, quotas_S)
            samples -= part
        return given_S


def take_turns(indices_N: np.ndarray, quotas_S: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whose turn each index in [0, sum of quotas) is, and its how-manieth turn from 0. Both int64 (N,).

    Every stream gets exactly its quota, and at no time is it more than half the depth of the tree ahead or behind.
    """
    node_N, index_N = np.zeros(len(indices_N), np.int64), indices_N.astype(np.uint64)
    for above, below in pairwise(_tree(quotas_S)):
        whole_N, left_N = above[node_N], below[2 * node_N]
        before_N = _rounded_share(index_N, left_N, whole_N)
        is_left_N = _rounded_share(index_N + np.uint64(1), left_N, whole_N) > before_N
        index_N = np.where(is_left_N, before_N, index_N - before_N)
        node_N = 2 * node_N + np.where(is_left_N, 0, 1)
    return node_N, index_N.astype(np.int64)


def turns_taken(count: int, quotas_S: np.ndarray) -> np.ndarray:
    """How many of the first `count` turns were each one's, int64 (S,)."""
    taken = np.array([count], np.uint64)
    for above, below in pairwise(_tree(quotas_S)):
        left = _rounded_share(taken, below[0::2], np.maximum(above, np.uint64(1)))
        taken = np.stack([left, taken - left], axis=1).ravel()
    return taken[: len(quotas_S)].astype(np.int64)


def fill(total: int, weights_S: np.ndarray, capacities_S: np.ndarray) -> np.ndarray:
    """Whole numbers that sum to `total`, in proportion to weights, none above its capacity; int64 (S,).

    What does not fit into a full one goes to the others in proportion. Fractions are settled by largest remainder.

    Raises:
        ValueError: the capacities of those with a weight do not hold the total.
    """
    if int(capacities_S[weights_S > 0].sum()) < total:
        raise ValueError(f"{total} is more than the capacities hold")
    exact_S, is_open_S, left = np.zeros(len(weights_S)), weights_S > 0, float(total)
    while is_open_S.any():
        shares_S = np.where(is_open_S, weights_S, 0.0) / weights_S[is_open_S].sum() * left
        is_full_S = is_open_S & (shares_S >= capacities_S)
        if not is_full_S.any():
            exact_S[is_open_S] = shares_S[is_open_S]
            break
        exact_S[is_full_S] = capacities_S[is_full_S]
        left -= float(capacities_S[is_full_S].sum())
        is_open_S &= ~is_full_S
    counts_S = np.floor(exact_S).astype(np.int64)
    has_room_S = (weights_S > 0) & (counts_S < capacities_S)
    neediest = np.argsort(np.where(has_room_S, counts_S - exact_S, np.inf), kind="stable")
    counts_S[neediest[: total - int(counts_S.sum())]] += 1
    return counts_S


def table(mixture: Mixture) -> list[dict[str, Any]]:
    """One row for each stage, language, source and licence; what mixture.json holds.

    Returns:
        {"stage", "language", "source", "licence", "documents", "bytes", "tokens", "epochs", "share"}: what there is,
        how often the stage goes through it, and its part of the whole budget. Licences within a stream are mixed as
        they lie, so their epochs are the stream's.
    """
    rows = []
    for k, quotas_S in enumerate(mixture.quotas_KS.tolist(), 1):
        for stream, windows, quota in zip(mixture.streams, mixture.windows_S.tolist(), quotas_S, strict=True):
            for licence, counts in sorted(stream.licences.items()):
                share = quota / mixture.samples * counts["tokens"] / stream.tokens
                rows.append(
                    {
                        "stage": k, "language": stream.language, "source": stream.source, "licence": licence,
                        "documents": counts["documents"], "bytes": counts["bytes"], "tokens": counts["tokens"],
                        "epochs": round(quota / windows, 4), "share": round(share, 6),
                    }
                )  # fmt: skip
    return rows


def lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The table for people: by language, by source and by licence, epochs over all stages, shares within each."""
    stages = sorted({row["stage"] for row in rows})
    width = max(len(str(row[key])) for row in rows for key in ("language", "source", "licence"))
    shares = "".join(f"{f'share {k}' if len(stages) > 1 else 'share':>9}" for k in stages)
    found = []
    for key in ("language", "source", "licence"):
        found.append(f"{key:<{width}}{'bytes':>15}{'tokens':>14}{'epochs':>8}{shares}")
        for name in sorted({row[key] for row in rows}):
            found.append(f"{name:<{width}}{_figures([row for row in rows if row[key] == name], rows, stages)}")
    return found


def _figures(rows: Sequence[Mapping[str, Any]], every: Sequence[Mapping[str, Any]], stages: Sequence[int]) -> str:
    """Bytes, tokens, mean epochs and shares of some rows of the table."""
    first = [row for row in rows if row["stage"] == stages[0]]
    size, tokens = (sum(row[key] for row in first) for key in ("bytes", "tokens"))
    epochs = sum(row["epochs"] * row["tokens"] for row in rows) / tokens
    shares = []
    for k in stages:
        whole = sum(row["share"] for row in every if row["stage"] == k)
        part = sum(row["share"] for row in rows if row["stage"] == k)
        shares.append(f"{part / whole if whole else 0.0:>9.1%}")
    return f"{size:>15,}{tokens:>14,}{epochs:>8.2f}{''.join(shares)}"


def _windows(streams: Sequence[Stream], sequence_length: int) -> np.ndarray:
    return -(-np.array([stream.tokens for stream in streams], np.int64) // sequence_length)


def _check_supply(wanted: int, left: int, where: str, settings: Pretrain) -> None:
    """Refuse a stage that asks for more samples than its text may give."""
    if wanted <= left:
        return
    if settings.max_epochs is None:
        raise InputError(f"[pretrain] source_weight: leaves no text at all for {where}.")
    length = settings.sequence_length
    raise InputError(
        f"[pretrain] max_epochs: {settings.max_epochs:g} passes over the text leave {where} "
        f"{(wanted - left) * length:,} tokens short of the {wanted * length:,} it needs; lower budget_tokens, raise "
        "max_epochs or add text."
    )


def _quotas(
    streams: Sequence[Stream], factors_S: np.ndarray, samples: int, capacities_S: np.ndarray, *, temperature: float
) -> np.ndarray:
    """Samples of each stream in one stage: shared out among languages, then within each."""
    tokens_S = np.array([stream.tokens for stream in streams], np.float64)
    _, language_S = np.unique([stream.language for stream in streams], return_inverse=True)
    held_S = factors_S > 0
    weights_L = np.bincount(language_S, weights=tokens_S * held_S) ** (1 / temperature)
    capacities_L = np.bincount(language_S, weights=capacities_S * held_S).astype(np.int64)
    quotas_S = np.zeros(len(streams), np.int64)
    for language, share in enumerate(fill(samples, weights_L, capacities_L).tolist()):
        own = np.flatnonzero(language_S == language)
        quotas_S[own] = fill(share, (tokens_S * factors_S)[own], capacities_S[own])
    return quotas_S


def _tree(quotas_S: np.ndarray) -> list[np.ndarray]:
    """Sums of quotas: of all, of halves, of quarters, ... down to each one; uint64."""
    leaves = np.zeros(1 << (len(quotas_S) - 1).bit_length(), np.uint64)
    leaves[: len(quotas_S)] = quotas_S
    levels = [leaves]
    while len(levels[-1]) > 1:
        levels.append(levels[-1].reshape(-1, 2).sum(1))
    return levels[::-1]


def _rounded_share(count: np.ndarray, part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """count * part / whole, halves rounded up; exact in uint64 while whole is below 2^32."""
    return (count * part + whole // np.uint64(2)) // whole
