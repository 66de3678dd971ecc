"""JSON lines: one object on each line, plain or compressed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO

from hanse.data.schema import BadRecord, parse_line
from hanse.data.sources.records import BrokenFile, Found
from hanse.data.sources.stream import opened

MAX_LINE_BYTES = 64 * 2**20
_SKIP_BYTES = 2**20  # at a time, of a line that is too long


def records(stream: IO[bytes], name: str) -> Iterator[Found]:
    """The JSON value on each line that is not blank; a line that cannot be parsed comes as a BadRecord.

    Raises:
        BrokenFile: the compression breaks off.
        DamagedFile: the content does not match its checksum.
    """
    for line_number, line in _lines(stream):
        if line is None:
            too_long = BadRecord("too-long", f"the line is longer than {MAX_LINE_BYTES // 2**20} MiB")
            yield Found(line_number, too_long)
        elif line.strip():
            try:
                yield Found(line_number, parse_line(line))
            except BadRecord as fault:
                yield Found(line_number, fault)


def jsonl_records(path: Path) -> Iterator[tuple[int, object]]:
    """(line, JSON value or BadRecord) for each line of a file that is not blank.

    Raises:
        BrokenFile, DamagedFile: as `records`.
        OSError: the file cannot be opened or read.
    """
    with opened(path) as stream:
        for found in records(stream, path.name):
            yield found.line, found.record


def _lines(stream: IO[bytes]) -> Iterator[tuple[int, bytes | None]]:
    """Lines with their numbers from 1; None stands for one over the limit, which is never held as a whole."""
    line_number = 0
    while True:
        try:
            line: bytes | None = stream.readline(MAX_LINE_BYTES + 1)
            if not line:
                return
            if len(line) > MAX_LINE_BYTES:
                rest, line = line[-1:], None
                while rest and not rest.endswith(b"\n"):
                    rest = stream.readline(_SKIP_BYTES)
        except BrokenFile as error:
            raise BrokenFile(f"{error}, after line {line_number}") from None
        line_number += 1
        if line_number == 1 and line is not None:
            line = line.removeprefix(b"\xef\xbb\xbf")
        yield line_number, line
