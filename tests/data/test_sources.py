"""The strict readers, on everything that people's files hold."""

from __future__ import annotations

import datetime
import gzip
import io
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st
from library import CORPUS
from pydantic import ValidationError
from reading import collect

from hanse.data import schema, sources
from hanse.data.sources import Fault, jsonl, parquet, read, read_file, stream
from hanse.errors import InputError
from hanse.recipe import Source

GOOD = {"text": "Ein Haus am See.", "licence": "CC0-1.0"}


def lines(path: Path, *content: bytes) -> Source:
    path.write_bytes(b"\n".join(content))
    return Source(name="books", kind="jsonl", path=str(path))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"no json", "not-json"),
        (b'{"text": "a", "licence": "MIT"', "not-json"),
        (b'{"text": "a", "licence": "MIT", "extra": NaN}', "not-json"),
        (b"[" * 100_000, "not-json"),
        (b'{"text": "a", "year": ' + b"9" * 5000 + b"}", "not-json"),
        (b'["text"]', "not-an-object"),
        (b"7", "not-an-object"),
        (b'{"licence": "MIT"}', "text-missing"),
        (b'{"text": null, "licence": "MIT"}', "text-missing"),
        (b'{"text": "a"}', "licence-missing"),
        (b'{"text": "a", "licence": ""}', "licence-missing"),
        (b'{"text": "a", "license": "MIT"}', "licence-missing"),
        (b'{"text": "a\\u0000b", "licence": "MIT"}', "nul-character"),
        (b'{"text": "a", "licence": "MIT", "title": "\\u0000"}', "nul-character"),
        (b'{"text": "a\\ud800b", "licence": "MIT"}', "lone-surrogate"),
        (b'{"text": "a", "licence": "MIT", "extra": {"x": "\\udc00"}}', "lone-surrogate"),
        (b'{"text": "a\xff", "licence": "MIT"}', "not-utf8"),
        (b'{"text": "\xed\xa0\x80", "licence": "MIT"}', "not-utf8"),
        (b'{"text": 7, "licence": "MIT"}', "wrong-type"),
        (b'{"text": "a", "licence": ["MIT"]}', "wrong-type"),
        (b'{"text": "a", "licence": "MIT", "year": "1845"}', "wrong-type"),
        (b'{"text": "a", "licence": "MIT", "year": true}', "wrong-type"),
        (b'{"text": "a", "licence": "MIT", "year": 12345678901234567890}', "wrong-type"),
        (b'{"text": "a", "licence": "MIT", "title": 7}', "wrong-type"),
        (b'{"text": "a", "text": "b", "licence": "MIT"}', "duplicate-key"),
    ],
)
def test_a_bad_line_goes_to_quarantine_with_its_place_and_reason(tmp_path: Path, line: bytes, reason: str) -> None:
    good = json.dumps(GOOD).encode()
    rows, faults = collect(lines(tmp_path / "a.jsonl", good, line, good))
    assert [row["text"] for row in rows] == [GOOD["text"]] * 2
    assert [(f.source, f.file, f.line, f.reason) for f in faults] == [("books", "a.jsonl", 2, reason)]
    assert faults[0].detail


def test_an_id_that_the_file_has_used_before_is_a_fault(tmp_path: Path) -> None:
    for name in ("a", "b"):
        lines_ = [json.dumps({**GOOD, "id": "x", "text": f"text {name} {n}"}) for n in (1, 2)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines_))
    rows, faults = collect(Source(name="books", kind="jsonl", path=str(tmp_path)))
    assert [row["text"] for row in rows] == ["text a 1", "text b 1"]
    assert [(f.file, f.line, f.reason) for f in faults] == [
        ("a.jsonl", 2, "duplicate-id"),
        ("b.jsonl", 2, "duplicate-id"),
    ]


def test_a_line_over_the_limit_is_skipped_and_the_next_one_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", 100)
    good = json.dumps(GOOD).encode()
    rows, faults = collect(lines(tmp_path / "a.jsonl", good, b"x" * 1000, good))
    assert len(rows) == 2
    assert [(f.line, f.reason) for f in faults] == [(2, "too-long")]


