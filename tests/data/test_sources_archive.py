"""Archives: read member by member, and made to exhaust or to mislead whoever reads them."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import random
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from reading import collect

from hanse.data.sources import archive, stream
from hanse.errors import InputError
from hanse.recipe import Source

PACKS: dict[str, Callable[[bytes], bytes]] = {
    ".tar": bytes, ".tar.gz": gzip.compress, ".tgz": gzip.compress, ".tar.xz": lzma.compress,
    ".tar.zst": zstandard.ZstdCompressor().compress,
}  # fmt: skip
TEXTS = {"a/eins.txt": b"Eins.", "b/zwei.md": "Größe.".encode(), "bild.png": b"\x89PNG", "c/drei.txt": b"\xff\xfe"}


def tar(members: dict[str, bytes], *, format: int = tarfile.PAX_FORMAT, end: bool = True) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=format) as packed:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))
    return sink.getvalue() if end else sink.getvalue()[: packed.offset - 2 * tarfile.BLOCKSIZE]


def zipped(members: dict[str, bytes], **fields: Any) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", **{"compression": zipfile.ZIP_DEFLATED, **fields}) as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return sink.getvalue()


def texts(path: Path, content: bytes, kind: str = "text") -> Source:
    path.write_bytes(content)
    return Source(name="box", kind=kind, path=str(path), licence="MIT")  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", [*PACKS, ".zip"])
def test_members_read_like_files(tmp_path: Path, suffix: str) -> None:
    content = zipped(TEXTS) if suffix == ".zip" else PACKS[suffix](tar(TEXTS))
    name = f"box{suffix}"
    rows, faults = collect(texts(tmp_path / name, content))
    assert [(r["file"], r["line"], r["title"], r["text"], r["source_id"]) for r in rows] == [
        (f"{name}/a/eins.txt", 1, "eins", "Eins.", f"{name}/a/eins.txt:1"),
        (f"{name}/b/zwei.md", 1, "zwei", "Größe.", f"{name}/b/zwei.md:1"),
    ]
    assert [(f.file, f.reason) for f in faults] == [(f"{name}/c/drei.txt", "not-utf8")]
    assert {path.name for path in tmp_path.iterdir()} == {name}


def test_lines_and_compressed_lines_inside_an_archive(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"id": str(n), "text": f"Zeile {n}"}) + "\n" for n in range(3)).encode()
    members = {
        "a.jsonl": lines,
        "b.jsonl.gz": gzip.compress(lines),
        "c.jsonl.gz": gzip.compress(lines)[:-9],
        "d.jsonl": b"{",
    }
    rows, faults = collect(texts(tmp_path / "box.tar", tar(members), "jsonl"))
    assert [(r["file"], r["line"]) for r in rows] == [
        (f"box.tar/{name}", n) for name in ("a.jsonl", "b.jsonl.gz", "c.jsonl.gz") for n in (1, 2, 3)
    ]
    assert [(f.file, f.line, f.reason) for f in faults] == [
        ("box.tar/c.jsonl.gz", 0, "broken-file"),
        ("box.tar/d.jsonl", 1, "not-json"),
    ]


def test_an_archive_lies_among_other_files_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Lose.")
    source = texts(tmp_path / "b.tar.gz", gzip.compress(tar(TEXTS)))
    rows, _ = collect(source.model_copy(update={"path": str(tmp_path)}))
    assert [row["text"] for row in rows] == ["Lose.", "Eins.", "Größe."]


def test_an_archive_without_a_member_of_the_kind_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Lose.")
    source = texts(tmp_path / "b.zip", zipped({"bild.png": b"", "ordner/": b""}))
    rows, faults = collect(source.model_copy(update={"path": str(tmp_path)}))
    assert len(rows) == 1
    assert [(f.file, f.reason) for f in faults] == [("b.zip", "empty-archive")]


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("../../etc/passwd.txt", "etc/passwd.txt"),
        ("/abs/olute.txt", "abs/olute.txt"),
        ("C:\\Users\\me.txt", "C:/Users/me.txt"),
        ("a/./b//c.txt", "a/b/c.txt"),
        ("line\nbreak\u202e.txt", "line_break_.txt"),
        ("lone\udc80.txt", "lone_.txt"),
        ("..", "_"),
        ("x" * 5000 + ".txt", "x" * 496 + ".txt"),
    ],
)
def test_names_of_members_are_cleaned(name: str, clean: str) -> None:
    assert archive.cleaned(name)[-500:] == clean if len(name) < 1000 else len(archive.cleaned(name)) == archive.MAX_NAME


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_faults_and_not_followed(tmp_path: Path, kind: bytes) -> None:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as packed:
        odd = tarfile.TarInfo("odd.txt")
        odd.type, odd.linkname = kind, "/etc/passwd"
        packed.addfile(odd)
        info = tarfile.TarInfo("good.txt")
        info.size = 4
        packed.addfile(info, io.BytesIO(b"Gut."))
    rows, faults = collect(texts(tmp_path / "box.tar", sink.getvalue()))
    assert [row["text"] for row in rows] == ["Gut."]
    assert [f.file for f in faults] == ["box.tar/odd.txt"]
    assert faults[0].reason == ("link" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else "no-file")


def test_links_and_locked_members_of_a_zip_are_faults(tmp_path: Path) -> None:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as packed:
        link = zipfile.ZipInfo("link.txt")
        link.external_attr = 0xA1FF << 16
        packed.writestr(link, "/etc/passwd")
        packed.writestr("good.txt", "Gut.")
        packed.writestr("locked.txt", "Geheim.")
        packed.writestr("odd.txt", "Selten.", compress_type=zipfile.ZIP_LZMA)
    content = bytearray(sink.getvalue())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        for place in [p for p in range(len(content)) if content[p : p + 4] == signature]:
            if b"locked" in content[place : place + 60]:
                content[place + offset] |= 1
    rows, faults = collect(texts(tmp_path / "box.zip", bytes(content)))
    assert [row["text"] for row in rows] == ["Gut."]
    assert [(f.file, f.reason) for f in faults] == [
        ("box.zip/link.txt", "link"), ("box.zip/locked.txt", "encrypted"), ("box.zip/odd.txt", "no-file"),
    ]  # fmt: skip


def test_a_bomb_is_told_by_how_far_it_unfolds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (stream, archive):
        monkeypatch.setattr(module, "BOMB_BYTES", 2**20)
        monkeypatch.setattr(module, "BOMB_RATIO", 100)
    members = {name: random.Random(name).randbytes(99_000).hex().encode() for name in ("good.txt", "more.txt")}
    members["a.txt"] = b" " * (30 * 2**20)
    bombs = {
        "a.tar.gz": gzip.compress(tar(members)),
        "b.tar.zst": zstandard.ZstdCompressor().compress(tar(members)),
        "c.tar.xz": lzma.compress(tar(members), preset=0),
        "d.zip": zipped(members),
    }
    for name, content in bombs.items():
        (tmp_path / name).write_bytes(content)
    source = Source(name="box", kind="text", path=str(tmp_path), licence="MIT")
    rows, faults = collect(source)
    # What came before is kept, but a zip says beforehand how far it unfolds.
    kept = [row["file"] for row in rows if row["file"].endswith("good.txt")]
    assert kept == [f"{name}/good.txt" for name in bombs if name != "d.zip"]
    assert [(f.file.partition("/")[0], f.reason) for f in faults if "bomb" in f.detail] == [
        (name, "broken-file") for name in bombs
    ]


def test_lines_that_unfold_too_far_are_a_bomb_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "BOMB_BYTES", 2**20)
    sound = json.dumps({"text": random.Random(0).randbytes(40_000).hex()}).encode()
    rows, faults = collect(texts(tmp_path / "a.jsonl.gz", gzip.compress(sound + b"\n" + b" " * 2**25), "jsonl"))
    assert len(rows) == 1
    assert [(f.reason, "decompression bomb" in f.detail) for f in faults] == [("broken-file", True)]


def test_a_header_that_claims_gigabytes_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "_HEADER_BYTES", 2**16)
    sink = io.BytesIO()
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 2**20
    sink.write(header.tobuf(tarfile.USTAR_FORMAT) + b"9 a=bcde\n" * (2**20 // 9 + 1))
    source = texts(tmp_path / "box.tar", tar({"good.txt": b"Gut."}, end=False) + sink.getvalue() + tar({}))
    rows, faults = collect(source)
    assert [row["text"] for row in rows] == ["Gut."]
    assert [(f.file, f.reason) for f in faults] == [("box.tar", "broken-file")]
    assert "header" in faults[0].detail


def test_too_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MOST_MEMBERS", 3)
    rows, faults = collect(texts(tmp_path / "box.tar", tar({f"{n}.txt": b"a" for n in range(5)})))
    assert len(rows) == 3
    assert "more than 3 members" in faults[0].detail
    monkeypatch.setattr(archive, "_DIRECTORY_BYTES", 100)
    with pytest.raises(InputError, match="too many members"):
        collect(texts(tmp_path / "box.zip", zipped({f"{n}.txt": b"a" for n in range(5)})))


def test_a_member_over_the_limit_is_refused_and_the_next_one_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hanse.data.sources.text.MAX_FILE_BYTES", 100)
    members = {"a.txt": b"x" * 101, "b.txt": b"x" * 100}
    for name, content in {"box.tar": tar(members), "box.zip": zipped(members)}.items():
        rows, faults = collect(texts(tmp_path / name, content))
        assert [row["file"] for row in rows] == [f"{name}/b.txt"]
        assert [f.reason for f in faults] == ["too-long"]


@pytest.mark.parametrize(
    ("content", "detail"),
    [
        (tar({"a.txt": b"Gut.", "b.txt": b"x" * 5000})[:-8000], "damaged|breaks off"),
        (tar({"a.txt": b"Gut."}, end=False), "breaks off"),
        (tar({"a.txt": b"Gut."}) + tar({"b.txt": b"Verloren?"}), "something follows the end"),
        (gzip.compress(tar({"a.txt": b"Gut."}))[:-12] + b"\0" * 4, "damaged|breaks off"),
    ],
)
def test_an_archive_that_breaks_off_or_goes_on_is_reported(tmp_path: Path, content: bytes, detail: str) -> None:
    name = "box.tar.gz" if content[:2] == b"\x1f\x8b" else "box.tar"
    rows, faults = collect(texts(tmp_path / name, content))
    assert [row["text"] for row in rows][:1] == ["Gut."]
    assert [f.reason for f in faults[-1:]] == ["broken-file"]
    assert any(word in faults[-1].detail for word in detail.split("|"))


def test_a_damaged_member_of_a_zip_costs_itself(tmp_path: Path) -> None:
    content = bytearray(zipped({"a.txt": b"Gut. " * 50, "b.txt": b"Auch gut."}, compression=zipfile.ZIP_STORED))
    content[60] ^= 1
    rows, faults = collect(texts(tmp_path / "box.zip", bytes(content)))
    assert [row["file"] for row in rows] == ["box.zip/b.txt"]
    assert [(f.file, f.reason) for f in faults] == [("box.zip/a.txt", "broken-file")]


SOUND = {"box.tar": tar(TEXTS), "gnu.tar": tar(TEXTS, format=tarfile.GNU_FORMAT), "box.zip": zipped(TEXTS)}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(sorted(SOUND)), data=st.data())
def test_no_damage_crashes_the_reader(tmp_path: Path, name: str, data: st.DataObject) -> None:
    content = bytearray(SOUND[name])
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 600))] = data.draw(st.binary(max_size=30))
        if not content:
            return
    try:
        rows, _ = collect(texts(tmp_path / name, bytes(content)))
    except InputError:
        return
    assert len(rows) <= 4


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=1500), name=st.sampled_from(["a.tar", "a.zip", "a.tar.gz", "a.tar.xz"]))
@example(content=b"PK\x05\x06" + b"\0" * 18, name="a.zip")
@example(content=b"\0" * 1024, name="a.tar")
@example(content=b"\xfd7zXZ\x00", name="a.tar.xz")
def test_no_bytes_crash_the_reader(tmp_path: Path, content: bytes, name: str) -> None:
    try:
        rows, _ = collect(texts(tmp_path / name, content))
    except InputError:
        return
    assert not rows
