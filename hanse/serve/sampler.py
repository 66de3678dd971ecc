"""Which token comes next, from the logits of many requests at once.

What forbids a token is done in this order: grammar, penalties, temperature, top_k, top_p, min_p. The three last keep
every token that is as likely as the last one kept: a filter is a floor under the logits, so that what is drawn depends
neither on how a sort breaks a tie nor on the other requests of the batch.

# B requests of a batch, N those of them that need more than the likeliest token, V vocabulary, K first of a sorted row,
# S tokens of all requests that a penalty may touch
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from hanse.errors import InputError
from hanse.serve.request import Logprob, Sampling

if TYPE_CHECKING:
    from hanse.serve.grammar import Matcher

#: top_k and top_p look at this many likeliest tokens before they sort a whole vocabulary.
_HEAD = 256
#: Numbers of a block of rows that are worked on together: on a CPU its float64 copy stays in the cache; a GPU wants few
#: large steps, and 256 MB of its memory.
_BLOCK_CPU, _BLOCK_GPU = 2**18, 2**25


class BrokenModel(InputError):
    """Logits that are no numbers.

    Attributes:
        rows: the rows of the batch that they came in; the others can go on without them.
    """

    def __init__(self, rows: Sequence[int]) -> None:
        super().__init__(
            f"The model is broken: {len(rows)} of its answers went on with logits that are infinite or no numbers; "
            "check its weights and the precision it is computed in."
        )
        self.rows = tuple(rows)


class Sampler:
    """How one request draws, and what it has drawn so far. It survives that its cache is given up and computed again.

    Args:
        sampling: checked settings.
        prompt: token ids, for the repetition penalty.
        vocab_size: of the model's logits.
        grammar: what the answer must keep to.

    Raises:
        ValueError: a prompt token outside the vocabulary.
    """

    def __init__(
        self, sampling: Sampling, prompt: Sequence[int], *, vocab_size: int, grammar: Matcher | None = None
    ) -> None:
        if prompt and not 0 <= min(prompt) <= max(prompt) < vocab_size:
            raise ValueError(f"the prompt has tokens outside the vocabulary of {vocab_size}")
        self.sampling = sampling
        self.grammar = grammar
        self._generator = torch.Generator()
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)
        self.tally: Tally | None = None
        if sampling.repetition_penalty != 1.0:
            self.tally = Tally(prompt)
        elif sampling.presence_penalty or sampling.frequency_penalty:
            self.tally = Tally(())  # these two look at the answer only

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is taken and nothing is drawn."""
        return self.sampling.temperature == 0.0 or self.sampling.top_k == 1

    @property
    def is_plain(self) -> bool:
        """Whether the likeliest token of the model's own logits is taken."""
        return self.is_greedy and self.grammar is None and self.tally is None and not self.sampling.ignore_end

    @property
    def is_finished(self) -> bool:
        """Whether the grammar can take nothing more than an end token."""
        return self.grammar is not None and self.grammar.is_finished

    def accept(self, token: int) -> None:
        """Take note of a token of the answer."""
        if self.tally is not None:
            self.tally.add(token)
        if self.grammar is not None:
            self.grammar.accept(token)

    def draw(self) -> float:
        """The next number of this request's own sequence, in [0, 1)."""
        return float(torch.rand((), generator=self._generator, dtype=torch.float64))


