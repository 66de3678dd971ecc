"""How often training showed a text to its model: computed from the order, not by going through the run.

A stream is cut into windows of T tokens. A document that holds its tokens a to b - 1 stands in windows a // T to
(b - 1) // T. If window w moved the weights n(w) times,

    trained tokens = sum over w of n(w) * |[a, b) & [wT, wT + T)|        times seen = trained tokens / (b - a)

n(w) comes from `Loader.times_seen`: the whole passes over the stream, and one more if the window's place in the pass
under way is behind. A run that went back to a checkpoint, or dropped steps, read several stretches of samples; then
n(w) is summed over those that are in the final weights.

# D documents, W windows, S streams
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from hanse.train.ramp import Ramp

if TYPE_CHECKING:
    from hanse.data.loader import Loader
    from hanse.data.mixture import Mixture


@dataclass(frozen=True)
class Span:
    """Optimizer steps in a row whose samples follow one another.

    Attributes:
        first_step: counted from 0.
        data_step: whose samples the first step read; the same number unless the run went back.
        steps: how many.
        tokens_before: that the steps before read, of those that are in the final weights.
    """

    first_step: int
    data_step: int
    steps: int
    tokens_before: int


@dataclass(frozen=True)
class Sight:
    """A moment of a run.

    Attributes:
        step: the optimizer step, from 1, as in `metrics.jsonl`; checkpoint `step-N` holds it if N >= step.
        token: how many tokens the run had read before the sample.
    """

    step: int
    token: int


@dataclass(frozen=True)
class Course:
    """Which samples are in the weights of a run, in the order of its steps.

    Attributes:
        ramp: which rows belong to which step.
        sequence_length: tokens a row.
    """

    ramp: Ramp
    sequence_length: int
    spans: tuple[Span, ...]

    @classmethod
    def of(
        cls,
        ramp: Ramp,
        sequence_length: int,
        *,
        rollbacks: Sequence[Mapping[str, Any]] = (),
        dropped: Collection[int] = (),
    ) -> Course:
        """The course of a run.

        Args:
            ramp: of the recipe.
            sequence_length: tokens a row.
            rollbacks: as the model's record notes them (`hanse.train.tally.roll_back`).
            dropped: steps from 0 whose gradient moved nothing.

        Raises:
            ValueError: rollbacks that contradict themselves or the run.
        """
        spans: list[Span] = []
        read = 0
        for first, end, offset in _stretches(ramp.steps, rollbacks):
            # After a rollback the run's own data end early, and its beginning comes once more.
            wraps = range(ramp.steps - offset % ramp.steps, end, ramp.steps)
            inside = {step for step in dropped if first <= step < end}
            borders = {first, end, *inside, *(step + 1 for step in inside), *(step for step in wraps if step > first)}
            for start, stop in pairwise(sorted(borders)):
                span = Span(start, (start + offset) % ramp.steps, stop - start, read)
                begin, after = _rows(ramp, span)
                read += (after - begin) * sequence_length
                if start not in inside:
                    spans.append(span)
        return cls(ramp, sequence_length, tuple(spans))

    def until(self, step: int) -> Course:
        """What is in checkpoint `step-N`."""
        before = [span for span in self.spans if span.first_step < step]
        cut = tuple(replace(span, steps=min(span.steps, step - span.first_step)) for span in before)
        return replace(self, spans=cut)

    def samples(self, span: Span) -> tuple[int, int]:
        """The first sample of a span and the one after its last."""
        return _rows(self.ramp, span)

    def steps(self) -> Iterator[tuple[Span, int, int]]:
        """Each step that moved the weights: its span, its number from 0, and whose samples it read."""
        for span in self.spans:
            for number in range(span.steps):
                yield span, span.first_step + number, span.data_step + number

    @property
    def tokens(self) -> int:
        """Tokens that moved the weights, each time they did."""
        return sum(end - begin for begin, end in map(self.samples, self.spans)) * self.sequence_length

    def sight(self, span: Span, sample: int) -> Sight:
        """When a sample of a span was read."""
        first_step, first_row, rows = self.ramp.stretches[
            bisect_right([row for _, row, _ in self.ramp.stretches], sample) - 1
        ]
        data_step = first_step + (sample - first_row) // rows
        begin, _ = self.samples(span)
        token = span.tokens_before + (sample - begin) * self.sequence_length
        return Sight(span.first_step + data_step - span.data_step + 1, token)


@dataclass(frozen=True)
class Extents:
    """Documents of one stream: their first token and the one after their last, from the stream's beginning; int64."""

    stream: int
    begin_D: np.ndarray
    end_D: np.ndarray


