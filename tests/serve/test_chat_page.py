"""Answers on the page: as they come, stopped, again, from an edited question, hostile, or broken off."""

from __future__ import annotations

import copy
import string
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from visiting import EN, PATIENCE_SECONDS, WAIT, Scripted, Site, Visitor, expect, needs_browser

from hanse.model.transformer import Transformer
from hanse.runtime import Runtime

pytest_plugins = ["visiting_fixtures"]

# --------------------------------------------------------------------------- answers


@needs_browser
def test_an_answer_is_shown_and_read_out_while_it_comes(guest: Visitor, backend: Scripted) -> None:
    backend.says("Athens is the capital. ", "And it is", WAIT, " old.")
    guest.ask("What is the capital of Greece?")
    words = guest.page.locator(".words")
    expect(words).to_have_text("Athens is the capital. And it is")
    expect(guest.page.locator("#spoken")).to_have_text("Athens is the capital.")
    expect(guest.page.locator(".answer")).to_have_attribute("aria-busy", "true")
    backend.may_go_on.set()
    expect(words).to_have_text("Athens is the capital. And it is old.")
    expect(guest.page.locator("#spoken")).to_have_text("Athens is the capital.And it is old.")
    guest.wait_for_answer()
    assert backend.asked() == "<|user|>What is the capital of Greece?<|end_of_turn|><|assistant|>"
    assert backend.requests[0].sampling.temperature == 0.0  # as the release asks for
    expect(guest.page.locator(".effort")).to_contain_text("tokens")


def speaking_in_letters(model: Transformer, tokenizer: Tokenizer) -> Transformer:
    """A copy that says only letters: what a random model samples may be blank, or be nothing."""
    model = copy.deepcopy(model)
    letters = [tokenizer.token_to_id(letter) for letter in string.ascii_lowercase]
    assert model.lm_head is not None
    with torch.no_grad():
        head_VD = torch.zeros_like(model.lm_head)
        head_VD[letters] = 1000 * model.lm_head[letters]
        model.lm_head.copy_(head_VD)
    return model


@needs_browser
def test_the_native_engine_answers_and_a_long_conversation_goes_on_without_its_beginning(
    visit: Any, model: Transformer, tokenizer: Tokenizer
) -> None:
    from hanse.serve.engine import Engine
    from hanse.serve.native import NativeBackend

    runtime = Runtime.detect("cpu", 1)
    site = Site(NativeBackend(Engine(speaking_in_letters(model, tokenizer), tokenizer, runtime), runtime))
    try:
        guest = visit(site.url, expected="400")  # the browser notes every refusal in its console
        guest.ask_and_wait("Question one?")
        guest.ask_and_wait("Question two?")
        expect(guest.page.locator(".state.quiet")).to_have_count(0)
        guest.button(EN["single"]).click()  # on by itself, for the model sees 128 tokens
        guest.page.uncheck("[name=single]")
        guest.page.keyboard.press("Escape")
        expect(guest.button(EN["single"])).to_be_hidden()
        guest.ask_and_wait("Question three?")
        assert guest.page.locator(".words").first.inner_text().isalpha()
        expect(guest.page.locator(".answer").last).to_contain_text(EN["shortened"])
        guest.ask_and_wait("x" * 200)
        expect(guest.page.locator(".state:not(.quiet)").last).to_contain_text("128")  # the server's own sentence
    finally:
        site.end()


@needs_browser
def test_stopping_keeps_what_was_said_and_frees_the_engine(guest: Visitor, backend: Scripted) -> None:
    backend.says("One two", WAIT)
    guest.ask("Count")
    expect(guest.page.locator(".words")).to_have_text("One two")
    guest.page.click("#stop")
    expect(guest.page.locator(".state")).to_have_text(EN["stopped"])
    expect(guest.page.locator(".words")).to_have_text("One two")
    assert backend.was_closed.wait(PATIENCE_SECONDS)
    backend.says("Three")
    guest.ask_and_wait("Go on")
    assert "<|assistant|>One two<|end_of_turn|>" in backend.asked()


