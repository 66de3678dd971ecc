"""Duplicates: of all documents that say the same, word for word or nearly, one stays, the one of the best rank.

Exact: the same normalised text. Near: MinHash with 112 hashes of word 5-grams in 14 bands of 8 rows (Broder 1997; the
S-curve passes one half at a Jaccard similarity of 0.69). Each band, and the exact text as one more, gives edges between
documents that agree in it; connected components are the clusters.

Signatures are Daft's. Grouping goes one band at a time, so memory is bounded by one column of all documents: by a sort
here, by Daft on a Ray cluster. Daft is shown only our own Parquet files with a fixed schema, never the sources.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

_SOURCE_BITS, _ORDINAL_BITS = 16, 44

BANDS, ROWS = 14, 8
NGRAM_WORDS = 5
# Below, a handful of shingles says little: sentences from one template would swallow each other.
NEAR_CHARACTERS = 200
BAND_NAMES = tuple(f"band_{band:02d}" for band in range(BANDS))
KEYS = ("id", *BAND_NAMES)  # documents that agree in one of these belong together


def rank(*, duties: int, source_index: int, ordinal: int) -> int:
    """A number that orders copies, smallest best: fewest licence duties, then source order, then reading order."""
    return (duties << (_SOURCE_BITS + _ORDINAL_BITS)) | (source_index << _ORDINAL_BITS) | ordinal


def bands(texts: pa.Array, is_wanted: np.ndarray) -> dict[str, pa.Array]:
    """The LSH bands of each text, uint64 by BAND_NAMES; null where not wanted.

    Args:
        texts: strings.
        is_wanted: which texts take part, bool.
    """
    daft = import_daft()
    from daft.functions import minhash, normalize

    places = np.flatnonzero(is_wanted)
    found = np.zeros((len(texts), BANDS), np.uint64)
    if len(places):
        wanted = pa.table({"text": texts.take(pa.array(places)).cast(pa.large_string())})
        # Words as compared: without case, punctuation and doubled white space.
        plain = normalize(daft.col("text"), remove_punct=True, lowercase=True, nfd_unicode=False, white_space=True)
        signed = daft.from_arrow(wanted).select(
            minhash(plain, num_hashes=BANDS * ROWS, ngram_size=NGRAM_WORDS, seed=1, hash_function="xxhash").alias(
                "signature"
            )
        )
        column = signed.to_arrow()["signature"].combine_chunks()
        hashes = column.flatten().to_numpy(zero_copy_only=False).astype(np.uint64).reshape(-1, BANDS, ROWS)
        found[places] = _folded(hashes)
        # Nothing but punctuation: without words every such signature is the same.
        is_wanted = is_wanted.copy()
        is_wanted[places] = (hashes != np.iinfo(np.uint32).max).any(axis=(1, 2))
    mask = ~is_wanted
    return {name: pa.array(found[:, band], mask=mask) for band, name in enumerate(BAND_NAMES)}


def _folded(hashes: np.ndarray) -> np.ndarray:
    """Eight hashes to one, (documents, BANDS): multiply and shift, as in splitmix64."""
    key = np.zeros(hashes.shape[:2], np.uint64)
    for row in range(ROWS):
        key = (key ^ hashes[:, :, row]) * np.uint64(0xBF58476D1CE4E5B9)
        key ^= key >> np.uint64(29)
    return key


@dataclass(frozen=True)
class Clusters:
    """What became of the documents that have a copy.

    Attributes:
        ordinals: of the documents that another one makes superfluous, sorted, int64.
        survivors: the ordinal of the one that stays for each of them, int64.
    """

    ordinals: np.ndarray
    survivors: np.ndarray


def clusters(
    parts: Sequence[Path], scratch: Path, *, near: bool, engine: str = "local", leaving: np.ndarray | None = None
) -> Clusters:
    """Find all copies among the documents of the annotated parts.

    Only documents without a reason to drop take part: a copy that may not be used must not displace one that may.

    Args:
        parts: Parquet files with the columns ordinal, rank, id, bands and drop_reason.
        scratch: edges of each key are kept here, so that a run that was killed does not compute them again.
        near: also near duplicates.
        engine: "local" or "ray".
        leaving: ordinals of documents that will be left out; one of them stays only where no other copy is.
    """
    found = [edges(parts, key, scratch, engine=engine) for key in (KEYS if near else KEYS[:1])]
    left, right = np.concatenate(found, axis=1)
    nodes, ends = np.unique(np.concatenate((left, right)), return_inverse=True)
    if not len(nodes):
        return Clusters(nodes, nodes)
    labels = _components(ends[: len(left)], ends[len(left) :], len(nodes))
    ranks = _ranks(parts, nodes)
    if leaving is not None:
        ranks[np.isin(nodes, leaving)] = np.iinfo(np.int64).max
    best = np.lexsort((ranks, labels))
    is_first = np.r_[True, labels[best][1:] != labels[best][:-1]]
    survivors = nodes[best[is_first]][labels]
    is_superfluous = survivors != nodes
    return Clusters(nodes[is_superfluous], survivors[is_superfluous])


def edges(parts: Sequence[Path], key: str, scratch: Path, *, engine: str = "local") -> np.ndarray:
    """Pairs (document, first document that agrees with it in one of KEYS), ordinals, int64 (2, pairs), sorted.

    They are kept in `scratch`, which is how one band can be the work of another job.
    """
    kept = scratch / f"edges-{key}.npy"
    if kept.exists():
        found: np.ndarray = np.load(kept, allow_pickle=False)
        return found
    members, starts = (_groups_on_ray if engine == "ray" else _groups)(parts, key)
    lengths = np.diff(np.append(starts, len(members)))
    firsts = np.minimum.reduceat(members, starts) if len(starts) else members
    pairs = np.stack((members, np.repeat(firsts, lengths)))
    pairs = pairs[:, pairs[0] != pairs[1]]
    pairs = pairs[:, np.argsort(pairs[0], kind="stable")]
    draft = kept.with_name(f".{os.getpid()}.{kept.name}")
    np.save(draft, pairs, allow_pickle=False)
    os.replace(draft, kept)
    return pairs


def _groups(parts: Sequence[Path], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Ordinals of documents that share their key with another, group by group, and where each group starts.

    24 bytes a document and a sort; Daft's own start costs more than that up to some million documents.
    """
    values, ordinals = [], []
    for path in parts:
        table = pq.read_table(path, columns=[key, "ordinal", "drop_reason"])
        stays = pc.and_(pc.equal(pc.list_value_length(table["drop_reason"]), 0), pc.is_valid(table[key]))
        table = table.filter(stays)
        values.append(_numbers(table[key]))
        ordinals.append(table["ordinal"].to_numpy())
    value, ordinal = np.concatenate(values), np.concatenate(ordinals)
    order = np.lexsort(value.T)
    value, ordinal = value[order], ordinal[order]
    is_same = np.zeros(len(value), bool)  # as the one before
    is_same[1:] = (value[1:] == value[:-1]).all(axis=1)
    is_member = is_same.copy()
    is_member[:-1] |= is_same[1:]
    return ordinal[is_member], np.flatnonzero(~is_same[is_member])


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    """A key as uint64 (documents, 1 or 2): bands are numbers, ids 32 hexadecimal digits."""
    if pa.types.is_string(column.type):
        return np.frombuffer(bytes.fromhex("".join(column.to_pylist())), ">u8").reshape(-1, 2).astype(np.uint64)
    return column.to_numpy()[:, None]


