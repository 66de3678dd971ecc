"""`answers.toml`: what people say about a release. Facts of the record have no place in it.

The keys are those of `hanse.release.papers.questions`. Strict: an unknown key or a value of another type is an error.
"""

from __future__ import annotations

import datetime
import hashlib
import math
import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanse import toml
from hanse.errors import InputError
from hanse.recipe.suggestion import suggestion
from hanse.release.papers.paper import Entry
from hanse.release.papers.questions import BY_KEY, EXPECTED, FREE, QUESTIONS, SECTIONS, Question
from hanse.report.plain import visible

if TYPE_CHECKING:
    from hanse.release.ledger import Ledger

_MONTH = re.compile(r"(0[1-9]|1[0-2])/[0-9]{4}")


def read(path: Path) -> tuple[dict[str, Any], str]:
    """The answers in a file, days as ISO 8601, and the SHA-256 of the file.

    Raises:
        InputError: the file cannot be read, is not UTF-8 or not TOML, or holds a key or a value that does not fit.
    """
    absent = f"no such file; begin one with: hanse release --write-answers {path}"
    content = toml.content(path, "the file of answers", absent=absent)
    data = toml.parse(content, where=str(path))
    for problem in problems(data):
        raise InputError(f"{path}: {problem}")
    return _plain(data), hashlib.sha256(content).hexdigest()


def problems(answers: Mapping[str, Any]) -> Iterator[str]:
    """What does not fit in answers, a sentence each: unknown sections and keys, values of a wrong type or size."""
    for section, content in answers.items():
        if section not in SECTIONS:
            yield f"[{visible(section)}]: unknown section.{suggestion(section, SECTIONS)}"
        elif not isinstance(content, Mapping):
            yield f"{section}: is {_kind(content)} instead of a section; write [{section}] and keys below it."
        elif section in FREE:
            yield from _unfit(content, section)
        else:
            yield from _section_problems(section, content)


def template() -> str:
    """A file to fill in: every key as a comment, with what it is asked for and where it is printed."""
    lines = [
        "# What people say about a release; what records know is not asked for. Take the '#' off a line to answer it.",
        "# Mandatory is what a final release cannot do without. In brackets: the papers that print the answer.",
    ]
    for section, about in SECTIONS.items():
        lines += ["", f"# {about}", f"[{section}]"]
        if section in FREE:
            lines.append(f"# {FREE[section]}")
        for question in QUESTIONS:
            if question.key.startswith(f"{section}."):
                lines += [
                    *textwrap.wrap(_asked(question), 116, initial_indent="# ", subsequent_indent="# "),
                    _blank(question),
                ]
    return "\n".join(lines) + "\n"


def write_template(path: Path) -> None:
    """Write `template` to a new file.

    Raises:
        InputError: the file is there already, or cannot be written.
    """
    try:
        with path.open("x", encoding="utf-8", newline="\n") as file:
            file.write(template())
    except FileExistsError:
        raise InputError(f"{path}: is there already, and may hold answers; name another file.") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}).") from None


def entry(
    ledger: Ledger,
    key: str,
    number: str,
    question: str,
    *,
    is_mandatory: bool | None = None,
    readers: tuple[str, ...] = (),
) -> Entry:
    """A question of a paper that a person answers under `key`.

    Args:
        is_mandatory: whether a final release needs it; as the table of questions says where None.
    """
    asked = BY_KEY[key].is_mandatory if is_mandatory is None else is_mandatory
    return Entry(number, question, ledger.answer(key), is_mandatory=asked, key=key, readers=readers)


def _section_problems(section: str, content: Mapping[str, Any]) -> Iterator[str]:
    known = [key.partition(".")[2] for key in BY_KEY if key.startswith(f"{section}.")]
    for name, value in content.items():
        if name not in known:
            yield f"[{section}] {visible(name)}: unknown key.{suggestion(name, known)}"
            continue
        question = BY_KEY[f"{section}.{name}"]
        if not _fits(value, question):
            yield f"[{section}] {name}: is {_kind(value)} instead of {EXPECTED[question.kind]}{_limits(question)}."
        elif question.kind == "table":
            yield from _unfit(value, f"{section}.{name}")


def _fits(value: Any, question: Question) -> bool:
    if question.kind == "bool":
        return isinstance(value, bool)
    if question.kind == "number":
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        return is_number and (question.least or 0) <= value <= (math.inf if question.most is None else question.most)
    if question.kind == "flop":
        return _is_flop(value)
    if question.kind == "texts":
        return isinstance(value, list) and all(isinstance(each, str) and each.strip() for each in value)
    if question.kind == "table":
        return isinstance(value, Mapping)
    if question.kind == "date":
        return _is_day(value)
    return isinstance(value, str) and (question.kind == "text" or _MONTH.fullmatch(value) is not None)


def _limits(question: Question) -> str:
    if question.least is None:
        return ""
    return f" of at least {question.least:g}" + ("" if question.most is None else f" and at most {question.most:g}")


def _is_flop(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and isinstance(value, int | float | str) and 0 < float(value) < math.inf
    except (ValueError, OverflowError):
        return False


def _is_day(value: Any) -> bool:
    if isinstance(value, str):  # as `read` returns it
        try:
            return datetime.date.fromisoformat(value).isoformat() == value
        except ValueError:
            return False
    return isinstance(value, datetime.date) and not isinstance(value, datetime.datetime)


def _unfit(value: Any, place: str) -> Iterator[str]:
    """Numbers that JSON cannot hold, anywhere in a free table."""
    if isinstance(value, Mapping):
        for name, each in value.items():
            yield from _unfit(each, f"{place}.{name}")
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from _unfit(each, f"{place}.{number}")
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{visible(place)}: {value} is no number that can be printed; write one, or leave the key out."


def _plain(value: Any) -> Any:
    """The same as JSON values: days and times as ISO 8601."""
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value.isoformat() if isinstance(value, datetime.date | datetime.time) else value


def _asked(question: Question) -> str:
    mark = "Mandatory. " if question.is_mandatory else f"Mandatory {question.when}. " if question.when else ""
    return f"{mark}{question.asks} [{question.papers}]"


def _blank(question: Question) -> str:
    blanks = {
        "text": '""',
        "texts": '[""]',
        "bool": "false",
        "number": "0",
        "flop": '"1e20"',
        "date": "2026-01-31",
        "month": '"01/2026"',
    }
    return f"# {question.key.partition('.')[2]} = {blanks.get(question.kind, '{}')}"


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return f"{str(value).lower()}"
    if isinstance(value, str):
        return "text" if value else "an empty text"
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, datetime.date | datetime.time):
        return f"the date {value.isoformat()}"
    return "a list" if isinstance(value, list) else "a section" if isinstance(value, Mapping) else "of another type"