@needs_browser
def test_answering_again_keeps_both_answers_and_draws_another(guest: Visitor, backend: Scripted) -> None:
    backend.says("First")
    guest.ask_and_wait("Say something")
    backend.says("Second")
    guest.button(EN["again"]).click()
    expect(guest.page.locator(".words")).to_have_text("Second")
    guest.wait_for_answer()
    assert backend.requests[0].sampling.temperature == 0.7  # at 0 it would be the same answer
    expect(guest.page.locator(".branches")).to_have_text("2/2")
    guest.button("Answer 1/2").click()
    expect(guest.page.locator(".words")).to_have_text("First")
    expect(guest.page.locator(".branches")).to_have_text("1/2")


@needs_browser
def test_an_edited_question_begins_a_branch_and_the_old_one_stays(guest: Visitor, backend: Scripted) -> None:
    backend.says("A")
    guest.ask_and_wait("First?")
    guest.ask_and_wait("Second?")
    guest.page.locator(".question").first.hover()
    guest.button(EN["edit"]).first.click()
    guest.page.locator(".edit textarea").fill("Another?")
    guest.page.locator(".edit textarea").press("Enter")
    expect(guest.page.locator(".bubble")).to_have_text(["Another?"])
    guest.wait_for_answer()
    assert backend.asked() == "<|user|>Another?<|end_of_turn|><|assistant|>"
    guest.button("Question 1/2").click()
    expect(guest.page.locator(".bubble")).to_have_text(["First?", "Second?"])


@needs_browser
def test_reasoning_is_folded_and_not_part_of_the_answer(guest: Visitor, backend: Scripted) -> None:
    backend.says("<think>", "Greece, so", "</think>", "Athens")
    guest.ask_and_wait("Capital of Greece?")
    expect(guest.page.locator(".words")).to_have_text("Athens")
    expect(guest.page.locator(".thoughts")).to_be_hidden()
    guest.page.get_by_text(EN["reasoning"], exact=True).click()
    expect(guest.page.locator(".thoughts")).to_have_text("Greece, so")


HOSTILE = """<img src=x onerror="window.hit=1"> <script>window.hit=1</script>

- <a href="javascript:window.hit=1">press</a> **<b onclick=hit>x</b>** [press](javascript:window.hit=1)

| <iframe src=//example.org> | `<svg onload=hit>` |
|---|---|
| ![](https://example.org/leak.png) | 1 |

```<style>
<style>body{display:none}</style>
```"""


@needs_browser
def test_a_hostile_answer_stays_text(guest: Visitor, backend: Scripted) -> None:
    backend.says(HOSTILE)
    guest.ask_and_wait(HOSTILE.replace("\n", " "))
    words = guest.page.locator(".words")
    for tag in ("img", "script", "a", "b", "iframe", "svg[onload]", "style"):
        assert guest.page.locator(f".log {tag}:not(button *)").count() == 0, tag
    expect(words).to_contain_text('<img src=x onerror="window.hit=1"> <script>window.hit=1</script>')
    expect(words.locator("pre")).to_have_text("<style>body{display:none}</style>")
    expect(words.locator("td").first).to_have_text("![](https://example.org/leak.png)")
    assert guest.page.evaluate("window.hit") is None
    guest.page.reload()
    expect(words.locator("pre")).to_be_visible()
    assert guest.page.evaluate("window.hit") is None


MARKDOWN = """# Title
Some **bold** and *slanted* `a*b` text, 2 * 3 * 4, **open
next line

1. one
2. two
   - deeper
   - here

> quoted

| a | b |
|---|:-:|
| 1 | 2 |

---
```python
print("<p>")
"""


@needs_browser
def test_markdown_becomes_elements_and_unclosed_marks_stay(guest: Visitor, backend: Scripted) -> None:
    backend.says(*(MARKDOWN[at : at + 3] for at in range(0, len(MARKDOWN), 3)))
    guest.ask_and_wait("Show me")
    words = guest.page.locator(".words")
    assert words.evaluate("each => [...each.children].map(child => child.localName)") == [
        "h4", "p", "ol", "blockquote", "div", "hr", "figure"
    ]  # fmt: skip
    expect(words.locator("p")).to_have_text("Some bold and slanted a*b text, 2 * 3 * 4, **opennext line")
    expect(words.locator("p strong")).to_have_text("bold")
    expect(words.locator("p em")).to_have_text("slanted")
    expect(words.locator("ol > li")).to_have_count(2)
    expect(words.locator("ol > li > ul > li")).to_have_text(["deeper", "here"])
    expect(words.locator("pre")).to_have_text('print("<p>")')


# --------------------------------------------------------------------------- what goes wrong


