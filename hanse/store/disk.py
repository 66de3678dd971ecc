"""Making files last through a power cut, and telling a person when there is no room for them."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from hanse.errors import InputError

_FULL = (errno.ENOSPC, errno.EDQUOT)


def fsync_file(path: Path) -> None:
    """Wait until a file's bytes are on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_folder(path: Path) -> None:
    """Wait until a folder's entries are on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_tree(folder: Path) -> None:
    """Wait until every file and folder below is on the disk, the inner ones first."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            fsync_file(Path(parent) / name)
        fsync_folder(Path(parent))


def write_whole(place: Path, content: bytes, *, root: Path, what: str) -> None:
    """Put a file beside the artifacts of a store, whole or not at all; one that is there is replaced.

    Args:
        place: the file; folders above it are made.
        root: of the store.
        what: the file is, for a person.

    Raises:
        InputError: no room, or no right to write.
    """
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=".new-", dir=place.parent)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
            os.chmod(temporary, 0o644)
            fsync_file(Path(temporary))
            os.replace(temporary, place)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        fsync_folder(place.parent)
        fsync_folder(root)
    except OSError as error:
        raise full_disk(error, root, what, place.parent) or InputError(
            f"{place}: cannot be written ({error.strerror})."
        ) from None


def remove_empty_parents(folder: Path, top: Path) -> None:
    """Remove `folder` and the folders above it, up to but without `top`, while they are empty."""
    with suppress(OSError):
        while folder != top and top in folder.parents:
            folder.rmdir()
            folder = folder.parent


def full_disk(error: BaseException, root: Path, ref: str, folder: Path) -> InputError | None:
    """The sentence for a full disk, or None when that is not what went wrong.

    Libraries wrap the operating system's error in their own types (safetensors, pyarrow, torch), so the chain of causes
    and the text are searched too.
    """
    if isinstance(error, InputError) or not is_full_disk(error):
        return None
    written = sum(f.lstat().st_size for f in folder.rglob("*") if f.is_file()) if folder.is_dir() else 0
    try:
        free = _size(shutil.disk_usage(root).free)
    except OSError:
        free = "an unknown amount"
    return InputError(
        f"{root}: no space left while making {ref}, which needs more than the {_size(written)} written so far "
        f"({free} is free); make room and run the same command again."
    )


def is_full_disk(error: BaseException | None) -> bool:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        if os.strerror(errno.ENOSPC) in str(error):  # torch's CheckpointException is no Exception
            return True
        error = error.__cause__ or error.__context__
    return False


def _size(size: float) -> str:
    for unit in ("bytes", "KB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
