"""The AI-BOM in SPDX 3.0.1 (AI, Dataset, Build and Software profiles), JSON-LD.

Elements are made with the typed bindings of spdx-python-model, which refuse a document in which a required property
is missing. Spec: spdx.github.io/spdx-spec/v3.0.1. Where SPDX has a word for "not said" and nothing is recorded, that
word stands (NoAssertion); else the property is left out. SPDX 3.0.1 knows no hardware: machines stand in the
environment of each build.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

import hanse
from hanse.release.ledger import SourceRecord
from hanse.release.papers import bill as bills
from hanse.release.papers import curation
from hanse.release.papers.bill import STANDARDS, Bill, Metric
from hanse.release.papers.dataset_facts import DatasetFacts, joint_expression, percent, web_address
from hanse.store import record as records
from hanse.store.stage import Artifact

VERSION = "3.0.1"
CONTEXT = f"https://spdx.org/rdf/{VERSION}/spdx-context.jsonld"
NO_LICENCE = f"https://spdx.org/rdf/{VERSION}/terms/ExpandedLicensing/NoAssertionLicense"
#: What an artifact that is neither a model nor a text is to the software profile.
_PURPOSES = {"tokenizer": "model", "shards": "data", "evaluation": "test", "memorisation": "test"}


def spdx(bill: Bill) -> dict[str, Any]:
    """The bill as JSON-LD; equal records give an equal document, identifiers included."""
    return _Document(bill).data()


class _Document:
    """The elements of one document, and the creation information that all of them share."""

    def __init__(self, bill: Bill) -> None:
        from spdx_python_model import v3_0_1 as model

        self.bill = bill
        self.model = model
        self.elements: dict[str, Any] = {}
        self.created = model.CreationInfo(specVersion=VERSION, created=_moment(bill.ledger.made))
        self.created.set_id("_:creation")
        self.tool = self.add("tool", model.Tool, name=f"hanse {hanse.__version__}")
        self.agent = (
            self.agent_called(bill.provider)
            if bill.provider
            else self.add("agent", model.SoftwareAgent, name=f"hanse {hanse.__version__}")
        )
        self.created.createdBy = [self.agent]
        self.created.createdUsing = [self.tool]

    def data(self) -> dict[str, Any]:
        """Everything as JSON-LD, in the order of the identifiers, so that the bytes are the same each time."""
        for artifact in self.bill.ledger.ancestors:
            self._artifact(artifact)
        packages = self._packages()
        for artifact in self.bill.ledger.ancestors:
            self._step(artifact, packages)
        self._descent(packages)
        self._collections()
        serialised = self.model.JSONLDSerializer().serialize_data(
            self.model.SHACLObjectSet([*self.elements.values(), self.created]), force_at_graph=True
        )
        graph = sorted(serialised["@graph"], key=lambda each: str(each.get("spdxId") or each.get("@id")))
        return {"@context": CONTEXT, "@graph": [_sorted(each) for each in graph]}

    def identifier(self, part: str) -> str:
        """An IRI for a part of this bill."""
        return f"urn:hanse:bill:{self.bill.identity[:32]}:{quote(part, safe='/:.-_')}"

    def add(self, part: str, kind: Any, **properties: Any) -> Any:
        """A new element, or the one that has this identifier already."""
        identifier = self.identifier(part)
        if identifier not in self.elements:
            given = {key: value for key, value in properties.items() if value not in (None, "", [])}
            self.elements[identifier] = kind(spdxId=identifier, creationInfo=self.created, **given)
        return self.elements[identifier]

    def relate(self, kind: str, source: Any, targets: Iterable[Any], **properties: Any) -> None:
        """`source` kind `targets`; nothing where there are none."""
        found = list(targets)
        if found:
            cls = self.model.LifecycleScopedRelationship if "scope" in properties else self.model.Relationship
            name = source.get_id().split(":", 4)[4]  # urn:hanse:bill:IDENTITY:name
            self.add(
                f"{kind}/{name}",
                cls,
                relationshipType=getattr(self.model.RelationshipType, kind),
                from_=source,
                to=found,
                **properties,
            )

    def agent_called(self, name: str) -> Any:
        """Who somebody is, by name; whether a person or an organisation, no record says."""
        return self.add(f"agent/{_short(name)}", self.model.Agent, name=name)

    def _hash(self, digest: str, comment: str = "") -> Any:
        found = self.model.Hash(algorithm=self.model.HashAlgorithm.sha256, hashValue=digest)
        if comment:
            found.comment = comment
        return found

    def _entry(self, key: str, value: str) -> Any:
        return self.model.DictionaryEntry(key=key, value=value)

    def _entries(self, values: Mapping[str, str]) -> list[Any]:
        return [self._entry(key, values[key]) for key in sorted(values)]

    def _licence(self, element: Any, declared: str | None, comment: str = "") -> None:
        """What is declared, and that nobody concluded anything beyond it; each exactly once, as the profiles ask."""
        expression: Any = NO_LICENCE
        if declared:
            expression = self.add(
                f"licence/{_short(declared)}",
                self.model.simplelicensing_LicenseExpression,
                simplelicensing_licenseExpression=declared,
            )
        self.relate("hasDeclaredLicense", element, [expression], comment=comment)
        self.relate("hasConcludedLicense", element, [NO_LICENCE])

    def _artifact(self, artifact: Artifact) -> Any:
        """An ancestor as an element, with its digest; a second call gives the same one."""
        identifier = self.identifier(artifact.ref)
        if identifier in self.elements:
            return self.elements[identifier]
        common = {
            "name": artifact.ref,
            "software_packageVersion": artifact.version,
            "builtTime": _moment(bills.metadata_of(artifact)["finishedOn"]),
            "verifiedUsing": [self._hash(artifact.digest, "SHA-256 of SHA256SUMS, which lists every file")],
        }
        if artifact.kind == "model":
            return self._model(artifact, common)
        facts = next((each for each in self.bill.datasets if each.artifact.ref == artifact.ref), None)
        if facts is not None:
            return self._dataset(facts, common)
        purpose = getattr(self.model.software_SoftwarePurpose, _PURPOSES.get(artifact.kind, "other"))
        return self.add(artifact.ref, self.model.software_Package, software_primaryPurpose=purpose, **common)

    def _model(self, artifact: Artifact, common: Mapping[str, Any]) -> Any:
        model, bill = self.model, self.bill
        is_released = artifact.ref == bill.ledger.model.ref
        properties: dict[str, Any] = {
            **common,
            "software_primaryPurpose": model.software_SoftwarePurpose.model,
            "ai_typeOfModel": _known([bills.family(bill, artifact), "transformer language model"]),
            "ai_hyperparameter": self._entries(bills.hyperparameters(artifact)),
            "ai_informationAboutTraining": bills.training_sentence(artifact),
            "ai_energyConsumption": self._energy(artifact),
            "ai_useSensitivePersonalInformation": model.PresenceType.noAssertion,
            "ai_autonomyType": model.PresenceType.noAssertion,
            "suppliedBy": self.agent_called(bill.provider) if bill.provider else None,
        }
        if is_released:
            taken, given = bills.in_and_out(bill)
            released = bills.said(bill, "model.release_date")
            properties |= {
                "description": bills.describe(bill),
                "summary": bill.title,
                "comment": self._notes(),
                "releaseTime": _moment(f"{released}T00:00:00Z") if released else None,
                "ai_domain": _known([bills.said(bill, "model.intended_uses")]),
                "ai_limitation": " ".join(bills.limitations(bill)),
                "ai_informationAboutApplication": f"Input: {taken}. Output: {given}.",
                "ai_metric": [self._metric(each) for each in bill.metrics],
                "ai_modelDataPreprocessing": [
                    line for facts in bill.datasets for line in curation.preprocessing(facts)
                ],
                "ai_standardCompliance": list(STANDARDS),
                "externalRef": self._references(),
            }
        element = self.add(artifact.ref, model.ai_AIPackage, **properties)
        self._licence(element, joint_expression([bill.licence]) if is_released else None)
        self.relate("contains", element, [self._file(artifact, *each) for each in _weights(artifact)])
        return element

    def _notes(self) -> str:
        ledger = self.bill.ledger
        parts = [f"Release {ledger.ref}.", f"Contact: {ledger.contact}." if ledger.contact else ""]
        if ledger.predecessor is not None:
            parts.append(f"Follows {ledger.predecessor.ref}.")
        return " ".join(part for part in parts if part)

    def _metric(self, metric: Metric) -> Any:
        value = metric.value
        if metric.low is not None and metric.high is not None:
            value += f" (95 % interval {metric.low} to {metric.high})"
        if metric.items is not None:
            value += f", n = {metric.items}"
        return self._entry(f"{metric.name}; {metric.slice}", value)

    def _energy(self, step: Artifact) -> Any:
        energy = bills.energy_kilowatt_hours(step)
        if energy is None:
            return None
        told = self.model.ai_EnergyConsumptionDescription(
            ai_energyQuantity=energy, ai_energyUnit=self.model.ai_EnergyUnitType.kilowattHour
        )
        key = "ai_finetuningEnergyConsumption" if bills.is_tuning(step) else "ai_trainingEnergyConsumption"
        return self.model.ai_EnergyConsumption(**{key: [told]})

    def _references(self) -> list[Any]:
        kinds = self.model.ExternalRefType
        return [
            self.model.ExternalRef(externalRefType=kind, locator=[locator], comment=comment)
            for kind, locator, comment in (
                (kinds.documentation, "../README.md", "model card"),
                (kinds.metrics, "../evaluation/scores.json", "every score"),
                (kinds.buildMeta, "../provenance/", "the record of each step"),
                (kinds.secureSoftwareAttestation, "../model.sig", "signature over every file of the release"),
            )
        ]

    def _file(self, artifact: Artifact, path: str, digest: str) -> Any:
        return self.add(
            f"{artifact.ref}/{path}", self.model.software_File, name=path, verifiedUsing=[self._hash(digest)]
        )

    def _dataset(self, facts: DatasetFacts, common: Mapping[str, Any]) -> Any:
        model = self.model
        shares = "; ".join(
            f"{part.name or 'NOASSERTION'} {percent(facts.share(part))} of the bytes" for part in facts.licences
        )
        element = self.add(
            facts.artifact.ref,
            model.dataset_DatasetPackage,
            **common,
            description=curation.summary(facts),
            comment=" ".join([*curation.personal_data(facts), *bills.unknowns(facts)]),
            software_primaryPurpose=model.software_SoftwarePurpose.data,
            dataset_datasetType=[model.dataset_DatasetType.text],
            dataset_datasetSize=facts.kept.texts,
            dataset_dataCollectionProcess=" ".join(map(curation.collected, facts.declared)),
            dataset_dataPreprocessing=curation.preprocessing(facts),
            dataset_knownBias=curation.biases(facts),
            dataset_anonymizationMethodUsed=curation.anonymised(facts),
            dataset_hasSensitivePersonalInformation=model.PresenceType.noAssertion,
            dataset_intendedUse=" ".join(curation.used_for(self.bill.ledger, facts)),
            originatedBy=[self.agent_called(self.bill.provider)] if self.bill.provider else None,
        )
        self._licence(element, joint_expression(part.name for part in facts.licences), shares)
        self.relate("descendantOf", element, [self._source(each) for each in facts.declared])
        return element

    def _source(self, source: SourceRecord) -> Any:
        told, model = source.declared, self.model
        address = web_address(told.get("url"))
        element = self.add(
            f"source/{source.artifact.ref}/{source.number}",
            model.dataset_DatasetPackage,
            name=source.name,
            software_packageVersion=str(told.get("revision") or ""),
            software_homePage=address,
            software_primaryPurpose=model.software_SoftwarePurpose.data,
            dataset_datasetType=[model.dataset_DatasetType.text],
            dataset_dataCollectionProcess=curation.collected(source),
            dataset_hasSensitivePersonalInformation=model.PresenceType.noAssertion,
            originatedBy=[self.agent_called(str(told["rights_holder"]))] if told.get("rights_holder") else None,
        )
        licence = told.get("licence")
        self._licence(element, joint_expression([licence]) if isinstance(licence, str) and licence else None)
        return element

    def _packages(self) -> list[Any]:
        return [
            self.add(
                f"package/{name}/{version}",
                self.model.software_Package,
                name=name,
                software_packageVersion=version,
                software_packageUrl=bills.package_url(name, version),
                software_primaryPurpose=self.model.software_SoftwarePurpose.library,
            )
            for name, versions in self.bill.packages.items()
            for version in versions
        ]

    def _step(self, artifact: Artifact, packages: list[Any]) -> None:
        """The step that made an ancestor: when, where, from what."""
        metadata = bills.metadata_of(artifact)
        commit = bills.commit_of(artifact)
        build = self.add(
            f"build/{artifact.ref}",
            self.model.build_Build,
            name=f"the step that made {artifact.ref}",
            build_buildType=artifact.record["predicate"]["buildDefinition"]["buildType"],
            build_buildId=str(metadata["invocationId"]),
            build_buildStartTime=_moment(metadata["startedOn"]),
            build_buildEndTime=_moment(metadata["finishedOn"]),
            build_parameter=self._entries(bills.hyperparameters(artifact)),
            build_environment=self._entries(bills.environment(artifact)),
            build_configSourceDigest=[self._hash(str(metadata["hanse_fingerprint"]), "definition and inputs")],
            comment=" ".join(
                [
                    f"Code: hanse at commit {commit}." if commit else "",
                    f"Noted: {json.dumps(bills.measured(artifact), sort_keys=True)}."
                    if bills.measured(artifact)
                    else "",
                ]
            ).strip(),
        )
        found = [self.elements.get(self.identifier(each.ref)) for each in records.inputs_of(artifact.record)]
        self.relate("hasInput", build, [each for each in found if each is not None], scope=self._build_scope())
        self.relate("hasOutput", build, [self._artifact(artifact)], scope=self._build_scope())
        where = artifact.record["predicate"]["buildDefinition"].get("internalParameters", {})
        used = {(name, str(version)) for name, version in where.get("packages", {}).items()}
        tools = [each for each in packages if (each.name, each.software_packageVersion) in used]
        self.relate("usesTool", build, tools, scope=self._build_scope())

    def _build_scope(self) -> Any:
        return self.model.LifecycleScopeType.build

    def _descent(self, packages: list[Any]) -> None:
        ledger = self.bill.ledger
        for step in self.bill.models:
            element = self._artifact(step)
            self.relate(
                "trainedOn", element, [self.elements[self.identifier(ref)] for ref in bills.trained_on(ledger, step)]
            )
            known = [self.identifier(ref) for ref in bills.parents(step)]
            self.relate("descendantOf", element, [self.elements[each] for each in known if each in self.elements])
        released = self._artifact(ledger.model)
        tested = bills.trained_on(ledger, ledger.evaluation)
        self.relate(
            "testedOn", released, [self.elements[self.identifier(ref)] for ref in tested],
            comment=f"{ledger.evaluation.ref}; on the part held back from training",
        )  # fmt: skip
        self.relate("dependsOn", released, packages, scope=self._build_scope())

    def _collections(self) -> None:
        model, ledger = self.model, self.bill.ledger
        profiles = model.ProfileIdentifierType
        released = self._artifact(ledger.model)
        everything = [self.elements[each] for each in sorted(self.elements)]
        claimed = [profiles.core, profiles.software, profiles.simpleLicensing, profiles.build]
        sbom = self.add(
            "sbom",
            model.software_Sbom,
            name=f"materials of {ledger.ref}",
            software_sbomType=[model.software_SbomType.build],
            profileConformance=claimed,
            rootElement=[released],
            element=everything,
        )
        self.add(
            "document",
            model.SpdxDocument,
            name=f"{ledger.ref}: AI bill of materials",
            comment=(
                "Derived by software from the records of this release. model.sig (OpenSSF Model Signing v1.0) signs "
                f"this file with all others, by the key with fingerprint {ledger.key_fingerprint}."
            ),
            profileConformance=claimed,
            rootElement=[sbom],
            element=[*everything, sbom],
        )


def _weights(artifact: Artifact) -> list[tuple[str, str]]:
    files = records.subjects_of(artifact.record)
    return [(name, files[name]) for name in files if name.endswith((".safetensors", ".json", ".jinja"))]


def _moment(text: str) -> Any:
    from datetime import datetime

    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def _known(values: Iterable[object]) -> list[str]:
    return [str(value) for value in values if value]


def _short(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]


def _sorted(value: Any) -> Any:
    """Keys in order, so that no order of a library's own is left; lists stay as they were."""
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(each) for each in value] if isinstance(value, list) else value
