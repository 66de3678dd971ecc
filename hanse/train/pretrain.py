"""Pre-training: shards and a recipe in, a model folder out."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hanse import plan
from hanse.data.loader import Batch, Loader
from hanse.data.mixture import Mixture, lines, table
from hanse.data.shards import Shards
from hanse.data.tokenizer import FILES, Tokenizer
from hanse.model import hf
from hanse.model.transformer import Transformer
from hanse.parallel.ranks import Ranks
from hanse.parallel.shard import whole
from hanse.plan.dealing import micro_batches
from hanse.recipe import HOW, Recipe
from hanse.runtime import Runtime
from hanse.train.goldfish import hide
from hanse.train.loop import train
from hanse.train.metrics import Summary
from hanse.train.rates import rule, with_rates
from hanse.train.room import crowded, enough_memory
from hanse.train.start import digests

if TYPE_CHECKING:
    from hanse.console import Console
    from hanse.store.stage import Work


def pretrain(
    work: Work,
    recipe: Recipe,
    *,
    shards: Path,
    data_digest: str,
    tokenizer: Path,
    runtime: Runtime,
    ranks: Ranks,
    console: Console,
) -> None:
    """Train a model and write it, with its tokenizer, as a loadable folder. Called on the first rank.

    Args:
        work: where the artifact is written, and where checkpoints survive a crash.
        recipe: `[model]`, `[pretrain]`, `seed` and `languages` are read.
        shards: folder of a shards artifact.
        data_digest: the artifact's digest; a checkpoint of other data is refused.
        tokenizer: folder of a tokenizer artifact.
        runtime: where to run.
        ranks: who trains; the others wait in `hanse.pipeline.follow`.
        console: where progress goes.

    Raises:
        InputError, Interrupted: see `hanse.train.loop.train`.
    """
    figures = plan.plan(recipe)
    for name, value in plan.lines(figures):
        console.say(f"{name:<12}{value}")
    for line in rule(recipe.pretrain, plan.model_config(recipe).hidden_size).derivation:
        console.say(line)
    if complaint := crowded(runtime):
        console.warn(complaint)
    rows = table(Mixture.of(Shards.open(shards), recipe.pretrain))
    for line in lines(rows):
        console.say(line)
    where = {"shards": str(shards), "data_digest": data_digest, "scratch": str(work.scratch), "run": str(work.run)}
    ranks.broadcast(("pretrain", where))
    model, summary = learn(recipe, **where, runtime=runtime, ranks=ranks, console=console)
    assert model is not None
    hf.save(model, work.folder, token_ids=Tokenizer.load(tokenizer).special_ids())
    for name in FILES:
        shutil.copyfile(tokenizer / name, work.folder / name)
    (work.folder / "mixture.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    work.note(
        **asdict(summary),
        parameters=model.config.parameters(),
        active_parameters=model.config.active_parameters(),
        matrix_flop_per_second=figures.matrix_flop_per_second,
        runtime=runtime.describe(),
    )


def learn(
    recipe: Recipe,
    *,
    shards: str,
    data_digest: str,
    scratch: str,
    run: str,
    runtime: Runtime,
    ranks: Ranks,
    console: Console,
) -> tuple[Transformer | None, Summary]:
    """The part of pre-training that every rank takes part in.

    Returns:
        The whole model on the first rank, None on the others; and the run in figures.
    """
    config = plan.model_config(recipe)
    settings = with_rates(recipe.pretrain, config.hidden_size)
    opened = Shards.open(Path(shards))
    place = "meta" if ranks.size > 1 else "cpu"
    model = hf.begin(recipe.model, config, vocab_size=opened.vocab_size, seed=recipe.seed, device=place)
    loader = Loader(opened, Mixture.of(opened, settings), seed=recipe.seed)
    ramp = settings.ramp
    micro = (settings.micro_batch_tokens or settings.batch_tokens) // settings.sequence_length

    # For every size of the ramp now, so that one that cannot be dealt out is refused at once and not in mid-run.
    mine = {rows: micro_batches(rows, micro, rank=ranks.rank, ranks=ranks.size) for _, _, rows in ramp.stretches}

    def batch_at(step: int) -> list[Batch]:
        rows = ramp.at(step)
        batches = [loader.batch(rows.start + part.start, len(part)) for part in mine[len(rows)]]
        if settings.goldfish:
            batches = [replace(b, targets_BT=hide(b.tokens_BT, b.targets_BT, k=settings.goldfish)) for b in batches]
        return batches

    identity = {
        "settings": settings.model_dump(mode="json", exclude=set(HOW)),
        "seed": recipe.seed,
        "data": data_digest,
        **({"start": digests(Path(recipe.model.start))} if recipe.model.start else {}),
    }
    with enough_memory(config, settings, runtime):
        summary = train(
            model,
            batch_at,
            settings,  # type: ignore[arg-type]  # both rates are filled in
            runtime,
            ranks=ranks,
            steps=settings.steps,
            scratch=Path(scratch),
            run=Path(run),
            identity=identity,
            label="pretrain",
            milestones=settings.milestones,
            console=console.rich,
        )
    return whole(model, ranks), summary
