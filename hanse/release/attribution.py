"""Whose words a model was trained on: the roll-up of licences, sources and authors over the document tables."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hanse.errors import InputError
from hanse.store.documents import TABLE, count_documents
from hanse.store.stage import Artifact

#: Authors listed by name for one source; the rest is in the document table.
MOST_AUTHORS = 1000
_COLUMNS = ("licence", "source", "rights_holder", "author")
_SHARE_ALIKE = ("-SA-", "GPL-", "ODbL-", "GFDL-", "EUPL-", "MPL-", "CDLA-Sharing-", "OSL-", "CECILL-")


@dataclass(frozen=True)
class Credit:
    """Texts that share licence, source, rights holder and author: how many, and their bytes in UTF-8.

    Attributes:
        kind: `documents` or `conversations`.
    """

    kind: str
    licence: str
    source: str
    rights_holder: str
    author: str
    texts: int
    bytes: int


def credits(ancestors: Iterable[Artifact]) -> list[Credit]:
    """What was trained on, from the document tables of the datasets and the lines of the conversations.

    Only what was kept counts; held-out conversations are left out, for nothing was trained on them.

    Raises:
        InputError: a dataset has no document table, so nobody could be named.
    """
    found: list[Credit] = []
    for artifact in ancestors:
        if artifact.kind == "dataset":
            table = artifact.path / TABLE
            if not table.is_file():
                raise InputError(f"{artifact.ref}: has no {TABLE}, so its authors cannot be named.")
            groups = count_documents(table, _COLUMNS)
            found += [_credit("documents", group.key, group.documents, group.bytes) for group in groups]
        elif artifact.kind == "conversations":
            found += _conversation_credits(artifact)
    return found


def flags(licence: str) -> list[str]:
    """What a licence asks of whoever passes the text or a derivative on; empty when only attribution or nothing."""
    marked = f"-{licence}-"
    asked = []
    if any(sign in marked for sign in _SHARE_ALIKE):
        asked.append("share-alike")
    if "-NC-" in marked:
        asked.append("non-commercial")
    if "-ND-" in marked:
        asked.append("no derivatives")
    return asked


def attribution(found: Sequence[Credit]) -> str:
    """`ATTRIBUTION.md`: per licence, per source and rights holder, the authors, with texts and bytes."""
    lines = ["# Attribution", "", "The model was trained on the texts of these people and institutions.", ""]
    lines += ["| licence | asks for | texts | bytes |", "|---|---|---:|---:|"]
    by_licence: dict[str, list[Credit]] = {}
    for credit in found:
        by_licence.setdefault(credit.licence, []).append(credit)
    for licence in sorted(by_licence):
        texts, size = _totals(by_licence[licence])
        asks = ", ".join(flags(licence)) or "-"
        lines.append(f"| {cell(licence)} | {asks} | {texts:,} | {size:,} |")
    lines += [
        "",
        "Each document stands in `provenance/`, in the document table, with its own licence, source and link.",
    ]
    for licence in sorted(by_licence):
        lines += ["", f"## {cell(licence)}"]
        if flags(licence):
            lines += ["", f"This licence is marked **{', '.join(flags(licence))}**: read it before passing text on."]
        by_source: dict[str, list[Credit]] = {}
        for credit in by_licence[licence]:
            by_source.setdefault(credit.source, []).append(credit)
        for source in sorted(by_source):
            lines += ["", f"### {cell(source)}", *_holders(by_source[source])]
    return "\n".join(lines) + "\n"


def cell(text: str) -> str:
    """Text from outside as it can stand in a Markdown table or heading; 'not recorded' when there is none."""
    flat = " ".join(text.split())
    for sign in "\\`|[]<>*_":
        flat = flat.replace(sign, f"\\{sign}")
    return flat or "not recorded"


def _holders(credits: Sequence[Credit]) -> list[str]:
    """What one source gave under one licence, by rights holder and kind of text."""
    groups: dict[tuple[str, str], list[Credit]] = {}
    for credit in credits:
        groups.setdefault((credit.rights_holder, credit.kind), []).append(credit)
    lines: list[str] = []
    for (holder, kind), group in sorted(groups.items()):
        texts, size = _totals(group)
        lines += ["", f"Rights holder: {cell(holder)} ({texts:,} {kind}, {size:,} bytes)", *_authors(group)]
    return lines


def _authors(credits: Sequence[Credit]) -> list[str]:
    counts: Counter[str] = Counter()
    for credit in credits:
        counts[credit.author] += credit.texts
    named = sorted((-count, author) for author, count in counts.items() if author)
    if not named:
        return []
    lines = ["", *(f"- {cell(author)} ({-count:,})" for count, author in named[:MOST_AUTHORS])]
    if len(named) > MOST_AUTHORS:
        lines.append(f"- and {len(named) - MOST_AUTHORS:,} more, each named in the document table")
    return lines + ([f"- author not recorded ({counts['']:,})"] if counts[""] else [])


def _totals(credits: Sequence[Credit]) -> tuple[int, int]:
    return sum(credit.texts for credit in credits), sum(credit.bytes for credit in credits)


def _conversation_credits(artifact: Artifact) -> list[Credit]:
    texts: Counter[tuple[str, ...]] = Counter()
    sizes: Counter[tuple[str, ...]] = Counter()
    holders = {each.get("name"): each.get("rights_holder") for each in artifact.facts.get("sources", [])}
    with (artifact.path / "train.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            row["rights_holder"] = row.get("rights_holder") or holders.get(row.get("source"))
            key = tuple(str(row.get(name) or "") for name in _COLUMNS)
            texts[key] += 1
            sizes[key] += sum(len(str(message.get("content") or "").encode("utf-8")) for message in row["messages"])
    return [_credit("conversations", key, texts[key], sizes[key]) for key in sorted(texts)]


def _credit(kind: str, key: tuple[str, ...], texts: int, size: int) -> Credit:
    licence, source, rights_holder, author = key
    return Credit(kind, licence, source, rights_holder, author, texts, size)
