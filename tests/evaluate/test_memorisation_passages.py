"""Which documents and places are tested, and the longest shared run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from by_heart import document, nonsense, write_world
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from hanse.data.shards import Shards, Stream
from hanse.errors import InputError
from hanse.evaluate.extraction import longest_run
from hanse.evaluate.passages import Pieces, Plan, Population, Times, choose, cut, draw, population, supply

PLAN = Plan((4, 10), 6)
WINDOW = 20


@pytest.fixture(scope="session")
def people(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Shards, Population]:
    """Documents of 5 to 64 characters, two languages, and canaries among them; each is one piece."""
    shards, table = library(tokenizer, tmp_path_factory.mktemp("people"))
    return shards, population(shards, table, "train")


@pytest.fixture(scope="session")
def windowed(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Shards, Population]:
    """The same documents in windows of WINDOW tokens, of which the run came to two in three, to some of them twice."""
    shards, table = library(tokenizer, tmp_path_factory.mktemp("windowed"))
    whole = population(shards, table, "train", window=WINDOW)
    return shards, whole.read(whole.pieces.window_P % 3)


def library(tokenizer: Tokenizer, folder: Path) -> tuple[Shards, Path]:
    rows = [
        document(str(n), text=nonsense(str(n), 5 + n), language="de" if n % 2 else "en", source="b" if n % 3 else "a")
        for n in range(60)
    ]
    rows += [document(f"canary {n}", "canary") for n in range(3)]
    dataset, shards = write_world(folder, rows, tokenizer)
    return Shards.open(shards.path), dataset.path / "documents.parquet"


def tokens_of(shards: Shards, people: Population, row: int) -> list[int]:
    ids = shards.tokens("train", str(people.rows["language"][row]))
    offset, size = int(people.rows["offset"][row]), int(people.rows["tokens"][row])
    return [int(token) for token in ids[offset : offset + size]]


def test_canaries_are_no_documents_of_a_source(people: tuple[Shards, Population]) -> None:
    assert set(people[1].rows["source"]) == {"a", "b"}


def test_what_is_given_and_what_has_to_follow_lie_together_in_the_document(people: tuple[Shards, Population]) -> None:
    shards, group = people
    chosen = [row for name in ("a", "b") for row in draw(group, "source", name, PLAN, most=100, seed=1).drawn]
    found = choose(shards, group, chosen, PLAN, seed=1)
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
    places = {choose(shards, group, [int(row)], PLAN, seed=seed)[0].at for seed in range(300)}
    assert places == set(range(10, 34))


def test_a_draw_depends_on_ids_and_seed_alone(people: tuple[Shards, Population]) -> None:
    _, group = people
    whole = draw(group, "source", "b", PLAN, most=100, seed=1)
    assert draw(group, "source", "b", PLAN, most=7, seed=1).drawn == whole.drawn[:7]
    assert draw(group, "source", "b", PLAN, most=100, seed=2).drawn != whole.drawn
    left = draw(group.read(group.pieces.document_P % 5), "source", "b", PLAN, most=100, seed=1)
    assert left.drawn == tuple(row for row in whole.drawn if row % 5)


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 40)), max_size=12),
    st.one_of(st.none(), st.integers(1, 30)),
)
def test_the_pieces_of_a_document_are_its_text_cut_where_windows_begin(
    sizes: list[tuple[str, int]], window: int | None
) -> None:
    sizes = sorted(sizes, key=lambda each: each[0])  # as shards have them: a source end to end
    ends = np.cumsum([size for _, size in sizes], dtype=np.int64)
    rows = {
        "language": np.array(["en"] * len(sizes), object), "source": np.array([name for name, _ in sizes], object),
        "offset": ends - [size for _, size in sizes], "tokens": np.array([size for _, size in sizes], np.int64),
    }  # fmt: skip
    begins = {"a": 0, "b": sum(size for name, size in sizes if name == "a")}
    streams = [Stream("en", name, begin, 0, 0, 0, {}) for name, begin in begins.items()]
    found = cut(rows, streams, window=window)
    wanted = []
    for number, (name, size) in enumerate(sizes):
        in_stream = int(rows["offset"][number]) - begins[name]
        places: dict[int, list[int]] = {} if window else {0: []}
        for place in range(size - 1):
            places.setdefault((in_stream + place) // window if window else 0, []).append(place)
        wanted += [(number, key, min(held, default=0), max(held, default=-1) + 1) for key, held in places.items()]
    columns = (found.document_P, found.window_P, found.begin_P, found.end_P)
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == wanted


def test_a_passage_lies_within_one_piece_that_was_read(windowed: tuple[Shards, Population]) -> None:
    shards, group = windowed
    assert group.times_P is not None and set(group.times_P) == {1, 2}
    chosen = [row for name in ("a", "b") for row in draw(group, "source", name, PLAN, most=100, seed=1).drawn]
    found = choose(shards, group, chosen, PLAN, seed=1)
    seconds = 0
    for passage in found:
        offset = int(group.rows["offset"][passage.row])
        stream = next(
            s for s in shards.streams("train") if (s.language, s.source) == (passage.language, passage.source)
        )
        first, last = passage.at - passage.longest, passage.at + 5
        windows = {(offset - stream.offset + place) // WINDOW for place in (first, last)}
        assert windows == {int(group.pieces.window_P[passage.piece])}
        assert passage.times_read == windows.pop() % 3
        seconds += first >= WINDOW
        text = tokens_of(shards, group, passage.row)
        assert [*passage.before, *passage.continuation][-(last - first + 1) :] == text[first : last + 1]
    assert len(found) > 20 and seconds > 3


def test_every_place_of_every_piece_that_is_long_enough_is_reached(windowed: tuple[Shards, Population]) -> None:
    shards, group = windowed
    held = np.bincount(group.pieces.document_P[group.pieces.sizes_P >= 10])
    row = int(np.flatnonzero(held >= 2)[0])
    own = group.pieces.where(group.pieces.document_P == row)
    longest = max(prefix for prefix in PLAN.prefixes if prefix + 6 <= own.sizes_P.max())
    wanted = {
        at
        for begin, end in zip(own.begin_P.tolist(), own.end_P.tolist(), strict=True)
        for at in range(begin + longest, end - 5)
    }
    assert {choose(shards, group, [row], PLAN, seed=seed)[0].at for seed in range(400)} == wanted


def test_the_supply_counts_what_was_read_what_is_too_short_and_what_can_be_tested() -> None:
    pieces = Pieces(
        document_P=np.array([0, 0, 1, 2, 3]), window_P=np.array([0, 1, 1, 1, 2]),
        begin_P=np.array([0, 16, 0, 0, 0]), end_P=np.array([16, 20, 12, 9, 30]),
    )  # fmt: skip
    rows = {
        "id": np.array(list("abcd")), "source": np.array(["s", "s", "s", "t"]), "tokens": np.array([21, 13, 10, 31]),
    }  # fmt: skip
    pool = Population("train", rows, pieces)
    unknown = supply(pool, PLAN)
    assert (unknown.documents, unknown.tokens, unknown.short, unknown.testable) == (4, 71, 1, 3)
    assert (unknown.never_read, unknown.read_tokens, unknown.times_read) == (None, None, None)
    assert unknown.testable_tokens == 16 + 12 + 30
    read = pool.read(np.array([3, 1, 0, 1, 1]))
    found = supply(read, PLAN, read.members("source", "s"))
    assert (found.documents, found.tokens, found.never_read, found.read_tokens) == (3, 41, 1, 29)
    assert (found.short, found.testable, found.testable_tokens) == (1, 1, 16)
    assert found.times_read == Times(3, 3.0, 3)
    assert supply(read, PLAN).times_read == Times(1, round((3 * 16 + 30) / 46, 4), 3)
    assert supply(read, PLAN, read.members("source", "none")).times_read is None


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


def test_a_plan_fits_into_a_window_and_one_that_has_no_room_leaves_nothing_to_test() -> None:
    assert Plan.fitting((16, 32, 64), 32, context=512, window=256) == Plan((16, 32, 64), 32)
    assert Plan.fitting((16, 32, 64), 32, context=512, window=64) == Plan((16, 32), 32)
    assert Plan.fitting((16, 32, 64), 32, context=512, window=30) == Plan((16,), 14)
    for window in (4, 16):
        assert Plan.fitting((16, 32), 32, context=512, window=window).least > window


@given(st.text("abc", max_size=20), st.text("abc", max_size=20))
def test_the_longest_run_is_the_longest_shared_piece(first: str, second: str) -> None:
    pieces = [first[i:j] for i in range(len(first)) for j in range(i + 1, len(first) + 1)]
    assert longest_run(first, second) == max((len(piece) for piece in pieces if piece in second), default=0)


def test_a_folder_of_shards_without_this_split_has_no_documents(tokenizer: Tokenizer, tmp_path: Path) -> None:
    dataset, shards = write_world(tmp_path, [document("1")], tokenizer)
    empty = population(Shards.open(shards.path), dataset.path / "documents.parquet", "validation")
    assert draw(empty, "source", "songs", PLAN, most=5, seed=0).drawn == ()
    assert choose(Shards.open(shards.path), empty, (), PLAN, seed=0) == []
