"""`hanse trace`: which documents a text stands in."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from hanse.errors import InputError

if TYPE_CHECKING:
    from hanse.console import Console
    from hanse.store.stage import Artifact, Store
    from hanse.trace.index import Index

#: A text that is longer is asked about in parts.
LARGEST_QUERY_BYTES = 8 * 2**20
#: What indexing managed on two cores (bench/results/trace.json); for the estimate alone.
_INDEXED_PER_SECOND = 8e6
#: Kinds that a bare name may mean, the first that there is.
_NAMED = ("release", "model", "dataset", "conversations")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `hanse trace`."""
    parser.add_argument("text", nargs="?", metavar="TEXT", help="what to look for (default: --file, or stdin)")
    parser.add_argument("--file", type=Path, metavar="F", help="look for the text of a file; - is stdin")
    parser.add_argument(
        "--in", dest="within", metavar="REF", help="whose training text to look through (default: newest release)"
    )
    parser.add_argument(
        "--min-bytes", type=int, default=30, metavar="N", help="shortest passage, in bytes of UTF-8 (default: 30)"
    )
    parser.add_argument("--limit", type=int, default=10, metavar="N", help="passages to show (default: 10)")


def run(options: argparse.Namespace) -> int:
    """Find the passages, and print them with their documents. Makes the index first where there is none."""
    query = _query(options)
    from hanse.store.stage import Store
    from hanse.trace import printed, search

    if options.min_bytes < search.LEAST_BYTES:
        raise InputError(f"--min-bytes {options.min_bytes}: give {search.LEAST_BYTES} or more; less stands everywhere.")
    if options.limit < 1:
        raise InputError(f"--limit {options.limit}: give a number of passages to show, 1 or more.")
    size = len(query.encode("utf-8"))
    if size < options.min_bytes:
        raise InputError(
            f"the text to trace has {size} bytes, and passages of {options.min_bytes} or more are looked for; give "
            f"more text, or a lower --min-bytes."
        )
    store = Store.open(options.store, create=False)
    what = _named(store, options.within)
    indexes = _indexes(store, what)
    traced = search.trace(indexes, query, min_bytes=options.min_bytes, limit=options.limit, trim=True)
    if options.json:
        told = printed.as_dict(traced, indexes, what=what.ref, min_bytes=options.min_bytes)
        print(json.dumps(told, indent=1, ensure_ascii=False))
    else:
        print(printed.text(traced, indexes, what=what.ref, min_bytes=options.min_bytes))
    return 0


def _query(options: argparse.Namespace) -> str:
    """The text that was asked about."""
    if options.text is not None and options.file is not None:
        raise InputError("both TEXT and --file are given; give one of them.")
    if options.text is not None:
        name, content = "TEXT", options.text.encode("utf-8", "surrogateescape")
    elif options.file is None and sys.stdin.isatty():
        raise InputError('nothing to trace; write it after the verb in quotes, or name a file: hanse trace "some text"')
    elif options.file is None or str(options.file) == "-":
        name, content = "stdin", sys.stdin.buffer.read(LARGEST_QUERY_BYTES + 1)
    else:
        name = str(options.file)
        try:
            with options.file.open("rb") as file:
                content = file.read(LARGEST_QUERY_BYTES + 1)
        except OSError as error:
            raise InputError(f"--file {options.file}: cannot be read ({error.strerror}).") from None
    if len(content) > LARGEST_QUERY_BYTES:
        raise InputError(f"{name}: is longer than {LARGEST_QUERY_BYTES:,} bytes; trace it in parts.")
    if b"\0" in content:
        raise InputError(f"{name}: holds the byte 0 at {content.index(0):,}, so it is no text; give text in UTF-8.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: byte {error.start + 1:,} is not UTF-8; give text in UTF-8.") from None
    if not text.strip():
        raise InputError(f"{name}: is empty; give some text to trace.")
    return text


def _named(store: Store, name: str | None) -> Artifact:
    """What a person means: `kind/name[/version]`, a bare name, or the newest release, else the newest model."""
    if name is not None and "/" in name:
        return store.find(name)
    found = list(store.artifacts())
    if name is not None:
        kinds = {artifact.kind for artifact in found if artifact.name == name}
        return store.find(next((f"{kind}/{name}" for kind in _NAMED if kind in kinds), f"release/{name}"))
    for kind in _NAMED:
        made = [artifact for artifact in found if artifact.kind == kind]
        if made:
            return max(made, key=lambda artifact: artifact.record["predicate"]["runDetails"]["metadata"]["finishedOn"])
    raise InputError(f"{store.root}: holds no text and no model yet; make one with: hanse run")


def _indexes(store: Store, what: Artifact) -> list[Index]:
    """The indexes of all text behind an artifact; says before and after what making one takes."""
    from hanse.console import Console
    from hanse.trace.index import find_index
    from hanse.trace.texts import behind

    console = Console()
    found = []
    for artifact in behind(store, what):
        index = find_index(store, artifact)
        found.append(index if index is not None else _make(store, artifact, console))
    return found


def _make(store: Store, artifact: Artifact, console: Console) -> Index:
    from hanse.console import duration
    from hanse.report.plain import size
    from hanse.trace.index import DISK_PER_BYTE, build, open_index
    from hanse.trace.suffix_array import MEMORY_PER_BYTE, shard_limit
    from hanse.trace.texts import size_of

    about = size_of(artifact)
    memory = int(MEMORY_PER_BYTE * min(about, shard_limit()))
    console.say(
        f"indexing {artifact.ref}, once: {size(about)} of text, about {duration(max(1, about / _INDEXED_PER_SECOND))}, "
        f"{size(DISK_PER_BYTE * about)} on disk and {size(memory)} of memory"
    )
    started = time.monotonic()
    folder = build(artifact, store, console.progress)
    index = open_index(folder)
    taken = sum(path.stat().st_size for path in folder.iterdir())
    console.say(
        f"indexed {size(index.bytes)} in {duration(time.monotonic() - started)}; {size(taken)} in {folder}, "
        f"which may be deleted"
    )
    return index
