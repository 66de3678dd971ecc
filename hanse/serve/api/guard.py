"""What every request passes before anything reads it: name, origin, key, limits, size; and what every response carries.

A plain ASGI layer outside of everything else, so that a refusal costs nothing and no failure escapes it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hanse.serve.api.call import Call, ClientGone
from hanse.serve.api.errors import ApiError, internal, report
from hanse.serve.api.keys import Key
from hanse.serve.api.limits import Quotas
from hanse.serve.api.metrics import Metrics
from hanse.serve.api.settings import Settings

#: What costs something, so that limits count it.
ANSWERS = ("/v1/chat/completions", "/v1/completions")
KNOWN = frozenset({*ANSWERS, "/v1/models", "/health", "/metrics", "/record", "/trace", "/openapi.json", "/"})
#: What anybody may have who reaches the port: nothing of the model or of its users.
OPEN = frozenset({"/health", "/openapi.json", "/"})
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_BEARER = re.compile(r"bearer +(\S+) *", re.IGNORECASE)


class Guard:
    """The outermost layer of the application.

    Args:
        pages: paths of the static page, which are open like those of `OPEN`.
    """

    def __init__(
        self, app: ASGIApp, *, settings: Settings, quotas: Quotas, metrics: Metrics, pages: Iterable[str]
    ) -> None:
        self._app = app
        self._settings = settings
        self._quotas = quotas
        self._metrics = metrics
        self._pages = frozenset(pages)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI 3."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = Call(scope["method"], self._label(scope["path"]))
        scope.setdefault("state", {})["call"] = call
        out = _Outgoing(send, call)
        try:
            async with call.release:
                try:
                    receive = await self._admit(scope, receive, call)
                    await self._app(scope, receive, out)
                except ApiError as refusal:
                    await refusal.response()(scope, receive, out)
        except (ClientGone, ClientDisconnect):
            call.status = call.status or 499
        except Exception as error:
            report(error)
            if not out.has_begun:
                await internal().response()(scope, receive, out)
        finally:
            self._metrics.count(call)
            if self._settings.log is not None:
                self._settings.log(_line(call))

    async def _admit(self, scope: Scope, receive: Receive, call: Call) -> Receive:
        """Refuse, or return what hands the body on."""
        headers = Headers(scope=scope)
        self._check_origin(headers)
        if self._settings.keys is not None and call.path not in OPEN and scope["path"] not in self._pages:
            call.key = self._key(headers)
        if scope["method"] != "POST":
            return receive
        if call.path in ANSWERS:
            if call.key is not None:
                call.release.callback(self._quotas.begin(call.key))
            if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
                raise ApiError(415, "The body has to be JSON, with the header Content-Type: application/json.")
        body = await self._body(headers, receive)
        return _replay(body, receive)

    def _check_origin(self, headers: Headers) -> None:
        """Turn away what a foreign page makes a browser send: by a name of its own, or from its own origin."""
        host = headers.get("host", "")
        name = _host_name(host)
        if self._settings.hosts is not None and name not in self._settings.hosts:
            raise ApiError(
                403,
                "The Host header names another server than this one; to serve under a name, start with --allow-host.",
                code="host_not_allowed",
            )
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            raise ApiError(403, "Pages of other origins may not ask this server.", code="origin_not_allowed")

    def _key(self, headers: Headers) -> Key:
        assert self._settings.keys is not None
        given = _BEARER.fullmatch(headers.get("authorization", ""))
        key = self._settings.keys.find(given[1].encode("latin-1")) if given else None
        if key is not None and not key.is_expired():
            return key
        why = "has expired" if key else "is wrong" if given else "is missing"
        code = "expired_api_key" if key else "invalid_api_key"
        told = f"The API key {why}; send Authorization: Bearer KEY."
        raise ApiError(401, told, code=code, headers={"WWW-Authenticate": "Bearer"})

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        limit = self._settings.body_bytes
        too_long = ApiError(413, f"The body is longer than {limit} bytes.", code="body_too_large")
        declared = headers.get("content-length", "")
        if declared.isdecimal() and int(declared[:20]) > limit:
            raise too_long
        body = bytearray()
        try:
            async with asyncio.timeout(self._settings.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGone
                    body += message.get("body", b"")
                    if len(body) > limit:
                        raise too_long
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            told = f"The body did not arrive within {self._settings.body_seconds:g} s."
            raise ApiError(408, told, code="body_too_slow", headers={"Connection": "close"}) from None

    def _label(self, path: str) -> str:
        if path in KNOWN:
            return path
        if path.startswith("/v1/models/"):
            return "/v1/models"
        return "page" if path in self._pages else "other"


class _Outgoing:
    """The way back: adds the headers that every response carries, and remembers the status."""

    def __init__(self, send: Send, call: Call) -> None:
        self._send = send
        self._call = call
        self.has_begun = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.has_begun = True
            self._call.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
            # The page may be kept and asked for again by its tag; nothing else is kept anywhere.
            headers["Cache-Control"] = "no-cache" if self._call.path in ("/", "page") else "no-store"
        await self._send(message)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body once, and then waits for the client to go."""
    waiting = [body]

    async def again() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return again


def _host_name(host: str) -> str:
    """`localhost:8000` -> `localhost`, `[::1]:8000` -> `::1`."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _line(call: Call) -> dict[str, object]:
    return {
        "key": call.key_name or None,
        "method": call.method,
        "path": call.path,
        "status": call.status,
        "prompt_tokens": call.prompt_tokens,
        "generated_tokens": call.generated_tokens,
        "seconds": round(call.seconds(), 4),
    }
