"""Telephone numbers, by Google's numbering plans (phonenumbers), in windows that a digit expression picked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

from hanse.data.pii.finding import CONTEXT, INTERNATIONAL, Candidate, Finding
from hanse.data.pii.rules import BLANKS, HYPHENS, Rules, Words

if TYPE_CHECKING:
    from phonenumbers import PhoneNumber

_REACH = 40  # characters before a number in which a word such as "tel." counts
_CHAIN = 8  # characters between two numbers that share a word
_GAP = rf"[{BLANKS}./(){HYPHENS}]{{0,3}}"
_SHAPE = re.compile(
    rf"(?:(?<![/+])\+|(?<![\w/+])(?<![0-9][-.,:])(?:00)?)"
    rf"\(?[0-9](?:{_GAP}[0-9]){{5,18}}(?!\w)(?![.,:-][0-9])(?![ ]?[%€$£])"
)
_NO_PHONE = re.compile(
    r"[0-3]?[0-9]([./-])\s?[01]?[0-9]\1\s?(?:1[5-9]|20)?[0-9]{2}"  # 31.12.1999
    r"|(?:1[5-9]|20)[0-9]{2}([./-])[01]?[0-9]\2[0-3]?[0-9]"  # 1999-12-31
    r"|[1-9][0-9]*\.[0-9]+|0\.[0-9]+"  # 12345.6789
)
_BREAK = re.compile(rf"[{BLANKS}]")
_CLAUSE_END = re.compile(r"[.,:;!?\n0-9]")
_SHORTENINGS = 3  # a number may have a year or a page after it: drop groups from the right, at most this many


def phones(text: str, low: int, high: int, rules: Rules) -> Iterator[Candidate]:
    """Numbers that a country's plan allows: in international form; near a word such as "tel."; or in national form
    with its leading zero and grouped exactly as the country writes it."""
    holds_words: bool | None = None
    previous_end = 0
    for match in _SHAPE.finditer(text, low, high):
        start, end = match.span()
        raw = match.group()
        if end == high < len(text) or _NO_PHONE.fullmatch(raw):
            continue
        if holds_words is None:  # asked once for the window: a table of numbers usually holds none
            holds_words = rules.phone.stand_in(text, low - _REACH, high + _REACH)
        is_named = holds_words and _is_named(text, start, end, previous_end, rules.phone)
        if length := _length(raw, is_named, rules.countries):
            strength = INTERNATIONAL if raw.lstrip("(").startswith(("+", "00")) else CONTEXT
            yield Candidate(strength, Finding("phone", start, start + length, False))
            previous_end = start + length


def _is_named(text: str, start: int, end: int, previous_end: int, words: Words) -> bool:
    """Whether a word stands before, or behind a number with a leading zero ("a 06201234567 telefonszámon").

    A word speaks of one number, and of the next only if that follows closely, as in "Tel. 1 or 2".
    """
    gap = start - previous_end
    if words.stand_in(text, start - (_REACH if gap <= _CHAIN else min(_REACH, gap)), start):
        return True
    clause = _CLAUSE_END.search(text, end, end + _REACH // 2)
    return text[start] == "0" and words.stand_in(text, end, clause.start() if clause else end + _REACH // 2)


def _length(raw: str, is_named: bool, countries: tuple[str, ...]) -> int | None:
    """How much of what looks like a number is one; None where neither form nor a word speaks for it."""
    bare = raw.lstrip("(")
    if bare.startswith("+") or (bare.startswith("00") and (is_named or not bare.isdigit())):
        return _valid_length(raw, (), False)
    if is_named or (bare.startswith("0") and not bare.isdigit()):
        return _valid_length(raw, countries, not is_named)
    return None


def e164(raw: str, countries: tuple[str, ...]) -> str | None:
    """The number as "+" and digits (ITU-T E.164), read for the first country whose plan allows it, or None."""
    number = _parse(raw, countries)
    return f"+{number.country_code}{number.national_number}" if number else None


@lru_cache(maxsize=4096)  # parsing takes 50 us a country, and the footers of a site repeat
def _valid_length(raw: str, countries: tuple[str, ...], exact: bool) -> int | None:
    """How much of a string is a valid number, dropping groups from its end."""
    for _ in range(_SHORTENINGS + 1):
        number = _parse(raw, countries)
        if number and (not exact or _is_written_nationally(raw, number)):
            return len(raw)
        breaks = list(_BREAK.finditer(raw))
        if not breaks:
            return None
        raw = raw[: breaks[-1].start()].rstrip(" ./()-" + BLANKS + HYPHENS)
        if sum(map(str.isdigit, raw)) < 7:
            return None
    return None


def _parse(raw: str, countries: tuple[str, ...]) -> PhoneNumber | None:
    from phonenumbers import NumberParseException, is_valid_number, parse

    written = raw.lstrip("(")
    if written.startswith("00"):
        written = "+" + written[2:]
    for country in (None,) if written.startswith("+") else countries:
        try:
            number = parse(written if written.startswith("+") else raw, country)
        except NumberParseException:
            continue
        if is_valid_number(number):
            return number
    return None


def _is_written_nationally(raw: str, number: PhoneNumber) -> bool:
    """Whether the groups are those of the national format, of which there are at least two."""
    from phonenumbers import PhoneNumberFormat, format_number

    groups = re.findall(r"[0-9]+", raw)
    return len(groups) > 1 and groups == re.findall(r"[0-9]+", format_number(number, PhoneNumberFormat.NATIONAL))
