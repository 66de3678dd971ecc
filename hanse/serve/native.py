"""Our engine behind the API: a thread that steps while anybody waits, and a queue to each client."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from hanse.runtime import Runtime
from hanse.serve.engine import Engine, load_engine
from hanse.serve.grammar import compile_schema
from hanse.serve.request import Output, Request, Stats
from hanse.serve.sequence import Sequence

_Piece = Output | BaseException
_SWITCH_SECONDS = 1e-4


class NativeBackend:
    """`request.Backend` over `engine.Engine`."""

    name = "native"

    def __init__(self, engine: Engine, runtime: Runtime) -> None:
        self.engine = engine
        self.tokenizer: Tokenizer = engine.tokenizer
        self.context = engine.context
        self.end_ids = engine.end_ids
        self._runtime = runtime
        self._inbox: deque[Callable[[], None]] = deque()
        self._outbox: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Queue[_Piece], _Piece]]] = {}
        self._asked = threading.Event()
        self._is_closing = False
        self._tells: dict[Sequence, Callable[[_Piece], None]] = {}
        self._stats = engine.stats()
        self._thread = threading.Thread(target=self._run, name="hanse-engine", daemon=True)
        self._thread.start()

    @classmethod
    def open(
        cls, folder: Path, runtime: Runtime | None = None, *, context: int | None = None, **settings: Any
    ) -> NativeBackend:
        """Open a model folder or a released folder.

        Args:
            settings: see `engine.Engine`.

        Raises:
            InputError: if the folder holds no model, no tokenizer, or two that do not fit together.
        """
        runtime = runtime or Runtime.detect()
        runtime.apply()
        return cls(load_engine(folder, runtime, context=context, **settings), runtime)

    async def generate(self, request: Request) -> AsyncIterator[Output]:
        """See `request.Backend`."""
        if (schema := request.sampling.schema) is not None:  # here it keeps no other request waiting; it is kept
            size = self.engine.model.config.vocab_size
            await asyncio.to_thread(compile_schema, schema, self.tokenizer, size)
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[_Piece] = asyncio.Queue()
        held: list[Sequence] = []

        def tell(piece: _Piece) -> None:
            self._outbox.setdefault(loop, []).append((pieces, piece))
            if held and (isinstance(piece, BaseException) or piece.finish is not None):
                self._tells.pop(held[0], None)

        def submit() -> None:
            try:
                held.append(self.engine.submit(request, tell))
                self._tells[held[0]] = tell
            except Exception as error:  # handed to whoever asked
                tell(error)

        def cancel() -> None:
            for sequence in held:
                self.engine.cancel(sequence)

        self._ask(submit)
        is_over = False
        try:
            while not is_over:
                piece = await pieces.get()
                if isinstance(piece, BaseException):
                    is_over = True
                    raise piece
                is_over = piece.finish is not None
                yield piece
        finally:
            if not is_over and not self._is_closing:
                self._ask(cancel)

    def stats(self) -> Stats:
        """As of the last step, with those that were not looked at yet among the waiting."""
        return replace(self._stats, waiting=self._stats.waiting + len(self._inbox))

    async def close(self) -> None:
        """End every request and the thread."""
        self._is_closing = True
        self._asked.set()
        await asyncio.to_thread(self._thread.join)

    def _ask(self, what: Callable[[], None]) -> None:
        if self._is_closing:
            raise RuntimeError("the engine is closed")
        self._inbox.append(what)
        self._asked.set()

    def _run(self) -> None:
        # A step is hundreds of short operators, and each asks for Python's lock again: while the server writes to its
        # clients, that would take 5 ms every time.
        sys.setswitchinterval(_SWITCH_SECONDS)
        self._runtime.apply()  # the number of threads is each thread's own
        while not self._is_closing:
            if self.engine.is_idle:
                self._asked.wait()
            self._asked.clear()
            while self._inbox:
                self._inbox.popleft()()
            try:
                self.engine.step()
            except Exception as error:  # the requests of this step fail; the next ones find an empty engine
                for tell in list(self._tells.values()):
                    tell(error)
                self.engine.abandon()
            self._stats = self.engine.stats()
            self._deliver()
        for sequence in list(self._tells):
            self.engine.cancel(sequence)
        self._deliver()

    def _deliver(self) -> None:
        """One wake-up of the event loop for all pieces of a step."""
        outbox, self._outbox = self._outbox, {}
        for loop, pieces in outbox.items():
            if not loop.is_closed():
                loop.call_soon_threadsafe(_put, pieces)


def _put(pieces: list[tuple[asyncio.Queue[_Piece], _Piece]]) -> None:
    for queue, piece in pieces:
        queue.put_nowait(piece)
