"""Which documents an extraction test asks about, and at which place of each.

Training reads a stream in windows of T tokens. What a window holds of a document is a *piece*: the model saw its tokens
together, as often as the run read that window. A passage, what is given and what has to follow, is taken from within
one piece that was read. So a run that ends long before its text does can be tested too, on what it read, and nothing is
asked that the model never saw in one go. The documents of the control are cut in the same way.

# D documents of a split, P pieces
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hanse.data.canaries import SOURCE as CANARY
from hanse.data.permutation import mix
from hanse.data.shards import Shards, Stream
from hanse.errors import InputError

Kind = Literal["source", "rights_holder"]
#: Rights holders that get results of their own: those with the most training text.
RIGHTS_HOLDERS = 50


@dataclass(frozen=True)
class Plan:
    """What is asked of each document.

    Attributes:
        prefixes: lengths of the text that is given, in tokens, rising.
        continuation: tokens that have to follow.
    """

    prefixes: tuple[int, ...]
    continuation: int

    @property
    def least(self) -> int:
        """Tokens of the shortest prefix and the continuation: a piece with fewer cannot be tested."""
        return self.prefixes[0] + self.continuation

    @classmethod
    def fitting(cls, prefixes: Sequence[int], continuation: int, *, context: int, window: int | None = None) -> Plan:
        """The plan as far as it fits into a model's context, with the end token that opens a document, and a window.

        The continuation is shortened for the sake of the shortest prefix; longer prefixes that do not fit are left out.

        Args:
            prefixes: lengths that are wanted, in tokens.
            continuation: tokens that should follow.
            context: of the model, in tokens.
            window: tokens that training read at a time. One that has no room for the shortest prefix leaves a plan that
                no piece is long enough for.

        Raises:
            InputError: not even the shortest prefix and one token fit into the context.
        """
        shortest, room = min(prefixes), context - 1
        if room <= shortest:
            raise InputError(
                f"[memorisation] prefix_tokens: {shortest} tokens leave no room in a context of {context}; give a "
                "shorter one."
            )
        if window is not None:
            room = max(min(room, window), shortest + 1)
        kept = min(continuation, room - shortest)
        return cls(tuple(sorted({p for p in prefixes if p + kept <= room})), kept)


@dataclass(frozen=True)
class Pieces:
    """What windows hold of documents, a column each, int64 (P,), in the order of the documents and of their text.

    Attributes:
        document_P: number of the document.
        window_P: number of the window in its stream.
        begin_P, end_P: the first token and the one after the last, from the document's beginning; its end token is left
            out.
    """

    document_P: NDArray[np.int64]
    window_P: NDArray[np.int64]
    begin_P: NDArray[np.int64]
    end_P: NDArray[np.int64]

    @property
    def sizes_P(self) -> NDArray[np.int64]:
        """Tokens of each."""
        return self.end_P - self.begin_P

    def where(self, is_kept_P: NDArray[np.bool_]) -> Pieces:
        """Some of them."""
        return Pieces(*(column[is_kept_P] for column in (self.document_P, self.window_P, self.begin_P, self.end_P)))


@dataclass(frozen=True)
class Population:
    """The documents of a split, a column each, and what of them can be asked about.

    Attributes:
        rows: columns of index.parquet, `rights_holder` ("" where none is recorded), and `words`, (D, 2) uint64: the id.
        pieces: those that the model read; all there are where that is not known, and in the control.
        times_P: how often it read them; None where that is not known.
    """

    split: str
    rows: Mapping[str, NDArray[Any]]
    pieces: Pieces
    times_P: NDArray[np.int64] | None = None

    def members(self, kind: Kind, name: str) -> NDArray[np.bool_]:
        """Which documents are of a source or rights holder, (D,)."""
        is_own_D: NDArray[np.bool_] = self.rows[kind] == name
        return is_own_D

    def read(self, times_P: NDArray[np.int64]) -> Population:
        """With the pieces that were read at least once.

        Args:
            times_P: how often each of the pieces was read.
        """
        is_read_P = times_P > 0
        return replace(self, pieces=self.pieces.where(is_read_P), times_P=times_P[is_read_P])


@dataclass(frozen=True)
class Passage:
    """A place in a document.

    Attributes:
        id, split, language, source, rights_holder, licence: of the document; its `row` in the population.
        piece: number of the piece that holds the place.
        times_read: how often training read that piece; None where that is not known, and in the control.
        at: tokens of the document before the place.
        before: the last of these, as many as the longest prefix that is tested, and the opening token if they begin the
            document.
        continuation: the true tokens that follow.
        longest: that prefix, in tokens.
    """

    id: str
    split: str
    language: str
    source: str
    rights_holder: str
    licence: str
    row: int
    piece: int
    times_read: int | None
    at: int
    before: tuple[int, ...]
    continuation: tuple[int, ...]
    longest: int

    def prompt(self, prefix: int) -> tuple[int, ...]:
        """The tokens that are given; with the one that opens a document where the prefix is its beginning."""
        return self.before[-(prefix + (prefix == self.at)) :]


@dataclass(frozen=True)
class Times:
    """How often pieces were read: the least, the mean over their tokens, and the most."""

    least: int
    mean: float
    most: int


@dataclass(frozen=True)
class Supply:
    """Documents, and how much of them can be tested.

    Attributes:
        documents, tokens: how many there are, and the tokens of their text.
        never_read: documents of which the model read no token; None where that is not known, and in the control.
        read_tokens: tokens that it read, each counted once; None likewise.
        short: documents that it may have read, but no piece of them holds the shortest prefix and the continuation.
        testable, testable_tokens: the others, and the tokens of their pieces that do: the population of the test.
        times_read: of these pieces; None likewise, and where there are none.
    """

    documents: int
    tokens: int
    never_read: int | None
    read_tokens: int | None
    short: int
    testable: int
    testable_tokens: int
    times_read: Times | None


@dataclass(frozen=True)
class Group:
    """The documents of a source or rights holder in one split, and those drawn for the test.

    Attributes:
        drawn: numbers of the documents that are tested, in the order of a keyed hash.
    """

    kind: Kind
    name: str
    split: str
    supply: Supply
    drawn: tuple[int, ...]


def population(shards: Shards, documents: Path, split: str, *, window: int | None = None) -> Population:
    """The documents of a split, canaries left out, and all their pieces.

    Args:
        shards: the documents' tokens.
        documents: the dataset's table.
        split: `train` or `validation`.
        window: tokens that training read at a time; None: each document is one piece.

    Raises:
        InputError: the table lacks a document of the shards.
    """
    index = shards.index()
    index = index.filter(pc.and_(pc.equal(index["split"], split), pc.not_equal(index["source"], CANARY)))
    table = pq.read_table(documents, columns=["id", "rights_holder"], filters=[("split", "=", split)]).combine_chunks()
    found = pc.index_in(index["id"], value_set=table["id"])
    if found.null_count:
        lost = index["id"].filter(pc.is_null(found))[0]
        raise InputError(f"{documents}: lacks the document '{lost}' of the shards; make the shards again.")
    holders = pc.fill_null(table["rights_holder"].take(found), "")
    rows = {name: _column(index[name]) for name in ("id", "language", "source", "licence", "offset", "tokens")}
    words = np.frombuffer(bytes.fromhex("".join(index["id"].to_pylist())), ">u8").reshape(-1, 2).astype(np.uint64)
    rows |= {"rights_holder": _column(holders), "words": words}
    return Population(split, rows, cut(rows, shards.streams(split), window=window))


def _column(values: pa.ChunkedArray) -> NDArray[Any]:
    return np.asarray(values.to_numpy())


def cut(rows: Mapping[str, NDArray[Any]], streams: Sequence[Stream], *, window: int | None) -> Pieces:
    """The pieces of documents.

    Args:
        rows: `language`, `source`, `offset` and `tokens` of index.parquet, a column each.
        streams: those of the documents.
        window: tokens that training reads at a time, counted from the beginning of a stream; None: each document is one
            piece.
    """
    offset_D = rows["offset"].astype(np.int64)
    text_D = rows["tokens"].astype(np.int64) - 1  # the end token is no text
    if window is None:
        every = np.arange(len(offset_D))
        return Pieces(every, np.zeros_like(every), np.zeros_like(every), text_D)
    begin_D = offset_D.copy()
    for stream in streams:
        begin_D[(rows["language"] == stream.language) & (rows["source"] == stream.source)] -= stream.offset
    first_D = begin_D // window
    held_D = np.where(text_D > 0, (begin_D + text_D - 1) // window - first_D + 1, 0)
    document_P = np.repeat(np.arange(len(held_D)), held_D)
    window_P = np.arange(len(document_P)) - np.repeat(np.cumsum(held_D) - held_D - first_D, held_D)
    start_P = begin_D[document_P]
    begin_P = np.maximum(window_P * window - start_P, 0)
    end_P = np.minimum((window_P + 1) * window - start_P, text_D[document_P])
    return Pieces(document_P, window_P, begin_P, end_P)


def names_of(training: Population, kind: Kind) -> tuple[list[str], int]:
    """Who gets results of their own, by name, and how many do not: every source, the largest rights holders.

    Documents without a recorded rights holder count under their source only.
    """
    names, place_D = np.unique(training.rows[kind], return_inverse=True)
    tokens = np.bincount(place_D, weights=training.rows["tokens"], minlength=len(names))
    ranked = [str(names[n]) for n in np.argsort(-tokens, kind="stable") if names[n] != ""]
    kept = ranked if kind == "source" else ranked[:RIGHTS_HOLDERS]
    return sorted(kept), len(ranked) - len(kept)


def supply(pool: Population, plan: Plan, is_own_D: NDArray[np.bool_] | None = None) -> Supply:
    """How much of some documents, or of all, can be tested."""
    own_D = np.ones(len(pool.rows["id"]), bool) if is_own_D is None else is_own_D
    own_P, sizes_P = own_D[pool.pieces.document_P], pool.pieces.sizes_P
    is_testable_P = own_P & (sizes_P >= plan.least)
    documents, testable_tokens = int(own_D.sum()), int(sizes_P[is_testable_P].sum())
    read, testable = (len(np.unique(pool.pieces.document_P[chosen])) for chosen in (own_P, is_testable_P))
    is_known, times_read = pool.times_P is not None, None
    if pool.times_P is not None and testable:
        times_P = pool.times_P[is_testable_P]
        mean = float(np.average(times_P, weights=sizes_P[is_testable_P]))
        times_read = Times(int(times_P.min()), round(mean, 4), int(times_P.max()))
    return Supply(
        documents=documents,
        tokens=int((pool.rows["tokens"][own_D] - 1).sum()),
        never_read=documents - read if is_known else None,
        read_tokens=int(sizes_P[own_P].sum()) if is_known else None,
        short=read - testable,
        testable=testable,
        testable_tokens=testable_tokens,
        times_read=times_read,
    )


def draw(pool: Population, kind: Kind, name: str, plan: Plan, *, most: int, seed: int) -> Group:
    """Choose documents to test: the first by a keyed hash of their ids among those with a piece that is long enough."""
    is_own_D = pool.members(kind, name)
    own = np.unique(pool.pieces.document_P[pool.pieces.sizes_P >= plan.least])
    own = own[is_own_D[own]]
    order = np.argsort(mix(pool.rows["words"][own, 0], key=_key(seed)), kind="stable")
    return Group(kind, name, pool.split, supply(pool, plan, is_own_D), tuple(own[order[:most]].tolist()))


def choose(shards: Shards, pool: Population, chosen: Sequence[int], plan: Plan, *, seed: int) -> list[Passage]:
    """One place in each document, by a keyed hash, among all behind the longest prefix that a piece of it has room for.

    Args:
        shards: the documents' tokens.
        pool: the documents.
        chosen: numbers of those that are tested, each with a piece that is long enough.
        plan: what is asked.
        seed: of the hash.
    """
    words = mix(pool.rows["words"][list(chosen), 1], key=_key(seed)).tolist() if chosen else []
    return [_passage(shards, pool, row, plan, int(word)) for row, word in zip(chosen, words, strict=True)]


def _passage(shards: Shards, pool: Population, row: int, plan: Plan, word: int) -> Passage:
    about = {name: str(pool.rows[name][row]) for name in ("id", "language", "source", "rights_holder", "licence")}
    first, last = np.searchsorted(pool.pieces.document_P, [row, row + 1])
    begins, sizes = pool.pieces.begin_P[first:last], pool.pieces.sizes_P[first:last]
    longest = max(prefix for prefix in plan.prefixes if prefix + plan.continuation <= sizes.max())
    places = np.maximum(sizes - longest - plan.continuation + 1, 0)  # of each piece
    chosen = word % int(places.sum())
    held = int(np.searchsorted(np.cumsum(places), chosen, side="right"))
    at = int(begins[held]) + longest + chosen - int(places[:held].sum())
    offset = int(pool.rows["offset"][row])
    ids = shards.tokens(pool.split, about["language"])[offset : offset + at + plan.continuation].tolist()
    text = [shards.end_of_text, *ids]
    before = tuple(text[: at + 1] if at == longest else text[at + 1 - longest : at + 1])
    piece = int(first) + held
    return Passage(
        **about, split=pool.split, row=row, piece=piece,
        times_read=None if pool.times_P is None else int(pool.times_P[piece]),
        at=at, before=before, continuation=tuple(text[at + 1 :]), longest=longest,
    )  # fmt: skip


def _key(seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/memorisation".encode()).digest()[:8])
