"""What the page says a model is made of is what the release says, and "not recorded" is never guessed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "release"))  # the toy release
from toy_release import SCORES, SETTINGS, modelling, publish, write_conversations, writing

from hanse.recipe import Release
from hanse.release import sign, verifier
from hanse.release.attribution import Credit, attribution
from hanse.serve.record import read_attribution, record
from hanse.store.stage import Artifact, Store, Work

DOCUMENTS = [
    ("el", "laws", "CC0-1.0", None, 300, []),
    ("mt", "laws", "CC0-1.0", "Kamra", 60, []),
    ("mt", "novels", "CC-BY-SA-4.0", "Library", 40, []),
    ("ga", "novels", "LicenseRef-closed", "Library", 900, ["licence"]),
]


def write_documents(work: Work) -> None:
    names = ("language", "source", "licence", "rights_holder", "bytes", "drop_reason")
    schema = pa.schema([*((name, pa.string()) for name in names[:4]), ("bytes", pa.int64())])
    schema = schema.append(pa.field("drop_reason", pa.list_(pa.string())))
    rows = [dict(zip(names, each, strict=True)) for each in DOCUMENTS]
    pq.write_table(pa.Table.from_pylist(rows, schema), work.folder / "documents.parquet")


def signed_release(place: Path) -> Path:
    """A signed release of a toy model, with everything it was made from, and the key beside the store."""
    store = Store.open(place / "store")

    def step(kind: str, name: str, make: Any, definition: Any = None, **inputs: Artifact) -> Artifact:
        return store.build(kind, name, "1", definition=definition or {}, inputs=inputs, make=make).artifact

    made_from = {"name": "CLDR", "version": "47", "licence": "Unicode-3.0", "purpose": "names of countries"}
    source = {"name": "atlas", "kind": "atlas", "obtained": "synthetic", "generated_from": [made_from]}
    dataset = step("dataset", "toy", write_documents)
    talk = step("conversations", "toy", write_conversations, {"source": [source]})
    base = step("model", "toy-base", modelling(tokens=1000, flop=str(10**20), active_parameters=77), dataset=dataset)
    tuned = step("model", "toy-chat", modelling(tokens=500, flop=10**17), {"tune": {}}, model=base, talk=talk)
    step("evaluation", "toy-chat", writing("scores.json", json.dumps(SCORES)), model=tuned)
    publish(store, Release(**SETTINGS, key=str(place / "signing.pem")))
    return store.find("release/toy").path


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return signed_release(tmp_path_factory.mktemp("record"))


@pytest.fixture(scope="module")
def found(release: Path) -> dict[str, Any]:
    return record(release)


def test_languages_are_the_kept_documents_with_their_share_of_the_bytes(found: dict[str, Any]) -> None:
    told = [(each["code"], each["documents"], each["bytes"], each["share"]) for each in found["languages"]]
    assert told == [("el", 1, 300, 0.75), ("mt", 2, 100, 0.25)]
    assert [each["autonym"] for each in found["languages"]] == ["Ελληνικά", "Malti"]


def test_sources_are_told_with_licence_holders_and_counts(found: dict[str, Any]) -> None:
    told = {each["name"]: each for each in found["sources"]}
    assert set(told) == {"laws", "novels", "atlas"}
    assert told["laws"]["rights_holders"] == ["Kamra"]
    assert (told["laws"]["documents"], told["laws"]["bytes"], told["laws"]["asks"]) == (2, 360, [])
    assert (told["novels"]["documents"], told["novels"]["asks"]) == (1, ["share-alike"])
    assert (told["atlas"]["documents"], told["atlas"]["conversations"], told["atlas"]["bytes"]) == (0, 3, 12)
    assert told["atlas"]["generated_from"][0]["name"] == "CLDR"
    assert [each["licence"] for each in found["licences"]] == ["CC0-1.0", "CC-BY-SA-4.0", "Unicode-3.0"]


def test_figures_are_sums_of_what_the_steps_noted(found: dict[str, Any]) -> None:
    assert found["training"]["tokens"] == 1500
    assert found["training"]["flop"] == 10**20 + 10**17
    assert found["training"]["energy_wh"] is None
    assert found["model"]["parameters"] > 0
    assert found["model"]["active_parameters"] == 77
    assert found["model"]["context"] == 64
    assert found["generation"] == {"temperature": 0.0}
    assert [(each["metric"], each["value"], each["n"]) for each in found["evaluation"]] == [("exact_answer", 0.9, 80)]


def test_the_release_is_named_with_its_papers_and_ancestors(release: Path, found: dict[str, Any]) -> None:
    assert found["release"]["title"] == "Toy: the model"
    assert found["release"]["name"] == "release/toy/1"
    papers = {each["name"]: each for each in found["papers"]}
    assert papers["README.md"]["text"] == (release / "README.md").read_text()
    assert papers["model.safetensors"]["text"] is None
    assert {"step.json", "SHA256SUMS", "model.sig"} <= set(papers)
    line = f"{papers['LICENSE']['sha256']}  LICENSE\n"
    assert line in (release / "SHA256SUMS").read_text()
    names = {each["name"] for each in found["ancestors"]}
    assert names == {
        "dataset/toy/1", "conversations/toy/1", "model/toy-base/1", "model/toy-chat/1", "evaluation/toy-chat/1"
    }  # fmt: skip


def test_a_signature_that_holds_is_told_with_its_key(release: Path, found: dict[str, Any]) -> None:
    key = sign.load_or_create_key(release.parents[3] / "signing.pem")
    assert found["signature"]["state"] == "holds"
    assert found["signature"]["fingerprint"] == sign.fingerprint(key)
    assert found["signature"]["problems"] == []


@pytest.mark.parametrize("name", ["README.md", "model.safetensors", "provenance/documents.parquet"])
def test_a_changed_file_breaks_the_signature_and_is_named(tmp_path: Path, release: Path, name: str) -> None:
    copy = copied(release, tmp_path)
    content = bytearray((copy / name).read_bytes())
    content[-1] ^= 1
    (copy / name).write_bytes(content)
    told = record(copy)["signature"]
    assert told["state"] == "broken"
    assert any(name in problem for problem in told["problems"])


def test_a_release_without_its_signature_does_not_pass_for_unsigned(tmp_path: Path, release: Path) -> None:
    copy = copied(release, tmp_path)
    (copy / verifier.SIGNATURE).unlink()
    assert record(copy)["signature"]["state"] == "broken"


def test_a_check_that_was_made_is_not_made_again(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = verifier.Report((verifier.Problem("x", "is odd"),), ())
    monkeypatch.setattr(verifier, "verify", lambda *_: pytest.fail("read the folder again"))
    assert record(release, report)["signature"]["problems"] == ["x: is odd"]


def test_a_plain_folder_tells_what_it_holds_and_nothing_more(tmp_path: Path, release: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "config.json").write_bytes((release / "config.json").read_bytes())
    told = record(plain)
    assert told["signature"]["state"] == "unsigned"
    assert told["model"]["context"] == 64
    assert told["model"]["parameters"] is told["training"]["tokens"] is told["release"]["licence"] is None
    assert told["languages"] == told["sources"] == told["papers"] == told["evaluation"] == []


def test_an_unknown_model_has_the_same_members_and_none_of_the_answers(tmp_path: Path, found: dict[str, Any]) -> None:
    for release in (None, tmp_path / "missing"):
        told = record(release)
        assert told.keys() == found.keys()
        assert told["signature"]["state"] is told["model"]["bytes"] is told["release"]["title"] is None


def test_without_a_table_of_documents_the_languages_are_those_of_the_release(tmp_path: Path, release: Path) -> None:
    copy = copied(release, tmp_path)
    (copy / "provenance" / "documents.parquet").unlink()
    told = record(copy)["languages"]
    assert [(each["code"], each["documents"], each["share"]) for each in told] == [
        ("da", None, None),
        ("nb", None, None),
    ]
    (copy / "provenance" / "documents.parquet").write_bytes(b"no table")
    assert record(copy)["languages"] == told


def test_records_of_another_make_are_left_out(tmp_path: Path, release: Path, found: dict[str, Any]) -> None:
    copy = copied(release, tmp_path)
    for number, content in enumerate((b"[1, 2]", b"{", b'{"subject": []}', b'{"subject": [{"name": 1}]}', b"\xff")):
        (copy / "provenance" / f"other-{number}.json").write_bytes(content)
    (copy / "evaluation" / "scores.json").write_text('[{"language": "mean", "task": "all", "value": NaN}, 3, null]')
    told = record(copy)
    assert told["ancestors"] == found["ancestors"]
    assert told["evaluation"][0]["value"] is None
    json.dumps(told, allow_nan=False)


def test_no_torch_is_needed(release: Path) -> None:
    code = (
        "import sys, pathlib, json; from hanse.serve.record import record; "
        f"json.dumps(record(pathlib.Path({str(release)!r})), allow_nan=False); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


words = st.text("ab Ωξ|*_\\[]<>()`,0#", min_size=1, max_size=12).map(lambda text: " ".join(text.split()) or "x")
credits_ = st.builds(
    Credit,
    kind=st.sampled_from(["documents", "conversations"]),
    licence=words,
    source=words,
    rights_holder=st.one_of(st.just(""), words),
    author=st.one_of(st.just(""), words),
    texts=st.integers(0, 10**7),
    bytes=st.integers(0, 10**12),
)


@given(st.lists(credits_, max_size=8))
def test_an_attribution_is_read_back_as_it_was_meant(given_credits: list[Credit]) -> None:
    meant: Counter[tuple[Any, ...]] = Counter()
    for each in given_credits:
        key = (each.licence, each.source, each.rights_holder or None, each.kind)
        meant[(*key, "texts")] += each.texts
        meant[(*key, "bytes")] += each.bytes
    told: Counter[tuple[Any, ...]] = Counter()
    for each in read_attribution(attribution(given_credits)):
        key = (each["licence"], each["source"], each["rights_holder"], each["kind"])
        told[(*key, "texts")] += each["texts"]
        told[(*key, "bytes")] += each["bytes"]
    assert told == meant


def copied(release: Path, place: Path) -> Path:
    """The release outside of its store, so that it can be harmed."""
    return Path(shutil.copytree(release, place / "copy"))
