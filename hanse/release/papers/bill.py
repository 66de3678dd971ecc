"""What both bills of materials say, read once: models and their descent, texts, steps, software, machines, scores.

`spdx` and `cyclonedx` write the same facts in two languages. What no record backs is not here, so it cannot be there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import hanse
from hanse.release.ledger import Ledger, runtime_of
from hanse.release.papers.dataset_facts import KINDS, NO_LICENCE, DatasetFacts, counted
from hanse.store import record as records
from hanse.store.digest import canonical_json, sha256_text
from hanse.store.stage import Artifact

#: Formats that the release itself keeps to.
STANDARDS = (
    "in-toto attestation framework v1 (records of the steps)",
    "SLSA v1.0 provenance (records of the steps)",
    "OpenSSF Model Signing v1.0 (signature of the release)",
    "Croissant 1.1 and Croissant RAI 1.0 (datasets)",
)


@dataclass(frozen=True)
class Metric:
    """One measured figure: what, for which language and task, with its 95 % interval and number of items."""

    name: str
    slice: str
    value: str
    low: str | None
    high: str | None
    items: int | None


@dataclass(frozen=True)
class Bill:
    """What a bill of materials of a release says.

    Attributes:
        identity: SHA-256 over everything that decides the bill; identifiers in it are derived from this.
        datasets: the texts behind it.
        models: every model on the way to the released one, that one last.
        packages: Python packages of the steps, name -> versions.
        metrics: of the released model, as the evaluation has them.
        provider: who publishes, as a person answered; empty where nobody did.
    """

    ledger: Ledger
    identity: str
    datasets: tuple[DatasetFacts, ...]
    models: tuple[Artifact, ...]
    packages: Mapping[str, tuple[str, ...]]
    metrics: tuple[Metric, ...]
    provider: str

    @property
    def licence(self) -> str:
        """Of the weights; empty where the recipe says none."""
        return self.ledger.licence

    @property
    def title(self) -> str:
        """What people call the model."""
        return self.ledger.title or self.ledger.name


def bill(ledger: Ledger, datasets: tuple[DatasetFacts, ...]) -> Bill:
    """Gather what the two bills say; `datasets` are those of `dataset_facts.datasets`."""
    models = [artifact for artifact in ledger.of_kind("model") if artifact.ref != ledger.model.ref]
    provider = ledger.answer("provider.name").value
    return Bill(
        ledger,
        _identity(ledger),
        datasets,
        (*models, ledger.model),
        _packages(ledger),
        (*_scores(ledger), *_memorisation(ledger)),
        provider if isinstance(provider, str) else "",
    )


def uses(ledger: Ledger, texts: Artifact) -> tuple[list[str], list[str]]:
    """Which models were trained on a dataset or conversations, and which were measured on its held-out part."""
    trained = [model.ref for model in ledger.of_kind("model") if texts.ref in trained_on(ledger, model)]
    tested = [
        each.ref
        for step in ledger.of_kind("evaluation")
        if texts.ref in trained_on(ledger, step)
        for each in records.inputs_of(step.record)
        if each.ref.startswith("model/")
    ]
    return trained, sorted(set(tested))


def trained_on(ledger: Ledger, step: Artifact) -> list[str]:
    """The datasets and conversations that a step read, itself or as shards; not those of the models it began from.

    A tokenizer was learnt from text too, but it puts none of that into the weights.
    """
    known = {artifact.ref: artifact for artifact in ledger.ancestors}
    found, seen, pending = [], set(), [step]
    while pending:
        for each in records.inputs_of(pending.pop().record):
            kind = each.ref.split("/")[0]
            if each.ref in seen or kind in ("model", "tokenizer"):
                continue
            seen.add(each.ref)
            if kind in KINDS:
                found.append(each.ref)
            elif each.ref in known:
                pending.append(known[each.ref])
    return sorted(found)


def parents(step: Artifact) -> list[str]:
    """The models that a step began from."""
    return [each.ref for each in records.inputs_of(step.record) if each.ref.startswith("model/")]


def is_tuning(model: Artifact) -> bool:
    """Whether a step changed a model that was there."""
    return "tune" in records.definition_of(model.record) or bool(parents(model))


def family(bill: Bill, model: Artifact) -> str | None:
    """The architecture's name in a model's own configuration; None where it has none."""
    path = model.path / "config.json"
    config = bill.ledger.config
    if model.ref != bill.ledger.model.ref:
        config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    name = config.get("model_type")
    return name if isinstance(name, str) else None


def hyperparameters(step: Artifact) -> dict[str, str]:
    """What the recipe set for a step, flat: `pretrain.learning_rate` -> `0.02`; sources are left to the datasets."""
    return dict(_flat({k: v for k, v in records.definition_of(step.record).items() if k != "source"}, ""))


def environment(step: Artifact) -> dict[str, str]:
    """Where a step ran: system, processor, cores, Python; device and ranks where it trained."""
    where = step.record["predicate"]["buildDefinition"].get("internalParameters", {})
    found = {key: where[key] for key in ("system", "machine", "cpu", "cores", "threads", "python") if key in where}
    return dict(_flat({**found, **{f"runtime.{k}": v for k, v in runtime_of(step).items()}}, ""))


def measured(step: Artifact) -> dict[str, str]:
    """What a training step noted in single numbers: tokens, FLOP, seconds and so on."""
    return {
        key: _shown(value)
        for key, value in sorted(step.facts.items())
        if (isinstance(value, int | float) and not isinstance(value, bool))
        or (key == "flop" and isinstance(value, str))
    }


def energy_kilowatt_hours(step: Artifact) -> float | None:
    """Energy that a step recorded; None where it recorded none that can be."""
    energy = _number(step.facts.get("energy_wh"))
    return None if energy is None else energy / 1000


def metadata_of(step: Artifact) -> Mapping[str, Any]:
    """`runDetails.metadata` of a record: startedOn, finishedOn, invocationId, hanse_fingerprint."""
    found: Mapping[str, Any] = step.record["predicate"]["runDetails"]["metadata"]
    return found


def commit_of(step: Artifact) -> str | None:
    """The commit of Hanse that ran a step, where it was recorded."""
    for each in step.record["predicate"]["runDetails"]["builder"].get("builderDependencies", ()):
        return str(each["digest"].get("gitCommit", "")) or None
    return None


def devices(bill: Bill) -> list[str]:
    """The processors and accelerators that steps ran on, sorted."""
    found = {str(runtime_of(step)["device_name"]) for step in bill.models if runtime_of(step).get("device_name")}
    found |= {environment(step)["cpu"] for step in bill.ledger.ancestors if environment(step).get("cpu")}
    return sorted(found - {"not recorded"})


def describe(bill: Bill) -> str:
    """One sentence on the model: family, size, context, languages."""
    ledger, config = bill.ledger, bill.ledger.config
    active = ledger.active_parameters
    size = f"{ledger.parameters:,} parameters"
    if active is not None and active != ledger.parameters:
        size += f", {active:,} of them at work on a token"
    family = config.get("model_type", "family not recorded")
    context = config.get("max_position_embeddings")
    reach = f", context of {context:,} tokens" if isinstance(context, int) else ""
    kind = "chat model" if ledger.is_chat else "base language model"
    said = f"{ledger.description.rstrip('.')}. " if ledger.description else ""
    return f"{said}A {kind} ({family}), {size}{reach}, in: {', '.join(ledger.languages) or 'not recorded'}."


def limitations(bill: Bill) -> list[str]:
    """What the records themselves say is not known of the model and its text."""
    measured_in = sorted({metric.slice.split(",")[0] for metric in bill.metrics if metric.items is not None})
    found = [f"Measured in: {', '.join(measured_in)}; elsewhere nothing is known."] if measured_in else []
    for facts in bill.datasets:
        found += [f"{facts.artifact.ref}: {line}" for line in unknowns(facts)]
    return found


def unknowns(facts: DatasetFacts) -> list[str]:
    """What the records themselves say is not known of a dataset."""
    unknown = [each.name for each in facts.declared if each.declared.get("reservation") == "unknown"]
    found = [f"Whether rights are reserved is not known for: {', '.join(unknown)}."] if unknown else []
    unstated = sum(part.texts for part in facts.licences if part.name in NO_LICENCE)
    if unstated:
        found.append(
            f"{counted(unstated, facts.texts_are)} came without a licence; the basis is in the table of documents."
        )
    return found


def said(bill: Bill, key: str) -> str:
    """What a person answered, as text; empty where nobody did."""
    value = bill.ledger.answer(key).value
    return value if isinstance(value, str) else ""


def in_and_out(bill: Bill) -> tuple[str, str]:
    """What goes in and what comes out, as the configuration has it."""
    config = bill.ledger.config
    words, context = config.get("vocab_size"), config.get("max_position_embeddings")
    vocabulary = f", a vocabulary of {words:,} tokens" if isinstance(words, int) else ""
    reach = f", at most {context:,} tokens together with the output" if isinstance(context, int) else ""
    return f"text in UTF-8{vocabulary}{reach}", "text in UTF-8"


def package_url(name: str, version: str) -> str | None:
    """The package URL (purl) of a Python package; None for what is none."""
    if name in ("python", "hanse"):
        return None
    return f"pkg:pypi/{quote(name.lower().replace('_', '-'), safe='')}@{quote(version, safe='')}"


def training_sentence(step: Artifact) -> str:
    """What a training step did, by its own numbers."""
    facts = step.facts
    parts = [
        f"{value:,} {unit}"
        for key, unit in (("steps", "steps"), ("tokens", "tokens"), ("seconds", "seconds"))
        if (number := _number(facts.get(key))) is not None
        for value in [round(number)]
    ]
    flop = _number(facts.get("flop"))
    if flop is not None:
        parts.append(f"{flop:.4g} FLOP")
    kind = "fine-tuning" if is_tuning(step) else "pre-training"
    return f"{step.ref}: {kind}, {', '.join(parts) or 'its size is not recorded'}."


def _identity(ledger: Ledger) -> str:
    """Digest of what decides the bill: ancestors with their records, what recipe and answers say, and our version."""
    decided = {
        "ancestors": [[each.ref, each.digest, each.record_digest] for each in ledger.ancestors],
        "release": [
            ledger.ref,
            ledger.title,
            ledger.description,
            ledger.contact,
            ledger.licence,
            ledger.key_fingerprint,
        ],
        "languages": list(ledger.languages),
        "answers": ledger.answers_digest,
        "withdrawals": json.dumps(list(ledger.withdrawals), sort_keys=True, default=str),
        "hanse": hanse.__version__,
    }
    return sha256_text(canonical_json(decided))


def _packages(ledger: Ledger) -> dict[str, tuple[str, ...]]:
    found: dict[str, set[str]] = {}
    for step in ledger.ancestors:
        where = step.record["predicate"]["buildDefinition"].get("internalParameters", {})
        for name, version in where.get("packages", {}).items():
            found.setdefault(name, set()).add(str(version))
        if where.get("python"):
            found.setdefault("python", set()).add(str(where["python"]))
        built = step.record["predicate"]["runDetails"]["builder"].get("version", {}).get("hanse")
        if built:
            found.setdefault("hanse", set()).add(str(built))
    return {name: tuple(sorted(found[name])) for name in sorted(found)}


def _scores(ledger: Ledger) -> Iterator[Metric]:
    for row in ledger.scores:
        if row.get("value") is None:
            continue
        low, high = (None if row.get(key) is None else _shown(row[key]) for key in ("low", "high"))
        place = f"{row['language']}, {row['task']}"
        yield Metric(str(row["metric"]), place, _shown(row["value"]), low, high, row.get("n"))


def _memorisation(ledger: Ledger) -> Iterator[Metric]:
    """What the memorisation test noted in single numbers."""
    if ledger.memorisation is not None:
        for key, value in measured(ledger.memorisation).items():
            yield Metric(f"memorisation: {key}", ledger.memorisation.ref, value, None, None, None)


def _number(value: object) -> float | None:
    """A recorded amount; beyond 2**53 it stands as text. None for what no amount can be."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _flat(value: object, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key in value:
            yield from _flat(value[key], f"{name}.{key}" if name else str(key))
    elif value not in (None, "", [], {}):
        yield name, _shown(value)


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
