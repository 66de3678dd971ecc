"""Curation in parts: each is some files of a source, annotated on its own, by any process, in any order.

A part leaves `<number>.parquet` (its documents), `<number>.evidence.parquet`, `<number>.faults.jsonl` and, last of all,
its line of the manifest, `<number>.json`. A part whose line is there is not read again: so curation resumes, and so the
tasks of a Slurm array share the work.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from hanse.data.annotate import Annotator
from hanse.data.rights.evidence import EVIDENCE, Evidence
from hanse.data.schema import INGEST
from hanse.data.sources import Fault, find_files, read_file
from hanse.data.sources.crawled import gather_site_files
from hanse.errors import InputError
from hanse.store.disk import fsync_folder

if TYPE_CHECKING:
    from hanse.recipe import Curate, Source

Progress = Callable[[str, int, int | None], None]

PART_BYTES = 8 * 2**20  # of source files in one part, or more where that would make too many; a larger file is its own
PART_FILES = 10_000
_MANY_PARTS = 1 << 14
BATCH_BYTES = 4 * 2**20  # of text annotated at a time
BATCH_DOCUMENTS = 2048
HOPELESS_FAULTS = 10_000  # enough to judge a source before its end
# An ordinal is part and row in one number; `dedup.rank` has 44 bits for it.
ROW_BITS = 28
_MOST_PARTS = 1 << 16


@dataclass(frozen=True)
class Part:
    """Files of one source that are read together: (path, name relative to the source); none for the atlas."""

    number: int
    source: int
    files: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Job:
    """Everything that decides what a part becomes; it travels to worker processes."""

    sources: tuple[Source, ...]
    settings: Curate
    languages: tuple[str, ...]
    seed: int

    def annotator(self, folder: Path) -> Annotator:
        """What annotates the parts in `folder`."""
        crawled = gather_site_files(self.sources, folder / "site_files")
        return Annotator(self.sources, self.settings, self.languages, crawled)


def plan(sources: Sequence[Source]) -> list[Part]:
    """Cut the sources into parts, by the names and sizes of their files: the same on every machine.

    Raises:
        InputError: a source without files, or more parts than ordinals can tell apart.
    """
    found = [[] if source.kind == "atlas" else find_files(source) for source in sources]
    limit = max(PART_BYTES, sum(_size(path) for files in found for path, _ in files) // _MANY_PARTS)
    parts: list[Part] = []
    for index, files in enumerate(found):
        held: list[tuple[str, str]] = []
        size = 0
        for path, name in files:
            length = _size(path)
            if held and (size + length > limit or len(held) >= PART_FILES):
                parts.append(Part(len(parts), index, tuple(held)))
                held, size = [], 0
            held.append((str(path), name))
            size += length
        parts.append(Part(len(parts), index, tuple(held)))
    if len(parts) > _MOST_PARTS:
        raise InputError(f"source: {len(parts)} parts are more than {_MOST_PARTS}; split the recipe, or merge files.")
    return parts


def of_shard(parts: Sequence[Part], shard: tuple[int, int]) -> list[Part]:
    """The parts that task i of n annotates, i from 1: every n-th one."""
    index, count = shard
    return [part for part in parts if part.number % count == index - 1]


def line(folder: Path, part: Part) -> dict[str, Any] | None:
    """The manifest line of a finished part, or None: not begun, half done, or its files are not what the line says."""
    try:
        found = json.loads((folder / f"{part.number:05d}.json").read_text(encoding="utf-8"))
        sizes = {name: (folder / name).stat().st_size for name in found["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if sizes == found["files"] else None


def annotate_all(
    parts: Sequence[Part],
    job: Job,
    folder: Path,
    *,
    processes: int,
    engine: str,
    say: Progress,
    is_all: bool = True,
) -> list[dict[str, Any]]:
    """Annotate the parts that are not done yet, and return every part's manifest line, in order.

    Args:
        folder: where parts lie; made if needed.
        processes: how many work at once on this machine.
        engine: "local", or "ray" for the cluster that Ray is connected to.
        is_all: whether these are all parts, so that each source can be judged.

    Raises:
        InputError: a source that cannot be read, or holds too many bad records.
    """
    folder.mkdir(parents=True, exist_ok=True)
    gather_site_files(job.sources, folder / "site_files")  # before there are workers, so that they find it done
    lines = {part.number: line(folder, part) for part in parts}
    waiting = [part for part in parts if lines[part.number] is None]
    documents = sum(found["documents"] for found in lines.values() if found)
    for made in _finish(waiting, job, folder, processes, engine):
        lines[made["part"]] = made
        documents += made["documents"]
        say(f"reading, part {sum(map(bool, lines.values()))} of {len(parts)}", documents, None)
    found = [made for made in (lines[part.number] for part in parts) if made is not None]
    for index, source in enumerate(job.sources if is_all else ()):
        _judge(source, [made for made in found if made["source"] == index], job.settings.max_quarantine_share)
    return found


def _finish(waiting: Sequence[Part], job: Job, folder: Path, processes: int, engine: str) -> Iterator[dict[str, Any]]:
    if engine == "ray":
        from hanse.data.ray_engine import each

        yield from each(annotate_part, waiting, job, folder)
    elif processes > 1 and sum(_size(Path(path)) for part in waiting for path, _ in part.files) > PART_BYTES:
        yield from _in_processes(waiting, job, folder, min(processes, len(waiting)))
    else:  # starting a worker costs more than a small part
        annotator = job.annotator(folder)
        for part in waiting:
            yield annotate_part(part, job, folder, annotator)


def _in_processes(waiting: Sequence[Part], job: Job, folder: Path, processes: int) -> Iterator[dict[str, Any]]:
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from multiprocessing import get_context

    # The largest first, so that no process is left alone with a long one at the end.
    ordered = sorted(waiting, key=lambda part: -sum(_size(Path(path)) for path, _ in part.files))
    pool = ProcessPoolExecutor(
        processes, mp_context=get_context("spawn"), initializer=_begin_worker, initargs=(job, folder)
    )
    try:
        futures = [pool.submit(_work, part, folder) for part in ordered]
        for future in as_completed(futures):
            yield future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_WORKER: dict[str, Any] = {}  # of a worker process: its job, and the annotator that took a second to make


def _begin_worker(job: Job, folder: Path) -> None:
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent decides
    _WORKER.update(job=job, annotator=job.annotator(folder))


def _work(part: Part, folder: Path) -> dict[str, Any]:
    return annotate_part(part, _WORKER["job"], folder, _WORKER["annotator"])


def annotate_part(part: Part, job: Job, folder: Path, annotator: Annotator | None = None) -> dict[str, Any]:
    """Read and annotate one part, and write its files; returns its manifest line.

    Raises:
        InputError: a file that cannot be read, or so many faults that the source is hopeless.
    """
    annotator = annotator or job.annotator(folder)
    source = job.sources[part.source]
    counts: Counter[str] = Counter()
    evidence: dict[str, Evidence] = {}
    stem = f"{part.number:05d}"
    names = [f"{stem}.parquet", f"{stem}.evidence.parquet", f"{stem}.faults.jsonl"]
    with _renamed(folder, names) as (documents_path, evidence_path, faults_path):
        with (
            open(faults_path, "w", encoding="utf-8", newline="\n") as faults,
            pq.ParquetWriter(documents_path, INGEST, compression="zstd", compression_level=1) as writer,
        ):
            watch = _Watch(source, job.settings.max_quarantine_share, faults)
            documents = 0
            for rows in _batches(_rows(part, source, job, watch.fault)):
                table = annotator.table(rows, part.source, (part.number << ROW_BITS) + documents, evidence)
                writer.write_table(table)
                documents += len(rows)
                watch.documents = documents
        counts = watch.reasons
        found = pa.Table.from_pylist(
            [{**asdict(each), "id": key} for key, each in sorted(evidence.items())], schema=EVIDENCE
        )
        pq.write_table(found, evidence_path, compression="zstd")
    made = {
        "part": part.number,
        "source": part.source,
        "inputs": [name for _, name in part.files],
        "documents": documents,
        "faults": dict(sorted(counts.items())),
        "first_fault": asdict(watch.first) if watch.first else None,
        "files": {name: (folder / name).stat().st_size for name in names},
    }
    with _renamed(folder, [f"{stem}.json"]) as (path,):
        path.write_text(json.dumps(made, ensure_ascii=False, sort_keys=True), encoding="utf-8")
    return made


def _rows(part: Part, source: Source, job: Job, on_fault: Callable[[Fault], None]) -> Iterator[dict[str, Any]]:
    files: list[tuple[Path | None, str]] = [(Path(path), name) for path, name in part.files]
    for path, name in files or [(None, "atlas")]:
        yield from read_file(
            source, path, name, languages=job.languages, seed=job.seed, on_fault=on_fault, day=job.settings.day
        )


def _batches(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    held: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        held.append(row)
        size += row["bytes"]
        if size >= BATCH_BYTES or len(held) >= BATCH_DOCUMENTS:
            yield held
            held, size = [], 0
    if held:
        yield held


class _Watch:
    """Writes the faults of one part and gives up on a source that is hopeless."""

    def __init__(self, source: Source, limit: float, file: Any) -> None:
        self._source, self._limit, self._file = source, limit, file
        self.first: Fault | None = None
        self.reasons: Counter[str] = Counter()
        self.documents = 0

    def fault(self, fault: Fault) -> None:
        """Record one fault."""
        self.first = self.first or fault
        self.reasons[fault.reason] += 1
        self._file.write(json.dumps(asdict(fault), ensure_ascii=False) + "\n")
        faults = self.reasons.total()
        if faults % HOPELESS_FAULTS == 0:
            _refuse(self._source, self.first, faults, self.documents, self._limit, so_far=" so far")


def _judge(source: Source, lines: Sequence[dict[str, Any]], limit: float) -> None:
    """Raise InputError if a source has no document at all, or its share of faults is over the limit."""
    documents = sum(made["documents"] for made in lines)
    faults = sum(sum(made["faults"].values()) for made in lines)
    first = next((Fault(**made["first_fault"]) for made in lines if made["first_fault"]), None)
    if not documents:
        where = source.path or "the atlas"
        if first is None:
            raise InputError(f"source '{source.name}': {where} is empty; give a source that holds documents.")
        remedy = "; say it in each record, or in [[source]] for those without" * (first.reason == "licence-missing")
        raise InputError(
            f"source '{source.name}': no document in {where} could be read; {_place(first)}: {first.detail}{remedy}."
        )
    if first is not None:
        _refuse(source, first, faults, documents, limit)


def _refuse(source: Source, first: Fault, faults: int, documents: int, limit: float, so_far: str = "") -> None:
    share = faults / (documents + faults)
    if share > limit:
        raise InputError(
            f"source '{source.name}', {_place(first)}: {first.detail}. Quarantined ({faults} of {documents + faults}"
            f"{so_far}, {100 * share:.1f} %; the limit is {100 * limit:g} %); mend the source or raise [curate] "
            "max_quarantine_share."
        )


def _place(fault: Fault) -> str:
    return f"{fault.file}, line {fault.line}" if fault.line else fault.file


@contextmanager
def _renamed(folder: Path, names: Sequence[str]) -> Iterator[list[Path]]:
    """Temporary files that take their names when the block has succeeded; two processes may do the same part."""
    drafts = [folder / f".{name}.{os.getpid()}" for name in names]
    try:
        yield drafts
        for draft, name in zip(drafts, names, strict=True):
            with draft.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(draft, folder / name)
        fsync_folder(folder)
    finally:
        for draft in drafts:
            with suppress(FileNotFoundError):
                draft.unlink()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
