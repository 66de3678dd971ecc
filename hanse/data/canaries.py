"""Canaries: random texts that curation can place in the training split, so that learning by heart can be measured.

After Carlini et al., "The Secret Sharer" (USENIX Security 2019, arXiv:1802.08232): all canaries have one form and a
random part that no text holds by chance. If the model finds a placed one likelier than others of that form, it learnt
it by heart; `hanse.evaluate.canary_exposure` measures by how much.

A canary is placed as often as `canary_repeats` says, each time as a document of its own. Copies differ in their last
line only, which says so: nothing before it depends on it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from hanse.data.schema import INGEST, Defaults, check_record
from hanse.errors import InputError

if TYPE_CHECKING:
    from hanse.recipe import Curate, Source
    from hanse.store.stage import Work

SOURCE = "canary"  # the source that canary documents name, and their flag
FILE = "canaries.jsonl"
LICENCE = "CC0-1.0"
FORM = "Canary:"
GROUPS, LETTERS = 5, 5  # of the random part: 26 ** 25 texts, so none is met by chance
_ALPHABET = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Canary:
    """A random text and how many documents of the training split hold it; from 1 on it has a number."""

    number: int
    text: str
    repeats: int


def make(count: int, repeats: Sequence[int], *, seed: int) -> tuple[Canary, ...]:
    """The canaries of a dataset; the frequencies take turns.

    Args:
        count: how many different ones.
        repeats: documents of each, for the first, the second, and so on, and then from the start again.
        seed: another seed, other canaries.
    """
    return tuple(
        Canary(number, _text(f"{seed}/canary/{number}"), repeats[(number - 1) % len(repeats)])
        for number in range(1, count + 1)
    )


def candidates(count: int, *, seed: int) -> list[str]:
    """Texts of the same form that are placed nowhere."""
    return [_text(f"{seed}/candidate/{number}") for number in range(count)]


def place(
    work: Work,
    parts: Path,
    number: int,
    sources: Sequence[Source],
    settings: Curate,
    *,
    languages: Sequence[str],
    seed: int,
) -> list[Path]:
    """Write the canaries that the recipe asks for as one more annotated part, and `canaries.jsonl` into the dataset.

    To be called once copies are found and validation is chosen, so that every canary stays, and stays in training. They
    are filed under the recipe's first language, since shards are kept by language, and they count in its documents.

    Args:
        work: of the dataset.
        parts: the folder of annotated parts.
        number: of the part.
        sources: the recipe's; none may be called like the canaries.
        settings: the recipe's [curate].
        languages: of the recipe.
        seed: of the dataset.

    Returns:
        The part; nothing where the recipe wants no canaries.

    Raises:
        InputError: a source has the canaries' name.
    """
    from hanse.data.parts import ROW_BITS  # here, because readers of canaries need none of curation

    if not settings.canaries:
        return []
    if any(source.name == SOURCE for source in sources):
        raise InputError(f"source '{SOURCE}': this name belongs to the canaries of [curate]; give the source another.")
    made = make(settings.canaries, settings.canary_repeats, seed=seed)
    rows = [
        {**row, "ordinal": (number << ROW_BITS) + place, "rank": place, "line": place + 1}
        for place, row in enumerate(_rows(made, languages[0]))
    ]
    path = parts / f"{SOURCE}.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=INGEST), path, compression="zstd")
    with (work.folder / FILE).open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(asdict(canary)) + "\n" for canary in made)
    work.note(canaries=len(made), canary_documents=len(rows))
    return [path]


def read(dataset: Path) -> tuple[Canary, ...]:
    """The canaries of a dataset folder; none where it holds none.

    Raises:
        InputError: `canaries.jsonl` cannot be read.
    """
    path = dataset / FILE
    try:
        return tuple(Canary(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines())
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); make the dataset again.") from None


def _rows(canaries: Sequence[Canary], language: str) -> Iterator[dict[str, Any]]:
    """A document for each copy, as annotation would leave it."""
    defaults = Defaults(source=SOURCE, licence=LICENCE, licence_basis="generated", reservation="none")
    for canary in canaries:
        for copy in range(1, canary.repeats + 1):
            record = {
                "id": f"{SOURCE}/{canary.number}/{copy}",
                "text": f"{canary.text}\nCopy {copy} of {canary.repeats}.",
                "language": language,
                "title": f"Canary {canary.number}",
                "extra": {"canary": canary.number, "copy": copy, "repeats": canary.repeats},
            }
            row = check_record(record, defaults)
            about = {"file": FILE, "characters": len(record["text"]), "evidence": [], "pii": [], "contamination": []}
            yield {**row, **about, "flags": [SOURCE], "drop_reason": []}


def _text(key: str) -> str:
    """The form, and random letters by a keyed hash."""
    number = int.from_bytes(hashlib.sha256(key.encode()).digest())
    groups = []
    for _ in range(GROUPS):
        group = ""
        for _ in range(LETTERS):
            number, letter = divmod(number, len(_ALPHABET))
            group += _ALPHABET[letter]
        groups.append(group)
    return f"{FORM} {' '.join(groups)}"
