"""Token shards: one memory-mapped file per split and language, and an index that finds each document in it.

`<split>/<language>.bin` holds little-endian token ids; each document ends with <|end_of_text|>. Documents lie in a
keyed order, so that neighbours come from different books and a window of short documents is a mixture.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hanse.data.permutation import mix
from hanse.data.tokenizer import END_OF_TEXT, Tokenizer
from hanse.errors import InputError

if TYPE_CHECKING:
    from hanse.store.stage import Work

Progress = Callable[[str, int, int | None], None]

SPLITS = ("train", "validation")
BATCH_BYTES = 4 * 2**20  # of text encoded at a time
INDEX = pa.schema(
    [
        ("id", pa.string()),
        ("language", pa.string()),
        ("source", pa.string()),
        ("split", pa.string()),
        ("offset", pa.int64()),  # in tokens, within the split and language
        ("tokens", pa.int64()),  # with the end token
        ("bytes", pa.int64()),  # of the text in UTF-8
    ]
)


def write_shards(work: Work, dataset: Path, tokenizer: Path, *, seed: int, progress: Progress | None = None) -> None:
    """Write a shards artifact: `<split>/<language>.bin`, `index.parquet`, `shards.json`.

    Args:
        work: the folder to fill, and scratch space of the same size.
        dataset: folder of a dataset artifact.
        tokenizer: folder of a tokenizer artifact.
        seed: of the document order.
        progress: called with a phrase, the bytes of text done, and their total.

    Raises:
        InputError: the dataset holds no training text.
    """
    coder = Tokenizer.load(tokenizer)
    dtype = np.dtype("<u2" if coder.vocab_size <= 2**16 else "<u4")
    total = json.loads((dataset / "counts.json").read_text(encoding="utf-8"))["kept_bytes"]
    encoder = _Encoder(coder, dtype, work.scratch, progress or (lambda phrase, done, total: None), total)
    writer = pq.ParquetWriter(work.folder / "index.parquet", INDEX, compression="zstd")
    facts: dict[str, Any] = {}
    with writer:
        for split in SPLITS:
            drafts = encoder.encode_split(dataset, split)
            (work.folder / split).mkdir()
            facts[split] = {}
            for language, draft in sorted(drafts.items()):
                index = draft.finish(work.folder / split / f"{language}.bin", seed=seed)
                writer.write_table(_index_table(index, language, split))
                facts[split][language] = {
                    "documents": len(draft.ids), "tokens": sum(draft.tokens), "bytes": sum(draft.bytes),
                }  # fmt: skip
    if not facts["train"]:
        raise InputError(f"{dataset}: holds no training text; the dataset has too few documents.")
    shards = {
        "dtype": dtype.str, "vocab_size": coder.vocab_size, "end_of_text": coder.id_of(END_OF_TEXT), "splits": facts,
    }  # fmt: skip
    (work.folder / "shards.json").write_text(json.dumps(shards, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    counts = [language for split in facts.values() for language in split.values()]
    work.note(**{key: sum(count[key] for count in counts) for key in ("documents", "tokens", "bytes")})


@dataclass(frozen=True)
class Shards:
    """An opened shards folder."""

    folder: Path
    dtype: np.dtype
    vocab_size: int
    end_of_text: int
    splits: dict[str, dict[str, dict[str, int]]]  # split -> language -> documents, tokens, bytes

    @classmethod
    def open(cls, folder: Path) -> Shards:
        """Raises InputError if the folder holds no shards, or a file is not as long as it should be."""
        try:
            facts = json.loads((folder / "shards.json").read_text(encoding="utf-8"))
            shards = cls(folder, np.dtype(facts["dtype"]), facts["vocab_size"], facts["end_of_text"], facts["splits"])
            for split, languages in shards.splits.items():
                for language, counts in languages.items():
                    path = shards.path(split, language)
                    if path.stat().st_size != counts["tokens"] * shards.dtype.itemsize:
                        raise InputError(f"{path}: is not as long as shards.json says; make the shards again.")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{folder}: is not a folder of shards ({error}).") from None
        return shards

    def path(self, split: str, language: str) -> Path:
        """The file of a split and language."""
        return self.folder / split / f"{language}.bin"

    def tokens(self, split: str, language: str) -> np.ndarray:
        """All token ids of a split and language, memory-mapped and read-only."""
        return np.memmap(self.path(split, language), dtype=self.dtype, mode="r")

    def index(self) -> pa.Table:
        """One row per document, ordered by split, language and offset."""
        return pq.read_table(self.folder / "index.parquet")


class _Draft:
    """A language's documents in reading order, before they are put into keyed order."""

    def __init__(self, path: Path, dtype: np.dtype) -> None:
        self._path, self._dtype = path, dtype
        self._file: IO[bytes] = open(path, "wb")  # noqa: SIM115 - stays open over many batches
        self.ids: list[str] = []
        self.sources: list[str] = []
        self.tokens: list[int] = []
        self.bytes: list[int] = []

    def add(self, row: dict[str, Any], ids: list[int]) -> None:
        """Append one document, end token included."""
        self._file.write(np.array(ids, self._dtype).tobytes())
        self.ids.append(row["id"])
        self.sources.append(row["source"])
        self.tokens.append(len(ids))
        self.bytes.append(len(row["text"].encode()))

    def finish(self, path: Path, *, seed: int) -> dict[str, list[Any]]:
        """Write the documents in keyed order to `path` and give their index columns."""
        self._file.close()
        keys = mix(np.array([int(name[:16], 16) for name in self.ids], np.uint64), key=seed)
        order = np.lexsort((np.arange(len(keys)), keys)).tolist()
        lengths = np.array(self.tokens, np.int64)
        starts = np.concatenate(([0], np.cumsum(lengths)[:-1])).tolist()
        tokens = np.memmap(self._path, dtype=self._dtype, mode="r")
        with open(path, "wb") as file:
            for place in order:
                file.write(tokens[starts[place] : starts[place] + self.tokens[place]].tobytes())
        del tokens
        self._path.unlink()
        offsets = np.concatenate(([0], np.cumsum(lengths[order])[:-1]))
        columns: dict[str, list[Any]] = {
            "id": self.ids,
            "source": self.sources,
            "tokens": self.tokens,
            "bytes": self.bytes,
        }
        return {"offset": offsets.tolist(), **{name: [values[i] for i in order] for name, values in columns.items()}}


