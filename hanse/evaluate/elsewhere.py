"""How often a passage stands in the text that a model was trained on, asked of the index of `hanse trace`."""

from __future__ import annotations

from collections.abc import Callable

from hanse.store.stage import Artifact, Store
from hanse.trace.index import build, find_index, open_index
from hanse.trace.texts import size_of

#: Bytes of text up to which an index is made when it is needed: some two minutes. Of more it is used if it is there.
INDEXED_AT_ONCE = 2**30


def counter(
    store: Store, dataset: Artifact, progress: Callable[[str, int, int | None], None] | None = None
) -> Callable[[bytes], int] | None:
    """What counts a passage, as bytes of UTF-8, in the text that curation kept, both splits.

    Returns:
        None for a dataset above INDEXED_AT_ONCE that has no index.

    Raises:
        InputError: the text cannot be read, or its index cannot be made.
    """
    index = find_index(store, dataset)
    if index is None and size_of(dataset) <= INDEXED_AT_ONCE:
        index = open_index(build(dataset, store, progress))
    return index.count if index is not None else None
