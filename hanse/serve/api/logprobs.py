"""Tokens and their logprobs in the two forms of OpenAI's API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer

from hanse.serve.detokenize import token_bytes
from hanse.serve.request import Logprob

#: The least that a client is told, as in OpenAI's API: JSON has no minus infinity.
LEAST = -9999.0


def chat_logprobs(tokenizer: Tokenizer, logprobs: Sequence[Logprob]) -> dict[str, Any]:
    """The `logprobs` of a choice of `/v1/chat/completions`."""
    found = []
    for each in logprobs:
        top = [_entry(tokenizer, token, value) for token, value in each.top]
        found.append({**_entry(tokenizer, each.token, each.value), "top_logprobs": top})
    return {"content": found, "refusal": None}


def _entry(tokenizer: Tokenizer, token: int, value: float) -> dict[str, Any]:
    spelled = _bytes(tokenizer, token)
    text = spelled.decode("utf-8", "replace") if spelled else _control(tokenizer, token)
    return {"token": text, "logprob": max(value, LEAST), "bytes": list(spelled)}


def completion_logprobs(
    tokenizer: Tokenizer, tokens: Sequence[int], logprobs: Sequence[Logprob | None], *, offset: int
) -> dict[str, Any]:
    """The `logprobs` of a choice of `/v1/completions`: four lists, one entry a token.

    Args:
        logprobs: one for each token; None for the first one of a text.
        offset: characters of the choice's text before the first token.
    """
    names = [_name(tokenizer, token) for token in tokens]
    offsets, text = [], b""
    for token in tokens:
        offsets.append(offset + len(text.decode("utf-8", "ignore")))
        text += _bytes(tokenizer, token)
    return {
        "tokens": names,
        "token_logprobs": [None if each is None else max(each.value, LEAST) for each in logprobs],
        "top_logprobs": [None if each is None else _top(tokenizer, each) for each in logprobs],
        "text_offset": offsets,
    }


def _top(tokenizer: Tokenizer, found: Logprob) -> dict[str, float]:
    """The likeliest tokens, and the one that was taken: evaluations compare it with the best."""
    return {_name(tokenizer, token): max(value, LEAST) for token, value in (*found.top, (found.token, found.value))}


def _name(tokenizer: Tokenizer, token: int) -> str:
    """A token as text; parts of characters by their bytes, so that no two tokens look alike in one table."""
    spelled = _bytes(tokenizer, token)
    if not spelled:
        return _control(tokenizer, token)
    try:
        return spelled.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelled)


def _bytes(tokenizer: Tokenizer, token: int) -> bytes:
    table = token_bytes(tokenizer)
    return table[token] if token < len(table) else b""


def _control(tokenizer: Tokenizer, token: int) -> str:
    return tokenizer.id_to_token(token) or f"<{token}>"
