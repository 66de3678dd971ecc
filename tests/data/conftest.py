"""A small library of documents, written and curated for the tests of the data stages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from library import new_work, record, run_curate, write_lines

from hanse.data.tokenizer import train_tokenizer
from hanse.recipe import Source
from hanse.recipe import Tokenizer as TokenizerSettings


@pytest.fixture
def source(tmp_path: Path) -> Callable[..., Source]:
    """A JSON lines source of given records."""

    def make(records: list[Any], *, name: str = "library", **fields: Any) -> Source:
        path = write_lines(tmp_path / f"{name}.jsonl", records)
        return Source(name=name, kind="jsonl", path=str(path), **fields)

    return make


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A curated dataset in three languages of very different size."""
    folder = tmp_path_factory.mktemp("dataset")
    sizes = {"de": 120, "en": 60, "el": 12}
    records = [
        record(language, n, extra={"parallel_key": f"page {n}"})
        for language, size in sizes.items()
        for n in range(size)
    ]
    path = write_lines(folder / "library.jsonl", records)
    library = Source(name="library", kind="jsonl", path=str(path))
    return run_curate(folder, library, languages=("de", "en", "el"), validation_share=0.1)


@pytest.fixture(scope="session")
def tokenizer_folder(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer trained on the dataset."""
    work = new_work(tmp_path_factory.mktemp("tokenizer"))
    train_tokenizer(
        work, dataset, TokenizerSettings(vocab_size=340), chat_template="{{ messages }}", extra_texts=["Guten Tag!"]
    )
    return work.folder
