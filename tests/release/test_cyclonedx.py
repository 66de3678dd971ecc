"""The ML-BOM in CycloneDX: what it says, the official strict schema, and where the G7's minimum elements stand."""

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from paper_store import HOSTILE

from hanse.release.papers.bill import bill
from hanse.release.papers.cyclonedx import cyclonedx
from hanse.release.papers.dataset_facts import datasets
from hanse.release.papers.machine import as_json


def document(ledger) -> dict[str, Any]:
    return cyclonedx(bill(ledger, datasets(ledger)))


@pytest.fixture(scope="module")
def found(hostile_ledger) -> dict[str, Any]:
    return document(hostile_ledger)


@pytest.fixture(scope="module")
def answered(answered_ledger) -> dict[str, Any]:
    return document(answered_ledger)


@pytest.fixture(scope="module")
def validator():
    """The official schema, strict, as the reference library carries it; it fetches nothing."""
    validation = pytest.importorskip("cyclonedx.validation.json")
    from cyclonedx.schema import SchemaVersion

    return validation.JsonStrictValidator(SchemaVersion.V1_6)


def properties(where: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["value"] for each in where.get("properties", [])}


def component(found: dict[str, Any], reference: str) -> dict[str, Any]:
    (each,) = [each for each in found["components"] if each.get("bom-ref") == reference]
    return each