def test_blank_lines_crlf_and_a_byte_order_mark_are_no_faults(tmp_path: Path) -> None:
    good = json.dumps(GOOD).encode()
    rows, faults = collect(lines(tmp_path / "a.jsonl", b"\xef\xbb\xbf" + good + b"\r", b"", b"  ", good))
    assert [row["line"] for row in rows] == [1, 4]
    assert not faults


def test_compressed_lines_read_like_plain_ones(tmp_path: Path) -> None:
    plain = "".join(json.dumps({**GOOD, "id": str(n), "text": f"Haus {n}"}) + "\n" for n in range(5000)).encode()
    half = len(plain) // 2
    frame = zstandard.ZstdCompressor().compress
    contents = {
        "a.jsonl": plain,
        "a.jsonl.gz": gzip.compress(plain[:half]) + gzip.compress(plain[half:]),
        "a.jsonl.zst": frame(plain[:half]) + frame(plain[half:]),
    }
    expected = None
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        rows, faults = collect(Source(name="books", kind="jsonl", path=str(tmp_path / name)))
        assert not faults
        texts = [(row["line"], row["text"]) for row in rows]
        assert len(texts) == 5000
        expected = expected or texts
        assert texts == expected


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_compressed_file_that_breaks_off_keeps_what_came_before_and_is_reported(tmp_path: Path, suffix: str) -> None:
    plain = "".join(json.dumps({**GOOD, "id": str(n), "text": f"Haus {n}" * 20}) + "\n" for n in range(20_000)).encode()
    packed = gzip.compress(plain) if suffix == ".gz" else zstandard.ZstdCompressor().compress(plain)
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(packed[: len(packed) // 2])
    rows, faults = collect(Source(name="books", kind="jsonl", path=str(path)))
    assert 0 < len(rows) < 20_000
    assert [row["line"] for row in rows] == list(range(1, len(rows) + 1))
    assert [(f.line, f.reason) for f in faults] == [(0, "broken-file")]
    assert f"line {len(rows)}" in faults[0].detail


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_file_that_does_not_match_its_own_checksum_is_refused(tmp_path: Path, suffix: str) -> None:
    plain = json.dumps(GOOD).encode() + b"\n"
    zstd = zstandard.ZstdCompressor(write_checksum=True)
    packed = bytearray(gzip.compress(plain) if suffix == ".gz" else zstd.compress(plain))
    packed[-6 if suffix == ".gz" else -1] ^= 1
    (tmp_path / f"a.jsonl{suffix}").write_bytes(packed)
    with pytest.raises(InputError, match=r"source 'books': .*a\.jsonl.* is damaged"):
        collect(Source(name="books", kind="jsonl", path=str(tmp_path)))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("missing.jsonl", None, "does not exist"),
        ("missing*.jsonl", None, "no file matches"),
        ("empty.jsonl", b"", "is empty"),
        ("blank.jsonl", b"\n\n", "is empty"),
        ("not.jsonl.gz", b"plain text", "not compressed that way"),
        ("latin1.jsonl", "Ä".encode("latin-1"), "not UTF-8"),
    ],
)
def test_a_source_without_a_document_is_an_error_that_names_source_and_path(
    tmp_path: Path, name: str, content: bytes | None, says: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        collect(Source(name="books", kind="jsonl", path=str(tmp_path / name)))
    assert "source 'books'" in str(caught.value)
    assert name in str(caught.value)
    assert says in str(caught.value)


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no \.txt or \.md"):
        collect(Source(name="notes", kind="text", path=str(tmp_path)))


def test_a_file_that_cannot_be_opened_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = lines(tmp_path / "a.jsonl", json.dumps(GOOD).encode())

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(stream.io, "FileIO", refuse)
    with pytest.raises(InputError, match=r"source 'books': .*a\.jsonl cannot be read \(Permission denied\)"):
        collect(source)


def test_text_files_become_documents_titled_by_their_name(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "Zwei.md").write_text("# Zwei\n\nText.", encoding="utf-8")
    (tmp_path / "Eins.txt").write_text("Eins.", encoding="utf-8-sig")
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8")
    (tmp_path / "alt.txt").write_bytes("Größe".encode("latin-1"))
    rows, faults = collect(Source(name="notes", kind="text", path=str(tmp_path), licence="CC0-1.0"))
    assert [(row["file"], row["title"], row["text"]) for row in rows] == [
        ("Eins.txt", "Eins", "Eins."),
        ("deep/Zwei.md", "Zwei", "# Zwei\n\nText."),
    ]
    assert [(f.file, f.reason) for f in faults] == [("alt.txt", "not-utf8")]


def test_parquet_reads_row_by_row_and_a_broken_string_costs_its_row_only(tmp_path: Path) -> None:
    raw = pa.array([b"eins", b"zw\xffei", b"drei"], pa.binary())
    texts = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    table = pa.table({"text": texts, "licence": ["MIT", "MIT", None], "year": pa.array([1845, 1, None], pa.int16())})
    pq.write_table(table, tmp_path / "a.parquet")
    rows, faults = collect(Source(name="rows", kind="parquet", path=str(tmp_path / "a.parquet")))
    assert [(row["text"], row["year"]) for row in rows] == [("eins", 1845)]
    assert [(f.line, f.reason) for f in faults] == [(2, "not-utf8"), (3, "licence-missing")]


def test_parquet_columns_as_pandas_writes_them_are_understood(tmp_path: Path) -> None:
    table = pa.table(
        {
            "text": pa.array(["eins", "zwei"]).dictionary_encode(),
            "year": [1845.0, float("nan")],
            "retrieved": [datetime.date(2024, 5, 1), None],
            "id": [1, 2],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    rows, faults = collect(Source(name="rows", kind="parquet", path=str(tmp_path), licence="MIT"))
    assert not faults
    assert [(r["source_id"], r["year"], r["retrieved"]) for r in rows] == [("1", 1845, "2024-05-01"), ("2", None, None)]


@pytest.mark.parametrize("content", [b"PAR1 is not enough", b""])
def test_a_damaged_parquet_file_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(InputError, match=r"source 'rows': .*Parquet file is damaged"):
        collect(Source(name="rows", kind="parquet", path=str(tmp_path)))


def test_parquet_without_a_text_column_says_which_columns_there_are(tmp_path: Path) -> None:
    pq.write_table(pa.table({"content": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="no column 'text'; its columns are content"):
        collect(Source(name="rows", kind="parquet", path=str(tmp_path)))


def test_a_field_of_the_document_beats_the_default_of_the_source(tmp_path: Path) -> None:
    content = [{**GOOD, "rights_holder": "She", "reservation": "reserved"}, {"text": "b"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, content)))
    defaults: dict[str, Any] = {
        "licence": "MIT",
        "rights_holder": "He",
        "reservation": "none",
        "licence_basis": "stated",
    }
    rows, _ = collect(Source(name="books", kind="jsonl", path=str(tmp_path), **defaults))
    assert [(r["licence"], r["rights_holder"], r["reservation"], r["licence_basis"]) for r in rows] == [
        ("CC0-1.0", "She", "reserved", "stated"),
        ("MIT", "He", "none", "stated"),
    ]


def test_fields_that_no_column_holds_are_kept_in_extra(tmp_path: Path) -> None:
    rows, _ = collect(lines(tmp_path / "a.jsonl", json.dumps({**GOOD, "extra": {"a": 1}, "isbn": "3"}).encode()))
    assert json.loads(rows[0]["extra"]) == {"a": 1, "isbn": "3"}


def test_the_atlas_is_a_source_like_the_others() -> None:
    rows, faults = collect(Source(name="atlas", kind="atlas", licence="Unicode-3.0"))
    assert not faults
    assert {row["language"] for row in rows} == {"de"}


def test_files_read_one_by_one_give_the_same_rows(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / f"{name}.jsonl").write_text(
            "\n".join(json.dumps({**GOOD, "text": f"{name} {n}"}) for n in range(3)) + "\n{"
        )
    source = Source(name="books", kind="jsonl", path=str(tmp_path))
    rows, faults = collect(source)
    by_file: list[Fault] = []
    options: dict[str, Any] = {"languages": (), "seed": 0, "on_fault": by_file.append}
    found = [row for path, name in sources.find_files(source) for row in read_file(source, path, name, **options)]
    assert found == rows
    assert by_file == faults
    atlas = Source(name="atlas", kind="atlas", licence="MIT")
    options["languages"] = ("de",)
    assert list(read_file(atlas, None, "atlas", **options)) == collect(atlas)[0]


def test_files_of_mixed_schema_lose_nothing(tmp_path: Path) -> None:
    """A year that is null in the first file stays a year in the others; a file without the column has none."""
    tables = [
        pa.table({"text": ["eins"], "year": pa.array([None], pa.null())}),
        pa.table({"year": pa.array([1845], pa.int64()), "text": pa.array(["zwei"], pa.large_string())}),
        pa.table({"text": ["drei"], "pages": [7]}),
        pa.table({"text": ["vier"], "year": ["1845"]}),
        pa.table({"text": pa.array([5])}),
    ]
    for number, table in enumerate(tables):
        pq.write_table(table, tmp_path / f"{number}.parquet")
    rows, faults = collect(Source(name="rows", kind="parquet", path=str(tmp_path), licence="MIT"))
    assert [(row["text"], row["year"]) for row in rows] == [("eins", None), ("zwei", 1845), ("drei", None)]
    assert [(f.file, f.reason) for f in faults] == [("3.parquet", "wrong-type"), ("4.parquet", "wrong-type")]


def test_a_file_that_vanishes_midway_is_an_error_that_says_so(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(GOOD))
    reading = read(Source(name="books", kind="jsonl", path=str(tmp_path)), languages=(), seed=0, on_fault=print)
    assert next(reading)["file"] == "a.jsonl"
    (tmp_path / "b.jsonl").unlink()
    with pytest.raises(InputError, match=r"source 'books': .*b\.jsonl has vanished"):
        next(reading)


class Endless(io.RawIOBase):
    """A line of 200 MB, made while it is read, and a sound one behind it."""

    def __init__(self, sound: bytes) -> None:
        self._left, self._sound = 200_000_000, b"\n" + sound

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._left:
            count = min(len(buffer), self._left)
            buffer[:count] = b"a" * count
            self._left -= count
        else:
            count = min(len(buffer), len(self._sound))
            buffer[:count], self._sound = self._sound[:count], self._sound[count:]
        return count


def test_a_document_of_200_megabytes_is_refused_within_bounded_memory() -> None:
    stream_ = io.BufferedReader(Endless(json.dumps(GOOD).encode()), 2**17)
    tracemalloc.start()
    try:
        found = list(jsonl.records(stream_, "a.jsonl"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(found[0].record, schema.BadRecord)
    assert found[0].record.reason == "too-long"
    assert found[1].record == GOOD
    assert peak < 3 * jsonl.MAX_LINE_BYTES


def test_a_text_that_is_too_long_in_parquet_costs_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "MAX_TEXT_BYTES", 100)
    texts = ["kurz", "x" * 101, None, "y" * 100]
    for name, kind in {"a": pa.string(), "b": pa.large_string(), "c": pa.dictionary(pa.int32(), pa.string())}.items():
        pq.write_table(pa.table({"text": pa.array(texts, kind)}), tmp_path / f"{name}.parquet")
        rows, faults = collect(
            Source(name="rows", kind="parquet", path=str(tmp_path / f"{name}.parquet"), licence="MIT")
        )
        assert [row["line"] for row in rows] == [1, 4]
        assert [(f.line, f.reason) for f in faults] == [(2, "too-long"), (3, "text-missing")]


def test_long_rows_of_parquet_are_decoded_few_at_a_time(tmp_path: Path) -> None:
    texts = [bytes([97 + n % 26]).decode() * 2**20 for n in range(40)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet", compression="none", use_dictionary=False)
    group = pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(0)
    assert 1 <= parquet._batch_rows(group) <= 16
    rows, _ = collect(Source(name="rows", kind="parquet", path=str(tmp_path), licence="MIT"))
    assert [row["bytes"] for row in rows] == [2**20] * 40


@pytest.mark.parametrize(
    ("retrieved", "kept", "flags"),
    [
        ("2024-05-01", "2024-05-01", []),
        ("2024-05-01T10:00:00Z", "2024-05-01", []),
        ("2024-05", "2024-05", []),
        ("2024", "2024", []),
        (None, None, []),
        ("2024-02-30", None, ["bad-date"]),
        ("1.5.2024", None, ["bad-date"]),
        ("yesterday", None, ["bad-date"]),
        ("2026-11-21", None, ["future-date"]),
        ("9999-01-01", None, ["future-date"]),
    ],
)
def test_a_date_that_is_none_or_not_over_yet_is_flagged_and_kept_in_extra(
    tmp_path: Path, retrieved: str | None, kept: str | None, flags: list[str]
) -> None:
    rows, faults = collect(
        lines(tmp_path / "a.jsonl", json.dumps({**GOOD, "retrieved": retrieved}).encode()), day="2026-11-20"
    )
    assert not faults
    assert (rows[0]["retrieved"], rows[0]["flags"]) == (kept, flags)
    assert (json.loads(rows[0]["extra"])["retrieved"] if flags else retrieved) == retrieved


def test_signals_of_a_record_become_evidence(tmp_path: Path) -> None:
    signals = [
        {"kind": "robots.txt", "says": "reserved", "raw": "Disallow: /", "seen": "2024-05-01"},
        {"kind": "ai.txt", "says": "allowed", "seen": "2031-01-01"},
        {"kind": "ai.txt", "says": "reserved", "seen": "long ago"},
    ]
    rows, faults = collect(
        lines(tmp_path / "a.jsonl", json.dumps({**GOOD, "signals": signals}).encode()), day="2026-11-20"
    )
    assert not faults
    assert [(e.kind, e.says, e.raw, e.seen, e.place, e.parser) for e in rows[0]["evidence"]] == [
        ("robots.txt", "reserved", "Disallow: /", "2024-05-01", "record", "record/1"),
        ("ai.txt", "unclear", "", "", "record", "record/1; future-date"),  # a permission of no known day is none
        ("ai.txt", "reserved", "", "", "record", "record/1; bad-date"),
    ]


@pytest.mark.parametrize(
    "signals",
    [
        "noai",
        [7],
        [{}],
        [{"kind": "x"}],
        [{"kind": "x", "says": "perhaps"}],
        [{"kind": 7, "says": "allowed"}],
        [{"kind": "x", "says": "allowed"}] * 1001,
    ],
)
def test_signals_of_another_shape_are_faults(tmp_path: Path, signals: object) -> None:
    good = json.dumps(GOOD).encode()
    _, faults = collect(lines(tmp_path / "a.jsonl", json.dumps({**GOOD, "signals": signals}).encode(), good))
    assert [f.reason for f in faults] == ["wrong-type"]


def test_death_jurisdiction_and_basis_of_a_record_are_columns(tmp_path: Path) -> None:
    content = [
        {**GOOD, "author_died": 1924, "jurisdiction": "de", "licence_basis": "public-domain"},
        {"text": "b", "licence_basis": "tdm-art-3"},
        {**GOOD, "jurisdiction": "Germany"},
        {**GOOD, "author_died": "1924"},
    ]
    source = lines(tmp_path / "a.jsonl", *(json.dumps(record).encode() for record in content))
    rows, faults = collect(source.model_copy(update={"jurisdiction": "EU"}))
    assert [(r["author_died"], r["jurisdiction"], r["licence"], r["licence_basis"]) for r in rows] == [
        (1924, "DE", "CC0-1.0", "public-domain"),
        (None, "EU", "NOASSERTION", "tdm-art-3"),
    ]
    assert [f.reason for f in faults] == ["wrong-type", "wrong-type"]


@given(
    text=st.text(
        st.characters(codec="utf-8")
        | st.sampled_from(" \n\t\r\x0b\x1c\x85\xa0\u1680\u2000\u2001\u2009\u2028\u202f\u3000e\u0301")
    )
)
@example(text="  a  \n\n b\t")
@example(text="Cafe\u0301\u00a0\u3000 x")
def test_the_fast_normal_form_is_the_plain_one(text: str) -> None:
    assert schema._normalised(text, text.encode()) == schema.normalised(text).encode()


def test_the_length_in_utf8_comes_with_the_row(tmp_path: Path) -> None:
    rows, _ = collect(lines(tmp_path / "a.jsonl", json.dumps({**GOOD, "text": "Größe"}).encode()))
    assert rows[0]["bytes"] == 7


def test_digests_name_what_the_text_is(tmp_path: Path) -> None:
    source = lines(tmp_path / "a.jsonl", json.dumps(GOOD).encode())
    before = sources.digests(source)
    assert list(before) == ["a.jsonl"]
    lines(tmp_path / "a.jsonl", b"{}")
    assert sources.digests(source) != before
    assert sources.digests(Source(name="atlas", kind="atlas")) == {}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"obtained": "licensed"}, 'contract: missing; obtained = "licensed" has to say it'),
        ({"obtained": "synthetic"}, "model: missing"),
        ({"obtained": "crawl", "crawler": "HanseBot"}, "period: missing"),
        ({"obtained": "crawl", "period": "2024-01/2024-06"}, "crawler: missing"),
        ({"contract": "A-7"}, 'contract: belongs to obtained = "licensed", not "unknown"'),
        ({"obtained": "user", "model": "x"}, 'model: belongs to obtained = "synthetic"'),
        ({"obtained": "crawl", "crawler": "x", "period": "2024", "licence_basis": "contract"}, "does not go with"),
        (
            {
                "obtained": "licensed",
                "contract": "A-7",
                "contract_start": "2025-01-01",
                "contract_expiry": "2024-12-31",
            },
            "contract_expiry: before contract_start",
        ),
        ({"jurisdiction": "Germany"}, "jurisdiction"),
        ({"obtained": "scraped"}, "obtained"),
    ],
)
def test_how_a_source_was_obtained_has_to_be_explained(fields: dict[str, str], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Source(**{"name": "books", "kind": "jsonl", "path": "x", **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "fields",
    [
        {"obtained": "licensed", "contract": "A-7", "contract_expiry": "2027-12-31", "licence_basis": "contract"},
        {"obtained": "synthetic", "model": "mistral-small-3"},
        {"obtained": "crawl", "crawler": "HanseBot", "period": "2024-01/2024-06", "licence_basis": "tdm-art-4"},
        {"obtained": "user"},
        {"obtained": "other"},
        {"obtained": "public-dataset", "jurisdiction": "EU"},
    ],
)
def test_a_source_that_explains_itself_is_taken(fields: dict[str, str]) -> None:
    source = Source(**{"name": "books", "kind": "jsonl", "path": "x", **fields})  # type: ignore[arg-type]
    assert json.loads(source.model_dump_json())["obtained"] == fields["obtained"]


@pytest.mark.slow
@pytest.mark.skipif(not CORPUS.is_dir(), reason="the test corpus is not beside the repository")
def test_the_whole_test_corpus_reads_without_a_fault() -> None:
    faults: list[Fault] = []
    source = Source(name="corpus", kind="jsonl", path=str(CORPUS / "*.jsonl.gz"))
    documents = size = 0
    for row in read(source, languages=(), seed=0, on_fault=faults.append):
        documents += 1
        size += len(row["text"].encode())
    assert not faults
    assert (documents, round(size / 1e6, 2)) == (21_792, 132.59)  # as its README says


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
fields = st.sampled_from(
    [
        "id",
        "text",
        "licence",
        "language",
        "year",
        "url",
        "extra",
        "title",
        "reservation",
        "retrieved",
        "signals",
        "jurisdiction",
    ]
)


@settings(max_examples=150)
@given(content=st.binary(max_size=400) | st.binary(max_size=200).map(gzip.compress))
@example(content=b"\x1f\x8b")
@example(content=b"\x28\xb5\x2f\xfd\x00")
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet", "a.txt"])
def test_no_bytes_crash_a_reader(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    kind = {"a.parquet": "parquet", "a.txt": "text"}.get(name, "jsonl")
    source = Source(name="books", kind=kind, path=str(tmp_path / name), licence="MIT")  # type: ignore[arg-type]
    try:
        rows, _ = collect(source)
    except InputError:
        return
    assert all(row["text"].encode("utf-8") is not None for row in rows)


@settings(max_examples=150)
@given(record=st.dictionaries(fields, json_values, max_size=6))
def test_every_record_becomes_a_document_or_a_fault(
    tmp_path: Path, record: dict[str, Any], source: Callable[..., Source]
) -> None:
    good = json.dumps({"text": "sound", "licence": "MIT"}).encode()
    line = json.dumps(record).encode()
    rows, faults = collect(source([line, good]))
    assert len(rows) + len(faults) == 2
    pa.Table.from_pylist(rows, pa.schema([f for f in sources_schema() if f.name in rows[0]]))


def sources_schema() -> pa.Schema:
    from hanse.data.schema import INGEST

    return INGEST
