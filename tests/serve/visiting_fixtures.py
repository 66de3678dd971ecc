"""A browser, a server and visitors for the tests of the page; loaded as a pytest plugin by them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from test_record import signed_release
from tokenizers import Tokenizer
from visiting import CHROMIUM, PATIENCE_SECONDS, Scripted, Site, Visitor, playwright


@pytest.fixture(scope="module")  # not longer: while the driver lives, no test can run an event loop of its own
def browser() -> Iterator[Any]:
    options = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync"
    )
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM, args=options.split(), timeout=PATIENCE_SECONDS * 1000
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def backend(tokenizer: Tokenizer) -> Scripted:
    return Scripted(tokenizer)


@pytest.fixture(scope="module")
def site(backend: Scripted, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(backend, release=signed_release(tmp_path_factory.mktemp("page")))
    yield site
    site.end()


@pytest.fixture
def visit(browser: Any) -> Iterator[Any]:
    visitors: list[Visitor] = []

    def arrive(url: str, **options: Any) -> Visitor:
        visitors.append(Visitor(browser, url, **options))
        return visitors[-1]

    yield arrive
    for visitor in visitors:
        visitor.context.close()
        unexpected = [each for each in visitor.complaints if not visitor.expected.search(each)]
        assert unexpected == []
        assert visitor.foreign == []


@pytest.fixture
def guest(visit: Any, site: Site) -> Visitor:
    return visit(site.url)
