"""Assembling a release: the model, its papers, every ancestor's record, and a signature over all of it.

weights, config, tokenizer        what runtimes load
README.md, ATTRIBUTION.md, LICENSE
papers/                           what the law and the field ask for, computed from the records
evaluation/, provenance/          scores; every ancestor's record and table of documents
SHA256SUMS, step.json, model.sig  what `hanse verify` and `verify.py` check
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric import ec

import hanse
from hanse.errors import InputError
from hanse.release import sign, verifier
from hanse.release.attribution import attribution, credits
from hanse.release.card import card
from hanse.release.diff.changes import changes_paper
from hanse.release.export import CONFIG, TOKENIZER, WEIGHTS, check_export, read_header, read_json
from hanse.release.gate import audit as gate
from hanse.release.ledger import Ledger, record_names
from hanse.release.papers import answers, lint, machine, pack
from hanse.release.papers.paper import Entry
from hanse.release.shares.licensed import concerns
from hanse.release.shares.paper import terms
from hanse.store import record as records
from hanse.store.digest import RECORD, SUMS, is_summed, parse_sums
from hanse.store.documents import TABLE
from hanse.store.graph import lineages
from hanse.store.layout import natural
from hanse.store.stage import Artifact, Store, Work
from hanse.trace import descent, withdrawal

if TYPE_CHECKING:
    from hanse.recipe import Release

GENERATION = "generation_config.json"
VERIFIER = "verify.py"
PAPERS = "papers"
SCORES = "evaluation/scores.json"


@dataclass(frozen=True)
class Publishing:
    """What a recipe says about its release, beside the models.

    Attributes:
        settings: `[release]` of the recipe.
        recipe_name: what the model is called where `settings.title` is empty.
        version: of the recipe, and so of the release.
        languages: codes, for the card.
        description: the recipe's, for the card.
        is_final: whether the gate has to be green and every mandatory question answered.
    """

    settings: Release
    recipe_name: str
    version: str
    languages: Sequence[str]
    description: str = ""
    is_final: bool = False

    def definition(self) -> dict[str, Any]:
        """What decides a release's content beside its inputs; who signs belongs to it, but not where the key lies.

        Withdrawals do not: one that comes later leaves a release as it is, and gets a notice beside it.

        Raises:
            InputError: answers that cannot be read, or an unusable key.
        """
        digest = answers.read(self.answers_path)[1] if self.answers_path else ""
        return {
            "release": self.settings.model_dump(mode="json", exclude={"key", "answers"}),
            "recipe_name": self.recipe_name,
            "languages": list(self.languages),
            "description": self.description,
            "signed_by": sign.fingerprint(signing_key(self.settings)),
            **({"answers": digest} if digest else {}),
            **({"final": True} if self.is_final else {}),
        }

    @property
    def answers_path(self) -> Path | None:
        """The file of human answers, where the recipe names one."""
        return Path(self.settings.answers).expanduser() if self.settings.answers else None


def signing_key(settings: Release) -> ec.EllipticCurvePrivateKey:
    """The key that the recipe names, or this person's own; made where there is none."""
    return sign.load_or_create_key(Path(settings.key).expanduser() if settings.key else sign.default_key_path())


