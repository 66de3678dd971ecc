"""URLs and the path patterns of RFC 9309, which robots.txt, TDMRep and RSL share: a prefix, `*`, and `$` at the end."""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import unquote, urlsplit

MAX_URL = 8192  # characters; what follows can hardly matter to a path pattern
_DEFAULT_PORTS = {"http": 80, "https": 443}


def site(url: str) -> str | None:
    """Host of a URL as robots.txt counts hosts: lower case, IDNA, with any port but the default; None for none."""
    return _split(url)[0]


def target(url: str) -> str | None:
    """Path and query of a URL, "/" at least; None where the URL cannot be read."""
    return _split(url)[1]


@lru_cache(maxsize=64)  # one document asks several times for its own
def _split(url: str) -> tuple[str | None, str | None]:
    try:
        parts = urlsplit(url[:MAX_URL].encode("utf-8", "replace").decode("utf-8"))
        path = parts.path if parts.path.startswith("/") else f"/{parts.path}"
    except ValueError:
        return None, None
    path = f"{path}?{parts.query}" if parts.query else path
    try:
        host, port = parts.hostname, parts.port
        if host and not host.isascii():
            host = host.encode("idna").decode("ascii")
    except ValueError:  # UnicodeError is one
        return None, path
    if not host:
        return None, path
    return (host if port in (None, _DEFAULT_PORTS.get(parts.scheme)) else f"{host}:{port}"), path


class Pattern:
    """A path pattern (RFC 9309, section 2.2.3); percent-encoding makes no difference.

    Every part between two `*` is looked for once and from left to right, so no pattern takes long.
    """

    __slots__ = ("_first", "_is_anchored", "_others", "length")

    def __init__(self, pattern: str) -> None:
        self.length = len(pattern)
        self._is_anchored = pattern.endswith("$")
        self._first, *self._others = [unquote(part) for part in pattern.removesuffix("$").split("*")]

    def covers(self, path: str) -> bool:
        """Whether the pattern covers a target that `decoded` has gone over."""
        if not path.startswith(self._first):
            return False
        if not self._others:
            return not self._is_anchored or path == self._first
        position = len(self._first)
        *middle, last = self._others
        for part in middle:
            found = path.find(part, position)
            if found < 0:
                return False
            position = found + len(part)
        if self._is_anchored:
            return len(path) - len(last) >= position and path.endswith(last)
        return path.find(last, position) >= 0


def decoded(target: str) -> str:
    """A target without percent-encoding, as patterns are compared with it."""
    return unquote(target)