def _groups_on_ray(parts: Sequence[Path], key: str) -> tuple[np.ndarray, np.ndarray]:
    """As `_groups`, by Daft on the cluster that Ray is connected to."""
    daft = import_daft("ray")
    rows = daft.read_parquet([str(path) for path in parts])
    groups = (
        rows.where((daft.col("drop_reason").list_count("all") == 0) & daft.col(key).not_null())
        .select(key, "ordinal")
        .groupby(key)
        .agg(daft.col("ordinal").list_agg().alias("members"))
        .where(daft.col("members").list_count("all") > 1)
        .select("members")
        .to_arrow()["members"]
        .combine_chunks()
    )
    lengths = np.diff(groups.offsets.to_numpy())
    return groups.flatten().to_numpy().astype(np.int64), np.cumsum(lengths) - lengths


def _components(left: np.ndarray, right: np.ndarray, nodes: int) -> np.ndarray:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(left), bool), (left, right)), shape=(nodes, nodes))
    labels: np.ndarray = connected_components(graph, directed=False)[1]
    return labels


def _ranks(parts: Sequence[Path], nodes: np.ndarray) -> np.ndarray:
    """The rank of each node; `nodes` are sorted ordinals."""
    ranks = np.zeros(len(nodes), np.int64)
    for path in parts:
        table = pq.read_table(path, columns=["ordinal", "rank"])
        ordinals = table["ordinal"].to_numpy()
        places = np.minimum(np.searchsorted(nodes, ordinals), len(nodes) - 1)
        hit = nodes[places] == ordinals
        ranks[places[hit]] = table["rank"].to_numpy()[hit]
    return ranks


@functools.cache
def import_daft(engine: str = "local") -> Any:
    """Daft with its telemetry off: any one of these is enough, but only before the import."""
    os.environ.update(DAFT_ANALYTICS_ENABLED="0", DO_NOT_TRACK="1", SCARF_NO_ANALYTICS="1")
    os.environ.update(RAY_USAGE_STATS_ENABLED="0")
    os.environ.setdefault("DAFT_PROGRESS_BAR", "0")
    import daft

    if engine == "ray":
        daft.set_runner_ray()
    else:
        daft.set_runner_native()  # unasked, Daft looks for Ray by importing it
    return daft
