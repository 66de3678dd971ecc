"""Conversations for tuning and evaluation: gathered from the atlas and from JSON lines, checked, split, and counted.

One JSON object a line: `id`, `language`, `messages` (role and content), and where there is one right answer, `task`,
`answer` and `answer_en`. What the atlas holds out is a phrasing; other sources hold out whole conversations.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanse.data.rights.licence import is_allowed, reservation_reasons
from hanse.data.schema import BadRecord
from hanse.data.sources import BrokenFile, find_files, jsonl_records
from hanse.errors import InputError

if TYPE_CHECKING:
    from hanse.recipe import Curate, Source
    from hanse.store.stage import Work
    from hanse.trace.withdrawal import Withdrawal

ROLES = ("system", "user", "assistant", "tool")
SPLITS = ("train", "heldout")
WITHDRAWN = "withdrawn"
AT_ONCE = 4096  # conversations that are held against the withdrawals


def gather(
    work: Work,
    sources: Sequence[Source],
    settings: Curate,
    *,
    languages: tuple[str, ...],
    seed: int,
    withdrawals: Sequence[Withdrawal] = (),
) -> None:
    """Write the conversations artifact: `train.jsonl`, `heldout.jsonl`, `quarantine.jsonl`, `counts.json`.

    Args:
        work: where the artifact is written.
        sources: of kind atlas or conversations.
        settings: the licence allow-list and the share of records that may be broken.
        languages: conversations in others are left out and counted.
        seed: of the atlas and of the split.
        withdrawals: what they mean is left out and counted.

    Raises:
        InputError: a source cannot be read, too much of it is broken, or nothing is left to train on.
    """
    counts: Counter[str] = Counter()
    with (
        (work.folder / "train.jsonl").open("w", encoding="utf-8") as train,
        (work.folder / "heldout.jsonl").open("w", encoding="utf-8") as heldout,
        (work.folder / "quarantine.jsonl").open("w", encoding="utf-8") as quarantine,
    ):
        outputs = {"train": train, "heldout": heldout}
        for source in sources:
            kept = _Kept(outputs, counts, source, withdrawals)
            bad = 0
            read = 0
            for place, record in _records(source, languages, seed):
                read += 1
                try:
                    row = _checked(record, source, settings)
                except BadRecord as fault:
                    bad += 1
                    _write(quarantine, {"source": source.name, **place, "reason": fault.reason, "detail": fault.detail})
                    continue
                if row["language"] not in languages:
                    counts[f"dropped/language-not-asked-for/{row['language']}"] += 1
                    continue
                split = row.pop("split", None) or _split(row["id"], source.heldout_share, seed)
                kept.add(split, row)
            kept.flush()
            if bad > settings.max_quarantine_share * read:
                raise InputError(
                    f"source '{source.name}': {bad} of {read} conversations are broken, over the limit of "
                    f"{settings.max_quarantine_share:.0%}; mend the file or raise [curate] max_quarantine_share."
                )
            if not any(key.startswith(f"train/{source.name}/") for key in counts):
                raise InputError(f"source '{source.name}': no conversation to train on in the languages asked for.")
    (work.folder / "counts.json").write_text(json.dumps(dict(sorted(counts.items())), indent=1) + "\n")
    work.note(conversations={split: _total(counts, split) for split in SPLITS}, sources=_declared(sources))


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The conversations of one file of the artifact, in order."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def texts(folder: Path) -> Iterator[str]:
    """The words of the training conversations, for the tokenizer to learn from."""
    for conversation in read(folder / "train.jsonl"):
        yield "\n".join(message.get("content") or "" for message in conversation["messages"])


class _Kept:
    """Writes the conversations of a source, some thousand at a time, without those that were withdrawn."""

    def __init__(
        self, outputs: Mapping[str, Any], counts: Counter[str], source: Source, withdrawals: Sequence[Withdrawal]
    ) -> None:
        self._outputs, self._counts, self._source, self._withdrawals = outputs, counts, source.name, withdrawals
        self._held: list[tuple[str, dict[str, Any]]] = []

    def add(self, split: str, row: dict[str, Any]) -> None:
        """Take in one that may be used."""
        self._held.append((split, row))
        if len(self._held) >= AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Write what was taken in, and count it."""
        for (split, row), leaves in zip(self._held, self._leaving(), strict=True):
            place = f"dropped/{WITHDRAWN}" if leaves else split
            self._counts[f"{place}/{self._source}/{row['language']}"] += 1
            if not leaves:
                _write(self._outputs[split], {**row, "source": self._source})
        self._held = []

    def _leaving(self) -> list[bool]:
        if not self._withdrawals or not self._held:
            return [False] * len(self._held)
        from hanse.trace.leaving import conversation_table, matches

        rows = [{**row, "source": self._source, "collection": row.get("source")} for _, row in self._held]
        return matches(self._withdrawals, conversation_table(rows)).tolist()


