"""IBANs, payment cards and national numbers, within the windows that a digit expression picked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from hanse.data.pii.finding import BANK, CHECKED, CONTEXT, Candidate, Finding
from hanse.data.pii.rules import BLANKS, HYPHENS, NationalNumber, Rules, Shapes, Words

CONTEXT_CHARACTERS = 60  # before a number; a context word further away speaks of something else
AFTER_CHARACTERS = 24  # after it, as in "44051401359 (PESEL)"; Irish and Hungarian often put the name behind
_SENTENCE_END = re.compile(r"[.!?;\n]")

_IBAN = re.compile(rf"(?<!\w)(?:[A-Z]{{2}}|[a-z]{{2}})[0-9]{{2}}(?:[{BLANKS}.-]?[0-9A-Za-z]){{11,40}}")
_SEPARATOR = rf"[{BLANKS}{HYPHENS}]"
_CARD = re.compile(
    rf"(?<![\w+])(?<![0-9][-./,:])(?:"
    rf"[2-6][0-9]{{3}}({_SEPARATOR}?)[0-9]{{4}}\1[0-9]{{4}}\1[0-9]{{1,7}}"
    rf"|3[4-9][0-9]{{2}}{_SEPARATOR}?[0-9]{{6}}{_SEPARATOR}?[0-9]{{4,5}}"
    rf")(?!\w)(?![-./,:][0-9])"
)
_MORE_DIGITS = re.compile(rf"[0-9]{_SEPARATOR}\Z")
# Issuer ranges: first and last prefix, number of digits (ISO/IEC 7812-1; the networks' published ranges).
_ISSUERS = (
    ("34", "34", (15,)), ("37", "37", (15,)),  # American Express
    ("300", "305", (14,)), ("36", "36", (14,)), ("38", "39", (14,)),  # Diners Club
    ("3528", "3589", (16,)),  # JCB
    ("4", "4", (13, 16, 19)),  # Visa
    ("51", "55", (16,)), ("2221", "2720", (16,)),  # Mastercard
    ("50", "50", range(12, 20)), ("56", "58", range(12, 20)),  # Maestro
    ("6", "6", range(15, 20)),  # Discover, UnionPay, Maestro and others
)  # fmt: skip


def ibans(text: str, low: int, high: int) -> Iterator[Candidate]:
    """Account numbers of the IBAN registry with the right length, structure and check digits (ISO 13616)."""
    position = low
    while match := _IBAN.search(text, position, high):
        position = match.start() + 2
        length = iban_length(match.group()[:2].upper())
        end = _end_of(match, length) if length else None
        if end is None or text[end : end + 1].isalnum():
            continue
        from stdnum import iban

        # Banks' own check digits and bank lists (Spain, Belgium) are left aside: they change, and 97 is enough.
        if iban.is_valid(text[match.start() : end], check_country=False):
            yield Candidate(BANK, Finding("iban", match.start(), end, True))
            position = end


@lru_cache(maxsize=1024)
def iban_length(country: str) -> int | None:
    """Characters of an IBAN of this country, None where the registry has none."""
    from stdnum import numdb

    entry = numdb.get("iban").info(country)[0][1]
    return 4 + sum(int(n) for n in re.findall(r"([0-9]+)!", entry["bban"])) if entry else None


def _end_of(match: re.Match[str], characters: int) -> int | None:
    """Where the match has had this many letters and digits."""
    for offset, sign in enumerate(match.group()):
        characters -= sign.isalnum()
        if not characters:
            return match.start() + offset + 1
    return None


def cards(text: str, low: int, high: int, rules: Rules) -> Iterator[Candidate]:
    """Payment cards: Luhn, an issuer's range, and either groups as embossed on the card or a word beside it."""
    for match in _CARD.finditer(text, low, high):
        start, end = match.span()
        if end == high < len(text):
            continue  # cut off by the window
        digits = re.sub(r"[^0-9]", "", match.group())
        if not _has_issuer(digits):
            continue
        alone = not _MORE_DIGITS.search(text[max(0, start - 2) : start]) and not re.match(
            rf"{_SEPARATOR}[0-9]", text[end : end + 2]
        )
        if not (has_context(text, start, end, rules.card) or (len(digits) < end - start and alone)):
            continue
        from stdnum import luhn

        if luhn.is_valid(digits):
            yield Candidate(CHECKED, Finding("card", start, end, True))


def _has_issuer(digits: str) -> bool:
    return any(len(digits) in lengths and first <= digits[: len(first)] <= last for first, last, lengths in _ISSUERS)


def national(text: str, low: int, high: int, rules: Rules) -> Iterator[Candidate]:
    """National numbers whose check holds and whose name stands beside them, or whose form is particular enough."""
    for match, number in _shaped(text, low, high, rules.written):
        if number.check is not None and number.check(match.group()):
            yield Candidate(CHECKED, Finding(number.kind, *match.span(), number.checksum))
    if not rules.names.stand_in(text, low - CONTEXT_CHARACTERS, high + AFTER_CHARACTERS):
        return
    for match, number in _shaped(text, low, high, rules.named):
        if not has_context(text, *match.span(), number.words):
            continue
        if number.check is None or number.check(match.group()):
            strength = CHECKED if number.checksum else CONTEXT
            yield Candidate(strength, Finding(number.kind, *match.span(), number.checksum))


def _shaped(text: str, low: int, high: int, shapes: Shapes) -> Iterator[tuple[re.Match[str], NationalNumber]]:
    for shape, numbers in shapes:
        for match in shape.finditer(text, low, high):
            if match.end() < high or high == len(text):  # else the window has cut it off
                for number in numbers:
                    yield match, number


def has_context(text: str, start: int, end: int, words: Words) -> bool:
    """Whether one of the words stands before an item, or after it within the sentence."""
    if words.stand_in(text, start - CONTEXT_CHARACTERS, start):
        return True
    sentence_end = _SENTENCE_END.search(text, end, end + AFTER_CHARACTERS)
    return words.stand_in(text, end, sentence_end.start() if sentence_end else end + AFTER_CHARACTERS)
