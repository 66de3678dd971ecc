"""Running answers: several at once for one client, each ended when it is done, too late, or nobody waits any more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

from starlette.requests import Request as HttpRequest

from hanse.serve.api.call import Call, ClientGone
from hanse.serve.api.errors import SERVER, ApiError, stopping
from hanse.serve.api.limits import Places, Quotas
from hanse.serve.api.settings import Settings
from hanse.serve.request import Backend, Output, Request

#: Pieces that wait for a slow client before its answers stop being read.
WAITING_PIECES = 64
#: Seconds beyond the deadline in which the engine has to end an answer by itself.
GRACE_SECONDS = 5.0
T = TypeVar("T")


@dataclass(frozen=True)
class Service:
    """What the routes share.

    Attributes:
        model: the name under which the model is asked.
        created: when the server began, in seconds since 1970.
    """

    backend: Backend
    model: str
    settings: Settings
    places: Places
    quotas: Quotas
    created: int

    def check_model(self, name: str) -> None:
        """Refuse any other name than that of the model."""
        if name != self.model:
            told = f"There is no model of this name here; the one that is served is {self.model}."
            raise ApiError(404, told, param="model", code="model_not_found")

    def check_length(self, prompt: Sequence[int], param: str) -> int:
        """How many tokens fit behind a prompt."""
        room = self.backend.context - len(prompt)
        if room < 1:
            told = f"The prompt is {len(prompt)} tokens long, but prompt and answer share {self.backend.context}."
            raise ApiError(400, told, param=param, code="context_length_exceeded")
        return room

    def begin(self, call: Call, requests: Sequence[Request], prompt_tokens: int) -> Answers:
        """Start answers, which end with the call at the latest.

        Args:
            requests: one for each answer; deadline and salt are set here.
            prompt_tokens: of all prompts, each counted once.
        """
        call.release.callback(self.places.take(len(requests)))
        call.prompt_tokens = prompt_tokens
        self.quotas.spend(call.key, prompt_tokens)
        deadline = time.monotonic() + self.settings.answer_seconds
        answers = Answers(
            self.backend,
            [replace(each, deadline=deadline, salt=call.key_name) for each in requests],
            lambda tokens: self._spend(call, tokens),
        )
        call.release.push_async_callback(answers.close)
        return answers

    def _spend(self, call: Call, tokens: int) -> bool:
        if call.first is None:
            call.first = time.monotonic()
        call.generated_tokens += tokens
        return self.quotas.spend(call.key, tokens)


class Answers:
    """The pieces of several answers, in the order in which they come.

    Args:
        spend: told the tokens of each piece; False ends the answer there.
    """

    def __init__(self, backend: Backend, requests: Sequence[Request], spend: Callable[[int], bool]) -> None:
        self._backend = backend
        self._spend = spend
        self._pieces: asyncio.Queue[tuple[int, Output | Exception]] = asyncio.Queue(WAITING_PIECES)
        self._open = len(requests)
        self._is_late = False
        seconds = max((each.deadline or 0.0 for each in requests), default=0.0) + GRACE_SECONDS - time.monotonic()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._give_up)
        self._tasks = [asyncio.create_task(self._follow(index, each)) for index, each in enumerate(requests)]

    def __aiter__(self) -> AsyncIterator[tuple[int, Output]]:
        return self

    async def __anext__(self) -> tuple[int, Output]:
        """Index of an answer and its next piece.

        Raises:
            ApiError: the engine did not end an answer in time, or is stopping.
            Exception: whatever the engine raised.
        """
        if not self._open:
            raise StopAsyncIteration
        if self._is_late and self._pieces.empty():
            raise _late()
        index, piece = await self._pieces.get()
        if isinstance(piece, Exception):
            raise piece
        if piece.finish == "cancelled":
            raise stopping()
        if piece.finish is not None:
            self._open -= 1
        return index, piece

    async def close(self) -> None:
        """End what still runs, and wait until the engine was told."""
        self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _give_up(self) -> None:
        """The engine's time is over. What it gave is still handed out; whoever waits for more is told."""
        self._is_late = True
        if self._pieces.empty():
            self._pieces.put_nowait((0, _late()))

    async def _follow(self, index: int, request: Request) -> None:
        try:
            # An async generator by contract: without `aclose` a cancelled request would go on in the engine.
            pieces = cast(AsyncGenerator[Output, None], self._backend.generate(request))
            async with aclosing(pieces):
                async for piece in pieces:
                    has_more = self._spend(len(piece.tokens))
                    if not has_more and piece.finish is None:
                        piece = replace(piece, finish="length")
                    await self._pieces.put((index, piece))
                    if piece.finish is not None:
                        return
            raise RuntimeError("the engine ended an answer without saying why")
        except Exception as error:
            await self._pieces.put((index, error))


def _late() -> ApiError:
    return ApiError(504, "The engine gave no answer in time.", type=SERVER, code="timeout")


async def unless_gone(request: HttpRequest, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is given up when the client goes.

    Raises:
        ClientGone: the client went first.
    """
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_leaving(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGone
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _leaving(request: HttpRequest) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
