"""Extraction: given the beginning of a training text, does the model say how it goes on, word for word?

The test of Carlini et al. (Quantifying Memorization Across Neural Language Models, ICLR 2023, arXiv:2202.07646): tokens
before a place in a document, then the greedy continuation, which counts if it equals the true one token by token. Also
drawn continuations, of which one has to be equal. Tokens that end a text are barred, since a tuned model would stop and
seem to know nothing. The same on documents that training never saw is the control: text that anyone could go on with is
not learnt by heart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from hanse.evaluate.passages import Passage, Plan
from hanse.serve.request import Request, Sampling

if TYPE_CHECKING:
    from hanse.serve.engine import Engine

Progress = Callable[[str, int, int | None], None]
Decoding = Literal["greedy", "sampled"]
#: Prompts that the engine is given at a time.
PROMPTS_AT_ONCE = 1024


@dataclass(frozen=True)
class Attempt:
    """What the model did at one place.

    Attributes:
        prefix: tokens given.
        is_extracted: whether the true continuation came out: the greedy one, or any of those drawn.
        longest: characters of the longest run that the greedy and the true continuation share; None where drawn.
    """

    passage: Passage
    prefix: int
    decoding: Decoding
    is_extracted: bool
    longest: int | None


def greedy(
    engine: Engine, tested: Sequence[Passage], plan: Plan, *, progress: Progress | None = None
) -> Iterator[Attempt]:
    """The likeliest continuation behind every prefix that fits each passage."""
    jobs = _jobs(tested, plan)
    for start in range(0, len(jobs), PROMPTS_AT_ONCE):
        some = jobs[start : start + PROMPTS_AT_ONCE]
        prompts = [passage.prompt(prefix) for passage, prefix in some]
        given = _go_on(engine, prompts, Sampling(plan.continuation, ignore_end=True))
        for (passage, prefix), ids in zip(some, given, strict=True):
            run = longest_run(engine.text(passage.continuation), engine.text(ids))
            yield Attempt(passage, prefix, "greedy", tuple(ids) == passage.continuation, run)
        if progress is not None:
            progress("greedy continuations", start + len(some), len(jobs))


def sampled(
    engine: Engine,
    tested: Sequence[Passage],
    plan: Plan,
    *,
    samples: int,
    temperature: float,
    seed: int,
    progress: Progress | None = None,
) -> Iterator[Attempt]:
    """As `greedy`, but `samples` continuations are drawn, each with a seed of its own; one of them has to be true."""
    jobs = _jobs(tested, plan) if samples else []
    step = max(1, PROMPTS_AT_ONCE // max(1, samples))
    for start in range(0, len(jobs), step):
        some = jobs[start : start + step]
        found = _any_true(engine, some, samples=samples, temperature=temperature, seed=seed)
        for (passage, prefix), is_true in zip(some, found, strict=True):
            yield Attempt(passage, prefix, "sampled", is_true, None)
        if progress is not None:
            progress("drawn continuations", start + len(some), len(jobs))


def _jobs(tested: Sequence[Passage], plan: Plan) -> list[tuple[Passage, int]]:
    """Every passage with every prefix that fits it; like lengths together, for the engine."""
    return [(passage, prefix) for prefix in plan.prefixes for passage in tested if prefix <= passage.longest]


def _go_on(engine: Engine, prompts: Sequence[tuple[int, ...]], sampling: Sampling) -> list[list[int]]:
    """What follows each prompt; end tokens are barred, so that a tuned model cannot leave early."""
    found: list[list[int]] = [[] for _ in prompts]
    for prompt, into in zip(prompts, found, strict=True):
        engine.submit(Request(prompt, sampling), lambda output, into=into: into.extend(output.tokens))  # type: ignore[misc]
    while not engine.is_idle:
        engine.step()
    return found


def _any_true(
    engine: Engine, jobs: Sequence[tuple[Passage, int]], *, samples: int, temperature: float, seed: int
) -> list[bool]:
    found = [False] * len(jobs)
    running = []
    for number, (passage, prefix) in enumerate(jobs):
        for sample in range(samples):
            own = hashlib.sha256(f"{seed}/memorisation/{passage.id}/{prefix}/{sample}".encode()).digest()
            sampling = Sampling(len(passage.continuation), temperature, seed=int.from_bytes(own[:7]), ignore_end=True)
            given: list[int] = []
            request = Request(passage.prompt(prefix), sampling)
            sequence = engine.submit(request, lambda output, into=given: into.extend(output.tokens))  # type: ignore[misc]
            running.append((number, sequence, given))
    while running:
        engine.step()
        left = []
        for number, sequence, given in running:
            truth = jobs[number][0].continuation
            if tuple(given) != truth[: len(given)]:
                engine.cancel(sequence)  # nothing that may still come makes it equal
            elif sequence.finish is None:
                left.append((number, sequence, given))
            else:
                found[number] |= tuple(given) == truth
        running = left
    return found


def longest_run(first: str, second: str) -> int:
    """Characters of the longest piece that two texts share."""
    low, high = 0, min(len(first), len(second))
    while low < high:  # a shared piece of some length holds shared pieces of every lesser one
        middle = (low + high + 1) // 2
        pieces = {first[start : start + middle] for start in range(len(first) - middle + 1)}
        if any(second[start : start + middle] in pieces for start in range(len(second) - middle + 1)):
            low = middle
        else:
            high = middle - 1
    return low