@dataclass(frozen=True)
class Exposure:
    """How often texts were seen.

    Attributes:
        texts: how many; `unseen` of them never moved the weights, not even in part.
        tokens: that they hold.
        trained_tokens: those that moved the weights, each time they did.
        least, most: times that any window with a part of them was seen.
        first, last: when; None where they never were.
        share: `trained_tokens` of all that moved the weights.
    """

    texts: int
    unseen: int
    tokens: int
    trained_tokens: int
    least: int
    most: int
    first: Sight | None
    last: Sight | None
    share: float

    @property
    def times(self) -> float:
        """Mean number of times that a token was seen: passes over the texts, parts of a pass counted."""
        return self.trained_tokens / self.tokens if self.tokens else 0.0


def exposure(loader: Loader, course: Course, extents: Sequence[Extents]) -> Exposure:
    """How often a run saw documents.

    Args:
        loader: of the run: its shards, mixture and seed.
        course: which of its samples are in the weights.
        extents: the documents, those of one stream together.
    """
    length = loader.mixture.sequence_length
    texts = unseen = tokens = trained = 0
    times_seen: list[np.ndarray] = []
    sights: list[tuple[Sight, Sight]] = []
    for extent in (each for each in extents if len(each.begin_D)):
        first_D = extent.begin_D // length
        sizes_D = (extent.end_D - 1) // length - first_D + 1
        starts_D = np.cumsum(sizes_D) - sizes_D
        windows_W = np.repeat(first_D - starts_D, sizes_D) + np.arange(int(sizes_D.sum()))
        distinct, place_W = np.unique(windows_W, return_inverse=True)
        times_W = window_times(loader, course, extent.stream, distinct)[place_W]
        held_W = np.minimum(np.repeat(extent.end_D, sizes_D), (windows_W + 1) * length)
        held_W = held_W - np.maximum(np.repeat(extent.begin_D, sizes_D), windows_W * length)
        trained_D = np.add.reduceat(times_W * held_W, starts_D)
        texts += len(first_D)
        unseen += int((trained_D == 0).sum())
        tokens += int((extent.end_D - extent.begin_D).sum())
        trained += int(trained_D.sum())
        times_seen.append(times_W)
        seen = _first_and_last(loader, course, extent.stream, distinct)
        sights += [seen] if seen else []
    every_W = np.concatenate(times_seen) if times_seen else np.zeros(1, np.int64)
    return Exposure(
        texts=texts,
        unseen=unseen,
        tokens=tokens,
        trained_tokens=trained,
        least=int(every_W.min()),
        most=int(every_W.max()),
        first=min((first for first, _ in sights), key=_when, default=None),
        last=max((last for _, last in sights), key=_when, default=None),
        share=trained / course.tokens if course.tokens else 0.0,
    )


def window_times(loader: Loader, course: Course, stream: int, windows_W: np.ndarray) -> np.ndarray:
    """How often windows of a stream moved the weights, int64 (W,)."""
    times_W = np.zeros(len(windows_W), np.int64)
    for begin, end in map(course.samples, course.spans):
        times_W += loader.times_seen(stream, windows_W, end) - loader.times_seen(stream, windows_W, begin)
    return times_W


