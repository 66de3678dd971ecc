"""Good text, spoiled on purpose: what the rules are measured on and what the classifier learns to tell from good text.

Each kind is a function of a text and a source of chance, so the same seed spoils alike on every machine.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

_WORD = re.compile(r"[^\W\d_]+")
_SENTENCE = re.compile(r"[^.!?\n]+[.!?]?")
_CONTENT_CHARACTERS = 6  # words from here on are names and nouns more often than articles


def damaged(text: str, kind: str, *, seed: int) -> str:
    """The text, damaged in one of the ways of DAMAGES; about as long as before.

    Returns:
        The text as it was, if this damage cannot be done to it (no word, nothing outside ASCII).
    """
    words = _WORD.findall(text)
    if len(words) < 10:
        return text
    return DAMAGES[kind](text, words, random.Random(f"{kind} {seed} {len(text)} {text[:50]}"))


def _shuffled(text: str, words: list[str], chance: random.Random) -> str:
    """All words in another order, punctuation left on them."""
    pieces = text.split()
    chance.shuffle(pieces)
    return " ".join(pieces)


def _repeated(text: str, words: list[str], chance: random.Random) -> str:
    """A few sentences, again and again."""
    sentences = [sentence.strip() for sentence in _SENTENCE.findall(text) if len(sentence) > 20] or [text[:100]]
    chosen = chance.sample(sentences, min(len(sentences), chance.randint(1, 4)))
    lines: list[str] = []
    while sum(map(len, lines)) < len(text):
        lines.append(chance.choice(chosen))
    return "\n".join(lines)


def _menu(text: str, words: list[str], chance: random.Random) -> str:
    """Links of a page: one to three capitalised words, on lines or between bars; few articles and prepositions."""
    words = [word for word in words if len(word) >= 4] or words
    mark = chance.choice(["\n", "\n", " | ", " » ", "\n• "])
    entries: list[str] = []
    size = 0
    while size < len(text):
        entry = " ".join(chance.choice(words) for _ in range(chance.randint(1, 3))).capitalize()
        entries.append(entry)
        size += len(entry) + len(mark)
    return mark.join(entries)


def _keywords(text: str, words: list[str], chance: random.Random) -> str:
    """Names and nouns between commas, as shops write them for search engines."""
    content = [word for word in words if len(word) >= _CONTENT_CHARACTERS] or words
    return ", ".join(chance.choice(content).lower() for _ in range(max(10, len(text) // 9)))


def _template(text: str, words: list[str], chance: random.Random) -> str:
    """One sentence with a gap, filled with word after word."""
    content = [word for word in words if len(word) >= _CONTENT_CHARACTERS] or words
    frame = [chance.choice(words) for _ in range(chance.randint(6, 12))]
    sentences: list[str] = []
    while sum(map(len, sentences)) < len(text):
        filled = list(frame)
        for _ in range(2):
            filled[chance.randrange(len(filled))] = chance.choice(content)
        sentences.append(" ".join(filled).capitalize() + ".")
    return " ".join(sentences)


def _mojibake(text: str, words: list[str], chance: random.Random) -> str:
    """UTF-8 read as Windows-1252, or as Latin-1 where that has no sign for a byte."""
    data = text.encode()
    return "".join(data[place : place + 1].decode("cp1252", "replace") if data[place] not in _NOT_IN_1252
                   else chr(data[place]) for place in range(len(data)))  # fmt: skip


def _numbers(text: str, words: list[str], chance: random.Random) -> str:
    """A table: a word and numbers in each line."""
    lines: list[str] = []
    while sum(map(len, lines)) < len(text):
        cells = [f"{chance.uniform(0, 10 ** chance.randint(1, 6)):.{chance.randint(0, 3)}f}" for _ in range(6)]
        lines.append("\t".join([chance.choice(words), *cells]))
    return "\n".join(lines)


def _code(text: str, words: list[str], chance: random.Random) -> str:
    """Statements of a program whose names are the text's words."""
    frames = (
        "if ({0} == {1}) {{ {2}.{0}({1}[{3}]); }}", "var {0} = {1}.{2}({3}, '{0}');", "return {0}[{1}] || {{}};",
        "{0}->{1} += ({2} * {3}) >> 2;", "  {0}: {{ {1}: {3}px; {2}: #{3}; }}",
        "</div><div class=\"{0}-{1}\"><a href=\"/{2}?{0}={3}\">",
    )  # fmt: skip
    lines: list[str] = []
    while sum(map(len, lines)) < len(text):
        names = [chance.choice(words).lower() for _ in range(3)]
        lines.append(chance.choice(frames).format(*names, chance.randint(0, 999)))
    return "\n".join(lines)


_NOT_IN_1252 = frozenset((0x81, 0x8D, 0x8F, 0x90, 0x9D))
DAMAGES: dict[str, Callable[[str, list[str], random.Random], str]] = {
    "shuffled": _shuffled,
    "repeated": _repeated,
    "menu": _menu,
    "keywords": _keywords,
    "template": _template,
    "mojibake": _mojibake,
    "numbers": _numbers,
    "code": _code,
}
"""Ways to damage a text."""
