"""The facts of atlas: a question's variable part and its exact answer, in any of the 24 languages.

Names come from Unicode CLDR through Babel, numbers in words from `words.py`, everything else from `facts.toml`.
The same fact has the same id in every language, so an answer can be compared with the English one.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

from babel import Locale
from babel.dates import format_date

from hanse.data.atlas.phrasings import TASKS
from hanse.data.atlas.text import clean
from hanse.data.atlas.words import number_word

FACTS_PER_TASK: Mapping[str, int] = {
    "capital": 30,
    "country": 30,
    "currency": 12,
    "language": 20,
    "joined": 10,
    "neighbours": 8,
    "day_after": 7,
    "day_before": 7,
    "month_after": 12,
    "month": 12,
    "days": 6,
    "date": 12,
    "number": 30,
    "sum": 21,
}
"""How many facts each task has at most, per language: about 215 together. Training time is the limit, not knowledge."""

# "pt" and "en" alone mean Brazil and the United States in CLDR.
_LOCALES = {"pt": "pt_PT", "en": "en_IE"}
_TABLE = Path(__file__).parent / "facts.toml"
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
# One a month; no 1st, 8th or 11th, which would change an article (French "1er", Italian "l'8").
_DATES = ("01-06", "02-14", "03-25", "04-23", "05-09", "06-21", "07-14", "08-15", "09-26", "10-03", "11-20", "12-24")
_YEAR = 2026
_NUMBERS = (*range(21), 30, 40, 50, 60, 70, 80, 90, 21, 32, 43, 54, 65, 76, 87, 98)
_SHORT_MONTHS, _LONG_MONTHS = (4, 6, 9, 11), (1, 3, 5, 7, 8, 10, 12)
# CLDR writes these currency or weekday names with a capital, running text does not.
_SMALL_CURRENCIES, _SMALL_WEEKDAYS = ("bg", "el", "ga"), ("lv", "mt")


@dataclass(frozen=True)
class Fact:
    """One fact in one language.

    Attributes:
        id: stable across languages and versions, such as "capital/GR".
        task: one of `TASKS`.
        topic: what it is about: an ISO 3166-1 code, "week", "months", "dates", "numbers" or "sums".
        given: what the question names.
        answer: the bare answer.
        answer_en: the English answer to the same fact.
    """

    id: str
    task: str
    topic: str
    given: str
    answer: str
    answer_en: str

    @property
    def differs(self) -> bool:
        """Whether the answer, case aside, is not the English one; only then it shows that the language is known."""
        return self.answer.casefold() != self.answer_en.casefold()


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads(_TABLE.read_text(encoding="utf-8"))


@cache
def _corrections() -> dict[tuple[str, str, str], str | None]:
    return {(c["language"], c["task"], c["code"]): c.get("value") for c in _table()["correction"]}


@cache
def _locale(language: str) -> Locale:
    return Locale.parse(_LOCALES.get(language, language))


def _small(text: str) -> str:
    return text[:1].lower() + text[1:]


def _territory(code: str, language: str) -> str:
    return clean(_locale(language).territories[code])


def _capital(country: Mapping[str, Any], language: str) -> str | None:
    """The capital's name; where CLDR has none, the language writes it as English does."""
    key = (language, "capital", country["code"])
    if key in _corrections():
        return _corrections()[key]
    city = _locale(language).time_zones.get(country["zone"], {}).get("city")
    # CLDR localises the zone, and Malta's is called after the country.
    if city is not None and country["code"] != "MT":
        return clean(city)
    if language == "en":
        return clean(country["zone"].rpartition("/")[2].replace("_", " "))
    return _capital(country, "en")


def _currency(code: str, language: str) -> str | None:
    key = (language, "currency", code)
    if key in _corrections():
        return _corrections()[key]
    name = _locale(language).currencies.get(code)
    if name is None:
        return None
    return _small(clean(name)) if language in _SMALL_CURRENCIES else clean(name)


@cache
def _weekday(index: int, language: str) -> str:
    """Monday is 0; counted modulo 7."""
    name = clean(_locale(language).days["stand-alone"]["wide"][index % 7])
    return _small(name) if language in _SMALL_WEEKDAYS else name