def exposure_in_rows(shown_at: Callable[[int], Sequence[int]], course: Course, tokens: Mapping[int, int]) -> Exposure:
    """How often tuning saw conversations: its rows are planned as a whole, so they are gone through.

    Args:
        shown_at: the places of the conversations in a step (`PackedConversations.shown_at`).
        course: which steps are in the weights.
        tokens: place -> tokens of each conversation that is asked about.
    """
    times = dict.fromkeys(tokens, 0)
    sights: list[Sight] = []
    for span, step, data_step in course.steps():
        here = [place for place in shown_at(data_step) if place in times]
        for place in here:
            times[place] += 1
        if here:
            row = course.ramp.at(data_step).start - course.samples(span)[0]
            sights.append(Sight(step + 1, span.tokens_before + row * course.sequence_length))
    trained = sum(times[place] * size for place, size in tokens.items())
    return Exposure(
        texts=len(tokens),
        unseen=sum(count == 0 for count in times.values()),
        tokens=sum(tokens.values()),
        trained_tokens=trained,
        least=min(times.values(), default=0),
        most=max(times.values(), default=0),
        first=min(sights, key=_when, default=None),
        last=max(sights, key=_when, default=None),
        share=trained / course.tokens if course.tokens else 0.0,
    )


def sample_of_turn(mixture: Mixture, stream: int, turn: int) -> int:
    """The sample that is a stream's turn of this number, from 0: `Mixture.turns` the other way round."""
    return (
        bisect_left(range(mixture.samples + 1), turn + 1, key=lambda samples: int(mixture.given(samples)[stream])) - 1
    )


def _when(sight: Sight) -> tuple[int, int]:
    return sight.step, sight.token


def _stretches(steps: int, rollbacks: Sequence[Mapping[str, Any]]) -> list[tuple[int, int, int]]:
    """First step, the one after the last, and by how many the data are ahead, of each stretch between rollbacks."""
    stretches = [(0, steps, 0)]
    offset = 0
    for number, entry in enumerate(rollbacks, 1):
        try:
            back, at = int(str(entry["to_step"]).removeprefix("step-")), int(entry["at_step"])
            begin, end = (int(each) for each in entry["skipped_data_steps"])
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"rollback {number} of {len(rollbacks)} cannot be read") from None
        if not 0 <= back < at <= steps or (begin, end) != (back + offset, back + offset + at - back):
            raise ValueError(f"rollback {number} of {len(rollbacks)} contradicts itself or those before it")
        offset += at - back
        stretches = [(first, min(last, back), ahead) for first, last, ahead in stretches if first < back]
        stretches.append((back, steps, offset))
    return stretches


def _rows(ramp: Ramp, span: Span) -> tuple[int, int]:
    return ramp.at(span.data_step).start, ramp.at(span.data_step + span.steps - 1).stop


def _first_and_last(loader: Loader, course: Course, stream: int, windows_W: np.ndarray) -> tuple[Sight, Sight] | None:
    """When the first and the last of the windows were seen; None where none was."""
    found: list[tuple[Span, int]] = []
    for spans, is_last in ((course.spans, False), (course.spans[::-1], True)):
        for span in spans:
            begin, end = (int(loader.mixture.given(sample)[stream]) for sample in course.samples(span))
            turn = _turn(loader, stream, windows_W, begin, end, is_last=is_last)
            if turn is not None:
                found.append((span, sample_of_turn(loader.mixture, stream, turn)))
                break
    if not found:
        return None
    first, last = (course.sight(span, sample) for span, sample in found)
    return first, last


def _turn(loader: Loader, stream: int, windows_W: np.ndarray, begin: int, end: int, *, is_last: bool) -> int | None:
    """The first, or last, of a stream's turns `begin` to `end` at which one of the windows comes."""
    size = int(loader.mixture.windows_S[stream])
    epochs = range(begin // size, -(-end // size))
    # A whole pass holds every window, so three passes at most are looked at.
    for epoch in reversed(epochs) if is_last else epochs:
        turns = loader.turns_of(stream, windows_W, epoch)
        turns = turns[(turns >= begin) & (turns < end)]
        if turns.size:
            return int(turns.max() if is_last else turns.min())
    return None
