"""The page for everybody: conversations that stay, settings, keyboard, phones, the dark, 24 languages, the record."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from visiting import (
    EN,
    PAGE,
    TEXTS,
    WAIT,
    Scripted,
    Site,
    Visitor,
    expect,
    needs_browser,
)

from hanse.languages import EU24, LANGUAGES

pytest_plugins = ["visiting_fixtures"]

# --------------------------------------------------------------------------- conversations


@needs_browser
def test_a_conversation_survives_a_reload_until_it_is_deleted(guest: Visitor, backend: Scripted) -> None:
    backend.says("Kept")
    guest.ask_and_wait("Remember this")
    guest.page.reload()
    expect(guest.page.locator(".words")).to_have_text("Kept")
    guest.page.click("#new")
    expect(guest.page.locator("#welcome")).to_be_visible()
    guest.page.locator(".entry").click()
    expect(guest.page.locator(".words")).to_have_text("Kept")
    guest.page.locator("#list li").hover()
    guest.button("Delete: Remember this").click()
    guest.page.locator("#delete-dialog .secondary").click()
    expect(guest.page.locator(".entry")).to_have_count(1)
    guest.button("Delete: Remember this").click()
    guest.page.locator("#delete-dialog .danger").click()
    expect(guest.page.locator(".entry")).to_have_count(0)
    guest.page.reload()
    expect(guest.page.locator("#welcome")).to_be_visible()


@needs_browser
def test_what_is_exported_can_be_imported_and_other_files_are_refused(
    guest: Visitor, backend: Scripted, tmp_path: Path
) -> None:
    backend.says("Kept")
    guest.ask_and_wait("Export this")
    with guest.page.expect_download() as download:
        guest.page.click("#export")
    path = tmp_path / "kept.json"
    download.value.save_as(path)
    guest.page.evaluate("localStorage.clear()")
    guest.page.goto(guest.page.url.partition("#")[0])
    guest.page.reload()
    expect(guest.page.locator(".entry")).to_have_count(0)
    kept = json.loads(path.read_text())
    for broken in (
        "{",
        "[]",
        json.dumps({**kept, "format": "x"}),
        json.dumps({**kept, "conversations": [{"id": "a"}]}),
    ):
        bad = tmp_path / "bad.json"
        bad.write_text(broken)
        guest.page.set_input_files("#file", bad)
        expect(guest.page.locator("#notice")).to_have_text(EN["badFile"])
        guest.page.evaluate("document.getElementById('notice').textContent = ''")
    guest.page.set_input_files("#file", path)
    guest.page.locator(".entry").click()
    expect(guest.page.locator(".words")).to_have_text("Kept")
    expect(guest.page.locator("#notice")).to_be_hidden()


HARMS: list[dict[str, Any]] = [
    {"chosen": "constructor"},
    {"nodes": {"__proto__": {"id": "__proto__", "parent": None, "role": "user", "content": "x"}}},
    {"nodes": {"a": {"id": "a", "parent": "a", "role": "user", "content": "x", "chosen": "a"}}},
    {"nodes": {"a": {"id": "a", "parent": None, "role": "assistant", "content": "x", "state": "constructor"}}},
    {"id": "../x"},
    {"title": {}},
]


@needs_browser
def test_harmful_files_cannot_break_the_page(guest: Visitor, backend: Scripted, tmp_path: Path) -> None:
    backend.says("Well")
    for number, harm in enumerate(HARMS):
        made = {"id": "x", "title": "<b>", "made": "", "changed": str(number), "system": "", "chosen": "a", "nodes": {}}
        path = tmp_path / f"{number}.json"
        kept = {"format": "hanse-conversations", "version": 1, "conversations": [{**made, **harm}]}
        path.write_text(json.dumps(kept))
        guest.page.set_input_files("#file", path)
        expect(guest.page.locator("#file")).to_have_value("")
        for entry in guest.page.locator(".entry").all():
            entry.click()
        guest.page.click("#new")
        guest.ask_and_wait(f"And after {number}?")
        expect(guest.page.locator(".words")).to_have_text("Well")


@needs_browser
def test_settings_reach_the_engine_and_stay(guest: Visitor, backend: Scripted) -> None:
    guest.page.click("#open-settings")
    form = guest.page.locator("#settings-form")
    for name, value in {"temperature": "0.5", "top_p": "0.9", "top_k": "7", "max_tokens": "33", "seed": "5"}.items():
        form.locator(f"[name={name}]").fill(value)
    form.locator("[name=system]").fill("Be brief.")
    form.locator("[name=answerLanguage]").select_option("mt")
    form.locator("[name=single]").check()
    form.locator("[name=temperature]").fill("-1")
    guest.page.keyboard.press("Tab")
    guest.page.keyboard.press("Escape")
    backend.says("Iva")
    guest.ask_and_wait("Hello")
    sampling = backend.requests[0].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.9, 7)  # -1 was refused
    assert (sampling.max_tokens, sampling.seed) == (33, 5)
    assert backend.asked().startswith("<|system|>Be brief.\nWieġeb bil-Malti.<|end_of_turn|><|user|>Hello")
    guest.ask_and_wait("Alone")
    assert "Hello" not in backend.asked()
    guest.page.reload()
    guest.button(EN["again"]).last.click()
    expect(guest.page.locator(".branches")).to_have_text("2/2")
    guest.wait_for_answer()
    assert backend.requests[-1].sampling.seed == 6  # the same seed would give the same answer


# --------------------------------------------------------------------------- everybody, everywhere


@needs_browser
def test_everything_needed_can_be_done_by_keyboard(guest: Visitor, backend: Scripted) -> None:
    keyboard = guest.page.keyboard
    expect(guest.page.locator("#message")).to_be_focused()
    backend.says("One", WAIT)
    keyboard.type("First line")
    keyboard.press("Shift+Enter")
    keyboard.type("second")
    keyboard.press("Enter")
    expect(guest.page.locator(".bubble")).to_have_text("First line\nsecond")
    expect(guest.page.locator(".words")).to_have_text("One")
    keyboard.press("Escape")
    expect(guest.page.locator(".state")).to_have_text(EN["stopped"])
    keyboard.press("ArrowUp")
    expect(guest.page.locator(".edit textarea")).to_be_focused()
    keyboard.press("Escape")
    expect(guest.page.locator(".edit")).to_have_count(0)
    guest.page.locator("#message").focus()
    backend.says("Two")
    keyboard.press("ArrowUp")
    keyboard.type("!")
    keyboard.press("Enter")
    expect(guest.page.locator(".words")).to_have_text("Two")
    expect(guest.page.locator("#message")).to_be_focused()
    guest.wait_for_answer()
    keyboard.press("Control+k")
    expect(guest.page.locator("#welcome")).to_be_visible()
    is_open = guest.page.locator("#panel").is_visible()
    keyboard.press("Control+i")
    expect(guest.page.locator("#panel")).to_be_visible(visible=not is_open)


@needs_browser
def test_every_control_has_a_name_and_can_be_reached_by_tab(guest: Visitor, backend: Scripted) -> None:
    backend.says("Named")
    guest.ask_and_wait("Names?")
    nameless = guest.page.evaluate(
        """() => [...document.querySelectorAll("button, input, textarea, select, summary")]
          .filter(each => each.checkVisibility() && !each.ariaHidden)
          .filter(each => !each.ariaLabel && !each.textContent.trim() && !each.labels?.length)
          .map(each => each.outerHTML)"""
    )
    assert nameless == []
    guest.page.evaluate("document.activeElement.blur()")
    reached = set()
    for _ in range(60):
        guest.page.keyboard.press("Tab")
        reached.add(guest.page.evaluate("document.activeElement.id || document.activeElement.className"))
    assert {"skip", "new", "toggle-conversations", "toggle-panel", "message", "open-settings", "record"} <= reached


@needs_browser
def test_nothing_is_wider_than_a_small_phone(guest: Visitor, backend: Scripted) -> None:
    guest.page.set_viewport_size({"width": 360, "height": 740})
    backend.says("w" * 300 + "\n\n| a | b |\n|---|---|\n|" + "c" * 200 + "|d|\n\n```\n" + "e" * 300 + "\n```")
    guest.ask_and_wait("f" * 300)
    width = (
        "Math.max(...[...document.querySelectorAll('html, body, #scroll, .side, .panel-body')].map(e => e.scrollWidth))"
    )
    assert guest.page.evaluate(width) <= 360
    for side in ("conversations", "panel"):
        guest.page.click(f"#toggle-{side}")
        expect(guest.page.locator(f"#{side}")).to_be_in_viewport()
        assert guest.page.locator("#main").evaluate("each => each.inert")
        assert guest.page.evaluate(width) <= 360
        guest.page.keyboard.press("Escape")
        expect(guest.page.locator(f"#{side}")).to_be_hidden()
        expect(guest.page.locator(f"#toggle-{side}")).to_be_focused()
    guest.page.click("#toggle-conversations")
    guest.page.click("#open-settings")
    assert guest.page.locator("#settings-dialog").bounding_box()["width"] <= 360
    too_small = guest.page.evaluate(  # WCAG 2.2, 2.5.8
        """() => [...document.querySelectorAll("button, summary, select, input")]
          .filter(each => each.checkVisibility({visibilityProperty: true}) && !each.matches(".hidden"))
          .filter(each => each.getBoundingClientRect().height < 24 || each.getBoundingClientRect().width < 24)
          .map(each => each.outerHTML)"""
    )
    assert too_small == []


@needs_browser
def test_dark_and_light_follow_the_system_until_one_is_chosen(guest: Visitor) -> None:
    def ground() -> str:
        return guest.page.evaluate("getComputedStyle(document.body).backgroundColor")

    guest.page.emulate_media(color_scheme="light")
    light = ground()
    guest.page.emulate_media(color_scheme="dark")
    dark = ground()
    assert light != dark
    guest.page.click("#open-settings")
    guest.page.select_option("[name=theme]", "light")
    assert ground() == light
    guest.page.reload()
    assert ground() == light


@needs_browser
def test_still_pictures_for_those_who_want_them(guest: Visitor, backend: Scripted) -> None:
    guest.page.emulate_media(reduced_motion="reduce")
    backend.says(WAIT)
    guest.ask("Wait")
    expect(guest.page.locator(".dots i").first).to_be_visible()
    assert guest.page.locator(".dots i").first.evaluate("each => getComputedStyle(each).animationName") == "none"
    backend.may_go_on.set()


@needs_browser
def test_the_panel_tells_the_record_of_the_release(guest: Visitor, site: Site) -> None:
    panel = guest.page.locator("#panel")
    expect(panel).to_be_visible()
    for told in (EN["holds"], "Ελληνικά", "75.0%", "laws", "CC-BY-SA-4.0", "share-alike", EN["noIndex"], "1.5K"):
        expect(panel).to_contain_text(told)
    panel.get_by_text("README.md").click()
    expect(panel.locator(".paper h4").first).to_have_text("Toy: the model")
    assert panel.locator(".paper a").count() == 0


@needs_browser
def test_a_model_without_a_record_says_so(visit: Any, backend: Scripted) -> None:
    site = Site(backend)
    try:
        guest = visit(site.url)
        panel = guest.page.locator("#panel")
        expect(panel.locator(".missing")).not_to_have_count(0)
        for row in panel.locator(".figures dd").all():
            expect(row).to_have_text(EN["notRecorded"])
    finally:
        site.end()


@needs_browser
def test_the_page_speaks_the_chosen_language_also_after_a_reload(guest: Visitor) -> None:
    for code in ("el", "ga", "mt", "bg"):
        guest.page.locator(f"#tongues [lang={code}]").click()
        expect(guest.page.locator("#welcome h2")).to_have_text(TEXTS[code]["welcome"])
    guest.page.reload()
    expect(guest.page.locator("html")).to_have_attribute("lang", "bg")
    expect(guest.button(TEXTS["bg"]["send"])).to_be_visible()


@needs_browser
def test_the_page_begins_in_the_language_of_the_browser(visit: Any, site: Site) -> None:
    guest = visit(site.url, locale="mt-MT")
    expect(guest.page.locator("#welcome h2")).to_have_text(TEXTS["mt"]["welcome"])


def test_every_language_has_every_text() -> None:
    assert tuple(TEXTS) == EU24
    for code, texts in TEXTS.items():
        assert texts.keys() == EN.keys(), code
        assert all(text == text.strip() and text for text in texts.values()), code
        assert "{seconds}" in texts["busy"], code
        same = [name for name in texts if texts[name] == EN[name]]
        assert code == "en" or len(same) <= 6, f"{code}: {same}"
    used = " ".join(path.read_text(encoding="utf-8") for path in (*PAGE.glob("*.js"), *PAGE.glob("*.html")))
    assert {name for name in EN if not re.search(rf"\b{name}\b", used)} == set()
    named = set(re.findall(r'data-(?:text|label|placeholder)="(\w+)"|\btext\("(\w+)"', used))
    assert {name for pair in named for name in pair if name} <= EN.keys()


def test_the_names_of_the_languages_are_their_own() -> None:
    found = dict(re.findall(r'\b(\w\w): "([^"]+)"', (PAGE / "texts.js").read_text(encoding="utf-8")))
    assert found == {code: LANGUAGES[code].autonym for code in EU24}


def test_every_pair_of_text_and_ground_has_enough_contrast() -> None:
    style = (PAGE / "page.css").read_text(encoding="utf-8")
    colours = {
        name: (light, dark) for name, light, dark in re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", style)
    }
    grounds = ("paper", "raised", "sunk", "wash")
    pairs = [(text, ground) for text in ("ink", "quiet", "accent") for ground in grounds]
    pairs += [("on-accent", "accent"), ("ink", "warm-wash"), ("quiet", "warm-wash")]
    for text, ground in pairs:
        for mode in (0, 1):
            found = contrast(colours[text][mode], colours[ground][mode])
            assert found >= 4.5, f"{text} on {ground}, {('light', 'dark')[mode]}: {found:.2f}"


def contrast(one: str, other: str) -> float:
    """WCAG 2.2, contrast ratio."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def test_no_file_asks_another_server_or_puts_code_into_the_page() -> None:
    for path in PAGE.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|//[a-z]+\.[a-z]", text), path.name
        if path.suffix in (".js", ".html"):
            assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text)
        if path.suffix == ".html":
            assert not re.search(r"\sstyle=|\son\w+=|<style|<script>", text)
