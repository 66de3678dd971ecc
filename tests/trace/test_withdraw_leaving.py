"""Which documents a withdrawal means, in clear and by hashes, today and in what comes later."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.trace import leaving, withdrawal
from hanse.trace.withdrawal import Withdrawal

NAMES = ("id", "author", "title", "url", "domain", "source", "collection", "licence", "language", "cluster", "split")
ROWS: list[dict[str, Any]] = [
    {"id": "1", "author": "Fontane, Theodor (1819-1898)", "title": "Effi Briest", "url": "https://a.org/effi",
     "domain": "a.org", "source": "books", "collection": "eltec", "licence": "CC0-1.0", "language": "de"},
    {"id": "2", "author": "Storm, Theodor", "title": "Der Schimmelreiter", "url": "https://b.a.org/effi/2",
     "domain": "b.a.org", "source": "books", "collection": "books", "licence": "CC-BY-4.0", "language": "de"},
    {"id": "3", "author": None, "title": None, "url": None, "domain": None, "source": "web", "collection": "eltec",
     "licence": "CC0-1.0", "language": "fr"},
    {"id": "4", "author": "FONTANE, THEODOR (1819–1898)", "title": "Irrungen", "url": "http://a.org.evil.net/",
     "domain": "a.org.evil.net", "source": "web", "collection": "web", "licence": "CC0-1.0", "language": "de"},
    {"id": "1", "author": "Unknown", "title": "Found text", "url": "https://mirror.net/1", "domain": "mirror.net",
     "source": "mirror", "collection": "mirror", "licence": "CC0-1.0", "language": "de"},
    {"id": "5", "author": "Straße, Zoë", "title": "Größe", "url": "https://xn--bcher-kva.example/", "domain":
     "xn--bcher-kva.example", "source": "web", "collection": "web", "licence": "CC0-1.0", "language": "de"},
]  # fmt: skip


def table(rows: list[dict[str, Any]] = ROWS) -> pa.Table:
    return pa.table({name: pa.array([row.get(name) for row in rows], pa.string()) for name in NAMES})


def asked(
    reason: str = "opt-out", documents: tuple[str, ...] = (), copies: bool = False, **criteria: str
) -> Withdrawal:
    draft = withdrawal.draft(criteria, reason=reason, copies=copies)
    return withdrawal.sealed(draft, documents, {}, ())


def hit(*given: Withdrawal, rows: list[dict[str, Any]] = ROWS) -> list[int]:
    return np.flatnonzero(leaving.matches(given, table(rows))).tolist()


CASES: list[tuple[dict[str, str], list[int]]] = [
    ({"author": "Fontane"}, [0, 3]),
    ({"author": "theodor"}, [0, 1, 3]),
    ({"author": "Fontane, Theodor"}, [0, 3]),
    ({"title": "effi briest"}, [0]),
    ({"url": "https://a.org/"}, [0]),
    ({"url": "https://b.a.org/effi"}, [1]),
    ({"domain": "a.org"}, [0, 1]),
    ({"domain": "B.A.org."}, [1]),
    ({"domain": "bücher.example"}, [5]),
    ({"source": "books"}, [0, 1]),
    ({"source": "eltec"}, [0, 2]),
    ({"licence": "CC0-1.0", "language": "fr"}, [2]),
    ({"author": "Theodor", "source": "web"}, [3]),
    ({"id": "2"}, [1]),
    ({"author": "Strasse"}, []),
    ({"author": "zoë"}, [5]),
]


@pytest.mark.parametrize(("criteria", "rows"), CASES)
def test_a_document_is_meant_if_everything_asked_for_holds(criteria: dict[str, str], rows: list[int]) -> None:
    assert hit(asked(**criteria)) == rows


@pytest.mark.parametrize(("criteria", "rows"), [each for each in CASES if each[0] != {"author": "Strasse"}])
def test_hashes_mean_the_same_documents_as_what_they_hide(criteria: dict[str, str], rows: list[int]) -> None:
    assert hit(asked("personal-data", **criteria)) == rows


@given(
    words=st.lists(st.sampled_from(["Ana", "Kovač", "de", "la", "Ωραία", "O'Neill"]), min_size=1, max_size=6),
    place=st.integers(0, 5),
    length=st.integers(1, 3),
)
def test_any_run_of_words_of_an_author_is_found_by_its_hash(words: list[str], place: int, length: int) -> None:
    run = " ".join(words[place % len(words) :][:length])
    rows = [{"id": "9", "author": ", ".join(words)}]
    assert hit(asked("personal-data", author=run), rows=rows) == [0]
    assert hit(asked("personal-data", author=f"{run} Nobody"), rows=rows) == []


def test_the_same_words_under_another_address_are_meant_too() -> None:
    assert hit(asked(author="Fontane", documents=("1",))) == [0, 3, 4]
    assert hit(asked("personal-data", author="Fontane", documents=("1",))) == [0, 3, 4]


def test_what_came_by_another_source_stays_when_only_the_source_is_withdrawn() -> None:
    assert hit(asked("licence", source="books", documents=("1", "2"))) == [0, 1]
    assert hit(asked("licence", source="books", documents=("1", "2"), copies=True)) == [0, 1, 4]


def test_near_copies_are_meant_only_where_a_person_confirmed_it() -> None:
    rows = [{**row, "cluster": "c" if number in (0, 5) else str(number)} for number, row in enumerate(ROWS)]
    assert hit(asked(title="Effi"), rows=rows) == [0]
    assert hit(asked(title="Effi", copies=True), rows=rows) == [0, 5]


def test_several_withdrawals_add_up_and_none_means_nothing() -> None:
    assert hit(asked(author="Storm"), asked("personal-data", author="Zoë"), asked(id="3")) == [1, 2, 5]
    assert hit() == []


def test_a_criterion_of_which_the_table_knows_nothing_means_no_row() -> None:
    bare = pa.table({"id": ["1", "2"]})
    assert not leaving.matches([asked(author="Fontane"), asked("personal-data", author="Fontane")], bare).any()
    assert leaving.matches([asked(author="Fontane", documents=("2",))], bare).tolist() == [False, True]
