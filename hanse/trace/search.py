"""Which passages of a text stand word for word in what a model was trained on.

A passage is *maximal* if it stands somewhere and, made longer by one character at either end, nowhere. The maximal
passages of at least so many bytes are all found, in one walk over the text: a passage that begins at `at` and is new
has to hold the bytes that end a window there, so where the end of the window stands nowhere, the walk goes on behind
its beginning (Boyer and Moore's idea, with a suffix array for the question).
"""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hanse.errors import InputError
from hanse.trace.index import Index

MIN_BYTES = 30
#: Shorter passages stand in any large amount of text.
LEAST_BYTES = 8
MOST_PLACES = 3  # of one passage, in different documents
_LOOKED_AT = 64  # places in which different documents are looked for
_REMEMBERED_BYTES = 4096  # of a query that repeats itself


@dataclass(frozen=True)
class Found:
    """A place of a passage.

    Attributes:
        artifact: whose text it is in, as `kind/name/version`.
        number: of the document in the index of that artifact.
        offset: the byte in the document's text.
        document: what is known about it: the columns of `hanse.trace.texts.COLUMNS`.
    """

    artifact: str
    number: int
    offset: int
    document: Mapping[str, Any]


@dataclass(frozen=True)
class Span:
    """A maximal passage.

    Attributes:
        begin, end: its characters (code points) in the query, the first time that it is there.
        begin_byte, end_byte: its bytes in the query's UTF-8.
        text: the passage.
        times: in how many places of the query it is a passage.
        count: how often it stands in all of the text, overlapping places too.
        places: the first places in different documents, at most MOST_PLACES.
    """

    begin: int
    end: int
    begin_byte: int
    end_byte: int
    text: str
    times: int
    count: int
    places: tuple[Found, ...]

    @property
    def bytes(self) -> int:
        """Its length in UTF-8."""
        return self.end_byte - self.begin_byte


@dataclass(frozen=True)
class Traced:
    """What a search found.

    Attributes:
        spans: the longest passages, the rarer first among equally long ones.
        found: how many different maximal passages there are.
        query_bytes: of the text in UTF-8.
        covered_bytes: of these, how many are in at least one passage.
    """

    spans: tuple[Span, ...]
    found: int
    query_bytes: int
    covered_bytes: int


@dataclass
class _Walk:
    """What the walk over a query has met: where each passage is first and last, how often, and what is covered."""

    first: dict[bytes, int] = field(default_factory=dict)
    last: dict[bytes, int] = field(default_factory=dict)
    times: dict[bytes, int] = field(default_factory=dict)
    covered: int = 0
    reached: int = 0

    def add(self, passage: bytes, begin: int, trim: bool) -> None:
        end = begin + len(passage)
        self.covered += end - max(begin, self.reached)
        self.reached = end
        if trim:
            ahead, passage = _trimmed(passage)
            begin += ahead
        self.first.setdefault(passage, begin)
        if self.last.get(passage) != begin:  # trimmed, two passages can be one
            self.times[passage] = self.times.get(passage, 0) + 1
            self.last[passage] = begin


def _trimmed(passage: bytes) -> tuple[int, bytes]:
    """How many bytes of spaces and punctuation a passage begins with, and the rest without those at its end either."""
    text = passage.decode("utf-8")
    first = next((at for at, sign in enumerate(text) if sign.isalnum()), None)
    if first is None:
        return 0, passage
    behind = next(at for at, sign in enumerate(reversed(text)) if sign.isalnum() or unicodedata.combining(sign))
    return len(text[:first].encode("utf-8")), text[first : len(text) - behind].encode("utf-8")


def spans(indexes: Sequence[Index], text: str, *, min_bytes: int = MIN_BYTES, limit: int = 10) -> list[Span]:
    """The `limit` longest maximal passages of a text, each to its last byte. Raises InputError as `trace`."""
    return list(trace(indexes, text, min_bytes=min_bytes, limit=limit).spans)


def trace(
    indexes: Sequence[Index], text: str, *, min_bytes: int = MIN_BYTES, limit: int = 10, trim: bool = False
) -> Traced:
    """Find the maximal passages of a text that stand in indexed text.

    Args:
        indexes: where to look; from `hanse.trace.index`.
        text: any text; nothing in it is normalised.
        min_bytes: the shortest passage, in bytes of UTF-8.
        limit: how many to return; all are counted.
        trim: for people: cut spaces and punctuation off the ends of passages. A sentence is then one passage wherever
            it stands, not one for each sign that happens to follow it.

    Raises:
        InputError: a limit or `min_bytes` out of range, or text that is not Unicode.
    """
    if min_bytes < LEAST_BYTES:
        raise InputError(f"min_bytes {min_bytes}: passages under {LEAST_BYTES} bytes stand everywhere; give more.")
    if limit < 1:
        raise InputError(f"limit {limit}: give a number of passages to show, 1 or more.")
    try:
        query = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(f"the text to trace is not Unicode: character {error.start + 1} is half of a pair.") from None
    walk = _Walk()
    if indexes:
        for begin, end in _maximal(indexes, query, min_bytes):
            walk.add(query[begin:end], begin, trim)
    chosen = _ranked(indexes, walk, limit)
    return Traced(
        tuple(_span(indexes, query, walk, passage, count) for passage, count in chosen),
        len(walk.first), len(query), walk.covered,
    )  # fmt: skip


