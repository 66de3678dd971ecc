"""Building and asking the index behind `hanse trace`, beside infini-gram (PyPI) over the same text and queries.

For each size: real text of the corpus becomes a dataset, and `hanse.trace.index.build` indexes it in a process of its
own: MB of text per second from the dataset's files to a synced index, peak memory, bytes on disk per byte of text. Then
infini-gram's builder makes its index of the same documents in bytes, which has to come out the same, byte for byte.

A query is a passage of 15 to 250 characters and more than 30 bytes, cut from a random document, between 250 characters
on either side: words of another document of the same language, in random order. Both engines look for the maximal
passages of 30 bytes and more: ours with the documents of the ten longest; infini-gram's `attribute`, from the engine
that the package ships, without documents. One walk through all queries warms the file cache, then each is timed. Recall
is the share of planted passages that lie in one that was found.

    python bench/trace.py [--corpus ../shared/corpus] [--megabytes 50 200] [--queries 300] [--no-peer]
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import conditions

MIN_BYTES = 30
NOVEL_CHARACTERS, LONGEST_PLANT = 250, 250


def documents(corpus: Path, limit: int) -> Iterator[dict[str, Any]]:
    """The corpus in file order, up to a number of bytes, evenly from all files."""
    paths = sorted(corpus.glob("*.jsonl.gz"))
    sizes = {path: sum(len(text.encode()) for text in _texts(path)) for path in paths}
    for path in paths:
        room = limit * sizes[path] / max(limit, sum(sizes.values()))
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for line in file:
                record = json.loads(line)
                room -= len(record["text"].encode())
                if room < -1:
                    break
                yield record


def _texts(path: Path) -> Iterator[str]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)["text"]


def prepare(folder: Path, corpus: Path, limit: int) -> list[dict[str, Any]]:
    """A store with one dataset, and the same documents as JSON lines for infini-gram."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from hanse.data.schema import TEXT, document_id
    from hanse.store.stage import Store, Work

    records = [{**each, "id": document_id(each["text"]), "split": "train"} for each in documents(corpus, limit)]
    names = ("id", "split", "source", "url", "licence", "author", "title", "language")

    def make(work: Work) -> None:
        (work.folder / "text").mkdir()
        with pq.ParquetWriter(work.folder / "text" / "train-00000.parquet", TEXT, compression="zstd") as writer:
            for start in range(0, len(records), 1000):
                writer.write_table(pa.Table.from_pylist(records[start : start + 1000], TEXT))
        rows = pa.schema([(name, pa.string()) for name in names])
        pq.write_table(pa.Table.from_pylist(records, rows), work.folder / "documents.parquet")

    Store.open(folder / "store").build("dataset", "bench", "1", definition={}, inputs={}, make=make)
    (folder / "peer").mkdir()
    with (folder / "peer" / "texts.jsonl").open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps({"text": record["text"]}, ensure_ascii=False) + "\n")
    return records


def build(folder: Path) -> dict[str, float]:
    """Make the index, in this process."""
    from hanse.store.stage import Store
    from hanse.trace import index

    store = Store.open(folder / "store")
    artifact = store.find("dataset/bench")
    store.require_intact(artifact, "index it")  # hashing what was just written is not what is measured
    started = time.perf_counter(), time.process_time()
    index.build(artifact, store)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "seconds": time.perf_counter() - started[0], "cpu_seconds": time.process_time() - started[1],
        "peak_mb": usage.ru_maxrss / 1024,
    }  # fmt: skip


def build_peer(folder: Path) -> dict[str, float]:
    """Have infini-gram make its index of the same text, with all cores."""
    program = [
        sys.executable, "-m", "infini_gram.indexing", "--data_dir", str(folder / "peer"),
        "--save_dir", str(folder / "peer-index"), "--token_dtype", "u8", "--cpus", str(os.cpu_count()), "--mem", "8",
        "--ulimit", "1024",
    ]  # fmt: skip
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    subprocess.run(program, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "cpu_seconds": cpu}


