"""From sources to a dataset: read strictly, annotate every document, then select by the recipe's policy.

    read -> annotate, part by part -> find copies -> choose the validation split -> write what stays, and what does not

Nothing is dropped before the end: each document gets its reasons, and the document table keeps them, so that a changed
policy, an audit or a summary needs no second reading.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from hanse.data import canaries, dedup, parts
from hanse.data.annotate import read_key
from hanse.data.pii.finding import Finding
from hanse.data.pii.replace import How, dataset_key, replace
from hanse.data.rights.evidence import EVIDENCE
from hanse.data.select import Verdict, choose_validation, select
from hanse.trace import leaving as leavings

if TYPE_CHECKING:
    from hanse.recipe import Curate, Source
    from hanse.store.stage import Work
    from hanse.trace.withdrawal import Withdrawal

Progress = Callable[[str, int, int | None], None]


def curate(
    work: Work,
    sources: Sequence[Source],
    settings: Curate,
    *,
    languages: tuple[str, ...],
    seed: int,
    processes: int = 1,
    progress: Progress | None = None,
    withdrawals: Sequence[Withdrawal] = (),
) -> None:
    """Write a dataset artifact: `text/`, `documents.parquet`, `evidence.parquet`, `quarantine.jsonl`, `counts.json`,
    `manifest.jsonl`.

    Args:
        work: the folder to fill, and scratch space for the annotated parts (about the size of the text, compressed).
        sources: the recipe's sources of running text, in order of preference among copies.
        settings: the recipe's [curate].
        languages: ISO 639-1 codes that the recipe asks for.
        seed: of the atlas and of the validation split.
        processes: how many read at once.
        progress: called with a phrase, the documents done, and their total where it is known.
        withdrawals: what they mean is left out, and stands in the table as `withdrawn`.

    Raises:
        InputError: a source that cannot be read or holds too many bad records; a language without documents; too few
            documents for a validation split.
    """
    say = progress or (lambda phrase, done, total: None)
    folder = work.scratch / "parts"
    planned = parts.plan(sources)
    job = parts.Job(tuple(sources), settings, languages, seed)
    lines = parts.annotate_all(planned, job, folder, processes=processes, engine=settings.engine, say=say)
    paths = [folder / f"{line['part']:05d}.parquet" for line in lines]
    total = sum(line["documents"] for line in lines)
    say("looking for copies", 0, None)
    leaving = leavings.of_parts(paths, withdrawals)
    clusters = dedup.clusters(
        paths, folder, near=settings.near_duplicates, engine=settings.engine, leaving=leaving.ordinals
    )
    leaving = leaving.with_copies(clusters)
    validation = choose_validation(paths, clusters, settings, languages=languages, seed=seed, leaving=leaving)
    paths += canaries.place(work, folder, len(paths), sources, settings, languages=languages, seed=seed)
    counts = select(
        work.folder, paths, Verdict(clusters, validation, leaving),
        replace=_replacer(settings, work.ref),
        say=lambda done: say("writing", done, total),
    )  # fmt: skip
    faults: Counter[tuple[str, str]] = Counter()
    for line in lines:
        faults.update({(sources[line["source"]].name, reason): n for reason, n in line["faults"].items()})
    counts["quarantined"] = [
        {"source": source, "reason": reason, "records": n} for (source, reason), n in sorted(faults.items())
    ]
    _write_json(work.folder / "counts.json", counts)
    _write_faults(work.folder / "quarantine.jsonl", folder, lines)
    _write_evidence(work.folder / "evidence.parquet", folder, lines)
    _write_manifest(work.folder / "manifest.jsonl", sources, lines)
    work.note(
        documents=counts["documents"], kept=counts["kept"], text_bytes=counts["kept_bytes"],
        quarantined=sum(faults.values()),
        broken_files=sum(n for (_, reason), n in faults.items() if reason == "broken-file"),
        **({"withdrawn": len(leaving.ordinals)} if withdrawals else {}),
    )  # fmt: skip


def _replacer(settings: Curate, ref: str) -> Callable[[str, Sequence[dict[str, Any]], str], str]:
    """Takes personal data out of a text, as the recipe wants it; pseudonyms are the same within one dataset only."""
    key = dataset_key(read_key(settings), ref) if settings.pii == "pseudonym" else None
    how: How = "pseudonym" if settings.pii == "pseudonym" else "mask"

    def without(text: str, findings: Sequence[dict[str, Any]], language: str) -> str:
        return replace(text, [Finding(**finding) for finding in findings], how, key, language=language)

    return without


def _write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, ensure_ascii=False, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _write_faults(path: Path, folder: Path, lines: Sequence[dict[str, Any]]) -> None:
    with path.open("wb") as file:
        for line in lines:
            file.write((folder / f"{line['part']:05d}.faults.jsonl").read_bytes())


def _write_evidence(path: Path, folder: Path, lines: Sequence[dict[str, Any]]) -> None:
    """Every statement once, sorted by id."""
    tables = [pq.read_table(folder / f"{line['part']:05d}.evidence.parquet") for line in lines]
    rows = {row["id"]: row for table in tables for row in table.to_pylist()}
    table = pa.Table.from_pylist([rows[key] for key in sorted(rows)], schema=EVIDENCE)
    pq.write_table(table, path, compression="zstd")


def _write_manifest(path: Path, sources: Sequence[Source], lines: Sequence[dict[str, Any]]) -> None:
    """What each part read, and what came of it."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for line in lines:
            kept = {key: line[key] for key in ("part", "inputs", "documents", "faults")}
            file.write(json.dumps({**kept, "source": sources[line["source"]].name}, ensure_ascii=False) + "\n")
