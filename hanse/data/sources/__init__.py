"""Strict, streaming readers of everything that text comes in; one file of this folder for each kind.

Every record becomes a row of the fixed schema or a fault with its place and reason; nothing is guessed, nothing is
lost without a word, and memory is bounded by one document. Files are read in sorted order, so a source always reads
alike, and each by itself, so that any process can read any of them.
"""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanse.data.schema import BadRecord, Defaults, check_record
from hanse.data.sources import archive, hub, jsonl, parquet, text
from hanse.data.sources.jsonl import jsonl_records
from hanse.data.sources.records import BrokenFile, DamagedFile, Fault, Found
from hanse.data.sources.stream import opened
from hanse.errors import InputError

if TYPE_CHECKING:
    from hanse.recipe import Source

__all__ = ["BrokenFile", "DamagedFile", "Fault", "digests", "find_files", "jsonl_records", "read", "read_file"]

SUFFIXES = {
    "jsonl": (*hub.JSONL, *archive.SUFFIXES),
    "conversations": hub.JSONL,
    "parquet": hub.PARQUET,
    "text": (".txt", ".md", ".markdown", *archive.SUFFIXES),
    "html": (".html", ".htm", ".xhtml", *archive.SUFFIXES),
    "tei": (".xml", ".tei", *archive.SUFFIXES),
    "warc": (".warc", ".warc.gz", ".warc.zst"),
}


def read(
    source: Source,
    *,
    languages: tuple[str, ...],
    seed: int,
    on_fault: Callable[[Fault], None],
    day: str = "",
) -> Iterator[dict[str, Any]]:
    """Every document of a source, in a fixed order: `read_file` for each of `find_files`.

    Raises:
        InputError: the path matches nothing, a file cannot be opened, or the source holds no document at all.
    """
    first_fault: list[Fault] = []

    def report(fault: Fault) -> None:
        if not first_fault:
            first_fault.append(fault)
        on_fault(fault)

    count = 0
    for path, name in find_files(source):
        for row in read_file(source, path, name, languages=languages, seed=seed, on_fault=report, day=day):
            count += 1
            yield row
    if not count:
        where = source.path or "the atlas"
        if first_fault:
            fault = first_fault[0]
            place = f"{fault.file}, line {fault.line}" if fault.line else fault.file
            raise InputError(f"source '{source.name}': no document in {where} could be read; {place}: {fault.detail}.")
        raise InputError(f"source '{source.name}': {where} is empty; give a source that holds documents.")


def read_file(
    source: Source,
    path: Path | None,
    name: str,
    *,
    languages: tuple[str, ...],
    seed: int,
    on_fault: Callable[[Fault], None],
    day: str = "",
) -> Iterator[dict[str, Any]]:
    """Every document of one file, in a fixed order, whatever other files the source has.

    Args:
        source: a [[source]] of the recipe.
        path: one of `find_files`; None for the atlas.
        name: the name that goes with it.
        languages: what the atlas is asked to write; other kinds are read whole.
        seed: of the atlas.
        on_fault: called with each record that goes to quarantine, and once for a file that breaks off.
        day: ISO 8601 day after which nothing can have been retrieved; "" for no such day.

    Yields:
        Rows with the text, the ORIGIN columns of `hanse.data.schema`, `bytes`, `flags` and `evidence`.

    Raises:
        InputError: the file cannot be opened, or does not match its own checksum.
    """
    defaults = Defaults(
        source=source.name,
        licence=source.licence,
        licence_basis=source.licence_basis,
        jurisdiction=source.jurisdiction,
        rights_holder=source.rights_holder,
        reservation=source.reservation,
        day=day,
    )
    seen: set[int] = set()
    try:
        for line, record, evidence, member in _found(source, path, name, languages, seed):
            file = f"{name}/{member}" if member else name
            try:
                if isinstance(record, BadRecord):
                    raise record
                row = check_record(record, defaults, evidence)
                if row["source_id"] is None:
                    row["source_id"] = f"{file}:{line}"
                else:
                    _remember(row["source_id"], member, seen)
            except BadRecord as fault:
                on_fault(Fault(source.name, file, line, fault.reason, fault.detail))
                continue
            row["file"], row["line"] = file, line
            yield row
    except BrokenFile as error:
        on_fault(Fault(source.name, name, 0, "broken-file", str(error)))
    except DamagedFile as error:
        raise InputError(f"source '{source.name}': {error}") from None
    except FileNotFoundError:
        raise InputError(f"source '{source.name}': {path} has vanished; bring it back and run again.") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"source '{source.name}': {path} cannot be read ({reason}).") from None


