"""A connection that nobody can hold for ever: bounds on what uvicorn's HTTP/1.1 protocol leaves open.

uvicorn ends a connection that is unused between two requests. It waits without end for the head of a request, for a
client that does not read, and for what follows a refused body. All three cost a place each, so they are ended here.
"""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from hanse.serve.api.errors import INVALID, SERVER
from hanse.serve.api.settings import Settings

#: Seconds between two looks at a connection.
LOOK_SECONDS = 1.0
#: Seconds for what is still on its way to a response that was given before its request had arrived.
LINGER_SECONDS = 5.0
#: What the kernel keeps for a client that reads slowly; a stream of tokens never fills it.
SEND_BUFFER_BYTES = 128 * 1024


def protocol(settings: Settings) -> type[H11Protocol]:
    """The protocol class that uvicorn is given, with the bounds of `settings`."""
    return type("Bounded", (Connection,), {"settings": settings})


class Connection(H11Protocol):
    """One connection, looked at every second."""

    settings: Settings
    _look: asyncio.TimerHandle | None = None
    _phase: tuple[Any, ...] = ()
    _phase_since = 0.0
    _full_since: float | None = None
    _answered = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there."""
        super().connection_made(transport)
        _bound(transport)
        if len(self.connections) > self.settings.connections:
            body = _error("The server has too many connections; try again in a moment.", SERVER, "overloaded")
            transport.write(_raw(503, b"Service Unavailable", body))
            transport.close()
        self._phase_since = self.loop.time()
        self._look = self.loop.call_later(LOOK_SECONDS, self._check)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        if self._look is not None:
            self._look.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """What came is not HTTP."""
        try:
            body = _error("This is no HTTP/1.1 request.", INVALID, "bad_http")
            headers = [
                ("Content-Type", "application/json"),
                ("Content-Length", str(len(body))),
                ("Connection", "close"),
            ]
            for event in (h11.Response(status_code=400, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        except h11.LocalProtocolError:  # in the middle of a response
            pass
        self.transport.close()

    def on_response_complete(self) -> None:
        """A request has its response."""
        self._answered += 1
        super().on_response_complete()

    def _check(self) -> None:
        now = self.loop.time()
        if self._is_late(now):
            self.transport.abort()
            return
        self._look = self.loop.call_later(LOOK_SECONDS, self._check)

    def _is_late(self, now: float) -> bool:
        """Whether this connection has been waiting for its client for too long."""
        # With the count in it, the next request is another phase even where no look fell in between.
        phase = (self.conn.their_state, self._answered, self.transport.is_closing())
        if phase != self._phase:
            self._phase, self._phase_since = phase, now
        waited = now - self._phase_since
        is_full = self.transport.get_write_buffer_size() > 0
        if not is_full:
            self._full_since = None
        elif self._full_since is None:
            self._full_since = now
        if self._full_since is not None and now - self._full_since > self.settings.send_seconds:
            return True
        if self.transport.is_closing():
            return not is_full and waited > LINGER_SECONDS
        if self.conn.their_state is h11.IDLE:
            return waited > self.settings.head_seconds
        is_answered = self.cycle is not None and self.cycle.response_complete
        return is_answered and waited > LINGER_SECONDS


def _bound(transport: asyncio.Transport) -> None:
    """Have the kernel notice a peer that vanished, and keep little for one that does not read."""
    sock = transport.get_extra_info("socket")
    if sock is None:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):  # not everywhere outside Linux
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _error(message: str, type: str, code: str) -> bytes:
    return json.dumps({"error": {"message": message, "type": type, "param": None, "code": code}}).encode()


def _raw(status: int, reason: bytes, body: bytes) -> bytes:
    return (
        b"HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nRetry-After: 1\r\n"
        b"Connection: close\r\n\r\n%s" % (status, reason, len(body), body)
    )
