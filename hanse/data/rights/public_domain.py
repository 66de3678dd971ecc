"""Is a text old enough to be free? From its author's death, a table of terms, and a reference year; never from a label.

"Unknown" is an answer. Only the author of the text is looked at: a translator or editor may have rights of their own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from hanse.data.rights.tables import member_states, terms

Outcome = Literal["clear", "not-clear", "unknown"]

MAX_AUTHOR = 1000  # characters that are looked at
LONGEST_LIFE = 122  # years; Jeanne Calment, 1875-1997
YOUNGEST_AUTHOR = 10  # years; a shorter span of dates is not a life: "Soldiers' letters (1914-1918)"
_YEAR = r"(1[0-9]{3}|20[0-9]{2})"
# "(1879-1970)", "1879–1970", "(?-1970)"; a year with a question mark behind it is no date.
_LIFE = re.compile(rf"(?:(?<![0-9]){_YEAR}\??|[(?])\s*[-–—]\s*{_YEAR}(?![0-9?])")
_BORN = re.compile(rf"(?:\(\s*(?:b\.|born|\*)?\s*|(?:b\.|born|\*)\s*){_YEAR}(?![0-9?])")
_DIED = re.compile(rf"(?:†|\bd\.|\bdied|\bgest\.|\bm\.)\s*{_YEAR}(?![0-9?])", re.IGNORECASE)
# Between authors. A bare "y" or "et" parts two names as often as the halves of one, so it counts only behind dates.
_SEVERAL = re.compile(r"[;|&]|\s(?:and|und)\s|(?<=[0-9]\))\s*,?\s*(?:y|e|et|och|og|i|en)?\s+(?=\w)")
_ANONYMOUS = frozenset((
    "anon", "anon.", "anoniem", "anonim", "anonimo", "anonimowy", "anonym", "anonyme", "anonymous", "anonymus",
    "anónimo", "ανώνυμος", "анонимен",
))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Clearance:
    """Whether a text is free by age.

    Attributes:
        outcome: "clear", "not-clear" or "unknown".
        reason: one word for counting, such as "author-died-too-recently".
        died: the year that decided, of the last author to die; None where none is known.
        free_from: first year in which the text is free, where that is known.
    """

    outcome: Outcome
    reason: str
    died: int | None = None
    free_from: int | None = None


def check(
    *,
    author: str | None,
    year: int | None,
    author_died: int | None,
    reference_year: int,
    jurisdiction: str = "EU",
) -> Clearance:
    """Whether a text is in the public domain by age.

    Args:
        author: as the record has it; dates in it are read: "Forster, E. M. (1879-1970)".
        year: of first publication, where known; it matters for anonymous works, and to see nonsense.
        author_died: year of death, where the record has it as a number.
        reference_year: the year asked about; no clock is read.
        jurisdiction: a country of `public_domain.toml`, or "EU" for the term that all member states share.
    """
    return _check((author or "")[:MAX_AUTHOR], year, author_died, reference_year, jurisdiction.upper())


def life(author: str) -> tuple[int | None, int | None]:
    """Years of birth and death that an author string holds; of several authors the one who died last.

    Where one of several authors has no date of death, the answer is None: the last one counts (Article 1(2)).
    """
    lives = [_life(part) for part in _SEVERAL.split(author[:MAX_AUTHOR]) if part]
    if not lives:
        return None, None
    if any(died is None for _, died in lives):
        born = [each for each, _ in lives if each is not None]
        return (max(born) if len(born) == len(lives) else None), None
    return max(lives, key=lambda pair: pair[1] or 0)


@lru_cache(maxsize=8192)
def _check(author: str, year: int | None, died: int | None, reference_year: int, jurisdiction: str) -> Clearance:
    table = terms().get(jurisdiction) or (terms()["EU"] if jurisdiction in member_states() else None)
    if table is None:
        return Clearance("unknown", "jurisdiction-not-in-table")
    born, died_by_name = life(author)
    if died is not None and died_by_name is not None and died != died_by_name:
        died = max(died, died_by_name)
    died = died if died is not None else died_by_name
    if died is not None:
        if died > reference_year or (born is not None and not born + YOUNGEST_AUTHOR <= died <= born + LONGEST_LIFE):
            return Clearance("unknown", "author-dates-impossible")
        return _after(died, table, reference_year)
    if author.strip().strip("[]()").lower() in _ANONYMOUS:
        return _anonymous(year, table, reference_year)
    if born is not None and born <= reference_year:
        latest = _after(born + LONGEST_LIFE, table, reference_year)
        if latest.outcome == "clear":
            return Clearance("clear", "author-born-long-ago", None, latest.free_from)
    return Clearance("unknown", "author-death-unknown" if author.strip() else "author-unknown")


def _after(died: int, table: Mapping[str, Any], reference_year: int) -> Clearance:
    years = table["years"]
    for exception in table.get("exception", ()):
        if exception["died_from"] <= died <= exception["died_to"]:
            years = exception["years"]
            if not years:
                return Clearance("unknown", "term-may-be-longer", died)
    free_from = died + years + 1
    if reference_year >= free_from:
        return Clearance("clear", "author-died-long-ago", died, free_from)
    return Clearance("not-clear", "author-died-too-recently", died, free_from)


def _anonymous(year: int | None, table: Mapping[str, Any], reference_year: int) -> Clearance:
    if year is None or year > reference_year:
        return Clearance("unknown", "anonymous-without-year")
    free_from = year + table["anonymous"] + 1
    if reference_year >= free_from:
        return Clearance("clear", "anonymous-published-long-ago", None, free_from)
    return Clearance("not-clear", "anonymous-published-too-recently", None, free_from)


def _life(part: str) -> tuple[int | None, int | None]:
    if lives := _LIFE.findall(part):
        born, died = max(lives, key=lambda years: int(years[1]))
        return (int(born) if born else None), int(died)
    birth, death = _BORN.search(part), _DIED.search(part)
    return (int(birth[1]) if birth else None), (int(death[1]) if death else None)
