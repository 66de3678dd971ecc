"""Carrying out a recipe: its stages in order, each made once, on one process or many."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanse.errors import InputError
from hanse.recipe import Recipe
from hanse.stages import dataset_stage, stages, talking
from hanse.store.stage import Artifact, Built, Store

if TYPE_CHECKING:
    from hanse.console import Console
    from hanse.data import parts
    from hanse.parallel.ranks import Ranks
    from hanse.runtime import Runtime


@dataclass(frozen=True)
class Outcome:
    """What a run left behind: every stage's artifact, whether it was made now, and what drifted from the recipe."""

    built: tuple[Built, ...]

    def artifact(self, kind: str) -> Artifact | None:
        """The last artifact of a kind."""
        return next((b.artifact for b in reversed(self.built) if b.artifact.kind == kind), None)

    def as_dict(self) -> dict[str, Any]:
        """The artifacts, and the scores if the run got that far, for JSON."""
        evaluation = self.artifact("evaluation")
        return {
            "artifacts": [
                {
                    "ref": built.artifact.ref,
                    "path": str(built.artifact.path),
                    "digest": built.artifact.digest,
                    "state": built.state,
                    "drift": built.drift,
                }
                for built in self.built
            ],
            "scores": json.loads((evaluation.path / "scores.json").read_text()) if evaluation else [],
        }


def check_until(recipe: Recipe, until: str | None) -> None:
    """Refuse `--until` with a kind that the recipe does not make."""
    kinds = ["dataset", "tokenizer", "shards", "model", "evaluation", "release"]
    if recipe.memorisation.is_measured:
        kinds.insert(-1, "memorisation")
    if talking(recipe):
        kinds.insert(1, "conversations")
    if until is not None and until not in kinds:
        raise InputError(f"--until {until}: this recipe makes {', '.join(kinds)}.")


def run(
    recipe: Recipe,
    store: Store,
    *,
    runtime: Runtime,
    ranks: Ranks,
    console: Console,
    until: str | None = None,
    is_final: bool = False,
) -> Outcome:
    """Carry out a recipe; what is there already and unchanged is not made again. The other ranks `follow`.

    Args:
        until: the kind of artifact to stop after.
        is_final: whether the release has to pass the gate.

    Raises:
        InputError: bad input in any stage. Stages that finished are kept.
        Interrupted: a stop was asked for; the running stage has saved what it can resume from.
    """
    planned = stages(recipe, store, runtime=runtime, ranks=ranks, console=console, is_final=is_final)
    last = max((number for number, stage in enumerate(planned) if stage.kind == until), default=len(planned) - 1)
    if last == len(planned) - 1:
        planned[-1].definition()  # a file of answers or a key that cannot be read is refused now, not after training
    done: dict[str, Built] = {}
    with store.lock(recipe.name):
        for stage in planned[: last + 1]:
            console.begin(stage.title, f"{stage.key}/{recipe.version}")
            inputs = {key.split("/")[0]: done[key].artifact for key in stage.inputs}
            built = store.build(
                stage.kind,
                stage.name,
                recipe.version,
                definition=stage.definition(),
                inputs=inputs,
                make=partial(stage.make, inputs),
            )
            if built.state == "drifted" and stage.kind in ("dataset", "conversations"):
                from hanse.trace import leaving, withdrawal

                leaving.refuse_withdrawn(built.artifact, withdrawal.read(store.root))
            done[stage.key] = built
            console.end(built)
    ranks.broadcast(None)
    return Outcome(tuple(done.values()))


def follow(recipe: Recipe, *, runtime: Runtime, ranks: Ranks, console: Console) -> None:
    """What every rank but the first does: wait, and train along whenever that one comes to a stage that trains.

    Raises:
        InputError, Interrupted: what training raises on every rank.
        RuntimeError: the first rank has ended.
    """
    while True:
        call = ranks.broadcast(None)
        if call is None:
            return
        stage, arguments = call
        if stage == "pretrain":
            from hanse.train import pretrain

            pretrain.learn(recipe, **arguments, runtime=runtime, ranks=ranks, console=console)
        else:
            from hanse.tune import sft

            sft.learn(**arguments, runtime=runtime, ranks=ranks, console=console)


def annotate_shard(recipe: Recipe, store: Store, shard: tuple[int, int], *, runtime: Runtime, console: Console) -> Path:
    """Do one task's share of reading and annotating, for a Slurm array; a later run finds it and finishes the dataset.

    Args:
        shard: (i, n): task i of n, from 1.

    Returns:
        The folder that holds the parts.
    """
    from hanse.data import parts

    folder, job = _parts(recipe, store, runtime, console)
    parts.annotate_all(
        parts.of_shard(parts.plan(job.sources), shard), job, folder,
        processes=runtime.threads, engine=recipe.curate.engine, say=console.progress, is_all=False,
    )  # fmt: skip
    return folder


def match_bands(recipe: Recipe, store: Store, shard: tuple[int, int], *, runtime: Runtime, console: Console) -> Path:
    """Look for copies in one task's share of the bands, once all parts are annotated.

    Args, Returns: as `annotate_shard`.

    Raises:
        InputError: a part is missing.
    """
    from hanse.data import dedup, parts

    folder, job = _parts(recipe, store, runtime, console)
    planned = parts.plan(job.sources)
    missing = [part.number for part in planned if parts.line(folder, part) is None]
    if missing:
        raise InputError(
            f"--bands: {len(missing)} of {len(planned)} parts are not annotated yet, the first is {missing[0]}; "
            "finish every --shard first."
        )
    paths = [folder / f"{part.number:05d}.parquet" for part in planned]
    index, count = shard
    keys = dedup.KEYS if recipe.curate.near_duplicates else dedup.KEYS[:1]
    for number, key in enumerate(keys[index - 1 :: count], 1):
        dedup.edges(paths, key, folder, engine=recipe.curate.engine)
        console.progress("looking for copies, band", number, len(keys[index - 1 :: count]))
    return folder


def _parts(recipe: Recipe, store: Store, runtime: Runtime, console: Console) -> tuple[Path, parts.Job]:
    """Where the parts of a recipe's dataset lie until it is finished, and what decides them."""
    from hanse.data import parts

    stage = dataset_stage(recipe, store, runtime, console)
    scratch = store.scratch(stage.kind, stage.name, recipe.version, definition=stage.definition(), inputs={})
    return scratch / "parts", parts.Job(recipe.text_sources(), recipe.curate, recipe.languages, recipe.seed)
