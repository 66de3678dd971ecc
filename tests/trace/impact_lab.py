"""A store with real data and shards, and models that are recorded as the pipeline records them, for tests of impact."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hanse import pipeline, stages
from hanse.console import Console
from hanse.data.mixture import Mixture, table
from hanse.data.shards import Shards
from hanse.data.tokenizer import FILES, Tokenizer
from hanse.parallel.ranks import Ranks
from hanse.recipe import Pretrain, Recipe, Tune, parse
from hanse.runtime import Runtime
from hanse.store.stage import Artifact, Store, Work
from hanse.tune.sft import PackedConversations, Packing
from hanse.tune.template import render_all

WORDS = {
    "de": (
        "Haus", "Straße", "über", "schön", "Wasser", "Morgen", "geht", "kommt", "alt", "jung", "weiß", "Brot", "Tür",
        "Garten", "Stern", "Wolke", "Fluss", "Berg",
    ),
    "el": (
        "το", "και", "είναι", "δεν", "ένα", "σπίτι", "δρόμος", "πάνω", "όμορφο", "νερό", "πρωί", "έρχεται", "παλιό",
        "νέος", "λευκό", "ψωμί", "πόρτα", "με",
    ),
}  # fmt: skip
LENGTH = 32
TALK = 96  # tokens of a row of conversations
AUTHORS = ("Fontane", "Storm", "Raabe")


def prose(language: str, number: int, words: int = 60) -> str:
    """Repeatable text; another number, another text."""
    pick = random.Random(f"{language} {number}")
    return " ".join(pick.choice(WORDS[language]) for _ in range(words)) + "."


def record(language: str, number: int, author: str, **fields: Any) -> dict[str, Any]:
    """A record of a JSON lines source."""
    return {
        "id": f"{language}/{number}", "text": prose(language, number), "language": language, "licence": "CC-BY-4.0",
        "author": author, "title": f"Band {number}", "url": f"https://{author.lower()}.example.org/{number}", **fields,
    }  # fmt: skip


def books(authors: Sequence[str] = AUTHORS, each: int = 12) -> list[dict[str, Any]]:
    """Books by several authors, in German; an author's books are the same whoever else is there."""
    return [record("de", 100 * AUTHORS.index(author) + n, author) for author in authors for n in range(each)]


def letters(each: int = 15) -> list[dict[str, Any]]:
    """Letters in Greek, by one author."""
    return [record("el", number, "Kavafis", licence="CC0-1.0") for number in range(each)]


def talk(count: int = 40) -> list[dict[str, Any]]:
    """Conversations."""
    return [
        {"id": f"c/{number}", "language": "de", "licence": "MIT", "author": "Quizmaster" if number % 2 else "Lehrer",
         "messages": [{"role": "user", "content": f"Frage {number}?"},
                      {"role": "assistant", "content": prose("de", 5000 + number, 4 + number % 9)}]}
        for number in range(count)
    ]  # fmt: skip


