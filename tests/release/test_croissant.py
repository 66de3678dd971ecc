"""Croissant: what it says of a dataset, and that the reference reader takes it and reads the records."""

import dataclasses
import json
import shutil
import socket
from pathlib import Path

import pytest
from paper_store import HOSTILE, ledger_of, make_store

from hanse.release.papers.croissant import CONFORMS_TO, croissant
from hanse.release.papers.dataset_facts import datasets, joint_expression, licence_addresses, percent, web_address
from hanse.release.papers.machine import as_json


@pytest.fixture(scope="module")
def found(hostile_ledger, hostile_facts):
    return croissant(hostile_ledger, hostile_facts["dataset"])


@pytest.fixture
def offline(monkeypatch):
    """No way out: a reader that would fetch a context or a licence fails."""

    def refuse(*arguments: object) -> None:
        raise OSError("the test has no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def laid_out(ledger, facts, place: Path) -> Path:
    """The description in the dataset's own folder, where its paths hold."""
    folder = Path(shutil.copytree(facts.artifact.path, place / "dataset"))
    path = folder / "croissant.json"
    path.write_bytes(as_json(croissant(ledger, facts)))
    return path


def rows(found: dict, name: str) -> list[dict]:
    (record_set,) = [each for each in found["recordSet"] if each["@id"] == name]
    return [{key.split("/")[1]: value for key, value in row.items()} for row in record_set["data"]]


def test_each_file_stands_with_the_sum_that_the_dataset_has_for_it(found, hostile_facts):
    lines = (hostile_facts["dataset"].artifact.path / "SHA256SUMS").read_text().splitlines()
    sums = {path: digest for digest, path in (line.split("  ") for line in lines)}
    files = {each["contentUrl"]: each for each in found["distribution"] if each["@type"] == "cr:FileObject"}
    assert {path: each["sha256"] for path, each in files.items()} == sums
    size = (hostile_facts["dataset"].artifact.path / "documents.parquet").stat().st_size
    assert files["documents.parquet"]["contentSize"] == f"{size} B"


def test_the_set_of_texts_is_a_glob_that_is_contained_in_nothing(found):
    (texts,) = [each for each in found["distribution"] if each["@type"] == "cr:FileSet"]
    assert texts["includes"] == "text/*.parquet" and "containedIn" not in texts
    (text,) = [each for each in found["recordSet"] if each["@id"] == "texts"]
    assert {field["source"]["fileSet"]["@id"] for field in text["field"]} == {"text-files"}


def test_licences_are_addresses_and_their_shares_add_up(found):
    assert found["license"] == [
        "https://spdx.org/licenses/CC0-1.0.html", "https://spdx.org/licenses/CC-BY-SA-4.0.html",
        "https://spdx.org/licenses/MIT.html", "NOASSERTION", "https://spdx.org/licenses/Unicode-3.0.html",
    ]  # fmt: skip
    shares = {row["name"]: row for row in rows(found, "licences")}
    assert shares["CC0-1.0"] == {"name": "CC0-1.0", "documents": 2, "bytes": 550, "share": 0.55, "tokens": 110}
    assert sum(row["share"] for row in shares.values()) == pytest.approx(1)
    usage = {each["name"]: each for each in found["usageInfo"]}
    assert usage["CC-BY-SA-4.0"]["description"].startswith("share-alike; 30.0 % of the bytes")
    assert "LicenseRef-closed" not in json.dumps(found["usageInfo"])


def test_it_says_what_was_dropped_found_and_leant_to(found):
    assert {row["kind"]: row["count"] for row in rows(found, "drop-reasons")} == {
        "licence-not-allowed": 1, "near-duplicate": 1, "too-short": 1,
    }  # fmt: skip
    assert {row["kind"]: row["count"] for row in rows(found, "personal-data")} == {"email": 2, "iban": 1}
    assert "5 of 6 documents were searched" in found["rai:personalSensitiveInformation"][0]
    assert "masked: email 2, iban 1" in found["rai:personalSensitiveInformation"][0]
    assert "Danish: 40.0 % of the bytes" in found["rai:dataBiases"]
    assert "synthetic: 1.0 % of the bytes" in found["rai:dataBiases"]
    assert found["rai:dataCollectionType"] == ["Others", "Secondary Data Analysis", "Web Scraping"]
    assert any("Whether rights are reserved is not known" in line for line in found["rai:dataLimitations"])


def test_every_source_is_something_that_it_was_derived_from(found):
    novels, laws, atlas = found["prov:wasDerivedFrom"]
    assert novels["name"] == HOSTILE and "url" not in novels
    assert laws["url"] == "https://laws.example/eu" and "by the crawler HanseBot" in laws["description"]
    assert atlas["prov:wasDerivedFrom"] == [
        {"@type": "prov:Entity", "name": "CLDR", "version": "47", "license": ["https://spdx.org/licenses/Unicode-3.0.html"]}
    ]  # fmt: skip
    assert found["conformsTo"] == list(CONFORMS_TO)


def test_nothing_hostile_becomes_an_address_or_a_key(found):
    """Text from outside stands as a value of name or description, never as an identifier."""

    def walk(value, key=""):
        if isinstance(value, dict):
            for name, each in value.items():
                assert "javascript" not in name
                walk(each, name)
        elif isinstance(value, list):
            for each in value:
                walk(each, key)
        elif isinstance(value, str) and "javascript:" in value:
            assert key in ("name", "description", "sources/name") or key.startswith("rai:"), key

    walk(found)
    assert json.loads(as_json(found)) == found


@pytest.mark.parametrize(
    ("address", "is_emitted"),
    [
        ("https://example.org/a?b=c#d", True),
        ("http://bücher.example/ä", True),
        ("javascript:alert(1)", False),
        ("javascript://example.org/%0aalert(1)", False),
        ("data:text/html,x", False),
        ("file://example.org/etc/passwd", False),
        ("https://user:secret@example.org", False),
        ("https:///path", False),
        ("//host/x", False),
        ("https://a b.example", False),
        ('https://a.example/"><script>', False),
        ("https://a.example:x/", False),
        ("https://a.example/\n", False),
        ("https://a.example/\u202etxt", False),
        ("https://a.example/\ud800", False),
        ("https://a.example/" + "x" * 2000, False),
        ("https://[::1", False),
        ("", False),
        (None, False),
        (7, False),
    ],
)
def test_only_plain_addresses_of_the_web_are_emitted(address, is_emitted):
    assert web_address(address) == (address if is_emitted else None)


def test_expressions_become_addresses_and_join_into_one():
    assert licence_addresses("GPL-2.0-only WITH Classpath-exception-2.0") == [
        "https://spdx.org/licenses/GPL-2.0-only.html", "https://spdx.org/licenses/Classpath-exception-2.0.html",
    ]  # fmt: skip
    assert licence_addresses("LicenseRef-mine") == [] == licence_addresses('"><script>')
    assert joint_expression(["MIT OR CC0-1.0", "MIT"]) == "MIT AND (MIT OR CC0-1.0)"
    assert joint_expression(["MIT", "NOASSERTION"]) is None and joint_expression([]) is None
    assert [percent(share) for share in (None, 0, 0.0000123, 0.5)] == ["not recorded", "0.0 %", "0.0012 %", "50.0 %"]


def test_half_a_surrogate_pair_can_be_written():
    assert json.loads(as_json({"name": "\ud800"})) == {"name": "\ud800"}


@pytest.mark.parametrize("kind", ["dataset", "conversations"])
def test_the_reference_reader_takes_it_without_errors(hostile_ledger, hostile_facts, tmp_path, kind, offline):
    mlcroissant = pytest.importorskip("mlcroissant")
    read = mlcroissant.Dataset(jsonld=laid_out(hostile_ledger, hostile_facts[kind], tmp_path))
    assert not read.metadata.ctx.issues.errors
    assert str(read.metadata.ctx.conforms_to) == "CroissantVersion.V_1_1"
    again = read.metadata.to_json()
    assert again["conformsTo"] == list(CONFORMS_TO)
    assert "prov:wasDerivedFrom" in json.dumps(again)


def test_the_reference_reader_reads_the_records(hostile_ledger, hostile_facts, tmp_path, offline):
    mlcroissant = pytest.importorskip("mlcroissant")
    read = mlcroissant.Dataset(jsonld=laid_out(hostile_ledger, hostile_facts["dataset"], tmp_path))
    texts = list(read.records(record_set="texts"))
    assert {each["texts/text"].decode() for each in texts} == {f"text {number} æøå" for number in range(6)}
    documents = list(read.records(record_set="documents"))
    assert len(documents) == 8 and documents[0]["documents/licence"] == b"CC-BY-SA-4.0"
    assert documents[0]["documents/author_died"] is None and documents[1]["documents/author_died"] == 1900
    assert [list(each["documents/drop_reason"]) for each in documents][-1] == [b"licence-not-allowed", b"too-short"]
    assert [each["languages/name"] for each in read.records(record_set="languages")] == ["nb", "da"]


def test_the_reference_reader_reads_conversations(hostile_ledger, hostile_facts, tmp_path, offline):
    mlcroissant = pytest.importorskip("mlcroissant")
    read = mlcroissant.Dataset(jsonld=laid_out(hostile_ledger, hostile_facts["conversations"], tmp_path))
    found = list(read.records(record_set="train"))
    assert [each["train/id"] for each in found] == [b"train-0", b"train-1", b"train-2"]
    turn = {"train/messages/role": b"user", "train/messages/content": "æ".encode()}
    assert found[0]["train/messages"] == [turn, turn]


def test_the_reference_reader_takes_the_description_that_a_release_carries(released, store, tmp_path, offline):
    """A dataset of which little is recorded: no text, no languages, no sources."""
    mlcroissant = pytest.importorskip("mlcroissant")
    folder = Path(shutil.copytree(store.find("dataset/toy").path, tmp_path / "dataset"))
    path = shutil.copy2(released.path / "papers" / "dataset-toy-1.croissant.json", folder / "croissant.json")
    read = mlcroissant.Dataset(jsonld=path)
    assert [each["documents/id"] for each in read.records(record_set="documents")] == [b"1", b"2", b"3", b"4"]


@pytest.mark.slow
def test_the_reference_reader_reads_the_atlas_that_hanse_makes(tmp_path, offline):
    """The whole way: the atlas through real curation, then its description, then the reader."""
    mlcroissant = pytest.importorskip("mlcroissant")
    from hanse.data.curate import curate
    from hanse.recipe import Curate, Source
    from hanse.store.stage import Store

    store = Store.open(tmp_path / "s")
    source, settings = Source(name="atlas", kind="atlas", licence="Unicode-3.0", obtained="synthetic"), Curate()
    definition = {"curate": settings.model_dump(mode="json"), "source": [source.model_dump(mode="json")]}
    made = store.build(
        "dataset", "atlas", "1", definition=definition, inputs={},
        make=lambda work: curate(work, [source], settings, languages=("da", "mt"), seed=0),
    ).artifact  # fmt: skip
    base = ledger_of(make_store(tmp_path / "toy"))
    ledger = dataclasses.replace(base, ancestors=(*base.ancestors, made))
    (atlas,) = [each for each in datasets(ledger) if each.artifact.name == "atlas"]
    read = mlcroissant.Dataset(jsonld=laid_out(ledger, atlas, tmp_path))
    assert len(list(read.records(record_set="texts"))) == made.facts["kept"]
    assert len(list(read.records(record_set="documents"))) == made.facts["documents"]
