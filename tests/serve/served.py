"""A real server on a free port of this machine, and an engine that says what it is told."""

from __future__ import annotations

import asyncio
import signal
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
from fastapi import FastAPI
from tokenizers import Tokenizer

from hanse.serve.api import Settings, create_app, server
from hanse.serve.request import Backend, Output, Request, Stats

MODEL = "toy"
#: For what has to come at all, however busy the machine is; no test waits that long unless it fails.
PATIENCE_SECONDS = 120.0


@dataclass
class Scripted:
    """Gives out `pieces`, and then ends, fails, waits for ever, or goes on for ever.

    It stands in for what no engine can be made to do on demand: certain tokens, and never answering.
    """

    tokenizer: Tokenizer
    pieces: Sequence[Output] = ()
    then: str = "stop"
    error: Exception | None = None
    name: str = "scripted"
    context: int = 4096
    end_ids: frozenset[int] = frozenset()
    requests: list[Request] = field(default_factory=list)
    running: int = 0
    is_closed: bool = False

    async def generate(self, request: Request) -> AsyncIterator[Output]:
        self.requests.append(request)
        self.running += 1
        try:
            for piece in self.pieces:
                yield piece
            if self.error is not None:
                raise self.error
            if self.then == "hang":
                await asyncio.Event().wait()
            while self.then == "endless":
                yield Output(tokens=(65,) * 512, text="a" * 512)
                await asyncio.sleep(0)
            yield Output(finish=self.then)  # type: ignore[arg-type]
        finally:
            self.running -= 1

    def stats(self) -> Stats:
        return Stats(running=self.running)

    async def close(self) -> None:
        self.is_closed = True


@dataclass(frozen=True)
class Served:
    """A running server.

    Attributes:
        url: without a slash at its end.
        settle: waits until nothing is under way any more, in the server and in the engine.
    """

    url: str
    app: FastAPI
    backend: Backend
    port: int

    def client(self, key: str = "none", **options: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(self.url + path, timeout=PATIENCE_SECONDS, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return httpx.post(self.url + path, timeout=PATIENCE_SECONDS, **options)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_SECONDS)

    def is_idle(self) -> bool:
        stats = self.backend.stats()
        under_way = "hanse_answers_under_way 0.0" in self.get("/metrics").text
        return under_way and not stats.running and not stats.waiting

    def settle(self) -> None:
        until(self.is_idle)


def until(condition: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
    """Wait for a condition; failing to come, it is an error."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "this never came"
        time.sleep(0.01)


@contextmanager
def serving(
    backend: Backend, *, release: Path | None = None, tls: ssl.SSLContext | None = None, **settings: Any
) -> Iterator[Served]:
    """A server around a backend, which is closed with it."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # a command that was tested before may have set it otherwise
    allowed = Settings(**settings)
    app = create_app(backend, model=MODEL, release=release, settings=allowed)
    began = threading.Event()
    running = server.server(app, allowed, tls=tls, announce=began.set)
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listening:
        port = listening.getsockname()[1]
        loop = threading.Thread(target=lambda: asyncio.run(running.serve(sockets=[listening])))
        loop.start()
        try:
            assert began.wait(PATIENCE_SECONDS)
            yield Served(f"{'https' if tls else 'http'}://127.0.0.1:{port}", app, backend, port)
        finally:
            running.should_exit = True
            loop.join(PATIENCE_SECONDS)
            assert not loop.is_alive(), "the server does not stop"
