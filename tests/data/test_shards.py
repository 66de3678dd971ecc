"""Token shards: every document is found by its row in the index, and decodes to its text."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from library import new_work

from hanse.data.shards import Shards, write_shards
from hanse.data.tokenizer import Tokenizer
from hanse.errors import InputError


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


def test_documents_lie_in_a_keyed_order(
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
    assert sorted(order(shards_folder)) == sorted(german)
    assert order(shards_folder) != german
    assert order(shards_folder) == order(same / "artifact") != order(other / "artifact")
    for path in shards_folder.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (same / "artifact" / path.relative_to(shards_folder)).read_bytes()


@pytest.mark.parametrize("damage", ["missing", "short", "no json", "list"])
def test_a_folder_that_holds_no_whole_shards_is_refused(shards_folder: Path, tmp_path: Path, damage: str) -> None:
    import shutil

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
