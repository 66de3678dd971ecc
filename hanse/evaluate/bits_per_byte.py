"""Bits per byte of held-out text: how well the model predicts.

For a document it is the sum of -log2 p over its tokens, the end token included, divided by its UTF-8 bytes. Comparable
across tokenizers and, on parallel text, across languages.

# T positions of all windows of a batch, N those that are counted, D hidden
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from hanse.data.shards import Shards
from hanse.errors import InputError
from hanse.evaluate.scores import Measured

if TYPE_CHECKING:
    from hanse.model.transformer import Transformer

Progress = Callable[[str, int, int | None], None]
#: At most this much of one document, from its beginning: so that one book does not fill a language's share.
DOCUMENT_BYTES = 20_000
#: Tokens of one forward pass, and of one block of logits (2048 x 32,768 float32 are 256 MB).
BATCH_TOKENS, LOGIT_ROWS = 8192, 2048


@dataclass(frozen=True)
class Document:
    """A held-out document, or its beginning.

    Attributes:
        tokens: the end token that opens it, as in training, and its ids, each of which is predicted.
        bytes: UTF-8 bytes of the text that the tokens stand for.
    """

    id: str
    language: str
    source: str
    tokens: NDArray[np.int64]
    bytes: int


@dataclass(frozen=True)
class Window:
    """A stretch of one document: positions `begin` to `end` are fed; those from `counted` on predict what follows."""

    document: int
    begin: int
    counted: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.begin


def windows(document: int, length: int, *, context: int) -> Iterator[Window]:
    """Cut the positions of a document so that each predicts once, with as much before it as fits.

    A document that fits is one window. Otherwise each later window predicts in its last three quarters and reads its
    first quarter again, so no prediction but the document's first ones sees less than context / 4.
    """
    end = min(length, context)
    yield Window(document, 0, 0, end)
    step = max(1, context - context // 4)
    while end < length:
        counted, end = end, min(length, end + step)
        yield Window(document, max(0, end - context), counted, end)


def bits(
    model: Transformer, documents: Sequence[Document], *, context: int | None = None, progress: Progress | None = None
) -> NDArray[np.float64]:
    """Sum of -log2 p over the tokens of each document, (len(documents),).

    Args:
        model: in float32, on its device.
        documents: at least one token each after the one that opens it.
        context: the most tokens that a prediction sees; by default all that the model can.
    """
    context = context or model.config.max_position_embeddings
    pieces = [
        window
        for number, document in enumerate(documents)
        for window in windows(number, len(document.tokens) - 1, context=context)
    ]
    # Equal lengths together: the model attends to documents of one length in one product.
    pieces.sort(key=lambda window: (-window.size, window.document, window.begin))
    found = np.zeros(len(documents))
    total, done = sum(window.size for window in pieces), 0
    for batch in _batches(pieces):
        owner_N, bits_N = _score(model, documents, batch)
        np.add.at(found, owner_N, bits_N)
        done += sum(window.size for window in batch)
        if progress is not None:
            progress("held-out tokens", done, total)
    return found


def _batches(pieces: Sequence[Window]) -> Iterator[list[Window]]:
    """Windows in their order, at most BATCH_TOKENS a batch (or one window that alone is longer)."""
    batch: list[Window] = []
    room = BATCH_TOKENS
    for window in pieces:
        if batch and window.size > room:
            yield batch
            batch, room = [], BATCH_TOKENS
        batch.append(window)
        room -= window.size
    if batch:
        yield batch


@torch.inference_mode()
def _score(
    model: Transformer, documents: Sequence[Document], batch: Sequence[Window]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """For each counted prediction of the windows: its document's number, and -log2 p. Both (N,)."""
    tokens, targets, borders, is_counted, owners = [], [], [], [], []
    for number, window in enumerate(batch):
        text = documents[window.document].tokens
        tokens.append(text[window.begin : window.end])
        targets.append(text[window.begin + 1 : window.end + 1])
        borders.append(np.full(window.size, number))
        is_counted.append(np.arange(window.begin, window.end) >= window.counted)
        owners.append(np.full(window.size, window.document))
    device = next(model.parameters()).device
    # One row: windows cannot see each other, so nothing has to be padded.
    tokens_1T, borders_1T = (torch.from_numpy(np.concatenate(part))[None].to(device) for part in (tokens, borders))
    counted_T = np.concatenate(is_counted)
    hidden_ND = model(tokens_1T, borders_1T)[0][torch.from_numpy(counted_T).to(device)]
    targets_N = torch.from_numpy(np.concatenate(targets)[counted_T]).to(device)
    nats_N = torch.cat(
        [
            F.cross_entropy(model.logits(hidden_ND[start : start + LOGIT_ROWS]), target_N, reduction="none")
            for start, target_N in zip(
                range(0, len(targets_N), LOGIT_ROWS), torch.split(targets_N, LOGIT_ROWS), strict=True
            )
        ]
    )
    return np.concatenate(owners)[counted_T], nats_N.cpu().double().numpy() / np.log(2.0)


