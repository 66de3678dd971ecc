"""A server says where an answer stands in the training texts, if the store behind its model has their index."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from trace_toys import FOX, QUESTION, full_store

from hanse.serve.api import errors, origins
from hanse.serve.record import record
from hanse.store.stage import Store
from hanse.trace.index import beside, indexes, place_of


@pytest.fixture
def store(tmp_path) -> Store:
    return full_store(tmp_path / "store")


def client(release: Path | None) -> TestClient:
    app = FastAPI()
    origins.add(app, release)
    errors.install(app)
    return TestClient(app, raise_server_exceptions=False)


def test_an_answer_comes_back_with_its_documents(store):
    release = store.find("release/toy")
    indexes(store, release, build_missing=True)
    found = client(release.path).post("/trace", json={"text": f"I think: {QUESTION} {FOX}"})
    assert found.status_code == 200
    first, second = found.json()["spans"]
    assert (first["text"], first["count"], second["text"]) == (FOX[:-1], 2, QUESTION[:-1])
    assert first["places"][0]["url"] == "https://example.org/fuchs"


def test_without_an_index_of_all_text_there_is_no_answer(store, tmp_path):
    release = store.find("release/toy")
    assert client(release.path).post("/trace", json={"text": FOX}).status_code == 404
    assert record(release.path)["trace"] == {"index": False}
    indexes(store, release, build_missing=True)
    assert record(release.path)["trace"] == {"index": True}
    shutil.rmtree(place_of(store, store.find("conversations/toy")))
    assert record(release.path)["trace"] == {"index": False}
    refused = client(release.path).post("/trace", json={"text": FOX})
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "no_index")


def test_a_model_outside_a_store_has_no_index(store, tmp_path):
    release = store.find("release/toy")
    indexes(store, release, build_missing=True)
    copied = shutil.copytree(release.path, tmp_path / "copied")
    for folder in (None, copied, Path("/"), tmp_path / "nowhere"):
        assert beside(folder) == []
        assert client(folder).post("/trace", json={"text": FOX}).status_code == 404


def test_what_is_no_text_or_too_long_is_refused(store):
    release = store.find("release/toy")
    indexes(store, release, build_missing=True)
    asked = client(release.path)
    for body in ({}, {"text": ""}, {"text": 5}, {"text": "x" * (origins.LONGEST_CHARACTERS + 1)}, [], "x"):
        assert asked.post("/trace", json=body).status_code == 400, body
    assert asked.post("/trace", content=b'{"text": "\\ud800 half of a pair"}').status_code == 400
    assert asked.post("/trace", content=b"\xff").status_code == 400
    assert asked.post("/trace", json={"text": "short"}).json()["spans"] == []
