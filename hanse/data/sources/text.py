"""Plain text and Markdown: a file is a document, titled by its name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import IO

from hanse.data.schema import BadRecord
from hanse.data.sources.records import Found, whole

MAX_FILE_BYTES = 64 * 2**20


def records(stream: IO[bytes], name: str) -> Iterator[Found]:
    """One record, the whole file. UTF-8 only: for text without a word about its encoding, any other is a guess."""
    try:
        text = whole(stream, most=MAX_FILE_BYTES).decode("utf-8-sig")
    except BadRecord as fault:
        yield Found(0, fault)
        return
    except UnicodeDecodeError as error:
        yield Found(0, BadRecord("not-utf8", f"byte {error.start + 1} is not UTF-8"))
        return
    yield Found(1, {"text": text, "title": PurePosixPath(name).stem})
