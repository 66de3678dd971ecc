"""Notices beside releases: signed by the release's key, found by verify, never inside the release."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from withdrawn_library import Lab, library

from hanse.errors import InputError
from hanse.release import sign, verifier
from hanse.store import check
from hanse.store.digest import sha256_file
from hanse.store.stage import Artifact, Store, Work
from hanse.trace import leaving, notice, withdrawal


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    made = Lab(tmp_path, library())
    made.run("1")
    key = sign.load_or_create_key(tmp_path / "key.pem")
    release(made.store, made.store.find("dataset/lab/1"), tmp_path / "key.pem")
    assert (tmp_path / "key.pem").stat().st_mode & 0o077 == 0 and key is not None
    return made


def release(store: Store, dataset: Artifact, key_path: Path, name: str = "lab") -> Artifact:
    """A release as far as notices look at it: made from a dataset, with its key and its table."""
    key = sign.load_or_create_key(key_path)

    def make(work: Work) -> None:
        (work.folder / verifier.PUBLIC_KEY).write_text(sign.public_pem(key))
        (work.folder / verifier.PROVENANCE).mkdir()
        shutil.copyfile(dataset.path / "documents.parquet", work.folder / verifier.PROVENANCE / "documents.parquet")

    definition = {"signed_by": sign.fingerprint(key)}
    return store.build("release", name, "1", definition=definition, inputs={"dataset": dataset}, make=make).artifact


def notices(lab: Lab) -> list[Path]:
    return sorted((lab.store.root / "notices" / "release~lab~1").glob("*"))


def test_a_release_that_holds_what_left_gets_a_notice_that_its_key_signed(lab: Lab) -> None:
    found = lab.store.find("release/lab")
    made = lab.withdraw(author="Fontane")
    written, unsigned = notice.write_missing(lab.store, [made], lab.folder / "key.pem")
    assert written == notices(lab) and unsigned == []
    assert [path.name for path in written] == [f"NOTICE-{made.id}.json"]
    public = verifier.load_public_key((found.path / verifier.PUBLIC_KEY).read_bytes())
    statement = notice.open_notice(written[0].read_text(), public)
    assert statement["subject"] == [{"name": "release/lab/1", "digest": {"sha256": found.digest}}]
    told = statement["predicate"]
    assert told["documents"] == 10 and "not cleaned" in told["text"]
    path = lab.store.root / "withdrawals" / made.file_name
    assert told["withdrawal"]["sha256"] == sha256_file(path)
    assert "Fontane" not in written[0].read_text() and "Fontane" not in json.dumps(statement)


def test_the_release_itself_does_not_change_and_the_store_sees_no_new_artifact(lab: Lab) -> None:
    refs = [each.ref for each in lab.store.artifacts()]
    notice.write_missing(lab.store, [lab.withdraw(author="Fontane")], lab.folder / "key.pem")
    assert [each.ref for each in lab.store.artifacts()] == refs
    lab.store.require_intact(lab.store.find("release/lab"), "look at it")


def test_a_notice_is_written_once_and_only_where_documents_are_meant(lab: Lab) -> None:
    mine = lab.withdraw(author="Fontane")
    other = lab.withdraw(author="Nobody at all")
    assert len(notice.write_missing(lab.store, [mine, other], lab.folder / "key.pem")[0]) == 1
    before = notices(lab)[0].read_bytes()
    assert notice.write_missing(lab.store, [mine, other], lab.folder / "key.pem") == ([], [])
    assert notices(lab)[0].read_bytes() == before


def test_a_later_release_without_the_documents_gets_none(lab: Lab) -> None:
    made = lab.withdraw(author="Fontane")
    lab.run("2")
    release(lab.store, lab.store.find("dataset/lab/2"), lab.folder / "key.pem", "clean")
    assert [each.release.ref for each in notice.affected(lab.store, [made])] == ["release/lab/1"]


def test_where_the_dataset_is_gone_the_table_in_the_release_answers(lab: Lab) -> None:
    made = lab.withdraw(author="Fontane")
    shutil.rmtree(lab.store.folder("dataset/lab/1"))
    (found,) = notice.affected(lab.store, [made])
    assert (found.release.ref, found.documents) == ("release/lab/1", {made.id: 10})


@pytest.mark.parametrize("path", ["other.pem", "none.pem"])
def test_with_another_key_or_none_it_says_which_is_needed_and_makes_no_key(lab: Lab, path: str) -> None:
    if path == "other.pem":
        sign.load_or_create_key(lab.folder / path)
    signer = sign.fingerprint(sign.load_or_create_key(lab.folder / "key.pem"))
    made = lab.withdraw(author="Fontane")
    assert notice.write_missing(lab.store, [made], lab.folder / path) == ([], [("release/lab/1", signer)])
    assert notices(lab) == [] and (lab.folder / "none.pem").exists() is False


def spoil_payload(bundle: dict[str, Any]) -> None:
    payload = bundle["dsseEnvelope"]["payload"]
    bundle["dsseEnvelope"]["payload"] = payload[:40] + ("A" if payload[40] != "A" else "B") + payload[41:]


SPOILED: dict[str, Callable[[dict[str, Any]], object]] = {
    "a letter of the payload": spoil_payload,
    "no signature": lambda b: b["dsseEnvelope"].update(signatures=[]),
    "another type": lambda b: b.update(mediaType="text/plain"),
    "no envelope": lambda b: b.pop("dsseEnvelope"),
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED.keys())
def test_a_changed_notice_is_a_problem(lab: Lab, spoil: Callable[..., object]) -> None:
    notice.write_missing(lab.store, [lab.withdraw(author="Fontane")], lab.folder / "key.pem")
    folder = lab.store.find("release/lab").path
    (good,) = notice.beside(lab.store.root, folder)
    assert good.problem == "" and "10 documents of it withdrawn" in good.says
    (path,) = notices(lab)
    bundle = json.loads(path.read_text())
    spoil(bundle)
    path.write_text(json.dumps(bundle))
    (bad,) = notice.beside(lab.store.root, folder)
    assert bad.problem and bad.says == ""


def test_a_notice_about_another_release_or_withdrawal_is_a_problem(lab: Lab) -> None:
    notice.write_missing(lab.store, [lab.withdraw(author="Fontane")], lab.folder / "key.pem")
    (path,) = notices(lab)
    folder = lab.store.find("release/lab").path
    shutil.copyfile(path, path.with_name("NOTICE-0123456789ab.json"))
    assert [bool(each.problem) for each in notice.beside(lab.store.root, folder)].count(True) == 1
    release(lab.store, lab.store.find("dataset/lab/1"), lab.folder / "other.pem", "twin")
    elsewhere = notice.folder_of(lab.store.root, "release/twin/1")
    elsewhere.mkdir(parents=True)
    shutil.copyfile(path, elsewhere / path.name)
    (bad,) = notice.beside(lab.store.root, lab.store.find("release/twin").path)
    assert "does not hold under the key" in bad.problem


def test_verify_names_the_notices_of_a_release(lab: Lab) -> None:
    made = lab.withdraw(author="Fontane")
    notice.write_missing(lab.store, [made], lab.folder / "key.pem")
    report = check.verify("release/lab", store_root=lab.store.root)
    assert any(f"NOTICE-{made.id}.json: 10 documents" in note for note in report.notes), report.text()
    notices(lab)[0].write_text("{}")
    report = check.verify("release/lab", store_root=lab.store.root)
    assert any(f"NOTICE-{made.id}.json" in problem.path for problem in report.problems)


def test_a_table_that_cannot_be_read_is_an_error_with_its_name(lab: Lab) -> None:
    made = lab.withdraw(author="Fontane")
    table = lab.store.folder("dataset/lab/1") / "documents.parquet"
    table.write_bytes(b"PAR1 no table PAR1")
    with pytest.raises(InputError, match=r"dataset/lab/1/documents\.parquet: cannot be read"):
        notice.affected(lab.store, [made])
    assert leaving.KINDS == notice.KINDS and withdrawal.read(lab.store.root) == (made,)
