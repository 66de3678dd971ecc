"""Builds after a withdrawal: what was withdrawn is left out, said so, and nothing else moves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from withdrawn_library import FONTANE, RAABE, Lab, conversation, document, library, prose

from hanse.data.schema import document_id
from hanse.errors import InputError
from hanse.release.papers import summary_data
from hanse.store import record as records

FONTANES = {document_id(prose(n)) for n in range(10)}


def digest_of(lab: Lab, ref: str) -> str:
    return lab.store.find(ref).digest


def kept(lab: Lab, version: str) -> dict[str, str]:
    return {row["id"]: row["split"] for row in lab.table(version) if row["split"]}


# --------------------------------------------------------------------------- text


def test_an_author_who_left_is_in_no_later_text_and_the_table_and_counts_say_so(tmp_path: Path) -> None:
    lab = Lab(tmp_path, library())
    lab.run("1")
    lab.withdraw(author="Fontane")
    lab.run("2")
    assert lab.texts("1").keys() >= FONTANES
    assert not FONTANES & lab.texts("2").keys()
    assert not any(prose(n)[:60] in text for n in range(10) for text in lab.texts("2").values())
    rows = {row["id"]: row for row in lab.table("2")}
    assert {name for name, row in rows.items() if row["drop_reason"] == ["withdrawn"]} == FONTANES
    assert all(rows[name]["author"] == FONTANE["author"] and rows[name]["split"] is None for name in FONTANES)
    dropped = [row for row in lab.counts("2")["dropped"] if row["reason"] == "withdrawn"]
    assert dropped == [{"documents": 10, "language": "de", "reason": "withdrawn", "source": "library"}]
    assert lab.store.find("dataset/lab/2").facts["withdrawn"] == 10
    assert summary_data.dropped(lab.store.find("dataset/lab/2")) == {"withdrawn": 10}, "so the public summary says"
    assert "withdrawn" not in lab.store.find("dataset/lab/1").facts


def test_who_stays_keeps_his_place_and_his_split(tmp_path: Path) -> None:
    lab = Lab(tmp_path, library())
    lab.run("1")
    before = kept(lab, "1")
    validation = next(name for name, split in before.items() if split == "train" and name not in FONTANES)
    lab.withdraw(id=validation)
    lab.run("2")
    assert kept(lab, "2") == {name: split for name, split in before.items() if name != validation}


def test_no_sample_shows_what_was_withdrawn(tmp_path: Path) -> None:
    short = document(99, RAABE, text="Kurz.")
    lab = Lab(tmp_path, [*library(), short])
    lab.run("1")
    lab.withdraw(domain="example.org")
    lab.withdraw(title="Band 99")
    lab.run("2")
    samples = (lab.store.folder("dataset/lab/2") / "samples.jsonl").read_text()
    assert "Kurz." not in samples and prose(1)[:40] not in samples
    assert "Kurz." in (lab.store.folder("dataset/lab/1") / "samples.jsonl").read_text()


def test_a_later_document_of_the_author_is_left_out_too(tmp_path: Path) -> None:
    lab = Lab(tmp_path, library())
    lab.run("1")
    lab.withdraw(author="Fontane")
    later = Lab(tmp_path, [*library(), document(50, FONTANE), document(51, RAABE)])
    later.run("2")
    ids = {document_id(prose(50)), document_id(prose(51))}
    assert ids & later.texts("2").keys() == {document_id(prose(51))}


def test_a_near_copy_stays_unless_copies_are_meant(tmp_path: Path) -> None:
    copy = document(60, RAABE, text=prose(3).replace("Haus", "Hof", 1), title="Mirror")
    lab = Lab(tmp_path, [*library(), copy])
    name = document_id(copy["text"])
    lab.run("1")
    assert name not in lab.texts("1"), "the first of two near-copies stays"
    lab.withdraw(author="Fontane")
    lab.run("2")
    assert name in lab.texts("2"), "nobody said that copies are meant"
    lab.withdraw(author="Fontane", copies=True)
    with pytest.raises(InputError, match=r"dataset/lab/2.*raise `version`"):
        lab.run("2")
    lab.run("3")
    assert name not in lab.texts("3")
    assert {row["id"]: row["drop_reason"] for row in lab.table("3")}[name] == ["withdrawn"]


def test_a_near_copy_that_comes_later_is_left_out_where_copies_are_meant(tmp_path: Path) -> None:
    lab = Lab(tmp_path, library())
    lab.run("1")
    lab.withdraw(author="Fontane", copies=True)
    copy = document(60, RAABE, text=prose(3).replace("Haus", "Hof", 1), title="Mirror")
    later = Lab(tmp_path, [copy, *library()])
    later.run("2")
    assert document_id(copy["text"]) not in later.texts("2")


def test_the_same_words_from_a_source_that_stays_take_the_place(tmp_path: Path) -> None:
    twin = document(70, RAABE, text=prose(1), source="mirror", licence="CC-BY-SA-4.0")
    lab = Lab(tmp_path, [*(each | {"source": "letters"} for each in library()), twin], validation_share=0)
    lab.run("1")
    lab.withdraw("licence", source="letters")
    lab.run("2")
    assert lab.texts("2").keys() == {document_id(prose(1))}


def test_personal_data_leaves_no_name_behind_in_the_later_table(tmp_path: Path) -> None:
    lab = Lab(tmp_path, library())
    lab.run("1")
    made = lab.withdraw("personal-data", author="Fontane, Theodor")
    lab.run("2")
    assert not FONTANES & lab.texts("2").keys()
    rows = [row for row in lab.table("2") if row["drop_reason"] == ["withdrawn"]]
    assert {row["id"] for row in rows} == FONTANES
    told = json.dumps(rows).casefold()
    assert "fontane" not in told and "letters.example.org" not in told and "band" not in told
    assert "fontane" not in (lab.store.root / "withdrawals" / made.file_name).read_text().casefold()
    assert any(row["author"] == RAABE["author"] for row in lab.table("2"))


def test_a_language_that_nobody_is_left_in_stops_the_build_and_says_why(tmp_path: Path) -> None:
    lab = Lab(tmp_path, library())
    lab.run("1")
    lab.withdraw(language="de")
    with pytest.raises(InputError, match="30 dropped as withdrawn"):
        lab.run("2")


# --------------------------------------------------------------------------- conversations


def test_conversations_that_were_withdrawn_are_left_out_and_counted(tmp_path: Path) -> None:
    talk = [conversation(n, url=f"https://forum.example/{n % 2}/{n}", source="forum") for n in range(40)]
    lab = Lab(tmp_path, library(), talk)
    lab.run("1", until="conversations")
    lab.withdraw(url="https://forum.example/1/")
    lab.withdraw("personal-data", id="c/0")
    with pytest.raises(InputError, match="conversations/lab/1: holds 21 documents"):
        lab.run("1", until="conversations")
    lab.run("2", until="conversations")
    folder = lab.store.folder("conversations/lab/2")
    rows = [json.loads(line) for name in ("train", "heldout") for line in (folder / f"{name}.jsonl").open()]
    assert {row["id"] for row in rows} == {f"c/{n}" for n in range(2, 40, 2)}
    assert lab.counts("2", "conversations")["dropped/withdrawn/talk/de"] == 21
    assert lab.store.find("dataset/lab/2").facts["withdrawn"] == 0, "no text was meant"


# --------------------------------------------------------------------------- definitions


def test_without_withdrawals_nothing_speaks_of_them(tmp_path: Path) -> None:
    lab = Lab(tmp_path, library())
    lab.run("1")
    assert "withdrawals" not in records.definition_of(lab.store.find("dataset/lab/1").record)


def test_a_withdrawal_defines_the_next_dataset_and_is_no_reason_to_make_it_twice(tmp_path: Path) -> None:
    lab = Lab(tmp_path, library())
    lab.run("1")
    made = lab.withdraw(author="Fontane")
    lab.run("2")
    assert records.definition_of(lab.store.find("dataset/lab/2").record)["withdrawals"] == [made.digest]
    assert [built.state for built in lab.run("2").built] == ["unchanged"]


def test_a_dataset_that_holds_what_was_withdrawn_is_not_used_again(tmp_path: Path) -> None:
    lab = Lab(tmp_path, library())
    lab.run("1")
    made = lab.withdraw(author="Fontane")
    before = digest_of(lab, "dataset/lab/1")
    with pytest.raises(InputError, match=f"dataset/lab/1: holds 10 documents .*{made.file_name}.*raise `version`"):
        lab.run("1")
    assert digest_of(lab, "dataset/lab/1") == before, "what is there is never changed"


def test_a_withdrawal_that_means_nothing_in_it_leaves_a_dataset_as_it_is(tmp_path: Path) -> None:
    lab = Lab(tmp_path, library())
    lab.run("1")
    lab.withdraw(author="Nobody whom we know")
    lab.withdraw("personal-data", domain="elsewhere.example")
    assert [built.state for built in lab.run("1").built] == ["unchanged"]


def test_a_changed_withdrawals_file_stops_every_build(tmp_path: Path) -> None:
    lab = Lab(tmp_path, library())
    lab.run("1")
    made = lab.withdraw(author="Fontane")
    path = lab.store.root / "withdrawals" / made.file_name
    path.write_text(path.read_text().replace("Fontane", "Nobody"))
    with pytest.raises(InputError, match=made.file_name):
        lab.run("2")


@pytest.mark.parametrize("near", [True, False])
def test_a_build_with_withdrawals_is_the_same_twice(tmp_path: Path, near: bool) -> None:
    digests: set[Any] = set()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        lab = Lab(tmp_path / name, library(), near_duplicates=near)
        lab.run("1")
        lab.withdraw(author="Storm")
        lab.run("2")
        digests.add(digest_of(lab, "dataset/lab/2"))
    assert len(digests) == 1
