"""Pre-training: shards and a recipe in, a model folder out."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from hanse import plan
from hanse.data.loader import Batch, Loader
from hanse.data.mixture import Mixture, lines, table
from hanse.data.shards import Shards
from hanse.data.tokenizer import FILES, Tokenizer
from hanse.model import hf
from hanse.model.transformer import Transformer
from hanse.recipe import Recipe
from hanse.runtime import Runtime
from hanse.train.loop import train

if TYPE_CHECKING:
    from hanse.console import Console
    from hanse.store.stage import Work


def pretrain(
    work: Work, recipe: Recipe, *, shards: Path, data_digest: str, tokenizer: Path, runtime: Runtime, console: Console
) -> None:
    """Train a model from random weights and write it, with its tokenizer, as a loadable folder.

    Args:
        work: where the artifact is written, and where checkpoints survive a crash.
        recipe: `[model]`, `[pretrain]`, `seed` and `languages` are read.
        shards: folder of a shards artifact.
        data_digest: the artifact's digest; a checkpoint of other data is refused.
        tokenizer: folder of a tokenizer artifact.
        runtime: where to run.
        console: where progress goes.

    Raises:
        InputError, Interrupted: see `hanse.train.loop.train`.
    """
    settings = recipe.pretrain
    config = plan.model_config(recipe)
    model = Transformer(config)
    model.init_weights(torch.Generator().manual_seed(recipe.seed))
    for name, value in plan.lines(plan.plan(recipe)):
        console.say(f"{name:<12}{value}")
    opened = Shards.open(shards)
    mixture = Mixture.of(opened, settings)
    rows = table(mixture)
    for line in lines(rows):
        console.say(line)
    loader = Loader(opened, mixture, seed=recipe.seed)
    summary = train(
        model,
        lambda step: _batches(loader, recipe, step),
        settings,
        runtime,
        steps=settings.steps,
        scratch=work.scratch,
        run=work.run,
        identity={
            "settings": settings.model_dump(mode="json", exclude={"checkpoint_seconds", "compile"}),
            "seed": recipe.seed,
            "data": data_digest,
        },
        label="pretrain",
        console=console.rich,
    )
    hf.save(model, work.folder, token_ids=Tokenizer.load(tokenizer).special_ids())
    for name in FILES:
        shutil.copyfile(tokenizer / name, work.folder / name)
    (work.folder / "mixture.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    work.note(
        **asdict(summary),
        parameters=config.parameters(),
        active_parameters=config.active_parameters(),
        runtime=runtime.describe(),
    )


def _batches(loader: Loader, recipe: Recipe, step: int) -> list[Batch]:
    """The micro-batches of one optimizer step: a slice of the numbered sequence of samples."""
    settings = recipe.pretrain
    rows = settings.batch_tokens // settings.sequence_length
    micro = (settings.micro_batch_tokens or settings.batch_tokens) // settings.sequence_length
    first = step * rows
    return [loader.batch(start, micro) for start in range(first, first + rows, micro)]
