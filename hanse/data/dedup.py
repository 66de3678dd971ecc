"""Exact duplicates: of all documents with the same normalised text one stays, the one of the best rank.

The set operations run on Daft, which keeps them within bounded memory on a laptop and runs the same plan on Ray. Daft
is shown only our own Parquet files with a fixed schema, never the sources.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

_SOURCE_BITS, _ORDINAL_BITS = 16, 44


def rank(*, duties: int, source_index: int, ordinal: int) -> int:
    """A number that orders copies, smallest best: fewest licence duties, then source order, then reading order."""
    return (duties << (_SOURCE_BITS + _ORDINAL_BITS)) | (source_index << _ORDINAL_BITS) | ordinal


def duplicates(ingest: Path) -> np.ndarray:
    """The documents that another, better ranked one makes superfluous.

    Only documents without a reason to drop take part: a copy that may not be used must not displace one that may.

    Args:
        ingest: Parquet with the columns cluster, rank, ordinal and drop_reason.

    Returns:
        Their ordinals, sorted, int64.
    """
    daft = _daft()
    rows = (
        daft.read_parquet(str(ingest))
        .where(daft.col("drop_reason").list_count() == 0)
        .select("cluster", "rank", "ordinal")
    )
    best = rows.groupby("cluster").agg(daft.col("rank").min().alias("best"), daft.col("rank").count().alias("copies"))
    superfluous = (
        rows.join(best.where(daft.col("copies") > 1), on="cluster")
        .where(daft.col("rank") != daft.col("best"))
        .select("ordinal")
        .to_arrow()
    )
    return np.sort(superfluous.column("ordinal").to_numpy().astype(np.int64))


def _daft() -> Any:
    """Daft with its telemetry off: any one of these is enough, but only before the import."""
    os.environ.update(DAFT_ANALYTICS_ENABLED="0", DO_NOT_TRACK="1", SCARF_NO_ANALYTICS="1")
    os.environ.setdefault("DAFT_PROGRESS_BAR", "0")
    import daft

    return daft
