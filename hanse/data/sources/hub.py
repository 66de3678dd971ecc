"""Datasets of the Hugging Face Hub, by name and pinned to a commit, through the hub's own client.

A commit is what makes a name mean the same tomorrow: a branch moves. The files are fetched once into a folder of their
own under the cache, checked against the digests that the hub lists, and written down in SHA256SUMS, which is the last
file to appear: where it stands, nothing is asked of the network again.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanse.errors import InputError

if TYPE_CHECKING:
    from hanse.recipe import Source

SUMS = "SHA256SUMS"
PARQUET = (".parquet",)
JSONL = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz", ".jsonl.zst", ".ndjson.zst")
_SAFE_NAME = re.compile(r"[^/\x00-\x1f\x7f][^\x00-\x1f\x7f]{0,1000}")


def cache_folder() -> Path:
    """Where fetched datasets lie: $HANSE_CACHE, else `hanse` in the user's cache folder."""
    chosen = os.environ.get("HANSE_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hanse"


def find_files(source: Source) -> list[tuple[Path, str]]:
    """The dataset's files, fetched if they are not there yet, each with its name in the dataset, sorted.

    Raises:
        InputError: the client is not installed, the hub cannot be reached, or it holds no such dataset, commit or file.
    """
    folder = cache_folder() / "hub" / source.path / source.revision
    if not (folder / SUMS).is_file():
        _fetch(source, folder)
    names = _chosen([name for _, name in _recorded(folder)], source)
    return [(folder / name, name) for name in names]


def digests(source: Source) -> dict[str, str]:
    """SHA-256 by file name, as recorded when the dataset was fetched."""
    folder = cache_folder() / "hub" / source.path / source.revision
    chosen = {name for _, name in find_files(source)}
    return {name: digest for digest, name in _recorded(folder) if name in chosen}


def _recorded(folder: Path) -> list[tuple[str, str]]:
    lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    return [(digest, name) for digest, _, name in (line.partition("  ") for line in lines)]


def _chosen(names: list[str], source: Source) -> list[str]:
    """The files that `files` of the source asks for, of one format."""
    chosen = sorted(name for name in names if fnmatch.fnmatchcase(name, source.files or "*"))
    by_format = {form: [name for name in chosen if name.lower().endswith(form)] for form in (PARQUET, JSONL)}
    found = [names for names in by_format.values() if names]
    what = f"source '{source.name}': the dataset {source.path}"
    if not found:
        hint = f' that fits files = "{source.files}"' if source.files else ""
        raise InputError(f"{what} holds no Parquet or JSON lines file{hint}; look at its file list on the hub.")
    if len(found) > 1:
        raise InputError(
            f'{what} holds both Parquet and JSON lines; say which with files, for example files = "*.parquet".'
        )
    return found[0]


def _client() -> Any:
    """The hub's client, with its telemetry and its progress bars off."""
    os.environ.update(HF_HUB_DISABLE_TELEMETRY="1", DO_NOT_TRACK="1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        import huggingface_hub
    except ImportError:
        raise InputError("kind hub: huggingface_hub is not installed; pip install 'hanse[hub]'.") from None
    return huggingface_hub


def _fetch(source: Source, folder: Path) -> None:
    """Download what the source asks for and record it; a failure leaves no SHA256SUMS behind."""
    hub = _client()
    place = {"repo_type": "dataset", "revision": source.revision}
    endpoint = os.environ.get("HF_ENDPOINT") or None  # the client itself reads it once, at import
    try:
        listed = hub.HfApi(endpoint=endpoint).list_repo_tree(source.path, recursive=True, **place)
        entries = {entry.path: entry for entry in listed if hasattr(entry, "blob_id")}
        names = _chosen(list(entries), source)
        for name in names:
            if not _SAFE_NAME.fullmatch(name) or ".." in name.split("/"):
                raise InputError(
                    f"source '{source.name}': {source.path} lists the file {name!r}, which leads elsewhere."
                )
        sums = []
        for name in names:
            path = Path(hub.hf_hub_download(source.path, name, local_dir=folder, endpoint=endpoint, **place))
            digest = _digest(path)
            large = entries[name].lfs
            if large is not None and large.sha256 != digest:
                path.unlink()
                raise InputError(
                    f"source '{source.name}': {name} of {source.path} arrived with another content than the hub lists; "
                    "run again to fetch it anew."
                )
            sums.append(f"{digest}  {name}\n")
    except InputError:
        raise
    except Exception as error:  # the client's own, its HTTP library's, or the system's
        raise InputError(f"source '{source.name}': {_why(error, source)}") from None
    draft = folder / f".{SUMS}.{os.getpid()}"
    draft.write_text("".join(sums), encoding="utf-8")
    os.replace(draft, folder / SUMS)


def _why(error: Exception, source: Source) -> str:
    from huggingface_hub import errors

    name = f"{source.path} at {source.revision[:12]}"
    if isinstance(error, errors.GatedRepoError):
        return f"{source.path} is gated; accept its terms on the hub and log in with `hf auth login`."
    if isinstance(error, errors.RevisionNotFoundError):
        return f"the dataset {source.path} has no commit {source.revision}; copy it from the dataset's history."
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"the hub holds no dataset {source.path}, or not for you; correct path, or log in with `hf auth login`."
    if isinstance(error, errors.OfflineModeIsEnabled | errors.LocalEntryNotFoundError):
        return f"{name} is not in {cache_folder()}, and HF_HUB_OFFLINE is set; run once where the hub can be reached."
    if isinstance(error, OSError) and not isinstance(error, errors.HfHubHTTPError) and error.strerror:
        return f"{name} could not be written to {cache_folder()} ({error.strerror})."
    reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
    return f"{name} could not be fetched ({reason}); check the network and run again: what arrived is kept."


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
