"""Conversations learnt by heart: asked as in tuning, does the model give the recorded answer, word for word?

An answer of few tokens may be the only right one, so it is counted apart from a long one; and the same is asked of
conversations that were held out, as the control.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanse.data import conversations as talk
from hanse.errors import InputError
from hanse.evaluate.extraction import PROMPTS_AT_ONCE, longest_run
from hanse.tune.template import Rendered, render_all

if TYPE_CHECKING:
    from hanse.serve.engine import Engine

Progress = Callable[[str, int, int | None], None]
#: Tokens from which on an answer counts as long.
LONG_ANSWER = 16


@dataclass(frozen=True)
class Turn:
    """The last answer of a conversation.

    Attributes:
        prompt: tokens of all before it.
        answer: its tokens, without the one that ends it.
    """

    id: str
    split: str
    source: str
    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    @property
    def is_long(self) -> bool:
        """Whether the answer has LONG_ANSWER tokens or more."""
        return len(self.answer) >= LONG_ANSWER


@dataclass(frozen=True)
class Recital:
    """What the model answered: the very answer or not, and the characters of the longest run that the two share."""

    turn: Turn
    is_extracted: bool
    longest: int


@dataclass(frozen=True)
class Drawn:
    """Conversations that are tested.

    Attributes:
        conversations: source -> how many there are.
        never_shown: source -> how many of these tuning never showed; None where that is not known, and in the control.
        rows: those drawn, source by source.
    """

    conversations: Counter[str]
    never_shown: Counter[str] | None
    rows: list[dict[str, Any]]


def draw(path: Path, sources: Collection[str], *, most: int, seed: int, shown: Collection[int] | None = None) -> Drawn:
    """Choose of each source so many conversations, by a keyed hash of their ids.

    Args:
        path: `train.jsonl` or `heldout.jsonl`; one that is missing holds none.
        sources: those that count.
        most: of each source.
        seed: of the hash.
        shown: numbers of the lines, from 0, that tuning showed; None where that is not known.

    Raises:
        InputError: a line is no conversation.
    """
    counts: Counter[str] = Counter()
    never: Counter[str] = Counter()
    kept: dict[str, list[tuple[int, int, dict[str, Any]]]] = {}
    try:
        for number, row in enumerate(talk.read(path) if path.is_file() else ()):
            if row["source"] not in sources:
                continue
            counts[row["source"]] += 1
            if shown is not None and number not in shown:
                never[row["source"]] += 1
                continue
            held = kept.setdefault(row["source"], [])
            word = hashlib.sha256(f"{seed}/memorisation/{row['id']}".encode()).digest()[:8]
            heapq.heappush(held, (-int.from_bytes(word), number, row))  # the largest hash on top
            if len(held) > most:
                heapq.heappop(held)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: holds a line that is no conversation ({error}); make it again.") from None
    rows = [row for source in sorted(kept) for _, _, row in sorted(kept[source], reverse=True)]
    return Drawn(counts, None if shown is None else never, rows)


def turns(engine: Engine, rows: Sequence[dict[str, Any]], split: str) -> Iterator[Turn]:
    """The last answers as the model was taught them; one that does not fit into its context is left out."""
    before = render_all(engine.tokenizer, [row["messages"][:-1] for row in rows], add_generation_prompt=True)
    whole = render_all(engine.tokenizer, [row["messages"] for row in rows])
    for row, prompt, full in zip(rows, before, whole, strict=True):
        answer = _answer(prompt, full, engine.end_ids)
        if answer and len(prompt.ids) + len(answer) < engine.context:
            yield Turn(str(row["id"]), split, str(row["source"]), tuple(prompt.ids), answer)


def _answer(prompt: Rendered, full: Rendered, end_ids: frozenset[int]) -> tuple[int, ...]:
    start = len(prompt.ids)
    if full.ids[:start] != prompt.ids:  # the template writes earlier turns otherwise: nobody was taught this
        return ()
    own = [token for token, is_own in zip(full.ids[start:], full.is_assistant[start:], strict=True) if is_own]
    return tuple(token for token in own if token not in end_ids)


def recite(engine: Engine, asked: Sequence[Turn], *, progress: Progress | None = None) -> Iterator[Recital]:
    """Ask each question once, greedily; an answer counts if it is the recorded one and ends where that ends."""
    for start in range(0, len(asked), PROMPTS_AT_ONCE):
        some = asked[start : start + PROMPTS_AT_ONCE]
        given = engine.complete([turn.prompt for turn in some], max_tokens=[len(turn.answer) + 1 for turn in some])
        for turn, ids in zip(some, given, strict=True):
            run = longest_run(engine.text(turn.answer), engine.text(ids))
            yield Recital(turn, tuple(ids) == turn.answer, run)
        if progress is not None:
            progress("conversations", start + len(some), len(asked))
