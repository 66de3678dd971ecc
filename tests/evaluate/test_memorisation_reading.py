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
from by_heart import CONFIG, FakeWork, Settings, document, learnt, nonsense, save_model, write_shards, write_world
from tokenizers import Tokenizer

from hanse.data.loader import IGNORED, Loader
from hanse.data.mixture import Mixture
from hanse.data.shards import Shards
from hanse.evaluate.memorisation import memorise
from hanse.evaluate.passages import cut
from hanse.evaluate.reading import Reading, line_of, read_of, shown_of, tuned_on
from hanse.model.transformer import Transformer
from hanse.recipe import HOW, Pretrain, Tune
from hanse.runtime import Runtime
from hanse.store.stage import Artifact, Store, Work
from hanse.train.goldfish import hide
from hanse.tune.sft import PackedConversations, Packing
from hanse.tune.template import render_all

LENGTH = 32
DOCUMENTS = [
    document(f"{source} {n}", source, text=nonsense(f"{source} {n}", 20 + 7 * n), language=language)
    for source, language in (("songs", "en"), ("news", "en"), ("laws", "de"))
    for n in range(9)
]  # fmt: skip
CANARIES = [document(f"copy {n}", "canary", extra=json.dumps({"canary": 1 + n // 3})) for n in range(4)]
HALF = Pretrain(budget_tokens=640, sequence_length=LENGTH, batch_tokens=64)
TWICE = HALF.model_copy(update={"budget_tokens": 64 * 60})


def add_shards(store: Store, version: str, documents: list[dict[str, Any]], tokenizer: Tokenizer) -> Artifact:
    def make(work: Work) -> None:
        write_shards(work.folder / "made", documents, tokenizer)
        for path in sorted((work.folder / "made").iterdir()):
            path.rename(work.folder / path.name)
        (work.folder / "made").rmdir()

    definition = {"documents": len(documents)}
    return store.build("shards", "toy", version, definition=definition, inputs={}, make=make).artifact


@pytest.fixture
def store(tmp_path: Path, tokenizer: Tokenizer) -> Store:
    """A store with the shards of the documents."""
    store = Store.open(tmp_path / "store")
    add_shards(store, "1", [*DOCUMENTS, *CANARIES], tokenizer)
    return store


@pytest.fixture
def pretrained(store: Store, tokenizer: Tokenizer) -> Callable[..., Artifact]:
    """Puts a model with the record of a pre-training into the store."""

    def build(
        settings: Pretrain,
        *,
        facts: dict[str, Any] | None = None,
        name: str = "toy-base",
        weights: Transformer | None = None,
        metrics: list[dict[str, Any]] | None = None,
        shards: str = "shards/toy/1",
    ) -> Artifact:
        def make(work: Work) -> None:
            model = weights or Transformer(CONFIG).init_weights(torch.Generator().manual_seed(1))
            save_model(work.folder, model, tokenizer)
            work.note(**(facts or {}))
            if metrics is not None:
                (work.run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics))

        definition = {"pretrain": settings.model_dump(mode="json", exclude=set(HOW)), "seed": 5}
        inputs = {"shards": store.find(shards)}
        return store.build("model", name, "1", definition=definition, inputs=inputs, make=make).artifact

    return build


def reading_of(model: Artifact, store: Store) -> Reading:
    found = read_of(line_of(model.path), store.find("shards/toy"))
    assert found is not None
    return found


def columns(shards: Path) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    rows = [row for row in Shards.open(shards).index().to_pylist() if row["split"] == "train"]
    return rows, {name: np.array([row[name] for row in rows]) for name in ("language", "source", "offset", "tokens")}


def replayed(reading: Reading, rows: list[dict[str, Any]], *, k: int = 0) -> list[list[tuple[int, bool]]]:
    """How often each text token of each document was a target over the whole run, and whether it was hidden: by going
    through the run.
    """
    loader = reading.loader
    seen = {(s.language, s.source): np.zeros(s.tokens, np.int64) for s in loader.mixture.streams}
    dark = {key: np.zeros(len(counts), bool) for key, counts in seen.items()}
    for number in range(loader.mixture.samples):
        places = loader.places(np.array([number]))
        stream = loader.mixture.streams[int(places.stream_N[0])]
        batch = loader.batch(number, 1)
        targets = (hide(batch.tokens_BT, batch.targets_BT, k=k) if k else batch.targets_BT)[0].numpy()
        first = int(places.window_N[0]) * LENGTH
        size = min(LENGTH, stream.tokens - first)
        key = (stream.language, stream.source)
        seen[key][first : first + size] += 1
        dark[key][first : first + size] |= targets[:size] == IGNORED
    found = []
    for row in rows:
        stream = next(s for s in loader.mixture.streams if (s.language, s.source) == (row["language"], row["source"]))
        begin = row["offset"] - stream.offset
        inside, key = slice(begin, begin + row["tokens"] - 1), (row["language"], row["source"])
        found.append(list(zip(seen[key][inside].tolist(), dark[key][inside].tolist(), strict=True)))
    return found


@pytest.mark.parametrize("settings", [HALF, TWICE], ids=["a part of the text", "several times"])
def test_how_often_a_piece_was_read_equals_what_a_replay_counts(
    settings: Pretrain, store: Store, pretrained: Callable[..., Artifact]
) -> None:
    reading = reading_of(pretrained(settings), store)
    rows, cells = columns(store.find("shards/toy").path)
    pieces = cut(cells, reading.loader.mixture.streams, window=reading.window)
    by_token: list[list[int]] = [[] for _ in rows]
    for row, size, times in zip(
        pieces.document_P.tolist(), pieces.sizes_P.tolist(), reading.times(cells, pieces).tolist(), strict=True
    ):
        by_token[row] += [times] * size
    counted = [[times for times, _ in each] for each in replayed(reading, rows)]
    assert by_token == counted
    assert reading.whole_times(cells).tolist() == [min(each) for each in counted]
    assert (min(map(min, counted)) == 0) == (settings is HALF)
    assert any(min(each) == 0 < max(each) for each in counted) == (settings is HALF)
    assert max(map(max, counted)) > 0


def test_the_hidden_targets_equal_those_that_a_replay_finds(store: Store, pretrained: Callable[..., Artifact]) -> None:
    reading = reading_of(pretrained(TWICE.model_copy(update={"goldfish": 3})), store)
    rows, cells = columns(store.find("shards/toy").path)
    pieces = cut(cells, reading.loader.mixture.streams, window=reading.window)
    counted = replayed(reading, rows, k=3)
    hidden = 0
    for row, window, begin, end in zip(
        *(each.tolist() for each in (pieces.document_P, pieces.window_P, pieces.begin_P, pieces.end_P)), strict=True
    ):
        found = reading.hidden(rows[row], window, begin, end)
        assert found == sum(is_dark for _, is_dark in counted[row][begin:end])
        hidden += found
    assert 0.1 < hidden / sum(row["tokens"] for row in rows) < 0.4


def test_without_goldfish_nothing_is_hidden(store: Store, pretrained: Callable[..., Artifact]) -> None:
    reading = reading_of(pretrained(HALF), store)
    rows, _ = columns(store.find("shards/toy").path)
    assert {reading.hidden(row, 0, 0, 10) for row in rows} == {0}


def test_what_the_guard_dropped_was_not_read_and_not_known_where_its_steps_are_not(
    store: Store, pretrained: Callable[..., Artifact]
) -> None:
    _, cells = columns(store.find("shards/toy").path)
    rows = [{"step": step, "skipped": int(step == 2)} for step in range(1, HALF.steps + 1)]
    named = reading_of(pretrained(HALF, facts={"skipped": 1}, metrics=rows, name="named"), store)
    whole = reading_of(pretrained(HALF), store)
    pieces = cut(cells, whole.loader.mixture.streams, window=LENGTH)
    lost = (whole.times(cells, pieces) - named.times(cells, pieces)) > 0
    second_step = whole.loader.places(np.arange(2, 4))  # two samples a step
    windows = set(zip(second_step.stream_N.tolist(), second_step.window_N.tolist(), strict=True))
    stream_D = [
        next(
            n for n, s in enumerate(whole.loader.mixture.streams)
            if (s.language, s.source) == (cells["language"][row], cells["source"][row])
        )
        for row in range(len(cells["offset"]))
    ]  # fmt: skip
    found = {(stream_D[pieces.document_P[p]], int(pieces.window_P[p])) for p in np.flatnonzero(lost)}
    assert found == windows
    unnamed = pretrained(HALF, facts={"skipped": 1}, name="unnamed")
    assert read_of(line_of(unnamed.path), store.find("shards/toy")) is None


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


def measured(
    folder: Path,
    model: Artifact,
    dataset: Artifact,
    shards: Artifact,
    conversations: Artifact | None = None,
    **settings: Any,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The stage; its report and its attempts."""
    memorise(
        FakeWork(folder), model_folder=model.path, dataset=dataset, shards=shards, conversations=conversations,  # type: ignore[arg-type]
        settings=Settings(**settings), runtime=Runtime(device=torch.device("cpu")), seed=0,  # type: ignore[arg-type]
    )  # fmt: skip
    report = json.loads((folder / "memorisation.json").read_text())
    return report, [json.loads(line) for line in (folder / "extractions.jsonl").read_text().splitlines()]


def written(ids: list[int]) -> str:
    return f" {' '.join(map(str, ids))} "


def test_what_is_asked_stands_in_one_sample_of_training_and_all_that_was_read_can_be_asked(
    store: Store, pretrained: Callable[..., Artifact], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    base, shards = pretrained(HALF), store.find("shards/toy")
    dataset, _ = write_world(tmp_path / "world", [*DOCUMENTS, *CANARIES], tokenizer)
    report, attempts = measured(tmp_path / "w", base, dataset, shards, samples=0)
    loader = reading_of(base, store).loader
    read = [written(row) for row in loader.samples(0, loader.mixture.samples)[:, 1:].tolist()]
    rows, _ = columns(shards.path)
    tokens_of = {language: Shards.open(shards.path).tokens("train", language).tolist() for language in ("de", "en")}
    ids = {row["id"]: tokens_of[row["language"]][row["offset"] :][: row["tokens"] - 1] for row in rows}
    assert len(attempts) > 10
    for row in attempts:
        asked = ids[row["id"]][row["at_token"] - row["prefix_tokens"] : row["at_token"] + row["continuation_tokens"]]
        assert sum(written(asked) in sample for sample in read) == row["times_read"] > 0
    testable = set()
    for row in (row for row in rows if row["source"] != "canary"):
        own = ids[row["id"]]
        for start in range(len(own) - 23):
            if any(written(own[start : start + 24]) in sample for sample in read):
                testable.add(row["id"])
    assert {row["id"] for row in attempts} == testable
    population = report["population"]
    assert (population["testable"], population["documents"]) == (len(testable), len(DOCUMENTS))
    assert population["never_read"] + population["short"] + population["testable"] == population["documents"]
    assert population["tokens"] == sum(row["tokens"] - 1 for row in rows if row["source"] != "canary")
    assert report["window_tokens"] == LENGTH
    sources = [each["train"] for each in report["groups"] if each["kind"] == "source"]
    for key in ("documents", "tokens", "never_read", "read_tokens", "short", "testable", "testable_tokens"):
        assert sum(each[key] for each in sources) == population[key]


def test_the_canaries_and_the_goldfish_are_reported_as_they_were_read(
    store: Store, pretrained: Callable[..., Artifact], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    base, shards = pretrained(HALF.model_copy(update={"goldfish": 4})), store.find("shards/toy")
    dataset, _ = write_world(tmp_path / "world", [*DOCUMENTS, *CANARIES], tokenizer)
    lines = [{"number": number, "text": nonsense(str(number)), "repeats": 4 - 2 * number} for number in (1, 2)]
    (dataset.path / "canaries.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    report, attempts = measured(tmp_path / "w", base, dataset, shards, samples=0)
    rows, _ = columns(shards.path)
    counted = dict(zip((row["id"] for row in rows), replayed(reading_of(base, store), rows, k=4), strict=True))
    for each in report["canaries"]["each"]:
        copies = [row["id"] for row in CANARIES if json.loads(row["extra"])["canary"] == each["number"]]
        assert each["times_read"] == sum(min(times for times, _ in counted[copy]) for copy in copies)
    tested = {row["id"] for row in attempts}
    goldfish = report["goldfish"]
    assert report["is_reading_recorded"] is True
    assert (goldfish["k"], goldfish["documents"]) == (4, len(tested))
    assert goldfish["targets"] == sum(each["targets"] for each in goldfish["sources"])
    assert goldfish["hidden"] == sum(each["hidden"] for each in goldfish["sources"]) > 0
    assert goldfish["hidden"] <= sum(is_dark for each in tested for _, is_dark in counted[each])


def test_a_run_that_read_no_document_in_full_is_tested_on_the_windows_that_it_read(
    tokenizer: Tokenizer, pretrained: Callable[..., Artifact], store: Store, tmp_path: Path
) -> None:
    books = [document(f"book {n}", text=nonsense(f"book {n}", 400)) for n in range(4)]
    kept = document("kept", text=nonsense("kept", 400), split="validation")
    dataset, _ = write_world(tmp_path / "world", [*books, kept], tokenizer)
    shards = add_shards(store, "2", [*books, kept], tokenizer)
    settings = Pretrain(budget_tokens=8 * LENGTH, sequence_length=LENGTH, batch_tokens=LENGTH)
    opened = Shards.open(shards.path)
    samples = Loader(opened, Mixture.of(opened, settings), seed=5).samples(0, 8).tolist()
    base = pretrained(settings, shards=shards.ref, weights=learnt(samples, steps=120, window=30))
    report, attempts = measured(tmp_path / "w", base, dataset, shards, samples=0, prefix_tokens=(8,))
    _, cells = columns(shards.path)
    reading = read_of(line_of(base.path), shards)
    assert reading is not None and reading.whole_times(cells).max() == 0
    population = report["population"]
    assert population["times_read"] == {"least": 1, "mean": 1.0, "most": 1}
    assert 200 < population["testable_tokens"] <= population["read_tokens"] <= 8 * LENGTH < population["tokens"]
    (found,) = (each["results"][0] for each in report["groups"] if each["kind"] == "source")
    assert found["train"]["extracted"] == found["train"]["tested"] == population["testable"] >= 3
    assert (found["control"]["extracted"], found["control"]["tested"]) == (0, 1)
    assert {row["times_read"] for row in attempts} == {1, None}


def conversation(number: int, source: str, size: int) -> dict[str, Any]:
    messages = [
        {"role": "user", "content": nonsense(f"question {number}", 10)},
        {"role": "assistant", "content": nonsense(f"answer {number}", size)},
    ]
    return {"id": f"c{number}", "source": source, "language": "en", "messages": messages}


TOLD = [conversation(n, "other" if n % 5 == 0 else "talk", 90 if n % 7 == 3 else 10 + n % 4) for n in range(64)]
SHORT = [row for row in TOLD if len(row["messages"][1]["content"]) < 90]


def add_talk(store: Store, version: str, told: list[dict[str, Any]]) -> Artifact:
    def make(work: Work) -> None:
        for name, rows in (("train", told), ("heldout", told[:0])):
            (work.folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    definition = {"conversations": len(told)}
    return store.build("conversations", "toy", version, definition=definition, inputs={}, make=make).artifact


def add_tuned(
    store: Store, tokenizer: Tokenizer, name: str, inputs: dict[str, Artifact], settings: Tune, **facts: Any
) -> Artifact:
    def make(work: Work) -> None:
        save_model(work.folder, Transformer(CONFIG).init_weights(torch.Generator().manual_seed(1)), tokenizer)
        work.note(**facts)

    definition = {"tune": settings.model_dump(mode="json", exclude=set(HOW)), "seed": 5}
    return store.build("model", name, "1", definition=definition, inputs=inputs, make=make).artifact


def shown_by_replay(tokenizer: Tokenizer, told: list[dict[str, Any]], settings: Tune) -> set[int]:
    """Which conversations stand in the batches of a tuning on `talk`."""
    rendered = render_all(tokenizer, [row["messages"] for row in told])
    talking = [each for row, each in zip(told, rendered, strict=True) if row["source"] == "talk"]
    packed = PackedConversations(talking, Packing(64, 2, (range(2),), settings.epochs, 5))
    number_of = {tuple(each.ids[:-1]): number for number, each in enumerate(rendered)}
    found = set()
    for step in range(packed.steps):
        (batch,) = packed.batch_at(step)
        for tokens, documents in zip(batch.tokens_BT, batch.documents_BT, strict=True):
            pieces = (tuple(tokens[documents == one].tolist()) for one in documents.unique())
            found |= {number_of[piece] for piece in pieces if any(piece)}
    return found


def test_only_conversations_that_tuning_showed_are_asked(
    store: Store, pretrained: Callable[..., Artifact], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    base, conversations = pretrained(HALF), add_talk(store, "1", TOLD)
    settings = Tune(source="talk", epochs=0.6, sequence_length=64, batch_tokens=128)
    tuned = add_tuned(store, tokenizer, "toy-chat", {"model": base, "conversations": conversations}, settings)
    shown = shown_of(line_of(tuned.path), conversations)
    talking = {number for number, row in enumerate(TOLD) if row["source"] == "talk"}
    assert shown == shown_by_replay(tokenizer, TOLD, settings) and shown is not None
    assert 0 < len(shown) < len(talking) and shown < talking
    dataset, _ = write_world(tmp_path / "world", [*DOCUMENTS, *CANARIES], tokenizer)
    report, _ = measured(
        tmp_path / "w", tuned, dataset, store.find("shards/toy"), conversations, samples=0, documents_per_source=99
    )
    (row,) = report["conversations"]
    assert (row["conversations"], row["never_shown"]) == (len(talking), len(talking) - len(shown))
    assert row["train"]["tested"] == len(shown)
    assert shown_of(line_of(tuned.path), replace(conversations, digest="another")) is None
    assert shown_of(line_of(base.path), conversations) is None


@pytest.mark.parametrize("epochs", [1.0, 1.9, 3.0, 9.0])
@pytest.mark.parametrize("told", [TOLD, SHORT], ids=["some too long", "all fit"])
def test_what_several_passes_showed_equals_what_a_replay_finds(
    told: list[dict[str, Any]], epochs: float, store: Store, tokenizer: Tokenizer
) -> None:
    conversations = add_talk(store, "1", told)
    settings = Tune(source="talk", epochs=epochs, sequence_length=64, batch_tokens=128)
    fitting = sum(row in SHORT and row["source"] == "talk" for row in told)
    tuned = add_tuned(
        store, tokenizer, "toy-chat", {"conversations": conversations}, settings, conversations=fitting
    )  # fmt: skip
    assert shown_of(line_of(tuned.path), conversations) == shown_by_replay(tokenizer, told, settings)
    dropped = add_tuned(
        store, tokenizer, "toy-dropped", {"conversations": conversations}, settings, conversations=fitting, skipped=1
    )
    assert shown_of(line_of(dropped.path), conversations) is None  # which step is not recorded
