"""Exposure: a canary that was read often is told from others of its form, one that was never read is not."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from by_heart import FakeWork, Settings, document, learnt, rows_of, save_model, write_world
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from hanse.data.canaries import candidates, make
from hanse.errors import InputError
from hanse.evaluate.canary_exposure import exposure_of, measure, rank_of
from hanse.evaluate.memorisation import memorise
from hanse.model.transformer import Transformer
from hanse.runtime import Runtime

PLACED = make(6, (1, 8, 64), seed=0)


@pytest.fixture(scope="session")
def reader(tokenizer: Tokenizer) -> Transformer:
    """A model that read each canary about as often as it was placed."""
    others = candidates(40, seed=99)
    texts = [canary.text for canary in PLACED] + others
    weights = [float(canary.repeats) for canary in PLACED] + [1.0] * len(others)
    return learnt(rows_of(tokenizer, texts), steps=60, weights=weights)


def test_a_canary_that_was_read_more_often_is_more_exposed(reader: Transformer, tokenizer: Tokenizer) -> None:
    found = measure(reader, tokenizer, PLACED, candidates(255, seed=1))
    mean = {repeats: np.mean([each.value for each in found if each.repeats == repeats]) for repeats in (1, 8, 64)}
    assert mean[1] < mean[64] == 8.0  # nothing of the 255 is likelier
    assert mean[1] <= mean[8] <= mean[64]
    bits = {repeats: np.mean([each.bits for each in found if each.repeats == repeats]) for repeats in (1, 8, 64)}
    assert bits[1] > bits[8] > bits[64]


def test_what_was_never_read_is_not_exposed(reader: Transformer, tokenizer: Tokenizer) -> None:
    found = measure(reader, tokenizer, make(40, (1,), seed=7), candidates(255, seed=1))
    assert 0.8 < np.mean([each.value for each in found]) < 2.2  # 1.44 is what ranks by chance give


@given(st.lists(st.integers(0, 9), min_size=1, max_size=50), st.integers(0, 9))
def test_a_rank_counts_those_that_are_as_likely_or_likelier(others: list[int], own: int) -> None:
    rank = rank_of(own, np.sort(np.array(others, np.float64)))
    assert rank == 1 + sum(each <= own for each in others)
    assert 0.0 <= exposure_of(rank, len(others)) <= math.log2(len(others) + 1)


def test_the_stage_reports_the_canaries_of_the_dataset(
    reader: Transformer, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hanse.evaluate.canary_exposure.CANDIDATES", 63)
    dataset, shards = write_world(tmp_path / "world", [document(str(n)) for n in range(3)], tokenizer)
    (dataset.path / "canaries.jsonl").write_text("".join(json.dumps(asdict(each)) + "\n" for each in PLACED))
    work = FakeWork(tmp_path / "w")
    model = save_model(tmp_path / "model", reader, tokenizer)

    def run() -> None:
        memorise(
            work, model_folder=model, dataset=dataset, shards=shards, conversations=None,  # type: ignore[arg-type]
            settings=Settings(samples=0), runtime=Runtime(device=torch.device("cpu")), seed=1,  # type: ignore[arg-type]
        )  # fmt: skip

    run()
    found = json.loads((tmp_path / "w" / "memorisation.json").read_text())["canaries"]
    assert (found["candidates"], found["highest"]) == (63, 6.0)
    assert [each["number"] for each in found["each"]] == [1, 2, 3, 4, 5, 6]
    assert {each["times_read"] for each in found["each"]} == {None}
    rows = {row["repeats"]: row for row in found["by_repeats"]}
    assert {repeats: row["canaries"] for repeats, row in rows.items()} == {1: 2, 8: 2, 64: 2}
    assert rows[1]["least"] <= rows[1]["mean"] <= rows[1]["most"] <= rows[64]["mean"] == 6.0
    assert [row["rank"] for row in found["each"] if row["repeats"] == 64] == [1, 1]
    (dataset.path / "canaries.jsonl").write_text('{"number": 1}\n')
    with pytest.raises(InputError, match=r"canaries\.jsonl: cannot be read"):
        run()
