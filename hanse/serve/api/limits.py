"""How much at once and how much a day: a bounded queue for all, and the allowance of each key."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from hanse.serve.api.errors import SERVER, ApiError
from hanse.serve.api.keys import Key

_MINUTE, _DAY = 60, 86_400


class Places:
    """The answers that may be under way at once, running or waiting in the engine."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.taken = 0

    def take(self, count: int) -> Callable[[], None]:
        """Take places for `count` answers. Returns what gives them back.

        Raises:
            ApiError: 400 if there could never be so many, 503 if there are not now.
        """
        if count > self.total:
            raise ApiError(400, f"{count} answers in one request; this server gives at most {self.total}.", param="n")
        if self.taken + count > self.total:
            raise ApiError(
                503,
                f"The server is busy with {self.taken} answers; try again in a moment.",
                type=SERVER,
                code="overloaded",
                headers={"Retry-After": "1"},
            )
        self.taken += count
        return lambda: self._give_back(count)

    def _give_back(self, count: int) -> None:
        self.taken -= count


@dataclass
class _Use:
    """What a key used: when its questions of the last minute began, how many run, and the tokens of the day."""

    begun: deque[float] = field(default_factory=deque)
    running: int = 0
    day: int = 0
    tokens: int = 0


class Quotas:
    """What each key used, in memory: a restart starts the day anew.

    Args:
        now: seconds since 1970, UTC.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._uses: dict[str, _Use] = {}

    def begin(self, key: Key) -> Callable[[], None]:
        """Count a question. Returns what to call when it is answered.

        Raises:
            ApiError: 429 with Retry-After, if the key has used what it may.
        """
        use, allowed, now = self._use(key), key.allowance, self._now()
        while use.begun and use.begun[0] <= now - _MINUTE:
            use.begun.popleft()
        if allowed.requests_per_minute is not None and len(use.begun) >= allowed.requests_per_minute:
            wait = int(use.begun[0] + _MINUTE - now) + 1
            raise _too_much(f"{allowed.requests_per_minute} requests a minute", wait, "requests", "rate_limit_exceeded")
        if allowed.concurrent is not None and use.running >= allowed.concurrent:
            raise _too_much(f"{allowed.concurrent} requests at once", 1, "requests", "rate_limit_exceeded")
        if allowed.tokens_per_day is not None and use.tokens >= allowed.tokens_per_day:
            wait = int(_DAY - now % _DAY) + 1
            raise _too_much(f"{allowed.tokens_per_day} tokens a day", wait, "tokens", "insufficient_quota")
        if allowed.requests_per_minute is not None:
            use.begun.append(now)
        use.running += 1
        return lambda: self._end(use)

    def spend(self, key: Key | None, tokens: int) -> bool:
        """Count tokens of a prompt or an answer; False when the key has no more for today."""
        if key is None:
            return True
        use = self._use(key)
        use.tokens += tokens
        return key.allowance.tokens_per_day is None or use.tokens < key.allowance.tokens_per_day

    def _use(self, key: Key) -> _Use:
        use = self._uses.setdefault(key.name, _Use())
        today = int(self._now() // _DAY)
        if use.day != today:
            use.day, use.tokens = today, 0
        return use

    def _end(self, use: _Use) -> None:
        use.running -= 1


def _too_much(limit: str, wait_seconds: int, type: str, code: str) -> ApiError:
    return ApiError(
        429,
        f"This key may use {limit}; try again in {wait_seconds} s.",
        type=type,
        code=code,
        headers={"Retry-After": str(wait_seconds)},
    )
