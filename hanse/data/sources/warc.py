"""Web archives: the answers of servers, with their headers as evidence, and the robots.txt that lie between them.

A record that is broken costs itself. The reading goes on where the next one can begin, which FastWARC does not look
for: after an error it is at its end, and behind a wrong length it takes the following records for content.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from hanse.data.rights import signals
from hanse.data.rights.evidence import Evidence
from hanse.data.rights.paths import target
from hanse.data.rights.site_files import PLACES
from hanse.data.schema import BadRecord, is_day
from hanse.data.sources.html import MAX_PAGE_BYTES, Extractor, decode, read_page
from hanse.data.sources.records import Found

SiteFileHook = Callable[[str, str, bytes], None]
"""Takes the address of a robots.txt or the like, the day it was fetched (ISO 8601, or ""), and its bytes."""

Wanted = Callable[[str, int, str], bool]
"""Takes address, status and media type of an answer, and says whether to read its body."""

PAGES = ("text/html", "application/xhtml+xml")
TEXTS = ("text/plain",)
_NO_SUCH_FILE = (404, 410)
_SITE_FILES = frozenset(f"/{place}" for place in PLACES.values())
_BEGINNINGS = (b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"WARC/1.")  # of a record: gzip, Zstandard, plain
_SWALLOWED = b"\r\n\r\nWARC/1."
_SEARCH_BYTES = 2**20


@dataclass(frozen=True)
class Answer:
    """What a server answered, as the archive has it.

    Attributes:
        position: of the record, in bytes of the file.
        day: on which it was fetched, ISO 8601, or what the record says instead.
        body: decoded from transfer and content encoding; why it cannot be; or None where it was not asked for.
    """

    position: int
    identity: str
    url: str
    day: str
    status: int
    headers: tuple[tuple[str, str], ...]
    media_type: str
    charset: str
    is_cut: bool
    body: bytes | BadRecord | None


class _Broken(Exception):
    """The record cannot be read. `beyond` is where the next one may begin."""

    def __init__(self, detail: str, beyond: int) -> None:
        super().__init__(detail)
        self.beyond = beyond


def records(path: Path, *, extractor: Extractor) -> Iterator[Found]:
    """Pages and plain texts that a server gave with success, numbered among all answers from 1.

    Args:
        path: .warc, .warc.gz or .warc.zst.
        extractor: what finds the main text of a page.

    Raises:
        OSError: the file cannot be opened or read.
    """
    for number, answer in enumerate(_answers(path, _is_document), start=1):
        body = answer if isinstance(answer, BadRecord) else answer.body
        if isinstance(body, BadRecord):
            yield Found(number, body)
        elif body is not None and isinstance(answer, Answer):
            yield _found(number, answer, body, extractor)


def site_files(path: Path, hook: SiteFileHook) -> None:
    """Hand on the robots.txt and the like of a web archive; one that a site was asked for and has not, as empty.

    Raises:
        OSError: the file cannot be opened or read.
    """
    for answer in _answers(path, _is_site_file):
        if isinstance(answer, Answer) and isinstance(answer.body, bytes):
            content = answer.body if _is_success(answer.status) else b""
            hook(answer.url, answer.day if is_day(answer.day) else "", content)


def _is_document(url: str, status: int, media_type: str) -> bool:
    return _is_success(status) and media_type in PAGES + TEXTS and target(url) not in _SITE_FILES


def _is_site_file(url: str, status: int, media_type: str) -> bool:
    return (_is_success(status) or status in _NO_SUCH_FILE) and target(url) in _SITE_FILES


def _is_success(status: int) -> bool:
    return 200 <= status < 300


def _found(number: int, answer: Answer, body: bytes, extractor: Extractor) -> Found:
    """The record of a page or text, with the evidence of its headers before that of its head."""
    seen = answer.day if is_day(answer.day) else ""
    origin = {"id": answer.identity or None, "url": answer.url, "retrieved": answer.day}
    inside: tuple[Evidence, ...] = ()
    try:
        if answer.media_type in PAGES:
            fields, inside = read_page(
                body, place=answer.url, extractor=extractor, charset=answer.charset, url=answer.url, seen=seen
            )
        else:
            fields = {"text": decode(body, answer.charset)[0]}
    except BadRecord as fault:
        return Found(number, fault)
    extra = {**(fields.get("extra") or {}), "offset": answer.position}
    extra |= {"is_cut": True} if answer.is_cut else {}
    evidence = signals.from_headers(answer.headers, url=answer.url, seen=seen)
    return Found(number, {**fields, **origin, "extra": extra}, (*evidence, *inside))


def _answers(path: Path, is_wanted: Wanted) -> Iterator[Answer | BadRecord]:
    """Each answer in the archive, and one BadRecord for each stretch of it that cannot be read."""
    position: int | None = 0
    is_lost = False
    with open(path, "rb") as file:
        mark = _mark(file, path.name)
        while position is not None:
            try:
                for answer in _answers_from(file, position, is_wanted):
                    is_lost = False
                    yield answer
                return
            except _Broken as error:
                if not is_lost:
                    yield BadRecord("broken-record", f"after byte {position}: {error}")
                is_lost = True
                position = _next_beginning(file, max(error.beyond, position + 1), mark)


def _answers_from(file: IO[bytes], position: int, is_wanted: Wanted) -> Iterator[Answer]:
    """Answers up to the end, or to the first record that is broken."""
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    file.seek(position)
    archive = _of_library(lambda: iter(ArchiveIterator(file, record_types=WarcRecordType.response)), position)
    answer = None
    beyond = position
    while True:
        try:
            record = _of_library(partial(next, archive, None), beyond)
        except _Broken:
            # The length of the last record may have been wrong; then it holds what should have followed.
            if answer is not None and isinstance(answer.body, bytes) and _SWALLOWED in answer.body:
                raise _Broken("the length of a record is wrong", answer.position + 1) from None
            if answer is not None:
                yield answer
            raise
        if answer is not None:
            yield answer
        if record is None:
            return
        answer = _of_library(partial(_answer, record, is_wanted), record.stream_pos + 1)
        beyond = record.stream_pos + _length(record)


def _of_library(call: Callable[[], Any], beyond: int) -> Any:
    """A call into FastWARC, whose failures become _Broken: its errors carry no errno, and sometimes it panics."""
    try:
        return call()
    except BaseException as error:
        is_ours = isinstance(error, OSError | ValueError) and getattr(error, "errno", None) is None
        if is_ours or type(error).__name__ == "PanicException":
            raise _Broken(str(error)[:200], beyond) from None
        raise


def _answer(record: Any, is_wanted: Wanted) -> Answer:
    """Read one record. Raises _Broken where it is shorter than it says, or is no HTTP."""
    position = record.stream_pos
    headers = record.http_headers
    status = headers.status_code if headers is not None else None
    if status is None:
        raise _Broken("a record is no answer of a server", position + _length(record))
    if len(record.headers.get_multiple("WARC-Record-ID")) > 1:
        raise _Broken("the headers of two records run into each other", position + 1)
    url = (record.headers.get("WARC-Target-URI") or "").strip().strip("<>")
    media_type = (record.http_content_type or "").lower()
    return Answer(
        position=position,
        identity=(record.record_id or "").strip("<>"),
        url=url,
        day=(record.headers.get("WARC-Date") or "")[:10],
        status=status,
        headers=headers.to_tuples(),
        media_type=media_type,
        charset=record.http_charset or "",
        is_cut=bool(record.headers.get("WARC-Truncated")),
        body=_body(record) if is_wanted(url, status, media_type) else None,
    )


def _body(record: Any) -> bytes | BadRecord:
    length = record.content_length
    content: bytes = record.reader.read(MAX_PAGE_BYTES + 1)
    if len(content) < min(length, MAX_PAGE_BYTES + 1):
        raise _Broken(f"a record is cut off after {len(content)} of {length} bytes", record.stream_pos + 1)
    if len(content) > MAX_PAGE_BYTES:
        return BadRecord("too-long", f"the answer is longer than {MAX_PAGE_BYTES // 2**20} MiB")
    return _decoded(content, record.http_headers)


def _length(record: Any) -> int:
    """Bytes that the record claims at least; 1 where it makes no sense."""
    claimed = record.headers.get("Content-Length") or ""
    return max(1, int(claimed)) if claimed.isdecimal() and len(claimed) < 16 else 1


def _decoded(body: bytes, headers: Any) -> bytes | BadRecord:
    """The body without the encodings that its headers name. Many crawlers store it decoded and keep the header."""
    from fastwarc import stream_io

    readers: dict[str, Callable[[IO[bytes]], Any]] = {
        "chunked": stream_io.ChunkedReader, "gzip": stream_io.GzipReader, "x-gzip": stream_io.GzipReader,
        "deflate": partial(stream_io.GzipReader, zlib=True), "br": stream_io.BrotliReader, "zstd": stream_io.ZstdReader,
    }  # fmt: skip
    codings = [
        coding.strip().lower()
        for name in ("Transfer-Encoding", "Content-Encoding")
        for coding in reversed((headers.get(name) or "").split(","))
    ]
    for coding in codings:
        if coding not in readers:
            continue
        try:
            unfolded = readers[coding](io.BytesIO(body)).read(MAX_PAGE_BYTES + 1)
        except OSError:
            if b"\0" in body[:1000]:
                return BadRecord("not-decodable", f"the answer is said to be {coding}, and is neither that nor text")
            continue
        if len(unfolded) > MAX_PAGE_BYTES:
            return BadRecord("too-long", f"the answer unfolds to more than {MAX_PAGE_BYTES // 2**20} MiB")
        body = unfolded
    return body


def _mark(file: IO[bytes], name: str) -> bytes:
    """The first bytes of every record: as the file begins, else as its name says."""
    head = file.read(8)
    by_name = {".gz": _BEGINNINGS[0], ".zst": _BEGINNINGS[1]}.get(name[name.rfind(".") :].lower(), _BEGINNINGS[-1])
    return next((mark for mark in _BEGINNINGS if head.startswith(mark)), by_name)


def _next_beginning(file: IO[bytes], position: int, mark: bytes) -> int | None:
    """Where the next record may begin, at or after a position."""
    file.seek(position)
    held = b""
    while block := file.read(_SEARCH_BYTES):
        held += block
        found = held.find(mark)
        if found >= 0:
            return position + found
        kept = held[-len(mark) + 1 :]
        position += len(held) - len(kept)
        held = kept
    return None
