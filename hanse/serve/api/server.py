"""uvicorn as it is used here: on a socket that is already bound, with bounded connections, without its logs."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress

import uvicorn
from fastapi import FastAPI

from hanse.serve.api.connection import protocol
from hanse.serve.api.settings import Settings


class Server(uvicorn.Server):
    """Calls `announce` once it answers."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server.startup`."""
        await super().startup(sockets)
        if self.started:
            self._announce()


def server(
    app: FastAPI, settings: Settings, *, tls: ssl.SSLContext | None = None, announce: Callable[[], None] = lambda: None
) -> Server:
    """A server for an application of `create_app`."""
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http=protocol(settings),
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="critical",  # uvicorn's lines quote exceptions, and those may quote a conversation
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=int(settings.head_seconds),
        timeout_graceful_shutdown=int(settings.grace_seconds),
        ssl_context_factory=None if tls is None else lambda config, default: tls,
    )
    return Server(config, announce)


def run(make: Callable[[], Server], listening: socket.socket) -> bool:
    """Answer on a socket until SIGINT or SIGTERM; running answers then have `grace_seconds` to end.

    Args:
        make: gives the server; called in the event loop.

    Returns:
        Whether it had begun to answer.
    """
    # asyncio warns of each write to a client that has just left, which is no news here.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    made: list[Server] = []

    async def main() -> None:
        made.append(make())
        await made[0].serve(sockets=[listening])

    # uvicorn raises the signal again after it has stopped in good order.
    with suppress(KeyboardInterrupt):
        asyncio.run(main())
    return bool(made) and made[0].started
