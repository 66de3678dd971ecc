"""Curation, ours against datatrove's (newest from PyPI): the same planted documents (`planting.py`), the same job.

The job: read compressed JSON lines with everything they say, identify the language, mask e-mail and IP addresses, IBANs
and phone numbers, judge quality, drop exact duplicates (of normalised text) and near ones (MinHash, 14 bands of 8
hashes over word 5-grams), write what stays as Parquet with its provenance. Ours does more and is not told to stop:
rights and reservations, all kinds of personal data, a table of every document with its reasons. datatrove works as in
its own examples, and wherever it left a choice, the cheaper one was taken:

* its language filter fetches a model from the network; pycld2 on the first 1,000 characters stands in, the fastest;
* its PII formatter knows e-mail and IP addresses; two regular expressions (and check digits) add IBAN and phone;
* its Gopher quality and repetition filters keep their thresholds, but for the English stop words, as it brings none for
  other languages; they and MinHash use one word splitter: for English by spaCy, its default ("as shipped"), or one that
  splits at white space, handed in from outside ("whitespace"; "lean" is the same without the repetition filter, which
  takes most of the time that is left; ours judges repetition in all runs);
* its exact deduplication hashes in the pass that filters, which saves it one reading; what lies between passes is not
  compressed; its workers are forked, so that nothing is imported twice.

Contenders take turns, each a process with children of its own. CPU seconds, user and system, are those of the whole
tree, start-up included; they decide, because on a shared machine wall time says little. Peak memory is the largest sum
of resident memory over the tree, sampled every 0.1 s (a page that two processes share counts twice). A planted copy is
found if not both it and its original stay, of the pairs that no filter of single documents touched; a piece of personal
data is found if neither half of it is left in a text that stays.

    python bench/curate.py [--documents 20000] [--rounds 3] [--workers 2] [--skip-shipped] [--growth]

`--growth` shows ours alone on 1, 3 and 9 editions: 53, 159 and 477 MB. As-shipped datatrove runs in round 1 only.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import conditions
import planting

OURS, SHIPPED = "hanse", "datatrove, as shipped"
WHITESPACE, LEAN = "datatrove, whitespace", "datatrove, lean"
SEED = 20261122
GROWTH_EDITIONS = (1, 3, 9)  # of 20,000 documents: 53, 159 and 477 MB
SAMPLE_SECONDS = 0.1
PER_DOCUMENT_FREE = {"duplicate", "near-duplicate"}  # drop reasons that come from comparing documents
_PAGE = resource.getpagesize()


def run_hanse(contender: str, source: Path, output: Path, languages: list[str], workers: int) -> None:
    """Our contender, with the defaults of a recipe."""
    from hanse.data.curate import curate
    from hanse.recipe import Curate, Source
    from hanse.store.work import Work

    work = Work(output / "dataset", output / "scratch", "dataset/bench/1")
    sources = [Source(name="planted", kind="jsonl", path=str(source), obtained="public-dataset")]
    curate(work, sources, Curate(), languages=tuple(languages), seed=SEED, processes=workers)


def hanse_outcome(output: Path, wanted: set[str]) -> planting.Outcome:
    """Read our dataset."""
    import pyarrow.parquet as pq

    folder = output / "dataset"
    table = pq.read_table(folder / "documents.parquet", columns=["id", "source_id", "drop_reason", "split"])
    rows = table.to_pylist()
    kept = {row["source_id"]: row["id"] for row in rows if row["split"]}
    ids = {kept[name]: name for name in wanted if name in kept}
    texts: dict[str, str] = {}
    for path in sorted((folder / "text").glob("*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(columns=["id", "text"]):
            found = zip(batch["id"].to_pylist(), batch["text"].to_pylist(), strict=True)
            texts |= {ids[key]: text for key, text in found if key in ids}
    candidates = {row["source_id"] for row in rows if PER_DOCUMENT_FREE.issuperset(row["drop_reason"])}
    return planting.Outcome(candidates, set(kept), texts)


def run_datatrove(contender: str, source: Path, output: Path, languages: list[str], workers: int) -> None:
    """datatrove: one pass over the documents, then its exact and its MinHash deduplication, stage by stage."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline import dedup
    from datatrove.pipeline.dedup import minhash
    from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
    from datatrove.pipeline.formatters import PIIFormatter
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter, ParquetWriter
    from datatrove.utils.typeshelper import Languages

    steps = _datatrove_steps(set(languages))
    words = Languages.english if contender == SHIPPED else steps["splitter"]
    exact = dedup.ExactDedupConfig(content_getter=_normalised)
    place = {name: str(output / name) for name in ("passed", "exact", "exact-found", "signatures", "pairs", "removed")}

    def run(name: str, pipeline: list[Any], tasks: int) -> None:
        logs, processes = str(output / "logs" / name), min(workers, tasks)
        LocalPipelineExecutor(pipeline, tasks, processes, logging_dir=logs, start_method="fork").run()

    quality = [GopherQualityFilter(min_stop_words=0, language=words), GopherRepetitionFilter(language=words)]
    first = [
        JsonlReader(str(source)), steps["language"], PIIFormatter(), steps["numbers"],
        *quality[: 1 if contender == LEAN else 2],
        steps["exact"](place["exact"], exact), JsonlWriter(place["passed"], compression=None),
    ]  # fmt: skip
    run("documents", first, workers)
    run("exact", [dedup.ExactFindDedups(place["exact"], place["exact-found"], exact)], 1)
    survivors = [JsonlReader(place["passed"]), dedup.ExactDedupFilter(place["exact-found"], exact)]
    run("signatures", [*survivors, minhash.MinhashDedupSignature(place["signatures"], language=words)], workers)
    buckets = minhash.MinhashConfig().num_buckets
    run("buckets", [minhash.MinhashDedupBuckets(place["signatures"], place["pairs"])], buckets)
    run("clusters", [minhash.MinhashDedupCluster(place["pairs"], place["removed"])], 1)
    final = ParquetWriter(
        str(output / "kept"), compression="zstd", adapter=_provenance_row, schema=_provenance_schema()
    )
    run("write", [*survivors, minhash.MinhashDedupFilter(place["removed"]), final], workers)


