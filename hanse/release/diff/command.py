"""`hanse diff`: say what changed between two releases."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hanse.errors import InputError

if TYPE_CHECKING:
    from hanse.release.papers.paper import Paper, Table

WIDTH = 100  # characters of a cell
SHOWN_ROWS = 40  # of a table


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `hanse diff`."""
    parser.add_argument("old", metavar="RELEASE", help="the earlier release, by name or folder")
    parser.add_argument("new", metavar="RELEASE", help="the later release, by name or folder")
    parser.add_argument("--limit", type=int, default=SHOWN_ROWS, metavar="N", help="rows a table (default: 40)")


def run(options: argparse.Namespace) -> int:
    """Carry out `hanse diff`.

    Returns:
        0; or 1 where the records of a release do not fit together.

    Raises:
        InputError: no such release, or a file in it that cannot be read.
    """
    from hanse.release.diff import changes, paper

    if options.limit < 0:
        raise InputError(f"--limit {options.limit}: give a number of rows, 0 for the sums alone.")
    found = changes.changes(_folder(options.store, options.old), _folder(options.store, options.new))
    if options.json:
        print(json.dumps(found.as_dict(), indent=1, ensure_ascii=False))
    else:
        print("\n".join(text(paper.paper(found), options.limit)))
    return 1 if found.doubts else 0


def text(paper: Paper, limit: int) -> Iterator[str]:
    """A paper for a terminal; tables cut after `limit` rows."""
    from hanse.release.papers.paper import Entry, Table
    from hanse.report.plain import shortened

    yield paper.title
    for section in paper.sections:
        yield ""
        yield section.title
        for each in section.body:
            if isinstance(each, Entry):
                yield f"  {each.question}: {shortened(each.cell.shown(), 10 * WIDTH)}"
            elif isinstance(each, Table):
                yield from (f"  {line}" for line in _table(each, limit))
            else:
                yield f"  {shortened(each, 10 * WIDTH)}"


def _table(table: Table, limit: int) -> Iterator[str]:
    from hanse.report.plain import shortened

    if table.title:
        yield f"{table.title}:"
    rows = [[shortened(cell.shown(), WIDTH) for cell in row] for row in table.rows[:limit]]
    lines = [list(table.columns), *rows]
    widths = [max(len(line[number]) for line in lines) for number in range(len(table.columns))]
    for line in lines:
        yield "  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
    if len(table.rows) > limit:
        yield f"  and {len(table.rows) - limit:,} more; with --limit or --json"
    if table.note:
        yield f"  {table.note}"


def _folder(root: Path, name: str) -> Path:
    """The folder of a release that a person names: a folder as it is, else a name in the store."""
    if Path(name).is_dir():
        return Path(name)
    from hanse.store.stage import Store

    ref = name if name.startswith("release/") else f"release/{name}"
    artifact = Store.open(root, create=False).find(ref)
    return artifact.path
