"""What `hanse find` found, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hanse.report.plain import NOT_RECORDED, count, shortened, size
from hanse.store.query import Found, Match

WIDTH = 200  # characters of anything that came with a document


def text(tables: Sequence[Found]) -> str:
    """The matches of each table, and sums over all that matched."""
    return "\n".join(line for found in tables for line in (*_lines(found), *_totals(found)))


def _lines(found: Found) -> Iterator[str]:
    for match in found.matches:
        row = match.document
        head = [row["id"], row.get("language") or NOT_RECORDED, _shown(row.get("title"), "untitled")]
        yield "  ".join(head) + (f" ({_shown(row['author'])})" if row.get("author") else "")
        yield f"  from      {_place(row)}"
        yield f"  licence   {_rights(row)}"
        yield from (f"  evidence  {_statement(statement)}" for statement in match.evidence)
        yield f"  {_fate(row)}"
        yield from _places(match)
        yield from (f"  copy      {copy['id']}  {_place(copy)}; {_fate(copy)}" for copy in match.copies)
        hidden = match.copies_found - len(match.copies)
        if hidden > 0:
            yield f"  copy      and {count(hidden)} more"
        yield ""


def _totals(found: Found) -> Iterator[str]:
    totals = found.totals
    yield (
        f"{found.searched.name}: {count(totals.documents)} document{'s' * (totals.documents != 1)}, "
        f"{size(totals.bytes)}; "
        f"{count(totals.kept)} kept, {size(totals.kept_bytes)}"
    )
    if totals.copies:
        yield f"  {count(totals.copies)} more stay in the words of a copy"
    for ref, tokens in totals.tokens.items():
        yield f"  {count(tokens)} tokens of those kept are in {ref}"
    if len(found.matches) < totals.documents:
        yield f"  shown: the first {count(len(found.matches))}; more with --limit"


def _place(row: Mapping[str, Any]) -> str:
    where = [_shown(row.get("source"))]
    if row.get("file"):
        where.append(_shown(row["file"]) + (f" line {row['line']}" if row.get("line") else ""))
    return ", ".join([*where, *([_shown(row["url"])] if row.get("url") else [])])


def _rights(row: Mapping[str, Any]) -> str:
    basis = f" ({_shown(row['licence_basis'])})" if row.get("licence_basis") else ""
    return f"{_shown(row.get('licence'))}{basis}, reservation {_shown(row.get('reservation'))}"


def _statement(row: Mapping[str, Any]) -> str:
    seen = f" on {_shown(row['seen'])}" if row["seen"] else ""
    return f"{_shown(row['kind'])} at {_shown(row['place'])}{seen} says {row['says']}: {_shown(row['raw'], '-')}"


def _fate(row: Mapping[str, Any]) -> str:
    if row.get("split"):
        return f"kept in {row['split']}"
    return f"dropped: {', '.join(row.get('drop_reason') or [NOT_RECORDED])}"


def _places(match: Match) -> Iterator[str]:
    is_copy = match.document.get("split") is None
    for place in match.places:
        where = f"{place.shards} {place.file}, {count(place.tokens)} tokens from {count(place.offset)}"
        yield f"  tokens    {where}" + (f", as {match.document['cluster']}" if is_copy else "")


def _shown(value: object, absent: str = NOT_RECORDED) -> str:
    return shortened(str(value), WIDTH) if value not in (None, "") else absent
