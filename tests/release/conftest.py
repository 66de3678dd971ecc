"""A store with a small hand-made model and its ancestors, and a release of it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from toy_release import SCORES, SETTINGS, modelling, publish, write_conversations, write_dataset, writing

from hanse.recipe import Release
from hanse.store.stage import Artifact, Built, Store


@pytest.fixture(scope="session")
def original(tmp_path_factory) -> Path:
    """The store `s` with everything up to the release, and the key `signing.pem`; made once, copied by each test."""
    place = tmp_path_factory.mktemp("original")
    store = Store.open(place / "s")

    def step(kind, name, make, definition=None, **inputs: Artifact) -> Artifact:
        return store.build(kind, name, "1", definition=definition or {}, inputs=inputs, make=make).artifact

    dataset = step("dataset", "toy", write_dataset)
    talk = step("conversations", "toy", write_conversations)
    tokenizer = step("tokenizer", "toy", writing("tokenizer.json", "{}"), dataset=dataset, talk=talk)
    shards = step("shards", "toy", writing("da.bin", "x"), dataset=dataset, tokenizer=tokenizer)
    base = step("model", "toy-base", modelling(tokens=1000, flop=10**18), shards=shards, tokenizer=tokenizer)
    tuned = step("model", "toy-chat", modelling(tokens=500, flop=10**17), {"tune": {}}, model=base, talk=talk)
    step("evaluation", "toy-chat", writing("scores.json", json.dumps(SCORES)), model=tuned, shards=shards)
    publish(store, Release(**SETTINGS, key=str(place / "signing.pem")))
    return place


@pytest.fixture
def store(original, tmp_path) -> Store:
    return Store.open(shutil.copytree(original / "s", tmp_path / "store"))


@pytest.fixture
def settings(original, tmp_path) -> Release:
    return Release(**SETTINGS, key=str(shutil.copy2(original / "signing.pem", tmp_path)))


@pytest.fixture
def released(store) -> Artifact:
    return store.find("release/toy")


@pytest.fixture
def make_release(store, settings):
    """Releases the model again, with other settings where some are given."""

    def run(chosen: Release = settings, version: str = "1", **changes: Any) -> Built:
        return publish(store, chosen, version, **changes)

    return run
