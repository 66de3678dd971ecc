"""A release as its folder tells it, read back without a store: records, tables of documents, scores, key."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanse.errors import InputError
from hanse.release import verifier
from hanse.release.export import CONFIG
from hanse.store import record as records
from hanse.store.digest import RECORD, SUMS, parse_sums, sha256_file

if TYPE_CHECKING:
    from hanse.release.ledger import Ledger

SCORES = "evaluation/scores.json"


@dataclass(frozen=True)
class Step:
    """The record of one ancestor.

    Attributes:
        ref: `kind/name/version`.
        path: below the release's folder, such as `provenance/model-atlas-base-1.json`.
        digest: SHA-256 of that file, by which its descendants name it.
    """

    ref: str
    path: str
    digest: str
    record: Mapping[str, Any] = field(repr=False)

    @property
    def kind(self) -> str:
        """`dataset`, `model` ..."""
        return self.ref.split("/")[0]

    @property
    def definition(self) -> dict[str, Any]:
        """What decided its content."""
        return records.definition_of(self.record)

    @property
    def facts(self) -> dict[str, Any]:
        """What it noted."""
        return records.facts_of(self.record)


@dataclass(frozen=True)
class Published:
    """A release, as far as its folder tells it.

    Attributes:
        name: `release/name/version`; the folder's own name where nothing says it.
        about: licence, title, contact, description and languages.
        steps: every ancestor's record, sorted by name.
        models: those of the models, from the first to the one that is published.
        tables: of documents.
        scores: rows of the evaluation: language, task, metric, value, low, high, n.
        config: the model's configuration.
        signer: fingerprint of the key that lies in the folder; empty where there is none.
        withdrawals: SHA-256 of each withdrawal that it was made with.
        finished: when it was made, RFC 3339; empty while it is being made.
        sums: path -> SHA-256 of its files; empty while it is being made.
        doubts: what does not fit together, a sentence each.
    """

    folder: Path
    name: str
    about: Mapping[str, Any]
    steps: tuple[Step, ...]
    models: tuple[Step, ...]
    tables: tuple[Path, ...]
    scores: Sequence[Mapping[str, Any]]
    config: Mapping[str, Any]
    signer: str
    withdrawals: tuple[str, ...]
    finished: str
    sums: Mapping[str, str]
    doubts: tuple[str, ...]

    def place(self, path: str, key: str = "") -> str:
        """Where something stands, for people: `release/atlas/1 provenance/model-atlas-base-1.json tokens`."""
        return f"{self.name} {path} {key}".rstrip()


def read(folder: Path, ledger: Ledger | None = None) -> Published:
    """Read a release's folder.

    Args:
        folder: the release; with a ledger, one that is still being made and has no record of its own yet.
        ledger: what such a one is made of.

    Raises:
        InputError: no release, or a file of it that cannot be read.
    """
    provenance = folder / verifier.PROVENANCE
    if not provenance.is_dir():
        raise InputError(f"{folder}: is no release: it has no {verifier.PROVENANCE}/; name one that was published.")
    steps = tuple(sorted(_steps(folder), key=lambda step: (step.ref, step.digest)))
    definition: dict[str, Any] = {}
    own: dict[str, Any] | None = None
    if ledger is not None:
        name, top, finished = ledger.ref, ledger.model.ref, ""
    else:
        own = _json(folder / RECORD)
        try:
            name, definition = _first_subject(own), records.definition_of(own)
            top = next((each.ref for each in records.inputs_of(own) if each.role == "model"), "")
            finished = str(own["predicate"]["runDetails"]["metadata"]["finishedOn"])
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise InputError(f"{folder / RECORD}: is no record of a release ({_told(error)}); restore it.") from None
    models, circle = _chain(steps, top)
    withdrawn = [each.get("digest", "") for each in ledger.withdrawals] if ledger else definition.get("withdrawals", [])
    return Published(
        folder=folder,
        name=name,
        about=_about(definition) if ledger is None else _about_of(ledger),
        steps=steps,
        models=tuple(models),
        tables=tuple(sorted(provenance.glob("documents*.parquet"))),
        scores=_rows(folder / SCORES),
        config=_json(folder / CONFIG),
        signer=_signer(folder),
        withdrawals=tuple(map(str, withdrawn)),
        finished=finished,
        sums=_sums(folder) if own is not None else {},
        doubts=tuple(f"{name}: {doubt}" for doubt in (*circle, *_doubts(steps, own, finished))),
    )


def _steps(folder: Path) -> Iterator[Step]:
    for path in sorted((folder / verifier.PROVENANCE).glob("*.json")):
        record = _json(path)
        try:
            step = Step(_first_subject(record), f"{verifier.PROVENANCE}/{path.name}", sha256_file(path), record)
            _ = records.inputs_of(record), step.definition, step.facts  # refused here, not where they are compared
        except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
            raise InputError(f"{path}: is no record of a step ({_told(error)}); restore it.") from None
        yield step


def _first_subject(record: Mapping[str, Any]) -> str:
    return str(record["subject"][0]["name"])


def _chain(steps: Sequence[Step], top: str) -> tuple[list[Step], list[str]]:
    """The models from the first to the published one, and a sentence if their records lead in a circle."""
    by_ref = {step.ref: step for step in steps}
    chain: list[Step] = []
    ref = top
    while ref in by_ref:
        if any(step.ref == ref for step in chain):
            return chain[::-1], [f"records name each other: {' -> '.join(step.ref for step in chain)} -> {ref}."]
        chain.append(by_ref[ref])
        named = [each.ref for each in records.inputs_of(by_ref[ref].record) if each.ref.startswith("model/")]
        ref = named[0] if named else ""
    return chain[::-1], [f"there is no record of {ref}, from which {chain[-1].ref} was made."] if ref and chain else []


def _doubts(steps: Sequence[Step], own: Mapping[str, Any] | None, finished: str) -> Iterator[str]:
    """Where the records do not fit together; `hanse verify` checks the rest, every file and the signature."""
    known = {step.digest for step in steps}
    seen: dict[str, str] = {}
    for step in steps:
        if seen.setdefault(step.ref, step.digest) != step.digest:
            yield f"two records of {step.ref} contradict each other."
    named = [(step.ref, each) for step in steps for each in records.inputs_of(step.record)]
    named += [("the release", each) for each in records.inputs_of(own)] if own is not None else []
    for child, each in named:
        if each.record not in known:
            yield f"the record of {each.ref} is missing or was edited after {child} was made from it."
    if finished:
        late = [step.ref for step in steps if _finished(step) > finished]
        if late:
            yield f"{late[0]} was finished after the release that was made from it; a clock ran backwards."


def _finished(step: Step) -> str:
    try:
        return str(step.record["predicate"]["runDetails"]["metadata"]["finishedOn"])
    except (KeyError, TypeError):
        return ""


def _about(definition: Mapping[str, Any]) -> dict[str, Any]:
    settings = definition.get("release")
    told = dict(settings) if isinstance(settings, Mapping) else {}
    about = {key: told.get(key) for key in ("title", "licence", "contact")}
    return about | {key: definition.get(key) for key in ("description", "languages")}


def _about_of(ledger: Ledger) -> dict[str, Any]:
    about: dict[str, Any] = {key: getattr(ledger, key) for key in ("title", "licence", "contact", "description")}
    return about | {"languages": list(ledger.languages)}


def _signer(folder: Path) -> str:
    try:
        return verifier.fingerprint(verifier.load_public_key((folder / verifier.PUBLIC_KEY).read_bytes()))
    except (OSError, verifier.Malformed):
        return ""


def _sums(folder: Path) -> dict[str, str]:
    try:
        return parse_sums((folder / SUMS).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, InputError) as error:
        raise InputError(f"{folder / SUMS}: cannot be read ({_told(error)}); restore it.") from None


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    try:
        rows = json.loads(path.read_bytes())
        keys = ("language", "task", "metric", "value")
        if not isinstance(rows, list) or not all(isinstance(row, dict) and set(keys) <= row.keys() for row in rows):
            raise ValueError(f"it is not a list of rows with {', '.join(keys)}")
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({_told(error)}); restore it.") from None
    return rows


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
        if not isinstance(found, dict):
            raise ValueError("it is no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({_told(error)}); restore it.") from None
    return found


def _told(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
