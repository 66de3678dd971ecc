"""What `hanse trace` found, for a terminal and as JSON, and what that proves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hanse.report.plain import NOT_RECORDED, count, share, shortened, size
from hanse.trace.index import Index
from hanse.trace.search import Found, Span, Traced

#: Sentences that go with every answer.
PROVES = (
    "A passage listed here stands word for word in text that the model was made from.",
    "That is no proof that the model has it from there: a common phrase stands in many places.",
    "A document in a data set may have been met rarely or never in training: hanse impact counts that.",
)
PROVES_NOT = (
    "What is not listed may still have been learned from: text that was filtered, masked for personal data, spaced or "
    "spelled otherwise, translated or paraphrased is not found.",
    "Nor is what a parent model was trained on elsewhere, unless its text is in this store.",
)
_SHOWN_PASSAGE, _SHOWN_FIELD = 300, 200  # characters


def text(traced: Traced, indexes: Sequence[Index], *, what: str, min_bytes: int) -> str:
    """Passages with their documents, sums, and what they prove, as lines.

    Args:
        what: the artifact that was asked about.
        min_bytes: the shortest passage that was looked for.
    """
    lines = [line for span in traced.spans for line in (*_passage(span), "")]
    lines += [*_sums(traced, indexes, what, min_bytes), "", *PROVES, *PROVES_NOT]
    return "\n".join(lines)


def as_dict(traced: Traced, indexes: Sequence[Index], *, what: str, min_bytes: int) -> dict[str, Any]:
    """The same as JSON values; bytes and characters count from 0."""
    return {
        "what": what,
        "min_bytes": min_bytes,
        "query_bytes": traced.query_bytes,
        "covered_bytes": traced.covered_bytes,
        "found": traced.found,
        "spans": [
            {
                "begin": span.begin, "end": span.end, "begin_byte": span.begin_byte, "end_byte": span.end_byte,
                "text": span.text, "times": span.times, "count": span.count,
                "places": [
                    {"artifact": each.artifact, "number": each.number, "offset": each.offset, **each.document}
                    for each in span.places
                ],
            }
            for span in traced.spans
        ],
        "searched": [
            {"artifact": each.artifact, "digest": each.digest, "documents": each.documents, "bytes": each.bytes}
            for each in indexes
        ],
        "proves": list(PROVES),
        "proves_not": list(PROVES_NOT),
    }  # fmt: skip


def _passage(span: Span) -> Iterator[str]:
    where = f"characters {count(span.begin)} to {count(span.end)}"
    often = f", {count(span.times)} times in the text" if span.times > 1 else ""
    stands = "once" if span.count == 1 else f"{count(span.count)} times"
    yield f"“{shortened(span.text, _SHOWN_PASSAGE)}”"
    yield f"  {count(span.bytes)} bytes, {where}{often}; {stands} in the training text"
    for found in span.places:
        yield from _place(found)
    if span.count > len(span.places):
        yield f"  shown: the first of its documents{f', {len(span.places)} of them' if len(span.places) > 1 else ''}"


def _place(found: Found) -> Iterator[str]:
    row = found.document
    author = f" ({_shown(row, 'author')})" if row.get("author") else ""
    yield f"  {_shown(row, 'id')}  {_shown(row, 'language')}  {_shown(row, 'title', 'untitled')}{author}"
    yield f"    from     {_origin(found)}"
    yield f"    licence  {_shown(row, 'licence')}, rights holder {_shown(row, 'rights_holder')}"
    yield f"    at       {_shown(row, 'url', 'address ' + NOT_RECORDED)}, byte {count(found.offset)} of the text"


def _origin(found: Found) -> str:
    row = found.document
    where = [found.artifact, _shown(row, "source")]
    if row.get("collection") not in (None, "", row.get("source")):
        where.append(_shown(row, "collection"))
    if row.get("file"):
        where.append(_shown(row, "file") + (f" line {count(row['line'])}" if row.get("line") else ""))
    if row.get("split") == "validation":
        where.append("held out for validation, not trained on")
    return ", ".join(where)


def _sums(traced: Traced, indexes: Sequence[Index], what: str, min_bytes: int) -> Iterator[str]:
    if not traced.found:
        yield f"No passage of {count(min_bytes)} bytes or more stands in the text behind {what}."
    else:
        covered = share(traced.covered_bytes / traced.query_bytes)
        passages = _counted(traced.found, "passage")
        yield f"{what}: {passages} of {count(min_bytes)} bytes or more, {covered} of the text."
        if len(traced.spans) < traced.found:
            yield f"  shown: the {count(len(traced.spans))} longest; more with --limit"
    for index in indexes:
        yield f"  looked through {index.artifact}: {_counted(index.documents, 'document')}, {size(index.bytes)}"


def _counted(number: int, what: str) -> str:
    return f"{count(number)} {what}{'s' * (number != 1)}"


def _shown(row: Mapping[str, Any], name: str, absent: str = NOT_RECORDED) -> str:
    value = row.get(name)
    return shortened(str(value), _SHOWN_FIELD) if value not in (None, "") else absent