class ImpactLab:
    """A folder with a store, and recipes that are carried out in it; models are recorded, not trained."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store.open(folder / "store")

    def recipe(self, version: str, sources: dict[str, list[dict[str, Any]]], **sections: Any) -> Recipe:
        """A recipe over JSON lines; a source called `talk` holds conversations."""
        declared = []
        for name, rows in sources.items():
            path = self.folder / f"{name}-{version}.jsonl"
            path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
            kind = "conversations" if name == "talk" else "jsonl"
            declared.append({"name": name, "kind": kind, "path": str(path), "licence_basis": "stated",
                             "reservation": "none"})  # fmt: skip
        whole = {
            "name": "lab", "version": version, "source": declared, "seed": 7,
            "languages": sorted({row["language"] for rows in sources.values() for row in rows}),
            "curate": {"identify_language": False, "quality": False, "pii": "keep", "validation_share": 0.1},
            "tokenizer": {"vocab_size": 340},
            "pretrain": {"sequence_length": LENGTH, "batch_tokens": 4 * LENGTH, "budget_tokens": 200 * LENGTH},
            "model": {"size": "1M"},
        }  # fmt: skip
        if "talk" in sources:
            whole["tune"] = [{"source": "talk", "sequence_length": TALK, "batch_tokens": 4 * TALK, "epochs": 1.5}]
        return parse({**whole, **sections}, where="lab")

    def data(self, recipe: Recipe, until: str = "shards") -> None:
        """Curate, tokenize and encode, by the pipeline itself; and train, where a test asks for it."""
        runtime = Runtime.detect("cpu", 1)
        pipeline.run(recipe, self.store, runtime=runtime, ranks=Ranks(runtime), console=Console(is_quiet=True),
                     until=until)  # fmt: skip

    def base(self, recipe: Recipe, **facts: Any) -> Artifact:
        """The base model's record: its definition from the pipeline, its facts as a run without trouble leaves them."""
        shards, tokenizer = (self.store.find(f"{kind}/lab/{recipe.version}") for kind in ("shards", "tokenizer"))
        stage = self._stage(recipe, "model/lab-base")
        settings = Pretrain(**stage.definition()["pretrain"])
        rows = table(Mixture.of(Shards.open(shards.path), settings))

        def make(work: Work) -> None:
            self._write(work, tokenizer)
            (work.folder / "mixture.json").write_text(json.dumps(rows, indent=1) + "\n")
            self._note(work, {"steps": settings.steps, "tokens": settings.tokens, **facts})

        return self.store.build("model", "lab-base", recipe.version, definition=stage.definition(),
                                inputs={"shards": shards, "tokenizer": tokenizer}, make=make).artifact  # fmt: skip

    def chat(self, recipe: Recipe, base: Artifact, **facts: Any) -> Artifact:
        """The tuned model's record."""
        conversations = self.store.find(f"conversations/lab/{recipe.version}")
        stage = self._stage(recipe, "model/lab-chat")
        packed = packed_of(Tune(**stage.definition()["tune"]), conversations, base, seed=recipe.seed)
        length = packed.packing.sequence_length

        def make(work: Work) -> None:
            self._write(work, base)
            noted = {"steps": packed.steps, "tokens": packed.steps * 4 * length, "conversations": packed.conversations}
            self._note(work, noted | facts)

        return self.store.build("model", "lab-chat", recipe.version, definition=stage.definition(),
                                inputs={"model": base, "conversations": conversations}, make=make).artifact  # fmt: skip

    def release(self, model: Artifact, name: str, version: str = "1", **more: Artifact) -> Artifact:
        """An evaluation of a model, and a release of it."""
        shards = {"shards": next(iter(more.values()))} if more else {}
        evaluation = self.made(f"evaluation/{name}/{version}", model=model, **shards)
        return self.made(f"release/{name}/{version}", model=model, evaluation=evaluation)

    def made(self, ref: str, definition: dict[str, Any] | None = None, **inputs: Artifact) -> Artifact:
        """Anything that is made from something."""
        made = self.store.build(*ref.split("/"), definition=definition or {"ref": ref}, inputs=inputs,
                                make=lambda work: (work.folder / "content").write_text(ref) and None)  # fmt: skip
        return made.artifact

    def _stage(self, recipe: Recipe, key: str) -> stages.Stage:
        runtime = Runtime.detect("cpu", 1)
        planned = stages.stages(
            recipe, self.store, runtime=runtime, ranks=Ranks(runtime), console=Console(is_quiet=True)
        )
        return next(stage for stage in planned if stage.key == key)

    def _write(self, work: Work, tokenizer: Artifact) -> None:
        for name in FILES:
            shutil.copyfile(tokenizer.path / name, work.folder / name)
        (work.folder / "model.safetensors").write_text(work.ref)

    def _note(self, work: Work, facts: dict[str, Any]) -> None:
        """Facts, with kept checkpoints and metrics as byproducts, where the test asks for them."""
        for step in facts.pop("milestones", ()):
            (work.run / f"step-{step:06d}").mkdir()
            (work.run / f"step-{step:06d}" / "state.json").write_text("{}")
        if "metrics" in facts:
            (work.run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in facts.pop("metrics")))
        work.note(**{"skipped": 0, "rollbacks": [], **facts})


def packed_of(settings: Tune, conversations: Artifact, base: Artifact, *, seed: int) -> PackedConversations:
    """What tuning would show, in its rows."""
    lines = [json.loads(line) for line in (conversations.path / "train.jsonl").read_text().splitlines()]
    rendered = render_all(Tokenizer.load(base.path).hf, [line["messages"] for line in lines])
    return PackedConversations(rendered, Packing(settings.sequence_length, 4, (range(4),), settings.epochs, seed))
