"""A recipe as a list of stages, in order. Each is a function from its section and input artifacts to one artifact.

dataset -> conversations -> tokenizer -> shards -> model (base) -> model (tuned) -> evaluation -> release
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanse.errors import InputError
from hanse.recipe import HOW, Recipe, Source, Tune
from hanse.store.stage import Artifact, Built, Store, Work

if TYPE_CHECKING:
    from hanse.console import Console
    from hanse.data import parts
    from hanse.parallel.ranks import Ranks
    from hanse.runtime import Runtime

Inputs = Mapping[str, Artifact]  # by kind


@dataclass(frozen=True)
class Stage:
    """What makes one artifact: its name, what defines it, what it reads, and the function that writes it."""

    kind: str
    name: str
    title: str
    definition: Callable[[], dict[str, Any]]
    inputs: tuple[str, ...]  # "kind/name" of earlier stages
    make: Callable[[Inputs, Work], None]

    @property
    def key(self) -> str:
        """`kind/name`, by which later stages name it as their input."""
        return f"{self.kind}/{self.name}"


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
    if _talking(recipe):
        kinds.insert(1, "conversations")
    if until is not None and until not in kinds:
        raise InputError(f"--until {until}: this recipe makes {', '.join(kinds)}.")


def run(
    recipe: Recipe, store: Store, *, runtime: Runtime, ranks: Ranks, console: Console, until: str | None = None
) -> Outcome:
    """Carry out a recipe; what is there already and unchanged is not made again. The other ranks `follow`.

    Raises:
        InputError: bad input in any stage. Stages that finished are kept.
        Interrupted: a stop was asked for; the running stage has saved what it can resume from.
    """
    planned = stages(recipe, store, runtime=runtime, ranks=ranks, console=console)
    last = max((number for number, stage in enumerate(planned) if stage.kind == until), default=len(planned) - 1)
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


def stages(recipe: Recipe, store: Store, *, runtime: Runtime, ranks: Ranks, console: Console) -> list[Stage]:
    """The stages of a recipe, in the order in which they run."""
    dataset, tokenizer, shards = (f"{kind}/{recipe.name}" for kind in ("dataset", "tokenizer", "shards"))
    conversations = f"conversations/{recipe.name}" if _talking(recipe) else None
    base = f"model/{recipe.name}-base"
    plan = [
        _dataset(recipe, runtime, console),
        *([_conversations(recipe)] if conversations else []),
        _tokenizer(recipe, dataset, conversations, console),
        _shards(recipe, dataset, tokenizer, console),
        _pretrain(recipe, base, shards, tokenizer, runtime, ranks, console),
    ]
    model = base
    for number, tune in enumerate(recipe.tune, 1):
        last = number == len(recipe.tune)
        tuned = f"model/{recipe.name}-{'chat' if last else f'tune{number}'}"
        assert conversations is not None  # the recipe was checked: every tune names a source of conversations
        plan.append(_tune(recipe, tune, tuned, model, conversations, runtime, ranks, console))
        model = tuned
    evaluation = f"evaluation/{model.removeprefix('model/')}"
    plan.append(_evaluation(recipe, evaluation, model, shards, conversations, runtime, console))
    plan.append(_release(recipe, model, evaluation, store))
    return plan


def _talking(recipe: Recipe) -> tuple[Source, ...]:
    return tuple(s for s in recipe.source if s.kind == "conversations" or any(t.source == s.name for t in recipe.tune))


def _stage(key: str, title: str, definition, inputs: list[str], make) -> Stage:
    kind, name = key.split("/")
    return Stage(kind, name, title, definition, tuple(inputs), make)


def _identity(source: Source) -> dict[str, Any]:
    """What a source is: its declaration and the content of its files, not where they lie."""
    from hanse.data.sources import digests

    identity = source.model_dump(mode="json", exclude=set() if source.kind == "hub" else {"path"})
    if source.kind == "atlas":
        from hanse.data import atlas

        return {**identity, "generated_from": atlas.sources()}
    return {**identity, "files": digests(source)}


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

    stage = _dataset(recipe, runtime, console)
    scratch = store.scratch(stage.kind, stage.name, recipe.version, definition=stage.definition(), inputs={})
    return scratch / "parts", parts.Job(recipe.text_sources(), recipe.curate, recipe.languages, recipe.seed)


def _dataset(recipe: Recipe, runtime: Runtime, console: Console) -> Stage:
    def definition() -> dict[str, Any]:
        from hanse.data.annotate import identity

        return {
            "languages": list(recipe.languages),
            "seed": recipe.seed,
            "curate": identity(recipe.curate),
            "source": [_identity(source) for source in recipe.text_sources()],
        }

    def make(inputs: Inputs, work: Work) -> None:
        from hanse.data.curate import curate

        curate(
            work, recipe.text_sources(), recipe.curate, languages=recipe.languages, seed=recipe.seed,
            processes=runtime.threads, progress=console.progress,
        )  # fmt: skip

    return _stage(f"dataset/{recipe.name}", "Curate", definition, [], make)


def _conversations(recipe: Recipe) -> Stage:
    talking = _talking(recipe)

    def definition() -> dict[str, Any]:
        return {
            "languages": list(recipe.languages),
            "seed": recipe.seed,
            "licences": list(recipe.curate.licences),
            "source": [_identity(source) for source in talking],
        }

    def make(inputs: Inputs, work: Work) -> None:
        from hanse.data.conversations import gather

        gather(work, talking, recipe.curate, languages=recipe.languages, seed=recipe.seed)

    return _stage(f"conversations/{recipe.name}", "Conversations", definition, [], make)


def _tokenizer(recipe: Recipe, dataset: str, conversations: str | None, console: Console) -> Stage:
    def definition() -> dict[str, Any]:
        if recipe.model.start:
            return {"start": _start(recipe)}
        return {"tokenizer": recipe.tokenizer.model_dump(mode="json"), "seed": recipe.seed}

    def make(inputs: Inputs, work: Work) -> None:
        from hanse.tune.template import CHAT_TEMPLATE

        if recipe.model.start:
            from hanse.data.adopt import import_tokenizer

            import_tokenizer(
                work, Path(recipe.model.start), inputs["dataset"].path,
                chat_template=CHAT_TEMPLATE, progress=console.progress,
            )  # fmt: skip
            return
        from hanse.data import conversations as talk
        from hanse.data.tokenizer import train_tokenizer

        train_tokenizer(
            work, inputs["dataset"].path, recipe.tokenizer,
            chat_template=CHAT_TEMPLATE,
            extra_texts=talk.texts(inputs["conversations"].path) if conversations else (),
            seed=recipe.seed,
            progress=console.progress,
        )  # fmt: skip

    return _stage(f"tokenizer/{recipe.name}", "Tokenizer", definition, [dataset, *filter(None, [conversations])], make)


def _start(recipe: Recipe) -> dict[str, str]:
    """What the folder in [model] start holds; where it lies is no part of what is made."""
    from hanse.train.start import digests

    return digests(Path(str(recipe.model.start)))


def _shards(recipe: Recipe, dataset: str, tokenizer: str, console: Console) -> Stage:
    def make(inputs: Inputs, work: Work) -> None:
        from hanse.data.shards import write_shards

        write_shards(
            work, inputs["dataset"].path, inputs["tokenizer"].path, seed=recipe.seed, progress=console.progress
        )

    return _stage(f"shards/{recipe.name}", "Shards", lambda: {"seed": recipe.seed}, [dataset, tokenizer], make)


def _pretrain(
    recipe: Recipe, key: str, shards: str, tokenizer: str, runtime: Runtime, ranks: Ranks, console: Console
) -> Stage:
    def definition() -> dict[str, Any]:
        model = recipe.model.model_dump(mode="json")
        return {
            "model": model | ({"start": _start(recipe)} if recipe.model.start else {}),
            "pretrain": recipe.pretrain.model_dump(mode="json", exclude=set(HOW)),
            "seed": recipe.seed,
        }

    def make(inputs: Inputs, work: Work) -> None:
        from hanse.train.pretrain import pretrain

        pretrain(
            work, recipe, shards=inputs["shards"].path, data_digest=inputs["shards"].digest,
            tokenizer=inputs["tokenizer"].path, runtime=runtime, ranks=ranks, console=console,
        )  # fmt: skip

    return _stage(key, "Pre-train", definition, [shards, tokenizer], make)


def _tune(
    recipe: Recipe, tune: Tune, key: str, model: str, talk: str, runtime: Runtime, ranks: Ranks, console: Console
) -> Stage:
    def definition() -> dict[str, Any]:
        return {"tune": tune.model_dump(mode="json", exclude=set(HOW)), "seed": recipe.seed}

    def make(inputs: Inputs, work: Work) -> None:
        from hanse.tune.sft import finetune

        finetune(
            work, tune, model=inputs["model"].path, conversations=inputs["conversations"].path, seed=recipe.seed,
            runtime=runtime, ranks=ranks, console=console,
        )  # fmt: skip

    return _stage(key, "Tune", definition, [model, talk], make)


def _evaluation(
    recipe: Recipe, key: str, model: str, shards: str, talk: str | None, runtime: Runtime, console: Console
) -> Stage:
    def definition() -> dict[str, Any]:
        return {"evaluate": recipe.evaluate.model_dump(mode="json"), "seed": recipe.seed}

    def make(inputs: Inputs, work: Work) -> None:
        from hanse.evaluate.scores import evaluate

        evaluate(
            work,
            model_folder=inputs["model"].path,
            shards_folder=inputs["shards"].path,
            conversations_folder=inputs["conversations"].path if talk and recipe.tune else None,
            settings=recipe.evaluate, runtime=runtime, seed=recipe.seed, progress=console.progress,
        )  # fmt: skip

    return _stage(key, "Evaluate", definition, [model, shards, *([talk] if talk else [])], make)


def _release(recipe: Recipe, model: str, evaluation: str, store: Store) -> Stage:
    def definition() -> dict[str, Any]:
        from hanse.release.folder import release_definition

        return release_definition(
            recipe.release, recipe_name=recipe.name, languages=recipe.languages, description=recipe.description
        )

    def make(inputs: Inputs, work: Work) -> None:
        from hanse.release.folder import release

        release(
            work, model=inputs["model"], evaluation=inputs["evaluation"], store=store, settings=recipe.release,
            recipe_name=recipe.name, languages=recipe.languages, description=recipe.description,
        )  # fmt: skip

    return _stage(f"release/{recipe.name}", "Release", definition, [model, evaluation], make)
