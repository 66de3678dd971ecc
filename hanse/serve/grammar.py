"""Structured output: which tokens may come next so that the answer is JSON that a schema allows.

The grammar is llguidance's (MIT). It reads bytes, not characters, so that a token which ends within a Greek letter is
as good as any other. What it leaves out of JSON schema is an error here and not a silent gap, and the order of an
object's properties is that of the schema. The JSON stands on one line.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import Tokenizer

from hanse.errors import InputError
from hanse.serve.detokenize import token_bytes

if TYPE_CHECKING:
    import llguidance

#: Bounds on what a stranger's schema may cost: its text in bytes, symbols of the grammar, states of the lexer (some
#: 2 kB each), and the work for building the lexer and for one token (50,000 and 14,000 units a millisecond).
MAX_SCHEMA_BYTES = 65_536
_LIMITS: dict[str, Any] = {
    "max_grammar_size": 100_000,
    "max_lexer_states": 20_000,
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 200_000,
}
# On one line, with or without a blank behind comma and colon: a small model that may write blanks writes nothing else.
STYLE: Any = {
    "whitespace_flexible": False,
    "item_separator": ", ?",
    "key_separator": ": ?",
    "lenient": False,
    "coerce_one_of": False,
}


class Matcher:
    """Where one answer stands in its grammar.

    Attributes:
        error: why the grammar gave up in the middle of the answer, if it did; from then on only an end may come.
    """

    def __init__(self, matcher: llguidance.LLMatcher, vocab_size: int) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self.error: str | None = None

    @property
    def is_finished(self) -> bool:
        """Whether nothing more may come."""
        return self._matcher.is_stopped()

    @property
    def can_end(self) -> bool:
        """Whether the answer is whole as it stands; also when the grammar gave up."""
        return self._matcher.is_stopped() or self._matcher.is_accepting()

    def mask(self) -> np.ndarray:
        """Which tokens of text may come next, bool (vocab_size,); end tokens are not among them, see `can_end`.

        Where only one text can follow, that is the one token which the tokenizer would write it with.
        """
        if self._matcher.is_stopped():
            return np.zeros(self._vocab_size, dtype=bool)
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._note_error()
        return np.unpackbits(bits, count=self._vocab_size, bitorder="little").view(bool)

    def allows(self, token: int) -> bool:
        """Whether this token of text may come next: any that `mask` has, and other ways to cut the same text."""
        return not self._matcher.is_stopped() and self._matcher.validate_tokens([token]) == 1

    def accept(self, token: int) -> None:
        """Go on by a token. An end token, or another that is no text, changes nothing where the answer may end.

        Raises:
            ValueError: a token that is not allowed.
        """
        if self._matcher.is_stopped():
            return
        if not self.allows(token):
            self._note_error()
            if self.error is None and not self.can_end:
                raise ValueError(f"token {token} is not what the grammar allows")
            return
        self._matcher.consume_token(token)
        self._note_error()

    def _note_error(self) -> None:
        if self.error is None and self._matcher.is_error():
            self.error = _reason(self._matcher.get_error())


class Grammar:
    """A compiled schema."""

    def __init__(self, matcher: llguidance.LLMatcher, vocab_size: int) -> None:
        self._first = matcher
        self._vocab_size = vocab_size

    def start(self) -> Matcher:
        """Before the first token of an answer."""
        return Matcher(self._first.deep_copy(), self._vocab_size)


@lru_cache(maxsize=64)
def compile_schema(schema: str, tokenizer: Tokenizer, vocab_size: int) -> Grammar:
    """Make a grammar of a JSON schema, or take the one that was made before.

    Args:
        schema: JSON text of an object; "{}" stands for any JSON object.
        tokenizer: byte-level.
        vocab_size: of the model's logits; at least that of the tokenizer.

    Raises:
        InputError: no JSON, too long, too complex, a keyword that is not supported, or a schema that nothing meets.
    """
    if (size := len(schema.encode("utf-8", "surrogatepass"))) > MAX_SCHEMA_BYTES:
        raise InputError(f"The schema has {size} bytes; shorten it to {MAX_SCHEMA_BYTES}.")
    import llguidance

    parsed = _parse(schema)
    # A schema may carry options of the library under this key: they are ours to set.
    parsed.pop("x-guidance", None)
    try:
        text = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(parsed or {"type": "object"}), overrides=STYLE)
    except ValueError as error:
        raise InputError(f"The schema cannot be used: {_reason(str(error))}.") from error
    limits = llguidance.LLParserLimits(**_LIMITS, verbose_errors=False)
    matcher = llguidance.LLMatcher(_vocabulary(tokenizer, vocab_size), text, log_level=0, limits=limits)
    grammar = Grammar(matcher, vocab_size)
    if matcher.is_error():
        raise InputError(f"The schema cannot be used: {_reason(matcher.get_error())}.")
    first = grammar.start()
    begins = bool(first.mask().any())
    if first.error is not None:
        raise InputError(f"The schema cannot be used: {first.error}.")
    if not begins:
        raise InputError("The schema allows nothing: no JSON meets all that it asks for.")
    return grammar


def _parse(schema: str) -> dict[str, object]:
    try:
        parsed = json.loads(schema, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InputError(f"The schema is no JSON: {reason}.") from error
    if not isinstance(parsed, dict):
        raise InputError(f"The schema is a JSON {type(parsed).__name__}; give an object, as in {{'type': 'object'}}.")
    return parsed


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is none of its numbers")


def _reason(error: str) -> str:
    """The first line of the library's message, which goes on with its own state."""
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    return lines[0].rstrip(".")[:300] if lines else "no reason given"


@lru_cache(maxsize=4)
def _vocabulary(tokenizer: Tokenizer, vocab_size: int) -> llguidance.LLTokenizer:
    import llguidance

    return llguidance.LLTokenizer(
        llguidance.TokenizerWrapper(_Vocabulary(tokenizer, vocab_size)), slices=llguidance.LLTokenizer.json_slices()
    )


class _Vocabulary:
    """The tokens as the library wants to see them.

    Behind the vocabulary stands an end token of its own, which no model can say: which tokens end an answer is the
    engine's business. Tokens without text are marked as special, which no schema allows.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        texts = list(token_bytes(tokenizer))[:vocab_size]
        texts += [b""] * (vocab_size - len(texts))
        self.special_token_ids = [token for token, text in enumerate(texts) if not text]
        for token in self.special_token_ids:
            texts[token] = b"<%d>" % token
        self.tokens = [*texts, b"<end>"]
        self.eos_token_id, self.bos_token_id = vocab_size, None
        self.special_token_ids.append(vocab_size)
        # A copy, since the switch is state: a schema's own "<think>" is text.
        self._plain = Tokenizer.from_str(tokenizer.to_str())
        self._plain.encode_special_tokens = True

    def __call__(self, text: str) -> list[int]:
        return self._plain.encode(text, add_special_tokens=False).ids