def _datatrove_steps(languages: set[str]) -> dict[str, Any]:
    """What datatrove lacks for this job. It is imported here, so its classes can only be derived from here."""
    import pycld2
    from datatrove.pipeline.dedup import ExactDedupSignature
    from datatrove.pipeline.filters.base_filter import BaseFilter
    from datatrove.pipeline.formatters.base import BaseFormatter
    from datatrove.utils.word_tokenizers import WordTokenizer

    class Language(BaseFilter):
        name = "language by pycld2"

        def filter(self, doc: Any) -> bool:
            try:
                is_sure, _, found = pycld2.detect(doc.text[:1000])
            except pycld2.error:  # a control character
                return True
            doc.metadata["language_found"] = found[0][1]
            return not is_sure or found[0][1] in languages

    class Numbers(BaseFormatter):
        name = "IBAN and phone"

        def format(self, text: str) -> str:
            return _PHONE.sub("<phone>", _IBAN.sub(_masked_iban, text))

    class ExactSignature(ExactDedupSignature):
        """Its own, but it lets the documents pass, so that they need not be read once more."""

        def run(self, data: Iterable[Any], rank: int = 0, world_size: int = 1) -> Iterable[Any]:
            signatures: list[Any] = []
            for number, document in enumerate(data):
                signatures += self.get_hashes(document, number)
                yield document
            self.save_hashes(rank, signatures)

    class Whitespace(WordTokenizer):
        def word_tokenize(self, text: str) -> list[str]:
            return text.split()

        sent_tokenize = span_tokenize = word_tokenize  # abstract in its base, and never called here

    languages |= {"no", "bs"}  # pycld2's codes for Bokmål and for much that is Croatian
    return {"language": Language(), "numbers": Numbers(), "exact": ExactSignature, "splitter": Whitespace()}


