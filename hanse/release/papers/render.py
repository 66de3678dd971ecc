"""How a paper looks: Markdown, one self-contained HTML page, or JSON. Equal papers give equal bytes.

Everything in a paper may come from outside: titles, domains, names of files. It is escaped here, and only here.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from hanse.release.attribution import cell
from hanse.release.papers.paper import NO_ADVICE, NOT_RECORDED, Cell, Entry, Paper, Section, Table
from hanse.report.plain import templates, visible

if TYPE_CHECKING:
    import jinja2

READERS = {"AIO": "AI Office", "NCA": "national competent authorities", "DP": "downstream providers"}
_LINK = re.compile(r"https?://[^\s\"'<>\\^`{|}]+")
_SURROGATE = re.compile("[\ud800-\udfff]")
_LINE_START = re.compile(r"[#+=-]|\d{1,9}(?=[.)])")


def for_reader(paper: Paper, reader: str) -> Paper:
    """The view of one recipient: what is for all, and what is for this one. A section left empty is left out.

    Args:
        reader: `AIO`, `NCA` or `DP`.
    """
    sections = []
    for section in paper.sections:
        body = tuple(part for part in section.body if isinstance(part, str) or reader in (part.readers or (reader,)))
        if body or not section.body:  # a heading over others stays
            sections.append(replace(section, body=body))
    return replace(paper, sections=tuple(sections))


def markdown(paper: Paper, *, reader: str = "") -> str:
    """The paper as GitHub-flavoured Markdown.

    Args:
        reader: only what this recipient gets; everything, with the recipients named, where empty.
    """
    shown = for_reader(paper, reader) if reader else paper
    title = f"{shown.title}: for {READERS.get(reader, reader)}" if reader else shown.title
    parts = [f"# {_title(title)}", _paragraph(shown.about), f"_{NO_ADVICE}_"]
    has_readers = not reader and bool(_readers(shown))
    for section, level in zip(shown.sections, levels(shown), strict=True):
        parts.append(f"{'#' * level} {_heading(section)}")
        for kind, run in groupby(section.body, type):
            if kind is Entry:
                found = [each for each in run if isinstance(each, Entry)]
                parts.append(_entries(found, section.number, has_readers))
            else:
                parts += [_paragraph(each) if isinstance(each, str) else _table(each, has_readers) for each in run]  # type: ignore[arg-type]
    return "\n\n".join(parts) + "\n"


def html(paper: Paper, records: Mapping[str, str] = MappingProxyType({})) -> str:
    """The paper as one page that loads nothing and runs nothing; where readers differ, each view can be chosen.

    Args:
        records: where the record of an artifact is found, by `kind/name/version`; what backs an answer links there.
    """
    return _page(
        "paper.html.jinja",
        paper=paper,
        levels=levels(paper),
        readers={name: READERS.get(name, name) for name in _readers(paper)},
        records=records,
    )


def index(title: str, papers: Sequence[Paper]) -> str:
    """A page that links the papers of a folder, and counts what each of them leaves open."""
    return _page("index.html.jinja", title=title, papers=papers)


def as_json(paper: Paper) -> str:
    """The paper as JSON text: every answer with its value, how people read it, and what backs it."""
    data = {
        "name": paper.name,
        "title": paper.title,
        "about": paper.about,
        "notice": NO_ADVICE,
        "sections": [
            {"number": each.number, "title": each.title, "body": [_part(part) for part in each.body]}
            for each in paper.sections
        ],
    }
    text = json.dumps(data, ensure_ascii=False, indent=2, allow_nan=False)
    # Half of a surrogate pair can stand in a record, but not in UTF-8.
    return _SURROGATE.sub(lambda half: f"\\u{ord(half[0]):04x}", text) + "\n"


def levels(paper: Paper) -> list[int]:
    """The level of each section's heading, from 2: a point in its number is a level further down, at most 6."""
    depths = [section.number.strip(".").count(".") for section in paper.sections]
    numbered = [depth for depth, section in zip(depths, paper.sections, strict=True) if section.number]
    least = min(numbered, default=0)
    return [2 + min(max(0, depth - least), 4) for depth in depths]


def backing(answers: Iterable[Cell]) -> str:
    """What backs some answers, each record once."""
    named = dict.fromkeys(source for each in answers for source in each.source.split("; ") if source)
    return "; ".join(named)


def link(text: str) -> str:
    """The text, if all of it is the address of a web page; else nothing. No other scheme ever becomes a link."""
    if _LINK.fullmatch(text) is None:
        return ""
    try:
        return text if urlsplit(text).hostname else ""
    except ValueError:
        return ""


