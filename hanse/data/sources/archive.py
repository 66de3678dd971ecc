"""Archives of text, pages, TEI or JSON lines: tar (plain, gzip, Zstandard, xz) and zip, read member by member.

Nothing is unpacked to disk, so a path that climbs out of a folder has nowhere to go; names are cleaned all the same,
because they end up in the document table. A member that is not read for a reason is a fault; one of another kind (a
picture among pages) is passed over.
"""

from __future__ import annotations

import io
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from hanse.data.schema import BadRecord
from hanse.data.sources.records import BrokenFile, Found
from hanse.data.sources.stream import BOMB_BYTES, BOMB_RATIO, decompressed, opened

Reader = Callable[[IO[bytes], str], Iterator[Found]]

TAR = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.xz")
ZIP = (".zip",)
SUFFIXES = TAR + ZIP
MOST_MEMBERS = 10_000_000
MAX_NAME = 500  # characters
_HEADER_BYTES = 4 * 2**20  # of tar headers in a row; a pax header may claim any size, and is read as a whole
_DIRECTORY_BYTES = 16 * 2**20  # of a zip's directory, which is read as a whole: about 150,000 members
_DIRECTORY_SIZE = 5  # where zipfile keeps the size of the directory in what it read from the end of the file
_SEPARATORS = re.compile(r"[/\\]+")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class _BrokenArchive(BrokenFile):
    """The archive itself, and not only one of its members."""


def is_archive(name: str) -> bool:
    """By the name."""
    return name.lower().endswith(SUFFIXES)


def records(path: Path, reader: Reader, suffixes: tuple[str, ...]) -> Iterator[Found]:
    """The records of all members with one of the suffixes, each with its member's name.

    Raises:
        BrokenFile: the rest of the archive cannot be read, or it is made to exhaust whoever reads it.
        DamagedFile: the content does not match its checksum.
        OSError: the archive cannot be opened or read.
    """
    members = _zip_members if path.name.lower().endswith(ZIP) else _tar_members
    is_empty = True
    for name, member in members(path, suffixes):
        is_empty = False
        if isinstance(member, BadRecord):
            yield Found(0, member, member=name)
            continue
        try:
            for found in reader(decompressed(member, name), name):
                yield found._replace(member=name)
        except _BrokenArchive:
            raise
        except tarfile.TarError as error:
            raise BrokenFile(f"the archive is damaged in {name}: {error}") from None
        except BrokenFile as error:  # the member's own compression
            yield Found(0, BadRecord("broken-file", str(error)), member=name)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            yield Found(0, BadRecord("broken-file", f"the member is damaged: {error}"), member=name)
    if is_empty:
        yield Found(0, BadRecord("empty-archive", f"the archive holds no {' or '.join(suffixes)} member"))


def cleaned(name: str) -> str:
    """A member's name without what only serves to climb, to hide or to break a line: "../a//b" is "a/b"."""
    parts = _SEPARATORS.split(_UNPRINTABLE.sub("_", name[: 4 * MAX_NAME]))
    return "/".join(part for part in parts if part not in ("", ".", ".."))[-MAX_NAME:] or "_"


def _tar_members(path: Path, suffixes: tuple[str, ...]) -> Iterator[tuple[str, io.BufferedReader[Any] | BadRecord]]:
    with opened(path) as stream:
        guard = _Guarded(stream)
        try:
            # A copy buffer of one block: what lies behind the archive stays in the stream, where we look at it.
            with tarfile.open(fileobj=guard, mode="r|", bufsize=tarfile.BLOCKSIZE) as archive:
                yield from _tar_each(archive, guard, suffixes)
        except tarfile.TarError as error:
            raise BrokenFile(f"the archive is damaged: {error}") from None
        except (ValueError, OverflowError, UnicodeError, IndexError) as error:  # a header that tarfile trusts too much
            raise BrokenFile(f"the archive has a header that makes no sense: {error}") from None
        guard.finish()