@needs_browser
def test_a_key_is_asked_for_and_never_written_to_the_disk(visit: Any, backend: Scripted, tmp_path: Path) -> None:
    from hanse.serve.api import keys

    path = tmp_path / "keys.json"
    right = keys.add(path, "guest")
    site = Site(backend, settings={"keys": keys.KeyFile(path)})
    try:
        backend.says("Welcome")
        guest = visit(site.url, expected="401", is_locked=True)
        for given in ("wrong", right):
            expect(guest.page.locator("#key-form")).to_contain_text(EN["keyNeeded"])
            expect(guest.page.locator("#composer")).to_be_hidden()
            guest.page.fill("#key", given)
            guest.page.press("#key", "Enter")
        expect(guest.page.locator("#title")).to_have_text("toy")
        guest.ask_and_wait("Hello")
        expect(guest.page.locator(".words")).to_have_text("Welcome")
        assert right not in guest.page.evaluate("JSON.stringify(localStorage)")
        keys.remove(path, "guest")
        guest.ask("Still there?")
        expect(guest.page.locator("#key-form")).to_be_visible()
        again = keys.add(path, "guest")
        guest.page.fill("#key", again)
        guest.page.press("#key", "Enter")
        expect(guest.page.locator(".words").last).to_have_text("Welcome")  # the question was not lost
    finally:
        site.end()


@needs_browser
def test_a_server_that_is_gone_is_told_in_a_sentence(visit: Any, backend: Scripted) -> None:
    site = Site(backend)
    guest = visit(site.url, expected="ERR_")
    site.end()
    guest.ask("Anybody there?")
    expect(guest.page.locator(".state")).to_have_text(EN["gone"])
    expect(guest.button(EN["again"])).to_be_enabled()


@needs_browser
def test_an_answer_that_breaks_off_is_told_and_what_came_is_kept(visit: Any, backend: Scripted) -> None:
    site = Site(backend)
    guest = visit(site.url, expected="ERR_")
    backend.says("The beginning", WAIT)
    guest.ask("Tell me")
    expect(guest.page.locator(".words")).to_have_text("The beginning")
    site.end()
    expect(guest.page.locator(".state")).to_have_text(EN["incomplete"])
    expect(guest.page.locator(".words")).to_have_text("The beginning")


BEGUN = 'data: {"choices": [{"delta": {"content": "Half"}}]}\n\n'
ENDED = 'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\n'


@needs_browser
def test_a_stream_is_whole_only_with_its_reason_and_its_end(guest: Visitor) -> None:
    whole = BEGUN + ENDED + "data: [DONE]\n\n"
    streams = {
        BEGUN: "incomplete",
        BEGUN + ENDED: "incomplete",
        BEGUN + "data: [DONE]\n\n": "incomplete",
        whole[:-1]: "incomplete",
        BEGUN + 'data: {"choi\n\n' + ENDED: "incomplete",
        whole: None,
        ": hello\n" + whole.replace("\n", "\r\n").replace("data: {", "data:{"): None,
        whole.replace("\n", "\r"): None,
    }
    bodies = iter(streams)
    guest.page.route("**/chat/completions", lambda route: route.fulfill(body=next(bodies)))
    for number, state in enumerate(streams.values()):
        guest.page.click("#new")
        guest.ask_and_wait(f"Whole {number}?")
        expect(guest.page.locator(".words")).to_have_text("Half")
        expect(guest.page.locator(".state")).to_have_text([EN[state]] if state else [])


@needs_browser
def test_a_fault_of_the_server_is_told_in_its_own_words(guest: Visitor, backend: Scripted) -> None:
    backend.says("The begin", RuntimeError("secret"))
    guest.ask_and_wait("Tell me")
    expect(guest.page.locator(".state")).to_contain_text("server failed")
    assert "secret" not in guest.page.content()


@needs_browser
def test_a_full_browser_is_told_and_the_answer_still_comes(guest: Visitor, backend: Scripted) -> None:
    guest.page.evaluate(
        "for (let size = 1 << 23; size >= 1; size >>= 1) "
        "try { for (;;) localStorage.setItem('filler' + Math.random(), 'x'.repeat(size)) } catch {}"
    )
    backend.says("Here")
    guest.ask_and_wait("Room?")
    expect(guest.page.locator("#notice")).to_have_text(EN["full"])
    expect(guest.page.locator(".words")).to_have_text("Here")
