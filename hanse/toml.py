"""TOML files that people write: what is wrong with one is told in a sentence."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from hanse.errors import InputError


def content(path: Path, what: str, *, where: str = "", absent: str = "") -> bytes:
    """The bytes of a file, for `parse`.

    Args:
        path: of the file.
        what: to name instead of a folder, for example "the recipe file".
        where: how the message begins; by default the path.
        absent: what to say where there is no such file; by default that it cannot be read.

    Raises:
        InputError: there is no such file, it is a folder, or it cannot be read.
    """
    where = where or str(path)
    try:
        return path.read_bytes()
    except IsADirectoryError:
        raise InputError(f"{where}: is a folder; name {what} in it.") from None
    except OSError as error:
        if absent and isinstance(error, FileNotFoundError):
            raise InputError(f"{where}: {absent}") from None
        raise InputError(f"{where}: cannot be read ({error.strerror}); correct the path of {what}.") from None


def parse(content: bytes, *, where: str) -> dict[str, Any]:
    """The tables of a TOML file.

    Args:
        content: of the file.
        where: how the message begins, for example its path.

    Raises:
        InputError: it is not UTF-8, or not TOML.
    """
    try:
        return tomllib.loads(content.decode("utf-8"))
    except UnicodeDecodeError:
        raise InputError(f"{where}: is not UTF-8 text; save it as UTF-8.") from None
    # A file of nothing but brackets ends the parser's stack.
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{where}: is not valid TOML: {error}.") from None