def walk(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, each in value.items():
            yield key, each
            yield from walk(each)
    elif isinstance(value, list):
        for each in value:
            yield from walk(each)


@pytest.mark.parametrize("which", ["found", "answered"])
def test_the_official_strict_schema_accepts_it(request, validator, which):
    assert validator.validate_str(as_json(request.getfixturevalue(which)).decode()) is None


def test_the_official_strict_schema_accepts_what_a_release_carries(released, validator):
    assert validator.validate_str((released.path / "papers" / "bom.cdx.json").read_text()) is None


def test_the_official_strict_schema_would_refuse_a_slip(found, validator):
    broken = json.loads(as_json(found))
    broken["metadata"]["component"]["modelCard"]["modelParametres"] = {}
    assert validator.validate_str(json.dumps(broken)) is not None


def test_every_reference_leads_to_one_thing(found):
    named = Counter(value for key, value in walk(found) if key == "bom-ref")
    assert max(named.values()) == 1
    for key, value in walk(found):
        if key in ("ref", "dependsOn"):
            for each in value if isinstance(value, list) else [value]:
                assert each in named, each


def test_the_model_card_says_what_the_records_say(found, hostile_ledger):
    model = found["metadata"]["component"]
    assert model["type"] == "machine-learning-model" and model["hashes"][0]["content"] == hostile_ledger.model.digest
    card = model["modelCard"]
    assert [each["ref"] for each in card["modelParameters"]["datasets"]] == ["conversations/toy/1", "dataset/toy/1"]
    assert card["modelParameters"]["architectureFamily"] == "deepseek_v3"
    assert card["quantitativeAnalysis"]["performanceMetrics"] == [
        {"type": "exact_answer", "value": "0.975", "slice": "da, all, n = 40",
         "confidenceInterval": {"lowerBound": "0.9", "upperBound": "1.0"}},
        {"type": "bits_per_byte", "value": "1.25", "slice": "nb, all, n = 5",
         "confidenceInterval": {"lowerBound": "1.2", "upperBound": "1.3"}},
    ]  # fmt: skip
    (energy,) = card["considerations"]["environmentalConsiderations"]["energyConsumptions"]
    assert energy["activity"] == "training" and energy["activityEnergyCost"] == {"value": 1.5, "unit": "kWh"}
    assert energy["energyProviders"][0]["energySource"] == "unknown"


def test_ancestors_are_its_pedigree(found):
    (base,) = found["metadata"]["component"]["pedigree"]["ancestors"]
    assert base["name"] == "model/toy-base/1"
    assert properties(base)["hanse:parameter:pretrain.learning_rate"] == "0.02"


def test_datasets_say_how_much_whose_and_what_was_found(found):
    dataset = component(found, "dataset/toy/1")
    assert dataset["type"] == "data"
    assert {"license": {"name": "NOASSERTION", "acknowledgement": "declared"}} in dataset["licenses"]
    (data,) = dataset["data"]
    told = properties(data["contents"])
    assert told["hanse:licence:CC0-1.0:bytes"] == "550" and told["hanse:licence:CC0-1.0:tokens"] == "110"
    assert told["hanse:dropped:near-duplicate"] == "1" and told["hanse:seen"] == "8"
    assert {owner["organization"]["name"] for owner in data["governance"]["owners"]} == {'Library "of" <b>Riga</b>'}
    assert "masked: email 2, iban 1" in data["sensitiveData"][0]
    assert component(found, "conversations/toy/1")["licenses"] == [{"expression": "MIT", "acknowledgement": "declared"}]


def test_no_hostile_address_is_a_link(found):
    links = [value for key, value in walk(found) if key == "url"]
    assert "https://laws.example/eu" in links and not any("javascript" in str(link) for link in links)
    assert any(HOSTILE in str(value) for _, value in walk(found))  # it is there, as a name


def test_the_formulation_is_every_step_in_its_order(found, hostile_ledger):
    (workflow,) = found["formulation"][0]["workflows"]
    made = [task["outputs"][0]["resource"]["ref"] for task in workflow["tasks"]]
    assert sorted(made) == [each.ref for each in hostile_ledger.ancestors]
    depends = {each["ref"]: each["dependsOn"] for each in workflow["taskDependencies"]}
    assert depends["step:model/toy-chat/1"] == ["step:conversations/toy/1", "step:model/toy-base/1"]
    (base,) = [task for task in workflow["tasks"] if task["bom-ref"] == "step:model/toy-base/1"]
    assert properties(base)["hanse:environment:runtime.device_name"] == "H100"
    assert {"test", "build"} == set(workflow["taskTypes"])


def test_equal_records_give_equal_bytes_and_the_serial_number_is_the_models(hostile_ledger, found, answered):
    assert as_json(document(hostile_ledger)) == as_json(found)
    assert found["serialNumber"] == answered["serialNumber"]
    later = document(dataclasses.replace(hostile_ledger, version="7"))
    assert later["serialNumber"] == found["serialNumber"] and (found["version"], later["version"]) == (1, 7)
    assert document(dataclasses.replace(hostile_ledger, version="2026.11"))["version"] == 1
    other = dataclasses.replace(hostile_ledger, model=hostile_ledger.of_kind("model")[0])
    assert document(other)["serialNumber"] != found["serialNumber"]


def _model(found: dict[str, Any]) -> dict[str, Any]:
    return found["metadata"]["component"]


def _data(found: dict[str, Any]) -> dict[str, Any]:
    return component(found, "dataset/toy/1")


def _inside(found: dict[str, Any]) -> dict[str, Any]:
    return _data(found)["data"][0]


def _parameters(found: dict[str, Any]) -> dict[str, Any]:
    return _model(found)["modelCard"]["modelParameters"]


def _workflow(found: dict[str, Any]) -> dict[str, Any]:
    return found["formulation"][0]["workflows"][0]


NOT_RECORDED = None
#: The fifty elements that test_spdx.py lists too (G7, 12 May 2026), and where each stands in CycloneDX.
ELEMENTS: dict[str, Callable[[dict[str, Any]], Any] | None] = {
    "metadata: SBOM author": lambda found: found["metadata"]["authors"] == [{"name": "Lab"}],
    "metadata: SBOM version": lambda found: found["version"] == 1,
    "metadata: SBOM data format name": lambda found: found["bomFormat"] == "CycloneDX",
    "metadata: SBOM data format version": lambda found: found["specVersion"] == "1.6",
    "metadata: SBOM author signature": lambda found: found["externalReferences"][0]["type"] == "digital-signature",
    "metadata: SBOM tool name": lambda found: found["metadata"]["tools"]["components"][0]["name"] == "hanse",
    "metadata: SBOM tool version": lambda found: found["metadata"]["tools"]["components"][0]["version"],
    "metadata: SBOM generation context": lambda found: found["metadata"]["lifecycles"] == [{"phase": "build"}],
    "metadata: SBOM timestamp": lambda found: found["metadata"]["timestamp"],
    "metadata: SBOM dependency relationship": lambda found: found["dependencies"],
    "system: name": lambda found: _model(found)["name"] == 'Toy: "the" model',
    "system: components": lambda found: len(found["components"]) > 2,
    "system: producer": lambda found: found["metadata"]["manufacturer"] == {"name": "Lab"},
    "system: version": lambda found: properties(found["metadata"])["hanse:release"] == "release/toy/1",
    "system: timestamp": lambda found: _workflow(found)["timeEnd"],
    "system: data flow": lambda found: _workflow(found)["taskDependencies"],
    "system: data usage": lambda found: any(key == "hanse:use" for key in properties(_inside(found)["contents"])),
    "system: input and output properties": lambda found: _parameters(found)["inputs"][0]["format"].startswith("text"),
    "system: intended application area": lambda found: (
        _model(found)["modelCard"]["considerations"]["useCases"] == ["play"]
    ),
    "models: name": lambda found: _model(found)["name"],
    "models: identifier": lambda found: _model(found)["bom-ref"] == "model/toy-chat/1",
    "models: version": lambda found: _model(found)["version"] == "1",
    "models: timestamp": lambda found: _workflow(found)["tasks"][-1]["timeEnd"],
    "models: producer": lambda found: _model(found)["supplier"] == {"name": "Lab"},
    "models: description": lambda found: "1,234 parameters" in _model(found)["description"],
    "models: hash value": lambda found: _model(found)["hashes"][0]["content"],
    "models: hash algorithm": lambda found: _model(found)["hashes"][0]["alg"] == "SHA-256",
    "models: properties": lambda found: _parameters(found)["modelArchitecture"] == "DeepseekV3ForCausalLM",
    "models: input and output properties": lambda found: _parameters(found)["outputs"],
    "models: training properties": lambda found: "hanse:measured:tokens" in properties(_model(found)["modelCard"]),
    "models: licence": lambda found: _model(found)["licenses"][0]["expression"] == "Apache-2.0",
    "models: external references": lambda found: _model(found)["externalReferences"],
    "datasets: name": lambda found: _data(found)["name"] == "toy",
    "datasets: description": lambda found: "1,000 bytes" in _data(found)["description"],
    "datasets: content": lambda found: _inside(found)["type"] == "dataset",
    "datasets: identifier": lambda found: _data(found)["bom-ref"],
    "datasets: hash": lambda found: _data(found)["hashes"],
    "datasets: provenance": lambda found: "hanse:collection" in properties(_inside(found)["contents"]),
    "datasets: statistical properties": lambda found: (
        "hanse:language:da:bytes" in properties(_inside(found)["contents"])
    ),
    "datasets: sensitivity": lambda found: _inside(found)["sensitiveData"],
    "datasets: dependency relationship": lambda found: _parameters(found)["datasets"],
    "datasets: licence": lambda found: _data(found)["licenses"],
    "infrastructure: software": lambda found: any(each["type"] == "library" for each in found["components"]),
    "infrastructure: hardware": lambda found: "device:H100" in json.dumps(found["formulation"]),
    "security: controls": NOT_RECORDED,
    "security: compliance": NOT_RECORDED,
    "security: cybersecurity policy": NOT_RECORDED,
    "security: vulnerability referencing": NOT_RECORDED,
    "indicators: security metrics": NOT_RECORDED,
    "indicators: operational performance": lambda found: _model(found)["modelCard"]["quantitativeAnalysis"],
}


def test_all_fifty_minimum_elements_are_listed():
    assert len(ELEMENTS) == 50


@pytest.mark.parametrize("element", [name for name, where in ELEMENTS.items() if where is not NOT_RECORDED])
def test_a_minimum_element_stands_where_it_should(answered, element):
    where = ELEMENTS[element]
    assert where is not None and where(answered)


def test_what_no_record_backs_is_not_there(found):
    for absent in (
        "supplier",
        "manufacturer",
        "authors",
        "useCases",
        "vulnerabilities",
        "custodians",
        "co2CostEquivalent",
    ):
        assert absent not in [key for key, _ in walk(found)], absent
