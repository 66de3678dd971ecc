"""The loader: sample i of a run, computed from i alone.

The mixture says whose turn sample i is; within a stream a keyed permutation goes through all windows once before any
comes again. So the state of a loader is one integer, the number of samples given out. The order does not depend on
batch size or the number of processes, and how often a document was seen before step N can be computed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hanse.data.mixture import Mixture
from hanse.data.permutation import mix, permute, unpermute
from hanse.data.shards import Shards

if TYPE_CHECKING:
    import torch

# B batch, T positions, N samples, W windows

IGNORED = -100  # a target that does not count


@dataclass(frozen=True)
class Batch:
    """Tokens to read, and what to predict at each.

    Attributes:
        tokens_BT: int64.
        targets_BT: int64, the next token; IGNORED where there is none.
        documents_BT: int64, a number for the document that the position belongs to, unique within the row. A position
            attends only to positions with its number.
    """

    tokens_BT: torch.Tensor
    targets_BT: torch.Tensor
    documents_BT: torch.Tensor


@dataclass(frozen=True)
class Places:
    """Where samples come from: the stream's number, its pass over the stream, and the window within it; int64."""

    stream_N: np.ndarray
    epoch_N: np.ndarray
    window_N: np.ndarray


class Loader:
    """Windows of `sequence_length` + 1 tokens over the training shards.

    Window w predicts tokens wT to wT + T - 1 of its stream and reads the token before each; before the first stands an
    end token. So a pass over a stream predicts every token once. The last window of a stream is filled up with end
    tokens, which are no targets.

    Args:
        shards: what the mixture was made of.
        mixture: how many samples each stream gives.
        seed: of the order.
    """

    def __init__(self, shards: Shards, mixture: Mixture, *, seed: int) -> None:
        self.mixture = mixture
        self.end_of_text = shards.end_of_text
        self._tokens = {stream.language: shards.tokens("train", stream.language) for stream in mixture.streams}
        # By name, so that a language that is added later leaves the order of the others alone.
        names = (f"{seed}/{stream.language}/{stream.source}" for stream in mixture.streams)
        self._keys = [int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) for name in names]

    def places(self, indices_N: np.ndarray) -> Places:
        """Where the samples of these numbers come from; numbers are below `mixture.samples`."""
        stream_N, turn_N = self.mixture.turns(indices_N)
        epoch_N, step_N = np.divmod(turn_N, self.mixture.windows_S[stream_N])
        window_N = np.empty_like(step_N)
        for stream in np.unique(stream_N):
            chosen = stream_N == stream
            keys_N = mix(epoch_N[chosen], key=self._keys[stream])
            window_N[chosen] = permute(step_N[chosen], int(self.mixture.windows_S[stream]), keys_N=keys_N)
        return Places(stream_N, epoch_N, window_N)

    def times_seen(self, stream: int, windows_W: np.ndarray, samples: int) -> np.ndarray:
        """How often windows of a stream are among the first `samples` samples, int64 (W,).

        The document at tokens `offset` to `end` of a stream lies in its windows offset // T to (end - 1) // T.
        """
        size = int(self.mixture.windows_S[stream])
        passes, rest = divmod(int(self.mixture.given(samples)[stream]), size)
        keys_W = np.repeat(mix(np.array([passes]), key=self._keys[stream]), len(windows_W))
        return passes + (unpermute(windows_W, size, keys_N=keys_W) < rest)

    def turns_of(self, stream: int, windows_W: np.ndarray, epoch: int) -> np.ndarray:
        """At which turns of the stream, counted from 0 over all passes, windows come in pass `epoch`; int64 (W,)."""
        size = int(self.mixture.windows_S[stream])
        keys_W = np.repeat(mix(np.array([epoch]), key=self._keys[stream]), len(windows_W))
        return epoch * size + unpermute(windows_W, size, keys_N=keys_W)

    def samples(self, start: int, count: int) -> np.ndarray:
        """Samples start to start + count as token ids, (count, sequence_length + 1), int64.

        Raises:
            IndexError: the run has not that many.
        """
        if not 0 <= start <= start + count <= self.mixture.samples:
            raise IndexError(f"samples {start} to {start + count} of a run of {self.mixture.samples}")
        places = self.places(np.arange(start, start + count, dtype=np.int64))
        length = self.mixture.sequence_length
        samples_NT = np.full((count, length + 1), self.end_of_text, np.int64)
        for row in range(count):
            stream = self.mixture.streams[places.stream_N[row]]
            first = int(places.window_N[row]) * length
            begin = stream.offset + first - 1  # the token before a stream ends another document, or there is none
            end = stream.offset + min(first + length, stream.tokens)
            piece = self._tokens[stream.language][max(0, begin) : end]
            skipped = 1 if begin < 0 else 0
            samples_NT[row, skipped : skipped + len(piece)] = piece
        return samples_NT

    def batch(self, start: int, count: int) -> Batch:
        """Samples start to start + count, ready for a model."""
        import torch

        tokens_BT, targets_BT, documents_BT = split_windows(self.samples(start, count), self.end_of_text)
        return Batch(torch.from_numpy(tokens_BT), torch.from_numpy(targets_BT), torch.from_numpy(documents_BT))


def split_windows(samples_NT: np.ndarray, end_of_text: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, targets and document numbers of windows (N, T + 1), each (N, T) int64.

    An end token is predicted as the last of its document and read as the first of the next one: from there the number
    rises, and what is predicted is how a document begins. Two end tokens in a row are filling.
    """
    tokens_NT = np.ascontiguousarray(samples_NT[:, :-1])
    is_end_NT = samples_NT == end_of_text
    targets_NT = np.where(is_end_NT[:, :-1] & is_end_NT[:, 1:], IGNORED, samples_NT[:, 1:])
    documents_NT = np.cumsum(is_end_NT[:, :-1], axis=1, dtype=np.int64)
    return tokens_NT, targets_NT, documents_NT
