"""From token ids back to bytes and text, piece by piece.

A token of a byte-level vocabulary may end within a character: half of the Greek, Cyrillic and Maltese letters are cut
that way in small vocabularies. Bytes are kept back until they make a character.
"""

from __future__ import annotations

import codecs
from functools import lru_cache

from tokenizers import Tokenizer


@lru_cache(maxsize=8)
def token_bytes(tokenizer: Tokenizer) -> tuple[bytes, ...]:
    """The bytes of each token id; none for control tokens and for ids that the tokenizer does not use."""
    bytes_of = _bytes_of_letters()
    found = [b""] * (max(tokenizer.get_vocab().values(), default=-1) + 1)
    controls = {token_id for token_id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    for token, token_id in tokenizer.get_vocab().items():
        if token_id not in controls:
            found[token_id] = b"".join(bytes_of.get(letter, letter.encode()) for letter in token)
    return tuple(found)


def _bytes_of_letters() -> dict[str, bytes]:
    """The alphabet of byte-level BPE (GPT-2): printable Latin-1 stands for itself, the rest from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    letters = {chr(byte): bytes([byte]) for byte in printable}
    return letters | {chr(0x100 + number): bytes([byte]) for number, byte in enumerate(others)}


class Detokenizer:
    """Text of a growing sequence of tokens; what was handed out once never changes.

    Bytes that can never become a character come out as U+FFFD, as in the tokenizer's own `decode`.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._bytes = token_bytes(tokenizer)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, token_id: int) -> str:
        """The text that this token completes; it may be empty."""
        return self._decoder.decode(self._bytes[token_id] if token_id < len(self._bytes) else b"")

    def finish(self) -> str:
        """What is left when nothing more comes: a cut character as U+FFFD."""
        return self._decoder.decode(b"", final=True)


class StopStrings:
    """Lets text through until one of the stop strings appears, and keeps back what might become one."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._kept = ""
        self.found = False

    def add(self, text: str) -> str:
        """The part of the text that is certain to stand before any stop string."""
        if not self._stops or self.found:
            return "" if self.found else text
        self._kept += text
        hits = [position for stop in self._stops if (position := self._kept.find(stop)) >= 0]
        if hits:
            self.found = True
            certain, self._kept = self._kept[: min(hits)], ""
            return certain
        waiting = max(_overlap(self._kept, stop) for stop in self._stops)
        certain, self._kept = self._kept[: len(self._kept) - waiting], self._kept[len(self._kept) - waiting :]
        return certain

    def finish(self) -> str:
        """What was kept back, now that no more text comes."""
        kept, self._kept = self._kept, ""
        return kept


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if stop.startswith(text[-size:])), 0)
