"""One request on its way through the server: who asks, what it used, and what has to be given back at its end."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from starlette.requests import Request

from hanse.serve.api.keys import Key


class ClientGone(Exception):
    """The client closed the connection: nobody waits for the answer any more."""


@dataclass
class Call:
    """A request as the access log, the metrics and the limits see it: no text of users.

    Attributes:
        method, path: of the request; the path is one that the server knows, or "other".
        key: who asks; None where nobody has to say so.
        started: of `time.monotonic`.
        first: when the first piece of an answer was there.
        status: of the response; 499 when the client went before one began.
        prompt_tokens, generated_tokens: what was computed.
        release: runs what has to be undone, however the request ends.
    """

    method: str
    path: str
    key: Key | None = None
    started: float = field(default_factory=time.monotonic)
    first: float | None = None
    status: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    release: AsyncExitStack = field(default_factory=AsyncExitStack)

    @property
    def key_name(self) -> str:
        """Of the key; empty where none was asked for."""
        return self.key.name if self.key else ""

    def seconds(self) -> float:
        """Since the request began."""
        return time.monotonic() - self.started


def call_of(request: Request) -> Call:
    """The call that the guard made for a request."""
    found = request.scope["state"]["call"]
    assert isinstance(found, Call)
    return found
