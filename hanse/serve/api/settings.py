"""What a server allows: to whom, how much, and for how long."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hanse.serve.api.keys import KeyFile

if TYPE_CHECKING:
    from hanse.trace.passages import Filter

#: Host names under which a server on this machine may be asked. Any other was pointed here by somebody else's DNS.
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
PAGE = Path(__file__).parents[1] / "page"


@dataclass(frozen=True)
class Settings:
    """What a server allows. Times are in seconds.

    Attributes:
        keys: who may ask; None: everybody who reaches the port.
        hosts: names that the Host header may carry, without port; None: any.
        is_tuned: whether the model was tuned for conversations; if not, only `/v1/completions` answers.
        temperature: of a request that names none; OpenAI's is 1.
        fingerprint: `system_fingerprint` of every answer; of the weights, so that a change of model shows.
        page: folder of the static page.
        log: called with the access record of every request: no text of users in it.
        queue: answers that may be under way at once, running and waiting; more are refused with 503.
        body_bytes: longest request body.
        body_seconds: for the whole body to arrive.
        answer_seconds: for one answer; after that it ends as it is.
        head_seconds: for the head of a request to arrive, and how long an unused connection is kept.
        send_seconds: how long a client may leave what was sent to it unread.
        grace_seconds: for running answers when the server is asked to stop.
        connections: open at once.
        withdrawn: passages at which an answer ends; None: none are known.
    """

    keys: KeyFile | None = None
    hosts: frozenset[str] | None = LOOPBACK_NAMES
    is_tuned: bool = True
    temperature: float = 1.0
    fingerprint: str | None = None
    page: Path = PAGE
    log: Callable[[Mapping[str, object]], None] | None = None
    queue: int = 256
    body_bytes: int = 4 * 2**20
    body_seconds: float = 30.0
    answer_seconds: float = 600.0
    head_seconds: float = 10.0
    send_seconds: float = 60.0
    grace_seconds: float = 10.0
    connections: int = 1024
    withdrawn: Filter | None = None
