"""Small hand-made stores, what is on record in them, and a release."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import licensed_store as licensed
import paper_store as hostile
import pytest
import toy_papers
from gate_release import Published, real_store
from gate_release import publish as publish_for_gate
from toy_release import SCORES, SETTINGS, modelling, publish, write_conversations, write_dataset, writing

from hanse.recipe import Release
from hanse.release.ledger import Ledger
from hanse.release.papers.dataset_facts import DatasetFacts, datasets
from hanse.store.digest import RECORD, SUMS
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


# --------------------------------------------------------------------------- to read, never to change


@pytest.fixture(scope="session")
def papers_store(tmp_path_factory) -> Store:
    """The store of `toy_papers`, which answers nearly all that papers ask."""
    return toy_papers.build(tmp_path_factory.mktemp("papers") / "store")


@pytest.fixture(scope="session")
def papers_ledger(papers_store) -> Ledger:
    return toy_papers.ledger_of(papers_store)


@pytest.fixture(scope="session")
def hostile_store(tmp_path_factory) -> Store:
    """The store of `paper_store`, some of which wishes its reader ill."""
    return hostile.make_store(tmp_path_factory.mktemp("hostile") / "store")


@pytest.fixture(scope="session")
def hostile_ledger(hostile_store) -> Ledger:
    return hostile.ledger_of(hostile_store)


@pytest.fixture(scope="session")
def hostile_facts(hostile_ledger) -> dict[str, DatasetFacts]:
    """What is known of its dataset and its conversations."""
    return {each.artifact.kind: each for each in datasets(hostile_ledger)}


@pytest.fixture(scope="session")
def answered_ledger(hostile_ledger) -> Ledger:
    """The same after people have answered a few questions."""
    said = {"provider": {"name": "Lab"}, "model": {"intended_uses": "play", "release_date": "2026-11-30"}}
    return dataclasses.replace(hostile_ledger, answers=said, answers_digest="00" * 32)


@pytest.fixture(scope="session")
def licensed_store(tmp_path_factory) -> Store:
    """The store of `licensed_store`: text under contract beside free text."""
    return licensed.make_store(tmp_path_factory.mktemp("licensed") / "store")


@pytest.fixture(scope="session")
def licensed_ledger(licensed_store) -> Ledger:
    return licensed.ledger_of(licensed_store)


# --------------------------------------------------------------------------- for the gate


@pytest.fixture(scope="session")
def published(tmp_path_factory) -> Published:
    """A sealed release of a model with real weights; to read, never to change."""
    place = tmp_path_factory.mktemp("gate")
    return publish_for_gate(real_store(place / "store"), place / "key.pem")


@pytest.fixture
def sealed(published, tmp_path) -> Path:
    """A copy of its folder that a test may spoil."""
    return Path(shutil.copytree(published.release.path, tmp_path / "release"))


@pytest.fixture
def unsealed(sealed) -> Path:
    """The same before it is sealed."""
    for name in (SUMS, RECORD, "model.sig"):
        (sealed / name).unlink()
    return sealed
