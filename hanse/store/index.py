"""A disposable index over a store, in SQLite: who was made from whom, and digests of files that did not change since.

The truth is in the folders. This file may be deleted at any time; a broken, locked or unwritable one is replaced by an
index in memory.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from hanse.store.digest import sha256_file

T = TypeVar("T")

_SCHEMA = """
create table if not exists node (ref text primary key, stamp text not null);
create table if not exists edge (child text not null, parent text not null, primary key (child, parent)) without rowid;
create index if not exists edge_parent on edge (parent);
create table if not exists digest (path text primary key, stamp text not null, sha256 text not null);
"""
_WALK = """
with recursive reached (ref) as (
    select {to} from edge where {start} = ?
    union
    select {to} from edge join reached on edge.{start} = reached.ref
)
select ref from reached order by ref
"""
#: File systems stamp times by the kernel's tick (up to 10 ms): a file younger than this could change unseen.
_TICK_NANOSECONDS = 50_000_000


@dataclass(frozen=True)
class Node:
    """An artifact for the graph: its name, something that changes with its record, and its inputs."""

    ref: str
    stamp: str
    parents: tuple[str, ...]


class Index:
    """The index of the store at `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / ".index.sqlite"
        self.timeout_seconds = 5.0
        self._connection: sqlite3.Connection | None = None

    def sha256(self, path: Path) -> str:
        """SHA-256 of a file below the root, read again only when its size, times or inode changed.

        For work in progress, where a person may have touched a file; `hanse verify` reads every byte instead.
        """
        status = path.stat()
        stamp = f"{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}:{status.st_ino}"
        key = path.relative_to(self.root).as_posix()
        row = self._try(lambda db: db.execute("select stamp, sha256 from digest where path = ?", (key,)).fetchone())
        if row is not None and row[0] == stamp:
            return str(row[1])
        digest = sha256_file(path)
        if time.time_ns() - status.st_ctime_ns > _TICK_NANOSECONDS:
            self._try(lambda db: db.execute("replace into digest values (?, ?, ?)", (key, stamp, digest)))
        return digest

    def ancestors(self, ref: str, stamps: dict[str, str], read: Callable[[], Iterable[Node]]) -> list[str]:
        """Everything that `ref` was made from, directly or not, sorted.

        Args:
            ref: `kind/name/version`.
            stamps: ref -> stamp of each node there is now.
            read: gives all nodes; called only when the stamps differ from those kept.
        """
        return self._walk(_WALK.format(start="child", to="parent"), ref, stamps, read)

    def descendants(self, ref: str, stamps: dict[str, str], read: Callable[[], Iterable[Node]]) -> list[str]:
        """Everything that was made from `ref`, directly or not, sorted. Arguments as for `ancestors`."""
        return self._walk(_WALK.format(start="parent", to="child"), ref, stamps, read)

    def close(self) -> None:
        """Let go of the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _walk(self, query: str, ref: str, stamps: dict[str, str], read: Callable[[], Iterable[Node]]) -> list[str]:
        while True:
            self._refresh(stamps, read)
            used = self._connection
            rows = self._try(lambda db: db.execute(query, (ref,)).fetchall())
            if self._connection is used:  # else the file broke in between, and the new index is still empty
                return [str(row[0]) for row in rows]

    def _refresh(self, stamps: dict[str, str], read: Callable[[], Iterable[Node]]) -> None:
        kept = self._try(lambda db: dict(db.execute("select ref, stamp from node").fetchall()))
        if kept == stamps:
            return
        nodes = list(read())

        def fill(db: sqlite3.Connection) -> None:
            with db:
                db.execute("begin immediate")
                db.execute("delete from node")
                db.execute("delete from edge")
                db.executemany("insert into node values (?, ?)", [(n.ref, n.stamp) for n in nodes])
                edges = {(n.ref, parent) for n in nodes for parent in n.parents}
                db.executemany("insert into edge values (?, ?)", sorted(edges))

        self._try(fill)

    def _try(self, use: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return use(self._open())
        except sqlite3.OperationalError:  # locked, read-only, full
            self._forget(delete=False)
        except sqlite3.DatabaseError:  # not a database, or a damaged one
            self._forget(delete=True)
            with suppress(sqlite3.DatabaseError):
                return use(self._open())
            self._forget(delete=False)
        self._connection = self._prepare(":memory:")
        return use(self._connection)

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = self._prepare(str(self.path))
        return self._connection

    def _prepare(self, path: str) -> sqlite3.Connection:
        connection = sqlite3.connect(path, timeout=self.timeout_seconds, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("pragma synchronous = off")
            connection.executescript(_SCHEMA)
        except sqlite3.DatabaseError:
            connection.close()
            raise
        return connection

    def _forget(self, *, delete: bool) -> None:
        self.close()
        if delete:
            for suffix in ("", "-journal", "-wal", "-shm"):
                with suppress(OSError):
                    self.path.with_name(self.path.name + suffix).unlink()
