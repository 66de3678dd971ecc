"""The rules per language: context words, countries, and the shapes of national numbers, read from two TOML files."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

BLANKS = " \u00a0\u2009\u202f"  # the last two: thin and narrow no-break space, which French typography uses
HYPHENS = "\u2010\u2011\u2013-"


@dataclass(frozen=True)
class Words:
    """A word list, looked for before a number. Three expressions, as one with flags and look-behinds took 100 us.

    Attributes:
        exact: words in capitals, as they stand.
        whole: other words and beginnings of words, for text in lower case.
        inner: parts of words, likewise.
    """

    exact: re.Pattern[str] | None
    whole: re.Pattern[str] | None
    inner: re.Pattern[str] | None

    @classmethod
    def of(cls, words: Iterable[str]) -> Words:
        """Compile a list: "*" is the rest of a word, capitals are exact, other words take any case.

        A word inside a placeholder such as <phone> is no context, so none may follow "<".
        """
        exact: list[str] = []
        whole: list[str] = []
        inner: list[str] = []
        for word in dict.fromkeys(words):
            kind = exact if word.isupper() else inner if word.startswith("*") else whole
            bare = word.strip("*") if word.isupper() else word.strip("*").lower()
            core = re.sub(r"(?:\\ )+", r"\\s+", re.escape(bare)).replace(r"\*", r"\w*")
            kind.append(core + ("" if word.endswith("*") or not word[-1].isalnum() else r"(?!\w)"))
        return cls(_any(r"(?<![\w<])", exact), _any(r"(?<![\w<])", whole), _any(r"(?<!<)", inner))

    def stand_in(self, text: str, start: int, end: int) -> bool:
        """Whether one of the words stands in text[start:end]."""
        window = text[max(0, start - 1) : end]  # one more: the end of a longer word is no word
        if self.exact and self.exact.search(window):
            return True
        window = window.lower()
        return bool((self.whole and self.whole.search(window)) or (self.inner and self.inner.search(window)))


@dataclass(frozen=True)
class NationalNumber:
    """One national number: how it looks, how it is checked, what it is called.

    Attributes:
        kind: "national-id-" and the country.
        check: tells whether a string is such a number; None where nobody publishes a check.
        checksum: whether `check` computes a check digit (or only a date).
        words: the context words.
    """

    kind: str
    check: Callable[[str], bool] | None
    checksum: bool
    words: Words


Shapes = tuple[tuple[re.Pattern[str], tuple[NationalNumber, ...]], ...]


@dataclass(frozen=True)
class Rules:
    """What is looked for in texts of one language.

    Attributes:
        countries: whose telephone numbers.
        phone, card, address, version, names: context words; `names` are those of all national numbers together.
        named: national numbers by their shapes, to be found beside a name.
        written: those whose form needs no name.
    """

    countries: tuple[str, ...]
    phone: Words
    card: Words
    address: Words
    version: Words
    names: Words
    named: Shapes
    written: Shapes


def load(languages: Iterable[str]) -> tuple[dict[str, Rules], Rules]:
    """The rules of each language, and those for texts whose language is unknown: all of them together.

    Args:
        languages: ISO 639-1 codes; those without a table get the rules that hold in any language.
    """
    words = _read("words.toml")
    numbers = national_numbers()
    asked = list(dict.fromkeys(languages))
    rules = {code: _rules([code], words, numbers) for code in asked}
    return rules, _rules(asked, words, numbers)


def national_numbers() -> list[dict[str, Any]]:
    """The table of national numbers as it stands in identity.toml."""
    return list(_read("identity.toml")["number"])


@lru_cache(maxsize=64)
def countries(language: str | None) -> tuple[str, ...]:
    """Countries whose telephone numbers a text in this language is read for; none where the language is unknown."""
    return tuple(_read("words.toml").get(language or "", {}).get("countries", ()))


def _any(before: str, alternatives: list[str]) -> re.Pattern[str] | None:
    return re.compile(f"{before}(?:{'|'.join(alternatives)})") if alternatives else None


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads(resources.files("hanse.data.pii").joinpath(name).read_text(encoding="utf-8"))


def _rules(languages: list[str], words: dict[str, Any], numbers: list[dict[str, Any]]) -> Rules:
    tables = [words[code] for code in languages if code in words]

    def listed(kind: str) -> Words:
        return Words.of([*words["any"][kind], *(word for table in tables for word in table.get(kind, ()))])

    at_home = [number for number in numbers if any(code in number["languages"] for code in languages)]
    known = numbers if "en" in languages else at_home
    # Where the language is unknown a number needs its name beside it, however particular its form.
    particular = [number for number in at_home if "written" in number] if len(languages) == 1 else []
    return Rules(
        countries=tuple(dict.fromkeys(country for table in tables for country in table["countries"])),
        phone=listed("phone"),
        card=listed("card"),
        address=listed("address"),
        version=listed("version"),
        names=Words.of(word for number in known for word in number["words"]),
        named=_by_shape(known, "shape"),
        written=_by_shape(particular, "written"),
    )


def _by_shape(numbers: list[dict[str, Any]], key: str) -> Shapes:
    """The numbers of one shape together, so that each shape is searched once."""
    shapes: dict[str, list[NationalNumber]] = {}
    for number in numbers:
        shapes.setdefault(number[key], []).append(
            NationalNumber(
                kind=f"national-id-{number['country']}",
                check=national_check(number["module"]) if "module" in number else None,
                checksum="module" in number and number.get("checksum", True),
                words=Words.of(number["words"]),
            )
        )
    return tuple((_bounded(shape), tuple(kinds)) for shape, kinds in shapes.items())


def _bounded(shape: str) -> re.Pattern[str]:
    """The shape as a whole: no letter or digit beside it, and no part of a longer number with separators."""
    return re.compile(rf"(?<![\w+])(?<![0-9][-./,:])(?:{_typographic(shape)})(?!\w)(?![-./,:][0-9])")


def _typographic(shape: str) -> str:
    """Let blanks and final hyphens in classes stand for their relatives too; python-stdnum maps them back."""
    return shape.replace(" ", BLANKS).replace("-]", HYPHENS + "]")


def national_check(module: str) -> Callable[[str], bool]:
    """The check of a python-stdnum module, by its name below `stdnum`; imported here and not before."""
    from importlib import import_module

    special = {"be.nn": _is_belgian, "dk.cpr": _is_danish, "se.personnummer": _is_swedish}
    return special.get(module) or import_module(f"stdnum.{module}").is_valid


# Three modules of python-stdnum look at the calendar, so that a number could become valid next year. Ours do not: the
# same text gives the same findings on any day.


def _is_belgian(number: str) -> bool:
    """Modulo 97, of the nine digits as they stand or after a 2 for births since 2000; month 0 to 12, +20, +40."""
    from stdnum.be import nn

    digits = nn.compact(number)
    if len(digits) != 11 or not digits.isdecimal():
        return False
    matches = any(97 - int(start + digits[:9]) % 97 == int(digits[9:]) for start in ("", "2"))
    return matches and int(digits[2:4]) % 20 <= 12 and int(digits[2:4]) <= 52 and int(digits[4:6]) <= 31


def _is_danish(number: str) -> bool:
    from stdnum.dk import cpr
    from stdnum.exceptions import ValidationError

    digits = cpr.compact(number)
    try:
        return len(digits) == 10 and digits.isdecimal() and bool(cpr.get_birth_date(digits))
    except ValidationError:
        return False


def _is_swedish(number: str) -> bool:
    from stdnum.se import personnummer

    digits = personnummer.compact(number)
    if len(digits) == 13:
        return bool(personnummer.is_valid(digits))
    return any(personnummer.is_valid(century + digits) for century in ("19", "20"))
