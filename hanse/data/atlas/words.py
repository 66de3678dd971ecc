"""Numbers in words, the form used for counting and for the result of a sum.

num2words (LGPL) knows 18 of the 24 languages; unicode-rbnf interprets CLDR's spelling rules for the other six. Where
either is wrong, a small table of replacements mends it: (language, pattern, replacement), each with its reason.
"""

from __future__ import annotations

import re
from functools import cache

from num2words import num2words
from unicode_rbnf import RbnfEngine

from hanse.data.atlas.text import clean

RBNF_LANGUAGES: tuple[str, ...] = ("bg", "el", "et", "ga", "hr", "mt")
"""Languages that num2words lacks."""

_MENDED: tuple[tuple[str, str, str], ...] = (
    ("da", r"(?<!halv)treds$", "tres"),  # num2words spells 60 with the d of the obsolete "tresindstyve"
    ("el", "εννενήντα", "ενενήντα"),  # CLDR writes 90 with the double nu of "εννέα"
    ("ga", "^a náid$", "náid"),  # the particle goes with 1 to 19 only
    ("sl", "^dve$", "dva"),  # counting is "ena, dva, tri"; the feminine agrees with a noun
)


@cache
def _engine(language: str) -> RbnfEngine:
    return RbnfEngine.for_language(language)


@cache
def number_word(number: int, language: str) -> str:
    """The number in words.

    Args:
        number: 0 to 99; beyond that neither source has been checked.
        language: one of the 24 codes.

    Raises:
        ValueError: if the number is out of the range that was checked.
    """
    if not 0 <= number <= 99:
        raise ValueError(f"number_word is checked for 0 to 99, not for {number}")
    if language in RBNF_LANGUAGES:
        word = _engine(language).format_number(number).text
    else:
        word = num2words(number, lang=language)
    for mended, pattern, replacement in _MENDED:
        if mended == language:
            word = re.sub(pattern, replacement, word)
    return clean(word)
