"""Which documents and places are tested, and the longest shared run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from by_heart import document, nonsense, write_world
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from hanse.data.shards import Shards
from hanse.errors import InputError
from hanse.evaluate.extraction import Plan, Population, draw, longest_run, passages, population

PLAN = Plan((4, 10), 6)


@pytest.fixture(scope="session")
def people(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Shards, Population]:
    """Documents of 5 to 64 characters, two languages, and canaries among them."""
    rows = [
        document(str(n), text=nonsense(str(n), 5 + n), language="de" if n % 2 else "en", source="b" if n % 3 else "a")
        for n in range(60)
    ]
    rows += [document(f"canary {n}", "canary") for n in range(3)]
    dataset, shards = write_world(tmp_path_factory.mktemp("people"), rows, tokenizer)
    opened = Shards.open(shards.path)
    return opened, population(opened, dataset.path / "documents.parquet", "train")


def tokens_of(shards: Shards, people: Population, row: int) -> list[int]:
    ids = shards.tokens("train", str(people.rows["language"][row]))
    offset, size = int(people.rows["offset"][row]), int(people.rows["tokens"][row])
    return [int(token) for token in ids[offset : offset + size]]


def test_canaries_are_no_documents_of_a_source(people: tuple[Shards, Population]) -> None:
    assert set(people[1].rows["source"]) == {"a", "b"}


def test_what_is_given_and_what_has_to_follow_lie_together_in_the_document(people: tuple[Shards, Population]) -> None:
    shards, group = people
    chosen = [row for name in ("a", "b") for row in draw(group, "source", name, PLAN, most=100, seed=1).drawn]
    found = passages(shards, group, chosen, PLAN, seed=1)
    assert len(found) == sum(group.rows["tokens"] - 1 >= 10)
    for passage in found:
        text = tokens_of(shards, group, passage.row)[:-1]
        assert passage.continuation == tuple(text[passage.at : passage.at + 6])
        assert passage.longest == (10 if len(text) >= 16 else 4)
        for prefix in (4, 10)[: 1 + (passage.longest == 10)]:
            opener = [shards.end_of_text] if prefix == passage.at else []
            assert passage.prompt(prefix) == (*opener, *text[passage.at - prefix : passage.at])


def test_places_are_spread_over_a_document_and_the_end_is_reached(people: tuple[Shards, Population]) -> None:
    shards, group = people
    (row,) = np.flatnonzero(group.rows["tokens"] == 40)  # 39 characters: places 10 to 33
    places = {passages(shards, group, [int(row)], PLAN, seed=seed)[0].at for seed in range(300)}
    assert places == set(range(10, 34))


def test_a_draw_depends_on_ids_and_seed_alone(people: tuple[Shards, Population]) -> None:
    _, group = people
    whole = draw(group, "source", "b", PLAN, most=100, seed=1)
    assert draw(group, "source", "b", PLAN, most=7, seed=1).drawn == whole.drawn[:7]
    assert draw(group, "source", "b", PLAN, most=100, seed=2).drawn != whole.drawn
    fewer = Population("train", group.rows, np.arange(len(group.is_read)) % 5 != 0)
    left = draw(fewer, "source", "b", PLAN, most=100, seed=1)
    assert left.drawn == tuple(row for row in whole.drawn if row % 5)
    assert left.unread == sum(1 for row in fewer.members("source", "b") if row % 5 == 0)


@given(st.integers(3, 200), st.lists(st.integers(1, 150), min_size=1, max_size=4), st.integers(1, 100))
def test_a_plan_fits_its_context_or_is_refused(context: int, prefixes: list[int], continuation: int) -> None:
    if min(prefixes) > context - 2:
        with pytest.raises(InputError, match="leave no room"):
            Plan.fitting(prefixes, continuation, context=context)
        return
    plan = Plan.fitting(prefixes, continuation, context=context)
    assert plan.prefixes[0] == min(prefixes)
    assert list(plan.prefixes) == sorted(set(plan.prefixes))
    assert 1 <= plan.continuation <= continuation
    assert 1 + plan.prefixes[-1] + plan.continuation <= context
    for prefix in set(prefixes) - set(plan.prefixes):
        assert 1 + prefix + plan.continuation > context


@given(st.text("abc", max_size=20), st.text("abc", max_size=20))
def test_the_longest_run_is_the_longest_shared_piece(first: str, second: str) -> None:
    pieces = [first[i:j] for i in range(len(first)) for j in range(i + 1, len(first) + 1)]
    assert longest_run(first, second) == max((len(piece) for piece in pieces if piece in second), default=0)


def test_a_folder_of_shards_without_this_split_has_no_documents(tokenizer: Tokenizer, tmp_path: Path) -> None:
    dataset, shards = write_world(tmp_path, [document("1")], tokenizer)
    empty = population(Shards.open(shards.path), dataset.path / "documents.parquet", "validation")
    assert draw(empty, "source", "songs", PLAN, most=5, seed=0).drawn == ()
    assert passages(Shards.open(shards.path), empty, (), PLAN, seed=0) == []