_IBAN = re.compile(r"\b[A-Z]{2}\d\d(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
_PHONE = re.compile(r"\+[1-9][\d ().\-/]{6,18}\d")


def _masked_iban(match: re.Match[str]) -> str:
    number = match[0].replace(" ", "")
    is_valid = int("".join(str(int(sign, 36)) for sign in number[4:] + number[:4])) % 97 == 1
    return "<iban>" if is_valid else match[0]


def _normalised(document: Any) -> str:
    return " ".join(document.text.split())


_PROVENANCE = ("language", "language_found", "source", "url", "licence", "title", "author", "file_path")


def _provenance_row(self: Any, document: Any) -> dict[str, Any]:
    metadata = document.metadata
    return {"id": document.id, "text": document.text, **metadata, "extra": json.dumps(metadata.get("extra"))}


def _provenance_schema() -> Any:
    import pyarrow as pa

    strings = [(name, pa.string()) for name in ("id", "text", *_PROVENANCE, "extra")]
    return pa.schema([*strings, ("year", pa.int32())])


def datatrove_outcome(output: Path, wanted: set[str]) -> planting.Outcome:
    """Read what datatrove wrote."""
    import pyarrow.parquet as pq

    candidates: set[str] = set()
    for path in sorted((output / "passed").glob("*.jsonl")):
        with path.open(encoding="utf-8") as file:
            candidates |= {json.loads(line)["id"] for line in file}
    table = pq.read_table(output / "kept", columns=["id", "text"])
    kept = dict(zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True))
    return planting.Outcome(candidates, set(kept), {key: kept[key] for key in wanted if key in kept})


def measure(contender: str, source: Path, output: Path, languages: Iterable[str], workers: int) -> dict[str, Any]:
    """Run a contender in a process of its own and say what it took.

    Raises:
        SystemExit: it failed; the end of its log is shown.
    """
    output.mkdir()
    task = json.dumps([contender, str(source), str(output), sorted(languages), workers])
    quiet = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "SCARF_NO_ANALYTICS": "1",
             "DAFT_ANALYTICS_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0", "DAFT_PROGRESS_BAR": "0"}  # fmt: skip
    before, started, peak = _cpu_of_children(), time.perf_counter(), 0
    with (output / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), "--task", task],
            stdout=log, stderr=log, cwd=output, env=os.environ | quiet, start_new_session=True,
        )  # fmt: skip
        while process.poll() is None:
            peak = max(peak, _resident_bytes(process.pid))
            time.sleep(SAMPLE_SECONDS)
    wall = time.perf_counter() - started
    _wait_for_orphans()
    if process.returncode:
        end = (output / "log").read_text(encoding="utf-8", errors="replace").strip().splitlines()[-12:]
        raise SystemExit("\n".join([f"{contender} failed:", *end]))
    return {"cpu_seconds": _cpu_of_children() - before, "wall_seconds": wall, "peak_mib": peak / 2**20}


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _adopt_orphans() -> None:
    """A grandchild whose parent leaves without waiting (a fork server) becomes our child, and its time is counted."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def _wait_for_orphans(seconds: float = 10.0) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.05)
        except ChildProcessError:
            return
    print("warning: a process outlived its contender; its CPU seconds are missing", file=sys.stderr)


def _resident_bytes(session: int) -> int:
    """Of all processes of a session: its leader's id is the session's."""
    total = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:  # gone
            continue
        if int(fields[3]) == session:
            total += int(fields[21]) * _PAGE
    return total


def compare(
    names: list[str], planted: planting.Planted, folder: Path, rounds: int, workers: int
) -> list[dict[str, Any]]:
    """Let the contenders take turns on `folder / "planted"`; a row for each."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    scores: dict[str, dict[str, Any]] = {}
    wanted = {key for key, _, _ in planted.personal}
    for number in range(rounds):
        for name in names:
            if number and name == SHIPPED:
                continue
            print(f"round {number + 1}, {name} ...", file=sys.stderr, flush=True)
            with tempfile.TemporaryDirectory(dir=folder) as temporary:
                output = Path(temporary) / "output"
                runs[name].append(measure(name, folder / "planted", output, planted.languages, workers))
                if name not in scores:
                    read = hanse_outcome if name == OURS else datatrove_outcome
                    scores[name] = planting.score(planted, read(output, wanted))
    return [{"name": name, **_medians(runs[name], planted.text_bytes), **scores[name]} for name in names]


