"""How often a passage stands in the text that a model was trained on, asked of the index of `hanse trace`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from hanse.evaluate.extraction import Attempt
from hanse.serve.detokenize import token_bytes
from hanse.store.stage import Artifact, Store
from hanse.trace.index import build, find_index, open_index
from hanse.trace.texts import size_of

if TYPE_CHECKING:
    from hanse.serve.engine import Engine

Progress = Callable[[str, int, int | None], None]
#: Split and row of a document, and how often its continuation stands in the text.
Standing = Mapping[tuple[str, int], int]
#: Bytes of text up to which an index is made when it is needed: some two minutes. Of more it is used if it is there.
INDEXED_AT_ONCE = 2**30


def standing(
    attempts: Iterable[Attempt], engine: Engine, dataset: Artifact, store: Store | None, progress: Progress | None
) -> Standing | None:
    """How often each continuation that came out stands in the text; None where nobody can say.

    Raises:
        InputError: as `counter`.
    """
    came_out = {(one.passage.split, one.passage.row): one.passage for one in attempts if one.is_extracted}
    if not came_out:
        return {}
    count = counter(store, dataset, progress) if store is not None else None
    if count is None:
        return None
    bytes_of = token_bytes(engine.tokenizer)
    return {place: count(b"".join(bytes_of[each] for each in one.continuation)) for place, one in came_out.items()}


def counter(store: Store, dataset: Artifact, progress: Progress | None = None) -> Callable[[bytes], int] | None:
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
