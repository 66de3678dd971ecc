"""What a paper is: numbered sections of questions, tables and prose, where each answer names what backs it.

Papers are pure functions of a `Ledger`. How they look, as Markdown, HTML or JSON, is one place: `render`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

NOT_RECORDED = "not recorded"
NOT_APPLICABLE = "not applicable"
NO_ADVICE = "Derived by software from the records of this release. This is not legal advice."


@dataclass(frozen=True)
class Cell:
    """One answer, and what backs it.

    Attributes:
        value: a JSON value; None where nothing backs it, which prints as "not recorded".
        source: the record, and the place in it: `dataset/atlas/1 step.json kept`, `answers.toml provider.name`; several
            are separated by "; ". Empty only where `value` is None or a heading.
        text: how people read it; `str(value)` where empty.
    """

    value: Any
    source: str = ""
    text: str = ""

    def shown(self) -> str:
        """The answer as people read it."""
        if self.value is None or self.value == "":
            return NOT_RECORDED
        if self.text:
            return self.text
        if isinstance(self.value, bool):
            return "yes" if self.value else "no"
        if isinstance(self.value, int):
            return f"{self.value:,}"
        if isinstance(self.value, list | tuple):
            return ", ".join(map(str, self.value)) or "none"
        return str(self.value)

    @property
    def is_recorded(self) -> bool:
        """Whether anything backs it."""
        return self.value is not None and self.value != ""


def not_applicable(why: str, source: str) -> Cell:
    """ "Not applicable", written out with its reason and what shows it."""
    return Cell(NOT_APPLICABLE, source, f"{NOT_APPLICABLE}: {why}")


@dataclass(frozen=True)
class Entry:
    """A question of a paper and its answer.

    Attributes:
        number: as the template numbers it, such as `1.2`; may be empty.
        is_mandatory: whether a final release has to answer it.
        key: where in `answers.toml` a person answers it, such as `provider.name`; empty for what only records answer.
        readers: who receives this answer, where a form has several views; empty for all.
    """

    number: str
    question: str
    cell: Cell
    is_mandatory: bool = False
    key: str = ""
    readers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """Rows of answers under headings; `note` stands below."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    title: str = ""
    note: str = ""
    readers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """A numbered part of a paper. A string in `body` is a paragraph of plain text."""

    number: str
    title: str
    body: tuple[Entry | Table | str, ...]


@dataclass(frozen=True)
class Paper:
    """A whole paper.

    Attributes:
        name: of its files, such as `public-summary`.
        title: its heading.
        about: what it is and by which template, one or two sentences of plain text.
        sections: in the template's order.
    """

    name: str
    title: str
    about: str
    sections: tuple[Section, ...]

    @functools.cached_property
    def entries(self) -> tuple[Entry, ...]:
        """Every question, in order."""
        return tuple(each for section in self.sections for each in section.body if isinstance(each, Entry))
