"""Token shards: one memory-mapped file per split and language, and an index that finds each document in it.

`<split>/<language>.bin` holds little-endian token ids; each document ends with <|end_of_text|>. The documents of one
source lie together, a *stream*: the least that a mixture can weigh. Within it they lie in a keyed order, so that
neighbours come from different books and a window of short documents is a mixture.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hanse.data.permutation import mix
from hanse.data.tokenizer import Tokenizer
from hanse.errors import InputError

if TYPE_CHECKING:
    from hanse.data.encoder import Encoder
    from hanse.store.stage import Work

Progress = Callable[[str, int, int | None], None]

# D documents of a split

SPLITS = ("train", "validation")
BATCH_BYTES = 4 * 2**20  # of text encoded at a time
MAX_BATCH_ROWS = 4096
INDEX = pa.schema(
    [
        ("id", pa.string()),
        ("language", pa.string()),
        ("source", pa.string()),
        ("licence", pa.string()),
        ("split", pa.string()),
        ("offset", pa.int64()),  # in tokens, within the split and language
        ("tokens", pa.int64()),  # with the end token
        ("bytes", pa.int64()),  # of the text in UTF-8
    ]
)


@dataclass(frozen=True)
class Stream:
    """The documents of one language and source, end to end in the language's file.

    Attributes:
        offset: of the first token in the file.
        licences: documents, tokens and bytes by licence.
    """

    language: str
    source: str
    offset: int
    documents: int
    tokens: int
    bytes: int
    licences: dict[str, dict[str, int]]


@dataclass(frozen=True)
class Shards:
    """An opened shards folder."""

    folder: Path
    dtype: np.dtype
    vocab_size: int
    end_of_text: int
    splits: dict[str, dict[str, dict[str, Any]]]  # split -> language -> documents, tokens, bytes, sources

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

    def streams(self, split: str) -> list[Stream]:
        """What a split consists of, ordered by language and source."""
        return [
            Stream(language, source, **counts)
            for language, held in sorted(self.splits.get(split, {}).items())
            for source, counts in sorted(held["sources"].items())
        ]

    def index(self) -> pa.Table:
        """One row per document, ordered by split, language and offset."""
        return pq.read_table(self.folder / "index.parquet")


def write_shards(work: Work, dataset: Path, tokenizer: Path, *, seed: int, progress: Progress | None = None) -> None:
    """Write a shards artifact: `<split>/<language>.bin`, `index.parquet`, `shards.json`.

    Memory holds a row of the index for each document of a split, and a few batches of text.

    Args:
        work: the folder to fill, and scratch space of the same size.
        dataset: folder of a dataset artifact.
        tokenizer: folder of a tokenizer artifact.
        seed: of the document order.
        progress: called with a phrase, the bytes of text done, and their total.

    Raises:
        InputError: the dataset holds no training text, or its files contradict each other.
    """
    from hanse.data.encoder import Encoder

    coder = Tokenizer.load(tokenizer)
    encoder = Encoder(coder)
    dtype = np.dtype("<u2" if coder.vocab_size <= 2**16 else "<u4")
    advance = _advance(progress, json.loads((dataset / "counts.json").read_text(encoding="utf-8"))["kept_bytes"])
    draft = work.scratch / "draft.bin"
    splits: dict[str, Any] = {}
    with pq.ParquetWriter(work.folder / "index.parquet", INDEX, compression="zstd") as writer:
        for split in SPLITS:
            rows = _encode(draft, _batches(dataset, split), encoder, dtype, coder.end_of_text, advance)
            index, starts_D = _in_order(rows.append_column("licence", _licences(dataset, split, rows)), seed)
            _arrange(draft, work.folder / split, index, starts_D, dtype.itemsize)
            writer.write_table(index.append_column("split", pa.repeat(split, len(index))).select(INDEX.names))
            splits[split] = _facts(index)
    draft.unlink()
    if not splits["train"]:
        raise InputError(f"{dataset}: holds no training text; the dataset has too few documents.")
    facts = {
        "dtype": dtype.str, "vocab_size": coder.vocab_size, "end_of_text": coder.end_of_text, "splits": splits,
    }  # fmt: skip
    (work.folder / "shards.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    counts = [held for languages in splits.values() for held in languages.values()]
    sums = {key: sum(held[key] for held in counts) for key in ("documents", "tokens", "bytes")}
    work.note(**sums, encoder=encoder.engine)


def _advance(progress: Progress | None, total: int) -> Callable[[int], None]:
    done = 0

    def advance(size: int) -> None:
        nonlocal done
        done += size
        if progress is not None:
            progress("encoding", done, total)

    return advance


def _batches(dataset: Path, split: str) -> Iterator[pa.Table]:
    """The documents of a split in reading order, some BATCH_BYTES of text at a time."""
    held: list[pa.RecordBatch] = []
    for path in sorted((dataset / "text").glob(f"{split}-*.parquet")):
        with pq.ParquetFile(path) as file:
            groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
            size = sum(group.total_byte_size for group in groups) // max(1, file.metadata.num_rows)
            # A quarter of a batch at a time by the file's average, as long documents may lie side by side.
            rows = min(MAX_BATCH_ROWS, max(1, BATCH_BYTES // 4 // max(1, size)))
            for batch in file.iter_batches(rows, columns=["id", "language", "source", "text"]):
                held.append(batch)
                if sum(batch.nbytes for batch in held) >= BATCH_BYTES:
                    yield pa.Table.from_batches(held)
                    held = []
    if held:
        yield pa.Table.from_batches(held)


def _encode(
    draft: Path,
    batches: Iterator[pa.Table],
    encoder: Encoder,
    dtype: np.dtype,
    end_of_text: int,
    advance: Callable[[int], None],
) -> pa.Table:
    """Write the tokens of documents in reading order; a row for each: id, language, source, tokens, bytes."""
    columns = [INDEX.field(name) for name in ("id", "language", "source", "tokens", "bytes")]
    rows = [pa.schema(columns).empty_table()]
    with open(draft, "wb") as file:
        for batch in batches:
            texts = batch.column("text").cast(pa.binary())
            encoded = encoder.encode(texts.to_pylist())
            np.insert(encoded.ids, np.cumsum(encoded.lengths), end_of_text).astype(dtype).tofile(file)
            sizes = pc.cast(pc.binary_length(texts), pa.int64())
            rows.append(
                batch.select(["id", "language", "source"])
                .append_column("tokens", pa.array(encoded.lengths + 1, pa.int64()))
                .append_column("bytes", sizes)
            )
            advance(pc.sum(sizes).as_py())
    return pa.concat_tables(rows)


def _licences(dataset: Path, split: str, rows: pa.Table) -> pa.ChunkedArray:
    """The licence of each row's document. Raises InputError if the table of documents lacks one."""
    kept = pq.read_table(
        dataset / "documents.parquet", columns=["id", "licence"], filters=[("split", "=", split)]
    ).combine_chunks()
    found = pc.index_in(rows["id"], value_set=kept["id"])
    if found.null_count:
        lost = rows["id"].filter(pc.is_null(found))[0]
        raise InputError(f"{dataset}: documents.parquet lacks the document '{lost}' of text/; make the dataset again.")
    return pc.fill_null(kept["licence"].take(found), "not recorded")


