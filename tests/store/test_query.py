"""From a source line, an author, a domain or a licence to every document, its copies, its evidence and its tokens."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanse.errors import InputError
from hanse.store import query, tables
from hanse.store.criteria import Criteria
from hanse.store.stage import Artifact, Store, Work

NAMES = (
    "id", "language", "source", "collection", "file", "url", "domain", "licence", "author", "title", "reservation",
    "cluster", "split",
)  # fmt: skip
DOCUMENTS = pa.schema(
    [
        *((name, pa.string()) for name in NAMES),
        ("line", pa.int64()),
        ("bytes", pa.int64()),
        ("evidence", pa.list_(pa.string())),
        ("drop_reason", pa.list_(pa.string())),
    ]
)
INDEX = pa.schema(
    [(name, pa.string()) for name in ("id", "language", "source", "split")]
    + [(name, pa.int64()) for name in ("offset", "tokens", "bytes")]
)
EVIDENCE = pa.schema([(name, pa.string()) for name in ("id", "kind", "place", "raw", "seen", "says")])
ROBOTS = "e" * 32


def name(number: int) -> str:
    """An id: 32 hex digits, of which the first 16 tell documents apart."""
    return f"{number:016x}" * 2


def document(number: int, **fields: Any) -> dict[str, Any]:
    """A kept document, unless the fields say otherwise."""
    row = {
        "id": name(number), "language": "de", "source": "books", "collection": "eltec", "file": "part/a.jsonl.gz",
        "line": number, "url": None, "domain": None, "licence": "CC0-1.0", "author": None, "title": f"Band {number}",
        "reservation": "none", "cluster": name(number), "split": "train", "bytes": 10 * number, "evidence": [],
        "drop_reason": [],
    }  # fmt: skip
    return {**row, **fields}


def dropped(number: int, *reasons: str, **fields: Any) -> dict[str, Any]:
    return document(number, split=None, drop_reason=list(reasons), **fields)


ROWS = [
    document(1, author="Émile Zola", url="https://www.example.org/a?b=1", domain="www.example.org"),
    document(2, author="Zola, Émile", language="fr", licence="CC-BY-4.0", domain="example.org"),
    dropped(3, "near-duplicate", cluster=name(1), author="Anonymus", source="web", collection="crawl"),
    dropped(1, "duplicate", cluster=name(1), file="part/b.jsonl.gz", source="web", collection="crawl"),
    dropped(5, "rights-reserved", domain="notexample.org", evidence=[ROBOTS], reservation="reserved"),
    document(6, split="validation", domain="bücher.example", title="ΑΘΗΝΑ"),
]
PLACES = {1: ("train", 7, 70), 2: ("train", 0, 20), 6: ("validation", 0, 60)}


def write_dataset(folder: Path, rows: list[dict[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(rows, DOCUMENTS), folder / "documents.parquet", row_group_size=2)
    statement = {"id": ROBOTS, "kind": "robots.txt", "place": "https://notexample.org/robots.txt", "raw": "Disallow: /"}
    evidence = [{**statement, "seen": "2026-01-02", "says": "reserved"}]
    pq.write_table(pa.Table.from_pylist(evidence, EVIDENCE), folder / "evidence.parquet")


def write_index(folder: Path, places: Mapping[int, tuple[str, int, int]]) -> None:
    language = {row["id"]: row["language"] for row in ROWS}
    rows = [
        {"id": name(number), "split": split, "offset": offset, "tokens": tokens, "bytes": 10 * number,
         "source": "books", "language": language.get(name(number), "de")}
        for number, (split, offset, tokens) in places.items()
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows, INDEX), folder / "index.parquet", row_group_size=2)


def make_store(root: Path) -> Store:
    """dataset -> shards -> model -> release, all named a."""
    store = Store.open(root)

    def step(kind: str, write, **inputs: Artifact) -> Artifact:
        def make(work: Work) -> None:
            (work.folder / "content").write_text(kind)
            write(work.folder)

        return store.build(kind, "a", "1", definition={"kind": kind}, inputs=inputs, make=make).artifact

    def publish(folder: Path) -> None:
        (folder / "provenance").mkdir()
        write_dataset(folder / "provenance", ROWS)

    dataset = step("dataset", lambda folder: write_dataset(folder, ROWS))
    shards = step("shards", lambda folder: write_index(folder, PLACES), dataset=dataset)
    model = step("model", lambda folder: None, shards=shards)
    step("release", publish, model=model)
    return store


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return make_store(tmp_path_factory.mktemp("store"))


@pytest.fixture
def own_store(tmp_path) -> Store:
    """A store that a test may spoil."""
    return make_store(tmp_path / "store")


@pytest.fixture(scope="module")
def searched(store) -> tables.Searched:
    (found,) = tables.locate("shards/a", store.root)
    return found


def lines(searched: tables.Searched, **criteria: Any) -> list[int]:
    """The lines of the documents that match."""
    return [match.document["line"] for match in query.find(searched, Criteria(**criteria)).matches]


@pytest.mark.parametrize(
    ("criteria", "expected"),
    [
        ({"id": name(1)}, [1, 1]),
        ({"language": "fr"}, [2]),
        ({"language": "d"}, []),
        ({"licence": "CC-BY-4.0"}, [2]),
        ({"licence": "cc-by-4.0"}, []),
        ({"source": "web"}, [3, 1]),
        ({"source": "crawl"}, [3, 1]),
        ({"author": "zola"}, [1, 2]),
        ({"author": "e\u0301mile z"}, [1]),
        ({"author": "ÉMILE"}, [1, 2]),
        ({"author": ".*"}, []),
        ({"title": "αθηνα"}, [6]),
        ({"domain": "example.org"}, [1, 2]),
        ({"domain": "EXAMPLE.org."}, [1, 2]),
        ({"domain": "www.example.org"}, [1]),
        ({"domain": "xn--bcher-kva.example"}, [6]),
        ({"domain": "Bücher.example"}, [6]),
        ({"url": "https://www.example.org/a?"}, [1]),
        ({"url": "www.example.org"}, []),
        ({"file": "part/a.jsonl.gz", "line": 2}, [2]),
        ({"file": "/data/part/b.jsonl.gz"}, [1]),
        ({"file": "a.jsonl.gz"}, []),
        ({"author": "zola", "licence": "CC0-1.0"}, [1]),
    ],
)
def test_each_criterion_finds_what_it_says_and_no_more(searched, criteria, expected):
    assert lines(searched, **criteria) == expected


def test_source_line_leads_to_shard_offset_and_cluster(searched):
    (match,) = query.find(searched, Criteria(file="part/a.jsonl.gz", line=1)).matches
    assert match.places == (query.Place("shards/a/1", "train/de.bin", 7, 70),)
    assert match.copies_found == 2
    assert {copy["drop_reason"][0] for copy in match.copies} == {"duplicate", "near-duplicate"}
    assert {copy["line"] for copy in match.copies} == {1, 3}


def test_copy_leads_to_the_place_of_the_text_that_stayed(searched):
    (match,) = query.find(searched, Criteria(author="Anonymus")).matches
    assert match.document["split"] is None
    assert match.places == (query.Place("shards/a/1", "train/de.bin", 7, 70),)
    assert [copy["id"] for copy in match.copies] == [name(1)] * 2


def test_document_that_was_dropped_shows_its_evidence_and_no_place(searched):
    found = query.find(searched, Criteria(domain="notexample.org"))
    (match,) = found.matches
    assert match.places == ()
    assert [statement["raw"] for statement in match.evidence] == ["Disallow: /"]
    assert found.totals == query.Totals(1, 0, 0, 50, 0, {"shards/a/1": 0})


def test_totals_are_over_all_that_match_however_few_are_shown(searched):
    everything = query.find(searched, Criteria(language="de"))
    assert everything.totals == query.Totals(5, 2, 2, 10 + 30 + 10 + 50 + 60, 70, {"shards/a/1": 130})
    for limit in (0, 1):
        some = query.find(searched, Criteria(language="de"), limit=limit)
        assert len(some.matches) == limit and some.totals == everything.totals


def test_totals_do_not_depend_on_how_many_keys_fit_into_memory(searched, monkeypatch):
    whole = query.find(searched, Criteria(language="de"))
    monkeypatch.setattr(query, "KEYS_AT_A_TIME", 1)
    assert query.find(searched, Criteria(language="de")) == whole


def test_large_cluster_is_counted_in_full_and_listed_in_part(tmp_path):
    rows = [document(1), *(dropped(n, "near-duplicate", cluster=name(1)) for n in range(2, 30))]
    write_dataset(tmp_path, rows)
    (searched,) = tables.locate(str(tmp_path), tmp_path)
    for criteria in (Criteria(id=name(1)), Criteria(id=name(29))):
        (match,) = query.find(searched, criteria).matches
        assert match.copies_found == 28
        assert len(match.copies) == query.SHOWN_COPIES
        assert match.document["id"] not in {copy["id"] for copy in match.copies}


@pytest.mark.parametrize("ref", ["dataset/a", "shards/a/1", "model/a", "release/a"])
def test_anything_made_from_documents_can_be_asked(store, ref):
    (searched,) = tables.locate(ref, store.root)
    assert searched.name == "dataset/a/1"
    assert list(searched.shards) == ["shards/a/1"]
    assert lines(searched, language="fr") == [2]


def test_release_folder_answers_without_a_store(own_store, tmp_path):
    folder = own_store.find("release/a").path.rename(tmp_path / "elsewhere")
    (searched,) = tables.locate(str(folder), tmp_path / "no-store")
    (match,) = query.find(searched, Criteria(language="fr")).matches
    assert match.document["licence"] == "CC-BY-4.0" and match.places == ()


def test_release_answers_for_itself_when_its_dataset_is_gone(own_store, tmp_path):
    own_store.find("dataset/a").path.rename(tmp_path / "gone")
    (searched,) = tables.locate("release/a", own_store.root)
    assert searched.documents.parent.name == "provenance"
    with pytest.raises(InputError, match="dataset/a/1"):
        tables.locate("shards/a", own_store.root)


def test_shards_of_another_dataset_than_the_one_there_are_refused(own_store, tmp_path):
    own_store.find("dataset/a").path.rename(tmp_path / "gone")
    other = {**ROWS[0], "title": "other"}
    own_store.build(
        "dataset", "a", "1", definition={"other": 1}, inputs={},
        make=lambda work: write_dataset(work.folder, [other]),
    )  # fmt: skip
    with pytest.raises(InputError, match="is not the one that shards/a/1 was made from"):
        tables.locate("shards/a", own_store.root)


def test_found_is_json(searched):
    found = json.loads(json.dumps(query.find(searched, Criteria(author="zola")).as_dict()))
    assert found["searched"] == "dataset/a/1"
    assert found["matches"][0]["places"][0]["file"] == "train/de.bin"
    assert found["totals"]["tokens"] == {"shards/a/1": 90}


@pytest.mark.parametrize(
    ("criteria", "expected"),
    [
        ({}, "nothing to look for"),
        ({"author": " "}, "--author: is empty"),
        ({"line": 3}, "name that with --file"),
        ({"file": "a", "line": 0}, "counts from 1"),
        ({"domain": "https://example.org/"}, "write a host name"),
    ],
)
def test_criteria_that_cannot_be_meant_are_refused(criteria, expected):
    with pytest.raises(InputError, match=re.escape(expected)):
        Criteria(**criteria)


def test_what_cannot_be_searched_is_refused_with_its_name(store, tmp_path):
    write_dataset(tmp_path, [document(1)])
    table = pq.read_table(tmp_path / "documents.parquet").drop_columns(["author"])
    pq.write_table(table, tmp_path / "documents.parquet")
    (searched,) = tables.locate(str(tmp_path), store.root)
    with pytest.raises(InputError, match="has no column 'author'"):
        query.find(searched, Criteria(author="x"))
    (tmp_path / "documents.parquet").write_bytes(b"no table")
    with pytest.raises(InputError, match=r"documents\.parquet: cannot be read"):
        query.find(searched, Criteria(title="x"))
    with pytest.raises(InputError, match="no such artifact"):
        tables.locate("dataset/b", store.root)


@settings(max_examples=25, deadline=None)
@given(st.text(), st.text())
def test_any_text_is_looked_for_as_it_stands(tmp_path_factory, needle, hay):
    surrogates = re.compile("[\ud800-\udfff]")
    needle, hay = surrogates.sub("", needle), surrogates.sub("", hay)
    if not needle.strip():
        return
    folder = tmp_path_factory.mktemp("any")
    write_dataset(folder, [document(1, author=f"{hay} {needle}", title=needle, url=needle + hay, domain=needle)])
    (searched,) = tables.locate(str(folder), folder)
    assert lines(searched, author=needle, url=needle) == [1]
    assert lines(searched, author=needle + "x" + hay + needle) == []