# --------------------------------------------------------------------------- Markdown


def _flat(text: str) -> str:
    """One line of text from outside, with nothing in it that Markdown acts on; empty where there is none."""
    line = visible(text)
    return cell(line).replace("~", "\\~").replace("&", "\\&") if line else ""


def _paragraph(text: str) -> str:
    """A line that begins no heading, list or rule."""
    line = _flat(text)
    start = _LINE_START.match(line)
    return _escaped_start(start) + line[start.end() :] if start else line


def _escaped_start(found: re.Match[str]) -> str:
    """A backslash before the sign, or behind the number of a list."""
    return f"{found[0]}\\" if found[0].isdigit() else f"\\{found[0]}"


def _heading(section: Section) -> str:
    return _title(f"{section.number} {section.title}")


def _title(text: str) -> str:
    """As it can stand in a heading, which signs at its end would close."""
    return _flat(text).replace("#", "\\#")


def numbered(entry: Entry, section: str) -> str:
    """The question with its number, where that is not the section's anyway."""
    return entry.question if entry.number in ("", section) else f"{entry.number} {entry.question}"


def _entries(entries: Sequence[Entry], section: str, has_readers: bool) -> str:
    rows = []
    for each in entries:
        row = [_flat(numbered(each, section)), _flat(each.cell.shown()) or NOT_RECORDED]
        row += [_flat(", ".join(each.readers) or "all")] if has_readers else []
        rows.append([*row, _flat(_behind(each))])
    return _grid(["question", "answer", *(["for"] if has_readers else []), "backed by"], rows)


def _behind(entry: Entry) -> str:
    """The record behind an answer, or where it is asked for."""
    if entry.cell.is_recorded:
        return entry.cell.source or "-"
    wanted = "mandatory; " if entry.is_mandatory else ""
    return f"{wanted}asked for in answers.toml {entry.key}" if entry.key else f"{wanted}no record"


def _table(table: Table, has_readers: bool) -> str:
    rows = [
        [*(_flat(each.shown()) or NOT_RECORDED for each in row), _flat(backing(row)) or "no record"]
        for row in table.rows
    ]
    readers = f" (for {', '.join(map(_flat, table.readers))})" if has_readers and table.readers else ""
    parts = [f"**{_flat(table.title)}**{readers}"] if table.title else []
    parts.append(_grid([*map(_flat, table.columns), "backed by"], rows) if rows else "None.")
    parts += [_paragraph(table.note)] if table.note else []
    return "\n\n".join(parts)


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# --------------------------------------------------------------------------- HTML and JSON


def _page(name: str, **given: Any) -> str:
    return _templates().get_template(name).render(notice=NO_ADVICE, not_recorded=NOT_RECORDED, **given)


@functools.cache
def _templates() -> jinja2.Environment:
    environment = templates(Path(__file__).parent)
    filters: dict[str, Callable[..., str]] = {
        "visible": lambda text: visible(str(text)),
        "link": link,
        "behind": _behind,
        "backing": backing,
        "numbered": numbered,
        "readers": lambda part: " ".join(filter(str.isalnum, part.readers)),
    }
    environment.filters |= filters
    environment.tests |= {
        "entry": lambda part: isinstance(part, Entry),
        "table": lambda part: isinstance(part, Table),
        "number": lambda each: isinstance(each.value, int | float) and not isinstance(each.value, bool),
    }
    return environment


def _readers(paper: Paper) -> list[str]:
    """Who has a view of his own, in the order of the form."""
    found = {
        reader
        for section in paper.sections
        for part in section.body
        if not isinstance(part, str)
        for reader in part.readers
        if reader.isalnum()
    }
    return sorted(found, key=lambda name: (list(READERS).index(name) if name in READERS else len(READERS), name))


def _part(part: Entry | Table | str) -> Mapping[str, Any]:
    if isinstance(part, str):
        return {"kind": "text", "text": part}
    if isinstance(part, Table):
        return {
            "kind": "table",
            "title": part.title,
            "columns": list(part.columns),
            "rows": [[_answer(each) for each in row] for row in part.rows],
            "note": part.note,
            "readers": list(part.readers),
        }
    return {
        "kind": "answer",
        "number": part.number,
        "question": part.question,
        **_answer(part.cell),
        "is_mandatory": part.is_mandatory,
        "key": part.key,
        "readers": list(part.readers),
    }


def _answer(answer: Cell) -> dict[str, Any]:
    return {
        "value": answer.value if answer.is_recorded else None,
        "shown": answer.shown(),
        "source": answer.source,
        "is_recorded": answer.is_recorded,
    }
