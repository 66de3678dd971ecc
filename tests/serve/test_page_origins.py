"""The page shows where an answer stands in the training texts, where the server has their index."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from visiting import EN, Scripted, Site, Visitor, expect, needs_browser

from hanse.store.stage import Store, Work
from hanse.trace.index import indexes

pytest_plugins = ["visiting_fixtures"]

ANSWER = "The harbour of Lübeck froze over in the winter of 1928 and nothing moved."
HOSTILE = "<img src=x onerror=alert(1)> stands in a title, and <script>alert(2)</script> in a text."


def indexed_release(root: Path) -> Path:
    """A release of which two conversations are known, and their index."""
    store = Store.open(root)

    def talk(work: Work) -> None:
        rows = [
            {
                "title": "Harbours",
                "author": "Ida Boy-Ed",
                "url": "https://example.org/harbours",
                "licence": "CC-BY-4.0",
            },
            {"title": HOSTILE, "url": "javascript:alert(3)", "licence": "MIT"},
        ]
        for row, answer in zip(rows, (ANSWER, HOSTILE), strict=True):
            said = [{"role": "user", "content": "Tell me."}, {"role": "assistant", "content": answer}]
            with (work.folder / "train.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps({"id": answer[:5], "language": "en", "source": "talk", **row, "messages": said}))
                file.write("\n")

    def made(work: Work) -> None:
        (work.folder / "content").write_text("x")

    text = store.build("conversations", "talk", "1", definition={}, inputs={}, make=talk).artifact
    release = store.build("release", "talk", "1", definition={}, inputs={"talk": text}, make=made).artifact
    indexes(store, release, build_missing=True)
    return release.path


@needs_browser
def test_an_answer_shows_its_documents_and_no_more_than_text(visit: Any, backend: Scripted, tmp_path: Path) -> None:
    site = Site(backend, release=indexed_release(tmp_path / "store"))
    try:
        guest: Visitor = visit(site.url)
        guest.page.set_viewport_size({"width": 1280, "height": 900})
        backend.says(f"{ANSWER} {HOSTILE}")
        guest.ask_and_wait("Tell me.")
        origins = guest.page.locator(".answer .origins")
        guest.button(EN["origin"]).click()
        expect(origins).to_contain_text("The harbour of Lübeck froze over in the winter of 1928 and nothing moved")
        expect(origins).to_contain_text(EN["originProof"])
        expect(origins).to_contain_text("Harbours, Ida Boy-Ed CC-BY-4.0")
        expect(origins.locator("a")).to_have_count(1)
        expect(origins.locator("a")).to_have_attribute("href", "https://example.org/harbours")
        assert origins.locator("img, script").count() == 0
        guest.button(EN["origin"]).click()
        expect(origins).to_have_count(0)
        backend.says("Nothing of this was ever said before, by anybody, anywhere at all.")
        guest.ask_and_wait("And now?")
        guest.button(EN["origin"]).last.click()
        expect(guest.page.locator(".origins")).to_have_text(re.compile(re.escape(EN["noOrigin"])))
    finally:
        site.end()


@needs_browser
def test_without_an_index_no_button_promises_one(guest: Visitor, backend: Scripted) -> None:
    backend.says("Well")
    guest.ask_and_wait("Hello")
    expect(guest.page.locator(".answer .actions").get_by_role("button", name=EN["origin"])).to_have_count(0)