class _Encoder:
    """Encodes a dataset's text in batches into drafts."""

    def __init__(self, tokenizer: Tokenizer, dtype: np.dtype, scratch: Path, say: Progress, total: int) -> None:
        self._tokenizer, self._dtype, self._scratch, self._say = tokenizer, dtype, scratch, say
        self._done, self._total = 0, total

    def encode_split(self, dataset: Path, split: str) -> dict[str, _Draft]:
        """The drafts of a split, by language."""
        drafts: dict[str, _Draft] = {}
        end = [self._tokenizer.id_of(END_OF_TEXT)]
        self._scratch.mkdir(parents=True, exist_ok=True)
        for rows in _batches(dataset, split):
            encoded = self._tokenizer.encode_batch([row["text"] for row in rows])
            for row, ids in zip(rows, encoded, strict=True):
                language = row["language"]
                if language not in drafts:
                    drafts[language] = _Draft(self._scratch / f"{split}.{language}.bin", self._dtype)
                drafts[language].add(row, ids + end)
                self._done += drafts[language].bytes[-1]
            self._say("encoding", self._done, self._total)
        return drafts


def _batches(dataset: Path, split: str) -> Iterator[list[dict[str, Any]]]:
    held: list[dict[str, Any]] = []
    size = 0
    for path in sorted((dataset / "text").glob(f"{split}-*.parquet")):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                for row in batch.to_pylist():
                    held.append(row)
                    size += len(row["text"])
                    if size >= BATCH_BYTES:
                        yield held
                        held, size = [], 0
    if held:
        yield held


def _index_table(index: dict[str, list[Any]], language: str, split: str) -> pa.Table:
    count = len(index["id"])
    columns = {**index, "language": [language] * count, "split": [split] * count}
    return pa.table({name: columns[name] for name in INDEX.names}, schema=INDEX)
