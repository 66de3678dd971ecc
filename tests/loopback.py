"""A port of this machine for the processes that a test starts."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def reserved_port() -> Iterator[int]:
    """A free port, which stays free for those who were told its number.

    It is bound, so that the system gives it to nobody else and to no outgoing connection. Nobody listens, and with
    SO_REUSEADDR on both sides a server that asks for it by number gets it all the same.
    """
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield int(held.getsockname()[1])
