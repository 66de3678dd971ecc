"""Exposure: what is computed from the order is what a replay of the run counts."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))  # shards of made-up tokens
from streams import END, LENGTH, stream, write_tokens

from hanse.data.loader import Loader, split_windows
from hanse.data.mixture import Mixture
from hanse.data.shards import Shards
from hanse.recipe import Pretrain
from hanse.trace.exposure import Course, Extents, exposure, exposure_in_rows, sample_of_turn
from hanse.train.ramp import Ramp
from hanse.train.tally import Tally, roll_back
from hanse.tune.sft import PackedConversations, Packing
from hanse.tune.template import Rendered

ROWS = 4  # of a step
EVERY = 7  # tokens of a document
TEXTS = {
    ("de", "books"): stream(10_000, 3000, every=EVERY),
    ("de", "web"): stream(20_000, 333, every=EVERY),
    ("el", "web"): stream(30_000, 700, every=EVERY),
    ("mt", "web"): stream(40_000, 5, every=EVERY),
}
STAGES = [
    {"until": 0.3, "source_weight": {"books": 0.0}},
    {"until": 1.0, "language_temperature": 1.0, "source_weight": {"books": 3.0}},
]
SETTINGS: dict[str, dict[str, Any]] = {
    "less than one epoch": {"steps": 20},
    "several epochs": {"steps": 400},
    "sources with weights": {"steps": 60, "source_weight": {"web": 5.0}},
    "a source that is left out": {"steps": 30, "source_weight": {"books": 0.0}},
    "a temperature": {"steps": 60, "language_temperature": 3.0},
    "two stages": {"steps": 90, "language_temperature": 2.0, "stage": STAGES},
    "a cap on epochs": {"steps": 60, "language_temperature": 5.0, "max_epochs": 1.5},
    "a batch that grows": {"steps": 60, "batch_ramp_share": 0.5},
}
#: stream, first token, the one after the last: whole documents, one, several in a row, all of a stream.
DOCUMENTS = [(0, 0, 7), (0, 700, 707), (0, 1400, 1435), (1, 7, 14), (1, 329, 333), (2, 0, 700), (3, 0, 5)]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return write_tokens(tmp_path_factory.mktemp("tokens"), TEXTS)


def section(*, steps: int, **changes: Any) -> Pretrain:
    return Pretrain(budget_tokens=steps * ROWS * LENGTH, sequence_length=LENGTH, batch_tokens=ROWS * LENGTH, **changes)


def load(shards: Shards, settings: Pretrain, seed: int = 5) -> Loader:
    return Loader(shards, Mixture.of(shards, settings), seed=seed)


def tokens_of(number: int, begin: int, end: int) -> list[int]:
    return list(TEXTS.values())[number][begin:end]


def extents_of(*documents: tuple[int, int, int]) -> list[Extents]:
    numbers = sorted({number for number, _, _ in documents})
    own = [[(begin, end) for each, begin, end in documents if each == number] for number in numbers]
    return [
        Extents(number, np.array([begin for begin, _ in pairs]), np.array([end for _, end in pairs]))
        for number, pairs in zip(numbers, own, strict=True)
    ]


def learnt(loader: Loader, rows: range) -> Iterator[tuple[int, int, int]]:
    """Sample, token read and token predicted, at each place that counts."""
    tokens, targets, _ = split_windows(loader.samples(rows.start, len(rows)), END)
    for number, (read, predicted) in enumerate(zip(tokens.tolist(), targets.tolist(), strict=True)):
        yield from ((rows.start + number, *pair) for pair in zip(read, predicted, strict=True))


class Replay:
    """Goes through a run step by step and counts how often a document was predicted, and when."""

    def __init__(self, loader: Loader, ramp: Ramp, steps: list[tuple[int, int, int]], document: tuple[int, int, int]):
        own = tokens_of(*document)
        words, lasts = set(own) - {END}, {own[n - 1] for n in range(1, len(own)) if own[n] == END}
        self.trained, self.seen = 0, []
        for step, data_step, tokens_before in steps:
            rows = ramp.at(data_step)
            for sample, read, predicted in learnt(loader, rows):
                # An end token looks like any other; the token before it says whose it is.
                if predicted in words or (predicted == END and read in lasts):
                    self.trained += 1
                    self.seen.append((step + 1, tokens_before + (sample - rows.start) * LENGTH))


def plain_steps(ramp: Ramp) -> list[tuple[int, int, int]]:
    """Step, whose samples it reads, and tokens read before: of a run without trouble."""
    found, before = [], 0
    for step in range(ramp.steps):
        found.append((step, step, before))
        before += len(ramp.at(step)) * LENGTH
    return found


@pytest.mark.parametrize("name", SETTINGS)
def test_the_exposure_computed_is_the_exposure_counted_by_replaying_the_loader(shards: Shards, name: str) -> None:
    settings = section(**SETTINGS[name])
    loader, course = load(shards, settings), Course.of(settings.ramp, LENGTH)
    steps = plain_steps(settings.ramp)
    for document in DOCUMENTS:
        counted = Replay(loader, settings.ramp, steps, document)
        found = exposure(loader, course, extents_of(document))
        assert found.trained_tokens == counted.trained, document
        assert found.tokens == document[2] - document[1]
        assert found.times == counted.trained / found.tokens
        seen = [asdict(each) for each in (found.first, found.last) if each]
        ends = [min(counted.seen), max(counted.seen)] if counted.seen else []
        assert [(each["step"], each["token"]) for each in seen] == ends, document
    assert course.tokens == settings.tokens


@pytest.mark.parametrize("name", SETTINGS)
def test_windows_that_hold_a_document_are_given_as_often_as_the_loader_gives_them(shards: Shards, name: str) -> None:
    settings = section(**SETTINGS[name])
    loader, course = load(shards, settings), Course.of(settings.ramp, LENGTH)
    places = loader.places(np.arange(loader.mixture.samples))
    given = Counter(zip(places.stream_N.tolist(), places.window_N.tolist(), strict=True))
    for number, begin, end in DOCUMENTS:
        counts = [given[number, window] for window in range(begin // LENGTH, (end - 1) // LENGTH + 1)]
        found = exposure(loader, course, extents_of((number, begin, end)))
        assert (found.least, found.most) == (min(counts), max(counts))
        assert found.unseen == int(not any(counts))


def test_documents_of_several_streams_add_up(shards: Shards) -> None:
    settings = section(**SETTINGS["two stages"])
    loader, course = load(shards, settings), Course.of(settings.ramp, LENGTH)
    alone = [exposure(loader, course, extents_of(document)) for document in DOCUMENTS]
    together = exposure(loader, course, extents_of(*DOCUMENTS))
    assert together.texts == len(DOCUMENTS)
    assert together.trained_tokens == sum(each.trained_tokens for each in alone)
    assert together.unseen == sum(each.unseen for each in alone)
    assert together.share == together.trained_tokens / settings.tokens
    assert together.first == min((each.first for each in alone if each.first), key=lambda each: each.token)
    assert together.last == max((each.last for each in alone if each.last), key=lambda each: each.token)


def test_everything_there_is_was_trained_on_as_often_as_the_run_predicted_tokens(shards: Shards) -> None:
    settings = section(**SETTINGS["several epochs"])
    loader, course = load(shards, settings), Course.of(settings.ramp, LENGTH)
    whole = extents_of(*((number, 0, len(tokens)) for number, tokens in enumerate(TEXTS.values())))
    _, targets, _ = split_windows(loader.samples(0, loader.mixture.samples), END)
    assert exposure(loader, course, whole).trained_tokens == int((targets >= 0).sum())


def test_no_documents_were_never_seen(shards: Shards) -> None:
    settings = section(steps=5)
    found = exposure(load(shards, settings), Course.of(settings.ramp, LENGTH), extents_of())
    assert (found.texts, found.tokens, found.trained_tokens, found.times, found.first) == (0, 0, 0, 0.0, None)


def test_the_sample_of_a_turn_is_the_one_that_the_mixture_gives_that_turn_to(shards: Shards) -> None:
    mixture = load(shards, section(**SETTINGS["two stages"])).mixture
    streams, turns = mixture.turns(np.arange(mixture.samples))
    for sample in range(0, mixture.samples, 7):
        assert sample_of_turn(mixture, int(streams[sample]), int(turns[sample])) == sample


# --------------------------------------------------------------------------- runs that did not go straight


class Troubled:
    """Runs through the steps as `train` does, with the real roll-back, and notes whose samples each one read."""

    def __init__(self, steps: int, *, every: int, troubles: dict[int, int]) -> None:
        """`troubles`: how often the run has come to a step -> since which step there is trouble then."""
        saved: dict[int, Tally] = {}
        tally, came = Tally("run", 1), 0
        self.read: dict[int, int] = {}
        while tally.step < steps:
            came += 1
            since = troubles.get(came)
            if since is not None:
                guard = SimpleNamespace(trouble=SimpleNamespace(what="bad", since=since, is_high_loss=False))
                tally = roll_back(Kept(saved), tally, guard, lambda text: None)  # type: ignore[arg-type]
                continue
            self.read[tally.step] = tally.data_step(steps)
            tally = Tally(**{**asdict(tally), "step": tally.step + 1})
            if tally.step % every == 0:
                saved[tally.step] = tally
        self.rollbacks = tally.rollbacks


class Kept:
    """Checkpoints in memory."""

    def __init__(self, saved: dict[int, Tally]) -> None:
        self.saved = saved

    def newest(self, fingerprint: str, *, at_most: int) -> SimpleNamespace:
        step = max(step for step in self.saved if step <= at_most)
        return SimpleNamespace(path=Path(f"step-{step:06d}"), state=asdict(self.saved[step]))

    def load(self, found: object) -> None:
        pass

    def forget_after(self, step: int) -> None:
        for later in [each for each in self.saved if each > step]:
            del self.saved[later]


@pytest.mark.parametrize(
    "troubles", [{15: 12}, {15: 12, 22: 14}, {15: 12, 17: 6}, {30: 28}], ids=["once", "twice", "further back", "late"]
)
@pytest.mark.parametrize("share", [0.0, 0.5], ids=["constant batch", "growing batch"])
def test_what_a_run_saw_that_went_back_is_what_its_last_way_through_the_steps_read(
    shards: Shards, troubles: dict[int, int], share: float
) -> None:
    settings = section(steps=30, batch_ramp_share=share)
    ramp = settings.ramp
    run = Troubled(ramp.steps, every=5, troubles=troubles)
    loader = load(shards, settings)
    course = Course.of(ramp, LENGTH, rollbacks=run.rollbacks)
    assert {step: data_step for _, step, data_step in course.steps()} == run.read
    steps, before = [], 0
    for step in range(ramp.steps):
        steps.append((step, run.read[step], before))
        before += len(ramp.at(run.read[step])) * LENGTH
    assert course.tokens == before
    for document in DOCUMENTS:
        counted = Replay(loader, ramp, steps, document)
        found = exposure(loader, course, extents_of(document))
        assert found.trained_tokens == counted.trained
        if counted.seen:
            assert found.first and found.last
            assert (found.first.step, found.last.step) == (min(counted.seen)[0], max(counted.seen)[0])


def test_steps_that_moved_nothing_do_not_count_but_their_tokens_were_read(shards: Shards) -> None:
    settings = section(steps=40)
    loader, dropped = load(shards, settings), {0, 7, 8, 39}
    course = Course.of(settings.ramp, LENGTH, dropped=dropped)
    steps = [each for each in plain_steps(settings.ramp) if each[0] not in dropped]
    for document in DOCUMENTS:
        counted = Replay(loader, settings.ramp, steps, document)
        found = exposure(loader, course, extents_of(document))
        assert found.trained_tokens == counted.trained
        if counted.seen:
            assert found.first and (found.first.step, found.first.token) == min(counted.seen)
    assert course.tokens == settings.tokens - len(dropped) * ROWS * LENGTH


@pytest.mark.parametrize("step", [1, 13, 40])
def test_a_checkpoint_holds_what_the_steps_before_it_saw(shards: Shards, step: int) -> None:
    settings = section(steps=40)
    loader = load(shards, settings)
    course = Course.of(settings.ramp, LENGTH, dropped={3}).until(step)
    steps = [each for each in plain_steps(settings.ramp)[:step] if each[0] != 3]
    for document in DOCUMENTS:
        counted = Replay(loader, settings.ramp, steps, document)
        assert exposure(loader, course, extents_of(document)).trained_tokens == counted.trained


@pytest.mark.parametrize(
    "entry",
    [
        {"to_step": "step-000010", "at_step": 10, "skipped_data_steps": [10, 10]},
        {"to_step": "step-000010", "at_step": 41, "skipped_data_steps": [10, 41]},
        {"to_step": "step-000010", "at_step": 15, "skipped_data_steps": [11, 16]},
        {"to_step": "step-000010", "at_step": 15, "skipped_data_steps": [10, 16]},
        {"to_step": "early", "at_step": 15, "skipped_data_steps": [10, 15]},
        {"to_step": "step-000010", "at_step": 15},
        {"to_step": "step-000010", "at_step": 15, "skipped_data_steps": 5},
        "back",
    ],
)
def test_a_rollback_that_contradicts_itself_is_refused(entry: Any) -> None:
    with pytest.raises(ValueError, match="rollback 1 of 1"):
        Course.of(section(steps=40).ramp, LENGTH, rollbacks=[entry])


# --------------------------------------------------------------------------- conversations


def conversation(number: int, length: int) -> Rendered:
    return Rendered([1000 * number + place for place in range(length)], [place > 0 for place in range(length)])


@pytest.mark.parametrize("epochs", [0.4, 1.0, 2.5])
def test_the_exposure_of_conversations_is_what_the_batches_of_tuning_hold(epochs: float) -> None:
    spoken = [conversation(number, 3 + number % 11) for number in range(1, 80)]
    packed = PackedConversations(spoken, Packing(LENGTH, ROWS, (range(ROWS),), epochs, 7))
    ramp = Ramp.of(ROWS, total_rows=packed.steps * ROWS, share=0.0)
    course = Course.of(ramp, LENGTH)
    read: Counter[int] = Counter()
    first: dict[int, int] = {}
    for step in range(packed.steps):
        (batch,) = packed.batch_at(step)
        for token in batch.tokens_BT.ravel().tolist():
            read[token // 1000] += token > 0
            first.setdefault(token // 1000, step + 1)
    for place, rendered in enumerate(spoken):
        size = len(rendered.ids) - 1
        found = exposure_in_rows(packed.shown_at, course, {place: size})
        assert found.trained_tokens == read[place + 1]
        assert found.times == read[place + 1] / size
        assert (found.first.step if found.first else None) == first.get(place + 1)
    whole = exposure_in_rows(packed.shown_at, course, {place: len(each.ids) - 1 for place, each in enumerate(spoken)})
    assert whole.trained_tokens == sum(count for number, count in read.items() if number)
    times = [read[place + 1] // (len(each.ids) - 1) for place, each in enumerate(spoken)]
    assert (whole.texts, whole.least, whole.most) == (79, min(times), max(times))
