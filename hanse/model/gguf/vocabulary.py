"""What a GGUF file says of its tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gguf import TokenType

NORMAL, CONTROL = int(TokenType.NORMAL), int(TokenType.CONTROL)
USER_DEFINED, UNUSED = int(TokenType.USER_DEFINED), int(TokenType.UNUSED)


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a model, and how text becomes them.

    Attributes:
        split: llama.cpp's name for the expression that cuts text into words.
        tokens: the text of each, as byte-level BPE writes it; one for every row of the embedding.
        types: gguf.TokenType of each.
        merges: pairs of pieces, in the order in which they are joined.
        special: "bos", "eos", "eot", "padding" -> id, where there is one. "eos" ends a text, "eot" a turn.
        template: of a conversation, in Jinja; empty if there is none.
    """

    split: str
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[str, ...]
    special: Mapping[str, int]
    template: str = ""