def find_files(source: Source) -> list[tuple[Path, str]]:
    """The files of a source in sorted order, each with its name relative to the source's path.

    The atlas counts as one file of that name. A hub dataset is fetched if it is not there yet.

    Raises:
        InputError: nothing there.
    """
    if source.kind == "atlas":
        return [(Path("atlas"), "atlas")]
    if source.kind == "hub":
        return hub.find_files(source)
    path = source.path
    suffixes = SUFFIXES[source.kind]
    if os.path.isdir(path):
        root = Path(path)
        found = [file for file in root.rglob("*") if file.is_file() and file.name.lower().endswith(suffixes)]
        nothing = f"the folder {path} holds no {' or '.join(suffixes)} file"
    elif glob.has_magic(path) and not os.path.lexists(path):
        root = _fixed_part(path)
        found = [Path(name) for name in glob.glob(path, recursive=True) if os.path.isfile(name)]
        nothing = f"no file matches {path}"
    else:
        root = Path(path).parent
        found = [Path(path)] if os.path.isfile(path) else []
        nothing = f"{path} does not exist"
    if not found:
        raise InputError(
            f"source '{source.name}': {nothing}; correct the path in the recipe, or give another, for example "
            "--set source.0.path='my/documents/*.jsonl.gz'."
        )
    return sorted(((file, file.relative_to(root).as_posix()) for file in found), key=lambda pair: pair[1])


def digests(source: Source) -> dict[str, str]:
    """SHA-256 of the source's files by name: what its text is, wherever the files lie. The atlas has none.

    Raises:
        InputError: nothing there, or a file that cannot be read.
    """
    if source.kind == "atlas":
        return {}
    if source.kind == "hub":
        return hub.digests(source)
    found = {}
    for path, name in find_files(source):
        try:
            with path.open("rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise InputError(f"source '{source.name}': {path} cannot be read ({error.strerror}).") from None
    return found


def _found(
    source: Source,
    path: Path | None,
    name: str,
    languages: tuple[str, ...],
    seed: int,
) -> Iterator[Found]:
    """Unchecked records, by the reader of the source's kind."""
    if source.kind == "atlas":
        from hanse.data import atlas

        for number, document in enumerate(atlas.documents(languages, seed), start=1):
            yield Found(number, document)
        return
    assert path is not None
    if source.kind == "parquet" or (source.kind == "hub" and name.lower().endswith(hub.PARQUET)):
        yield from parquet.records(path)
    elif source.kind == "warc":
        from hanse.data.sources import warc

        yield from warc.records(path, extractor=source.extractor)
    elif source.kind in ("jsonl", "text", "html", "tei") and archive.is_archive(name):
        suffixes = tuple(suffix for suffix in SUFFIXES[source.kind] if suffix not in archive.SUFFIXES)
        yield from archive.records(path, _reader(source), suffixes)
    else:
        with opened(path) as stream:
            yield from _reader(source)(stream, name)


def _reader(source: Source) -> archive.Reader:
    if source.kind == "html":
        from hanse.data.sources import html

        return partial(html.records, extractor=source.extractor)
    if source.kind == "tei":
        from hanse.data.sources import tei

        return tei.records
    return text.records if source.kind == "text" else jsonl.records


def _remember(identity: str, member: str, seen: set[int]) -> None:
    """Refuse an id that the file has used before. In an archive every member is a file."""
    # 64 bits are enough here: a false alarm among 10^8 documents has a chance of 0.03 %.
    key = int.from_bytes(hashlib.blake2b(f"{member}\0{identity}".encode(), digest_size=8).digest())
    if key in seen:
        raise BadRecord("duplicate-id", f"the id '{identity[:80]}' was used before")
    seen.add(key)


def _fixed_part(pattern: str) -> Path:
    """The folders before the first wildcard."""
    parts = Path(pattern).parts
    fixed = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    return Path(*parts[:fixed]) if fixed else Path()
