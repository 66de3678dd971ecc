"""Snapshots: site files of known days, applied to every page of their host."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.data.rights import snapshots
from hanse.data.rights.snapshots import Snapshots
from hanse.errors import InputError

PAGE = "https://example.org/articles/one.html"
DAY = "2026-11-20"
OPEN, CLOSED = b"User-agent: *\nAllow: /\n", b"User-agent: GPTBot\nDisallow: /\n"


def keep(folder: Path, day: str, content: bytes, name: str = "robots.txt", host: str = "example.org") -> Path:
    """Store one site file."""
    path = folder / host / day / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def answers(folder: Path, url: str = PAGE, day: str = DAY) -> list[tuple[str, str, str]]:
    """Day, answer and parser of what is known about a page."""
    return [(e.seen, e.says, e.parser) for e in Snapshots.load(folder, day=day).evidence(url)]


def test_every_day_counts_so_a_new_file_speaks_for_an_old_crawl(tmp_path: Path) -> None:
    keep(tmp_path, "2019-03-01", OPEN)
    keep(tmp_path, "2026-10-01", CLOSED)
    found = Snapshots.load(tmp_path, day=DAY).evidence(PAGE)
    assert {(e.seen, e.says) for e in found} == {
        ("2019-03-01", "allowed"), ("2026-10-01", "allowed"), ("2026-10-01", "reserved"),
    }  # fmt: skip
    assert {e.file_digest for e in found} == {hashlib.sha256(content).hexdigest() for content in (OPEN, CLOSED)}


def test_a_day_in_the_future_is_unclear_with_its_reason(tmp_path: Path) -> None:
    keep(tmp_path, "2026-11-21", CLOSED)
    keep(tmp_path, "2026-11-20", OPEN)
    assert answers(tmp_path) == [("", "unclear", "robots/1; future-date"), (DAY, "allowed", "robots/1")]
    assert ("2026-11-21", "reserved", "robots/1") in answers(tmp_path, day="2026-12-01")


@pytest.mark.parametrize("day", ["2026-02-31", "20261120", "latest", "2026-1-01"])
def test_a_folder_that_is_no_day_is_unclear(tmp_path: Path, day: str) -> None:
    keep(tmp_path, day, CLOSED)
    assert answers(tmp_path) == [("", "unclear", "robots/1; bad-date")]


def test_what_cannot_be_read_is_unclear(tmp_path: Path) -> None:
    (tmp_path / "example.org" / DAY / "robots.txt").mkdir(parents=True)
    os.mkfifo(tmp_path / "example.org" / DAY / "ai.txt")
    (tmp_path / "example.org" / "stray-file").write_bytes(b"")
    assert answers(tmp_path) == [("", "unclear", "robots/1; unreadable"), ("", "unclear", "ai.txt/1; unreadable")]


def test_five_megabytes_and_a_byte_order_mark_work(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbfUser-agent: *\nDisallow: /articles/\n" + b"# padding\n" * 500_000
    keep(tmp_path, DAY, content)
    (found,) = Snapshots.load(tmp_path, day=DAY).evidence(PAGE)
    assert (found.says, found.parser) == ("reserved", "robots/1; truncated")
    assert found.file_digest == hashlib.sha256(content).hexdigest()


def test_all_files_of_a_site_are_read(tmp_path: Path) -> None:
    keep(tmp_path, DAY, OPEN)
    keep(tmp_path, DAY, b'[{"location": "/", "tdm-reservation": 1}]', "tdmrep.json")
    keep(tmp_path, DAY, b"User-Agent: *\nDisallow: *.html\n", "ai.txt")
    keep(tmp_path, DAY, b"<rsl/>", "rsl.xml")
    keep(tmp_path, DAY, b"anything", "humans.txt")
    found = Snapshots.load(tmp_path, day=DAY).evidence(PAGE)
    assert {(e.kind, e.says) for e in found} == {
        ("robots.txt", "allowed"), ("tdmrep-file", "reserved"), ("ai.txt", "reserved"), ("rsl-file", "unclear"),
    }  # fmt: skip


@pytest.mark.parametrize(
    "url",
    ["", "not a url", "https://other.example/", "https://../x", "https://[::1]/", "https://example.org:bad/", "\0"],
)
def test_urls_of_other_places_have_no_evidence(tmp_path: Path, url: str) -> None:
    keep(tmp_path, DAY, CLOSED)
    keep(tmp_path, DAY, CLOSED, host="..")
    assert answers(tmp_path, url) == []


@given(st.text(max_size=40))
def test_no_url_raises(url: str) -> None:
    here = Snapshots.load(Path(__file__).parent, day=DAY)
    for address in (url, f"https://{url}/", f"https://example.org/{url}"):
        assert here.evidence(address) == []


def test_without_a_folder_there_is_no_evidence_and_a_wrong_one_is_an_error(tmp_path: Path) -> None:
    assert Snapshots.load(None, day=DAY).evidence(PAGE) == []
    with pytest.raises(InputError, match="no such folder"):
        Snapshots.load(tmp_path / "nowhere", day=DAY)
    with pytest.raises(InputError, match="today"):
        Snapshots.load(tmp_path, day="today")


def test_memory_is_bounded_and_answers_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(30):
        keep(tmp_path, DAY, CLOSED, host=f"h{number}.example")
    kept = Snapshots.load(tmp_path, day=DAY)
    monkeypatch.setattr(snapshots, "MAX_WEIGHT", 40)
    first = [kept.evidence(f"https://h{number}.example/") for number in range(30)]
    assert len(kept._hosts) < 15
    assert [kept.evidence(f"https://h{number}.example/") for number in range(30)] == first


def test_the_digest_changes_with_any_file_and_the_day(tmp_path: Path) -> None:
    keep(tmp_path, DAY, OPEN)
    before = Snapshots.load(tmp_path, day=DAY).digest()
    assert Snapshots.load(tmp_path, day=DAY).digest() == before
    assert Snapshots.load(tmp_path, day="2026-11-21").digest() != before
    keep(tmp_path, DAY, CLOSED)
    assert Snapshots.load(tmp_path, day=DAY).digest() != before
