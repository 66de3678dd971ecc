"""What a pre-training read of its shards, by the record: how often each document, and which targets were hidden.

Text that a run never came to cannot have been learnt, so an extraction test over it would flatter the model.

# D documents, W windows of a stream, N windows of a document, T positions of a window
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from hanse.data.loader import IGNORED, Loader, split_windows
from hanse.data.mixture import Mixture
from hanse.data.shards import Shards
from hanse.errors import InputError
from hanse.recipe import Pretrain
from hanse.store import record as records
from hanse.store.layout import MARKER
from hanse.store.stage import Artifact, Store
from hanse.trace.exposure import Course, window_times
from hanse.train.goldfish import hide


@dataclass(frozen=True)
class Reading:
    """A finished pre-training.

    Attributes:
        goldfish: one target in so many was hidden; 0: none.
        loader: gives its samples.
        course: which of them are in the weights.
        shards: what was read.
    """

    goldfish: int
    loader: Loader
    course: Course
    shards: Shards

    def times(self, rows: Mapping[str, NDArray[Any]]) -> NDArray[np.int64]:
        """How often the least read part of each training document was read, (D,).

        Args:
            rows: `language`, `source`, `offset` and `tokens` of index.parquet, a column each.
        """
        found_D = np.zeros(len(rows["offset"]), np.int64)
        for number, stream in enumerate(self.loader.mixture.streams):
            own = np.flatnonzero((rows["language"] == stream.language) & (rows["source"] == stream.source))
            if not len(own):
                continue
            windows_W = np.arange(int(self.loader.mixture.windows_S[number]))
            times_W = window_times(self.loader, self.course, number, windows_W)
            begin_D = rows["offset"][own] - stream.offset
            first_D, last_D = self._windows(begin_D, rows["tokens"][own])
            # Each document's windows, from its first to its last; between two of them reduceat gives what is not asked.
            borders = np.stack([first_D, last_D + 1], axis=1).ravel()
            found_D[own] = np.minimum.reduceat(np.append(times_W, np.iinfo(np.int64).max), borders)[::2]
        return found_D

    def hidden(self, row: Mapping[str, Any]) -> tuple[int, int]:
        """Targets of a document that the Goldfish loss hid, and all its targets: its tokens, the end token included.

        Args:
            row: of index.parquet, in the training split.
        """
        if not self.goldfish:
            return 0, int(row["tokens"])
        length = self.loader.mixture.sequence_length
        stream = next(
            s for s in self.loader.mixture.streams if (s.language, s.source) == (row["language"], row["source"])
        )
        ids = self.shards.tokens("train", stream.language)
        begin = int(row["offset"]) - stream.offset
        first, last = (int(each[0]) for each in self._windows(np.array([begin]), np.array([row["tokens"]])))
        samples_NT = np.full((last - first + 1, length + 1), self.loader.end_of_text, np.int64)
        for place, window in enumerate(range(first, last + 1)):
            start = stream.offset + window * length - 1
            piece = ids[max(0, start) : stream.offset + min((window + 1) * length, stream.tokens)]
            skipped = 1 if start < 0 else 0
            samples_NT[place, skipped : skipped + len(piece)] = piece
        tokens_NT, targets_NT, _ = split_windows(samples_NT, self.loader.end_of_text)
        left_NT = hide(torch.from_numpy(tokens_NT), torch.from_numpy(targets_NT), k=self.goldfish).numpy()
        inside = slice(begin - first * length, begin - first * length + int(row["tokens"]))
        targets, left = targets_NT.ravel()[inside], left_NT.ravel()[inside]
        return int(((targets != IGNORED) & (left == IGNORED)).sum()), int((targets != IGNORED).sum())

    def _windows(self, begin_D: NDArray[Any], tokens_D: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """The first and the last window of documents that begin at these tokens of their stream."""
        length = self.loader.mixture.sequence_length
        return begin_D // length, (begin_D + tokens_D - 1) // length


def line_of(model_folder: Path) -> list[Artifact]:
    """A model and the models it was tuned from, the youngest first, as far as the store has those that records name.

    Empty where the folder does not lie in a store.
    """
    folder = model_folder.absolute()
    if len(folder.parents) < 3 or not (folder.parents[2] / MARKER).is_file():
        return []
    store = Store.open(folder.parents[2], create=False)
    return list(_line(store, store.find("/".join(folder.parts[-3:]))))


def _line(store: Store, model: Artifact) -> Iterator[Artifact]:
    yield model
    for named in records.inputs_of(model.record):
        if named.role == "model":
            try:
                parent = store.find(named.ref)
            except InputError:
                return
            if parent.digest == named.digest:
                yield from _line(store, parent)


def tuned_on(line: Sequence[Artifact]) -> frozenset[str]:
    """Names of the sources of conversations that the models of a line were tuned on."""
    definitions = [records.definition_of(model.record) for model in line]
    return frozenset(str(each["tune"]["source"]) for each in definitions if "tune" in each)


def read_of(line: Sequence[Artifact], shards: Artifact) -> Reading | None:
    """What the pre-training of a line read of these shards; None where no record says so."""
    for model in line:
        definition = records.definition_of(model.record)
        if "pretrain" not in definition:
            continue
        if shards.digest not in {each.digest for each in records.inputs_of(model.record)}:
            return None
        try:
            settings = Pretrain.model_validate(definition["pretrain"])
            opened = Shards.open(shards.path)
            mixture = Mixture.of(opened, settings)
            rollbacks = model.facts.get("rollbacks", [])
            course = Course.of(settings.ramp, settings.sequence_length, rollbacks=rollbacks)
            loader = Loader(opened, mixture, seed=int(definition["seed"]))
        except (InputError, ValidationError, KeyError, TypeError, ValueError):
            return None  # a record of another time, or an edited one, says nothing that could be relied on
        return Reading(settings.goldfish, loader, course, opened)
    return None
