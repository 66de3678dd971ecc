"""A small world for the tests of memorisation: documents, shards, and a model that learnt some of them by heart."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from hanse.data.shards import INDEX
from hanse.model import hf
from hanse.model.config import ModelConfig
from hanse.model.transformer import Transformer
from hanse.store.stage import Artifact
from hanse.tune.template import encode_text

CONFIG = ModelConfig(
    vocab_size=272,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=2,
    q_lora_rank=32,
    kv_lora_rank=32,
    qk_nope_head_dim=24,
    qk_rope_head_dim=8,
    v_head_dim=32,
    max_position_embeddings=128,
    initializer_range=0.08,
)
LETTERS = "abcdefghijklmnop "
LENGTH = 48  # characters, and so tokens, of a document


@dataclass(frozen=True)
class Settings:
    """As `[memorisation]` of a recipe."""

    is_measured: bool = True
    documents_per_source: int = 20
    prefix_tokens: tuple[int, ...] = (8, 16)
    continuation_tokens: int = 16
    samples: int = 2
    temperature: float = 0.5


class FakeWork:
    """Just the folder and the notes of a stage's workplace."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.noted: dict[str, Any] = {}

    def note(self, **facts: object) -> None:
        self.noted |= facts


def nonsense(name: str, length: int = LENGTH) -> str:
    """Repeatable letters without sense; another name, another text."""
    draw = random.Random(name)
    return "".join(draw.choice(LETTERS) for _ in range(length))


def document(
    name: str, source: str = "songs", *, split: str = "train", holder: str | None = "Anna", **changes: Any
) -> dict[str, Any]:
    """A document as the tables have it, with its text."""
    made = {
        "id": hashlib.sha256(name.encode()).hexdigest()[:32], "text": nonsense(name), "language": "en",
        "source": source, "split": split, "licence": "CC-BY-4.0", "rights_holder": holder, "extra": None,
    }  # fmt: skip
    return made | changes


def artifact(kind: str, folder: Path, digest: str = "") -> Artifact:
    """A folder as an artifact without a record."""
    return Artifact(kind, "toy", "1", folder, digest or f"{kind} digest", {})


def write_world(folder: Path, documents: Sequence[dict[str, Any]], tokenizer: Tokenizer) -> tuple[Artifact, Artifact]:
    """The dataset's table and the shards of these documents."""
    dataset, shards = folder / "dataset", folder / "shards"
    dataset.mkdir(parents=True)
    columns = ("id", "language", "source", "split", "licence", "rights_holder", "extra")
    schema = pa.schema([(name, pa.string()) for name in columns])
    pq.write_table(pa.Table.from_pylist(list(documents), schema=schema), dataset / "documents.parquet")
    write_shards(shards, documents, tokenizer)
    return artifact("dataset", dataset), artifact("shards", shards)


def write_shards(folder: Path, documents: Sequence[dict[str, Any]], tokenizer: Tokenizer) -> None:
    """Token shards in the order of language, source and name, with their index."""
    end, rows = tokenizer.token_to_id("<|end_of_text|>"), []
    splits: dict[str, Any] = {"train": {}, "validation": {}}
    streams: dict[tuple[str, str], list[int]] = {}
    for each in sorted(documents, key=lambda one: (one["split"], one["language"], one["source"])):
        ids = streams.setdefault((each["split"], each["language"]), [])
        own = [*encode_text(tokenizer, each["text"]), end]
        counts = {"documents": 1, "tokens": len(own), "bytes": len(each["text"].encode())}
        language = splits[each["split"]].setdefault(each["language"], {**dict.fromkeys(counts, 0), "sources": {}})
        empty = {"offset": len(ids), **dict.fromkeys(counts, 0), "licences": {}}
        source = language["sources"].setdefault(each["source"], empty)
        licence = source["licences"].setdefault(each["licence"], dict.fromkeys(counts, 0))
        for key, value in counts.items():
            for place in (language, source, licence):
                place[key] += value
        rows.append({**each, "offset": len(ids), "tokens": len(own), "bytes": counts["bytes"]})
        ids += own
    for (split, code), ids in streams.items():
        (folder / split).mkdir(parents=True, exist_ok=True)
        (folder / split / f"{code}.bin").write_bytes(np.array(ids, "<u2").tobytes())
    pq.write_table(pa.Table.from_pylist(rows, schema=INDEX), folder / "index.parquet")
    facts = {"dtype": "<u2", "vocab_size": CONFIG.vocab_size, "end_of_text": end, "splits": splits}
    (folder / "shards.json").write_text(json.dumps(facts))


def rows_of(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Texts as training reads them: between two end tokens."""
    end = tokenizer.token_to_id("<|end_of_text|>")
    return [[end, *encode_text(tokenizer, text), end] for text in texts]


def learnt(
    rows: Sequence[Sequence[int]], *, steps: int, weights: Sequence[float] | None = None, window: int = 0
) -> Transformer:
    """A model that read these rows of equal length again and again.

    Args:
        weights: some are read more often.
        window: tokens of a piece of a row, from a random place on, that is read at a time; 0: the whole row. It teaches
            the model to go on from the middle.
    """
    ids = torch.tensor(rows)
    model = Transformer(CONFIG).init_weights(torch.Generator().manual_seed(1)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=steps)
    draw = torch.Generator().manual_seed(2)
    share = torch.tensor(weights if weights is not None else [1.0] * len(rows))
    for _ in range(steps):
        batch = ids[torch.multinomial(share, 16, replacement=True, generator=draw)]
        targets = batch[:, 1:]
        if window:
            places = torch.randint(batch.shape[1] - 8, (16, 1), generator=draw) + torch.arange(window)
            inside = places[:, 1:] < batch.shape[1]
            batch = batch.gather(1, places.clamp(max=batch.shape[1] - 1))
            targets = batch[:, 1:].masked_fill(~inside, -100)
        logits = model.logits(model(batch[:, :-1]).flatten(0, 1))
        loss = F.cross_entropy(logits, targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def save_model(folder: Path, model: Transformer, tokenizer: Tokenizer) -> Path:
    """A folder that `load_engine` opens."""
    hf.save(model, folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