# --------------------------------------------------------------------------- which documents


def choose(
    shards: Path, *, bytes_per_language: int, seed: int, sizes: Sequence[int], split: str = "validation"
) -> list[Document]:
    """Held-out documents of each language in the order of a keyed hash of their ids, up to a number of bytes.

    Args:
        shards: folder of a shards artifact.
        bytes_per_language: enough; the last document may go beyond by DOCUMENT_BYTES.
        seed: another seed, another choice.
        sizes: bytes of each token id, to cut long documents at a token and still know their bytes.

    Raises:
        InputError: if the shards do not fit their index.
    """
    opened = Shards.open(shards)
    index = opened.index()
    rows = index.filter(pc.equal(index["split"], split)).to_pylist()
    length_of = np.asarray(sizes, dtype=np.int64)
    documents: list[Document] = []
    for language in sorted({row["language"] for row in rows}):
        ids = opened.tokens(split, language)
        room = bytes_per_language
        members = [row for row in rows if row["language"] == language and row["tokens"] > 0]
        for row in sorted(members, key=lambda row: _draw(row, seed)):
            if room <= 0:
                break
            held = ids[row["offset"] : row["offset"] + row["tokens"]]
            document = _cut(row, held, length_of, shards, end_of_text=opened.end_of_text)
            if document.bytes > 0:
                documents.append(document)
                room -= document.bytes
    return documents


def _cut(
    row: dict[str, Any], ids: NDArray[Any], length_of: NDArray[np.int64], shards: Path, *, end_of_text: int
) -> Document:
    """The document, or as many of its tokens as DOCUMENT_BYTES hold."""
    tokens = ids.astype(np.int64)
    if len(tokens) != row["tokens"] or tokens.max() >= len(length_of):
        raise InputError(f"{shards}: document '{row['id']}' does not fit index.parquet; make the shards again.")
    ends = length_of[tokens].cumsum()
    # The end token has no bytes and stays with a text that is whole.
    count = int(np.searchsorted(ends, DOCUMENT_BYTES, side="right"))
    size = int(ends[count - 1]) if count else 0
    opened = np.concatenate(([end_of_text], tokens[:count]))
    return Document(row["id"], row["language"], row["source"], opened, size)


def _draw(row: dict[str, Any], seed: int) -> bytes:
    return hashlib.sha256(f"{seed}/bits_per_byte/{row['id']}".encode()).digest()


def measure(documents: Sequence[Document], bits_of: NDArray[np.float64]) -> list[Measured]:
    """One item a document: its bits over its bytes, filed under its source."""
    return [
        Measured(document.language, document.source, float(amount), float(document.bytes))
        for document, amount in zip(documents, bits_of, strict=True)
    ]