def release(
    work: Work,
    *,
    model: Artifact,
    evaluation: Artifact,
    memorisation: Artifact | None = None,
    store: Store,
    publishing: Publishing,
) -> None:
    """Fill `work.folder` with a release of `model` in the Hugging Face layout, and have it signed at the end.

    Args:
        model: what is published; it has to obey the export contract.
        evaluation: its `scores.json` gives the card's figures.
        memorisation: how much of its training text the model gives back; None where it was not measured.
        store: holds every ancestor of these.
        publishing: what the recipe says about it.

    Raises:
        InputError: a broken line of the export contract, an ancestor that is missing or changed, an unusable key,
            answers that contradict the records, or a gate that is not green for a final release.
    """
    check_export(model.path)
    key = signing_key(publishing.settings)
    tops = [each for each in (model, evaluation, memorisation) if each is not None]
    ancestors = collect_ancestors(store, tops)
    _copy_model(model, work.folder)
    _copy_records(ancestors, work.folder / verifier.PROVENANCE)
    _copy_scores(evaluation, work.folder / SCORES)
    ledger = read_ledger(
        work.folder, store, publishing, key,
        model=model, evaluation=evaluation, memorisation=memorisation, ancestors=ancestors,
    )  # fmt: skip
    _write(work.folder / "README.md", card(ledger))
    _write(work.folder / "ATTRIBUTION.md", attribution(ledger.credits))
    _write(work.folder / "LICENSE", licence_text(ledger.licence))
    _write(work.folder / verifier.PUBLIC_KEY, sign.public_pem(key))
    shutil.copyfile(Path(verifier.__file__), work.folder / VERIFIER)
    missing = _write_papers(ledger, work.folder)
    contracts = concerns(ledger.ancestors, made=ledger.made, warn_days=terms(ledger.answers).warn_days)
    work.note(
        ancestors=len(ancestors),
        documents=sum(credit.texts for credit in ledger.credits if credit.kind == "documents"),
        conversations=sum(credit.texts for credit in ledger.credits if credit.kind == "conversations"),
        parameters=ledger.parameters,
        signing_key=sign.fingerprint(key),
        unanswered=len(missing),
        withdrawals=[each["digest"] for each in ledger.withdrawals],
        **({"predecessor": ledger.predecessor.ref} if ledger.predecessor else {}),
        **({"contracts": [each.what for each in contracts]} if contracts else {}),
    )
    if publishing.is_final:
        findings = gate.audit(work.folder, ledger, store=store)
        gate.require(findings)
        work.note(gate=[str(each) for each in findings])
    work.seal(verifier.SIGNATURE, functools.partial(_sign, name=publishing.recipe_name, key=key))


def collect_ancestors(store: Store, tops: Sequence[Artifact]) -> list[Artifact]:
    """`tops` and everything they were made from, each with the record that its descendants name, sorted by name.

    Raises:
        InputError: an ancestor is missing, is not the recorded one, or has a record that contradicts itself.
    """
    found: dict[str, Artifact] = {}
    pending = [records.Input("", top.ref, top.digest, top.record_digest) for top in tops]
    while pending:
        named = pending.pop()
        artifact = store.find(named.ref)
        if (artifact.digest, artifact.record_digest) != (named.digest, named.record):
            raise InputError(
                f"{named.ref}: is not the one that was recorded when its descendants were made; a release would not "
                f"hold. Restore it, or make the descendants again under a new version."
            )
        if artifact.ref not in found:
            for problem in descent.contradictions(artifact):
                raise InputError(problem)
            found[artifact.ref] = artifact
            pending += records.inputs_of(artifact.record)
    return [found[ref] for ref in sorted(found)]


def licence_text(licence: str) -> str:
    """The text of `LICENSE`: the whole licence where Hanse carries it, else its name and where SPDX keeps the text."""
    if licence == "Apache-2.0":
        beside = Path(hanse.__file__).parents[1] / "LICENSE"
        text = beside.read_text(encoding="utf-8") if beside.is_file() else None
        try:
            text = text or importlib.metadata.distribution("hanse").read_text("licenses/LICENSE")
        except importlib.metadata.PackageNotFoundError:
            text = None
        if text and "Apache License" in text:
            return text
    return f"SPDX-License-Identifier: {licence}\n\nThe text of this licence: https://spdx.org/licenses/{licence}.html\n"


def _write_papers(ledger: Ledger, folder: Path) -> list[Entry]:
    """Write every paper; returns the mandatory questions that nobody answered yet."""
    contradictions = lint.contradictions(ledger)
    if contradictions:
        raise InputError(
            f"[release] answers: contradicts the records: {'; '.join(contradictions)}. Correct the answers, or the "
            "recipe where that is wrong."
        )
    place = folder / PAPERS
    place.mkdir()
    made = pack.papers(ledger)
    if ledger.predecessor is not None:
        made.append(changes_paper(ledger.predecessor.path, folder, ledger))
    pack.write(made, ledger, place)
    machine.write(ledger, place)
    return lint.missing(made)


def _copy_model(model: Artifact, folder: Path) -> None:
    sums = parse_sums((model.path / SUMS).read_text(encoding="utf-8"))
    for name in sums:
        if "/" not in name and is_summed(name):
            shutil.copyfile(model.path / name, folder / name)
    if GENERATION not in sums:
        _write(folder / GENERATION, json.dumps(_generation(folder), indent=2, sort_keys=True) + "\n")


