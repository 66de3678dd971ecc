"""The output filter: no withdrawn passage of fifty letters leaves a server, however the answer is cut into pieces."""

from __future__ import annotations

import json
import random
import shutil
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from withdrawn_library import Lab, conversation, library, prose

from hanse.errors import InputError
from hanse.serve.detokenize import token_bytes
from hanse.serve.request import Output
from hanse.trace import passages
from hanse.trace.passages import WINDOW, Filter, hashes_of
from hanse.tune.template import encode_text

sys.path.insert(0, str(Path(__file__).parents[1] / "serve"))
from served import MODEL, Scripted, Served, serving

NOVEL = (
    "In Front des schon seit Kurfürst Georg Wilhelm von der Familie von Briest bewohnten Herrenhauses zu Hohen-Cremmen"
)
GREEK = "Ένα καράβι φεύγει από το λιμάνι του Πειραιά κάθε πρωί στις οκτώ ακριβώς, και κανείς δεν ξέρει γιατί."


def letters(text: str) -> str:
    """What counts of a text, reckoned in another way than the code does."""
    plain = "".join(unicodedata.normalize("NFKD", sign).casefold() for sign in text)
    return "".join(sign for sign in plain if sign.isalnum())


def filter_of(*texts: str) -> Filter:
    return Filter(np.unique(np.concatenate([hashes_of(text) for text in texts])))


def said(withdrawn: Filter, text: str, cuts: Sequence[int] = ()) -> tuple[bool, str]:
    """Whether an answer is ended, and what of it a client gets, if it comes in pieces."""
    watch, given = withdrawn.stream(), ""
    ends = [*sorted({min(cut, len(text)) for cut in cuts}), len(text)]
    for start, end in zip([0, *ends], ends, strict=False):
        found = watch.add(text[start:end])
        given += text[start : start + watch.kept]
        if found:
            return True, given
    return False, given


# --------------------------------------------------------------------------- windows


def test_fifty_letters_end_an_answer_and_forty_nine_do_not() -> None:
    withdrawn = filter_of(NOVEL)
    plain = letters(NOVEL)
    assert said(withdrawn, f"No: {plain[20 : 20 + WINDOW - 1]}!")[0] is False
    assert said(withdrawn, f"No: {plain[20 : 20 + WINDOW]}!")[0] is True
    assert said(withdrawn, plain[:WINDOW])[0] is True, "the answer is nothing else"


@pytest.mark.parametrize(
    "spelt",
    [
        NOVEL.upper(),
        NOVEL.replace(" ", "\n"),
        NOVEL.replace(" ", "*** "),
        unicodedata.normalize("NFD", NOVEL),
        NOVEL.replace("ü", "u"),
        f"„{NOVEL}“",
    ],
)
def test_case_accents_blanks_and_marks_are_no_way_around_it(spelt: str) -> None:
    assert said(filter_of(NOVEL), f"Once more: {spelt}")[0]


def test_another_alphabet_is_watched_the_same() -> None:
    assert said(filter_of(GREEK), GREEK.upper())[0]
    assert not said(filter_of(GREEK), NOVEL)[0]


@given(
    before=st.text(max_size=60), after=st.text(max_size=20), start=st.integers(0, 60), length=st.integers(0, 70),
    cuts=st.lists(st.integers(0, 200), max_size=12),
)  # fmt: skip
def test_however_an_answer_is_cut_it_ends_at_the_same_letter_and_gives_at_most_forty_nine_away(
    before: str, after: str, start: int, length: int, cuts: list[int]
) -> None:
    withdrawn = filter_of(NOVEL)
    text = before + NOVEL[start : start + length] + after
    plain = letters(NOVEL)
    holds = any(letters(text)[n : n + WINDOW] in plain for n in range(len(letters(text)) - WINDOW + 1))
    is_ended, given = said(withdrawn, text, cuts)
    assert is_ended == holds
    assert is_ended == said(withdrawn, text, range(len(text)))[0]
    assert text.startswith(given)
    if not is_ended:
        assert given == text
    assert not any(letters(given)[n : n + WINDOW] in plain for n in range(len(letters(given)) - WINDOW + 1))


def test_in_one_piece_nothing_of_the_passage_is_given_away() -> None:
    assert said(filter_of(NOVEL), f"It begins: {NOVEL}") == (True, "It begins: ")


