"""Who may ask: keys that the server can check and nobody can read back.

The file holds, for each key, a name, a salt and the SHA-256 of salt and key. A key is 32 random bytes, so a slow hash
would protect nothing that guessing could reach. The file is read again when it changes: a key is added or taken away
without a restart.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from hanse.errors import InputError

PREFIX = "hanse-"


@dataclass(frozen=True)
class Allowance:
    """What a key may use; None: as much as the server gives.

    Attributes:
        requests_per_minute: questions begun within any 60 seconds.
        concurrent: questions under way at once.
        tokens_per_day: of prompts and answers, from midnight to midnight UTC.
    """

    requests_per_minute: int | None = None
    concurrent: int | None = None
    tokens_per_day: int | None = None


@dataclass(frozen=True)
class Key:
    """An entry of the file.

    Attributes:
        name: whose it is, for the log.
        salt, sha256: in hexadecimal digits.
        created: date, in UTC.
        expires: the last day on which it works, in UTC; None: it does not expire.
        allowance: what it may use.
    """

    name: str
    salt: str
    sha256: str
    created: str
    expires: str | None = None
    allowance: Allowance = Allowance()

    def matches(self, token: bytes) -> bool:
        """Whether this is the key, in a time that does not tell how near a guess was."""
        return hmac.compare_digest(_digest(self.salt, token), self.sha256)

    def is_expired(self) -> bool:
        """Whether its last day is over."""
        return self.expires is not None and date.fromisoformat(self.expires) < datetime.now(UTC).date()


class KeyFile:
    """The keys of a file, as they are now.

    Raises:
        InputError: the file is missing, is readable by others, or holds no keys.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._keys = load(path)
        self._stamp = _stamp(path)

    def find(self, token: bytes) -> Key | None:
        """The entry of a key. Every entry is compared, so the time tells neither which matched nor whether one did."""
        self._refresh()
        found = None
        for key in self._keys:
            if key.matches(token):
                found = key
        return found

    def _refresh(self) -> None:
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keys = load(self._path)
        except InputError as error:
            self._keys = ()  # nobody gets in by breaking the file
            print(f"hanse: {error} No key is accepted until it is mended.", file=sys.stderr, flush=True)


def load(path: Path) -> tuple[Key, ...]:
    """Read a file of keys.

    Raises:
        InputError: the file is missing, is readable by others, or holds no keys.
    """
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such file of keys; make one with: hanse serve --new-key NAME --keys {path}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: the keys cannot be read ({error}).") from None
    if mode & 0o077:
        raise InputError(f"{path}: others may read these keys; run: chmod 600 {path}")
    try:
        return tuple(_entry(each) for each in json.loads(text)["keys"])
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(f"{path}: is no file of keys ({type(error).__name__}: {error}).") from None


def add(path: Path, name: str, *, expires: str | None = None, allowance: Allowance | None = None) -> str:
    """Put a new key into a file, which is made where there is none.

    Returns:
        The key: it is kept nowhere, so this is the only time to see it.

    Raises:
        InputError: the name is taken or unfit, the date is none, a limit is below 1, or the file cannot be written.
    """
    allowance = allowance or Allowance()
    if not re.fullmatch(r"[A-Za-z0-9._@-]{1,64}", name):
        raise InputError(f"--new-key {name}: give a name of 1 to 64 letters, digits and . _ @ -")
    if expires is not None:
        _check_date(expires)
    for each in fields(Allowance):
        value = getattr(allowance, each.name)
        if value is not None and value < 1:
            raise InputError(f"--{each.name.replace('_', '-')} {value}: give 1 or more.")
    token = PREFIX + secrets.token_urlsafe(32)
    salt = secrets.token_hex(16)
    today = datetime.now(UTC).date().isoformat()
    with _locked(path):
        keys = load(path) if path.exists() else ()
        if any(key.name == name for key in keys):
            raise InputError(f"--new-key {name}: {path} has a key of this name; remove it first, or take another.")
        _write(path, (*keys, Key(name, salt, _digest(salt, token.encode()), today, expires, allowance)))
    return token


def remove(path: Path, name: str) -> None:
    """Take a key out of a file; a running server refuses it from its next request on.

    Raises:
        InputError: there is no key of this name, or the file cannot be written.
    """
    with _locked(path):
        keys = load(path)
        left = tuple(key for key in keys if key.name != name)
        if len(left) == len(keys):
            raise InputError(f"--remove-key {name}: {path} has no key of this name.")
        _write(path, left)


def _digest(salt: str, token: bytes) -> str:
    return hashlib.sha256(bytes.fromhex(salt) + token).hexdigest()


def _check_date(text: str) -> None:
    try:
        date.fromisoformat(text)
    except ValueError:
        raise InputError(f"--expires {text}: is no date; write it as 2027-12-31.") from None


def _entry(found: dict[str, Any]) -> Key:
    key = Key(**{**found, "allowance": Allowance(**found.get("allowance", {}))})
    bytes.fromhex(key.salt)
    limits = [getattr(key.allowance, each.name) for each in fields(Allowance)]
    texts = (key.name, key.created, key.expires or "")
    if len(bytes.fromhex(key.sha256)) != 32 or not all(isinstance(text, str) for text in texts):
        raise ValueError("an entry is broken")
    if any(limit is not None and (type(limit) is not int or limit < 1) for limit in limits):
        raise ValueError(f"a limit of {key.name} is no positive number")
    if key.expires is not None:
        date.fromisoformat(key.expires)
    return key


def _write(path: Path, keys: Sequence[Key]) -> None:
    """Replace the file in one step: whoever reads it sees the old one or the new one."""
    text = json.dumps({"keys": [asdict(key) for key in keys]}, indent=1)
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}.draft")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(draft, path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise InputError(f"{path}: the keys cannot be written ({error.strerror}).") from None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Two people who add a key at once both keep theirs."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"{path}: the keys cannot be written ({error.strerror}).") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_mtime_ns, found.st_size, found.st_ino)
