"""Copies: who counts as one, who stays, and that the engine makes no difference."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from library import sentences

from hanse.data import dedup
from hanse.data.schema import document_id


def part(path: Path, texts: Sequence[str], *, ranks: Sequence[int] | None = None, dropped: Sequence[int] = ()) -> Path:
    """A part with what the search for copies reads; document i has ordinal i."""
    wanted = np.array([len(text) >= dedup.NEAR_CHARACTERS and i not in dropped for i, text in enumerate(texts)], bool)
    reasons = [["too-short"] if i in dropped else [] for i in range(len(texts))]
    columns = {
        "ordinal": pa.array(range(len(texts)), pa.int64()),
        "rank": pa.array(ranks or range(len(texts)), pa.int64()),
        "id": [document_id(text) for text in texts],
        "drop_reason": pa.array(reasons, pa.list_(pa.string())),
        **dedup.bands(pa.array(texts, pa.string()), wanted),
    }
    pq.write_table(pa.table(columns), path)
    return path


def copies(path: Path, *, near: bool = True) -> dict[int, int]:
    found = dedup.clusters([path], path.parent, near=near)
    return dict(zip(found.ordinals.tolist(), found.survivors.tolist(), strict=True))


def edited(text: str, share: float, seed: int) -> str:
    words, draw = text.split(), random.Random(seed)
    for place in draw.sample(range(len(words)), round(share * len(words))):
        words[place] = f"neu{draw.randrange(10**6)}"
    return " ".join(words)


LONG = [sentences("de", number, words=300) for number in range(30)]


def test_a_text_with_few_words_changed_is_a_near_duplicate_and_an_unrelated_one_is_not(tmp_path: Path) -> None:
    near = [edited(text, 0.01, number) for number, text in enumerate(LONG)]
    found = copies(part(tmp_path / "a.parquet", [*LONG, *near]))
    assert set(found) <= set(range(30, 60))
    assert all(survivor == ordinal - 30 for ordinal, survivor in found.items())
    assert len(found) >= 28  # 5-grams agree by 90 %, where the bands miss one in 10^4


def test_case_punctuation_and_white_space_do_not_hide_a_copy(tmp_path: Path) -> None:
    plain = sentences("el", 1, words=300)
    disguised = plain.title().replace(" ", " \n ").replace("Σπίτι", "Σπίτι,")
    assert disguised.lower().split() != plain.split()
    assert copies(part(tmp_path / "a.parquet", [plain, disguised])) == {1: 0}


def test_exact_copies_alone_are_found_where_near_ones_are_not_asked_for(tmp_path: Path) -> None:
    texts = [LONG[0], edited(LONG[0], 0.01, 1), f"  {LONG[0]}\n"]
    assert copies(part(tmp_path / "a.parquet", texts), near=False) == {2: 0}


def test_the_copy_of_the_best_rank_stays_whatever_chain_connects_them(tmp_path: Path) -> None:
    first = sentences("de", 99, words=400)
    second = edited(first, 0.01, 1)
    third = edited(second, 0.01, 2)
    assert copies(part(tmp_path / "a.parquet", [first, second, third], ranks=[5, 4, 1])) == {0: 2, 1: 2}


def test_a_document_that_is_dropped_anyway_displaces_nobody(tmp_path: Path) -> None:
    assert copies(part(tmp_path / "a.parquet", [LONG[0], LONG[0], LONG[1]], dropped=[0])) == {}


@pytest.mark.parametrize("texts", [[], ["!" * 500, "?" * 500, "…" * 500], ["kurz", "kurz!", ""]])
def test_texts_without_words_are_no_copies_of_each_other(tmp_path: Path, texts: list[str]) -> None:
    assert copies(part(tmp_path / "a.parquet", texts)) == {}


def test_signatures_do_not_depend_on_the_batch() -> None:
    whole = dedup.bands(pa.array(LONG, pa.string()), np.ones(30, bool))
    single = [dedup.bands(pa.array([text], pa.string()), np.ones(1, bool)) for text in LONG]
    for name in dedup.BAND_NAMES:
        assert whole[name].to_pylist() == [each[name][0].as_py() for each in single]


@given(
    st.integers(0, 3), st.integers(0, 3), st.integers(0, 2**16 - 1), st.integers(0, 2**16 - 1),
    st.integers(0, 2**44 - 1), st.integers(0, 2**44 - 1),
)  # fmt: skip
def test_rank_orders_by_duties_then_source_then_place(a: int, b: int, c: int, d: int, e: int, f: int) -> None:
    one = dedup.rank(duties=a, source_index=c, ordinal=e)
    other = dedup.rank(duties=b, source_index=d, ordinal=f)
    assert (one < other) == ((a, c, e) < (b, d, f))
    assert max(one, other) < 2**63


@pytest.mark.slow
def test_ray_finds_the_same_copies(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason='Ray is not installed; pip install "hanse[ray]"')
    texts = [*LONG, *(edited(text, 0.01, number) for number, text in enumerate(LONG)), *LONG[:5]]
    path = part(tmp_path / "a.parquet", texts)
    here = dedup.clusters([path], tmp_path, near=True)
    for kept in tmp_path.glob("edges-*.npy"):
        kept.unlink()
    code = (
        "import sys, numpy as np; from pathlib import Path; from hanse.data import dedup\n"
        "found = dedup.clusters([Path(sys.argv[1])], Path(sys.argv[2]), near=True, engine='ray')\n"
        "np.save(sys.argv[3], np.stack((found.ordinals, found.survivors)))\n"
    )
    there = tmp_path / "there.npy"
    subprocess.run([sys.executable, "-c", code, str(path), str(tmp_path), str(there)], check=True, timeout=600)
    assert np.array_equal(np.load(there), np.stack((here.ordinals, here.survivors)))