def test_hashes_of_a_long_text_are_the_ones_that_an_answer_rolls() -> None:
    text = " ".join(prose(number) for number in range(30))
    withdrawn = filter_of(text)
    pick = random.Random(5)
    for _ in range(50):
        start = pick.randrange(len(text) - 200)
        assert withdrawn.holds(text[start : start + 120])
    assert not withdrawn.holds(" ".join(prose(number) for number in range(100, 160)))


def test_a_text_without_fifty_letters_has_no_window() -> None:
    assert len(hashes_of("too short to be a passage " * 1)) == 0
    assert not Filter(np.zeros(0, np.uint64)).holds(NOVEL)


# --------------------------------------------------------------------------- the file


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    made = Lab(tmp_path, library(), [conversation(n) for n in range(20)])
    made.run("1", until="conversations")
    return made


def test_the_file_holds_the_texts_that_were_withdrawn_and_no_others(lab: Lab) -> None:
    made = [lab.withdraw(author="Fontane"), lab.withdraw("personal-data", id="c/3")]
    place = passages.write(lab.store, made)
    assert place == lab.store.root / "withdrawals" / "passages.bin"
    withdrawn = Filter.open(place)
    assert withdrawn.withdrawals == tuple(each.digest for each in made)
    assert all(withdrawn.holds(prose(n)) for n in (*range(10), 1003))
    assert not any(withdrawn.holds(prose(n)) for n in (*range(10, 30), 1004))
    expected = np.unique(np.concatenate([hashes_of(prose(n)) for n in (*range(10), 1003)]))
    assert len(np.setdiff1d(expected, withdrawn.hashes)) == 0


def test_what_the_file_knows_outlives_the_text(lab: Lab) -> None:
    made = [lab.withdraw(author="Fontane")]
    before = Filter.open(passages.write(lab.store, made)).hashes
    lab.run("2", until="conversations")
    for kind in ("dataset", "conversations"):
        shutil.rmtree(lab.store.folder(f"{kind}/lab/1"))
    made.append(lab.withdraw(author="Storm"))
    after = Filter.open(passages.write(lab.store, made))
    assert after.holds(prose(3)) and after.holds(prose(13))
    assert len(np.setdiff1d(before, after.hashes)) == 0


@pytest.mark.parametrize("spoil", [b"", b"{}\n", b"x" * 4096, b'{"what": "hanse passages", "format": 2}\n'])
def test_another_file_is_no_filter(tmp_path: Path, spoil: bytes) -> None:
    path = tmp_path / "passages.bin"
    path.write_bytes(spoil)
    with pytest.raises(InputError, match=r"passages\.bin: is no output filter"):
        Filter.open(path)
    with pytest.raises(InputError, match="cannot be read"):
        Filter.open(tmp_path / "none")


def test_a_changed_byte_or_a_cut_end_is_noticed(lab: Lab) -> None:
    place = passages.write(lab.store, [lab.withdraw(author="Fontane")])
    content = place.read_bytes()
    for spoilt in (content[:-8], content[:-1] + bytes([content[-1] ^ 1])):
        place.write_bytes(spoilt)
        with pytest.raises(InputError, match="is no output filter"):
            Filter.open(place)


def test_a_model_of_a_store_is_served_with_its_filter_and_not_with_an_old_one(lab: Lab) -> None:
    folder = lab.store.folder("conversations/lab/1")  # any artifact lies where a model would
    assert passages.of_model(folder, None) is None, "nothing was withdrawn"
    first = lab.withdraw(author="Fontane")
    with pytest.raises(InputError, match="--refresh"):
        passages.of_model(folder, None)
    place = passages.write(lab.store, [first])
    found = passages.of_model(folder, None)
    assert found is not None and found.holds(prose(3))
    lab.withdraw(author="Storm")
    with pytest.raises(InputError, match=r"does not know every withdrawal.*--refresh"):
        passages.of_model(folder, None)
    given = passages.of_model(folder.parent, place)
    assert given is not None, "a file that a person names is taken as it is"


# --------------------------------------------------------------------------- serving


INNOCENT = "Gewiss, so fängt es an: "


def pieces(tokenizer: Tokenizer, text: str, size: int = 3) -> list[Output]:
    """The answer as an engine gives it out, some tokens at a time."""
    ids = encode_text(tokenizer, text)
    parts = [ids[start : start + size] for start in range(0, len(ids), size)]
    outputs, shown = [], b""
    for part in parts:
        before = shown.decode(errors="ignore")
        shown += b"".join(token_bytes(tokenizer)[each] for each in part)
        outputs.append(Output(tokens=tuple(part), text=shown.decode(errors="ignore")[len(before) :]))
    return outputs


