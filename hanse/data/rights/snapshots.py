"""Site files kept from known days: `<folder>/<host>/<YYYY-MM-DD>/robots.txt`, `tdmrep.json`, `ai.txt`, `rsl.xml`.

The files of every day count for every page of the host, so what a site says today also speaks for a page crawled years
ago. An empty file says that the site was asked and has none. The evidence names the content by its SHA-256.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import re
import stat
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hanse.data.rights.evidence import Evidence, observed
from hanse.data.rights.paths import site
from hanse.data.rights.robots import MAX_BYTES
from hanse.data.rights.signals import by_kind
from hanse.data.rights.site_files import PLACES, SiteFiles
from hanse.errors import InputError

# Parsed hosts are kept up to this weight, about one unit a rule or 64 bytes of file: some 200 MB at worst.
MAX_WEIGHT = 400_000
MAX_DAYS = 366  # of one host
_HOST = re.compile(r"[a-z0-9_-][a-z0-9._-]*(?::[0-9]{1,5})?")
_KINDS = {"robots.txt": "robots.txt", "tdmrep.json": "tdmrep-file", "ai.txt": "ai.txt", "rsl.xml": "rsl-file"}


def is_host(name: str) -> bool:
    """Whether a host, as `paths.site` spells it, can be a folder here."""
    return _HOST.fullmatch(name) is not None


@dataclass
class _Host:
    """What one host said: its files of every sound day, and the evidence of what could not be used."""

    days: list[SiteFiles] = field(default_factory=list)
    faults: list[Evidence] = field(default_factory=list)

    @property
    def weight(self) -> int:
        return 1 + len(self.faults) + sum(files.weight for files in self.days)


class Snapshots:
    """A folder of site files, read host by host when a URL asks for it.

    Args:
        folder: the root, or None for no snapshots at all.
        day: the reference day, ISO 8601, normally that of the build; no clock is read. Files from after it are
            "unclear", because a date that cannot be true says nothing about its file.
    """

    def __init__(self, folder: Path | None, *, day: str) -> None:
        self._folder, self._day = folder, day
        self._hosts: OrderedDict[str, _Host] = OrderedDict()
        self._weight = 0

    @classmethod
    def load(cls, folder: Path | None, *, day: str) -> Snapshots:
        """Snapshots from a folder.

        Raises:
            InputError: the folder is not there, or the reference day is no day.
        """
        if not _is_day(day):
            raise InputError(f"snapshots: the reference day '{day}' is not a day such as 2026-11-20; correct it.")
        if folder is not None and not folder.is_dir():
            raise InputError(f"{folder}: no such folder of site files; fetch some, or leave the key out.")
        return cls(folder, day=day)

    def evidence(self, url: str) -> list[Evidence]:
        """What the site of a URL said about it on every day that is kept, oldest first; nothing for an unknown site."""
        name = site(url)
        if name is None or self._folder is None or not is_host(name):
            return []
        host = self._host(name)
        return [*host.faults, *(evidence for files in host.days for evidence in files.evidence(url))]

    def digest(self) -> str:
        """SHA-256 over the names and contents of all files that are read: it changes when any evidence can."""
        total = hashlib.sha256(self._day.encode())
        if self._folder is not None:
            for host in _names(self._folder):
                for day in _names(self._folder / host):
                    for name in PLACES:
                        content = _content(self._folder / host / day / name)
                        if content is not None:
                            said = "unreadable" if isinstance(content, str) else hashlib.sha256(content).hexdigest()
                            total.update(f"{host}/{day}/{name}\0{said}\n".encode("utf-8", "surrogateescape"))
        return total.hexdigest()

    def _host(self, name: str) -> _Host:
        if name in self._hosts:
            self._hosts.move_to_end(name)
            return self._hosts[name]
        host = self._read(name)
        self._hosts[name] = host
        self._weight += host.weight
        while self._weight > MAX_WEIGHT and len(self._hosts) > 1:
            _, oldest = self._hosts.popitem(last=False)
            self._weight -= oldest.weight
        return host

    def _read(self, name: str) -> _Host:
        assert self._folder is not None
        host = _Host()
        days = list(_names(self._folder / name))
        for day in days[-MAX_DAYS:]:
            trouble = "" if _is_day(day) else "bad-date"
            if not trouble and day > self._day:
                trouble = "future-date"
            files: dict[str, bytes] = {}
            for file in PLACES:
                content = _content(self._folder / name / day / file)
                if isinstance(content, bytes) and not trouble:
                    files[file] = content
                elif content is not None:
                    problem = trouble or (content if isinstance(content, str) else "")
                    host.faults.append(_fault(name, day, file, content, problem))
            if files:
                host.days.append(SiteFiles(name, files, seen=day))
        return host


def _fault(host: str, day: str, file: str, content: bytes | str, trouble: str) -> Evidence:
    """A file that cannot be used, as evidence that is neither yes nor no."""
    kind = _KINDS[file]
    return observed(
        kind, "unclear", f"{day}/{file}", place=f"https://{host}/{PLACES[file]}", seen="",
        parser=by_kind()[kind].parser, trouble=trouble,
        file_digest=hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else "",
    )  # fmt: skip


def _content(path: Path) -> bytes | str | None:
    """A file's bytes, one word for why they cannot be had, or None where there is no such file.

    No more is read than shows that the file is too long; its digest then covers what was read.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return "unreadable"  # a pipe would wait for ever
        with open(path, "rb") as file:
            return file.read(16 * MAX_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        return "unreadable"


def _names(folder: Path) -> Iterator[str]:
    """What a folder holds, sorted; nothing where there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            yield from sorted(entry.name for entry in entries)
    except OSError:
        return


def _is_day(text: str) -> bool:
    if len(text) != 10:
        return False
    try:
        return datetime.date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
