"""What `hanse verify` says about an artifact that was touched, and about its ancestors."""

import json
import shutil

import pytest

from hanse.errors import InputError
from hanse.store import check


def problems(store, what="model/a/1", **named):
    return [str(problem) for problem in check.verify(what, store_root=store.root, **named).problems]


def test_an_untouched_artifact_holds_by_name_and_by_path(store):
    path = store.find("model/a").path
    for what in ("model/a", "model/a/1", str(path)):
        report = check.verify(what, store_root=store.root)
        assert report.holds and report.as_dict()["holds"], report.text()
        assert "3 ancestors still in the store" in report.text()


@pytest.mark.parametrize("name", ["content", "run/metrics.jsonl", "SHA256SUMS", "step.json"])
def test_a_flipped_byte_is_named_in_whatever_file(store, name):
    path = store.find("model/a").path / name
    for position in {0, path.stat().st_size // 2, path.stat().st_size - 1}:
        data = bytearray(path.read_bytes())
        data[position] ^= 1
        path.write_bytes(data)
        found = problems(store)
        # step.json of an artifact that nothing was made from: only its own fields could contradict it.
        if name != "step.json":
            assert any(line.startswith(f"{name}: ") for line in found), (position, found)
        data[position] ^= 1
        path.write_bytes(data)
    assert problems(store) == []


@pytest.mark.parametrize("name", ["content", "run/metrics.jsonl", "SHA256SUMS", "step.json"])
def test_a_missing_file_is_named(store, name):
    (store.find("model/a").path / name).unlink()
    assert f"{name}: is missing" in problems(store)


@pytest.mark.parametrize("name", ["extra", "run/extra", "sub/extra", ".hidden", "model.sig"])
def test_an_added_file_is_named(store, name):
    path = store.find("model/a").path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("x")
    assert f"{name}: was added" in problems(store)


def test_a_link_in_place_of_a_file_is_named(store):
    path = store.find("model/a").path / "content"
    shutil.move(path, store.root / ".moved")
    path.symlink_to(store.root / ".moved")
    assert "content: is a link or a special file" in problems(store)


def test_sums_rewritten_to_fit_changed_content_do_not_match_the_record(store):
    folder = store.find("model/a").path
    (folder / "content").write_text("other")
    (folder / "SHA256SUMS").write_text(check.sha256_file(folder / "content") + "  content\n")
    assert "SHA256SUMS: is not the one that step.json names" in problems(store)


def test_a_record_cannot_pass_a_file_off_as_a_byproduct(store):
    folder = store.find("model/a").path
    (folder / "content").write_text("other")
    record = json.loads((folder / "step.json").read_text())
    forged = {"name": "content", "digest": {"sha256": check.sha256_file(folder / "content")}}
    record["predicate"]["runDetails"]["byproducts"].append(forged)
    (folder / "step.json").write_text(json.dumps(record))
    assert problems(store) == ["content: changed"]


def test_an_ancestor_that_is_gone_is_named(store):
    shutil.rmtree(store.root / "dataset")
    assert problems(store) == ["dataset/a/1: is missing, so what was made from it cannot be followed to its source"]


def test_a_record_that_is_gone_is_named_however_far_up(store):
    (store.find("dataset/a").path / "step.json").unlink()
    assert problems(store) == ["dataset/a/1: step.json cannot be read (No such file or directory)"]


def test_an_ancestor_whose_record_was_edited_is_named(store):
    path = store.find("dataset/a").path / "step.json"
    record = json.loads(path.read_text())
    record["predicate"]["buildDefinition"]["externalParameters"]["ref"] = "other"
    path.write_text(json.dumps(record))
    assert problems(store) == ["dataset/a/1: its step.json is not the one that was recorded"]
    assert problems(store, "dataset/a/1") == []  # by itself it is consistent; only its children know better


def test_a_folder_outside_a_store_is_checked_by_itself(store, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(store.find("model/a").path, copy)
    assert check.verify(str(copy), store_root=tmp_path / "none").holds
    (copy / "content").write_text("x")
    assert [p.path for p in check.verify(str(copy), store_root=tmp_path / "none").problems] == ["content"]


def test_what_is_no_artifact_is_bad_input(store, tmp_path):
    for what in (str(tmp_path), "model/zzz", "nothing"):
        with pytest.raises(InputError):
            check.verify(what, store_root=store.root)
    with pytest.raises(InputError, match="no signature"):
        check.verify("model/a", store_root=store.root, key=tmp_path / "key.pem")
