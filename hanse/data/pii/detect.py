"""Find personal data: a native search for rare signs first, a close look only where one of them stands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from hanse.data.pii import network, numbers, phone, signs
from hanse.data.pii.finding import Candidate, Finding, resolve
from hanse.data.pii.rules import load

_TOGETHER = 2**18  # characters of text that are searched for signs at once
_REPEATED_VALUES = 50  # of one document that are looked for without context


class Detector:
    """Finds personal data in texts of these languages.

    Args:
        languages: ISO 639-1 codes. A text in another language, or in none that is known, is read with the context
            words and countries of all of them, and asked for a context word more often.
    """

    def __init__(self, languages: Iterable[str]) -> None:
        self._rules, self._any = load(languages)

    def find(self, text: str, language: str | None = None) -> list[Finding]:
        """Personal data in a text, sorted by place, none overlapping.

        Where two candidates overlap, the stronger evidence stays (`hanse.data.pii.finding`). A number that was found
        by its context is found in the rest of the text as well.

        Args:
            text: any string.
            language: ISO 639-1 code of the text, None if unknown.
        """
        return self.find_batch([text], [language])[0]

    def find_batch(self, texts: Sequence[str], languages: Sequence[str | None]) -> list[list[Finding]]:
        """`find` for each text with its language; faster for many short ones.

        Raises:
            ValueError: the two sequences differ in length.
        """
        if len(texts) != len(languages):
            raise ValueError(f"there are {len(texts)} texts and {len(languages)} languages")
        found: list[list[Finding]] = [[] for _ in texts]
        for group in _groups(texts):
            seen = signs.scan(texts[group])
            for number in seen.at | seen.scheme | seen.dots | seen.colons | seen.digits.keys():
                place = group.start + number
                candidates = list(self._candidates(texts[place], languages[place], seen, number))
                if candidates:
                    found[place] = resolve(chain(candidates, _repeated(texts[place], candidates)))
        return found

    def _candidates(self, text: str, language: str | None, seen: signs.Signs, number: int) -> Iterator[Candidate]:
        rules = self._rules.get(language, self._any) if language else self._any
        if number in seen.at:
            yield from network.emails(text)
        if number in seen.scheme:
            yield from network.url_tokens(text)
        if number in seen.dots:
            yield from network.ipv4(text, rules)
        if number in seen.colons:
            yield from network.ipv6(text)
        for low, high in signs.windows(text, seen.digits.get(number, ())):
            yield from numbers.ibans(text, low, high)
            yield from numbers.cards(text, low, high, rules)
            yield from numbers.national(text, low, high, rules)
            yield from phone.phones(text, low, high, rules)


def _groups(texts: Sequence[str]) -> Iterator[slice]:
    """Neighbouring texts with some hundred thousand characters together, or one longer text."""
    start = size = 0
    for number, text in enumerate(texts):
        if number > start and size + len(text) > _TOGETHER:
            yield slice(start, number)
            start, size = number, 0
        size += len(text) + 1
    if start < len(texts):
        yield slice(start, len(texts))


def _repeated(text: str, candidates: list[Candidate]) -> Iterator[Candidate]:
    """Further places of the same numbers, spelt alike, where no word gives them away."""
    values: dict[str, Candidate] = {}
    for candidate in candidates:
        finding = candidate.finding
        if finding.kind in ("phone", "card") or finding.kind.startswith("national-id"):
            values.setdefault(text[finding.start : finding.end], candidate)
            if len(values) == _REPEATED_VALUES:
                break
    for value, (strength, finding) in values.items():
        start = text.find(value)
        while start >= 0:
            end = start + len(value)
            grown = (value[0].isalnum() and text[start - 1 : start].isalnum()) or text[end : end + 1].isalnum()
            if not grown:
                yield Candidate(strength, Finding(finding.kind, start, end, finding.checksum))
            start = text.find(value, end)