def _records(source: Source, languages: tuple[str, ...], seed: int) -> Iterator[tuple[dict[str, Any], object]]:
    if source.kind == "atlas":
        from hanse.data import atlas

        for number, conversation in enumerate(atlas.conversations(languages, seed), 1):
            yield {"file": "atlas", "line": number}, conversation
        return
    for path, name in find_files(source):
        try:
            for line, record in jsonl_records(path):
                yield {"file": name, "line": line}, record
        except BrokenFile as error:
            yield {"file": name, "line": 0}, BadRecord("broken-file", str(error))
        except OSError as error:
            raise InputError(f"source '{source.name}': {path} cannot be read ({error.strerror}).") from None


def _checked(record: object, source: Source, settings: Curate) -> dict[str, Any]:
    """The conversation as a row of ours, or BadRecord."""
    if isinstance(record, BadRecord):
        raise record
    if not isinstance(record, dict):
        raise BadRecord("not-an-object", "the line is JSON, but not an object")
    licence = record.get("licence") or source.licence
    if not licence:
        raise BadRecord("licence-missing", "'licence' is missing")
    if not isinstance(licence, str) or not is_allowed(licence, settings.licences):
        raise BadRecord("licence-not-allowed", f"licence {licence} is not allowed by [curate] licences")
    reservation = record.get("reservation", source.reservation)
    if reasons := reservation_reasons(str(reservation), on_unknown=settings.on_unknown_reservation):
        raise BadRecord(reasons[0], f"reservation is {reservation}")
    messages = record.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRecord("messages-missing", "'messages' is missing or empty")
    for message in messages:
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise BadRecord("role-unknown", f"a message has no role among {', '.join(ROLES)}")
        _check_text(message)
    if messages[-1]["role"] != "assistant":
        raise BadRecord("no-answer", "the last message is not the assistant's")
    if not isinstance(record.get("language"), str):
        raise BadRecord("language-missing", "'language' is missing")
    if "answer" in record and not (isinstance(record["answer"], str) and isinstance(record.get("task"), str)):
        raise BadRecord("task-missing", "'answer' can be scored only beside a 'task', both strings")
    if record.get("split") not in (None, *SPLITS):
        raise BadRecord("split-unknown", f"'split' is neither {' nor '.join(SPLITS)}")
    text = json.dumps(messages, ensure_ascii=False, sort_keys=True)
    return {"id": hashlib.sha256(text.encode()).hexdigest()[:32], **record, "licence": licence}


def _check_text(message: dict[str, Any]) -> None:
    content = message.get("content")
    if content in (None, "") and message.get("tool_calls"):
        return
    if not isinstance(content, str) or not content.strip():
        raise BadRecord("content-missing", "a message has no text")
    if "\0" in content:
        raise BadRecord("nul-character", "a message holds the character NUL")
    try:
        content.encode("utf-8")
    except UnicodeEncodeError:
        raise BadRecord("lone-surrogate", "a message holds half of a surrogate pair") from None


def _split(identity: str, heldout_share: float, seed: int) -> str:
    """The same conversation falls on the same side in every run with this seed."""
    draw = int.from_bytes(hashlib.sha256(f"{seed}/{identity}".encode()).digest()[:8])
    return "heldout" if draw < heldout_share * 2**64 else "train"


def _total(counts: Counter[str], split: str) -> int:
    return sum(number for key, number in counts.items() if key.startswith(f"{split}/"))


def _declared(sources: Iterable[Source]) -> list[dict[str, str]]:
    keys = ("name", "kind", "licence", "licence_basis", "rights_holder", "obtained")
    return [{key: str(getattr(source, key) or "") for key in keys} for source in sources]


def _write(file: Any, row: dict[str, Any]) -> None:
    file.write(json.dumps(row, ensure_ascii=False) + "\n")