@cache
def _month(number: int, language: str) -> str:
    """January is 1; counted modulo 12."""
    return clean(_locale(language).months["stand-alone"]["wide"][(number - 1) % 12 + 1])


_Pair = tuple[str, str, str, str | None, str]  # id within the task, topic, given, answer (None: left out), task


def _country_pairs(language: str) -> list[_Pair]:
    """Every country fact, in the order of the table."""
    pairs: list[_Pair] = []
    for country in _table()["country"]:
        code, name = country["code"], _territory(country["code"], language)
        if "zone" in country:
            capital = _capital(country, language)
            pairs.append((code, code, name, capital, "capital"))
            if capital is not None:
                pairs.append((code, code, capital, name, "country"))
        if "currency" in country:
            pairs.append((code, code, name, _currency(country["currency"], language), "currency"))
        if "language" in country:
            official = clean(_locale(language).languages[country["language"]])
            pairs.append((code, code, name, official, "language"))
        if "joined" in country:
            pairs.append((code, code, name, str(country["joined"]), "joined"))
        if "neighbours" in country:
            names = ", ".join(_territory(neighbour, language) for neighbour in country["neighbours"])
            pairs.append((code, code, name, names, "neighbours"))
    # Short lists of neighbours first: an answer of four names costs as much as four answers.
    return sorted(pairs, key=lambda pair: (pair[3] or "").count(",") if pair[4] == "neighbours" else 0)


def _calendar_pairs(language: str) -> list[_Pair]:
    pairs: list[_Pair] = []
    for index, key in enumerate(_WEEKDAYS):
        today = _weekday(index, language)
        pairs.append((key, "week", today, _weekday(index + 1, language), "day_after"))
        pairs.append((key, "week", today, _weekday(index - 1, language), "day_before"))
    for number in range(1, 13):
        month = _month(number, language)
        pairs.append((f"{number:02}", "months", month, _month(number + 1, language), "month_after"))
        pairs.append((f"{number:02}", "months", str(number), month, "month"))
    for short, long in zip((*_SHORT_MONTHS, *(0,) * 3), _LONG_MONTHS, strict=True):
        for number, days in ((short, "30"), (long, "31")):
            if number:
                pairs.append((f"{number:02}", "months", _month(number, language), days, "days"))
    for month_day in _DATES:
        iso = f"{_YEAR}-{month_day}"
        written = clean(format_date(date.fromisoformat(iso), "long", locale=_locale(language)))
        pairs.append((iso, "dates", iso, written, "date"))
    return pairs


def _number_pairs(language: str) -> list[_Pair]:
    pairs: list[_Pair] = [(str(n), "numbers", str(n), number_word(n, language), "number") for n in _NUMBERS]
    # Small sums first; each pair once, the smaller number in front.
    for total in range(4, 19):
        for first in range(2, total // 2 + 1):
            if (second := total - first) <= 9:
                pairs.append((f"{first}+{second}", "sums", f"{first} + {second}", number_word(total, language), "sum"))
    return pairs


@cache
def all_facts(language: str) -> tuple[Fact, ...]:
    """Every fact known in a language, task by task, in the order of the tables."""
    pairs = (*_country_pairs(language), *_calendar_pairs(language), *_number_pairs(language))
    english = {} if language == "en" else {fact.id: fact.answer for fact in all_facts("en")}
    facts = []
    for key, topic, given, answer, task in pairs:
        if answer is not None:
            name = f"{task}/{key}"
            facts.append(Fact(name, task, topic, given, answer, english.get(name, answer)))
    return tuple(sorted(facts, key=lambda fact: TASKS.index(fact.task)))


def select(language: str, facts_per_task: Mapping[str, int]) -> tuple[Fact, ...]:
    """At most so many facts of each task, those first whose answer differs from English.

    Args:
        language: one of the 24 codes.
        facts_per_task: the most facts a task may have; a task not named has none.
    """
    chosen: list[Fact] = []
    for task in TASKS:
        facts = [fact for fact in all_facts(language) if fact.task == task]
        if language != "en":
            facts.sort(key=lambda fact: not fact.differs)
        chosen.extend(facts[: facts_per_task.get(task, 0)])
    return tuple(chosen)
