"""Extraction: given the beginning of a training text, does the model say how it goes on, word for word?

The test of Carlini et al. (Quantifying Memorization Across Neural Language Models, ICLR 2023, arXiv:2202.07646): tokens
before a place in a document, then the greedy continuation, which counts if it equals the true one token by token. Also
drawn continuations, of which one has to be equal. Tokens that end a text are barred, since a tuned model would stop and
seem to know nothing. The same on documents that training never saw is the control: text that anyone could go on with is
not learnt by heart.

# D documents of a split
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hanse.data.canaries import SOURCE as CANARY
from hanse.data.permutation import mix
from hanse.data.shards import Shards
from hanse.errors import InputError
from hanse.serve.request import Request, Sampling

if TYPE_CHECKING:
    from hanse.serve.engine import Engine

Progress = Callable[[str, int, int | None], None]
Kind = Literal["source", "rights_holder"]
Decoding = Literal["greedy", "sampled"]
#: Rights holders that get results of their own: those with the most training text.
RIGHTS_HOLDERS = 50
#: Prompts that the engine is given at a time.
PROMPTS_AT_ONCE = 1024


@dataclass(frozen=True)
class Plan:
    """What is asked of each document.

    Attributes:
        prefixes: lengths of the text that is given, in tokens, rising.
        continuation: tokens that have to follow.
    """

    prefixes: tuple[int, ...]
    continuation: int

    @classmethod
    def fitting(cls, prefixes: Sequence[int], continuation: int, *, context: int) -> Plan:
        """The plan as far as it fits into a model's context, with the end token that opens a document.

        The continuation is shortened for the sake of the shortest prefix; longer prefixes that do not fit are left out.

        Raises:
            InputError: not even the shortest prefix and one token fit.
        """
        room = context - 1
        kept = min(continuation, room - min(prefixes))
        if kept < 1:
            raise InputError(
                f"[memorisation] prefix_tokens: {min(prefixes)} tokens leave no room in a context of {context}; give a "
                "shorter one."
            )
        return cls(tuple(sorted({p for p in prefixes if p + kept <= room})), kept)


@dataclass(frozen=True)
class Population:
    """The documents of a split, a column each.

    Attributes:
        rows: columns of index.parquet, `rights_holder` ("" where none is recorded), and `words`, (D, 2) uint64: the id.
        is_read: whether training came to all of the document; True throughout where that is not known.
    """

    split: str
    rows: Mapping[str, NDArray[Any]]
    is_read: NDArray[np.bool_]

    def members(self, kind: Kind, name: str) -> NDArray[np.int64]:
        """Numbers of the documents of a source or rights holder."""
        return np.flatnonzero(self.rows[kind] == name)


@dataclass(frozen=True)
class Passage:
    """A place in a document.

    Attributes:
        id, split, language, source, rights_holder, licence: of the document; its `row` in the population.
        at: tokens of the document before the place.
        before: the last of these, as many as the longest prefix that is tested, and the opening token if they begin the
            document.
        continuation: the true tokens that follow.
        longest: that prefix, in tokens.
    """

    id: str
    split: str
    language: str
    source: str
    rights_holder: str
    licence: str
    row: int
    at: int
    before: tuple[int, ...]
    continuation: tuple[int, ...]
    longest: int

    def prompt(self, prefix: int) -> tuple[int, ...]:
        """The tokens that are given; with the one that opens a document where the prefix is its beginning."""
        return self.before[-(prefix + (prefix == self.at)) :]


@dataclass(frozen=True)
class Group:
    """The documents of a source or rights holder in one split, and those drawn for the test.

    Attributes:
        documents: how many there are.
        unread: of these, how many training never came to, at least in part.
        short: of the others, how many are shorter than the shortest prefix and the continuation: not testable.
        drawn: numbers of the documents that are tested, in the order of a keyed hash.
    """

    kind: Kind
    name: str
    split: str
    documents: int
    unread: int
    short: int
    drawn: tuple[int, ...]


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


# --------------------------------------------------------------------------- which documents


def population(shards: Shards, documents: Path, split: str) -> Population:
    """The documents of a split, canaries left out.

    Args:
        documents: the dataset's table.

    Raises:
        InputError: the table lacks a document of the shards.
    """
    index = shards.index()
    index = index.filter(pc.and_(pc.equal(index["split"], split), pc.not_equal(index["source"], CANARY)))
    table = pq.read_table(documents, columns=["id", "rights_holder"], filters=[("split", "=", split)]).combine_chunks()
    found = pc.index_in(index["id"], value_set=table["id"])
    if found.null_count:
        lost = index["id"].filter(pc.is_null(found))[0]
        raise InputError(f"{documents}: lacks the document '{lost}' of the shards; make the shards again.")
    holders = pc.fill_null(table["rights_holder"].take(found), "")
    rows = {name: _column(index[name]) for name in ("id", "language", "source", "licence", "offset", "tokens")}
    words = np.frombuffer(bytes.fromhex("".join(index["id"].to_pylist())), ">u8").reshape(-1, 2).astype(np.uint64)
    return Population(split, {**rows, "rights_holder": _column(holders), "words": words}, np.ones(len(index), bool))


def _column(values: pa.ChunkedArray) -> NDArray[Any]:
    return np.asarray(values.to_numpy())


def names_of(training: Population, kind: Kind) -> tuple[list[str], int]:
    """Who gets results of their own, by name, and how many do not: every source, the largest rights holders.

    Documents without a recorded rights holder count under their source only.
    """
    names, place_D = np.unique(training.rows[kind], return_inverse=True)
    tokens = np.bincount(place_D, weights=training.rows["tokens"], minlength=len(names))
    ranked = [str(names[n]) for n in np.argsort(-tokens, kind="stable") if names[n] != ""]
    kept = ranked if kind == "source" else ranked[:RIGHTS_HOLDERS]
    return sorted(kept), len(ranked) - len(kept)


def draw(pool: Population, kind: Kind, name: str, plan: Plan, *, most: int, seed: int) -> Group:
    """Choose documents to test: the first by a keyed hash of their ids among those that are read and long enough."""
    own = pool.members(kind, name)
    read = own[pool.is_read[own]]
    # The end token is no text.
    long_enough = read[pool.rows["tokens"][read] - 1 >= plan.prefixes[0] + plan.continuation]
    order = np.argsort(mix(pool.rows["words"][long_enough, 0], key=_key(seed)), kind="stable")
    drawn = tuple(long_enough[order[:most]].tolist())
    return Group(kind, name, pool.split, len(own), len(own) - len(read), len(read) - len(long_enough), drawn)


def passages(shards: Shards, pool: Population, chosen: Sequence[int], plan: Plan, *, seed: int) -> list[Passage]:
    """One place in each document, by a keyed hash, behind the longest prefix that the document has room for."""
    words = mix(pool.rows["words"][list(chosen), 1], key=_key(seed)).tolist() if chosen else []
    return [_passage(shards, pool, row, plan, int(word)) for row, word in zip(chosen, words, strict=True)]


def _passage(shards: Shards, pool: Population, row: int, plan: Plan, word: int) -> Passage:
    about = {name: str(pool.rows[name][row]) for name in ("id", "language", "source", "rights_holder", "licence")}
    offset, size = int(pool.rows["offset"][row]), int(pool.rows["tokens"][row]) - 1
    longest = max(prefix for prefix in plan.prefixes if prefix + plan.continuation <= size)
    at = longest + word % (size - plan.continuation - longest + 1)
    ids = shards.tokens(pool.split, about["language"])[offset : offset + at + plan.continuation].tolist()
    text = [shards.end_of_text, *ids]
    before = tuple(text[: at + 1] if at == longest else text[at + 1 - longest : at + 1])
    return Passage(
        **about, split=pool.split, row=row, at=at, before=before, continuation=tuple(text[at + 1 :]), longest=longest
    )


def _key(seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/memorisation".encode()).digest()[:8])


# --------------------------------------------------------------------------- what comes out


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
