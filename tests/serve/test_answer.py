"""What an API gives out of an answer: content, reasoning and calls, however the tokens arrive."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from hanse.serve.answer import AnswerParser, Delta, read_call
from hanse.serve.detokenize import Detokenizer, StopStrings
from hanse.tune.template import encode_text, render

MARKS = ("<think>", "</think>", "<|tool_call|>", "<|/tool_call|>")
OTHERS = ("<|user|>", "<|assistant|>", "<|tool_result|>")
CALL = '{"name": "καιρός", "arguments": {"πόλη": "Αθήνα"}}'


def tokens_of(tokenizer: Tokenizer, parts: Sequence[str]) -> list[int]:
    """Marks as their one token, all else as plain text."""
    ids: list[int] = []
    for part in parts:
        is_mark = part in MARKS or part in OTHERS
        ids += [tokenizer.token_to_id(part)] if is_mark else encode_text(tokenizer, part)
    return ids


def said(deltas: Sequence[Delta]) -> list[tuple[str, str, str]]:
    """(kind, text or name, arguments), neighbours of one kind joined."""
    found: list[tuple[str, str, str]] = []
    for delta in deltas:
        if delta.call is not None:
            found.append((delta.kind, delta.call.name, delta.call.arguments))
        elif found and found[-1][0] == delta.kind != "tool":
            found[-1] = (delta.kind, found[-1][1] + delta.text, "")
        else:
            found.append((delta.kind, delta.text, ""))
    return found


def parse(tokenizer: Tokenizer, parts: Sequence[str], stop: tuple[str, ...] = ()) -> list[tuple[str, str, str]]:
    parser = AnswerParser(tokenizer, stop)
    return said(parser.add(tokens_of(tokenizer, parts)) + parser.finish())


texts = st.one_of(
    st.text(st.characters(exclude_categories=("Cs",)), max_size=12),
    st.sampled_from([*MARKS, CALL, '{"name": "f"}', '{"name": "f", "arguments": [1]}', "ab", "b", "Ω", "{"]),
)
answers = st.lists(st.one_of(st.sampled_from([*MARKS, *OTHERS]).map(lambda mark: (mark, True)),
                             texts.map(lambda text: (text, False))), max_size=12)  # fmt: skip


@given(
    answer=answers,
    noise=st.lists(st.integers(0, 255), max_size=4),
    stop=st.sampled_from([(), ("ab",), ("Ωa", "b{")]),
    data=st.data(),
)
def test_any_cutting_of_the_tokens_gives_the_same_answer(
    tokenizer: Tokenizer,
    answer: list[tuple[str, bool]],
    noise: list[int],
    stop: tuple[str, ...],
    data: st.DataObject,
) -> None:
    ids = [
        token
        for text, is_mark in answer
        for token in ([tokenizer.token_to_id(text)] if is_mark else encode_text(tokenizer, text))
    ]
    place = data.draw(st.integers(0, len(ids)))
    ids[place:place] = noise  # bytes that make no character
    whole = AnswerParser(tokenizer, stop)
    expected = said(whole.add(ids) + whole.finish())

    cuts = sorted(data.draw(st.lists(st.integers(0, len(ids)), max_size=8)))
    parser, deltas = AnswerParser(tokenizer, stop), []
    for begin, end in zip([0, *cuts], [*cuts, len(ids)], strict=True):
        deltas += parser.add(ids[begin:end])
    assert said(deltas + parser.finish()) == expected
    assert parser.is_stopped == whole.is_stopped
    indices = [delta.call.index for delta in deltas if delta.call]
    assert indices == sorted(set(indices))


@given(parts=st.lists(st.one_of(texts, st.sampled_from(OTHERS)).filter(lambda part: part not in MARKS), max_size=6),
       stop=st.sampled_from([(), ("ab",), ("b", "Ω")]))  # fmt: skip
def test_an_answer_without_marks_is_the_text_that_the_engine_gives_out(
    tokenizer: Tokenizer, parts: list[str], stop: tuple[str, ...]
) -> None:
    detokenizer, stops = Detokenizer(tokenizer), StopStrings(stop)
    ids = tokens_of(tokenizer, parts)
    expected = "".join(stops.add(detokenizer.add(token)) for token in ids)
    expected += "" if stops.found else stops.add(detokenizer.finish()) + stops.finish()
    parser = AnswerParser(tokenizer, stop)
    assert "".join(delta.text for delta in parser.add(ids) + parser.finish()) == expected
    assert parser.is_stopped == stops.found


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=("Cs",)), max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text('aβж"\\', max_size=3), children),
    max_leaves=6,
)
plain_text = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)


@settings(max_examples=40)
@given(
    reasoning=plain_text,
    content=plain_text,
    calls=st.lists(
        st.tuples(plain_text.filter(bool), st.dictionaries(plain_text, json_values, max_size=3)), max_size=3
    ),
    as_text=st.booleans(),
)
def test_what_the_template_writes_is_read_back(
    tokenizer: Tokenizer, reasoning: str, content: str, calls: list[tuple[str, dict[str, Any]]], as_text: bool
) -> None:
    message = {
        "role": "assistant",
        "content": content,
        "reasoning_content": reasoning,
        "tool_calls": [
            {"function": {"name": name, "arguments": json.dumps(arguments) if as_text else arguments}}
            for name, arguments in calls
        ],
    }
    rendered = render(tokenizer, [message])
    parser = AnswerParser(tokenizer)
    ids = [token for token, is_ours in zip(rendered.ids, rendered.is_assistant, strict=True) if is_ours]
    deltas = parser.add(ids) + parser.finish()
    assert "".join(delta.text for delta in deltas if delta.kind == "reasoning") == reasoning
    assert "".join(delta.text for delta in deltas if delta.kind == "content") == content
    found = [delta.call for delta in deltas if delta.call]
    assert [(call.name, json.loads(call.arguments)) for call in found] == calls
    assert [call.index for call in found] == list(range(len(calls)))
    assert len({call.id for call in found}) == len(calls)

    again = {
        **message,
        "tool_calls": [{"function": {"name": call.name, "arguments": call.arguments}} for call in found],
    }
    assert render(tokenizer, [again]).ids == rendered.ids, "the next turn would not find the cache of this one"


@pytest.mark.parametrize(
    "parts, expected",
    [
        (["<think>", "σκέψη", "</think>", "ναι"], [("reasoning", "σκέψη", ""), ("content", "ναι", "")]),
        (["<think>", "σκέψη"], [("reasoning", "σκέψη", "")]),
        (["<think>", "</think>", "a"], [("content", "a", "")]),
        (["a", "</think>", "b", "<|/tool_call|>", "c"], [("content", "abc", "")]),
        (["<think>", "<think>", "a", "</think>", "b"], [("reasoning", "a", ""), ("content", "b", "")]),
        (["<think>", "<|tool_call|>", CALL, "<|/tool_call|>", "</think>", "b"],
         [("reasoning", CALL, ""), ("content", "b", "")]),
        (["a", "<|tool_call|>", CALL, "<|/tool_call|>", "b"],
         [("content", "a", ""), ("tool", "καιρός", '{"πόλη": "Αθήνα"}'), ("content", "b", "")]),
        (["<|tool_call|>", CALL], [("tool", "καιρός", '{"πόλη": "Αθήνα"}')]),
        (["<|tool_call|>", CALL[:-1]], [("content", CALL[:-1], "")]),
        (["<|tool_call|>", CALL[:9], "<|tool_call|>", CALL, "<|/tool_call|>"],
         [("content", CALL[:9], ""), ("tool", "καιρός", '{"πόλη": "Αθήνα"}')]),
        (["<|tool_call|>", CALL, "<|tool_call|>", CALL],
         [("tool", "καιρός", '{"πόλη": "Αθήνα"}'), ("tool", "καιρός", '{"πόλη": "Αθήνα"}')]),
        (["<|tool_call|>", "<|/tool_call|>", "a"], [("content", "a", "")]),
        (["<|tool_call|>", "<think>", CALL, "</think>", "<|/tool_call|>"],
         [("tool", "καιρός", '{"πόλη": "Αθήνα"}')]),
        (["<|user|>", "a", "<|tool_result|>"], [("content", "a", "")]),
        ([], []),
    ],
)  # fmt: skip
def test_marks_in_and_out_of_order(
    tokenizer: Tokenizer, parts: list[str], expected: list[tuple[str, str, str]]
) -> None:
    assert parse(tokenizer, parts) == expected


def test_text_that_spells_a_mark_is_text(tokenizer: Tokenizer) -> None:
    ids = encode_text(tokenizer, "<think>a</think><|tool_call|>")
    parser = AnswerParser(tokenizer)
    assert said(parser.add(ids) + parser.finish()) == [("content", "<think>a</think><|tool_call|>", "")]


@pytest.mark.parametrize(
    "text, expected",
    [
        ('{"name": "f", "arguments": {"a":1}}', ("f", '{"a":1}')),
        ('{"name": "f", "arguments": { "ü" : 1 } }', ("f", '{ "ü" : 1 } ')),
        ('{"arguments": {"ü": 1}, "name": "f"}', ("f", '{"ü": 1}')),
        (' {"name":"f","arguments":"{\\"a\\": 1}"}', ("f", '{"a": 1}')),
        ('{"name": "f"}', ("f", "{}")),
        ('{"name": "f", "arguments": {}, "name": "g", "arguments": {}}', ("g", "{}")),
        ('{"arguments": {"a": "\\ud800"}, "name": "f"}', ("f", '{"a": "\\ud800"}')),
        ('{"name": "\\ud800", "arguments": {}}', None),
        ('{"name": "", "arguments": {}}', None),
        ('{"name": 3, "arguments": {}}', None),
        ('{"name": "f", "arguments": [1]}', None),
        ('{"name": "f", "arguments": "no"}', None),
        ('{"name": "f", "arguments": {"a": NaN}}', None),
        ('{"arguments": {"a": 1e999}, "name": "f"}', None),
        ('{"name": "f", "arguments": {"a": ' + "9" * 5000 + "}}", None),
        ('{"name": "f", "arguments": ' + '{"a":' * 20_000 + "1" + "}" * 20_000 + "}", None),
        ("[" * 100_000, None),
        ('["f", {}]', None),
        ("f(x)", None),
        ("", None),
    ],
)
def test_a_call_is_an_object_with_a_name_and_an_object_of_arguments_or_it_is_none(
    text: str, expected: tuple[str, str] | None
) -> None:
    assert read_call(text) == expected


@pytest.mark.parametrize(
    "parts, stop, expected",
    [
        (["abcdef"], ("cd",), [("content", "ab", "")]),
        (["<think>", "ab", "</think>", "cd"], ("bc",), [("reasoning", "a", "")]),  # as the engine, which sees one text
        (["<think>", "ab", "</think>", "d"], ("bc",), [("reasoning", "ab", ""), ("content", "d", "")]),
        (["<|tool_call|>", CALL, "<|/tool_call|>", "xSTOPy"], ("STOP",),
         [("tool", "καιρός", '{"πόλη": "Αθήνα"}'), ("content", "x", "")]),
        (["<|tool_call|>", CALL, "<|/tool_call|>"], ("πόλη",), [("content", CALL[: CALL.index("πόλη")], "")]),
        (["abc"], ("cd",), [("content", "abc", "")]),
    ],
)  # fmt: skip
def test_nothing_of_a_stop_string_comes_out(
    tokenizer: Tokenizer, parts: list[str], stop: tuple[str, ...], expected: list[tuple[str, str, str]]
) -> None:
    assert parse(tokenizer, parts, stop) == expected


def test_after_a_stop_string_nothing_more_is_read(tokenizer: Tokenizer) -> None:
    parser = AnswerParser(tokenizer, ("b",))
    assert said(parser.add(tokens_of(tokenizer, ["abc"]))) == [("content", "a", "")]
    assert parser.is_stopped
    assert parser.add(tokens_of(tokenizer, ["d", "<|tool_call|>", CALL, "<|/tool_call|>"])) == []
    assert parser.finish() == []


def test_each_letter_comes_as_soon_as_its_last_byte_is_there(tokenizer: Tokenizer) -> None:
    parser = AnswerParser(tokenizer)
    pieces = [parser.add([token]) for token in tokens_of(tokenizer, ["Ħω"])]
    assert pieces == [[], [Delta("content", "Ħ")], [], [Delta("content", "ω")]]


def test_a_tokenizer_without_the_marks_gives_content_only() -> None:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    built = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(letters)}, merges=[]))
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    built.decoder = decoders.ByteLevel()
    parser = AnswerParser(built)
    assert said(parser.add(built.encode("<think>a").ids) + parser.finish()) == [("content", "<think>a", "")]
