"""The wordings of atlas: one TOML file a language, checked on load. README.md beside the files has the format."""

from __future__ import annotations

import re
import tomllib
import unicodedata
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hanse.errors import InputError

FOLDER = Path(__file__).parent / "phrasings"

TASKS: tuple[str, ...] = (
    "capital",
    "country",
    "currency",
    "language",
    "joined",
    "neighbours",
    "day_after",
    "day_before",
    "month_after",
    "month",
    "days",
    "date",
    "number",
    "sum",
)
TITLES: tuple[str, ...] = ("week", "months", "dates", "numbers", "sums")

_MINIMUM = {"train": 3, "heldout": 1, "statements": 3}
_MAY_HOLD = {"train": ("given",), "heldout": ("given",), "statements": ("given", "answer")}


@dataclass(frozen=True)
class Phrasings:
    """How one task is worded in one language.

    Attributes:
        train: questions the model is tuned on.
        heldout: questions that occur in no training text; evaluation asks these.
        statements: sentences of the running text.
        skip: why this language has no such task; then the other fields are empty.
    """

    train: tuple[str, ...] = ()
    heldout: tuple[str, ...] = ()
    statements: tuple[str, ...] = ()
    skip: str = ""


def render(template: str, given: str, answer: str = "") -> str:
    """Fill a template. An answer that ends in a full stop ("15. 3. 2026.") swallows the sentence's own."""
    if answer.endswith("."):
        template = template.replace("{answer}.", "{answer}")
    return template.replace("{given}", given).replace("{answer}", answer)


def _check_template(template: object, kind: str, where: str) -> str:
    """One wording, with exactly the placeholders its kind needs."""
    if not isinstance(template, str) or not template.strip():
        raise InputError(f"{where}: every entry must be a non-empty string.")
    found = re.findall(r"\{[^{}]*\}", template)
    wanted = sorted("{" + name + "}" for name in _MAY_HOLD[kind])
    if sorted(found) != wanted or len(re.findall(r"[{}]", template)) != 2 * len(wanted):
        raise InputError(f"{where}: {template!r} must hold {' and '.join(wanted)} exactly once and no other braces.")
    if unicodedata.normalize("NFC", template) != template:
        raise InputError(f"{where}: {template!r} is not in Unicode normal form C; save the file as NFC.")
    return template


def _check_task(task: str, table: object, file: str) -> Phrasings:
    """One task of one file."""
    where = f"{file}: [{task}]"
    if not isinstance(table, dict):
        raise InputError(f"{where} is missing; give it train, heldout and statements, or skip with a reason.")
    if "skip" in table:
        if len(table) > 1 or not isinstance(table["skip"], str) or not table["skip"].strip():
            raise InputError(f"{where}: skip must be a reason in words and the only key.")
        return Phrasings(skip=table["skip"])
    unknown = sorted(set(table) - set(_MINIMUM))
    if unknown:
        raise InputError(f"{where} {unknown[0]}: unknown key; known are {', '.join(_MINIMUM)} and skip.")
    lists: dict[str, tuple[str, ...]] = {}
    for kind, minimum in _MINIMUM.items():
        entries = table.get(kind)
        if not isinstance(entries, list) or len(entries) < minimum:
            raise InputError(f"{where} {kind}: at least {minimum} wordings are needed.")
        lists[kind] = tuple(_check_template(entry, kind, f"{where} {kind}") for entry in entries)
        if len(set(lists[kind])) < len(entries):
            raise InputError(f"{where} {kind}: a wording occurs twice.")
    shared = sorted(set(lists["train"]) & set(lists["heldout"]))
    if shared:
        raise InputError(f"{where} heldout: {shared[0]!r} is also in train; held-out wordings must be new.")
    return Phrasings(lists["train"], lists["heldout"], lists["statements"])


def parse(content: dict[str, Any], file: str) -> tuple[dict[str, Phrasings], dict[str, str]]:
    """Check one file's content.

    Args:
        content: the parsed TOML.
        file: its name, for the message.

    Returns:
        Phrasings by task, in the order of `TASKS`, and titles by kind of document.

    Raises:
        InputError: a task, key or placeholder is missing or unknown, or a held-out wording also occurs in training.
    """
    unknown = sorted(set(content) - {*TASKS, "titles"})
    if unknown:
        raise InputError(f"{file}: [{unknown[0]}] is no task of atlas; known are {', '.join(TASKS)} and titles.")
    titles = content.get("titles")
    if not isinstance(titles, dict) or sorted(titles) != sorted(TITLES):
        raise InputError(f"{file}: [titles] must hold {', '.join(TITLES)}.")
    return {task: _check_task(task, content.get(task), file) for task in TASKS}, dict(titles)


@cache
def load(language: str) -> tuple[dict[str, Phrasings], dict[str, str]]:
    """The phrasings and titles of one language; see `parse` for the errors."""
    path = FOLDER / f"{language}.toml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in FOLDER.glob("*.toml")))
        raise InputError(f"atlas has no language {language!r}; known are {known}.")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path.name} is not valid TOML ({error}); mend the line it names.") from error
    return parse(content, path.name)
