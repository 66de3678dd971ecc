"""A real browser in front of a real server, and an engine that says what a test wants."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import socket
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from hanse.serve.request import Output, Request, Stats
from hanse.tune.template import encode_text

playwright = pytest.importorskip("playwright.sync_api")
uvicorn = pytest.importorskip("uvicorn")
expect = playwright.expect
#: For what has to come at all, however busy the machine is; no test waits that long unless it fails.
PATIENCE_SECONDS = 120.0
expect.set_options(timeout=PATIENCE_SECONDS * 1000)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
PAGE = Path(__file__).parents[2] / "hanse" / "serve" / "page"
TEXTS: dict[str, dict[str, str]] = json.loads((PAGE / "texts.json").read_text(encoding="utf-8"))
EN = TEXTS["en"]
WAIT = object()


class Scripted:
    """An engine that says what a test wants, when it wants: hostile text, or nothing for as long as somebody waits."""

    name = "scripted"
    context = 100_000

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.end_ids: frozenset[int] = frozenset()
        self.script: list[Any] = []
        self.requests: list[Request] = []
        self.may_go_on = threading.Event()
        self.was_closed = threading.Event()

    def says(self, *script: Any) -> None:
        self.script = list(script)
        self.requests.clear()
        self.may_go_on.clear()
        self.was_closed.clear()

    async def generate(self, request: Request) -> AsyncIterator[Output]:
        self.requests.append(request)
        try:
            for step in self.script:
                if step is WAIT:
                    while not self.may_go_on.is_set():
                        await asyncio.sleep(0.01)
                elif isinstance(step, Exception):
                    raise step
                else:
                    yield Output(tokens=tuple(self._tokens(step)), text=step)
            yield Output(finish="stop")
        finally:
            self.was_closed.set()

    def _tokens(self, text: str) -> list[int]:
        control = self.tokenizer.token_to_id(text)
        return encode_text(self.tokenizer, text) if control is None else [control]

    def stats(self) -> Stats:
        return Stats()

    async def close(self) -> None:
        return None

    def asked(self, number: int = -1) -> str:
        """The prompt of a request as text, with its control tokens."""
        return self.tokenizer.decode(list(self.requests[number].prompt), skip_special_tokens=False)


@dataclass
class Site:
    """A server on loopback, at a port that the system gave."""

    backend: Any
    release: Path | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        from hanse.serve.api import Settings, create_app

        app = create_app(self.backend, model="toy", release=self.release, settings=Settings(**self.settings))
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/"
        config = uvicorn.Config(app, log_level="critical", lifespan="on", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(timeout=PATIENCE_SECONDS)
        self._socket.close()


class Visitor:
    """A person with a browser of their own, whose complaints are kept."""

    def __init__(
        self, browser: Any, url: str, *, is_locked: bool = False, expected: str = "$^", locale: str = "en-GB"
    ) -> None:
        self.expected = re.compile(expected)
        self.context = browser.new_context(viewport={"width": 1280, "height": 800}, locale=locale)
        self.context.set_default_timeout(PATIENCE_SECONDS * 1000)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.foreign: list[str] = []
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self._watch(request.url, url))
        self.page.goto(url)
        if not is_locked:
            expect(self.page.locator("#title")).not_to_have_text("Hanse")  # the model has told its name

    def _hear(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def _watch(self, asked: str, url: str) -> None:
        if not asked.startswith((url, "blob:", "data:")):
            self.foreign.append(asked)

    def ask(self, text: str) -> None:
        self.page.fill("#message", text)
        self.page.press("#message", "Enter")

    def wait_for_answer(self) -> None:
        expect(self.page.locator("#send")).to_be_visible()

    def ask_and_wait(self, text: str) -> None:
        self.ask(text)
        expect(self.page.locator(".question .bubble").last).to_have_text(text)
        self.wait_for_answer()

    def button(self, name: str) -> Any:
        return self.page.get_by_role("button", name=name, exact=True)
