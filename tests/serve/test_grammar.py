"""Structured output: whatever the model would rather say, what comes out is JSON that the schema allows."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from hanse.errors import InputError
from hanse.serve.detokenize import token_bytes
from hanse.serve.grammar import MAX_SCHEMA_BYTES, Grammar, Matcher, compile_schema
from hanse.serve.request import Sampling
from hanse.serve.sampler import Sampler, choose
from hanse.tune.template import SPECIAL_TOKENS, encode_text

jsonschema = pytest.importorskip("jsonschema")

VOCAB_SIZE = 800  # more than the tokenizers have: a model's vocabulary is often padded
PERSON = {
    "type": "object",
    "properties": {
        "όνομα": {"type": "string", "maxLength": 6},
        "ηλικία": {"type": "integer", "minimum": 0, "maximum": 120},
        "γλώσσες": {"type": "array", "items": {"enum": ["ελληνικά", "Malti", "Gaeilge", "български"]}, "maxItems": 2},
    },
    "required": ["όνομα", "ηλικία"],
    "additionalProperties": False,
}
SCHEMAS: list[dict[str, Any]] = [
    PERSON,
    {"type": "integer", "minimum": -20, "maximum": 300},
    {"enum": ["Αθήνα", "Baile Átha Cliath", "🇪🇺", None, 3]},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
    {"anyOf": [{"type": "null"}, {"type": "string", "pattern": "^[α-ω]{2,4}$"}]},
    {"type": "object", "properties": {"a": {"$ref": "#/$defs/b"}}, "required": ["a"], "additionalProperties": False,
     "$defs": {"b": {"type": "object", "properties": {"c": {"const": "ż"}}, "additionalProperties": False}}},
]  # fmt: skip


@pytest.fixture(scope="module")
def merged() -> Tokenizer:
    """A tokenizer with merges, some of which cut letters and some of which join JSON signs with letters."""
    text = ['{"όνομα": "Μαρία", "ηλικία": 30, "γλώσσες": ["ελληνικά", "Malti"]}', "αβγδεζηθικλμνξοπρστυφχψω"] * 3
    built = Tokenizer(models.BPE())
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    built.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    built.train_from_iterator(text, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False))
    built.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return built


@pytest.fixture(params=["bytes", "merged"])
def any_tokenizer(request: pytest.FixtureRequest, tokenizer: Tokenizer, merged: Tokenizer) -> Tokenizer:
    return tokenizer if request.param == "bytes" else merged


def compiled(schema: dict[str, Any], tokenizer: Tokenizer) -> Grammar:
    return compile_schema(json.dumps(schema), tokenizer, VOCAB_SIZE)


def spell(matcher: Matcher, tokens: list[int]) -> None:
    for token in tokens:
        assert matcher.allows(token), f"token {token} is refused"
        matcher.accept(token)


def ends(tokenizer: Tokenizer) -> frozenset[int]:
    return frozenset(tokenizer.token_to_id(token) for token in ("<|end_of_turn|>", "<|end_of_text|>"))


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: str(schema)[:40])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_random_logits_give_json_that_the_schema_allows(
    schema: dict[str, Any], temperature: float, any_tokenizer: Tokenizer
) -> None:
    texts = token_bytes(any_tokenizer)
    generator = torch.Generator().manual_seed(6)
    samplers = [
        Sampler(
            Sampling(temperature=temperature, top_p=0.95, seed=seed, schema="set", repetition_penalty=1.1),
            [],
            vocab_size=VOCAB_SIZE,
            grammar=compiled(schema, any_tokenizer).start(),
        )
        for seed in range(6)
    ]
    said: list[bytes] = [b""] * len(samplers)
    going = list(range(len(samplers)))
    for _ in range(400):
        logits = torch.randn(len(going), VOCAB_SIZE, generator=generator) * 3
        # A random model writes blanks and letters for ever; this one would rather come to an end.
        logits[:, any_tokenizer.encode('"}],').ids] += 4
        tokens = choose(logits, [samplers[row] for row in going], end_ids=ends(any_tokenizer))
        for row, token in zip(list(going), tokens, strict=True):
            samplers[row].accept(token)
            if token in ends(any_tokenizer):
                going.remove(row)
                continue
            said[row] += texts[token]
            if samplers[row].is_finished:
                going.remove(row)
        if not going:
            break
    assert not going, "some answers found no end"
    for text in said:
        jsonschema.validate(json.loads(text.decode("utf-8")), schema)


@given(
    name=st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x7f"), max_size=6),
    age=st.integers(0, 120),
    languages=st.lists(st.sampled_from(["ελληνικά", "Malti", "Gaeilge", "български"]), max_size=2),
    separators=st.sampled_from([(", ", ": "), (",", ":")]),
)
def test_everything_that_the_schema_allows_can_be_said(
    tokenizer: Tokenizer,
    merged: Tokenizer,
    name: str,
    age: int,
    languages: list[str],
    separators: tuple[str, str],
) -> None:
    document = {"όνομα": name, "ηλικία": age, "γλώσσες": languages}
    text = json.dumps(document, ensure_ascii=False, separators=separators)
    for each in (tokenizer, merged):
        matcher = compiled(PERSON, each).start()
        spell(matcher, encode_text(each, text))
        assert matcher.can_end
        assert matcher.is_finished


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: str(schema)[:40])
def test_the_mask_is_what_is_allowed_or_the_one_token_of_a_text_that_is_sure(
    schema: dict[str, Any], any_tokenizer: Tokenizer
) -> None:
    matcher = compiled(schema, any_tokenizer).start()
    generator = torch.Generator().manual_seed(3)
    for _ in range(30):
        mask = matcher.mask()
        allowed = [token for token in range(VOCAB_SIZE) if matcher.allows(token)]
        masked = mask.nonzero()[0].tolist()
        texts = [token_bytes(any_tokenizer)[token] for token in allowed]
        if masked != allowed:
            assert len(masked) == 1 and masked[0] in allowed
            longest = max(texts, key=len)
            assert all(longest.startswith(text) for text in texts)
        if not mask.any():
            break
        matcher.accept(int(torch.multinomial(torch.from_numpy(mask).double(), 1, generator=generator)))


def test_control_tokens_and_ids_without_text_never_come(any_tokenizer: Tokenizer) -> None:
    matcher = compiled({"type": "string"}, any_tokenizer).start()
    spell(matcher, encode_text(any_tokenizer, '"abc'))
    mask = matcher.mask()
    texts = token_bytes(any_tokenizer)
    empty = [token for token in range(VOCAB_SIZE) if token >= len(texts) or not texts[token]]
    assert set(ends(any_tokenizer)) < set(empty)
    assert not mask[empty].any()
    assert not any(mask[token] for token, text in enumerate(texts) if b"\xff" in text or b"\xc0" in text)


def test_a_mark_that_the_schema_spells_is_written_as_text(any_tokenizer: Tokenizer) -> None:
    matcher = compiled({"const": "<think>|<|end_of_turn|>"}, any_tokenizer).start()
    said = b""
    while not matcher.is_finished:
        token = int(matcher.mask().argmax())
        said += token_bytes(any_tokenizer)[token]
        matcher.accept(token)
    assert json.loads(said) == "<think>|<|end_of_turn|>"


def test_two_answers_of_one_grammar_do_not_disturb_each_other(tokenizer: Tokenizer) -> None:
    grammar = compiled({"enum": ["ab", "cd"]}, tokenizer)
    one, other = grammar.start(), grammar.start()
    spell(one, encode_text(tokenizer, '"ab"'))
    spell(other, encode_text(tokenizer, '"cd"'))
    assert one.is_finished and other.is_finished
    assert grammar.start().mask().any()


def test_an_end_token_is_taken_where_the_answer_is_whole_and_only_there(tokenizer: Tokenizer) -> None:
    end = tokenizer.token_to_id("<|end_of_turn|>")
    matcher = compiled({"type": "integer"}, tokenizer).start()
    assert not matcher.can_end
    with pytest.raises(ValueError, match="grammar allows"):
        matcher.accept(end)
    spell(matcher, encode_text(tokenizer, "12"))
    assert matcher.can_end and not matcher.is_finished  # another digit may come
    matcher.accept(end)


def test_a_grammar_with_nothing_left_takes_an_end_token_even_if_ends_are_ignored(tokenizer: Tokenizer) -> None:
    grammar = compiled({"const": 7}, tokenizer)
    logits = torch.zeros(1, VOCAB_SIZE)
    for sampling in (Sampling(), Sampling(ignore_end=True), Sampling(temperature=1.0, ignore_end=True, seed=1)):
        sampler = Sampler(sampling, [], vocab_size=VOCAB_SIZE, grammar=grammar.start())
        first = choose(logits, [sampler], end_ids=ends(tokenizer))
        assert first == encode_text(tokenizer, "7")
        sampler.accept(first[0])
        assert sampler.is_finished
        assert choose(logits, [sampler], end_ids=ends(tokenizer))[0] in ends(tokenizer)


def test_an_empty_schema_stands_for_any_object(tokenizer: Tokenizer) -> None:
    matcher = compile_schema("{}", tokenizer, VOCAB_SIZE).start()
    allowed = {bytes(token_bytes(tokenizer)[token]) for token in matcher.mask().nonzero()[0]}
    assert allowed == {b"{"}
    spell(matcher, encode_text(tokenizer, '{"ab": [1, {"ё": null}]}'))
    assert matcher.is_finished


def test_a_schema_cannot_set_options_of_the_library(tokenizer: Tokenizer) -> None:
    matcher = compiled({"type": "string", "x-guidance": {"json_allowed_escapes": ""}}, tokenizer).start()
    spell(matcher, encode_text(tokenizer, json.dumps('a\n"')))
    assert matcher.is_finished


def test_a_model_cannot_write_blanks_for_ever(tokenizer: Tokenizer) -> None:
    matcher = compiled(PERSON, tokenizer).start()
    blank, newline = (encode_text(tokenizer, text)[0] for text in " \n")
    for piece, may_follow in (
        ("{", False),
        ('"όνομα"', False),
        (":", True),
        (" ", False),
        ('"a",', True),
        (" ", False),
    ):
        spell(matcher, encode_text(tokenizer, piece))
        assert matcher.allows(blank) is may_follow
        assert not matcher.allows(newline)


def test_a_schema_is_compiled_once_for_a_tokenizer(tokenizer: Tokenizer, merged: Tokenizer) -> None:
    text = json.dumps(SCHEMAS[1])
    assert compile_schema(text, tokenizer, VOCAB_SIZE) is compile_schema(text, tokenizer, VOCAB_SIZE)
    assert compile_schema(text, tokenizer, VOCAB_SIZE) is not compile_schema(text, merged, VOCAB_SIZE)


@pytest.mark.parametrize(
    "schema, reason",
    [
        ("{", "no JSON"),
        ("", "no JSON"),
        ("[1]", "JSON list"),
        ("true", "JSON bool"),
        ('{"minimum": NaN}', "no JSON"),
        ("[" * 30_000, "no JSON"),
        ('{"a":' * 10_000 + "1" + "}" * 10_000, "schema"),
        ('{"type": "banana"}', "banana"),
        ('{"type": 3}', "schema"),
        ('{"$ref": "http://127.0.0.1:9/other.json"}', "schema"),
        ('{"$ref": "#/nowhere"}', "schema"),
        ('{"type": "string", "pattern": "(?=a)b"}', "schema"),
        ('{"type": "string", "pattern": "("}', "schema"),
        ('{"type": "string", "format": "no-such-format"}', "format"),
        ('{"type": "object", "unevaluatedProperties": {"type": "null"}, "if": {}, "then": {}}', "schema"),
        ('{"x-guidance": {"lenient": true}, "type": "string", "format": "no-such-format"}', "format"),
        ('{"type": "integer", "minimum": 3, "maximum": 2}', "schema"),
        ('{"enum": []}', "schema"),
        ('{"const": "\\ud800"}', "schema"),
        (json.dumps({"enum": ["x" * MAX_SCHEMA_BYTES]}), f"shorten it to {MAX_SCHEMA_BYTES}"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused_with_the_reason(
    schema: str, reason: str, tokenizer: Tokenizer
) -> None:
    with pytest.raises(InputError, match=reason) as caught:
        compile_schema(schema, tokenizer, VOCAB_SIZE)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "^(a|b)*a(a|b){18}$"},
        {"type": "string", "pattern": "^(([ab]{1,50}){1,50}){1,50}$"},
        {"type": "array", "items": {"anyOf": [{"const": "a" * n} for n in range(200)]}, "maxItems": 10_000},
    ],
    ids=str,
)
def test_a_schema_that_explodes_is_refused_or_ends_its_answer_and_costs_little(
    schema: dict[str, Any], tokenizer: Tokenizer
) -> None:
    try:
        matcher = compiled(schema, tokenizer).start()
    except InputError:
        return
    generator = torch.Generator().manual_seed(1)
    likely = [encode_text(tokenizer, letter)[0] for letter in 'ab["']
    for _ in range(200):
        mask = matcher.mask()
        if matcher.error is not None or not mask.any():
            break
        weights = torch.from_numpy(mask).double() * 1e-3
        weights[likely] *= 1e6
        matcher.accept(int(torch.multinomial(weights, 1, generator=generator)))
    if matcher.error is not None:
        assert matcher.can_end and matcher.is_finished and not matcher.mask().any()