def plant(records: Sequence[dict[str, Any]], number: int, seed: int) -> list[tuple[str, str]]:
    """Queries, and the passage of more than MIN_BYTES that is planted in each."""
    rng = random.Random(seed)
    of_language: dict[str, list[str]] = {}
    for record in records:
        of_language.setdefault(record["language"], []).append(record["text"])
    found: list[tuple[str, str]] = []
    while len(found) < number:
        texts = of_language[rng.choice(sorted(of_language))]
        text, other = rng.choice(texts), rng.choice(texts)
        begin = rng.randrange(len(text))
        planted = text[begin : begin + rng.randint(MIN_BYTES // 2, LONGEST_PLANT)]
        if len(planted.encode()) <= MIN_BYTES:
            continue
        words = other[: 20 * NOVEL_CHARACTERS].split()
        sides = [" ".join(rng.choices(words or ["-"], k=60))[:NOVEL_CHARACTERS] for _ in range(2)]
        found.append((f"{sides[0]} {planted} {sides[1]}", planted))
    return found


def ask(folder: Path, queries: Sequence[tuple[str, str]]) -> dict[str, float]:
    """Our engine: latencies in milliseconds, and recall."""
    from hanse.trace.index import open_index
    from hanse.trace.search import trace

    index = open_index(folder / "store" / ".trace" / "dataset~bench~1")

    def found(query: str) -> list[tuple[int, int]]:
        return [(span.begin_byte, span.end_byte) for span in trace([index], query).spans]

    def all_found(query: str) -> list[tuple[int, int]]:
        return [(span.begin_byte, span.end_byte) for span in trace([index], query, limit=10_000).spans]

    return timed(found, all_found, queries)


def ask_peer(folder: Path, queries: Sequence[tuple[str, str]]) -> dict[str, float]:
    """infini-gram's engine over our index, which is the same as its own."""
    from infini_gram.engine import InfiniGramEngine

    place = str(folder / "store" / ".trace" / "dataset~bench~1")
    engine = InfiniGramEngine(place, eos_token_id=10, vocab_size=255, version=4, token_dtype="u8")

    def found(query: str) -> list[tuple[int, int]]:
        answer = engine.attribute(
            list(query.encode()), delim_ids=[], min_len=MIN_BYTES, max_cnt=1_000_000, enforce_bow=False
        )
        return [(span["l"], span["r"]) for span in answer["spans"]]

    return timed(found, found, queries)


def timed(
    ask: Callable[[str], list[tuple[int, int]]],
    ask_all: Callable[[str], list[tuple[int, int]]],
    queries: Sequence[tuple[str, str]],
) -> dict[str, float]:
    """Milliseconds of a query, warm, and the share of planted passages that one of the found ones holds."""
    recalled = 0
    for query, planted in queries:
        begin = query.encode().index(planted.encode())
        end = begin + len(planted.encode())
        recalled += any(first <= begin and end <= last for first, last in ask_all(query))
    taken = []
    for query, _ in queries:
        started = time.perf_counter()
        ask(query)
        taken.append(1000 * (time.perf_counter() - started))
    taken.sort()
    return {
        "p50_ms": round(statistics.median(taken), 2), "p95_ms": round(taken[int(0.95 * len(taken))], 2),
        "max_ms": round(taken[-1], 2), "recall": recalled / len(queries),
    }  # fmt: skip


def measure(options: argparse.Namespace, megabytes: int) -> dict[str, Any]:
    """All figures for one size of text."""
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        records = prepare(folder, options.corpus, megabytes * 10**6)
        size = sum(len(record["text"].encode()) for record in records)
        command = [sys.executable, __file__, "--build", name]
        ours = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        index = folder / "store" / ".trace" / "dataset~bench~1"
        ours["bytes_per_text_byte"] = round(sum(path.stat().st_size for path in index.iterdir()) / size, 3)
        queries = plant(records, options.queries, seed=megabytes)
        ours |= ask(folder, queries)
        row: dict[str, Any] = {"wanted_mb": megabytes, "documents": len(records), "bytes": size, "hanse": ours}
        if options.peer:
            row["infini-gram"] = build_peer(folder)
            for part in ("tokenized.0", "offset.0", "table.0"):
                if subprocess.run(["cmp", "-s", str(index / part), str(folder / "peer-index" / part)]).returncode:
                    sys.exit(f"{part}: infini-gram writes another one")
            row["infini-gram"] |= ask_peer(folder, queries)
        for engine in ("hanse", "infini-gram"):
            if engine in row:
                made = row[engine]
                made["mb_per_second"] = round(size / 1e6 / made["seconds"], 1)
                made["mb_per_cpu_second"] = round(size / 1e6 / made["cpu_seconds"], 1)
                row[engine] = {
                    k: round(v, 2) if k in ("seconds", "cpu_seconds", "peak_mb") else v for k, v in made.items()
                }
    return row


def report(row: dict[str, Any]) -> None:
    """Print the figures of one size."""
    short = f" ({row['wanted_mb']} were asked for; the corpus has no more)" * (row["bytes"] < 0.98e6 * row["wanted_mb"])
    print(f"{row['bytes'] / 1e6:.1f} MB{short}, {row['documents']:,} documents")
    for engine in ("hanse", "infini-gram"):
        if engine in row:
            found = row[engine]
            print(
                f"  {engine:<12} {found['mb_per_second']:>5.1f} MB/s ({found['mb_per_cpu_second']:.1f} MB per CPU s), "
                f"query p50 {found['p50_ms']:.1f} ms, p95 {found['p95_ms']:.1f} ms, recall {found['recall']:.1%}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    conditions.add_corpus(parser)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[50, 200])
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--folder", type=Path, help="where indexes are made (default: the system's temporary folder)")
    parser.add_argument("--no-peer", dest="peer", action="store_false", help="without infini-gram")
    parser.add_argument("--output", type=Path, default=conditions.RESULTS / "trace.json")
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.build:
        print(json.dumps(build(options.build)))
        return
    result = conditions.conditions("pydivsufsort", *(("infini-gram",) if options.peer else ()))
    rows = [measure(options, megabytes) for megabytes in options.megabytes]
    for row in rows:
        report(row)
    result |= {"queries": options.queries, "min_bytes": MIN_BYTES, "sizes": rows}
    conditions.store(result, options.output)


if __name__ == "__main__":
    main()
