"""What a stage is given to make an artifact with, and the closing of it: hash, record, seal, fsync."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hanse.store import record as records
from hanse.store.digest import RECORD, RUN, SEALS, SUMS, exact_json, files_of, is_summed, sha256_file, sums_text
from hanse.store.disk import fsync_tree

Seal = Callable[[Path, Mapping[str, str]], None]


class Work:
    """What a stage is given to make an artifact with.

    Attributes:
        folder: write the artifact's files here. Nothing with a time, duration, host or path in it.
        run: a folder for byproducts that may hold such things, for example `metrics.jsonl`.
    """

    def __init__(self, folder: Path, scratch: Path, ref: str) -> None:
        self.folder = folder
        self.run = folder / RUN
        self.ref = ref
        self.facts: dict[str, Any] = {}
        self.seals: dict[str, Seal] = {}
        self._scratch = scratch
        self.run.mkdir(parents=True)

    @property
    def scratch(self) -> Path:
        """A folder that survives kill -9, for checkpoints: the next run with this definition and inputs finds it."""
        self._scratch.mkdir(parents=True, exist_ok=True)
        return self._scratch

    def note(self, **facts: object) -> None:
        """Add facts to the record: counts, `tokens`, `bytes`, `flop`, `energy_wh`, `seconds`.

        Raises:
            TypeError, ValueError: a value that JSON cannot carry.
        """
        self.facts.update(exact_json(facts, "note"))

    def seal(self, name: str, write: Seal) -> None:
        """Have `write(folder, digests)` called last, to lay the file `name` over everything else, record included.

        Args:
            name: one of `hanse.store.digest.SEALS`.
            write: given the folder and the SHA-256 of every file in it, by path.
        """
        if name not in SEALS:
            raise ValueError(f"{name} is no seal; known: {', '.join(SEALS)}")
        self.seals[name] = write


def finish(work: Work, definition: Mapping[str, Any], inputs: tuple[records.Input, ...], started: str) -> None:
    """Hash, record, seal and fsync the folder of a stage that is done; all that is left is to rename it.

    Raises:
        ValueError: the stage wrote nothing, or what belongs to the store.
        InputError: a link, a special file, or a file name that sums cannot carry.
    """
    if work.run.is_dir() and not any(work.run.iterdir()):
        work.run.rmdir()
    digests = {name: sha256_file(work.folder / name) for name in files_of(work.folder)}
    taken = [name for name in digests if not is_summed(name) and not name.startswith(f"{RUN}/")]
    if taken:
        raise ValueError(f"{work.ref}: the stage wrote {taken[0]}, which belongs to the store")
    sums = {name: digest for name, digest in digests.items() if is_summed(name)}
    if not sums:
        raise ValueError(f"{work.ref}: the stage wrote no file")
    byproducts = {name: digest for name, digest in digests.items() if name not in sums}
    record = records.statement(
        work.ref,
        sums,
        definition=definition,
        inputs=inputs,
        byproducts=byproducts,
        facts=work.facts,
        started=started,
        seals=tuple(work.seals),
    )
    for name, text in ((SUMS, sums_text(sums)), (RECORD, records.to_text(record))):
        (work.folder / name).write_text(text, encoding="utf-8", newline="\n")
        digests[name] = sha256_file(work.folder / name)
    for write in work.seals.values():
        write(work.folder, digests)
    if set(files_of(work.folder)) != {*digests, *work.seals}:
        raise ValueError(f"{work.ref}: a seal has to write its own file and no other")
    fsync_tree(work.folder)
