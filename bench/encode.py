"""Text to token ids: gigatoken against Hugging Face tokenizers, over a whole corpus, with every id compared.

Two jobs: encoding alone (texts in memory to ids in memory, in batches as write_shards makes them), and write_shards
from end to end. Each job runs in a process of its own, the two engines in turn. CPU seconds count all threads and
decide; wall seconds and peak memory stand beside them. The corpus is a folder of .jsonl.gz files as Hanse reads them.

    python bench/encode.py [--corpus ../shared/corpus] [--rounds 3] [--megabytes 1000] [--vocabulary 32768]
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import conditions

ENGINES = ("tokenizers", "gigatoken")
TRAINING_BYTES = 20_000_000


def documents(corpus: Path, limit: int) -> Iterator[dict[str, Any]]:
    """The corpus in file order, up to a number of bytes, evenly from all files."""
    paths = sorted(corpus.glob("*.jsonl.gz"))
    sizes = [path.stat().st_size for path in paths]
    for path, share in zip(paths, sizes, strict=True):
        room = limit * share / sum(sizes)
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for line in file:
                record = json.loads(line)
                room -= len(record["text"].encode())
                if room < 0:
                    break
                yield record


def prepare(folder: Path, corpus: Path, limit: int, vocabulary: int) -> None:
    """A dataset folder as curation leaves it, and a tokenizer trained on a part of it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from hanse.data.schema import TEXT, document_id
    from hanse.data.tokenizer import train

    (folder / "dataset" / "text").mkdir(parents=True)
    (folder / "tokenizer").mkdir()
    rows, table, training, size = [], [], [], 0
    for record in documents(corpus, limit):
        name = document_id(record["text"])
        rows.append({"id": name, "text": record["text"], "language": record["language"], "source": record["source"]})
        table.append({"id": name, "licence": record["licence"], "split": "train"})
        size += len(record["text"].encode())
        if hashlib.sha256(name.encode()).digest()[0] < 256 * TRAINING_BYTES / max(limit, TRAINING_BYTES):
            training.append(record["text"][:20_000])
    with pq.ParquetWriter(folder / "dataset" / "text" / "train-00000.parquet", TEXT, compression="zstd") as writer:
        for start in range(0, len(rows), 1000):
            writer.write_table(pa.Table.from_pylist(rows[start : start + 1000], schema=TEXT))
    pq.write_table(pa.Table.from_pylist(table), folder / "dataset" / "documents.parquet")
    (folder / "dataset" / "counts.json").write_text(json.dumps({"kept_bytes": size}))
    train(training, vocabulary).save(str(folder / "tokenizer" / "tokenizer.json"))


def every_character() -> list[str]:
    """Every character of Unicode that is assigned, in texts that show how it is split."""
    from hanse.data.encoder import in_context

    known = (chr(code) for code in range(sys.maxunicode + 1))
    return in_context([c for c in known if unicodedata.category(c) not in ("Cn", "Co", "Cs")])


def work(engine: str, job: str, folder: Path) -> dict[str, Any]:
    """One measurement, in this process."""
    if engine == "tokenizers":
        sys.modules["gigatoken.gigatoken_rs"] = None  # type: ignore[assignment]  # as if it were not installed
    from hanse.data import encoder, shards
    from hanse.data.tokenizer import Tokenizer
    from hanse.store.stage import Work

    digest, tokens, seconds = hashlib.sha256(), 0, [0.0, 0.0]
    if job == "write_shards":
        out = Work(folder / f"shards-{engine}", folder / f"scratch-{engine}", "shards/bench/1")
        started = time.process_time(), time.perf_counter()
        shards.write_shards(out, folder / "dataset", folder / "tokenizer", seed=1)
        seconds = [time.process_time() - started[0], time.perf_counter() - started[1]]
        tokens = out.facts["tokens"]
        for path in sorted(path for path in out.folder.rglob("*") if path.is_file()):
            digest.update(path.name.encode() + path.read_bytes())
    else:
        coder = encoder.Encoder(Tokenizer.load(folder / "tokenizer"))
        if job == "encode":
            found = (batch.column("text").cast("binary") for batch in shards._batches(folder / "dataset", "train"))
            batches = (column.to_pylist() for column in found)
        else:
            batches = iter([[text.encode() for text in every_character()]])
        for texts in batches:
            started = time.process_time(), time.perf_counter()
            encoded = coder.encode(texts)
            seconds = [seconds[0] + time.process_time() - started[0], seconds[1] + time.perf_counter() - started[1]]
            tokens += len(encoded.ids)
            digest.update(encoded.ids.astype("<u4").tobytes() + encoded.lengths.astype("<i8").tobytes())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "cpu": seconds[0], "wall": seconds[1], "peak_mb": peak / 1024, "tokens": tokens, "digest": digest.hexdigest(),
    }  # fmt: skip


