"""The AI-BOM in SPDX 3: what it says, that its own model reads it back, and where the G7's minimum elements stand."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from paper_store import HOSTILE

from hanse.release.papers.bill import bill
from hanse.release.papers.dataset_facts import datasets
from hanse.release.papers.machine import as_json
from hanse.release.papers.spdx import spdx


def document(ledger) -> dict[str, Any]:
    return spdx(bill(ledger, datasets(ledger)))


@pytest.fixture(scope="module")
def found(hostile_ledger) -> dict[str, Any]:
    return document(hostile_ledger)


@pytest.fixture(scope="module")
def answered(answered_ledger) -> dict[str, Any]:
    return document(answered_ledger)


def of_type(found: dict[str, Any], kind: str) -> dict[str, dict[str, Any]]:
    return {each.get("name", each.get("spdxId")): each for each in found["@graph"] if each["type"] == kind}


def related(found: dict[str, Any], kind: str) -> dict[str, list[str]]:
    """Name -> names it stands in a relationship to."""
    names = {each["spdxId"]: each.get("name", each["spdxId"]) for each in found["@graph"] if "spdxId" in each}
    return {
        names[each["from"]]: [names.get(target, target) for target in each["to"]]
        for each in found["@graph"]
        if each.get("relationshipType") == kind
    }


def test_its_own_model_reads_it_back_whole(found):
    from spdx_python_model import v3_0_1 as model

    read = model.SHACLObjectSet()
    model.JSONLDDeserializer().read(io.BytesIO(as_json(found)), read)
    assert not read.link()  # every reference leads somewhere
    again = model.JSONLDSerializer().serialize_data(read, force_at_graph=True)
    by_id = {each.get("spdxId"): each for each in again["@graph"]}
    assert len(again["@graph"]) == len(found["@graph"])
    for each in found["@graph"]:
        if "spdxId" in each:
            assert json.dumps(by_id[each["spdxId"]], sort_keys=True) == json.dumps(each, sort_keys=True)


def test_its_own_model_reads_what_a_release_carries(released):
    from spdx_python_model import v3_0_1 as model

    read = model.SHACLObjectSet()
    model.JSONLDDeserializer().read(io.BytesIO((released.path / "papers" / "sbom.spdx.json").read_bytes()), read)
    assert not read.link()
    assert len(list(read.foreach_type("ai_AIPackage"))) == 2


def test_its_own_model_refuses_it_with_a_required_property_gone(found):
    from spdx_python_model import v3_0_1 as model

    broken = json.loads(as_json(found))
    (dataset,) = [each for each in broken["@graph"] if each.get("name") == "dataset/toy/1"]
    del dataset["dataset_datasetType"]
    read = model.SHACLObjectSet()
    model.JSONLDDeserializer().read(io.BytesIO(json.dumps(broken).encode()), read)
    with pytest.raises(ValueError, match="datasetType"):
        model.JSONLDSerializer().serialize_data(read, force_at_graph=True)


def test_models_descend_from_models_and_were_trained_on_texts(found):
    assert related(found, "trainedOn") == {
        "model/toy-base/1": ["dataset/toy/1"], "model/toy-chat/1": ["conversations/toy/1"],
    }  # fmt: skip
    assert related(found, "testedOn") == {"model/toy-chat/1": ["conversations/toy/1", "dataset/toy/1"]}
    descent = related(found, "descendantOf")
    assert descent["model/toy-chat/1"] == ["model/toy-base/1"]
    assert descent["dataset/toy/1"] == [HOSTILE, "laws", "atlas"]


def test_the_model_says_what_the_records_say(found, hostile_ledger):
    model = of_type(found, "ai_AIPackage")["model/toy-chat/1"]
    assert model["verifiedUsing"][0]["hashValue"] == hostile_ledger.model.digest
    metrics = {each["key"]: each["value"] for each in model["ai_metric"]}
    assert metrics == {
        "exact_answer; da, all": "0.975 (95 % interval 0.9 to 1.0), n = 40",
        "bits_per_byte; nb, all": "1.25 (95 % interval 1.2 to 1.3), n = 5",
    }
    base = of_type(found, "ai_AIPackage")["model/toy-base/1"]
    assert {each["key"]: each["value"] for each in base["ai_hyperparameter"]} == {
        "pretrain.learning_rate": "0.02", "pretrain.optimizer": "muon",
    }  # fmt: skip
    (energy,) = base["ai_energyConsumption"]["ai_trainingEnergyConsumption"]
    assert energy["ai_energyQuantity"] == "1.5" and energy["ai_energyUnit"] == "kilowattHour"
    assert "ai_energyConsumption" not in model and "suppliedBy" not in model and "ai_domain" not in model


def test_datasets_say_how_much_whose_and_how_personal_data_was_treated(found):
    dataset = of_type(found, "dataset_DatasetPackage")["dataset/toy/1"]
    assert dataset["dataset_datasetSize"] == 6
    assert "masked: email 2, iban 1" in dataset["dataset_anonymizationMethodUsed"][0]
    assert dataset["dataset_hasSensitivePersonalInformation"] == "noAssertion"
    assert "synthetic: 1.0 % of the bytes" in dataset["dataset_knownBias"]
    assert "software_homePage" not in of_type(found, "dataset_DatasetPackage")[HOSTILE]
    assert of_type(found, "dataset_DatasetPackage")["laws"]["software_homePage"] == "https://laws.example/eu"


def test_licences_are_declared_once_each_and_nobody_concludes_more(found):
    packages = {*of_type(found, "ai_AIPackage"), *of_type(found, "dataset_DatasetPackage")}
    declared, concluded = related(found, "hasDeclaredLicense"), related(found, "hasConcludedLicense")
    assert declared.keys() == concluded.keys() == packages
    assert all(target == ["expandedlicensing_NoAssertionLicense"] for target in concluded.values())
    assert declared["dataset/toy/1"] == ["expandedlicensing_NoAssertionLicense"]  # one text came without
    expressions = {each["spdxId"]: each["simplelicensing_licenseExpression"] for each in found["@graph"]
                   if each["type"] == "simplelicensing_LicenseExpression"}  # fmt: skip
    assert expressions[declared["model/toy-chat/1"][0]] == "Apache-2.0"
    assert expressions[declared["conversations/toy/1"][0]] == "MIT"


def test_software_of_the_run_is_what_the_records_name(found, hostile_ledger):
    told = hostile_ledger.model.record["predicate"]["buildDefinition"]["internalParameters"]["packages"]
    packages = {n: e["software_packageVersion"] for n, e in of_type(found, "software_Package").items() if n in told}
    assert packages == told
    torch = of_type(found, "software_Package")["numpy"]
    assert torch["software_packageUrl"] == f"pkg:pypi/numpy@{told['numpy'].replace('+', '%2B')}"
    build = of_type(found, "build_Build")["the step that made model/toy-base/1"]
    assert {"key": "runtime.device_name", "type": "DictionaryEntry", "value": "H100"} in build["build_environment"]


def test_equal_records_give_equal_bytes_in_another_process(hostile_store, found):
    program = (
        "import sys; sys.path.insert(0, sys.argv[2]);"
        "from pathlib import Path; from hanse.store.stage import Store; from paper_store import ledger_of;"
        "from hanse.release.papers.bill import bill; from hanse.release.papers.dataset_facts import datasets;"
        "from hanse.release.papers.spdx import spdx; from hanse.release.papers.machine import as_json;"
        "ledger = ledger_of(Store.open(Path(sys.argv[1])));"
        "sys.stdout.buffer.write(as_json(spdx(bill(ledger, datasets(ledger)))))"
    )
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", program, str(hostile_store.root), str(Path(__file__).parent)],
            capture_output=True, check=True, env={**os.environ, "PYTHONHASHSEED": seed},
        )  # fmt: skip
        assert done.stdout == as_json(found)


def test_other_answers_make_other_identifiers(found, answered):
    ids = [{each["spdxId"] for each in one["@graph"] if "spdxId" in each} for one in (found, answered)]
    assert not ids[0] & ids[1]


def _model(found: dict[str, Any]) -> dict[str, Any]:
    return of_type(found, "ai_AIPackage")["model/toy-chat/1"]


def _dataset(found: dict[str, Any]) -> dict[str, Any]:
    return of_type(found, "dataset_DatasetPackage")["dataset/toy/1"]


def _document(found: dict[str, Any]) -> dict[str, Any]:
    (each,) = [each for each in found["@graph"] if each["type"] == "SpdxDocument"]
    return each


def _creation(found: dict[str, Any]) -> dict[str, Any]:
    (each,) = [each for each in found["@graph"] if each["type"] == "CreationInfo"]
    return each


def _sbom(found: dict[str, Any]) -> dict[str, Any]:
    (each,) = [each for each in found["@graph"] if each["type"] == "software_Sbom"]
    return each


NOT_RECORDED = None
#: "Software Bill of Materials for AI - Minimum Elements", G7 Cybersecurity Working Group, 12 May 2026: fifty elements
#: in seven clusters, and where each stands here; "not recorded" where no record of ours can back it.
ELEMENTS: dict[str, Callable[[dict[str, Any]], Any] | None] = {
    "metadata: SBOM author": lambda found: _creation(found)["createdBy"],
    "metadata: SBOM version": lambda found: _model(found)["comment"].startswith("Release release/toy/1"),
    "metadata: SBOM data format name": lambda found: "spdx" in found["@context"],
    "metadata: SBOM data format version": lambda found: _creation(found)["specVersion"] == "3.0.1",
    "metadata: SBOM author signature": lambda found: "model.sig" in _document(found)["comment"],
    "metadata: SBOM tool name": lambda found: _creation(found)["createdUsing"] and of_type(found, "Tool"),
    "metadata: SBOM tool version": lambda found: next(iter(of_type(found, "Tool"))).startswith("hanse "),
    "metadata: SBOM generation context": lambda found: _sbom(found)["software_sbomType"] == ["build"],
    "metadata: SBOM timestamp": lambda found: _creation(found)["created"],
    "metadata: SBOM dependency relationship": lambda found: related(found, "dependsOn")["model/toy-chat/1"],
    "system: name": lambda found: _model(found)["summary"] == 'Toy: "the" model',
    "system: components": lambda found: related(found, "contains")["model/toy-chat/1"],
    "system: producer": lambda found: _model(found)["suppliedBy"],
    "system: version": lambda found: "release/toy/1" in _document(found)["name"],
    "system: timestamp": lambda found: _model(found)["releaseTime"],
    "system: data flow": lambda found: related(found, "hasInput") and related(found, "hasOutput"),
    "system: data usage": lambda found: _model(found)["ai_useSensitivePersonalInformation"],
    "system: input and output properties": lambda found: (
        "Input: text" in _model(found)["ai_informationAboutApplication"]
    ),
    "system: intended application area": lambda found: _model(found)["ai_domain"] == ["play"],
    "models: name": lambda found: _model(found)["name"],
    "models: identifier": lambda found: _model(found)["spdxId"],
    "models: version": lambda found: _model(found)["software_packageVersion"] == "1",
    "models: timestamp": lambda found: _model(found)["builtTime"],
    "models: producer": lambda found: _model(found)["suppliedBy"],
    "models: description": lambda found: "1,234 parameters" in _model(found)["description"],
    "models: hash value": lambda found: _model(found)["verifiedUsing"][0]["hashValue"],
    "models: hash algorithm": lambda found: _model(found)["verifiedUsing"][0]["algorithm"] == "sha256",
    "models: properties": lambda found: _model(found)["ai_typeOfModel"] and _model(found)["ai_limitation"],
    "models: input and output properties": lambda found: (
        "Output: text" in _model(found)["ai_informationAboutApplication"]
    ),
    "models: training properties": lambda found: (
        _model(found)["ai_hyperparameter"] and _model(found)["ai_informationAboutTraining"]
    ),
    "models: licence": lambda found: related(found, "hasDeclaredLicense")["model/toy-chat/1"],
    "models: external references": lambda found: len(_model(found)["externalRef"]) == 4,
    "datasets: name": lambda found: _dataset(found)["name"],
    "datasets: description": lambda found: "1,000 bytes" in _dataset(found)["description"],
    "datasets: content": lambda found: _dataset(found)["dataset_datasetType"] == ["text"],
    "datasets: identifier": lambda found: _dataset(found)["spdxId"],
    "datasets: hash": lambda found: _dataset(found)["verifiedUsing"],
    "datasets: provenance": lambda found: "HanseBot" in _dataset(found)["dataset_dataCollectionProcess"],
    "datasets: statistical properties": lambda found: (
        _dataset(found)["dataset_datasetSize"] and _dataset(found)["dataset_knownBias"]
    ),
    "datasets: sensitivity": lambda found: _dataset(found)["dataset_anonymizationMethodUsed"],
    "datasets: dependency relationship": lambda found: related(found, "trainedOn")["model/toy-base/1"],
    "datasets: licence": lambda found: "dataset/toy/1" in related(found, "hasDeclaredLicense"),
    "infrastructure: software": lambda found: related(found, "usesTool"),
    "infrastructure: hardware": lambda found: "H100" in json.dumps(of_type(found, "build_Build")),
    "security: controls": NOT_RECORDED,
    "security: compliance": NOT_RECORDED,
    "security: cybersecurity policy": NOT_RECORDED,
    "security: vulnerability referencing": NOT_RECORDED,
    "indicators: security metrics": NOT_RECORDED,
    "indicators: operational performance": lambda found: _model(found)["ai_metric"],
}


def test_all_fifty_minimum_elements_are_listed():
    assert len(ELEMENTS) == 50
    clusters = [name.split(":")[0] for name in ELEMENTS]
    assert [clusters.count(each) for each in dict.fromkeys(clusters)] == [10, 9, 13, 10, 2, 4, 2]


@pytest.mark.parametrize("element", [name for name, where in ELEMENTS.items() if where is not NOT_RECORDED])
def test_a_minimum_element_stands_where_it_should(answered, element):
    where = ELEMENTS[element]
    assert where is not None and where(answered)


def test_what_no_record_backs_is_not_there(found):
    """Nobody answered, nobody measured: no supplier, no release date, no application area, no word on security."""
    text = json.dumps(found)
    for absent in ("suppliedBy", "releaseTime", "ai_domain", "ai_safetyRiskAssessment", "security_", "vulnerab"):
        assert absent not in text, absent