@pytest.fixture
def reciting(tokenizer: Tokenizer) -> Iterator[Served]:
    """A server whose model recites the novel, and would go on for ever."""
    with serving(
        Scripted(tokenizer, pieces(tokenizer, INNOCENT + NOVEL), then="endless"), withdrawn=filter_of(NOVEL)
    ) as served:
        yield served


CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


def body(path: str, **more: Any) -> dict[str, Any]:
    asked = {"messages": [{"role": "user", "content": "x"}]} if path == CHAT else {"prompt": "x"}
    return {"model": MODEL, "max_tokens": 3000, **asked, **more}


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


def content_of(path: str, choice: dict[str, Any]) -> str:
    """What a client reads, of a whole answer or of one event."""
    if path == TEXT:
        return str(choice["text"])
    return str((choice.get("message") or choice["delta"]).get("content") or "")


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_an_answer_ends_before_a_withdrawn_passage_is_whole(reciting: Served, path: str) -> None:
    answer = reciting.post(path, json=body(path))
    assert answer.status_code == 200, answer.text
    (choice,) = answer.json()["choices"]
    assert choice["finish_reason"] == "content_filter"
    given = content_of(path, choice)
    assert given.startswith(INNOCENT) and not filter_of(NOVEL).holds(given)
    assert len(letters(given.removeprefix(INNOCENT))) < WINDOW
    reciting.settle()
    assert "hanse_answers_filtered_total 1.0" in reciting.get("/metrics").text


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_a_stream_ends_the_same_way_and_says_why(reciting: Served, path: str) -> None:
    whole = reciting.post(path, json=body(path)).json()["choices"][0]
    text = reciting.post(path, json=body(path, stream=True)).text
    assert text.rstrip().endswith("data: [DONE]")
    told = [each["choices"][0] for each in events(text)]
    assert "".join(content_of(path, choice) for choice in told) == content_of(path, whole)
    assert [choice["finish_reason"] for choice in told if choice["finish_reason"]] == ["content_filter"]
    reciting.settle()


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_of_several_answers_each_is_watched_by_itself(reciting: Served, path: str) -> None:
    choices = reciting.post(path, json=body(path, n=3)).json()["choices"]
    assert [choice["finish_reason"] for choice in choices] == ["content_filter"] * 3
    reciting.settle()


def test_what_a_model_thinks_is_watched_too(tokenizer: Tokenizer) -> None:
    think = Output(tokens=(tokenizer.token_to_id("<think>"),))
    with serving(Scripted(tokenizer, [think, *pieces(tokenizer, NOVEL)]), withdrawn=filter_of(NOVEL)) as api:
        (choice,) = api.post(CHAT, json=body(CHAT)).json()["choices"]
        assert choice["finish_reason"] == "content_filter"
        assert not filter_of(NOVEL).holds(choice["message"]["reasoning_content"])


def test_a_call_of_a_tool_does_not_carry_it_out_either(tokenizer: Tokenizer) -> None:
    call = json.dumps({"name": "save", "arguments": {"lines": NOVEL.split(" ")}})
    marks = [Output(tokens=(tokenizer.token_to_id(mark),)) for mark in ("<|tool_call|>", "<|/tool_call|>")]
    script = Scripted(tokenizer, [marks[0], *pieces(tokenizer, call), marks[1]])
    with serving(script, withdrawn=filter_of(NOVEL)) as api:
        (choice,) = api.post(CHAT, json=body(CHAT)).json()["choices"]
        assert choice["finish_reason"] == "content_filter"
        assert "tool_calls" not in choice["message"]


def test_an_answer_without_such_a_passage_is_left_alone(tokenizer: Tokenizer) -> None:
    with serving(Scripted(tokenizer, pieces(tokenizer, NOVEL)), withdrawn=filter_of(GREEK)) as api:
        for path in (CHAT, TEXT):
            (choice,) = api.post(path, json=body(path)).json()["choices"]
            assert (content_of(path, choice), choice["finish_reason"]) == (NOVEL, "stop")
        assert "hanse_answers_filtered_total 0.0" in api.get("/metrics").text


def test_what_the_client_asked_with_is_its_own(tokenizer: Tokenizer) -> None:
    with serving(Scripted(tokenizer, pieces(tokenizer, "Yes.")), withdrawn=filter_of(NOVEL)) as api:
        (choice,) = api.post(TEXT, json={"model": MODEL, "prompt": NOVEL, "echo": True}).json()["choices"]
        assert (choice["text"], choice["finish_reason"]) == (f"{NOVEL}Yes.", "stop")
