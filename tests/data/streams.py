"""Shards of made-up tokens, for the tests of mixture and loader."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from hanse.data.shards import Shards
from hanse.recipe import Pretrain

END = 1
LENGTH = 16  # tokens in a sample


def stream(base: int, count: int, *, every: int = 7) -> list[int]:
    """`count` tokens from `base` on, with an end token now and then and at the end; the others are all different."""
    return [END if n % every == every - 1 else base + n for n in range(count - 1)] + [END]


def write_tokens(folder: Path, streams: dict[tuple[str, str], list[int]], *, dtype: str = "<u2") -> Shards:
    """A shards folder of given token ids by language and source."""
    (folder / "train").mkdir(parents=True)
    languages: dict[str, dict] = {}
    held: dict[str, list[int]] = {}
    for (language, source), tokens in sorted(streams.items()):
        counts = {"documents": tokens.count(END), "tokens": len(tokens), "bytes": 3 * len(tokens)}
        whole = languages.setdefault(language, {**dict.fromkeys(counts, 0), "sources": {}})
        whole["sources"][source] = {
            "offset": len(held.setdefault(language, [])), **counts, "licences": {"CC0-1.0": counts}
        }  # fmt: skip
        held[language] += tokens
        for key, value in counts.items():
            whole[key] += value
    for language, tokens in held.items():
        np.array(tokens, dtype).tofile(folder / "train" / f"{language}.bin")
    facts = {"dtype": dtype, "vocab_size": 60_000, "end_of_text": END, "splits": {"train": languages}}
    (folder / "shards.json").write_text(json.dumps(facts))
    return Shards.open(folder)


def budget(samples: int, **settings) -> Pretrain:
    """A [pretrain] section of so many samples."""
    return Pretrain(budget_tokens=samples * LENGTH, sequence_length=LENGTH, batch_tokens=LENGTH, **settings)
