"""The record of a withdrawal: written whole, read back as it was, refused when anybody changed it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.errors import InputError
from hanse.store.digest import canonical_json
from hanse.trace import withdrawal
from hanse.trace.withdrawal import Withdrawal

IDS = ("a" * 32, "b" * 32)


def written(root: Path, reason: str = "opt-out", **criteria: str) -> Withdrawal:
    asked = withdrawal.draft(criteria or {"author": "Ana Kovač"}, reason=reason, evidence="letter of 3 March")
    return withdrawal.write(root, withdrawal.sealed(asked, IDS, {"dataset/a/1": 2}, withdrawal.read(root)))


def edit(path: Path, change: Callable[[dict[str, Any]], object], *, consistently: bool = False) -> None:
    """Change a file by hand; `consistently` also corrects the digest, as a careful person would."""
    statement = json.loads(path.read_text())
    change(statement)
    if consistently:
        digest = hashlib.sha256(canonical_json(statement["predicate"]).encode()).hexdigest()
        statement["subject"][0]["digest"]["sha256"] = digest
    path.write_text(json.dumps(statement))


# --------------------------------------------------------------------------- in and out


def test_what_was_written_is_read_back_with_the_digest_of_its_file(tmp_path: Path) -> None:
    made = written(tmp_path, author="Ana Kovač", language="hr")
    (read,) = withdrawal.read(tmp_path)
    assert read == made
    assert read.criteria == {"author": "Ana Kovač", "language": "hr"}
    assert read.documents == IDS and read.found == {"dataset/a/1": 2}
    (path,) = (tmp_path / "withdrawals").iterdir()
    assert path.name == f"{read.effective}-{read.id}.json"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == read.digest == read.as_dict()["digest"]


def test_the_file_is_an_in_toto_statement_of_our_own_type(tmp_path: Path) -> None:
    written(tmp_path)
    (path,) = (tmp_path / "withdrawals").iterdir()
    statement = json.loads(path.read_text())
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "urn:hanse:withdrawal:v1"
    assert path.read_text().count("\n") > 10, "people read these files"


def test_a_store_without_withdrawals_has_none(tmp_path: Path) -> None:
    assert withdrawal.read(tmp_path) == ()


def test_withdrawals_are_read_oldest_first(tmp_path: Path) -> None:
    for number in range(5):
        made = written(tmp_path, id=str(number))
        place = tmp_path / "withdrawals" / made.file_name
        day = f"202{number}-05-05"
        edit(place, lambda s, day=day: s["predicate"].update(received=day, effective=day), consistently=True)
        place.rename(place.with_name(f"{day}-{made.id}.json"))
    assert [each.criteria["id"] for each in withdrawal.read(tmp_path)] == ["0", "1", "2", "3", "4"]


def test_many_at_once_are_all_there_and_nothing_else_is(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda number: written(tmp_path, id=f"{number:032x}"), range(40)))
    assert {each.id for each in withdrawal.read(tmp_path)} == {each.id for each in made}
    assert len(list((tmp_path / "withdrawals").iterdir())) == 40


@given(value=st.text(min_size=1).filter(lambda t: any(c.isalnum() for c in t) and "\0" not in t and t.isprintable()))
def test_any_printable_criterion_survives_the_file(tmp_path_factory: Any, value: str) -> None:
    root = tmp_path_factory.mktemp("store")
    made = written(root, title=value)
    assert withdrawal.read(root) == (made,)
    assert made.criteria == {"title": value}


# --------------------------------------------------------------------------- personal data


def test_of_personal_data_no_value_stands_in_the_file(tmp_path: Path) -> None:
    asked = withdrawal.draft(
        {"author": "Jana Nováková", "domain": "jana.example.org", "url": "https://jana.example.org/me"},
        reason="personal-data", requester="person", evidence="mail by Jana Nováková",
    )  # fmt: skip
    made = withdrawal.write(tmp_path, withdrawal.sealed(asked, IDS, {"dataset/a/1": 2}, ()))
    text = (tmp_path / "withdrawals" / made.file_name).read_text().casefold()
    for secret in ("nov", "jana", "example.org", *IDS, hashlib.sha256(IDS[0].encode()).hexdigest()):
        assert secret not in text
    assert made.criteria == {} and made.documents == ()
    assert len(made.hashes["documents"]) == 2
    assert made.evidence.startswith("sha256:")
    assert withdrawal.read(tmp_path) == (made,)


def test_requests_about_personal_data_share_a_salt_in_one_store_and_not_in_another(tmp_path: Path) -> None:
    first = written(tmp_path / "a", "personal-data", author="Ana") if (tmp_path / "a").mkdir() is None else None
    second = written(tmp_path / "a", "personal-data", author="Bo")
    (tmp_path / "b").mkdir()
    other = written(tmp_path / "b", "personal-data", author="Ana")
    assert first is not None and first.salt == second.salt != other.salt
    assert first.hashes["author"] != other.hashes["author"]


# --------------------------------------------------------------------------- changed by hand


EDITS: dict[str, Callable[[dict[str, Any]], object]] = {
    "another author": lambda s: s["predicate"]["criteria"].update(author="Nobody"),
    "one document less": lambda s: s["predicate"]["documents"].pop(),
    "another day": lambda s: s["predicate"].update(received="2020-01-01"),
    "another type": lambda s: s.update(predicateType="https://slsa.dev/provenance/v1"),
    "no subject": lambda s: s.update(subject=[]),
    "a list instead": lambda s: s.update(predicate=[]),
    "another digest": lambda s: s["subject"][0]["digest"].update(sha256="0" * 64),
}


@pytest.mark.parametrize("change", EDITS.values(), ids=EDITS.keys())
def test_a_file_edited_by_hand_is_refused_by_its_name(tmp_path: Path, change: Callable[..., object]) -> None:
    made = written(tmp_path)
    edit(tmp_path / "withdrawals" / made.file_name, change)
    with pytest.raises(InputError, match=made.file_name):
        withdrawal.read(tmp_path)


CONTRADICTIONS: dict[str, Callable[[dict[str, Any]], object]] = {
    "an unknown reason": lambda s: s["predicate"].update(reason="whim"),
    "a name as requester": lambda s: s["predicate"].update(requester="Ana Kovač"),
    "received after it took effect": lambda s: s["predicate"].update(received="2999-01-01"),
    "a day that is none": lambda s: s["predicate"].update(received="2026-02-30"),
    "personal data in clear": lambda s: s["predicate"].update(reason="personal-data"),
    "hashes without a reason for them": lambda s: s["predicate"].update(salt="0" * 32),
    "no criterion": lambda s: s["predicate"].update(criteria={}),
    "an empty criterion": lambda s: s["predicate"]["criteria"].update(author=" "),
    "an unknown criterion": lambda s: s["predicate"].update(criteria={"shoe size": "43"}),
    "a number for a text": lambda s: s["predicate"].update(documents=[5]),
    "a key more": lambda s: s["predicate"].update(note="hello"),
    "copies that are neither": lambda s: s["predicate"].update(copies=3),
}


@pytest.mark.parametrize("change", CONTRADICTIONS.values(), ids=CONTRADICTIONS.keys())
def test_a_file_that_contradicts_itself_is_refused_even_with_a_right_digest(
    tmp_path: Path, change: Callable[..., object]
) -> None:
    made = written(tmp_path)
    edit(tmp_path / "withdrawals" / made.file_name, change, consistently=True)
    with pytest.raises(InputError, match=made.file_name):
        withdrawal.read(tmp_path)


def test_a_file_under_another_name_or_twice_is_refused(tmp_path: Path) -> None:
    made = written(tmp_path)
    place = tmp_path / "withdrawals" / made.file_name
    place.rename(place.with_name(f"2020-01-01-{made.id}.json"))
    with pytest.raises(InputError, match=f"2020-01-01-{made.id}.json.*says that it is"):
        withdrawal.read(tmp_path)
    content = json.loads(place.with_name(f"2020-01-01-{made.id}.json").read_text())
    place.write_text(json.dumps(content))
    edit(
        place.with_name(f"2020-01-01-{made.id}.json"),
        lambda s: s["predicate"].update(received="2020-01-01", effective="2020-01-01"),
        consistently=True,
    )
    with pytest.raises(InputError, match="has the id of"):
        withdrawal.read(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"null", b'{"_type": 1, "_type": 2}', b"[" * 99999])
def test_what_is_no_statement_is_refused_by_its_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "withdrawals").mkdir()
    (tmp_path / "withdrawals" / "2026-01-01-0123456789ab.json").write_bytes(content)
    with pytest.raises(InputError, match=r"2026-01-01-0123456789ab\.json"):
        withdrawal.read(tmp_path)


# --------------------------------------------------------------------------- what is asked for


TOMORROW = (datetime.now(UTC) + timedelta(days=2)).date().isoformat()
REFUSED: list[tuple[dict[str, str], dict[str, str], str]] = [
    ({}, {}, "nothing to withdraw"),
    ({"author": ""}, {}, "--author.*empty"),
    ({"author": "  "}, {}, "--author.*empty"),
    ({"author": "---"}, {}, "--author.*no letter"),
    ({"domain": "example.org/page"}, {}, "--domain.*--url"),
    ({"file": "a.jsonl"}, {}, "--file"),
    ({"author": "a\0b"}, {}, "--author.*Unicode"),
    ({"author": "a\udc80"}, {}, "--author.*UTF-8"),
    ({"author": "Ana"}, {"received": TOMORROW}, "--received.*future"),
    ({"author": "Ana"}, {"received": "3 March"}, "--received.*no day"),
    ({"author": "Ana"}, {"received": "2026-02-30"}, "--received.*no day"),
    ({"author": "Ana"}, {"reason": "whim"}, "--reason whim"),
    ({"author": "Ana"}, {"requester": "Ana"}, "--requester.*class"),
    ({"author": "Ana"}, {"evidence": "x" * 5000}, "--evidence.*file"),
    (
        {"author": "Ana"},
        {"evidence": "no folder/her lettre.PDF"},
        "--evidence no folder/her lettre.PDF: .*no such file",
    ),
    ({"author": "Ana"}, {"evidence": "lettre.eml", "reason": "personal-data"}, "--evidence lettre.eml: .*no such file"),
]


@pytest.mark.parametrize(("criteria", "options", "told"), REFUSED)
def test_what_cannot_be_meant_is_refused(criteria: dict[str, str], options: dict[str, str], told: str) -> None:
    with pytest.raises(InputError, match=f"(?s){told}"):
        withdrawal.draft(criteria, **{"reason": "opt-out", **options})


def test_of_a_file_of_evidence_the_digest_is_kept(tmp_path: Path) -> None:
    letter = tmp_path / "letter.pdf"
    letter.write_bytes(b"%PDF dear sirs")
    asked = withdrawal.draft({"author": "Ana"}, reason="court", evidence=str(letter))
    assert asked.evidence == f"sha256:{hashlib.sha256(b'%PDF dear sirs').hexdigest()}"


@pytest.mark.parametrize(
    "given", ["ticket 4711", "letter of 3.3.2026.", "https://court.example/order.pdf", "docket 2 O 3/26"]
)
def test_evidence_in_words_is_kept_as_it_was_said(given: str) -> None:
    assert withdrawal.draft({"author": "Ana"}, reason="court", evidence=given).evidence == given


def test_the_same_request_is_recognised_in_clear_and_by_its_hashes(tmp_path: Path) -> None:
    for reason in ("opt-out", "personal-data"):
        made = written(tmp_path, reason, author=f"Ana {reason}")
        known = withdrawal.read(tmp_path)
        again = withdrawal.draft({"author": f"Ana {reason}"}, reason=reason)
        assert withdrawal.repeats(again, known) == made
        assert withdrawal.repeats(withdrawal.draft({"author": "Bo"}, reason=reason), known) is None
        wider = withdrawal.draft({"author": f"Ana {reason}"}, reason=reason, copies=True)
        assert withdrawal.repeats(wider, known) is None
