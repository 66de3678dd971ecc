"""Web archives, sound and broken."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reading import collect

from hanse.data.sources import warc
from hanse.errors import InputError
from hanse.recipe import Source

Pack = Callable[[bytes], bytes]
PACKS: dict[str, Pack] = {".warc": bytes, ".warc.gz": gzip.compress, ".warc.zst": zstandard.ZstdCompressor().compress}
SENTENCE = "Am Hafen liegen die Schiffe, und über den Dächern kreisen Möwen."


def page(number: int = 0, head: str = "") -> bytes:
    body = f"<p>Seite {number}. {SENTENCE}</p>"
    return f"<html lang=de><head><title>{number}</title>{head}</head><body>{body}</body></html>".encode()


def record(
    number: int = 0,
    body: bytes | None = None,
    *,
    kind: str = "response",
    status: str = "200 OK",
    media_type: str = "text/html; charset=utf-8",
    url: str | None = None,
    date: str = "2024-05-02T10:00:00Z",
    headers: tuple[str, ...] = (),
) -> bytes:
    """One record of a web archive."""
    fields = [f"HTTP/1.1 {status}", f"Content-Type: {media_type}", *headers, "", ""]
    content = "\r\n".join(fields).encode() + (page(number) if body is None else body)
    lines = [
        "WARC/1.0", f"WARC-Type: {kind}", f"WARC-Record-ID: <urn:uuid:{number}>", f"WARC-Date: {date}",
        f"WARC-Target-URI: {url or f'https://example.org/{number}'}", f"Content-Length: {len(content)}",
        "Content-Type: application/http; msgtype=response", "", "",
    ]  # fmt: skip
    return "\r\n".join(lines).encode() + content + b"\r\n\r\n"


def archive(folder: Path, *records: bytes, suffix: str = ".warc.gz") -> Source:
    path = folder / f"crawl{suffix}"
    path.write_bytes(b"".join(map(PACKS[suffix], records)))
    return Source(name="crawl", kind="warc", path=str(path), licence="MIT")


def numbers(rows: list[dict[str, Any]]) -> list[int]:
    return [int(row["url"].rpartition("/")[2]) for row in rows]


@pytest.mark.parametrize("suffix", PACKS)
def test_answers_of_servers_become_documents(tmp_path: Path, suffix: str) -> None:
    rows, faults = collect(archive(tmp_path, *(record(n) for n in range(3)), suffix=suffix))
    assert not faults
    assert [(r["source_id"], r["line"], r["title"], r["retrieved"], r["domain"]) for r in rows] == [
        (f"urn:uuid:{n}", n + 1, str(n), "2024-05-02", "example.org") for n in range(3)
    ]
    assert all(SENTENCE in row["text"] for row in rows)


def test_only_pages_and_texts_that_were_given_with_success_are_documents(tmp_path: Path) -> None:
    source = archive(
        tmp_path,
        record(0, kind="request"),
        record(1, status="404 Not Found"),
        record(2, status="301 Moved"),
        record(3, media_type="image/png"),
        record(4, "Nur Text, größer.".encode("cp1252"), media_type="text/plain; charset=windows-1252"),
        record(5, media_type="application/xhtml+xml"),
    )
    rows, faults = collect(source)
    assert not faults
    assert numbers(rows) == [4, 5]
    assert rows[0]["text"] == "Nur Text, größer."


def test_headers_and_head_become_dated_evidence(tmp_path: Path) -> None:
    head = '<meta name="tdm-reservation" content="1">'
    rows, _ = collect(archive(tmp_path, record(7, page(7, head), headers=("X-Robots-Tag: noai", "Server: x"))))
    assert [(e.kind, e.says, e.seen, e.place) for e in rows[0]["evidence"]] == [
        ("robots-header", "reserved", "2024-05-02", "https://example.org/7"),
        ("tdmrep-meta", "reserved", "2024-05-02", "https://example.org/7"),
    ]


def test_site_files_go_to_the_hook_and_not_among_the_documents(tmp_path: Path) -> None:
    rules = b"User-agent: GPTBot\nDisallow: /\n"
    source = archive(
        tmp_path,
        record(1),
        record(2, rules, url="https://example.org/robots.txt", media_type="text/plain"),
        record(3, b"not here", url="https://example.net/robots.txt", status="404 Not Found"),
        record(4, b"try later", url="https://example.com/robots.txt", status="503 Unavailable"),
        record(5, b"[]", url="https://example.org/.well-known/tdmrep.json", media_type="application/json"),
    )
    rows, faults = collect(source)
    assert not faults
    assert numbers(rows) == [1]
    found: list[tuple[str, str, bytes]] = []
    warc.site_files(Path(source.path), lambda url, day, content: found.append((url, day, content)))
    assert found == [
        ("https://example.org/robots.txt", "2024-05-02", rules),
        ("https://example.net/robots.txt", "2024-05-02", b""),
        ("https://example.org/.well-known/tdmrep.json", "2024-05-02", b"[]"),
    ]


@pytest.mark.parametrize(
    ("headers", "pack"),
    [
        (("Content-Encoding: gzip",), gzip.compress),
        (("Content-Encoding: deflate",), zlib.compress),
        (("Content-Encoding: gzip",), bytes),  # stored decoded, header left in place
        (("Transfer-Encoding: chunked",), lambda body: b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)),
        (("Transfer-Encoding: chunked",), bytes),
        (("Content-Encoding: something-new",), bytes),
    ],
)
def test_transfer_and_content_encodings_are_undone(tmp_path: Path, headers: tuple[str, ...], pack: Pack) -> None:
    rows, faults = collect(archive(tmp_path, record(1, pack(page(1)), headers=headers)))
    assert not faults
    assert SENTENCE in rows[0]["text"]


BREAKS: dict[str, Pack] = {
    "flipped": lambda packed: packed[:60] + bytes([packed[60] ^ 0xFF]) + packed[61:],
    "cut": lambda packed: packed[: len(packed) // 2],
    "beginning lost": lambda packed: packed[10:],
    "checksum": lambda packed: packed[:-6] + bytes([packed[-6] ^ 1]) + packed[-5:],
    "gone": lambda packed: b"\0" * len(packed),
}


@pytest.mark.parametrize("broken", BREAKS)
@pytest.mark.parametrize("place", [0, 2, 4])
def test_a_broken_record_costs_itself_and_is_reported(tmp_path: Path, broken: str, place: int) -> None:
    packed = [gzip.compress(record(n), mtime=0) for n in range(5)]
    packed[place] = BREAKS[broken](packed[place])
    (tmp_path / "crawl.warc.gz").write_bytes(b"".join(packed))
    rows, faults = collect(Source(name="crawl", kind="warc", path=str(tmp_path), licence="MIT"))
    assert numbers(rows) == [n for n in range(5) if n != place]
    assert [fault.reason for fault in faults] == ["broken-record"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"WARC/1.0", b"XXXX/1.0"),
        (b"Content-Length: ", b"Content-Length: 9"),  # reaches over the following records to the end
        (b"Content-Length: ", b"Content-Length: x"),
        (b"HTTP/1.1 200 OK", b"not HTTP at all"),
        (b"\r\n\r\n", b""),
    ],
)
def test_a_broken_record_of_a_plain_archive_costs_itself(tmp_path: Path, old: bytes, new: bytes) -> None:
    records = [record(n) for n in range(5)]
    records[2] = records[2].replace(old, new)
    rows, faults = collect(archive(tmp_path, *records, suffix=".warc"))
    assert [n for n in numbers(rows) if n != 2] == [0, 1, 3, 4]
    assert {fault.reason for fault in faults} <= {"broken-record"}
    assert len(rows) + len(faults) == 5


def test_a_length_that_swallows_the_next_record_is_found_out(tmp_path: Path) -> None:
    records = [record(n) for n in range(5)]
    length = int(records[2].partition(b"\nContent-Length: ")[2].partition(b"\r")[0])
    records[2] = records[2].replace(
        b"Content-Length: %d" % length, b"Content-Length: %d" % (length + len(records[3]) - 40)
    )
    rows, faults = collect(archive(tmp_path, *records, suffix=".warc"))
    assert numbers(rows) == [0, 1, 3, 4]
    assert [fault.reason for fault in faults] == ["broken-record"]


def test_an_archive_that_breaks_off_keeps_what_came_before(tmp_path: Path) -> None:
    source = archive(tmp_path, *(record(n) for n in range(3)))
    path = Path(source.path)
    path.write_bytes(path.read_bytes()[:-40])
    rows, faults = collect(source)
    assert numbers(rows) == [0, 1]
    assert [(fault.line, fault.reason) for fault in faults] == [(3, "broken-record")]


def test_an_archive_in_one_piece_of_gzip_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "crawl.warc.gz").write_bytes(gzip.compress(b"".join(record(n) for n in range(3))))
    rows, faults = collect(Source(name="crawl", kind="warc", path=str(tmp_path), licence="MIT"))
    assert not faults
    assert numbers(rows) == [0, 1, 2]


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"x" * (warc.MAX_PAGE_BYTES + 1), ()),
        (gzip.compress(b"x" * (warc.MAX_PAGE_BYTES + 1)), ("Content-Encoding: gzip",)),
        (b"%x\r\n" % (2**24) + b"x" * (2**24) + b"\r\n0\r\n\r\n", ("Transfer-Encoding: chunked",)),
    ],
)
def test_an_answer_that_is_or_unfolds_too_long_is_refused(
    tmp_path: Path, body: bytes, headers: tuple[str, ...]
) -> None:
    rows, faults = collect(archive(tmp_path, record(0, body, headers=headers), record(1)))
    assert numbers(rows) == [1]
    assert [(fault.line, fault.reason) for fault in faults] == [(1, "too-long")]


def test_what_is_no_text_under_its_encoding_is_refused(tmp_path: Path) -> None:
    packed = gzip.compress(page(0))[:-20]
    rows, faults = collect(archive(tmp_path, record(0, b"\0" + packed, headers=("Content-Encoding: gzip",)), record(1)))
    assert numbers(rows) == [1]
    assert [fault.reason for fault in faults] == ["not-decodable"]


@pytest.mark.parametrize(
    ("date", "day", "flag"),
    [
        ("nonsense", "", "bad-date"),
        ("2024-13-01T00:00:00Z", "", "bad-date"),
        ("2031-01-01T00:00:00Z", "2026-11-20", "future-date"),
    ],
)
def test_a_date_that_cannot_be_true_is_flagged(tmp_path: Path, date: str, day: str, flag: str) -> None:
    rows, faults = collect(archive(tmp_path, record(0, date=date)), day=day)
    assert not faults
    assert [(row["retrieved"], row["flags"]) for row in rows] == [(None, [flag])]
    assert json.loads(rows[0]["extra"])["retrieved"] == date[:10]


@pytest.mark.parametrize(
    "content", [b"", b"nothing of the kind" * 99, b"WARC/1.0\r\n", b"\x1f\x8b\x08" * 50, b"\x28\xb5\x2f\xfd" * 50]
)
def test_a_file_that_is_no_archive_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "crawl.warc.gz").write_bytes(content)
    with pytest.raises(InputError, match="source 'crawl'"):
        collect(Source(name="crawl", kind="warc", path=str(tmp_path), licence="MIT"))


SOUND = {suffix: b"".join(pack(record(n)) for n in range(4)) for suffix, pack in PACKS.items()}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), suffix=st.sampled_from(sorted(PACKS)))
def test_no_damage_crashes_or_hangs_the_reader(tmp_path: Path, data: st.DataObject, suffix: str) -> None:
    content = bytearray(SOUND[suffix])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        new = data.draw(st.binary(max_size=12))
        content[place : place + data.draw(st.integers(0, 40))] = new
        if not content:
            return
    (tmp_path / f"crawl{suffix}").write_bytes(content)
    try:
        rows, _ = collect(Source(name="crawl", kind="warc", path=str(tmp_path / f"crawl{suffix}"), licence="MIT"))
    except InputError:
        return
    assert len(rows) <= 5
