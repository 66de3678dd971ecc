"""What transformers keeps of a text is freed when the text is over, and is nobody else's before."""

from __future__ import annotations

import weakref
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from hanse.model import hf
from hanse.model.foreign_cache import ForeignCache, ForeignPool
from hanse.runtime import Runtime
from hanse.serve.engine import Engine
from hanse.serve.request import Request, Sampling
from hanse.serve.sequence import Sequence

from .families import family_folder

CPU = Runtime(device=torch.device("cpu"))


def cache_of(rows: int) -> ForeignCache:
    """Row n holds token n."""
    return ForeignCache(torch.arange(rows)[:, None], None, capacity=8)


@pytest.fixture
def pool() -> ForeignPool:
    return ForeignPool(4, torch.device("cpu"), 1)


def test_a_cache_is_freed_with_the_last_of_its_texts(pool: ForeignPool) -> None:
    cache = cache_of(2)
    pool.begin([3, 7], cache)
    still_there = weakref.ref(cache)
    del cache
    pool.forget(7)
    assert still_there()
    pool.forget(3)
    assert not still_there()


def test_a_text_that_is_over_loses_its_row_when_the_others_go_on(pool: ForeignPool) -> None:
    pool.begin([3, 7, 5], cache_of(3))
    pool.begin([2], cache_of(1))
    pool.forget(7)
    ((cache, texts),) = pool.gather([5, 3])
    assert texts == [3, 5] and cache.tokens_BS.tolist() == [[0], [2]]
    assert pool.gather([2])


def test_a_block_that_begins_another_text_no_longer_stands_for_the_first(pool: ForeignPool) -> None:
    first, second = cache_of(2), cache_of(1)
    pool.begin([3, 7], first)
    pool.begin([3], second)
    assert pool.gather([3]) == [(second, [3])]
    assert pool.gather([7]) == [(first, [7])] and first.tokens_BS.tolist() == [[1]]


def engine_of(folder: Path, tokenizer: Tokenizer, **settings: int) -> Engine:
    pytest.importorskip("transformers")
    family_folder("llama", folder, vocab_size=272, max_position_embeddings=128)
    return Engine(hf.load(folder), tokenizer, CPU, **settings)


def ask(engine: Engine, length: int, max_tokens: int) -> Sequence:
    """An answer of exactly that many tokens."""
    sampling = Sampling(max_tokens=max_tokens, ignore_end=True)
    return engine.submit(Request(tuple(range(40, 40 + length)), sampling), lambda output: None)


def test_a_served_text_leaves_nothing_behind_when_it_is_over(tmp_path: Path, tokenizer: Tokenizer) -> None:
    engine = engine_of(tmp_path, tokenizer)
    held = []
    for max_tokens in (9, 2, 5):  # a step apart, so that each has a cache of its own
        ask(engine, 6, max_tokens)
        engine.step()
    while not engine.is_idle:
        assert len(engine.pool.texts_of) == engine.stats().running
        held.append(engine.stats().running)
        engine.step()
    assert sorted(set(held)) == [1, 2] and not engine.pool.texts_of
    sequence = ask(engine, 6, 9)
    ask(engine, 6, 9)
    engine.step()
    engine.cancel(sequence)
    assert engine.pool.texts_of
    engine.abandon()
    assert not engine.pool.texts_of


def test_a_served_text_that_gives_its_blocks_back_gives_its_cache_back(tmp_path: Path, tokenizer: Tokenizer) -> None:
    engine = engine_of(tmp_path, tokenizer, context=64, cache_tokens=80)
    for _ in range(2):
        ask(engine, 28, 30)
        engine.step()
    while not engine.is_idle:
        assert len(engine.pool.texts_of) == engine.stats().running
        engine.step()
    assert engine.stats().preemptions and not engine.pool.texts_of
