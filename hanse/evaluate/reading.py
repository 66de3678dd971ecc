"""What training read, by the record: how often each piece of text, which conversations, and which targets were hidden.

Text that a run never came to cannot have been learnt, so an extraction test over it would flatter the model.

# D documents, P pieces of documents
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from hanse.data import conversations as talk
from hanse.data.loader import IGNORED, Loader
from hanse.data.mixture import Mixture
from hanse.data.shards import Shards
from hanse.data.tokenizer import Tokenizer
from hanse.errors import InputError
from hanse.evaluate.passages import Pieces, cut
from hanse.recipe import Pretrain, Tune
from hanse.store import record as records
from hanse.store.layout import MARKER
from hanse.store.stage import Artifact, Store
from hanse.trace.exposure import Course, sample_of_turn, window_times
from hanse.trace.seen import dropped_steps, is_used
from hanse.train.goldfish import hide
from hanse.train.ramp import Ramp
from hanse.tune.sft import PackedConversations, Packing
from hanse.tune.template import render_all


@dataclass(frozen=True)
class Reading:
    """A finished pre-training.

    Attributes:
        goldfish: one target in so many was hidden; 0: none.
        loader: gives its samples.
        course: which of them are in the weights.
    """

    goldfish: int
    loader: Loader
    course: Course

    @property
    def window(self) -> int:
        """Tokens that it read at a time."""
        return self.loader.mixture.sequence_length

    def times(self, rows: Mapping[str, NDArray[Any]], pieces: Pieces) -> NDArray[np.int64]:
        """How often each piece of training documents was read, (P,).

        Args:
            rows: `language` and `source` of index.parquet, a column each.
            pieces: of these documents, cut by `window`.
        """
        times_P = np.zeros(len(pieces.document_P), np.int64)
        for number, stream in enumerate(self.loader.mixture.streams):
            is_own_D = (rows["language"] == stream.language) & (rows["source"] == stream.source)
            own = np.flatnonzero(is_own_D[pieces.document_P])
            if len(own):
                windows, place_P = np.unique(pieces.window_P[own], return_inverse=True)
                times_P[own] = window_times(self.loader, self.course, number, windows)[place_P]
        return times_P

    def whole_times(self, rows: Mapping[str, NDArray[Any]]) -> NDArray[np.int64]:
        """How often the least read piece of each training document was read, (D,).

        Args:
            rows: `language`, `source`, `offset` and `tokens` of index.parquet, a column each.
        """
        pieces = cut(rows, self.loader.mixture.streams, window=self.window)
        never = np.iinfo(np.int64).max
        least_D = np.full(len(rows["offset"]), never)
        np.minimum.at(least_D, pieces.document_P, self.times(rows, pieces))
        return np.where(least_D == never, 0, least_D)

    def hidden(self, row: Mapping[str, Any], window: int, begin: int, end: int) -> int:
        """Targets in a piece of a training document that the Goldfish loss hid.

        Args:
            row: of the document in index.parquet.
            window: number of the one that holds the piece; it was read.
            begin, end: the first token of the piece and the one after its last, from the document's beginning.
        """
        if not self.goldfish:
            return 0
        mixture = self.loader.mixture
        names = (row["language"], row["source"])
        number = next(n for n, each in enumerate(mixture.streams) if (each.language, each.source) == names)
        # A window that was read in any pass has its turn in the first one.
        turn = int(self.loader.turns_of(number, np.array([window]), 0)[0])
        batch = self.loader.batch(sample_of_turn(mixture, number, turn), 1)
        left_BT = hide(batch.tokens_BT, batch.targets_BT, k=self.goldfish)
        first = int(row["offset"]) - mixture.streams[number].offset - window * self.window
        return int((left_BT[0, first + begin : first + end] == IGNORED).sum())


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
            dropped, unknown = dropped_steps(model)
            if unknown:
                return None
            rollbacks = model.facts.get("rollbacks") or ()
            course = Course.of(settings.ramp, settings.sequence_length, rollbacks=rollbacks, dropped=dropped)
            loader = Loader(opened, mixture, seed=int(definition["seed"]))
        except (InputError, ValidationError, KeyError, TypeError, ValueError):
            return None  # a record of another time, or an edited one, says nothing that could be relied on
        return Reading(settings.goldfish, loader, course)
    return None


def shown_of(line: Sequence[Artifact], conversations: Artifact) -> set[int] | None:
    """Which conversations the tuning of a line showed, by their numbers in `train.jsonl`, from 0.

    None where no record says so.
    """
    tuned = [model for model in line if "tune" in records.definition_of(model.record)]
    if any(conversations.digest not in {each.digest for each in records.inputs_of(model.record)} for model in tuned):
        return None
    try:
        shown = [_shown(model, conversations.path / "train.jsonl") for model in tuned]
    except (InputError, ValidationError, OSError, KeyError, TypeError, ValueError):
        return None
    return set().union(*shown) if shown else None


def _shown(model: Artifact, path: Path) -> set[int]:
    """What one tuning showed. Raises ValueError if the record does not say it."""
    definition, facts = records.definition_of(model.record), model.facts
    settings, seed = Tune.model_validate(definition["tune"]), int(definition["seed"])
    length, rows = settings.sequence_length, settings.batch_tokens // settings.sequence_length
    lines = [
        (number, row["messages"]) for number, row in enumerate(talk.read(path)) if row["source"] == settings.source
    ]
    # The rows that do not fill a last step are left out. If a further pass has more than these, the first was whole. No
    # row holds more than `length` conversations. Planning the rows takes as long as the whole test, so it is avoided.
    has_whole_pass = int((settings.epochs - 1) * len(lines)) // length >= rows
    is_untroubled = not facts.get("skipped") and not facts.get("rollbacks")
    if has_whole_pass and is_untroubled and facts.get("conversations") == len(lines):
        return {number for number, _ in lines}
    rendered = render_all(Tokenizer.load(model.path).hf, [messages for _, messages in lines])
    packed = PackedConversations(rendered, Packing(length, rows, (range(rows),), settings.epochs, seed))
    used = [number for (number, _), each in zip(lines, rendered, strict=True) if is_used(each, length)]
    dropped, unknown = dropped_steps(model)
    if unknown or {packed.conversations, facts.get("conversations", len(used))} != {len(used)}:
        raise ValueError("the record and the conversations contradict each other")
    ramp = Ramp.of(rows, total_rows=packed.steps * rows, share=0.0)
    course = Course.of(ramp, length, rollbacks=facts.get("rollbacks") or (), dropped=dropped)
    return {used[place] for _, _, step in course.steps() for place in packed.shown_at(step)}