def _medians(runs: list[dict[str, Any]], text_bytes: int) -> dict[str, Any]:
    cpu = [run["cpu_seconds"] for run in runs]
    return {
        "cpu_seconds": round(statistics.median(cpu), 2),
        "cpu_seconds_of_each": [round(seconds, 2) for seconds in cpu],
        "megabytes_per_cpu_second": round(text_bytes / 1e6 / statistics.median(cpu), 2),
        "wall_seconds": round(statistics.median(run["wall_seconds"] for run in runs), 2),
        "wall_seconds_of_each": [round(run["wall_seconds"], 2) for run in runs],
        "peak_mib": round(max(run["peak_mib"] for run in runs)),
    }


def growth(corpus: Path, documents: int, workers: int) -> list[dict[str, Any]]:
    """Ours on ever larger sets."""
    rows = []
    for editions in GROWTH_EDITIONS:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            print(f"planting {editions} x {documents} documents ...", file=sys.stderr, flush=True)
            planted = planting.plant(folder / "planted", corpus, documents=documents, editions=editions, seed=SEED)
            row = planted.summary() | compare([OURS], planted, folder, 1, workers)[0]
            rows.append(row | {"name": f"hanse, {planted.text_bytes / 1e6:.0f} MB"})
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table of contenders."""
    found = ("exact", "near", *planting.KINDS)
    heads = ("CPU s", "MB/CPU s", "wall s", "peak MiB", "kept", *(f"{kind} %" for kind in found))
    print(f"{'':30}" + "".join(f"{head:>9}" for head in heads))
    for row in rows:
        cost = [row[key] for key in ("cpu_seconds", "megabytes_per_cpu_second", "wall_seconds", "peak_mib", "kept")]
        shares = [(row | row["personal"])[kind]["percent"] for kind in found]
        print(f"{row['name']:30}" + "".join(f"{value!s:>9}" for value in (*cost, *shares)))


def report(arguments: argparse.Namespace) -> dict[str, Any]:
    """Plant, measure, print; returns what goes to the results file."""
    packages = ("datatrove", "spacy", "pycld2", "daft", "pyarrow", "numpy")
    result: dict[str, Any] = conditions.conditions(*packages, threads=arguments.workers) | {
        "what": "curation of planted documents; CPU seconds of the whole process tree, medians of interleaved runs",
    }
    names = [OURS, LEAN, WHITESPACE, *([] if arguments.skip_shipped else [SHIPPED])]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        planted = planting.plant(folder / "planted", arguments.corpus, documents=arguments.documents, seed=SEED)
        result["planted"] = planted.summary()
        print(f"{planted.documents} documents, {planted.text_bytes / 1e6:.1f} MB of text, seed {SEED}")
        rows = compare(names, planted, folder, arguments.rounds, arguments.workers)
    show(rows)
    ours = rows[0]["cpu_seconds"]
    result |= {"rounds": arguments.rounds, "rows": rows}
    result["cpu_second_ratio"] = {row["name"]: round(row["cpu_seconds"] / ours, 2) for row in rows[1:]}
    for name, ratio in result["cpu_second_ratio"].items():
        print(f"{ratio} times fewer CPU seconds than {name}")
    if arguments.growth:
        result["growth"] = growth(arguments.corpus, arguments.documents, arguments.workers)
        show(result["growth"])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--skip-shipped", action="store_true")
    parser.add_argument("--growth", action="store_true")
    conditions.add_corpus(parser)
    parser.add_argument("--output", type=Path, default=conditions.RESULTS / "curate.json")
    parser.add_argument("--task", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.task:
        contender, source, output, languages, workers = arguments.task
        run = run_hanse if contender == OURS else run_datatrove
        run(contender, Path(source), Path(output), languages, workers)
        return
    _adopt_orphans()
    result = report(arguments)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
