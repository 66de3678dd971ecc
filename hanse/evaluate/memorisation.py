"""The stage that measures how much of its training text a model gives back: `memorisation.json`, `extractions.jsonl`.

Four looks: documents of the training split, as far as they were read, with a control that was never trained on,
conversations, canaries, and how many targets the Goldfish loss hid in what was tested. docs/memorisation.md says what
each figure means.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hanse.data import canaries
from hanse.data import conversations as talk
from hanse.data.rights.licence import OTHER_DUTIES, duties
from hanse.data.shards import Shards
from hanse.evaluate import answers_by_heart, canary_exposure, elsewhere, extraction, passages, reading
from hanse.evaluate.answers_by_heart import Recital
from hanse.evaluate.elsewhere import Standing
from hanse.evaluate.extraction import Attempt
from hanse.evaluate.passages import Group, Kind, Passage, Plan, Population
from hanse.evaluate.proportion import CONFIDENCE, Proportion, difference
from hanse.evaluate.reading import Reading
from hanse.serve.engine import load_engine
from hanse.store.digest import sha256_text
from hanse.store.documents import TABLE

if TYPE_CHECKING:
    from hanse.recipe import Memorisation
    from hanse.runtime import Runtime
    from hanse.serve.engine import Engine
    from hanse.store.stage import Artifact, Store, Work

Progress = Callable[[str, int, int | None], None]
REPORT = "memorisation.json"
ATTEMPTS = "extractions.jsonl"
TRAIN, CONTROL = "train", "validation"


def memorise(
    work: Work,
    *,
    model_folder: Path,
    dataset: Artifact,
    shards: Artifact,
    conversations: Artifact | None,
    settings: Memorisation,
    runtime: Runtime,
    seed: int,
    store: Store | None = None,
    progress: Progress | None = None,
) -> None:
    """Measure a model; write `memorisation.json` and, a line for each attempt, `extractions.jsonl`.

    Args:
        work: where to write.
        model_folder: of the model; in a store, its records tell what it read.
        dataset: its table names rights holders, and its canaries are looked for.
        shards: made from the dataset; the model was trained on their training split.
        conversations: what the model was tuned on; None leaves that out.
        settings: `[memorisation]` of the recipe.
        runtime: device to compute on, in float32 whatever its dtype.
        seed: decides which documents and places are taken, and what is drawn.
        store: of the dataset. Its index is asked, and made if need be, how often what came out stands in the text;
            None leaves that out.
        progress: called with a label, units done and units in all.

    Raises:
        InputError: a folder is not what it should be, or the prefixes do not fit the model's context.
    """
    engine = load_engine(model_folder, runtime)
    line = reading.line_of(model_folder)
    read = reading.read_of(line, shards)
    window = read.window if read is not None else None
    plan = Plan.fitting(settings.prefix_tokens, settings.continuation_tokens, context=engine.context, window=window)
    opened = Shards.open(shards.path)
    pool = {
        split: passages.population(opened, dataset.path / TABLE, split, window=window) for split in (TRAIN, CONTROL)
    }
    if read is not None:
        pool[TRAIN] = pool[TRAIN].read(read.times(pool[TRAIN].rows, pool[TRAIN].pieces))
    pairs, left_out = _groups(pool, plan, most=settings.documents_per_source, seed=seed)
    tested = [
        passage
        for split in (TRAIN, CONTROL)
        for passage in passages.choose(opened, pool[split], _drawn(pairs, split), plan, seed=seed)
    ]
    attempts = [
        *extraction.greedy(engine, tested, plan, progress=progress),
        *extraction.sampled(
            engine, tested, plan,
            samples=settings.samples, temperature=settings.temperature, seed=seed, progress=progress,
        ),
    ]  # fmt: skip
    recitals, talked = _talk(engine, conversations, line, most=settings.documents_per_source, seed=seed, say=progress)
    standing = elsewhere.standing(attempts, engine, dataset, store, progress)
    asked = _by_question(attempts)
    report = {
        "confidence": CONFIDENCE,
        "asked": {"prefix_tokens": list(settings.prefix_tokens), "continuation_tokens": settings.continuation_tokens},
        "used": {"prefix_tokens": list(plan.prefixes), "continuation_tokens": plan.continuation},
        "samples": settings.samples,
        "temperature": settings.temperature,
        "is_reading_recorded": read is not None,
        "window_tokens": window,
        "population": asdict(passages.supply(pool[TRAIN], plan)),
        "rights_holders_left_out": left_out,
        "groups": [_group_row(train, control, asked) for train, control in pairs],
        "conversations": talked,
        "canaries": _canaries(engine, dataset, opened, read, seed=seed),
        "goldfish": _goldfish(read, pool[TRAIN], tested),
    }
    _write(work.folder, report, attempts, engine, standing)
    _note(work, tested, attempts, recitals, standing)


# --------------------------------------------------------------------------- documents


def _groups(
    pool: Mapping[str, Population], plan: Plan, *, most: int, seed: int
) -> tuple[list[tuple[Group, Group]], int]:
    """Sources and rights holders, each in the training split and in the control; rights holders left out."""
    kinds: tuple[Kind, ...] = ("source", "rights_holder")
    named = {kind: passages.names_of(pool[TRAIN], kind) for kind in kinds}
    pairs = []
    for kind in kinds:
        for name in named[kind][0]:
            train, control = (
                passages.draw(pool[split], kind, name, plan, most=most, seed=seed) for split in (TRAIN, CONTROL)
            )
            pairs.append((train, control))
    return pairs, named["rights_holder"][1]


def _drawn(pairs: Iterable[tuple[Group, Group]], split: str) -> list[int]:
    """Every document that some group tests, once."""
    return sorted({row for pair in pairs for group in pair if group.split == split for row in group.drawn})


def _by_question(attempts: Iterable[Attempt]) -> dict[tuple[str, int], dict[tuple[str, int], Attempt]]:
    """Attempts by decoding and prefix, and within these by split and row of the document."""
    found: dict[tuple[str, int], dict[tuple[str, int], Attempt]] = {}
    for one in attempts:
        found.setdefault((one.decoding, one.prefix), {})[one.passage.split, one.passage.row] = one
    return found


def _group_row(
    train: Group,
    control: Group,
    asked: Mapping[tuple[str, int], Mapping[tuple[str, int], Attempt]],
) -> dict[str, Any]:
    results = []
    for decoding, prefix in sorted(asked):
        answers = asked[decoding, prefix]
        sides = [
            [answers[group.split, row] for row in group.drawn if (group.split, row) in answers]
            for group in (train, control)
        ]
        results.append({"prefix_tokens": prefix, "decoding": decoding, **_compared(*sides)})
    return {
        "kind": train.kind,
        "name": train.name,
        "train": _counts(train),
        "control": _counts(control),
        "results": results,
    }


def _counts(group: Group) -> dict[str, Any]:
    return asdict(group.supply) | {"tested": len(group.drawn)}


def _compared(
    train: Sequence[Attempt] | Sequence[Recital], control: Sequence[Attempt] | Sequence[Recital]
) -> dict[str, Any]:
    """Both shares with their bounds, and how far the first lies above the second."""
    sides = [Proportion.of(sum(one.is_extracted for one in side), len(side)) for side in (train, control)]
    apart = difference(*sides)
    return {
        "train": _figure(sides[0], train),
        "control": _figure(sides[1], control),
        "difference": dict(zip(("value", "low", "high"), map(_rounded, apart), strict=True)) if apart else None,
    }


def _figure(share: Proportion, side: Sequence[Attempt] | Sequence[Recital]) -> dict[str, Any]:
    runs = [one.longest for one in side if one.longest is not None]
    return {
        "extracted": share.found,
        "tested": share.tested,
        "share": None if share.share is None else _rounded(share.share),
        "low": _rounded(share.low),
        "high": _rounded(share.high),
        "below": _rounded(share.below),
        "longest_characters": max(runs, default=None),
        "mean_characters": _rounded(sum(runs) / len(runs)) if runs else None,
    }


def _rounded(number: float) -> float:
    return round(number, 9)


# --------------------------------------------------------------------------- conversations


def _talk(
    engine: Engine,
    conversations: Artifact | None,
    line: Sequence[Artifact],
    *,
    most: int,
    seed: int,
    say: Progress | None,
) -> tuple[list[Recital], list[dict[str, Any]] | None]:
    """Every recital, and a row for each source and length of answer; None where there was nothing to ask."""
    if conversations is None:
        return [], None
    sources = reading.tuned_on(line) or _every_source(conversations.path)
    shown = reading.shown_of(line, conversations)
    train = answers_by_heart.draw(conversations.path / "train.jsonl", sources, most=most, seed=seed, shown=shown)
    control = answers_by_heart.draw(conversations.path / "heldout.jsonl", sources, most=most, seed=seed)
    asked = [
        turn
        for split, drawn in ((TRAIN, train), (CONTROL, control))
        for turn in answers_by_heart.turns(engine, drawn.rows, split)
    ]
    recitals = list(answers_by_heart.recite(engine, asked, progress=say))
    table = []
    for source in sorted(train.conversations):
        counts = {
            "conversations": train.conversations[source],
            "never_shown": None if train.never_shown is None else train.never_shown[source],
        }
        for is_long in (True, False):
            own = [one for one in recitals if (one.turn.source, one.turn.is_long) == (source, is_long)]
            if own:
                sides = ([one for one in own if one.turn.split == split] for split in (TRAIN, CONTROL))
                row = {"source": source, "answers": "long" if is_long else "short"}
                table.append(row | counts | _compared(*sides))
    return recitals, table


def _every_source(folder: Path) -> Collection[str]:
    return {str(row["source"]) for row in talk.read(folder / "train.jsonl")}


# --------------------------------------------------------------------------- canaries and Goldfish


def _canaries(
    engine: Engine, dataset: Artifact, shards: Shards, read: Reading | None, *, seed: int
) -> dict[str, Any] | None:
    """The exposure of each canary, and by how often they were placed; None where there are none."""
    placed = canaries.read(dataset.path)
    if not placed:
        return None
    others = canaries.candidates(canary_exposure.CANDIDATES, seed=seed)
    found = canary_exposure.measure(engine.model, engine.tokenizer, placed, others)
    times = _times_read(dataset, shards, read) if read is not None else {}
    by_repeats: dict[int, list[float]] = defaultdict(list)
    for each in found:
        by_repeats[each.repeats].append(each.value)
    return {
        "candidates": len(others),
        "highest": _rounded(canary_exposure.exposure_of(1, len(others))),
        "each": [
            {
                "number": each.number, "repeats": each.repeats, "times_read": times.get(each.number),
                "bits": round(each.bits, 3), "rank": each.rank, "exposure": _rounded(each.value),
            }
            for each in found
        ],
        "by_repeats": [
            {
                "repeats": repeats, "canaries": len(values), "mean": _rounded(float(np.mean(values))),
                "least": _rounded(min(values)), "most": _rounded(max(values)),
            }
            for repeats, values in sorted(by_repeats.items())
        ],
    }  # fmt: skip


def _times_read(dataset: Artifact, shards: Shards, read: Reading) -> dict[int, int]:
    """How often training read each canary in full, over all its copies."""
    filters = [("source", "=", canaries.SOURCE)]
    table = pq.read_table(dataset.path / TABLE, columns=["id", "extra"], filters=filters).to_pylist()
    number_of = {row["id"]: int(json.loads(row["extra"])["canary"]) for row in table}
    index = shards.index()
    rows = index.filter(pc.is_in(index["id"], value_set=pa.array(list(number_of), pa.string()))).to_pylist()
    names = ("language", "source", "offset", "tokens")
    times_D = read.whole_times({name: np.array([row[name] for row in rows]) for name in names})
    found = dict.fromkeys(number_of.values(), 0)
    for row, times in zip(rows, times_D.tolist(), strict=True):
        found[number_of[row["id"]]] += times
    return found


def _goldfish(read: Reading | None, pool: Population, tested: Sequence[Passage]) -> dict[str, Any] | None:
    """Targets that the Goldfish loss hid in the pieces that were tested, by source; None where no record says."""
    if read is None:
        return None
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for passage in tested:
        if passage.split == TRAIN:
            row = {name: pool.rows[name][passage.row] for name in ("language", "source", "offset")}
            pieces, place = pool.pieces, passage.piece
            window, begin, end = (int(each[place]) for each in (pieces.window_P, pieces.begin_P, pieces.end_P))
            for column, number in enumerate((1, read.hidden(row, window, begin, end), end - begin)):
                sums[passage.source][column] += number
    rows = [_coverage(*sums[source]) | {"source": source} for source in sorted(sums)]
    whole = _coverage(*(sum(each) for each in zip(*sums.values(), strict=True))) if sums else _coverage(0, 0, 0)
    return {"k": read.goldfish, **whole, "sources": rows}


def _coverage(documents: int, hidden: int, targets: int) -> dict[str, Any]:
    share = _rounded(hidden / targets) if targets else None
    return {"documents": documents, "targets": targets, "hidden": hidden, "share": share}


# --------------------------------------------------------------------------- writing


def _write(
    folder: Path,
    report: Mapping[str, Any],
    attempts: Iterable[Attempt],
    engine: Engine,
    standing: Standing | None,
) -> None:
    text = json.dumps(report, ensure_ascii=False, indent=1, allow_nan=False)
    (folder / REPORT).write_text(text + "\n", encoding="utf-8", newline="\n")
    with (folder / ATTEMPTS).open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(
            json.dumps(_attempt_row(each, engine, standing or {}), ensure_ascii=False) + "\n" for each in attempts
        )


def _attempt_row(attempt: Attempt, engine: Engine, standing: Standing) -> dict[str, Any]:
    """An attempt without the text, except where text that came out may be passed on by its licence."""
    passage = attempt.passage
    text = engine.text(passage.continuation)
    row = {
        "id": passage.id,
        "split": passage.split,
        "source": passage.source,
        "rights_holder": passage.rights_holder or None,
        "licence": passage.licence,
        "at_token": passage.at,
        "times_read": passage.times_read,
        "prefix_tokens": attempt.prefix,
        "continuation_tokens": len(passage.continuation),
        "decoding": attempt.decoding,
        "extracted": attempt.is_extracted,
        "stands_in_text": standing.get((passage.split, passage.row)) if attempt.is_extracted else None,
        "longest_characters": attempt.longest,
        "characters": len(text),
        "sha256": sha256_text(text),
    }
    is_shown = attempt.is_extracted and passage.split == TRAIN and duties(passage.licence) < OTHER_DUTIES
    return row | ({"text": text} if is_shown else {})


def _note(
    work: Work,
    tested: Sequence[Passage],
    attempts: Sequence[Attempt],
    recitals: Sequence[Recital],
    standing: Standing | None,
) -> None:
    extracted = {
        split: len({one.passage.row for one in attempts if one.is_extracted and one.passage.split == split})
        for split in (TRAIN, CONTROL)
    }
    work.note(
        tested_documents=sum(passage.split == TRAIN for passage in tested),
        extracted_documents=extracted[TRAIN],
        control_documents=sum(passage.split == CONTROL for passage in tested),
        control_extracted=extracted[CONTROL],
        tested_conversations=sum(one.turn.split == TRAIN for one in recitals),
        recited_conversations=sum(one.turn.split == TRAIN and one.is_extracted for one in recitals),
    )
    if standing is not None:
        often = {split: sum(own == split and times > 1 for (own, _), times in standing.items()) for split in extracted}
        work.note(extracted_elsewhere=often[TRAIN], control_elsewhere=often[CONTROL])
