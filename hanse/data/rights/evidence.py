"""What somebody said about the use of their text, as it was found: evidence, never a verdict.

A verdict is a pure function of evidence and policy (`hanse.data.rights.policy`), so it can be drawn again under another
policy, years later, from what is stored here.
"""

from __future__ import annotations

import hashlib
from dataclasses import astuple, dataclass
from functools import lru_cache
from typing import Literal

import pyarrow as pa

Says = Literal["allowed", "reserved", "unclear"]
RAW_CHARACTERS = 1000  # of the line, header or element that is kept

EVIDENCE = pa.schema(
    [(name, pa.string()) for name in ("id", "kind", "place", "raw", "seen", "file_digest", "parser", "says")]
)


@dataclass(frozen=True, slots=True)
class Evidence:
    """One statement, by one signal, at one place and time.

    Attributes:
        kind: the signal, a key of the table in `hanse.data.rights.signals`, for example "robots.txt", "tdmrep-header".
        place: where it was found: the URL of the file or page, or "record" for a field of the source's own record.
        raw: the line, header or element, as found, at most RAW_CHARACTERS.
        seen: day on which it was seen, ISO 8601, or "" where nobody knows.
        file_digest: SHA-256 of the file that held it, hexadecimal, or "".
        parser: what read it, with a version: "robots/1". What went wrong follows it: "robots/1; truncated".
        says: what the parser made of it; "unclear" is neither yes nor no.
    """

    kind: str
    place: str
    raw: str
    seen: str
    file_digest: str
    parser: str
    says: Says

    @property
    def id(self) -> str:
        """First 128 bits of SHA-256 over all fields, as 32 hex digits: equal evidence has one id."""
        return _identity(self)


def observed(
    kind: str, says: Says, raw: str, *, place: str, seen: str, parser: str, file_digest: str = "", trouble: str = ""
) -> Evidence:
    """Evidence with everything from outside cut to RAW_CHARACTERS and made safe to store: no NUL, no lone surrogate.

    Args:
        kind, says, raw, place, seen, parser, file_digest: as in `Evidence`.
        trouble: one word for what kept the parser from a clear answer; it follows the parser's name.
    """
    return Evidence(
        kind=kind,
        place=_storable(place),
        raw=_storable(raw),
        seen=_storable(seen),
        file_digest=file_digest,
        parser=f"{parser}; {trouble}" if trouble else parser,
        says=says,
    )


@lru_cache(maxsize=16384)  # the pages of a site share what its files say
def _identity(evidence: Evidence) -> str:
    return hashlib.sha256("\0".join(astuple(evidence)).encode("utf-8", "replace")).hexdigest()[:32]


def _storable(text: str) -> str:
    text = text[:RAW_CHARACTERS]
    if text.isascii() and "\0" not in text:
        return text
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd")