def _generation(folder: Path) -> dict[str, Any]:
    """Where an answer ends. Without it a runtime would talk on past the end of its turn."""
    from hanse.tune.template import END_OF_TEXT, END_OF_TURN

    added = {token["content"]: token["id"] for token in read_json(folder / TOKENIZER).get("added_tokens", [])}
    ends = [added[token] for token in (END_OF_TURN, END_OF_TEXT) if token in added]
    if not ends:
        return {"do_sample": False}
    return {"do_sample": False, "eos_token_id": ends, "pad_token_id": ends[-1]}


def _copy_records(ancestors: Sequence[Artifact], folder: Path) -> None:
    """Every ancestor's record byte for byte, its sums, and the tables of the documents."""
    folder.mkdir()
    tables = [artifact for artifact in ancestors if (artifact.path / TABLE).is_file()]
    names = record_names(ancestors)
    for artifact in ancestors:
        name = names[artifact.ref]
        shutil.copyfile(artifact.path / RECORD, folder / f"{name}.json")
        shutil.copyfile(artifact.path / SUMS, folder / f"{name}.{SUMS}")
        if artifact in tables:
            table = TABLE if len(tables) == 1 else f"documents-{name}.parquet"
            shutil.copyfile(artifact.path / TABLE, folder / table)


def _copy_scores(evaluation: Artifact, path: Path) -> None:
    source = evaluation.path / path.name
    if not source.is_file():
        raise InputError(f"{evaluation.ref}: has no {path.name}, so the card would have no figures.")
    path.parent.mkdir()
    shutil.copyfile(source, path)


def read_ledger(
    folder: Path,
    store: Store,
    publishing: Publishing,
    key: ec.EllipticCurvePrivateKey,
    *,
    model: Artifact,
    evaluation: Artifact,
    memorisation: Artifact | None,
    ancestors: Sequence[Artifact],
) -> Ledger:
    """Read what the papers are made of: the records of the ancestors, and a person's answers.

    Args:
        folder: of the release, with the model and its configuration in it already.

    Raises:
        InputError: answers that cannot be read.
    """
    settings = publishing.settings
    said, digest = answers.read(publishing.answers_path) if publishing.answers_path else ({}, "")
    parameters, active = _parameters(folder / WEIGHTS)
    training = [artifact for artifact in ancestors if artifact.kind == "model"]
    tops = [each for each in (model, evaluation) if each is not None]
    return Ledger(
        name=publishing.recipe_name,
        version=publishing.version,
        title=settings.title,
        description=publishing.description,
        contact=settings.contact,
        licence=settings.licence,
        languages=tuple(publishing.languages),
        model=model,
        evaluation=evaluation,
        memorisation=memorisation,
        ancestors=tuple(ancestors),
        config=read_json(folder / CONFIG),
        parameters=parameters,
        active_parameters=active,
        scores=json.loads((folder / SCORES).read_bytes()),
        credits=credits(ancestors),
        is_chat=any("tune" in records.definition_of(artifact.record) for artifact in training),
        key_fingerprint=sign.fingerprint(key),
        lineage="\n".join(tree.text() for tree in lineages(store, tops)),
        answers=said,
        answers_digest=digest,
        withdrawals=tuple(each.as_dict() for each in withdrawal.read(store.root)),
        predecessor=_predecessor(store, publishing),
    )


def _predecessor(store: Store, publishing: Publishing) -> Artifact | None:
    """The newest earlier version of this release in the store."""
    earlier = [
        artifact
        for artifact in store.artifacts()
        if (artifact.kind, artifact.name) == ("release", publishing.recipe_name)
        and natural(artifact.version) < natural(publishing.version)
    ]
    return earlier[-1] if earlier else None


def _parameters(weights: Path) -> tuple[int, int | None]:
    """Trained numbers, and how many of them work on a token; a head trained tied is written twice but counts once."""
    from hanse.model.config import open_config

    try:
        sizes = open_config(weights.parent)
    except InputError:
        return read_header(weights).parameters, None
    return sizes.parameters(), sizes.active_parameters()


def _sign(folder: Path, digests: Mapping[str, str], *, name: str, key: ec.EllipticCurvePrivateKey) -> None:
    _write(folder / verifier.SIGNATURE, sign.bundle(digests, name=name, key=key) + "\n")


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
