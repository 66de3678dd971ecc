"""The stage that measures a model, its figures as rows, and the table of the languages.

Loads no torch until a model is measured: the command line prints tables with it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hanse.evaluate.bootstrap import Estimate, Floats, estimate, mean_of, replicates
from hanse.languages import LANGUAGES

if TYPE_CHECKING:
    from rich.table import Table

    from hanse.evaluate.exact_answer import Answer
    from hanse.recipe import Evaluate
    from hanse.runtime import Runtime
    from hanse.serve.engine import Engine
    from hanse.store.stage import Work

Progress = Callable[[str, int, int | None], None]
ALL = "all"
MEAN = "mean"
Metric = Literal["exact_answer", "second_answer", "bits_per_byte"]


def evaluate(
    work: Work,
    *,
    model_folder: Path,
    shards_folder: Path | None,
    conversations_folder: Path | None,
    settings: Evaluate,
    runtime: Runtime,
    seed: int,
    progress: Progress | None = None,
) -> None:
    """Measure a model on what training never saw.

    Writes `scores.json` and, if the model was asked questions, `answers.jsonl` and `second_answers.jsonl`.

    Args:
        work: where to write.
        model_folder: model or release.
        shards_folder: its validation split gives bits per byte; None leaves that out.
        conversations_folder: its `heldout.jsonl` gives exact answers; None leaves that out.
        settings: `[evaluate]` of the recipe.
        runtime: device to compute on, in float32 whatever its dtype.
        seed: decides which documents and questions are taken, and the bootstrap draws.
        progress: called with a label, units done and units in all.

    Raises:
        InputError: if a folder is not what it should be, or there is nothing to measure.
    """
    from hanse.serve.engine import load_engine

    engine = load_engine(model_folder, runtime)
    rows: list[Score] = []
    if settings.exact_answer and conversations_folder is not None:
        rows += _exact_answer(work, engine, conversations_folder, settings, seed=seed, progress=progress)
    if settings.bits_per_byte and shards_folder is not None:
        rows += _bits_per_byte(work, engine, shards_folder, settings, seed=seed, progress=progress)
    save_scores(rows, work.folder / "scores.json")


def _exact_answer(
    work: Work, engine: Engine, conversations: Path, settings: Evaluate, *, seed: int, progress: Progress | None
) -> list[Score]:
    from hanse.evaluate import exact_answer

    items = exact_answer.choose(
        exact_answer.read_items(conversations / "heldout.jsonl"), per_language=settings.items_per_language, seed=seed
    )
    answers = exact_answer.answer(engine, items, progress=progress)
    second = exact_answer.answer(engine, exact_answer.as_second(answers, seed=seed), progress=progress)
    work.note(questions=len(answers), right_answers=sum(answer.is_correct for answer in answers))
    work.note(second_questions=len(second), right_second_answers=sum(answer.is_correct for answer in second))
    _save_answers(answers, work.folder / "answers.jsonl")
    _save_answers(second, work.folder / "second_answers.jsonl")

    def scores(given: Sequence[Answer], metric: Metric) -> list[Score]:
        return scores_of([each.measured() for each in given], metric, resamples=settings.bootstrap, seed=seed)

    return scores(answers, "exact_answer") + scores(second, "second_answer")


def _save_answers(answers: Iterable[Answer], path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(answer.row(), ensure_ascii=False) + "\n" for answer in answers)


def _bits_per_byte(
    work: Work, engine: Engine, shards: Path, settings: Evaluate, *, seed: int, progress: Progress | None
) -> list[Score]:
    from hanse.evaluate import bits_per_byte
    from hanse.serve.detokenize import token_bytes

    documents = bits_per_byte.choose(
        shards,
        bytes_per_language=settings.validation_bytes_per_language,
        seed=seed,
        sizes=[len(piece) for piece in token_bytes(engine.tokenizer)],
    )
    bits = bits_per_byte.bits(engine.model, documents, progress=progress)
    work.note(
        validation_documents=len(documents),
        validation_tokens=sum(len(document.tokens) for document in documents),
        validation_bytes=sum(document.bytes for document in documents),
    )
    measured = bits_per_byte.measure(documents, bits)
    return scores_of(measured, "bits_per_byte", resamples=settings.bootstrap, seed=seed)


@dataclass(frozen=True)
class Measured:
    """One item: a question (numerator 1 if answered rightly, denominator 1) or a document (bits, bytes)."""

    language: str
    task: str
    numerator: float
    denominator: float


@dataclass(frozen=True)
class Score:
    """One row of `scores.json`.

    Attributes:
        language: code, or "mean": the unweighted mean over the languages.
        task: kind of question (exact_answer) or source (bits_per_byte), or "all": every item of the language alike.
        metric: "exact_answer" (share of right answers, 0 to 1), "second_answer" (the same, as the second question of
            a conversation) or "bits_per_byte".
        value, low, high: the figure and its bootstrap 95 % interval.
        n: questions, or documents.
    """

    language: str
    task: str
    metric: Metric
    value: float
    low: float
    high: float
    n: int


def scores_of(items: Iterable[Measured], metric: Metric, *, resamples: int, seed: int) -> list[Score]:
    """Rows per language and task, per language over all tasks, and their means over languages."""
    groups: dict[tuple[str, str], list[Measured]] = defaultdict(list)
    for item in items:
        groups[item.language, item.task].append(item)
        groups[item.language, ALL].append(item)
    estimates: dict[tuple[str, str], Estimate] = {}
    drawn: dict[tuple[str, str], Floats] = {}
    for language, task in sorted(groups):
        members = groups[language, task]
        numerators = np.array([item.numerator for item in members], dtype=np.float64)
        denominators = np.array([item.denominator for item in members], dtype=np.float64)
        key = f"{seed}/{metric}/{language}/{task}"
        drawn[language, task] = replicates(numerators, denominators, resamples=resamples, key=key)
        estimates[language, task] = estimate(numerators, denominators, drawn[language, task])
    rows = [_score(language, task, metric, estimates[language, task]) for language, task in sorted(groups)]
    for task in sorted({task for _, task in groups}):
        members_of_task = [pair for pair in sorted(groups) if pair[1] == task]
        mean = mean_of([estimates[pair] for pair in members_of_task], [drawn[pair] for pair in members_of_task])
        rows.append(_score(MEAN, task, metric, mean))
    return rows


def _score(language: str, task: str, metric: Metric, found: Estimate) -> Score:
    # Nine digits: enough for any reader, and equal on machines that differ in the last bits of a sum.
    value, low, high = (round(number, 9) for number in (found.value, found.low, found.high))
    return Score(language, task, metric, value, low, high, found.n)


def save_scores(rows: Sequence[Score], path: Path) -> None:
    """Write `scores.json`, one row a line."""
    lines = ",\n".join("  " + json.dumps(asdict(row), ensure_ascii=False) for row in rows)
    path.write_text(f"[\n{lines}\n]\n" if rows else "[]\n", encoding="utf-8")


def load_scores(path: Path) -> list[Score]:
    """Read `scores.json`."""
    return [Score(**row) for row in json.loads(path.read_text(encoding="utf-8"))]


# --------------------------------------------------------------------------- the table of the languages


@dataclass(frozen=True)
class LanguageRow:
    """What one language reached; None where it was not measured.

    Attributes:
        code, name: the language, or "mean" and "".
        exact_answer: share of right answers over all tasks, with its interval `low` to `high`.
        second_answer: share of right answers to the same questions, asked second.
        bits_per_byte: over all held-out documents.
        premium: tokens needed for the same text, as a multiple of English.
    """

    code: str
    name: str
    exact_answer: float | None
    low: float | None
    high: float | None
    second_answer: float | None
    bits_per_byte: float | None
    premium: float | None


def language_rows(scores: Iterable[Score], premium: Mapping[str, float] | None = None) -> list[LanguageRow]:
    """One row a language in the order of their codes, and the mean last."""
    found: dict[str, dict[str, Score]] = defaultdict(dict)
    for score in scores:
        if score.task == ALL:
            found[score.language][score.metric] = score
    codes = sorted(code for code in found if code != MEAN) + ([MEAN] if MEAN in found else [])
    rows = []
    for code in codes:
        exact, second = found[code].get("exact_answer"), found[code].get("second_answer")
        bits = found[code].get("bits_per_byte")
        rows.append(
            LanguageRow(
                code=code,
                name=LANGUAGES[code].name if code in LANGUAGES else "",
                exact_answer=exact.value if exact else None,
                low=exact.low if exact else None,
                high=exact.high if exact else None,
                second_answer=second.value if second else None,
                bits_per_byte=bits.value if bits else None,
                premium=(premium or {}).get(code),
            )
        )
    return rows


def as_table(rows: Sequence[LanguageRow]) -> Table:
    """The rows for a terminal; a column that no row fills is left out."""
    from rich.table import Table

    columns: list[tuple[str, Any]] = [("language", lambda row: f"{row.code}  {row.name}".rstrip())]
    if any(row.exact_answer is not None for row in rows):
        columns.append(("exact answer", lambda row: _cell(row.exact_answer, "{:.1%}")))
        columns.append(("95 % interval", _interval))
    if any(row.second_answer is not None for row in rows):
        columns.append(("asked 2nd", lambda row: _cell(row.second_answer, "{:.1%}")))
    if any(row.bits_per_byte is not None for row in rows):
        columns.append(("bits/byte", lambda row: _cell(row.bits_per_byte, "{:.3f}")))
    if any(row.premium is not None for row in rows):
        columns.append(("tokens/en", lambda row: _cell(row.premium, "{:.2f}")))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, (title, _) in enumerate(columns):
        table.add_column(title, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(cell(row) for _, cell in columns), style="bold" if row.code == MEAN else None)
    return table


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _interval(row: LanguageRow) -> str:
    return "-" if row.low is None or row.high is None else f"{row.low:.1%} - {row.high:.1%}"
