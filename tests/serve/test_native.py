"""The engine behind the API: a thread, and clients that come and go."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from hanse.errors import InputError
from hanse.model.transformer import Transformer
from hanse.runtime import Runtime
from hanse.serve.engine import Engine
from hanse.serve.native import NativeBackend
from hanse.serve.request import Output, Request, Sampling

LONG = Sampling(max_tokens=40, ignore_end=True)


@pytest.fixture
def backend(model: Transformer, tokenizer: Tokenizer) -> Iterator[NativeBackend]:
    runtime = Runtime(device=torch.device("cpu"))
    made = NativeBackend(Engine(model, tokenizer, runtime), runtime)
    yield made
    asyncio.run(made.close())


async def whole(stream: AsyncIterator[Output]) -> list[int]:
    return [token async for piece in stream for token in piece.tokens]


def test_many_clients_get_what_the_engine_gives_one(backend: NativeBackend, engine: Engine) -> None:
    asked = [tuple(range(number + 1)) for number in range(20)]

    async def ask() -> list[list[int]]:
        return await asyncio.gather(*(whole(backend.generate(Request(prompt, LONG))) for prompt in asked))

    assert asyncio.run(ask()) == [list(engine.tokens(ids, max_tokens=40, ignore_end=True)) for ids in asked]


def test_clients_that_leave_at_random_leave_nothing_behind(backend: NativeBackend) -> None:
    draw = random.Random(1)

    async def client(number: int) -> None:
        stream = backend.generate(Request((number,), LONG))
        await asyncio.sleep(draw.random() * 0.05)
        async for _ in stream:
            if draw.random() < 0.1:
                break
        await stream.aclose()  # type: ignore[attr-defined]

    async def ask() -> None:
        await asyncio.gather(*(client(number) for number in range(60)))
        while backend.stats().running or backend.stats().waiting:
            await asyncio.sleep(0.01)

        await whole(backend.generate(Request((1,), LONG)))  # what was asked before it has been looked at by now

    asyncio.run(ask())
    assert backend.stats().cache_tokens == 0
    assert not backend._tells


def test_a_request_that_cannot_be_is_refused_to_who_asked_and_to_nobody_else(backend: NativeBackend) -> None:
    async def ask() -> list[int]:
        good = asyncio.ensure_future(whole(backend.generate(Request((1, 2), LONG))))
        for prompt, sampling in (((), LONG), ((1,), Sampling(temperature=float("nan"))), ((1,) * 200, LONG)):
            with pytest.raises(InputError):
                await whole(backend.generate(Request(prompt, sampling)))
        return await good

    assert len(asyncio.run(ask())) == 40


def test_a_step_that_fails_fails_its_requests_and_the_engine_goes_on(
    backend: NativeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = backend.engine.model.extend
    calls = 0

    def broken(*arguments: Any, **further: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise RuntimeError("out of memory")
        return inner(*arguments, **further)

    monkeypatch.setattr(backend.engine.model, "extend", broken)

    async def ask() -> None:
        with pytest.raises(RuntimeError, match="out of memory"):
            await whole(backend.generate(Request((1, 2), LONG)))
        assert len(await whole(backend.generate(Request((1, 2), LONG)))) == 40

    asyncio.run(ask())


def test_closing_ends_what_runs(model: Transformer, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Runtime(device=torch.device("cpu"))
    backend = NativeBackend(Engine(model, tokenizer, runtime, context=128), runtime)
    inner, calls = model.extend, 0

    def waiting(*arguments: Any, **further: Any) -> Any:
        """From the third step on as slow as it takes until the backend is being closed."""
        nonlocal calls
        calls += 1
        while calls > 2 and not backend._is_closing:
            time.sleep(0.001)
        return inner(*arguments, **further)

    monkeypatch.setattr(model, "extend", waiting)

    async def ask() -> list[Output]:
        pieces = []
        async for piece in backend.generate(Request((1,), Sampling(max_tokens=10**6, ignore_end=True))):
            pieces.append(piece)
            if len(pieces) == 1:
                await backend.close()
        return pieces

    assert asyncio.run(ask())[-1].finish == "cancelled"
    with pytest.raises(RuntimeError, match="closed"):
        asyncio.run(whole(backend.generate(Request((1,)))))
