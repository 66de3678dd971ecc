"""What readers hand on: a record that nobody has checked yet, or why there is none, and where it stood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO, NamedTuple

from hanse.data.rights.evidence import Evidence
from hanse.data.schema import BadRecord
from hanse.errors import InputError


@dataclass(frozen=True)
class Fault:
    """One thing that could not be read. `line` counts from 1; 0 stands for the file as a whole."""

    source: str
    file: str
    line: int
    reason: str
    detail: str


class Found(NamedTuple):
    """One record of a file.

    Attributes:
        line: line, row or record in the file (in the member, in an archive), from 1; 0 for the file as a whole.
        record: a mapping that `hanse.data.schema.check_record` has not seen yet, or a BadRecord.
        evidence: what the place where it stood says about its use, for example HTTP headers.
        member: name inside an archive, or "".
    """

    line: int
    record: object
    evidence: tuple[Evidence, ...] = ()
    member: str = ""


class BrokenFile(Exception):
    """The rest of a file cannot be read; what came before is sound."""


class DamagedFile(InputError):
    """The content of a file does not match the checksum inside it, so nothing that was read from it can be trusted."""


def whole(stream: IO[bytes], *, most: int) -> bytes:
    """The content of a file that is one record, or cannot be read in parts.

    Args:
        stream: at its beginning.
        most: bytes.

    Raises:
        BadRecord: it is larger.
    """
    content = stream.read(most + 1)
    if len(content) > most:
        raise BadRecord("too-long", f"the file is larger than {most // 2**20} MiB; split it")
    return content