def _tar_each(
    archive: tarfile.TarFile, guard: _Guarded, suffixes: tuple[str, ...]
) -> Iterator[tuple[str, io.BufferedReader[Any] | BadRecord]]:
    count = 0
    while True:
        member = archive.next()
        if member is None:
            return
        archive.members = []  # type: ignore[attr-defined]  # tarfile keeps them all, though a stream cannot go back
        count += 1
        if count > MOST_MEMBERS:
            raise BrokenFile(f"the archive has more than {MOST_MEMBERS} members")
        guard.allow(member.size)
        name = cleaned(member.name)
        if not name.lower().endswith(suffixes) or member.isdir():
            continue
        if member.issym() or member.islnk():
            yield name, BadRecord("link", "the member is a link; links in archives are not followed")
        elif not member.isreg() or member.sparse is not None:
            yield name, BadRecord("no-file", "the member is no ordinary file")
        else:
            content: Any = archive.extractfile(member)
            yield name, content


class _Guarded(io.RawIOBase):
    """A stream for tarfile that gives no more than a member and some headers, and remembers how it ended."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._left = _HEADER_BYTES
        self._tail = b""

    def allow(self, size: int) -> None:
        """The next member's size, so that it may be read or passed over."""
        self._left = size + _HEADER_BYTES

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if size < 0 or self._left <= 0:
            raise _BrokenArchive(f"the archive has a header of more than {_HEADER_BYTES // 2**20} MiB")
        try:
            block = self._stream.read(size)
        except BrokenFile as error:
            raise _BrokenArchive(str(error)) from None
        self._left -= len(block)
        self._tail = (block if len(block) >= tarfile.BLOCKSIZE else self._tail + block)[-tarfile.BLOCKSIZE :]
        return block

    def finish(self) -> None:
        """Raise BrokenFile unless the archive had its mark of the end, with nothing behind it."""
        if self._tail.strip(b"\0"):
            raise BrokenFile("the archive breaks off")
        while block := self._stream.read(2**16):
            if block.strip(b"\0"):
                raise BrokenFile("something follows the end of the archive; is it two archives in one file?")


def _zip_members(path: Path, suffixes: tuple[str, ...]) -> Iterator[tuple[str, io.BufferedReader[Any] | BadRecord]]:
    with open(path, "rb") as file:
        try:
            end = zipfile._EndRecData(file)  # type: ignore[attr-defined]
            if end is not None and end[_DIRECTORY_SIZE] > _DIRECTORY_BYTES:
                raise BrokenFile("the zip archive has too many members; pack them as .tar.zst")
            archive = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, ValueError, OverflowError, NotImplementedError, UnicodeError) as error:
            raise BrokenFile(f"the file is no zip archive, or damaged: {error}") from None
        with archive:
            whole = sum(info.file_size for info in archive.infolist())
            if whole > BOMB_BYTES and whole > BOMB_RATIO * path.stat().st_size:
                raise BrokenFile(f"the archive unfolds to more than {BOMB_RATIO} times its size, a decompression bomb")
            for info in archive.infolist():
                name = cleaned(info.filename)
                if info.is_dir() or not name.lower().endswith(suffixes):
                    continue
                yield from _zip_each(archive, info, name)


def _zip_each(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str
) -> Iterator[tuple[str, io.BufferedReader[Any] | BadRecord]]:
    if info.flag_bits & 1:
        yield name, BadRecord("encrypted", "the member is encrypted; unpack it with its password first")
    elif info.external_attr >> 28 == 0xA:
        yield name, BadRecord("link", "the member is a link; links in archives are not followed")
    elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        yield name, BadRecord("no-file", "the member is compressed in a way that is not read; repack it")
    else:
        try:
            with archive.open(info) as member:
                yield name, io.BufferedReader(member)
        except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as error:
            yield name, BadRecord("broken-file", f"the member is damaged: {error}")