def _maximal(indexes: Sequence[Index], query: bytes, min_bytes: int) -> Iterator[tuple[int, int]]:
    """First and last-plus-one byte of each maximal passage, in order; both increase."""
    probe_bytes = (min_bytes + 1) // 2
    at = reached = 0
    # What text repeats, such as a line of dashes, would else be looked up once for each of its characters: by the first
    # bytes from a place on, a passage with the character behind it, or what stands nowhere and how far to go on then.
    known: dict[bytes, bytes] = {}
    absent: dict[bytes, tuple[bytes, int]] = {}
    while at + min_bytes <= len(query):
        head = query[at : at + min_bytes]
        beyond = known.get(head)
        if beyond is not None and query.startswith(beyond, at):
            end = at + _cut(beyond)
            if end > reached:
                yield at, end
                reached = end
            at = _boundary(query, at + 1)
            continue
        end = _boundary(query, max(at + min_bytes, reached + 1))
        if end > len(query):
            return
        nowhere, ahead = absent.get(head, (b"", 0))
        if nowhere and at + len(nowhere) <= end and query.startswith(nowhere, at):
            at += ahead
            continue
        probe = max(at, _boundary(query, end - probe_bytes))
        if not _occurs(indexes, query[probe:end]):
            first = _boundary(query, probe + 1)
        else:
            first = _first_start(indexes, query, at, probe, end)
        if first > at:
            if end - at <= _REMEMBERED_BYTES:
                absent[head] = query[at:end], first - at
            at = first
            continue
        longest = max(index.longest(query, at) for index in indexes)
        reached = _boundary_before(query, at + longest)
        if longest < _REMEMBERED_BYTES:
            known[head] = query[at : _boundary(query, reached + 1)]
        yield at, reached
        at = _boundary(query, at + 1)


def _first_start(indexes: Sequence[Index], query: bytes, at: int, probe: int, end: int) -> int:
    """The first character from `at` on from which the query stands somewhere up to `end`; from `probe` on it does."""
    if _occurs(indexes, query[at:end]):
        return at
    low, high = at, probe  # from `low` on it does not, from `high` on it does
    while True:
        middle = _boundary(query, (low + high + 1) >> 1)
        if middle >= high:
            middle = _boundary(query, low + 1)
            if middle >= high:
                return high
        if _occurs(indexes, query[middle:end]):
            high = middle
        else:
            low = middle


def _occurs(indexes: Sequence[Index], pattern: bytes) -> bool:
    return any(index.occurs(pattern) for index in indexes)


def _boundary(query: bytes, at: int) -> int:
    """The first beginning of a character at or behind a byte."""
    while at < len(query) and query[at] & 0xC0 == 0x80:
        at += 1
    return at


def _boundary_before(query: bytes, at: int) -> int:
    """The last beginning of a character at or before a byte."""
    while at < len(query) and query[at] & 0xC0 == 0x80:
        at -= 1
    return at


def _cut(beyond: bytes) -> int:
    """The length of a passage that is followed by one character."""
    at = len(beyond) - 1
    while beyond[at] & 0xC0 == 0x80:
        at -= 1
    return at


# --------------------------------------------------------------------------- what is shown


def _ranked(indexes: Sequence[Index], walk: _Walk, limit: int) -> list[tuple[bytes, int]]:
    """The longest passages and how often they stand; the rarer, then the earlier first where lengths are equal."""
    by_length = sorted(walk.first, key=len, reverse=True)
    if len(by_length) > limit:
        shortest = len(by_length[limit - 1])
        by_length = [passage for passage in by_length if len(passage) >= shortest]
    counted = [(passage, sum(index.count(passage) for index in indexes)) for passage in by_length]
    return sorted(counted, key=lambda each: (-len(each[0]), each[1], walk.first[each[0]]))[:limit]


def _span(indexes: Sequence[Index], query: bytes, walk: _Walk, passage: bytes, count: int) -> Span:
    begin = walk.first[passage]
    text = passage.decode("utf-8")
    first = len(query[:begin].decode("utf-8"))
    return Span(
        first, first + len(text), begin, begin + len(passage), text, walk.times[passage], count,
        tuple(itertools.islice(_places(indexes, passage), MOST_PLACES)),
    )  # fmt: skip


def _places(indexes: Sequence[Index], passage: bytes) -> Iterator[Found]:
    for index in indexes:
        first: dict[int, int] = {}
        for place in index.places(passage, _LOOKED_AT):
            first.setdefault(place.document, place.offset)
        for number, offset in first.items():
            yield Found(index.artifact, number, offset, index.document(number))
