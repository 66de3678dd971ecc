"""What pre-training read, and what the Goldfish loss hid: computed from the record as the run itself would have it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from by_heart import CONFIG, FakeWork, Settings, document, nonsense, save_model, write_shards, write_world
from tokenizers import Tokenizer

from hanse.data.loader import IGNORED
from hanse.data.shards import Shards
from hanse.evaluate.memorisation import memorise
from hanse.evaluate.reading import Reading, line_of, read_of, tuned_on
from hanse.model.transformer import Transformer
from hanse.recipe import HOW, Pretrain
from hanse.runtime import Runtime
from hanse.store.stage import Artifact, Store, Work
from hanse.train.goldfish import hide

LENGTH = 32
DOCUMENTS = [
    document(f"{source} {n}", source, text=nonsense(f"{source} {n}", 20 + 7 * n), language=language)
    for source, language in (("songs", "en"), ("news", "en"), ("laws", "de"))
    for n in range(9)
]  # fmt: skip
CANARIES = [document(f"copy {n}", "canary", extra=json.dumps({"canary": 1 + n // 3})) for n in range(4)]
HALF = Pretrain(budget_tokens=640, sequence_length=LENGTH, batch_tokens=64)
TWICE = HALF.model_copy(update={"budget_tokens": 64 * 60})


@pytest.fixture
def store(tmp_path: Path, tokenizer: Tokenizer) -> Store:
    """A store with the shards of the documents."""
    store = Store.open(tmp_path / "store")

    def make(work: Work) -> None:
        write_shards(work.folder / "made", [*DOCUMENTS, *CANARIES], tokenizer)
        for path in sorted((work.folder / "made").iterdir()):
            path.rename(work.folder / path.name)
        (work.folder / "made").rmdir()

    store.build("shards", "toy", "1", definition={}, inputs={}, make=make)
    return store


@pytest.fixture
def pretrained(store: Store, tokenizer: Tokenizer) -> Callable[..., Artifact]:
    """Puts a model with the record of a pre-training into the store."""

    def build(settings: Pretrain, *, facts: dict[str, Any] | None = None, name: str = "toy-base") -> Artifact:
        def make(work: Work) -> None:
            model = Transformer(CONFIG).init_weights(torch.Generator().manual_seed(1))
            save_model(work.folder, model, tokenizer)
            work.note(**(facts or {}))

        definition = {"pretrain": settings.model_dump(mode="json", exclude=set(HOW)), "seed": 5}
        inputs = {"shards": store.find("shards/toy")}
        return store.build("model", name, "1", definition=definition, inputs=inputs, make=make).artifact

    return build


def reading_of(model: Artifact, store: Store) -> Reading:
    found = read_of(line_of(model.path), store.find("shards/toy"))
    assert found is not None
    return found


def columns(shards: Path) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    rows = [row for row in Shards.open(shards).index().to_pylist() if row["split"] == "train"]
    return rows, {name: np.array([row[name] for row in rows]) for name in ("language", "source", "offset", "tokens")}


def replayed(reading: Reading, rows: list[dict[str, Any]], *, k: int = 0) -> tuple[list[int], list[int]]:
    """How often the least read token of each document was a target over the whole run, and how many of its targets
    were hidden each time: by going through the run.
    """
    loader = reading.loader
    seen = {(s.language, s.source): np.zeros(s.tokens, np.int64) for s in loader.mixture.streams}
    dark = {key: np.zeros(len(counts), np.int64) for key, counts in seen.items()}
    for number in range(loader.mixture.samples):
        places = loader.places(np.array([number]))
        stream = loader.mixture.streams[int(places.stream_N[0])]
        batch = loader.batch(number, 1)
        targets = (hide(batch.tokens_BT, batch.targets_BT, k=k) if k else batch.targets_BT)[0].numpy()
        first = int(places.window_N[0]) * LENGTH
        size = min(LENGTH, stream.tokens - first)
        key = (stream.language, stream.source)
        seen[key][first : first + size] += 1
        dark[key][first : first + size] += targets[:size] == IGNORED
    times, hidden = [], []
    for row in rows:
        stream = next(s for s in loader.mixture.streams if (s.language, s.source) == (row["language"], row["source"]))
        inside = slice(row["offset"] - stream.offset, row["offset"] - stream.offset + row["tokens"])
        key = (row["language"], row["source"])
        times.append(int(seen[key][inside].min()))
        hidden.append(int((dark[key][inside] / np.maximum(seen[key][inside], 1)).sum()))
    return times, hidden


@pytest.mark.parametrize("settings", [HALF, TWICE], ids=["a part of the text", "several times"])
def test_how_often_a_document_was_read_equals_what_a_replay_counts(
    settings: Pretrain, store: Store, pretrained: Callable[..., Artifact]
) -> None:
    reading = reading_of(pretrained(settings), store)
    rows, cells = columns(store.find("shards/toy").path)
    times, _ = replayed(reading, rows)
    assert reading.times(cells).tolist() == times
    assert (min(times) == 0) == (settings is HALF)
    assert max(times) > 0


def test_the_hidden_targets_equal_those_that_a_replay_finds(store: Store, pretrained: Callable[..., Artifact]) -> None:
    reading = reading_of(pretrained(TWICE.model_copy(update={"goldfish": 3})), store)
    rows, _ = columns(store.find("shards/toy").path)
    _, hidden = replayed(reading, rows, k=3)
    found = [reading.hidden(row) for row in rows]
    assert [dark for dark, _ in found] == hidden
    assert [whole for _, whole in found] == [row["tokens"] for row in rows]
    assert 0.1 < sum(hidden) / sum(row["tokens"] for row in rows) < 0.4


def test_without_goldfish_nothing_is_hidden(store: Store, pretrained: Callable[..., Artifact]) -> None:
    reading = reading_of(pretrained(HALF), store)
    rows, _ = columns(store.find("shards/toy").path)
    assert {reading.hidden(row)[0] for row in rows} == {0}


def test_the_line_of_a_tuned_model_leads_to_what_its_base_read(
    store: Store, pretrained: Callable[..., Artifact]
) -> None:
    base = pretrained(HALF)
    tuned = store.build(
        "model", "toy-chat", "1", definition={"tune": {"source": "talk"}}, inputs={"model": base},
        make=lambda work: (work.folder / "x").write_text("x") and None,
    ).artifact  # fmt: skip
    line = line_of(tuned.path)
    assert [each.ref for each in line] == ["model/toy-chat/1", "model/toy-base/1"]
    assert tuned_on(line) == {"talk"}
    assert read_of(line, store.find("shards/toy")) is not None


def test_what_no_record_says_is_not_known(store: Store, pretrained: Callable[..., Artifact], tmp_path: Path) -> None:
    shards = store.find("shards/toy")
    base = pretrained(HALF)
    assert line_of(tmp_path) == []
    assert read_of([], shards) is None
    assert read_of(line_of(base.path), replace(shards, digest="another")) is None
    bad = json.loads(json.dumps(base.record))
    bad["predicate"]["buildDefinition"]["externalParameters"]["pretrain"]["no such key"] = 1
    assert read_of([replace(base, record=bad)], shards) is None


def test_only_what_was_read_in_full_is_tested_and_the_goldfish_is_reported(
    store: Store, pretrained: Callable[..., Artifact], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    base = pretrained(HALF.model_copy(update={"goldfish": 4}))
    dataset, _ = write_world(tmp_path / "world", [*DOCUMENTS, *CANARIES], tokenizer)
    lines = [{"number": number, "text": nonsense(str(number)), "repeats": 4 - 2 * number} for number in (1, 2)]
    (dataset.path / "canaries.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    shards = store.find("shards/toy")
    work = FakeWork(tmp_path / "w")
    memorise(
        work, model_folder=base.path, dataset=dataset, shards=shards, conversations=None,  # type: ignore[arg-type]
        settings=Settings(samples=0), runtime=Runtime(device=torch.device("cpu")), seed=0,  # type: ignore[arg-type]
    )  # fmt: skip
    report = json.loads((tmp_path / "w" / "memorisation.json").read_text())
    rows, cells = columns(shards.path)
    times = reading_of(base, store).times(cells)
    counts = {row["id"]: int(number) for row, number in zip(rows, times, strict=True)}
    for each in report["canaries"]["each"]:
        copies = [row["id"] for row in CANARIES if json.loads(row["extra"])["canary"] == each["number"]]
        assert each["times_read"] == sum(counts[copy] for copy in copies)
    rows = [row for row in rows if row["source"] != "canary"]
    read = {row["id"] for row in rows if counts[row["id"]]}
    attempts = [json.loads(line) for line in (tmp_path / "w" / "extractions.jsonl").read_text().splitlines()]
    tested = {attempt["id"] for attempt in attempts}
    assert report["is_reading_recorded"] is True
    assert tested == {row["id"] for row in rows if row["id"] in read and row["tokens"] - 1 >= 24}
    sources = [each for each in report["groups"] if each["kind"] == "source"]
    assert sum(each["train"]["unread"] for each in sources) == len(rows) - len(read) > 0
    goldfish = report["goldfish"]
    assert (goldfish["k"], goldfish["documents"]) == (4, len(tested))
    assert goldfish["targets"] == sum(row["tokens"] for row in rows if row["id"] in tested)
    assert goldfish["hidden"] == sum(each["hidden"] for each in goldfish["sources"]) > 0
