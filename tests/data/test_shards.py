"""Token shards: every document is found by its row in the index, and decodes to its text."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from library import new_work, record, run_curate, write_lines

import hanse.data.shards as shards_module
from hanse.data.permutation import mix
from hanse.data.shards import Shards, write_shards
from hanse.data.tokenizer import Tokenizer
from hanse.errors import InputError
from hanse.recipe import Source


@pytest.fixture(scope="module")
def shards_folder(dataset: Path, tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = new_work(tmp_path_factory.mktemp("shards"))
    write_shards(work, dataset, tokenizer_folder, seed=3)
    return work.folder


def test_every_kept_document_decodes_from_its_place(dataset: Path, tokenizer_folder: Path, shards_folder: Path) -> None:
    tokenizer = Tokenizer.load(tokenizer_folder)
    shards = Shards.open(shards_folder)
    expected = {
        (path.name.split("-")[0], row["id"]): row
        for path in (dataset / "text").iterdir()
        for row in pq.read_table(path).to_pylist()
    }
    index = shards.index().to_pylist()
    assert len(index) == len(expected)
    for row in index:
        document = expected[row["split"], row["id"]]
        ids = shards.tokens(row["split"], row["language"])[row["offset"] : row["offset"] + row["tokens"]].tolist()
        assert ids[-1] == shards.end_of_text == tokenizer.id_of("<|end_of_text|>")
        assert shards.end_of_text not in ids[:-1]
        assert tokenizer.decode(ids[:-1]) == document["text"]
        assert (row["language"], row["source"]) == (document["language"], document["source"])
        assert row["bytes"] == len(document["text"].encode())


def test_documents_lie_end_to_end_and_the_counts_agree(shards_folder: Path) -> None:
    shards = Shards.open(shards_folder)
    for split, languages in shards.splits.items():
        for language, counts in languages.items():
            rows = [r for r in shards.index().to_pylist() if (r["split"], r["language"]) == (split, language)]
            end = 0
            for row in rows:
                assert row["offset"] == end
                end += row["tokens"]
            assert end == counts["tokens"] == len(shards.tokens(split, language))
            assert len(rows) == counts["documents"]
            assert sum(row["bytes"] for row in rows) == counts["bytes"]


def test_a_stream_is_where_it_says_and_counts_by_licence(shards_folder: Path, dataset: Path) -> None:
    shards = Shards.open(shards_folder)
    licences = {row["id"]: row["licence"] for row in pq.read_table(dataset / "documents.parquet").to_pylist()}
    index = shards.index().to_pylist()
    for split in shards.splits:
        for stream in shards.streams(split):
            rows = [
                r for r in index if (r["split"], r["language"], r["source"]) == (split, stream.language, stream.source)
            ]
            assert rows[0]["offset"] == stream.offset
            assert all(row["licence"] == licences[row["id"]] for row in rows)
            for key in ("tokens", "bytes"):
                assert getattr(stream, key) == sum(row[key] for row in rows)
                assert getattr(stream, key) == sum(counts[key] for counts in stream.licences.values())
            assert stream.documents == len(rows) == sum(c["documents"] for c in stream.licences.values())
            for licence, counts in stream.licences.items():
                own = [row for row in rows if row["licence"] == licence]
                assert counts == {"documents": len(own), "tokens": total(own, "tokens"), "bytes": total(own, "bytes")}


def total(rows: list[dict[str, Any]], key: str) -> int:
    return sum(row[key] for row in rows)


def test_documents_lie_by_source_and_in_a_keyed_order_within(
    dataset: Path, tokenizer_folder: Path, shards_folder: Path, tmp_path: Path
) -> None:
    given = pq.read_table(dataset / "text" / "train-00000.parquet").to_pylist()
    german = [row["id"] for row in given if row["language"] == "de"]

    def order(folder: Path) -> list[str]:
        rows = Shards.open(folder).index().to_pylist()
        return [row["id"] for row in rows if (row["language"], row["split"]) == ("de", "train")]

    same, other = tmp_path / "same", tmp_path / "other"
    for folder, seed in ((same, 3), (other, 4)):
        write_shards(new_work(folder), dataset, tokenizer_folder, seed=seed)
    keys = mix(np.array([int(name[:16], 16) for name in german], np.uint64), key=3)
    assert order(shards_folder) == [german[place] for place in np.argsort(keys)]
    assert order(shards_folder) == order(same / "artifact") != order(other / "artifact")
    assert sorted(order(other / "artifact")) == sorted(german)
    for path in shards_folder.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (same / "artifact" / path.relative_to(shards_folder)).read_bytes()


def test_two_sources_lie_one_after_the_other(tokenizer_folder: Path, tmp_path: Path) -> None:
    sources = []
    for name, licence, first in (("web", "CC0-1.0", 0), ("books", "CC-BY-4.0", 40)):
        records = [record("de", first + n, licence=licence) for n in range(20)]
        sources.append(Source(name=name, kind="jsonl", path=str(write_lines(tmp_path / f"{name}.jsonl", records))))
    work = new_work(tmp_path / "shards")
    write_shards(work, run_curate(tmp_path, *sources, languages=("de",)), tokenizer_folder, seed=3)
    shards = Shards.open(work.folder)
    books, web = shards.streams("train")
    assert (books.source, web.source) == ("books", "web")
    assert (books.offset, web.offset) == (0, books.tokens)
    assert books.tokens + web.tokens == len(shards.tokens("train", "de"))
    assert (set(books.licences), set(web.licences)) == ({"CC-BY-4.0"}, {"CC0-1.0"})
    names = [row["source"] for row in shards.index().to_pylist() if row["split"] == "train"]
    assert names == ["books"] * books.documents + ["web"] * web.documents


def test_small_batches_change_no_byte(
    dataset: Path, tokenizer_folder: Path, shards_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards_module, "BATCH_BYTES", 500)
    work = new_work(tmp_path)
    write_shards(work, dataset, tokenizer_folder, seed=3)
    for path in work.folder.rglob("*.*"):
        assert path.read_bytes() == (shards_folder / path.relative_to(work.folder)).read_bytes()


def test_a_dataset_whose_table_lacks_a_document_is_refused(
    dataset: Path, tokenizer_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(dataset, tmp_path / "dataset")
    table = pq.read_table(dataset / "documents.parquet")
    pq.write_table(table.slice(1), tmp_path / "dataset" / "documents.parquet")
    with pytest.raises(InputError, match=r"documents\.parquet lacks the document"):
        write_shards(new_work(tmp_path), tmp_path / "dataset", tokenizer_folder, seed=3)


@pytest.mark.parametrize("damage", ["missing", "short", "no json", "list"])
def test_a_folder_that_holds_no_whole_shards_is_refused(shards_folder: Path, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "shards"
    shutil.copytree(shards_folder, folder)
    if damage == "missing":
        (folder / "train" / "de.bin").unlink()
    elif damage == "short":
        (folder / "train" / "de.bin").write_bytes(b"\0\0")
    else:
        (folder / "shards.json").write_text("[]" if damage == "list" else "x")
    with pytest.raises(InputError, match="shards"):
        Shards.open(folder)
