"""Exact answers: the share of held-out questions to which the greedy answer is the expected one, letter by letter.

A question counts only if its answer differs from the English one: otherwise a model that answers everything in English
would look multilingual (up to 125 of 249 country names are the same in Danish). In English every question counts.

Each question is asked alone, and once more as the second of a conversation.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanse.errors import InputError
from hanse.evaluate.scores import Measured
from hanse.tune.template import encode_text, render_all

if TYPE_CHECKING:
    from hanse.serve.engine import Engine

Progress = Callable[[str, int, int | None], None]
#: Prompts between two reports of progress; more in one call means fewer, fuller batches.
PROMPTS_AT_ONCE = 4096


@dataclass(frozen=True)
class Item:
    """A question with its expected answer; `messages` end before the answer."""

    id: str
    language: str
    task: str
    messages: tuple[Mapping[str, Any], ...]
    expected: str


@dataclass(frozen=True)
class Answer:
    """What the model gave for an item."""

    item: Item
    given: str

    @property
    def is_correct(self) -> bool:
        """Same text after NFC and without white space around it; upper and lower case are not the same."""
        return normalise(self.given) == normalise(self.item.expected)

    def measured(self) -> Measured:
        return Measured(self.item.language, self.item.task, float(self.is_correct), 1.0)

    def row(self) -> dict[str, Any]:
        """The line of `answers.jsonl`."""
        return {
            "id": self.item.id,
            "language": self.item.language,
            "task": self.item.task,
            "before": [message.get("content") for message in self.item.messages[:-1]],
            "question": self.item.messages[-1]["content"] if self.item.messages else "",
            "expected": self.item.expected,
            "given": self.given,
            "correct": self.is_correct,
        }


def normalise(text: str) -> str:
    """NFC, stripped: what two spellings of one answer may differ in."""
    return unicodedata.normalize("NFC", text).strip()


def read_items(path: Path) -> Iterator[Item]:
    """The questions of a `heldout.jsonl` that count.

    Raises:
        InputError: if the file is missing, or a line is no conversation that ends with an answer.
    """
    if not path.is_file():
        raise InputError(f"{path}: is missing; name a folder of conversations that holds some out.")
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                item = _item(json.loads(line))
            except (ValueError, KeyError, TypeError, IndexError) as error:
                raise InputError(
                    f"{path}, line {number}: no conversation that ends with an answer ({error})."
                ) from error
            if item is not None:
                yield item


def _item(row: Mapping[str, Any]) -> Item | None:
    messages = row["messages"]
    if messages[-1]["role"] != "assistant":
        raise ValueError("the last message is not the assistant's")
    expected = row.get("answer")
    if expected is None:  # conversation without one right answer
        return None
    in_english = row.get("answer_en")
    if row["language"] != "en" and in_english is not None and normalise(in_english) == normalise(expected):
        return None
    return Item(row["id"], row["language"], row["task"], tuple(messages[:-1]), expected)


def choose(items: Iterable[Item], *, per_language: int, seed: int) -> list[Item]:
    """At most `per_language` items of each language, drawn by a keyed hash of their ids; sorted by language and id."""
    of_language: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        of_language[item.language].append(item)

    def draw(item: Item) -> bytes:
        return hashlib.sha256(f"{seed}/exact_answer/{item.id}".encode()).digest()

    return [
        item
        for language in sorted(of_language)
        for item in sorted(sorted(of_language[language], key=draw)[:per_language], key=lambda item: item.id)
    ]


def as_second(answers: Iterable[Answer], *, seed: int) -> list[Item]:
    """The same questions, each behind another one of its language and what the model answered to that, right or wrong.

    A keyed hash of the ids decides which stands before which, so each question stands before one other. Only questions
    that are all there is before the answer are taken, and only in a language that has two of them.

    Args:
        answers: to the questions, asked alone.

    Returns:
        Items sorted by language and id.
    """
    of_language: dict[str, list[Answer]] = defaultdict(list)
    for answered in answers:
        if len(answered.item.messages) == 1:
            of_language[answered.item.language].append(answered)

    def draw(answered: Answer) -> bytes:
        return hashlib.sha256(f"{seed}/second_answer/{answered.item.id}".encode()).digest()

    items = []
    for members in of_language.values():
        order = sorted(members, key=draw)
        for before, after in pairwise([order[-1], *order]) if len(order) > 1 else ():
            said = {"role": "assistant", "content": before.given}
            items.append(replace(after.item, messages=(*before.item.messages, said, *after.item.messages)))
    return sorted(items, key=lambda item: (item.language, item.id))


def answer(engine: Engine, items: Sequence[Item], *, progress: Progress | None = None) -> list[Answer]:
    """Ask every question once, greedily. One that leaves no room for an answer in the context gets an empty one."""
    prompts = render_all(engine.tokenizer, [item.messages for item in items], add_generation_prompt=True)
    # An answer may be spelled with other tokens than ours, but one far longer than the expected text is wrong anyway.
    limits = [2 * len(encode_text(engine.tokenizer, item.expected)) + 4 for item in items]
    # Alike lengths together: rows of a batch have the same length, and a slice should fill its batches.
    order = sorted(range(len(items)), key=lambda index: (len(prompts[index].ids), index))
    given = {index: "" for index in order if len(prompts[index].ids) >= engine.context}
    order = [index for index in order if index not in given]
    for start in range(0, len(order), PROMPTS_AT_ONCE):
        slice_ = order[start : start + PROMPTS_AT_ONCE]
        completions = engine.complete(
            [prompts[index].ids for index in slice_], max_tokens=[limits[index] for index in slice_]
        )
        given |= {index: engine.text(ids) for index, ids in zip(slice_, completions, strict=True)}
        if progress is not None:
            progress("questions", len(given), len(items))
    return [Answer(item, given[index]) for index, item in enumerate(items)]
