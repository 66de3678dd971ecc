"""How the model was trained and its text curated, as the records have it: pieces of the documentation form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hanse.release.ledger import Ledger
from hanse.release.papers.paper import Cell, Entry, Table
from hanse.release.papers.summary_data import COUNTS, definition, dropped, dropped_cell, read_json, sound
from hanse.store import record as records
from hanse.store.stage import Artifact

DAY = 86400.0
MONTH = 30 * DAY
#: Bands of the form for the training time, in seconds: the first that is not inside, and what it is called.
TIMES = (
    (MONTH, "less than 1 month"), (3 * MONTH, "1 to 3 months"), (6 * MONTH, "3 to 6 months"),
)  # fmt: skip
#: Keys of [curate] that a reader of the form can use, and the question that each answers.
CURATION = {
    "licences": "Licences that were accepted",
    "identify_language": "Language of each document identified",
    "min_language_score": "Smallest probability of the language",
    "quality": "Rules of quality applied",
    "near_duplicates": "Near copies left out",
    "pii": "Personal data in the text",
    "contamination": "Files of evaluation items searched for, by SHA-256",
    "on_contamination": "Documents that hold evaluation items",
    "validation_share": "Share held out for validation",
}
_SETTINGS = ("optimizer", "learning_rate", "adam_learning_rate", "weight_decay", "sequence_length", "batch_tokens",
             "epochs", "goldfish", "mtp_weight")  # fmt: skip


def time_band(time: Cell) -> Cell:
    """The form's band of a training time in seconds; empty where that is not recorded."""
    if not isinstance(time.value, int | float):
        return Cell(None)
    band = next((name for bound, name in TIMES if time.value < bound), "more than 6 months")
    return Cell(band, time.source)


def stages(ledger: Ledger) -> Cell:
    """One sentence: which steps made the weights, in order."""
    models = ledger.of_kind("model")
    kinds = [_kind(model) for model in models]
    if not models or not all(kinds):
        return Cell(None)
    named = [f"{kind} ({model.ref})" for kind, model in zip(kinds, models, strict=True)]
    return Cell(named, "; ".join(f"{model.ref} step.json" for model in models), ", then ".join(named))


def table(ledger: Ledger, readers: tuple[str, ...]) -> Table:
    """Settings and extent of each training step."""
    rows = []
    for model in ledger.of_kind("model"):
        kind = _kind(model)
        settings = _settings(model)
        rows.append(
            (
                Cell(model.ref, f"{model.ref} step.json"),
                Cell(kind, f"{model.ref} step.json") if kind else Cell(None),
                ledger.fact(model, "steps"),
                ledger.fact(model, "tokens"),
                settings,
            )
        )
    columns = ("step", "stage", "optimizer steps", "tokens seen", "settings")
    return Table(columns, tuple(rows), title="Training steps", readers=readers)


def curation(ledger: Ledger) -> list[Entry | Table | str]:
    """Methods of curation, and how many documents each reason left out."""
    body: list[Entry | Table | str] = []
    datasets = ledger.of_kind("dataset")
    for dataset in datasets:
        of = f" ({dataset.ref})" if len(datasets) > 1 else ""
        for key, question in CURATION.items():
            found = definition(dataset, "curate", key)
            body.append(Entry("", f"Curation: {question[0].lower()}{question[1:]}{of}", _shown(key, found)))
        body.append(Entry("", f"Curation: documents read{of}", ledger.fact(dataset, "documents")))
        body.append(Entry("", f"Curation: documents kept{of}", ledger.fact(dataset, "kept")))
        rows = [(Cell(reason), dropped_cell(dataset, reason)) for reason in dropped(dataset)]
        if (dataset.path / COUNTS).is_file():
            note = "A document can have several reasons."
            body.append(Table(("reason", "documents"), tuple(rows), title=f"Left out by curation{of}", note=note))
    return body


def held_out(ledger: Ledger, readers: tuple[str, ...]) -> Table:
    """What training never saw: documents for validation, conversations for evaluation."""
    rows = []
    for dataset in ledger.of_kind("dataset"):
        groups = _groups(dataset)
        if groups is not None:
            place = f"{dataset.ref} {COUNTS} groups split=validation"
            with sound(dataset.path / COUNTS):
                held = [group for group in groups if group.get("split") == "validation"]
                documents, size = (sum(group[key] for group in held) for key in ("documents", "bytes"))
            rows.append((Cell(dataset.ref, place), Cell(documents, place), Cell(size, place)))
    for talk in ledger.of_kind("conversations"):
        count = talk.facts.get("conversations")
        if isinstance(count, Mapping) and isinstance(count.get("heldout"), int):
            place = f"{talk.ref} step.json conversations.heldout"
            rows.append((Cell(talk.ref, place), Cell(count["heldout"], place), Cell(None)))
    columns = ("held out of", "documents or conversations", "bytes")
    return Table(columns, tuple(rows), title="Data for validation and testing", readers=readers)


def _kind(model: Artifact) -> str:
    made_by = records.definition_of(model.record)
    if "pretrain" in made_by:
        start = made_by.get("model", {})
        return "continued pre-training" if isinstance(start, Mapping) and start.get("start") else "pre-training"
    for key, name in (("tune", "supervised fine-tuning"), ("merge", "merging")):
        if key in made_by:
            return name
    return ""


def _settings(model: Artifact) -> Cell:
    made_by = records.definition_of(model.record)
    for section in ("pretrain", "tune"):
        found: Any = made_by.get(section)
        if isinstance(found, Mapping):
            chosen = {key: found[key] for key in _SETTINGS if found.get(key) is not None}
            text = ", ".join(f"{key} {value}" for key, value in chosen.items())
            return Cell(chosen, f"{model.ref} step.json {section}", text) if chosen else Cell(None)
    return Cell(None)


def _shown(key: str, found: Cell) -> Cell:
    words = {"mask": "masked where found", "pseudonym": "replaced by pseudonyms", "keep": "kept as it was",
             "drop": "left out"}  # fmt: skip
    if key in ("pii", "on_contamination") and found.value in words:
        return Cell(found.value, found.source, words[found.value])
    return found


def _groups(dataset: Artifact) -> list[dict[str, Any]] | None:
    groups = read_json(dataset.path / COUNTS).get("groups")
    return groups if isinstance(groups, list) else None
