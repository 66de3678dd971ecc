"""One self-contained HTML page from chapters of tables and quotations.

Nothing on it is loaded from elsewhere and nothing on it runs: a policy in the page forbids both, whatever a title or a
domain in the data says. Equal chapters give equal bytes.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hanse.report import plain

Value = str | int | float | None
Row = tuple[Value, ...]
Kind = Literal["text", "count", "bytes", "share", "ratio"]

MOST_ROWS = 30
CELL_CHARACTERS = 300
_FORMS = {"count": plain.count, "bytes": plain.size, "share": plain.share, "ratio": "{:.2f}".format}
_SUMMED = ("count", "bytes")  # kinds of which the rows that are left out have a sum


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        kind: how values are shown; every kind but "text" is a number.
        has_bar: draw each number as a bar, the largest of the column in full width.
    """

    title: str
    kind: Kind = "text"
    has_bar: bool = False


def texts(*titles: str) -> tuple[Column, ...]:
    """Columns of text."""
    return tuple(Column(title) for title in titles)


def counts(*titles: str) -> tuple[Column, ...]:
    """Columns of whole numbers."""
    return tuple(Column(title, "count") for title in titles)


@dataclass(frozen=True)
class Cell:
    """A value as it is shown; `bar` is in percent of the largest."""

    text: str
    is_number: bool
    bar: str | None = None


@dataclass(frozen=True)
class Table:
    """Rows under a caption; the first column names the row. None is shown as not recorded.

    Attributes:
        adds_up: whether the rows that are left out may be summed, which they may not where rows overlap.
        limit: rows that are shown; the others are counted.
        found: how many rows there are, where not all are given.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    adds_up: bool = True
    limit: int = MOST_ROWS
    found: int = 0

    @property
    def shown(self) -> list[list[Cell]]:
        """The first rows, as shown."""
        largest = [self._largest(number) for number in range(len(self.columns))]
        return [
            [_cell(value, column, most) for value, column, most in zip(row, self.columns, largest, strict=True)]
            for row in self.rows[: self.limit]
        ]

    @property
    def rest(self) -> list[Cell] | None:
        """What stands for the rows that are left out; None where none is."""
        left = self.rows[self.limit :]
        more = max(len(self.rows), self.found) - min(len(self.rows), self.limit)
        if not more:
            return None
        cells = [Cell(f"and {plain.count(more)} more", False)]
        for number, column in enumerate(self.columns[1:], 1):
            is_summed = self.adds_up and column.kind in _SUMMED and more == len(left)
            total = sum(_numbers(left, number)) if is_summed else None
            cells.append(Cell("", column.kind != "text") if total is None else _cell(total, column, 0))
        return cells

    def _largest(self, number: int) -> float:
        if not self.columns[number].has_bar:
            return 0
        return max(_numbers(self.rows, number), default=0)


@dataclass(frozen=True)
class Quote:
    """A passage of somebody's text, and what it is."""

    about: str
    text: str
    language: str = ""


@dataclass(frozen=True)
class Quotes:
    """Passages under a caption."""

    caption: str
    quotes: tuple[Quote, ...]
    limit: int = 10 * MOST_ROWS


@dataclass(frozen=True)
class Section:
    """Tables and quotations about one thing; `notes` are paragraphs before them."""

    title: str
    notes: tuple[str, ...] = ()
    blocks: tuple[Table | Quotes, ...] = ()


@dataclass(frozen=True)
class Chapter:
    """A part of a report: what it is about in a few facts, then its sections."""

    title: str
    facts: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]


def render(title: str, chapters: Sequence[Chapter]) -> str:
    """The page as HTML. Every text in it is escaped and made harmless; see `plain.visible`."""
    environment = plain.templates(Path(__file__).parent)
    environment.filters["visible"] = lambda text: plain.shortened(str(text), 10 * CELL_CHARACTERS)
    environment.filters["count"] = plain.count
    environment.tests["table"] = lambda block: isinstance(block, Table)
    environment.tests["language_code"] = lambda code: re.fullmatch("[a-z]{2,3}", code) is not None
    return environment.get_template("page.html.jinja").render(title=title, chapters=chapters)


def save(path: Path, page: str) -> None:
    """Write a page; whoever reads meanwhile sees the old one or the new one.

    Raises:
        OSError: the folder cannot be made or written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as file:
            file.write(page)
        os.chmod(draft, 0o644)
        os.replace(draft, path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


def _numbers(rows: Sequence[Row], column: int) -> Iterator[int | float]:
    return (value for row in rows if isinstance(value := row[column], int | float))


def _cell(value: Value, column: Column, largest: float) -> Cell:
    if value is None:
        return Cell(plain.NOT_RECORDED, column.kind != "text")
    if column.kind == "text":
        return Cell(plain.shortened(str(value), CELL_CHARACTERS), False)
    bar = f"{100 * float(value) / largest:.1f}" if largest else None
    return Cell(_FORMS[column.kind](value), True, bar)  # type: ignore[arg-type]
