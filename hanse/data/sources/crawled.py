"""What web archives hold of the sites' own files, laid out as `hanse.data.rights.snapshots` reads them.

A crawl keeps robots.txt in any order, often in files of its own, so they are gathered before any page is judged.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hanse.data.rights.paths import site, target
from hanse.data.rights.site_files import PLACES
from hanse.data.rights.snapshots import is_host
from hanse.data.sources.warc import site_files
from hanse.errors import InputError

if TYPE_CHECKING:
    from hanse.recipe import Source

_NAMES = {f"/{place}": name for name, place in PLACES.items()}


def gather_site_files(sources: Sequence[Source], folder: Path) -> Path | None:
    """Lay the site files of all web archives in `<folder>/<host>/<day>/`; None if there is no web archive.

    An archive that was gone through is marked and left alone the next time; several processes may do the same one.

    Raises:
        InputError: an archive cannot be read.
    """
    from hanse.data.sources import find_files

    archives = [path for source in sources if source.kind == "warc" for path, _ in find_files(source)]
    if not archives:
        return None
    for number, path in enumerate(archives):
        mark = folder / f".done-{number:05d}"
        if mark.exists():
            continue
        try:
            site_files(path, lambda url, day, content: _keep(folder, url, day, content))
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror or error}).") from None
        folder.mkdir(parents=True, exist_ok=True)
        mark.touch()
    return folder


def _keep(folder: Path, url: str, day: str, content: bytes) -> None:
    host, name = site(url), _NAMES[target(url) or ""]
    if host is None or not is_host(host) or not day:
        return
    place = folder / host / day
    place.mkdir(parents=True, exist_ok=True)
    draft = place / f".{name}.{os.getpid()}"
    draft.write_bytes(content)
    os.replace(draft, place / name)