class Tally:
    """Tokens that a penalty may touch, and how often each came in the answer."""

    def __init__(self, prompt: Iterable[int]) -> None:
        self._tokens = array("q", sorted(set(prompt)))
        self._counts = array("q", bytes(8 * len(self._tokens)))
        self._slots = {token: slot for slot, token in enumerate(self._tokens)}

    def add(self, token: int) -> None:
        """One more in the answer."""
        slot = self._slots.setdefault(token, len(self._tokens))
        if slot == len(self._tokens):
            self._tokens.append(token)
            self._counts.append(0)
        self._counts[slot] += 1

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Token ids and their counts, as copies: an array that is looked at from outside could not grow."""
        return np.array(self._tokens, dtype=np.int64), np.array(self._counts, dtype=np.int64)


@torch.no_grad()
def choose(logits_BV: Tensor, samplers: Sequence[Sampler], *, end_ids: frozenset[int]) -> list[int]:
    """The next token of each request. `Sampler.accept` is left to the caller.

    Every token that is drawn takes exactly one number of its request's generator, whatever the other rows are: a seed
    gives the same answer alone and in company. Of equally likely tokens a greedy row takes the lowest id.

    Args:
        logits_BV: float32, on any device; left as they are.
        samplers: one a row.
        end_ids: tokens that end an answer; the only ones that a finished grammar leaves.

    Raises:
        BrokenModel: NaN or infinite logits, before anything was drawn.
        ValueError: another number of samplers than rows.
    """
    if len(samplers) != len(logits_BV):
        raise ValueError(f"{len(samplers)} samplers for {len(logits_BV)} rows of logits")
    if not samplers:
        return []
    _refuse_broken(logits_BV)
    others = [row for row, sampler in enumerate(samplers) if not sampler.is_plain]
    chosen = logits_BV.argmax(-1).tolist() if len(others) < len(samplers) else [0] * len(samplers)
    for rows in _blocks(others, logits_BV):
        mine = [samplers[row] for row in rows]
        logits_NV = logits_BV[rows]
        _forbid(logits_NV, mine, end_ids)
        _penalise(logits_NV, mine)
        for row, token in zip(rows, _take(logits_NV, mine), strict=True):
            chosen[row] = token
    return chosen


@torch.no_grad()
def logprobs(logits_BV: Tensor, tokens: Sequence[int], top: int) -> list[Logprob]:
    """How likely tokens were under the model itself, before temperature and penalties.

    Args:
        logits_BV: float32 logits.
        tokens: one a row.
        top: how many of the likeliest tokens to give beside it, 0 or more; equally likely ones by id.
    """
    if not len(tokens):
        return []
    total_B1 = logits_BV.logsumexp(-1, keepdim=True)
    picked_B1 = torch.tensor(tokens, device=logits_BV.device)[:, None]
    # A single likely token: rounding may leave its logarithm a little above 0.
    values_B = (logits_BV.gather(1, picked_B1) - total_B1).clamp(max=0.0)[:, 0].tolist()
    best = logits_BV.topk(min(top, logits_BV.shape[1]))
    best_values, best_ids = (best.values - total_B1).clamp(max=0.0).tolist(), best.indices.tolist()
    return [
        Logprob(token, value, tuple(sorted(zip(ids, row, strict=True), key=lambda pair: (-pair[1], pair[0]))))
        for token, value, ids, row in zip(tokens, values_B, best_ids, best_values, strict=True)
    ]


def _refuse_broken(logits_BV: Tensor) -> None:
    # A sum of finite float32 logits is finite, and one pass; only what is suspicious is looked at number by number.
    sums_B = logits_BV.sum(-1)
    if not bool(sums_B.isfinite().all()):
        broken_B = ~logits_BV.isfinite().all(-1)
        if bool(broken_B.any()):
            raise BrokenModel(broken_B.nonzero()[:, 0].tolist())


def _blocks(rows: Sequence[int], logits_BV: Tensor) -> Iterator[Sequence[int]]:
    numbers = _BLOCK_GPU if logits_BV.is_cuda else _BLOCK_CPU
    size = max(1, numbers // logits_BV.shape[1])
    return (rows[start : start + size] for start in range(0, len(rows), size))


# --------------------------------------------------------------------------- what may not come, and what should not


def _forbid(logits_NV: Tensor, samplers: Sequence[Sampler], end_ids: frozenset[int]) -> None:
    """Put -inf on what the grammar excludes, and on end tokens where they are to be passed over."""
    ends = sorted(end for end in end_ids if end < logits_NV.shape[1])
    ignoring = [row for row, sampler in enumerate(samplers) if sampler.sampling.ignore_end and not sampler.grammar]
    if ignoring and ends:
        logits_NV[torch.tensor(ignoring)[:, None], torch.tensor(ends)[None]] = -torch.inf
    bound = [row for row, sampler in enumerate(samplers) if sampler.grammar]
    if not bound:
        return
    allowed = np.zeros((len(bound), logits_NV.shape[1]), dtype=bool)
    for place, row in enumerate(bound):
        sampler = samplers[row]
        assert sampler.grammar is not None
        mask = sampler.grammar.mask()
        allowed[place, : len(mask)] = mask[: logits_NV.shape[1]]
        # Without any token left there is nothing to ignore the end for.
        goes_on = sampler.sampling.ignore_end and bool(mask.any())
        allowed[place, ends] = sampler.grammar.can_end and not goes_on
        # A model without end tokens, and a grammar at its end: whatever comes is the last, see `Sampler.is_finished`.
        allowed[place] |= not allowed[place].any()
    forbidden = torch.from_numpy(~allowed).to(logits_NV.device)
    if len(bound) == len(samplers):
        logits_NV.masked_fill_(forbidden, -torch.inf)
    else:
        logits_NV[bound] = logits_NV[bound].masked_fill_(forbidden, -torch.inf)


def _penalise(logits_NV: Tensor, samplers: Sequence[Sampler]) -> None:
    """Lower the logits of what was said before, all rows in one step."""
    parts = []
    for row, sampler in enumerate(samplers):
        if sampler.tally is not None:
            tokens, counts = sampler.tally.arrays()
            sampling = sampler.sampling
            less = sampling.presence_penalty * (counts > 0) + sampling.frequency_penalty * counts
            parts.append((np.full_like(tokens, row), tokens, np.full(len(tokens), sampling.repetition_penalty), less))
    if not parts:
        return
    rows_S, tokens_S, factors_S, less_S = (
        torch.from_numpy(np.concatenate(columns)).to(logits_NV.device) for columns in zip(*parts, strict=True)
    )
    before_S = logits_NV[rows_S, tokens_S].double()
    after_S = torch.where(before_S > 0, before_S / factors_S, before_S * factors_S) - less_S
    logits_NV[rows_S, tokens_S] = after_S.to(logits_NV.dtype)


# --------------------------------------------------------------------------- taking one


def _take(logits_NV: Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """A token for each row of adjusted logits."""
    drawn = [row for row, sampler in enumerate(samplers) if not sampler.is_greedy]
    if not drawn:
        return logits_NV.argmax(-1).tolist()
    if len(drawn) == len(samplers):
        return _draw(logits_NV, samplers)
    tokens = logits_NV.argmax(-1).tolist()
    for row, token in zip(drawn, _draw(logits_NV[drawn], [samplers[row] for row in drawn]), strict=True):
        tokens[row] = token
    return tokens


def _draw(logits_NV: Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """Draw one token a row, in float64: at a tiny temperature the quotients overflow float32."""
    column = _column(logits_NV.device)
    settings = [sampler.sampling for sampler in samplers]
    best_N1 = logits_NV.amax(-1, keepdim=True)
    temperature_N1 = column([setting.temperature for setting in settings])
    weights_NV = logits_NV.double().sub_(best_N1).div_(temperature_N1).exp_()
    filtered = [row for row, setting in enumerate(settings) if setting.top_k or setting.top_p < 1.0]
    if filtered:
        floors_N1 = torch.full_like(best_N1, -torch.inf)
        floors_N1[filtered] = _floors(
            _part(logits_NV, filtered),
            _part(weights_NV, filtered),
            temperature_N1[filtered],
            [settings[row] for row in filtered],
        )
        weights_NV.masked_fill_(logits_NV < floors_N1, 0.0)
    if any(setting.min_p for setting in settings):  # the likeliest token weighs 1
        weights_NV.masked_fill_(weights_NV < column([setting.min_p for setting in settings]), 0.0)
    sums_NV = weights_NV.cumsum(-1)
    total_N1 = sums_NV[:, -1:]
    marks_N1 = column([sampler.draw() for sampler in samplers]) * total_N1
    # A product that rounds up to the total would lie behind the last token.
    marks_N1 = torch.minimum(marks_N1, torch.nextafter(total_N1, torch.zeros_like(total_N1)))
    tokens_N1 = torch.searchsorted(sums_NV, marks_N1, right=True)
    if weights_NV.is_cuda:
        # The parallel sum of a GPU is not quite monotone, so that once in 1e15 draws a token without weight is hit.
        is_possible_N1 = weights_NV.gather(1, tokens_N1) > 0
        tokens_N1 = torch.where(is_possible_N1, tokens_N1, weights_NV.argmax(-1, keepdim=True))
    return tokens_N1[:, 0].tolist()


def _column(device: torch.device):
    """Makes a float64 column (N, 1) on the device of a number for each row."""
    return lambda numbers: torch.tensor(numbers, dtype=torch.float64, device=device)[:, None]


def _floors(logits_NV: Tensor, weights_NV: Tensor, temperature_N1: Tensor, settings: Sequence[Sampling]) -> Tensor:
    """The least logit that top_k and then top_p keep, (N, 1)."""
    size = logits_NV.shape[1]
    head_NK = _largest(logits_NV, min(_HEAD, size))
    counts = [setting.top_k if 0 < setting.top_k < size else size for setting in settings]
    places_N1 = torch.tensor([min(count, head_NK.shape[1]) - 1 for count in counts], device=logits_NV.device)[:, None]
    floors_N1 = head_NK.gather(1, places_N1)
    for row, count in enumerate(counts):
        if count == size:
            floors_N1[row] = -torch.inf
        elif count > head_NK.shape[1]:
            floors_N1[row] = _largest(logits_NV[row : row + 1], count)[0, -1]
    nucleus = [row for row, setting in enumerate(settings) if setting.top_p < 1.0]
    if not nucleus:
        return floors_N1
    kept_NV = _part(weights_NV, nucleus).masked_fill(_part(logits_NV, nucleus) < floors_N1[nucleus], 0.0)
    shares = torch.tensor([settings[row].top_p for row in nucleus], dtype=torch.float64, device=logits_NV.device)
    wanted_N1 = shares[:, None] * kept_NV.sum(-1, keepdim=True)
    best_N1, temperature_N1 = head_NK[nucleus, :1], temperature_N1[nucleus]
    found_N1 = _nucleus_floor(head_NK[nucleus], best_N1, temperature_N1, wanted_N1)
    missing = found_N1[:, 0].isnan().nonzero()[:, 0].tolist()
    if missing and head_NK.shape[1] < size:
        whole_NV = _largest(_part(logits_NV, [nucleus[row] for row in missing]), size)
        found_N1[missing] = _nucleus_floor(whole_NV, best_N1[missing], temperature_N1[missing], wanted_N1[missing])
    # What top_k left does not reach its own sum, by rounding: all of it stays.
    floors_N1[nucleus] = torch.fmax(floors_N1[nucleus], found_N1)
    return floors_N1


def _nucleus_floor(sorted_NK: Tensor, best_N1: Tensor, temperature_N1: Tensor, wanted_N1: Tensor) -> Tensor:
    """The logit in each falling row at which the weights up to there reach what is wanted; NaN where they do not."""
    sums_NK = (sorted_NK.double() - best_N1).div_(temperature_N1).exp_().cumsum(-1)
    places_N1 = torch.searchsorted(sums_NK, wanted_N1)
    is_reached_N1 = places_N1 < sorted_NK.shape[1]
    found_N1 = sorted_NK.gather(1, places_N1.clamp(max=sorted_NK.shape[1] - 1))
    return torch.where(is_reached_N1, found_N1, torch.nan)


def _largest(logits_NV: Tensor, count: int) -> Tensor:
    """The `count` largest numbers of each row, falling.

    Without their places NumPy finds them up to eight times faster on a CPU than torch does with.
    """
    if logits_NV.is_cuda:
        return logits_NV.topk(count).values
    numbers = logits_NV.numpy()
    size = numbers.shape[1]
    if count < size:
        numbers = np.partition(numbers, size - count, axis=-1)[:, size - count :]
    return torch.from_numpy(np.sort(numbers, axis=-1)[:, ::-1].copy())


def _part(rows_NX: Tensor, rows: Sequence[int]) -> Tensor:
    """These rows in rising order; no copy where it is all of them."""
    return rows_NX if len(rows) == len(rows_NX) else rows_NX[rows]
