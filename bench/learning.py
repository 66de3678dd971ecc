"""What the benchmarks of learning share: real text as shards, one training run, its quality on held-out text.

Not a benchmark itself: see ablation.py and time_to_quality.py.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from pathlib import Path

import conditions

VALIDATION_BYTES = 10_000  # a language


def arguments(parser) -> None:
    """The options that both benchmarks have."""
    conditions.add_corpus(parser)
    work = conditions.ROOT / "build" / "bench"
    parser.add_argument("--work", type=Path, default=work, help="where the shards are kept")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)


def recipe(corpus: Path, settings: Sequence[str] = ()):
    """recipes/europe.toml over a corpus, with changes as `--set` takes them."""
    from hanse.recipe import load

    return load(conditions.ROOT / "recipes" / "europe.toml", [f"source.0.path={corpus}/*.jsonl.gz", *settings])


def prepare(corpus: Path, work: Path, threads: int) -> tuple[Path, Path, str]:
    """Curate and encode the corpus once; folders of the shards and the tokenizer, and the shards' digest."""
    from hanse import pipeline
    from hanse.console import Console
    from hanse.parallel.ranks import Ranks
    from hanse.runtime import Runtime
    from hanse.store.stage import Store

    runtime = Runtime.detect("cpu", threads)
    made = pipeline.run(
        recipe(corpus), Store.open(work / "store"), runtime=runtime, ranks=Ranks(runtime), console=Console(),
        until="shards",
    )  # fmt: skip
    shards, tokenizer = made.artifact("shards"), made.artifact("tokenizer")
    assert shards is not None and tokenizer is not None
    return shards.path, tokenizer.path, shards.digest


def train(parsed, shards: Path, digest: str, folder: Path, threads: int):
    """Pre-train once; the model and its summary."""
    from hanse.console import Console
    from hanse.parallel.ranks import Ranks
    from hanse.runtime import Runtime
    from hanse.train.pretrain import learn

    runtime = Runtime.detect("cpu", threads)
    return learn(
        parsed, shards=str(shards), data_digest=digest, scratch=str(folder / "scratch"), run=str(folder / "run"),
        runtime=runtime, ranks=Ranks(runtime), console=Console(is_quiet=True),
    )  # fmt: skip


def bits_per_byte(model, shards: Path, tokenizer: Path, *, context: int) -> float:
    """Mean over the languages of bits per byte on held-out text, the same text for every model."""
    import torch

    from hanse.data.tokenizer import Tokenizer
    from hanse.evaluate.bits_per_byte import bits, choose
    from hanse.serve.detokenize import token_bytes

    sizes = [len(piece) for piece in token_bytes(Tokenizer.load(tokenizer).hf)]
    documents = choose(shards, bytes_per_language=VALIDATION_BYTES, seed=0, sizes=sizes)
    with torch.inference_mode():
        found = bits(model, documents, context=context)
    totals: dict[str, list[float]] = {}
    for document, bit in zip(documents, found, strict=True):
        total = totals.setdefault(document.language, [0.0, 0.0])
        total[0] += float(bit)
        total[1] += document.bytes
    return statistics.fmean(bit / size for bit, size in totals.values())


def spread(values: Sequence[float]) -> str:
    """Mean and half the range."""
    return f"{statistics.fmean(values):.4f} +- {(max(values) - min(values)) / 2:.4f}"
