"""Assembling a release: the model, its papers, every ancestor's record, and a signature over all of it."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric import ec

import hanse
from hanse.errors import InputError
from hanse.release import sign, verifier
from hanse.release.attribution import Credit, attribution, credits
from hanse.release.card import Facts, card
from hanse.release.export import CONFIG, TOKENIZER, WEIGHTS, check_export, read_header, read_json
from hanse.store import record as records
from hanse.store.digest import RECORD, SUMS, is_summed, parse_sums
from hanse.store.documents import TABLE
from hanse.store.graph import lineages
from hanse.store.stage import Artifact, Store, Work

if TYPE_CHECKING:
    from hanse.recipe import Release

GENERATION = "generation_config.json"
VERIFIER = "verify.py"
SCORES = "evaluation/scores.json"


def release_definition(
    settings: Release, *, recipe_name: str, languages: Sequence[str], description: str = ""
) -> dict[str, Any]:
    """What decides a release's content beside its inputs: the settings, and who signs, but not where the key lies."""
    return {
        "release": settings.model_dump(mode="json", exclude={"key"}),
        "recipe_name": recipe_name,
        "languages": list(languages),
        "description": description,
        "signed_by": sign.fingerprint(signing_key(settings)),
    }


def signing_key(settings: Release) -> ec.EllipticCurvePrivateKey:
    """The key that the recipe names, or this person's own; made where there is none."""
    return sign.load_or_create_key(Path(settings.key).expanduser() if settings.key else sign.default_key_path())


def release(
    work: Work,
    *,
    model: Artifact,
    evaluation: Artifact,
    store: Store,
    settings: Release,
    recipe_name: str,
    languages: Sequence[str],
    description: str = "",
) -> None:
    """Fill `work.folder` with a release of `model` in the Hugging Face layout, and have it signed at the end.

    Args:
        model: what is published; it has to obey the export contract.
        evaluation: its `scores.json` gives the card's figures.
        store: holds every ancestor of the two.
        settings: `[release]` of the recipe.
        recipe_name: what the model is called where `settings.title` is empty.
        languages: codes, for the card.
        description: the recipe's, for the card.

    Raises:
        InputError: a broken line of the export contract, an ancestor that is missing or changed, or an unusable key.
    """
    check_export(model.path)
    key = signing_key(settings)
    ancestors = collect_ancestors(store, (model, evaluation))
    found = credits(ancestors)
    _copy_model(model, work.folder)
    _copy_records(ancestors, work.folder / verifier.PROVENANCE)
    _copy_scores(evaluation, work.folder / SCORES)
    facts = _facts(
        work, model=model, evaluation=evaluation, store=store, ancestors=ancestors, found=found, settings=settings,
        recipe_name=recipe_name, languages=tuple(languages), description=description, key=key,
    )  # fmt: skip
    _write(work.folder / "README.md", card(facts))
    _write(work.folder / "ATTRIBUTION.md", attribution(found))
    _write(work.folder / "LICENSE", licence_text(settings.licence))
    _write(work.folder / verifier.PUBLIC_KEY, sign.public_pem(key))
    shutil.copyfile(Path(verifier.__file__), work.folder / VERIFIER)
    work.note(
        ancestors=len(ancestors),
        documents=sum(credit.texts for credit in found if credit.kind == "documents"),
        conversations=sum(credit.texts for credit in found if credit.kind == "conversations"),
        parameters=facts.parameters,
        signing_key=sign.fingerprint(key),
    )
    work.seal(verifier.SIGNATURE, functools.partial(_sign, name=recipe_name, key=key))


def collect_ancestors(store: Store, tops: Sequence[Artifact]) -> list[Artifact]:
    """`tops` and everything they were made from, each with the record that its descendants name, sorted by name.

    Raises:
        InputError: an ancestor is missing, or is not the recorded one.
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
    for artifact in ancestors:
        name = f"{artifact.kind}-{artifact.name}-{artifact.version}"
        if (folder / f"{name}.json").exists():  # a-1/2 and a/1-2
            name += f"-{artifact.digest[:12]}"
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


def _facts(
    work: Work,
    *,
    model: Artifact,
    evaluation: Artifact,
    store: Store,
    ancestors: Sequence[Artifact],
    found: Sequence[Credit],
    settings: Release,
    recipe_name: str,
    languages: tuple[str, ...],
    description: str,
    key: ec.EllipticCurvePrivateKey,
) -> Facts:
    config = read_json(work.folder / CONFIG)
    parameters, active = _parameters(work.folder / WEIGHTS)
    training = [artifact for artifact in ancestors if artifact.kind == "model"]
    return Facts(
        name=recipe_name,
        title=settings.title,
        description=description,
        contact=settings.contact,
        licence=settings.licence,
        languages=languages,
        config=config,
        parameters=parameters,
        active_parameters=active,
        training=[artifact.facts for artifact in training],
        scores=json.loads((work.folder / SCORES).read_bytes()),
        credits=found,
        is_chat=any("tune" in records.definition_of(artifact.record) for artifact in training),
        key_fingerprint=sign.fingerprint(key),
        lineage="\n".join(tree.text() for tree in lineages(store, (model, evaluation))),
    )


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
