"""Evaluation items are found in whatever dress, others are not, and the report says where."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hanse.data import contamination
from hanse.data.contamination import MAX_SHARED, Hit, Item, Items, reasons
from hanse.errors import InputError

QUESTION = (
    "A farmer sells 1,250 apples at the market on Monday and half as many on Tuesday, and Straßenbahn tickets cost "
    "$3.50 each; how much does État no 5 earn in Łódź if x = 12 and the Σ of all ΛΌΓΟΣ is even?"
)
ITEM = Item("farm", (QUESTION, "Paris"))
# What surrounds a planted item; no word of it is in the item.
BEFORE, AFTER = "Unrelated words stand here first. 77 \n\n", "\n99. Then unrelated words follow."


def found(text: str, *items: Item) -> list[Hit]:
    return Items(items or [ITEM]).scan(pa.array([text]))[0]


def dress(text: str, choose: random.Random) -> str:
    """The same words in other case, with other white space, punctuation, number separators and LaTeX around them."""
    text = choose.choice([str, str.upper, str.lower, str.title, str.casefold])(text)
    separator = choose.choice([",", ".", " ", "\u00a0", "\u202f", "'", "{,}", "\\,", ""])
    text = text.replace("1,250", f"1{separator}250").replace(
        "x = 12", choose.choice(["$x = 12$", "\\(x=12\\)", "x=12"])
    )
    words = text.split(" ")
    for place in range(len(words)):
        if choose.random() < 0.2:
            words[place] = choose.choice([f"**{words[place]}**", f"\\textbf {{{words[place]}}}", f"“{words[place]}”"])
    return "".join(word + choose.choice([" ", " ", "\n", "\t", "\u00a0", " \r\n ", "  ", " \\quad "]) for word in words)


@given(seed=st.integers(0, 2**32))
def test_a_planted_item_is_found_in_whatever_dress(seed: int) -> None:
    text = BEFORE + dress(QUESTION, random.Random(seed)) + AFTER
    hits = found(text)
    assert [hit.item for hit in hits] == ["farm"], text
    assert hits[0].containment == 1, text


@given(seed=st.integers(0, 2**32))
def test_shuffled_words_are_not_found(seed: int) -> None:
    words = QUESTION.split()
    random.Random(seed).shuffle(words)
    assert found(" ".join(words)) == []


# Words of many scripts and forms, and what stands between them.
PIECES = (
    "Straße", "ΛΌΓΟΣ", "État", "e\u0301te\u0301", "so\u00adft", "ﬁn", "𝒜bc", "ж", "x_1", "don’t", "1,000", "²", "½",
    "\\frac{1}{2}", "\\alpha", "ΰΐ", "İı", "漢字", "한국", "क्षत्रिय", "a", "b",
)  # fmt: skip
words = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=4)), min_size=6, max_size=30).map(" ".join)


@given(item=words, before=words, after=words)
def test_any_item_that_is_looked_for_is_found_between_other_words(item: str, before: str, after: str) -> None:
    items = Items([Item("it", (item,))])
    assume(items.searched)
    # Right behind an item, a combining mark would change its last letter; right before it, a backslash its first word.
    hits = items.scan(pa.array([f"{before} | {item} | {after}"]))[0]
    assert [hit.containment for hit in hits] == [1]


def test_half_an_item_is_contained_by_half() -> None:
    words = [f"word{chr(97 + n)}" for n in range(26)]
    item = Item("letters", (" ".join(words),))  # 26 words, 19 runs of 8
    hits = found(" ".join(["other", *words[:14], "words", *words[20:], "here"]), item)
    assert hits == [Hit("letters", pytest.approx(7 / 19), 14)]


def test_the_same_run_again_adds_nothing() -> None:
    words = " ".join(f"word{chr(97 + n)}" for n in range(26))
    once, twice = words[:60], f"{words[:60]} and {words[:60]}"
    assert found(once, Item("i", (words,))) == found(twice, Item("i", (words,)))


def test_a_short_answer_alone_is_no_hit() -> None:
    capital = Item("capital", ("What is the capital of France?", "Paris"))
    assert found("Paris is the capital of France. What is Paris? The capital.", capital) == []
    assert found("Quiz: what is the capital of FRANCE? Paris!", capital) == [Hit("capital", 1.0, 7)]
    items = Items([Item("tiny", ("Paris?", "Yes.")), Item("digits", ("17 + 25 = 42, 100000",))])
    assert items.too_short == ["tiny", "digits"]
    assert items.searched == 0
    assert items.scan(pa.array(["Paris? Yes. 17 + 25 = 42, 100000"])) == [[]]


def test_fixed_wording_that_many_items_share_identifies_none() -> None:
    prompt = "Answer the following multiple choice question with one letter only please."
    items = Items(Item(f"i{n}", (f"{prompt} {'xyz' * (n + 1)} one two three four five six",)) for n in range(20))
    assert items.scan(pa.array([prompt])) == [[]]
    assert [hit.item for hit in items.scan(pa.array([f"{prompt} xyzxyz one two three four five six"]))[0]] == ["i1"]
    same = Items(Item(f"i{n}", (f"{prompt} {n}",)) for n in range(MAX_SHARED + 5))
    assert same.searched + len(same.too_common) == MAX_SHARED + 5


def test_items_that_read_alike_are_looked_for_once() -> None:
    items = Items([ITEM, Item("copy", (QUESTION.upper(), "Paris"))])
    assert items.searched == 1
    assert [hit.item for hit in items.scan(pa.array([QUESTION]))[0]] == ["farm"]


def test_the_answer_may_stand_far_from_the_question() -> None:
    long = Item("long", (QUESTION, "Because nine good reasons speak for it, it is exactly so."))
    (hit,) = found(f"{QUESTION} {'filler ' * 50} Because nine good reasons speak for it, it is exactly so.", long)
    assert hit.containment == 1
    assert found("Because nine good reasons speak for it, it is exactly so.", long)[0].containment < 0.2


@given(
    st.lists(st.sampled_from([QUESTION, QUESTION[:80], "", "e\u0301tat ²", "nothing here", QUESTION[60:]]), max_size=8)
)
def test_a_document_has_the_same_hits_in_every_batch(batch: list[str]) -> None:
    items = Items([ITEM])
    assert items.scan(pa.array(batch, pa.string())) == [items.scan(pa.array([text]))[0] for text in batch]


def test_an_item_that_begins_in_one_document_and_ends_in_the_next_is_not_found() -> None:
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight"]
    items = Items([Item("i", (" ".join(words),))])
    for cut in range(1, 8):
        assert items.scan(pa.array([" ".join(words[:cut]), " ".join(words[cut:])])) == [[], []]


def test_an_item_is_found_across_the_pieces_of_a_long_document(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contamination, "PIECE_BYTES", 1000)
    monkeypatch.setattr(contamination, "OVERLAP_BYTES", 300)
    monkeypatch.setattr("hanse.data.wordstream.SLICE_BYTES", 500)
    items = Items([ITEM])
    for start in range(0, 2000, 37):
        text = "é" * start + " " + QUESTION + " " + "filler " * 300
        assert items.scan(pa.array(["x", text]))[1][0].containment == 1, start


@pytest.mark.parametrize("sign", ["a", "1", "(", "@", "\\", "$", "a ", "\\a ", "1 ", "é", "\u0301", "\n"])
def test_hostile_text_does_not_hang(sign: str) -> None:
    assert Items([ITEM]).scan(pa.array([sign * (10**6 if len(sign) > 1 or sign > "~" else 10**7)])) == [[]]


def test_a_document_made_of_one_item_is_scanned() -> None:
    items = Items([ITEM, *(Item(f"i{n}", (f"{QUESTION} {'other ' * (n + 1)}",)) for n in range(8))])
    hits = items.scan(pa.array([f"{QUESTION}\n" * 5000]))[0]
    assert hits[0].item == "farm"
    assert hits[0].containment == 1
    assert len(hits) == 9


def test_null_and_no_documents_are_scanned() -> None:
    assert Items([ITEM]).scan(pa.array([None, ""], pa.string())) == [[], []]
    assert Items([]).scan(pa.array([QUESTION])) == [[]]
    assert Items([ITEM]).scan(pa.chunked_array([], pa.string())) == []


def test_items_are_read_from_questions_texts_and_conversations(tmp_path: Path) -> None:
    lines = [
        {"id": "q", "question": QUESTION, "answer": 42},
        {"text": "Seven words are enough for a text."},
        {"id": 3, "messages": [
            {"role": "system", "content": "You are a helpful assistant who answers every question at length."},
            {"role": "user", "content": "Which river flows through the city of Vienna and Budapest?"},
            {"role": "assistant", "content": None, "tool_calls": [{}]},
            {"role": "assistant", "content": "The Danube."},
        ]},
    ]  # fmt: skip
    path = tmp_path / "heldout.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    items = Items.read([path])
    assert [item.name for item in items.items] == ["heldout.jsonl:q", "heldout.jsonl:2", "heldout.jsonl:3"]
    assert items.items[0].parts == (QUESTION, "42")
    text = "which river flows through the city of VIENNA, and Budapest? seven words are enough for a text"
    assert {hit.item for hit in items.scan(pa.array([text]))[0]} == {"heldout.jsonl:2", "heldout.jsonl:3"}
    assert items.scan(pa.array(["You are a helpful assistant who answers every question at length."])) == [[]]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", r"line 1: the line is not JSON"),
        ("[]", "not an object"),
        ('{"prompt": "x"}', "neither 'text' nor 'question' nor 'messages'"),
        ('{"text": " "}', "has no text"),
        ('{"messages": []}', "has no text"),
    ],
)
def test_a_file_with_gaps_is_refused(tmp_path: Path, content: str, complaint: str) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text(content)
    with pytest.raises(InputError, match=complaint):
        Items.read([path])
    with pytest.raises(InputError, match="cannot be read"):
        Items.read([tmp_path / "absent.jsonl"])


def test_runs_that_are_too_short_are_refused() -> None:
    with pytest.raises(InputError, match="at least 5"):
        Items([ITEM], ngram_words=3)


def test_the_policy_decides_by_share_or_by_stretch() -> None:
    hits = [[Hit("a", 0.8, 10)], [Hit("b", 0.1, 60), Hit("a", 0.05, 9)], [Hit("c", 0.3, 20)], []]
    assert reasons(hits, min_containment=0.7, min_longest=50) == [["contamination"], ["contamination"], [], []]
