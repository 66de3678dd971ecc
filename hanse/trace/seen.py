"""What a finished model saw of documents or conversations, from its record and what it was trained on.

The definition in the record says how the run was dealt out, its facts say where it went back and what it left out.
Where these do not agree with each other or with the text, nothing is computed, and the reason is given instead.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hanse.data.loader import Loader
from hanse.data.mixture import Mixture, table
from hanse.data.shards import Shards
from hanse.errors import InputError
from hanse.recipe import Pretrain, Tune
from hanse.store import record as records
from hanse.store.digest import RECORD, RUN, sha256_file
from hanse.store.stage import Artifact
from hanse.trace.exposure import Course, Exposure, Extents, exposure, exposure_in_rows
from hanse.trace.matching import CONVERSATIONS, Spoken
from hanse.train.ramp import Ramp

if TYPE_CHECKING:
    from hanse.tune.template import Rendered

METRICS = f"{RUN}/metrics.jsonl"
EPOCHS_APART = 2e-4  # mixture.json rounds to four places


@dataclass(frozen=True)
class Kept:
    """A checkpoint that was kept: its folder below the artifact, its step, and what it had seen by then."""

    folder: str
    step: int
    trained_tokens: int


@dataclass(frozen=True)
class Seen:
    """What a model saw of one artifact's text.

    Attributes:
        of: that artifact, `kind/name/version`.
        exposure: None where it cannot be computed; then `why` says why.
        steps, tokens: optimizer steps of the run, and the tokens that they read.
        checkpoints: those that were kept.
        notes: what the figures do not say.
    """

    of: str
    exposure: Exposure | None = None
    why: str = ""
    steps: int = 0
    tokens: int = 0
    checkpoints: tuple[Kept, ...] = ()
    notes: tuple[str, ...] = ()


class _Contradiction(Exception):
    """The record does not fit what it is about."""


def in_pretraining(model: Artifact, shards: Artifact, rows: pa.Table) -> Seen:
    """What pre-training saw of documents.

    Args:
        model: the one that was trained.
        shards: what it was trained on.
        rows: of the shards' index, for the documents that are asked about.
    """
    try:
        definition = records.definition_of(model.record)
        settings, seed = Pretrain(**definition["pretrain"]), int(definition["seed"])
        opened = Shards.open(shards.path)
        mixture = Mixture.of(opened, settings)
        _require_mixture(model, mixture)
        _require_facts(model, steps=settings.steps, tokens=settings.tokens)
        dropped, notes = dropped_steps(model)
        course = _course(model, settings.ramp, settings.sequence_length, dropped)
    except (InputError, _Contradiction) as error:
        return Seen(shards.ref, why=str(error))
    except (KeyError, TypeError, ValueError) as error:
        return Seen(shards.ref, why=f"its {RECORD} does not say how it was trained ({_one_line(error)})")
    loader, extents = Loader(opened, mixture, seed=seed), _extents(mixture, rows)
    if settings.goldfish:
        notes.append(f"one token in {settings.goldfish} of these was read but never predicted (goldfish)")
    checkpoints = [
        Kept(f"{RUN}/{path.name}", step, exposure(loader, course.until(step), extents).trained_tokens)
        for step, path in _milestones(model)
    ]
    return Seen(
        shards.ref,
        exposure(loader, course, extents),
        steps=settings.steps,
        tokens=settings.tokens,
        checkpoints=tuple(checkpoints),
        notes=(*notes, *_went_back(model)),
    )


def in_tuning(model: Artifact, conversations: Artifact, spoken: Spoken) -> Seen | None:
    """What tuning saw of conversations; None where it learnt from another source than theirs.

    The rows of a tuning run are packed by length, so the conversations are rendered once more.

    Args:
        model: the one that was tuned.
        conversations: what it was tuned on.
        spoken: which of them are asked about.
    """
    try:
        definition = records.definition_of(model.record)
        settings, seed = Tune(**definition["tune"]), int(definition["seed"])
    except (KeyError, TypeError, ValueError) as error:
        return Seen(conversations.ref, why=f"its {RECORD} does not say how it was tuned ({_one_line(error)})")
    wanted = spoken.places.get(settings.source, ())
    if not wanted:
        return None
    try:
        return _in_rows(model, conversations, settings, seed, wanted)
    except (InputError, _Contradiction) as error:
        return Seen(conversations.ref, why=str(error))
    except (OSError, KeyError, TypeError, ValueError) as error:
        return Seen(conversations.ref, why=f"it cannot be replayed ({_one_line(error)})")


def _in_rows(model: Artifact, conversations: Artifact, settings: Tune, seed: int, wanted: Sequence[int]) -> Seen:
    from hanse.data import conversations as talk
    from hanse.data.tokenizer import Tokenizer
    from hanse.tune.sft import PackedConversations, Packing
    from hanse.tune.template import render_all

    lines = [row for row in talk.read(conversations.path / CONVERSATIONS) if row["source"] == settings.source]
    rendered = render_all(Tokenizer.load(model.path).hf, [row["messages"] for row in lines])
    length, batch_rows = settings.sequence_length, settings.batch_tokens // settings.sequence_length
    packed = PackedConversations(rendered, Packing(length, batch_rows, (range(batch_rows),), settings.epochs, seed))
    used = [number for number, each in enumerate(rendered) if is_used(each, length)]
    if len(used) != packed.conversations or model.facts.get("conversations") not in (None, len(used)):
        raise _Contradiction(
            f"{len(used)} of the conversations can be used, but its {RECORD} says {model.facts.get('conversations')}"
        )
    _require_facts(model, steps=packed.steps, tokens=packed.steps * batch_rows * length)
    ramp = Ramp.of(batch_rows, total_rows=packed.steps * batch_rows, share=0.0)
    dropped, notes = dropped_steps(model)
    course = _course(model, ramp, length, dropped)
    places = {number: place for place, number in enumerate(used)}
    tokens = {places[number]: len(rendered[number].ids) - 1 for number in wanted if number in places}
    left_out = len(wanted) - len(tokens)
    if left_out:
        notes.append(f"{left_out:,} of these conversations were left out: too long for a row, or without an answer")
    checkpoints = [
        Kept(f"{RUN}/{path.name}", step, exposure_in_rows(packed.shown_at, course.until(step), tokens).trained_tokens)
        for step, path in _milestones(model)
    ]
    return Seen(
        conversations.ref,
        exposure_in_rows(packed.shown_at, course, tokens),
        steps=packed.steps,
        tokens=packed.steps * batch_rows * length,
        checkpoints=tuple(checkpoints),
        notes=(*notes, *_went_back(model)),
    )


def is_used(conversation: Rendered, length: int) -> bool:
    """As `PackedConversations` decides; who asks compares the counts, so the two cannot drift apart unseen."""
    return len(conversation.ids) - 1 <= length and any(conversation.is_assistant[1:])


def _extents(mixture: Mixture, rows: pa.Table) -> list[Extents]:
    """The documents of the training text by stream."""
    found = []
    for number, stream in enumerate(mixture.streams):
        is_here = pc.and_(pc.equal(rows["language"], stream.language), pc.equal(rows["source"], stream.source))
        own = rows.filter(pc.and_(is_here, pc.equal(rows["split"], "train")))
        begin_D = np.asarray(own["offset"], np.int64) - stream.offset
        end_D = begin_D + np.asarray(own["tokens"], np.int64)
        if len(own) and (int(begin_D.min()) < 0 or int(end_D.max()) > stream.tokens):
            raise InputError(f"the index of the shards names places outside {stream.language}/{stream.source}")
        found.append(Extents(number, begin_D, end_D))
    return found


def _require_mixture(model: Artifact, mixture: Mixture) -> None:
    """The mixture that the run wrote down has to be the one that is computed now."""
    path = model.path / "mixture.json"
    if not path.is_file():
        return
    told = {_row_key(row): float(row["epochs"]) for row in json.loads(path.read_text(encoding="utf-8"))}
    computed = {_row_key(row): float(row["epochs"]) for row in table(mixture)}
    if told.keys() != computed.keys() or any(abs(told[key] - computed[key]) > EPOCHS_APART for key in told):
        raise _Contradiction(f"its mixture.json is not the mixture that its {RECORD} and the shards make")


def _row_key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("stage", "language", "source", "licence"))


def _require_facts(model: Artifact, *, steps: int, tokens: int) -> None:
    for name, computed in (("steps", steps), ("tokens", tokens)):
        noted = model.facts.get(name)
        if noted is not None and int(noted) != computed:
            raise _Contradiction(
                f"its {RECORD} contradicts itself: {name} is noted as {noted}, the definition makes {computed}"
            )


def _course(model: Artifact, ramp: Ramp, sequence_length: int, dropped: set[int]) -> Course:
    try:
        return Course.of(ramp, sequence_length, rollbacks=model.facts.get("rollbacks") or (), dropped=dropped)
    except ValueError as error:
        raise _Contradiction(f"its {RECORD} contradicts itself: {error}") from None


def dropped_steps(model: Artifact) -> tuple[set[int], list[str]]:
    """Steps, from 0, that the guard dropped, so that they moved nothing; and a note where the record cannot say."""
    count = int(model.facts.get("skipped") or 0)
    if not count:
        return set(), []
    path = model.path / METRICS
    unknown = f"{count:,} steps moved nothing, but which is not recorded, so these figures are upper bounds"
    if not path.is_file() or records.byproducts_of(model.record).get(METRICS) != sha256_file(path):
        return set(), [unknown]
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    steps = {int(row["step"]) - 1 for row in rows if row.get("skipped")}
    return (steps, []) if len(steps) == count else (set(), [unknown])


def _went_back(model: Artifact) -> list[str]:
    found = model.facts.get("rollbacks") or ()
    return [f"the run went back {len(found):,} times; what only the abandoned steps saw is not counted"] * bool(found)


def _milestones(model: Artifact) -> list[tuple[int, Path]]:
    names = [path for path in (model.path / RUN).glob("step-*") if path.name.removeprefix("step-").isdigit()]
    return sorted((int(path.name.removeprefix("step-")), path) for path in names if path.is_dir())


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