def measure(job: str, folder: Path, rounds: int) -> dict[str, dict[str, Any]]:
    """Both engines in turn, each time in a fresh process; medians. Ends the program if an id differs."""
    import shutil

    taken: dict[str, list[dict[str, Any]]] = {engine: [] for engine in ENGINES}
    for _ in range(rounds):
        for engine in ENGINES:
            for name in ("shards", "scratch"):
                shutil.rmtree(folder / f"{name}-{engine}", ignore_errors=True)
            command = [sys.executable, __file__, "--engine", engine, "--job", job, "--folder", str(folder)]
            done = subprocess.run(
                command, check=True, stdout=subprocess.PIPE, env={**os.environ, "PYTHONWARNINGS": "ignore"}
            )
            taken[engine].append(json.loads(done.stdout))
    digests = {one["digest"] for runs in taken.values() for one in runs}
    if len(digests) != 1:
        sys.exit(f"{job}: the engines give different ids")
    return {
        engine: {
            **{key: round(statistics.median(one[key] for one in runs), 3) for key in ("cpu", "wall", "peak_mb")},
            "cpu_min": round(min(one["cpu"] for one in runs), 3), "cpu_max": round(max(one["cpu"] for one in runs), 3),
            "tokens": runs[0]["tokens"],
        }
        for engine, runs in taken.items()
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    conditions.add_corpus(parser)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--vocabulary", type=int, default=32_768)
    parser.add_argument("--output", type=Path, default=conditions.RESULTS / "encode.json")
    parser.add_argument("--engine", choices=ENGINES, help=argparse.SUPPRESS)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.engine:
        print(json.dumps(work(options.engine, options.job, options.folder)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, options.corpus, options.megabytes * 10**6, options.vocabulary)
        size = json.loads((folder / "dataset" / "counts.json").read_text())["kept_bytes"]
        import pyarrow.parquet as pq

        count = pq.read_metadata(folder / "dataset" / "documents.parquet").num_rows
        report(options, size, count, {job: measure(job, folder, options.rounds) for job in ("encode", "write_shards")})
        characters = measure("characters", folder, 1)
        print(f"every character of Unicode in context: {characters['gigatoken']['tokens']:,} tokens, no id differs")


def report(options: argparse.Namespace, size: int, count: int, jobs: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Print the figures and write them."""
    tokens = jobs["encode"]["gigatoken"]["tokens"]
    print(f"{count:,} documents, {size / 1e6:.1f} MB, {tokens:,} tokens; no id differs")
    for job, engines in jobs.items():
        for engine, row in engines.items():
            row["mb_per_cpu_second"] = round(size / 1e6 / row["cpu"], 1)
            times = engines["tokenizers"]["cpu"] / row["cpu"]
            print(
                f"{job:<13} {engine:<11} {row['cpu']:>7.2f} CPU s ({row['cpu_min']:.2f} to {row['cpu_max']:.2f})  "
                f"{row['wall']:>7.2f} s  {row['mb_per_cpu_second']:>7.1f} MB per CPU s  {row['peak_mb']:>6.0f} MB  "
                f"{times:>5.1f}x"
            )
    result = conditions.conditions(*ENGINES) | {
        "rounds": options.rounds, "vocabulary": options.vocabulary, "documents": count, "bytes": size,
        "differing_ids": 0, **jobs,
    }  # fmt: skip
    conditions.store(result, options.output)


if __name__ == "__main__":
    main()
