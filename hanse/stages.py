"""The stages of a recipe: each a function from its section and input artifacts to one artifact.

dataset -> conversations -> tokenizer -> shards -> model (base) -> model (tuned) -> evaluation
-> memorisation -> release

What a stage does stands in its own room; here stands what defines it and what it reads.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanse.recipe import HOW, Recipe, Source, Tune
from hanse.store.stage import Artifact, Store, Work
from hanse.train.rates import with_rates

if TYPE_CHECKING:
    from hanse.console import Console
    from hanse.parallel.ranks import Ranks
    from hanse.release.folder import Publishing
    from hanse.runtime import Runtime
    from hanse.trace.withdrawal import Withdrawal

Inputs = Mapping[str, Artifact]  # by kind
#: The source of canaries, as a record declares it: no person wrote them, so no recipe names it.
CANARIES = {
    "name": "canary", "kind": "canary", "licence": "CC0-1.0", "licence_basis": "generated", "obtained": "synthetic",
    "reservation": "none",
}  # fmt: skip


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


def stages(
    recipe: Recipe, store: Store, *, runtime: Runtime, ranks: Ranks, console: Console, is_final: bool = False
) -> list[Stage]:
    """The stages of a recipe, in the order in which they run."""
    dataset, tokenizer, shards = (f"{kind}/{recipe.name}" for kind in ("dataset", "tokenizer", "shards"))
    conversations = f"conversations/{recipe.name}" if talking(recipe) else None
    base = f"model/{recipe.name}-base"
    plan = [
        dataset_stage(recipe, store, runtime, console),
        *([_conversations(recipe, store)] if conversations else []),
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
    memorisation = None
    if recipe.memorisation.is_measured:
        memorisation = f"memorisation/{model.removeprefix('model/')}"
        plan.append(_memorisation(recipe, memorisation, model, dataset, shards, conversations, store, runtime, console))
    plan.append(_release(recipe, model, evaluation, memorisation, store, is_final))
    return plan


def talking(recipe: Recipe) -> tuple[Source, ...]:
    """The sources of conversations."""
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


def _withdrawn(store: Store, ref: str) -> Callable[[], tuple[Withdrawal, ...]]:
    """What has to be left out of an artifact; looked up once, so that it is made of what defines it."""

    @functools.cache
    def look() -> tuple[Withdrawal, ...]:
        from hanse.trace import leaving, withdrawal

        return leaving.concerning(store, ref, withdrawal.read(store.root))

    return look


def _named(withdrawn: tuple[Withdrawal, ...]) -> dict[str, Any]:
    """Withdrawals as a part of a definition: none is no part, so that what was made before them stands."""
    return {"withdrawals": [each.digest for each in withdrawn]} if withdrawn else {}


def dataset_stage(recipe: Recipe, store: Store, runtime: Runtime, console: Console) -> Stage:
    """The stage that curates."""
    withdrawn = _withdrawn(store, f"dataset/{recipe.name}/{recipe.version}")

    def definition() -> dict[str, Any]:
        from hanse.data.annotate import identity

        return {
            "languages": list(recipe.languages),
            "seed": recipe.seed,
            "curate": identity(recipe.curate),
            "source": [*map(_identity, recipe.text_sources()), *([CANARIES] if recipe.curate.canaries else [])],
            **_named(withdrawn()),
        }

    def make(inputs: Inputs, work: Work) -> None:
        from hanse.data.curate import curate

        curate(
            work, recipe.text_sources(), recipe.curate, languages=recipe.languages, seed=recipe.seed,
            processes=runtime.threads, progress=console.progress, withdrawals=withdrawn(),
        )  # fmt: skip

    return _stage(f"dataset/{recipe.name}", "Curate", definition, [], make)


def _conversations(recipe: Recipe, store: Store) -> Stage:
    sources = talking(recipe)
    withdrawn = _withdrawn(store, f"conversations/{recipe.name}/{recipe.version}")

    def definition() -> dict[str, Any]:
        return {
            "languages": list(recipe.languages),
            "seed": recipe.seed,
            "licences": list(recipe.curate.licences),
            "source": [_identity(source) for source in sources],
            **_named(withdrawn()),
        }

    def make(inputs: Inputs, work: Work) -> None:
        from hanse.data.conversations import gather

        gather(
            work, sources, recipe.curate, languages=recipe.languages, seed=recipe.seed, withdrawals=withdrawn()
        )  # fmt: skip

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


def width(recipe: Recipe) -> int:
    """Hidden size of the recipe's model."""
    from hanse import plan

    return plan.model_config(recipe).hidden_size


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
            "pretrain": with_rates(recipe.pretrain, width(recipe)).model_dump(mode="json", exclude=set(HOW)),
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
        settings = with_rates(tune, width(recipe), is_tuning=True)
        return {"tune": settings.model_dump(mode="json", exclude=set(HOW)), "seed": recipe.seed}

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


def _memorisation(
    recipe: Recipe,
    key: str,
    model: str,
    dataset: str,
    shards: str,
    talk: str | None,
    store: Store,
    runtime: Runtime,
    console: Console,
) -> Stage:
    def definition() -> dict[str, Any]:
        return {"memorisation": recipe.memorisation.model_dump(mode="json"), "seed": recipe.seed}

    def make(inputs: Inputs, work: Work) -> None:
        from hanse.evaluate.memorisation import memorise

        memorise(
            work, model_folder=inputs["model"].path, dataset=inputs["dataset"], shards=inputs["shards"],
            conversations=inputs["conversations"] if talk and recipe.tune else None,
            settings=recipe.memorisation, runtime=runtime, seed=recipe.seed, store=store, progress=console.progress,
        )  # fmt: skip

    return _stage(key, "Memorisation", definition, [model, dataset, shards, *([talk] if talk else [])], make)


def _release(
    recipe: Recipe, model: str, evaluation: str, memorisation: str | None, store: Store, is_final: bool
) -> Stage:
    def publishing() -> Publishing:
        from hanse.release.folder import Publishing

        return Publishing(
            recipe.release, recipe.name, recipe.version, recipe.languages, recipe.description, is_final=is_final
        )

    def make(inputs: Inputs, work: Work) -> None:
        from hanse.release.folder import release

        release(
            work, model=inputs["model"], evaluation=inputs["evaluation"], memorisation=inputs.get("memorisation"),
            store=store, publishing=publishing(),
        )  # fmt: skip

    inputs = [model, evaluation, *filter(None, [memorisation])]
    return _stage(f"release/{recipe.name}", "Release", lambda: publishing().definition(), inputs, make)
