"""Identity: SHA-256 of files, of folders (`SHA256SUMS`), and of definitions.

A folder's digest is the SHA-256 of its `SHA256SUMS`, so coreutils alone can recompute it:
`sha256sum -c SHA256SUMS` checks the files and `sha256sum SHA256SUMS` prints the digest.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hanse.errors import InputError

SUMS = "SHA256SUMS"
RECORD = "step.json"
RUN = "run"
#: A detached signature: written last, over everything else including the record, so no sum can list it.
SEALS = ("model.sig",)
#: JSON readers in other languages keep integers exact only up to here (RFC 8259, section 6).
LARGEST_EXACT_INTEGER = 2**53

_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


def sha256_file(path: Path) -> str:
    """SHA-256 of a file as 64 hex digits, read in pieces. Raises OSError when it cannot be read."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_text(text: str) -> str:
    """SHA-256 of a text's UTF-8 bytes as 64 hex digits."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def check_file_name(name: str) -> None:
    """Refuse a relative path that `SHA256SUMS` could not carry the same way everywhere.

    coreutils would escape a backslash or a newline; other readers of the format do not know the escape.

    Raises:
        InputError: control characters, a backslash, an absolute path, an empty or dotted part, or not UTF-8.
    """
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(f"file name {name!r} is not UTF-8; rename the file.") from None
    if "\\" in name or any(ord(sign) < 32 or ord(sign) == 127 for sign in name):
        raise InputError(f"file name {name!r} holds a control character or a backslash; rename the file.")
    if name == "-":  # to coreutils that is the standard input; hypothesis found it
        raise InputError("a file may not be called '-'; rename it.")
    if any(part in ("", ".", "..") for part in name.split("/")):
        raise InputError(f"file name {name!r} is not a plain path inside the folder.")


def walk_files(folder: Path) -> Iterator[tuple[str, bool]]:
    """Every entry below a folder that is not a folder: its path with `/`, and whether it is a regular file.

    Symbolic links are never followed, and count as not regular.
    """
    pending = [""]
    while pending:
        parent = pending.pop()
        with os.scandir(folder / parent) as entries:
            for entry in entries:
                name = f"{parent}/{entry.name}" if parent else entry.name
                if entry.is_dir(follow_symlinks=False):
                    pending.append(name)
                else:
                    yield name, entry.is_file(follow_symlinks=False)


def files_of(folder: Path) -> list[str]:
    """The regular files below a folder, sorted by their UTF-8 bytes.

    Raises:
        InputError: a symbolic link, a device or socket, or a name that `check_file_name` refuses.
    """
    names = []
    for name, is_regular in walk_files(folder):
        check_file_name(name)
        if not is_regular:
            raise InputError(f"{folder / name}: is a link or a special file; an artifact holds plain files only.")
        names.append(name)
    return sorted(names, key=lambda name: name.encode("utf-8"))


def is_summed(name: str) -> bool:
    """Whether a file of an artifact is listed in its `SHA256SUMS`.

    Left out are the record, which names the sums; the byproducts under `run/`, which hold wall-clock times; and the
    signature. So equal content has an equal digest, whenever and wherever it was made.
    """
    return name not in (SUMS, RECORD, *SEALS) and not name.startswith(f"{RUN}/")


def sums_text(digests: Mapping[str, str]) -> str:
    """`SHA256SUMS` in coreutils' text format, sorted by the path's UTF-8 bytes."""
    ordered = sorted(digests, key=lambda name: name.encode("utf-8"))
    return "".join(f"{digests[name]}  {name}\n" for name in ordered)


def parse_sums(text: str) -> dict[str, str]:
    """Path -> SHA-256 from a `SHA256SUMS`.

    Raises:
        InputError: a line that is not `digest  path`, a path twice, or one that leads out of the folder.
    """
    digests: dict[str, str] = {}
    lines = text.split("\n")
    if lines.pop():
        raise InputError(f"{SUMS}: the last line is cut off.")
    for number, line in enumerate(lines, start=1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise InputError(f"{SUMS}, line {number}: is not '<sha256>  <path>'.")
        digest, name = match.groups()
        check_file_name(name)
        if name in digests:
            raise InputError(f"{SUMS}, line {number}: '{name}' is listed twice.")
        digests[name] = digest
    return digests


def plain(value: object, where: str) -> Any:
    """A copy of a value made of JSON's own types only, so that its text is the same in every process.

    There is no fallback to `str()`: a thing without a stable identity, such as a path or an object, is an error.

    Args:
        value: dicts with text keys, lists, tuples, text, numbers, truth values, None.
        where: what to call the value in an error, for example `definition`.

    Raises:
        TypeError: another type, or a key that is not text.
        ValueError: NaN, infinity, an integer beyond 2**53, or text that is not Unicode.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        value.encode("utf-8")  # a lone surrogate raises UnicodeEncodeError, which is a ValueError
        return str(value)
    if isinstance(value, int):
        if abs(value) > LARGEST_EXACT_INTEGER:
            raise ValueError(f"{where}: {value} is beyond 2**53, where JSON readers round; give it as text")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where}: {value} cannot be written as JSON")
        return float(value)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{where}: the key {key!r} is not text")
        return {str(key): plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{where}.{number}") for number, item in enumerate(value)]
    raise TypeError(f"{where}: {type(value).__name__} has no stable identity as JSON")


def exact_json(values: Mapping[str, object], where: str) -> dict[str, Any]:
    """As `plain`, but integers beyond 2**53, such as FLOP and long seeds, become text instead of an error."""

    def exact(value: object) -> object:
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) > LARGEST_EXACT_INTEGER:
            return str(value)
        if isinstance(value, Mapping):
            return {key: exact(item) for key, item in value.items()}
        return [exact(item) for item in value] if isinstance(value, list | tuple) else value

    return {name: plain(exact(value), f"{where}.{name}") for name, value in values.items()}


def canonical_json(value: object) -> str:
    """One text for one value: sorted keys, no blanks. Raises as `plain` does."""
    return json.dumps(plain(value, "value"), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def fingerprint(definition: Mapping[str, object], inputs: Mapping[str, str]) -> str:
    """What a thing is: SHA-256 over its definition and the digests of its inputs.

    Args:
        definition: everything that decides the content; no paths, devices or thread counts.
        inputs: role -> digest of the input artifact.

    Raises:
        TypeError, ValueError: as `plain`.
    """
    return sha256_text(canonical_json({"definition": plain(definition, "definition"), "inputs": dict(inputs)}))
