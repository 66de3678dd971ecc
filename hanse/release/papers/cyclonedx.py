"""The ML-BOM in CycloneDX 1.6 (ECMA-424), JSON.

Written as a dictionary: the Python object model of CycloneDX knows neither model cards nor data nor formulation, and
drops them without a word when it writes a document again (issues 911 to 913 of cyclonedx-python-lib). Spec:
cyclonedx.org/docs/1.6/json. What nothing backs is left out.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import hanse
from hanse.release.papers import bill as bills
from hanse.release.papers import curation
from hanse.release.papers.bill import STANDARDS, Bill, Metric
from hanse.release.papers.dataset_facts import DatasetFacts, Part, joint_expression, web_address
from hanse.store import record as records
from hanse.store.stage import Artifact

VERSION = "1.6"
#: Kinds of artifacts whose step is a test to CycloneDX; the others are builds.
_TESTS = ("evaluation", "memorisation")


def cyclonedx(bill: Bill) -> dict[str, Any]:
    """The bill as a dictionary that the strict schema accepts; equal records give an equal document.

    The serial number belongs to the model's digest; a later release of the same weights is a later version of the bill
    where the release's version is a number.
    """
    ledger = bill.ledger
    model = _model(bill)
    number = int(ledger.version) if ledger.version.isascii() and ledger.version.isdigit() else 1
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": VERSION,
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'urn:hanse:model:sha256:{ledger.model.digest}')}",
        "version": max(number, 1),
        "metadata": {
            "timestamp": ledger.made,
            "lifecycles": [{"phase": "build"}],
            "tools": {"components": [{"type": "application", "name": "hanse", "version": hanse.__version__}]},
            **_who(bill),
            "component": model,
            "properties": _properties({"hanse:release": ledger.ref, "hanse:identity": bill.identity}),
        },
        "components": [
            *(_data(bill, facts) for facts in bill.datasets),
            *(_library(name, version) for name, versions in bill.packages.items() for version in versions),
        ],
        "externalReferences": [
            {
                "type": "digital-signature",
                "url": "../model.sig",
                "comment": "OpenSSF Model Signing v1.0 over every file of the release, this one included; key "
                f"fingerprint {ledger.key_fingerprint}",
            }
        ],
        "dependencies": _dependencies(bill),
        "formulation": [_formula(bill)],
    }


def _who(bill: Bill) -> dict[str, Any]:
    if not bill.provider:
        return {}
    return {"authors": [{"name": bill.provider}], "manufacturer": {"name": bill.provider}}


def _model(bill: Bill) -> dict[str, Any]:
    """The released model with its card and its ancestors."""
    ledger = bill.ledger
    ancestors = [_ancestor(step) for step in bill.models if step.ref != ledger.model.ref]
    found: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": ledger.model.ref,
        "name": bill.title,
        "version": ledger.version,
        "description": bills.describe(bill),
        "hashes": _hashes(ledger.model),
        "modelCard": _card(bill),
        "externalReferences": [
            {"type": "model-card", "url": "../README.md"},
            {"type": "quality-metrics", "url": "../evaluation/scores.json"},
            {"type": "attestation", "url": "../provenance/", "comment": "the record of each step"},
        ],
        "properties": _properties(
            {
                "hanse:artifact": ledger.model.ref,
                **{f"hanse:standard:{number}": text for number, text in enumerate(STANDARDS, 1)},
                **{f"hanse:file:{name}": f"sha256:{digest}" for name, digest in _files(ledger.model)},
                **({"hanse:contact": ledger.contact} if ledger.contact else {}),
            }
        ),
    }
    if bill.provider:
        found["supplier"] = {"name": bill.provider}
    if bill.licence:
        found["licenses"] = _licences([bill.licence])
    if ancestors:
        found["pedigree"] = {"ancestors": ancestors}
    return found


def _ancestor(step: Artifact) -> dict[str, Any]:
    return {
        "type": "machine-learning-model",
        "bom-ref": step.ref,
        "name": step.ref,
        "version": step.version,
        "description": bills.training_sentence(step),
        "hashes": _hashes(step),
        "properties": _properties({f"hanse:parameter:{k}": v for k, v in bills.hyperparameters(step).items()}),
    }


def _card(bill: Bill) -> dict[str, Any]:
    ledger, config = bill.ledger, bill.ledger.config
    taken, given = bills.in_and_out(bill)
    parameters: dict[str, Any] = {
        "approach": {"type": "supervised" if ledger.is_chat else "self-supervised"},
        "task": "text generation",
        "datasets": [{"ref": ref} for ref in _all_texts(bill)],
        "inputs": [{"format": taken}],
        "outputs": [{"format": given}],
    }
    if config.get("model_type"):
        parameters["architectureFamily"] = str(config["model_type"])
    if isinstance(config.get("architectures"), list) and config["architectures"]:
        parameters["modelArchitecture"] = str(config["architectures"][0])
    found: dict[str, Any] = {
        "modelParameters": parameters,
        "properties": _properties(
            {
                "hanse:parameters": str(ledger.parameters),
                **(
                    {}
                    if ledger.active_parameters is None
                    else {"hanse:parameters:active": str(ledger.active_parameters)}
                ),
                **{f"hanse:parameter:{k}": v for k, v in bills.hyperparameters(ledger.model).items()},
                **{f"hanse:measured:{k}": v for k, v in bills.measured(ledger.model).items()},
            }
        ),
    }
    if bill.metrics:
        found["quantitativeAnalysis"] = {"performanceMetrics": [_metric(each) for each in bill.metrics]}
    considerations = _considerations(bill)
    return {**found, **({"considerations": considerations} if considerations else {})}


def _metric(metric: Metric) -> dict[str, Any]:
    items = "" if metric.items is None else f", n = {metric.items}"
    found: dict[str, Any] = {"type": metric.name, "value": metric.value, "slice": f"{metric.slice}{items}"}
    if metric.low is not None and metric.high is not None:
        found["confidenceInterval"] = {"lowerBound": metric.low, "upperBound": metric.high}
    return found


def _considerations(bill: Bill) -> dict[str, Any]:
    """Uses that a person named, limits that records show, and energy where a step recorded it."""
    limits, uses = bills.limitations(bill), bills.said(bill, "model.intended_uses")
    found: dict[str, Any] = {"technicalLimitations": limits} if limits else {}
    if uses:
        found["useCases"] = [uses]
    energy = [each for step in bill.models if (each := _energy(step)) is not None]
    if energy:
        found["environmentalConsiderations"] = {"energyConsumptions": energy}
    return found


def _energy(step: Artifact) -> dict[str, Any] | None:
    """The schema wants a provider of the energy; who that was, no record says."""
    energy = bills.energy_kilowatt_hours(step)
    if energy is None:
        return None
    cost, method = {"value": energy, "unit": "kWh"}, str(step.facts.get("energy_method") or "")
    provider = {"organization": {"name": "not recorded"}, "energySource": "unknown", "energyProvided": cost}
    return {
        "activity": "fine-tuning" if bills.is_tuning(step) else "training",
        "energyProviders": [provider],
        "activityEnergyCost": cost,
        "properties": _properties({"hanse:step": step.ref, **({"hanse:energy-method": method} if method else {})}),
    }


def _data(bill: Bill, facts: DatasetFacts) -> dict[str, Any]:
    """A dataset as a component: counts, shares, personal data, whose it is."""
    counts = {facts.texts_are: str(facts.kept.texts), **_numbers(facts.kept)}
    contents = {
        **{f"hanse:{key}": value for key, value in counts.items()},
        **({} if facts.seen is None else {"hanse:seen": str(facts.seen)}),
        **_shares("licence", facts.licences, "NOASSERTION"),
        **_shares("language", facts.languages, "not recorded"),
        **_shares("source", facts.sources, "not recorded"),
        **_shares("collection", facts.collections, "not recorded"),
        **_shares("split", facts.splits, "not recorded"),
        **{f"hanse:dropped:{reason}": str(count) for reason, count in facts.dropped.items()},
    }
    lines = {
        "hanse:curation": curation.preprocessing(facts),
        "hanse:collection": [curation.collected(each) for each in facts.declared],
        "hanse:bias": curation.biases(facts),
        "hanse:limit": bills.unknowns(facts),
        "hanse:use": curation.used_for(bill.ledger, facts),
    }
    data: dict[str, Any] = {
        "type": "dataset",
        "name": facts.artifact.ref,
        "contents": {"properties": [*_properties(contents), *_listed(lines)]},
        "sensitiveData": curation.personal_data(facts),
    }
    governance = _governance(bill, facts)
    if governance:
        data["governance"] = governance
    found: dict[str, Any] = {
        "type": "data",
        "bom-ref": facts.artifact.ref,
        "name": facts.artifact.name,
        "group": facts.artifact.kind,
        "version": facts.artifact.version,
        "description": curation.summary(facts),
        "hashes": _hashes(facts.artifact),
        "licenses": _licences(part.name for part in facts.licences),
        "data": [data],
    }
    addresses = dict.fromkeys(web_address(each.declared.get("url")) for each in facts.declared)
    references = [{"type": "source-distribution", "url": address} for address in addresses if address]
    return {key: value for key, value in {**found, "externalReferences": references}.items() if value}


def _numbers(part: Part) -> dict[str, str]:
    """Bytes and tokens, where they are recorded."""
    return {key: str(value) for key in ("bytes", "tokens") if (value := getattr(part, key)) is not None}


def _shares(column: str, parts: Iterable[Part], unsaid: str) -> dict[str, str]:
    found = {}
    for part in parts:
        name = f"hanse:{column}:{part.name or unsaid}"
        found[f"{name}:texts"] = str(part.texts)
        found |= {f"{name}:{key}": value for key, value in _numbers(part).items()}
    return found


def _governance(bill: Bill, facts: DatasetFacts) -> dict[str, Any]:
    owners = dict.fromkeys(
        str(each.declared["rights_holder"]) for each in facts.declared if each.declared.get("rights_holder")
    )
    found = {"owners": [{"organization": {"name": name}} for name in owners]} if owners else {}
    return {**found, "custodians": [{"organization": {"name": bill.provider}}]} if bill.provider else found


def _licences(names: Iterable[str]) -> list[dict[str, Any]]:
    """One expression where every text came with a licence; else a list of names, for no expression can say "none"."""
    listed = list(dict.fromkeys(names))
    expression = joint_expression(listed)
    if expression is not None:
        return [{"expression": expression, "acknowledgement": "declared"}]
    return [{"license": {"name": name or "NOASSERTION", "acknowledgement": "declared"}} for name in listed]


def _library(name: str, version: str) -> dict[str, Any]:
    found = {"type": "platform" if name == "python" else "library", "bom-ref": _package(name, version)}
    address = bills.package_url(name, version)
    return {**found, "name": name, "version": version, **({"purl": address} if address else {})}


def _package(name: str, version: str) -> str:
    return f"package:{name}@{version}"


def _formula(bill: Bill) -> dict[str, Any]:
    """How the model was made: every step on record, the machines, and what passed between the steps."""
    ledger = bill.ledger
    known = {ledger.model.ref, *(step.ref for step in bill.models), *(facts.artifact.ref for facts in bill.datasets)}
    between = [_between(each) for each in ledger.ancestors if each.ref not in known]
    machines = [{"type": "device", "bom-ref": f"device:{name}", "name": name} for name in bills.devices(bill)]
    steps = sorted(ledger.ancestors, key=lambda each: (bills.metadata_of(each)["finishedOn"], each.ref))
    return {
        "bom-ref": f"formula:{ledger.ref}",
        "components": [*between, *machines],
        "workflows": [
            {
                "bom-ref": f"workflow:{ledger.ref}",
                "uid": bill.identity,
                "name": f"how {ledger.ref} was made",
                "taskTypes": sorted({_task_type(step) for step in steps}),
                "tasks": [_task(step) for step in steps],
                "taskDependencies": [
                    {
                        "ref": f"step:{step.ref}",
                        "dependsOn": sorted({f"step:{ref}" for ref in _inputs(step, ledger.ancestors)}),
                    }
                    for step in steps
                ],
                "timeStart": min(bills.metadata_of(step)["startedOn"] for step in steps),
                "timeEnd": ledger.made,
            }
        ],
    }


def _between(artifact: Artifact) -> dict[str, Any]:
    return {
        "type": "data",
        "bom-ref": artifact.ref,
        "name": artifact.name,
        "group": artifact.kind,
        "version": artifact.version,
        "hashes": _hashes(artifact),
    }


def _task_type(step: Artifact) -> str:
    return "test" if step.kind in _TESTS else "build"


def _task(step: Artifact) -> dict[str, Any]:
    metadata = bills.metadata_of(step)
    inputs: list[dict[str, Any]] = [{"resource": {"ref": each.ref}} for each in records.inputs_of(step.record)]
    parameters = [{"name": key, "value": value} for key, value in bills.hyperparameters(step).items()]
    if parameters:
        inputs.append({"parameters": parameters})
    commit = bills.commit_of(step)
    found = {
        "bom-ref": f"step:{step.ref}",
        "uid": str(metadata["invocationId"]),
        "name": f"make {step.ref}",
        "taskTypes": [_task_type(step)],
        "inputs": inputs,
        "outputs": [{"type": "artifact", "resource": {"ref": step.ref}}],
        "timeStart": metadata["startedOn"],
        "timeEnd": metadata["finishedOn"],
        "properties": _properties(
            {
                **{f"hanse:environment:{key}": value for key, value in bills.environment(step).items()},
                **{f"hanse:measured:{key}": value for key, value in bills.measured(step).items()},
                **({"hanse:commit": commit} if commit else {}),
                "hanse:fingerprint": str(metadata["hanse_fingerprint"]),
            }
        ),
    }
    return {key: value for key, value in found.items() if value}


def _dependencies(bill: Bill) -> list[dict[str, Any]]:
    ledger = bill.ledger
    libraries = [_package(name, version) for name, versions in bill.packages.items() for version in versions]
    found = []
    for step in bill.models:
        own = [*bills.trained_on(ledger, step), *bills.parents(step)]
        found.append(
            {"ref": step.ref, "dependsOn": sorted({*own, *(libraries if step.ref == ledger.model.ref else ())})}
        )
    found += [{"ref": facts.artifact.ref} for facts in bill.datasets]
    return found + [{"ref": library} for library in libraries]


def _all_texts(bill: Bill) -> list[str]:
    """The texts that the model and those it descends from were trained on."""
    return sorted({ref for step in bill.models for ref in bills.trained_on(bill.ledger, step)})


def _inputs(step: Artifact, ancestors: Iterable[Artifact]) -> Iterator[str]:
    known = {each.ref for each in ancestors}
    return (each.ref for each in records.inputs_of(step.record) if each.ref in known)


def _files(artifact: Artifact) -> list[tuple[str, str]]:
    return [(name, digest) for name, digest in records.subjects_of(artifact.record).items() if name != artifact.ref]


def _hashes(artifact: Artifact) -> list[dict[str, str]]:
    """SHA-256 of the artifact's SHA256SUMS, which lists every file."""
    return [{"alg": "SHA-256", "content": artifact.digest}]


def _properties(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": key, "value": value} for key, value in values.items()]


def _listed(values: Mapping[str, Iterable[str]]) -> Iterator[dict[str, str]]:
    """Properties that stand several times, once for each line."""
    return ({"name": key, "value": line} for key, lines in values.items() for line in lines)
