"""Running text and conversations from the facts of atlas, the same bytes for the same languages and seed."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hanse.data.atlas.facts import FACTS_PER_TASK, Fact, select
from hanse.data.atlas.phrasings import FOLDER, TITLES, Phrasings, load, render

#: Probability that a training conversation goes on to another question, after each of its answers.
GOES_ON = 1 / 8
_CHUNK = 12  # facts in one document of dates, numbers or sums


def _facts(language: str, facts_per_task: Mapping[str, int] | None) -> list[Fact]:
    """The chosen facts, less the tasks that the language skips."""
    phrasings, _ = load(language)
    facts = select(language, FACTS_PER_TASK if facts_per_task is None else facts_per_task)
    return [fact for fact in facts if not phrasings[fact.task].skip]


def _random(*parts: object) -> random.Random:
    # A string seed goes through SHA-512, so it is the same in every process, unlike hash().
    return random.Random("/".join(map(str, parts)))


def _groups(facts: Sequence[Fact]) -> Iterator[tuple[str, str, list[Fact]]]:
    """Name, topic and facts of each document: a country, the week, the months, a run of dates, numbers or sums."""
    topics: dict[str, list[Fact]] = {}
    for fact in facts:
        topics.setdefault(fact.topic, []).append(fact)
    for topic, members in topics.items():
        size = len(members) if topic in ("week", "months") or topic not in TITLES else _CHUNK
        for start in range(0, len(members), size):
            part = f"-{start // size}" if len(members) > size else ""
            yield f"{topic}{part}", topic, members[start : start + size]


def _title(topic: str, members: Sequence[Fact], titles: Mapping[str, str]) -> str:
    if topic in TITLES:
        return titles[topic]
    return next((f.answer if f.task == "country" else f.given) for f in members)


def documents(
    languages: Sequence[str],
    seed: int,
    *,
    facts_per_task: Mapping[str, int] | None = None,
    passes: int = 3,
) -> Iterator[dict[str, str]]:
    """Running text: each document states several facts, each fact once a pass in another wording.

    Args:
        languages: codes among the 24; the order is kept.
        seed: decides the order of the statements and which wording comes in which pass.
        facts_per_task: how many facts a task has; `FACTS_PER_TASK` unless told.
        passes: how often every fact is stated. Beyond the number of wordings (3) sentences repeat.

    Yields:
        Dictionaries with id, text, language, title and task ("country", "week", "months", "dates", "numbers", "sums").

    Raises:
        InputError: a language that atlas does not have, or a faulty file of phrasings.
    """
    for language in languages:
        phrasings, titles = load(language)
        groups = list(_groups(_facts(language, facts_per_task)))
        for number in range(passes):
            for name, topic, members in groups:
                turn = _random(seed, language, name)
                offset = {fact.id: turn.randrange(3) for fact in members}
                order = list(members)
                _random(seed, language, name, number).shuffle(order)
                yield {
                    "id": f"atlas/{language}/{name}/{number}",
                    "text": " ".join(_statement(f, phrasings[f.task], offset[f.id] + number) for f in order),
                    "language": language,
                    "title": _title(topic, members, titles),
                    "task": topic if topic in TITLES else "country",
                }


def _statement(fact: Fact, phrasings: Phrasings, turn: int) -> str:
    return render(phrasings.statements[turn % len(phrasings.statements)], fact.given, fact.answer)


def conversations(
    languages: Sequence[str],
    seed: int,
    *,
    facts_per_task: Mapping[str, int] | None = None,
    phrasings_per_fact: int | None = None,
) -> Iterator[dict[str, Any]]:
    """Questions with exact answers: for tuning in some phrasings, for evaluation in phrasings never seen in training.

    The held-out split asks every fact once, so what is new is the wording, never the fact. Within a language both
    splits are shuffled: any first N items are a fair sample of the tasks.

    Training asks each question once, some of them in one conversation with others that they have nothing to do with: a
    model tuned on single questions answered 30 % of second ones rightly. Held-out conversations have one question;
    evaluation puts another before it.

    Args:
        languages: codes among the 24; the order is kept.
        seed: decides which phrasings a fact gets and the order.
        facts_per_task: how many facts a task has; `FACTS_PER_TASK` unless told.
        phrasings_per_fact: how many of a task's training phrasings (7 to 11) each fact is asked in; all unless told.
            Measured with a 1.4M-parameter model on 400,000 tokens of Irish: asked in 3 phrasings a fact, 65 % of the
            held-out questions were answered; asked in all, so in fewer epochs, 84 %. Save on epochs, not on wordings.

    Yields:
        Conversations with id, language, task, messages, split ("train" or "heldout"), fact, answer and answer_en; of
        several questions it is the last that these are about.

    Raises:
        InputError: a language that atlas does not have, or a faulty file of phrasings.
    """
    for language in languages:
        phrasings, _ = load(language)
        for split in ("train", "heldout"):
            items = []
            for position, fact in enumerate(_facts(language, facts_per_task)):
                wordings = getattr(phrasings[fact.task], split)
                count = _count(len(wordings), phrasings_per_fact) if split == "train" else 1
                for turn in range(count):
                    index = (position + turn) % len(wordings)
                    items.append(_conversation(fact, language, split, index, wordings[index]))
            _random(seed, language, split).shuffle(items)
            yield from items if split == "heldout" else _joined(items, _random(seed, language, "joined"))


def _count(wordings: int, wanted: int | None) -> int:
    return wordings if wanted is None else min(wordings, wanted)


def _joined(items: Sequence[dict[str, Any]], draw: random.Random) -> Iterator[dict[str, Any]]:
    """The same questions in the same order, some of them in one conversation."""
    messages: list[dict[str, str]] = []
    for number, item in enumerate(items, 1):
        messages += item["messages"]
        if number == len(items) or draw.random() >= GOES_ON:
            yield {**item, "messages": messages}
            messages = []


def _conversation(fact: Fact, language: str, split: str, index: int, template: str) -> dict[str, Any]:
    return {
        "id": f"atlas/{language}/{fact.id}/{split}-{index}",
        "language": language,
        "task": fact.task,
        "messages": [
            {"role": "user", "content": render(template, fact.given)},
            {"role": "assistant", "content": fact.answer},
        ],
        "split": split,
        "fact": fact.id,
        "answer": fact.answer,
        "answer_en": fact.answer_en,
    }


def skipped(language: str) -> dict[str, str]:
    """The tasks a language does not have, with the reason."""
    phrasings, _ = load(language)
    return {task: entry.skip for task, entry in phrasings.items() if entry.skip}


def sources() -> list[dict[str, str]]:
    """What the text was made from, for the provenance record: name, version, licence (SPDX), purpose.

    The text depends on these versions: a newer Babel carries a newer CLDR, and names change there.
    """
    tables = hashlib.sha256()
    for path in (Path(__file__).parent / "facts.toml", *sorted(FOLDER.glob("*.toml"))):
        tables.update(path.read_bytes())
    return [
        {
            "name": "Unicode CLDR, as shipped in Babel",
            "version": f"babel {version('babel')}",
            "licence": "Unicode-3.0",
            "purpose": "names of countries, capitals, currencies, languages, weekdays and months; forms of dates",
        },
        {
            "name": "num2words",
            "version": version("num2words"),
            "licence": "LGPL-2.1-or-later",
            "purpose": "numbers in words in 18 languages",
        },
        {
            "name": "unicode-rbnf (rules of Unicode CLDR)",
            "version": version("unicode-rbnf"),
            "licence": "MIT AND Unicode-3.0",
            "purpose": "numbers in words in Bulgarian, Croatian, Estonian, Greek, Irish and Maltese",
        },
        {
            "name": "Hanse atlas tables (facts.toml, phrasings)",
            "version": f"sha256:{tables.hexdigest()}",
            "licence": "Apache-2.0",
            "purpose": "years of accession, currencies, official languages, neighbours, corrections, all wordings",
        },
    ]