def _in_order(rows: pa.Table, seed: int) -> tuple[pa.Table, np.ndarray]:
    """The rows by language, source and keyed hash with their offsets, and where each starts in reading order."""
    # An id has 32 hex digits: two words of 64 bits, of which the first is enough for an order.
    words_D = np.frombuffer(bytes.fromhex("".join(rows["id"].to_pylist())), ">u8")[::2]
    languages_D = _codes(rows["language"])
    order_D = np.lexsort((mix(words_D, key=seed), _codes(rows["source"]), languages_D))
    sizes_D = rows["tokens"].to_numpy()
    starts_D = (np.cumsum(sizes_D) - sizes_D)[order_D]
    rows = rows.take(pa.array(order_D))
    ends_D = np.cumsum(sizes_D[order_D])
    tokens_L = np.bincount(languages_D, weights=sizes_D, minlength=1).astype(np.int64)
    offsets_D = ends_D - sizes_D[order_D] - (np.cumsum(tokens_L) - tokens_L)[languages_D[order_D]]
    return rows.append_column("offset", pa.array(offsets_D, pa.int64())), starts_D


def _codes(names: pa.ChunkedArray) -> np.ndarray:
    """Each name's number in alphabetical order."""
    encoded = names.combine_chunks().dictionary_encode()
    place = {name: number for number, name in enumerate(sorted(encoded.dictionary.to_pylist()))}
    ranks = np.array([place[name] for name in encoded.dictionary.to_pylist()], np.int64)
    return ranks[encoded.indices.to_numpy()]


def _arrange(draft: Path, folder: Path, index: pa.Table, starts_D: np.ndarray, width: int) -> None:
    """Copy documents from the draft into one file for each language, in the order of the index; `width` in bytes."""
    folder.mkdir()
    if not len(index):
        return
    begins_D, ends_D = starts_D * width, (starts_D + index["tokens"].to_numpy()) * width
    borders = np.flatnonzero(np.diff(_codes(index["language"]), prepend=-1)).tolist()
    tokens = np.memmap(draft, np.uint8, mode="r").data
    for first, end in zip(borders, [*borders[1:], len(index)], strict=True):
        with open(folder / f"{index['language'][first]}.bin", "wb", buffering=2**20) as file:
            places = zip(begins_D[first:end].tolist(), ends_D[first:end].tolist(), strict=True)
            file.writelines(tokens[begin:stop] for begin, stop in places)


def _facts(index: pa.Table) -> dict[str, Any]:
    """Documents, tokens and bytes by language, by source in it, by licence in that."""
    sums = index.group_by(["language", "source", "licence"], use_threads=False).aggregate(
        [("id", "count"), ("tokens", "sum"), ("bytes", "sum"), ("offset", "min")]
    )
    facts: dict[str, Any] = {}
    for row in sums.sort_by([("language", "ascending"), ("source", "ascending"), ("licence", "ascending")]).to_pylist():
        counts = {"documents": row["id_count"], "tokens": row["tokens_sum"], "bytes": row["bytes_sum"]}
        language = facts.setdefault(row["language"], {**dict.fromkeys(counts, 0), "sources": {}})
        source = language["sources"].setdefault(
            row["source"], {"offset": row["offset_min"], **dict.fromkeys(counts, 0), "licences": {}}
        )
        source["offset"] = min(source["offset"], row["offset_min"])
        source["licences"][row["licence"]] = counts
        for key, value in counts.items():
            language[key] += value
            source[key] += value
    return facts
