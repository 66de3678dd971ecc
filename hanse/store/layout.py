"""Where things lie in a store, what they may be called, and how a store begins."""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path

from hanse.errors import InputError
from hanse.store.disk import fsync_file, fsync_folder, full_disk

FORMAT = 1
MARKER = "store.json"
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")


def begin(root: Path, create: bool) -> None:
    """Make an empty or absent folder a store; complain when it holds something else, or when not to `create`."""
    try:
        if root.is_dir() and any(not entry.name.startswith(f".{MARKER}") for entry in root.iterdir()):
            raise InputError(f"{root}: is not a store, and not empty; name another folder with --store.")
        if not create:
            raise InputError(f"{root}: no store here; name one with --store, or make one with: hanse run")
        root.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{MARKER}.", dir=root)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(json.dumps({"format": "hanse store", "version": FORMAT}) + "\n")
        os.chmod(temporary, 0o644)
        fsync_file(Path(temporary))
        os.replace(temporary, root / MARKER)
        fsync_folder(root)
    except OSError as error:
        raise full_disk(error, root, "a store", root) or InputError(
            f"{root}: cannot be made a store ({error.strerror}); name another folder with --store."
        ) from None


def check_format(root: Path, text: str) -> None:
    """Refuse a `store.json` of another format. Raises InputError that names both versions."""
    try:
        version = json.loads(text)["version"]
    except (ValueError, LookupError, TypeError):
        raise InputError(f"{root / MARKER}: is damaged; restore it, or name another folder with --store.") from None
    if version != FORMAT:
        raise InputError(
            f"{root}: is a store of format {version}, but this Hanse reads format {FORMAT}; use the Hanse that "
            f"made it, or name another folder with --store."
        )


def parts_of(ref: str, *, wanted: tuple[int, ...]) -> tuple[str, ...]:
    """The parts of `kind/name[/version]`. Raises InputError unless there are as many as wanted, all of them plain."""
    parts = tuple(ref.split("/"))
    if len(parts) not in wanted:
        form = "kind/name/version" if wanted == (3,) else "kind/name or kind/name/version"
        raise InputError(f"'{ref}' does not name an artifact; write {form}, for example model/atlas.")
    for part in parts:
        if _NAME.fullmatch(part) is None:
            raise InputError(
                f"'{ref}': '{part}' is no name; use letters, digits, '.', '_' and '-', not beginning with a dot."
            )
    return parts


def natural(text: str) -> list[tuple[int, int, str]]:
    """A sort key by which version 10 follows version 9."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"([0-9]+)", text) if part]
