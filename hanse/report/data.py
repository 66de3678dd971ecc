"""The data report: what a dataset consists of, what was left out and why, and how its languages fare in tokens.

A pure function of artifact folders: equal artifacts give equal pages. The page is derived, so it lies beside the
artifacts, in `<store>/reports/`, and can be deleted and made again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanse.errors import InputError
from hanse.languages import LANGUAGES
from hanse.report import plain, samples
from hanse.report.figures import Folders, Language, Scan, languages, scan
from hanse.report.page import Chapter, Column, Quotes, Row, Section, Table, counts, render, save, texts
from hanse.store.query import COPY_REASONS

if TYPE_CHECKING:
    from hanse.pipeline import Outcome

_DOCUMENTS = (*counts("read", "kept"), Column("text kept", "bytes", has_bar=True))


def place(store_root: Path, name: str, version: str) -> Path:
    """Where the data report of a recipe lies. No folder there has three parts, which would look like an artifact."""
    return store_root / "reports" / name / f"{version}-data.html"


def folders(outcome: Outcome) -> Folders:
    """What a run has made of its data. Raises InputError if it has not even made a dataset."""
    found = {kind: outcome.artifact(kind) for kind in ("dataset", "tokenizer", "shards")}
    paths = {kind: artifact.path for kind, artifact in found.items() if artifact is not None}
    if "dataset" not in paths:
        raise InputError("there is no dataset to report on; run the recipe at least until its dataset.")
    made_from = tuple((artifact.ref, artifact.digest) for artifact in found.values() if artifact is not None)
    return Folders(**paths, made_from=made_from)


def write(path: Path, name: str, folders: Folders) -> None:
    """Write the data report of a recipe.

    Raises:
        InputError: an artifact that cannot be read.
        OSError: the page cannot be written.
    """
    save(path, render(f"Data report: {name}", [chapter(folders)]))


def chapter(folders: Folders) -> Chapter:
    """The data chapter of a run's report.

    Raises:
        InputError: an artifact that cannot be read.
    """
    sums, rows, found = folders.counts(), languages(folders), scan(folders.dataset)
    facts = [
        *((ref, f"sha256 {digest}") for ref, digest in folders.made_from),
        ("documents read", plain.count(sums["documents"])),
        ("documents kept", f"{plain.count(sums['kept'])}, {plain.size(sums['kept_bytes'])} of text"),
        ("languages kept", ", ".join(sorted(row.code for row in rows if row.kept))),
        ("tokens", plain.count(sum(row.tokens or 0 for row in rows)) if folders.shards else plain.NOT_RECORDED),
    ]
    sections = (
        _languages(rows),
        _composition(sums["groups"], folders, found),
        _tokens(folders, rows),
        _dropped(sums, rows),
        _reservations(found),
        _personal(found),
        _copies(rows, found),
        _contamination(found),
        _quarantine(folders.dataset, sums.get("quarantined", ())),
        _samples(folders.dataset, found),
    )
    return Chapter("Data", tuple(facts), sections)


def named(code: str) -> str:
    """A language for people: "de German"."""
    return f"{code} {LANGUAGES[code].name}" if code in LANGUAGES else code


# --------------------------------------------------------------------------- what is in it


def _languages(rows: Sequence[Language]) -> Section:
    columns = (
        *(*texts("language"), *counts("read", "kept", "dropped"), Column("share kept", "share", has_bar=True)),
        *(Column("text kept", "bytes"), *counts("tokens"), *texts("most frequent reasons to drop")),
    )
    table = []
    for row in rows:
        share = row.kept / row.read if row.read else 0.0
        why = ", ".join(f"{reason} {plain.count(n)}" for reason, n in row.reasons[:3])
        table.append((named(row.code), row.read, row.kept, row.dropped, share, row.bytes, row.tokens, why))
    return Section("Languages", (), (Table("Documents by language", columns, tuple(table)),))


def _composition(groups: Sequence[dict[str, Any]], folders: Folders, found: Scan) -> Section:
    by_source, by_licence = _tokens_by(folders)
    domains = tuple((row["domain"], row["read"], row["kept"], row["bytes"]) for row in found.domains)
    return Section(
        "Composition",
        ("Bytes are of text in UTF-8. Tokens include the one that ends each document.",),
        (
            _by(groups, ("source",), "source", by_source if folders.shards else None),
            _by(groups, ("collection",), "collection"),
            _by(groups, ("licence", "licence_basis"), "licence, basis"),
            *([_tokens_by_licence(by_licence)] if folders.shards else []),
            _by(groups, ("jurisdiction",), "jurisdiction"),
            Table("Documents by domain", (*texts("domain"), *_DOCUMENTS), domains, found=found.domains_found),
        ),
    )


def _by(
    groups: Iterable[dict[str, Any]], keys: tuple[str, ...], title: str, tokens: Counter[str] | None = None
) -> Table:
    """The groups of `counts.json` by some of their columns, most text first."""
    read: Counter[str] = Counter()
    kept: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for group in groups:
        key = ", ".join(str(group.get(name) or plain.NOT_RECORDED) for name in keys)
        read[key] += group["documents"]
        kept[key] += group["documents"] if group["split"] else 0
        sizes[key] += group["bytes"] if group["split"] else 0
    columns = (*texts(title), *_DOCUMENTS, *(counts("tokens") if tokens is not None else ()))
    ordered = sorted(read, key=lambda key: (-sizes[key], -read[key], key))
    rows: list[Row] = [
        (key, read[key], kept[key], sizes[key], *([tokens[key]] if tokens is not None else [])) for key in ordered
    ]
    return Table(f"Documents by {title}", columns, tuple(rows))


def _tokens_by(folders: Folders) -> tuple[Counter[str], Counter[str]]:
    """Tokens by source, and by licence."""
    sources: Counter[str] = Counter()
    licences: Counter[str] = Counter()
    for held in folders.splits().values():
        for language in held.values():
            for source, facts in language["sources"].items():
                sources[source] += facts["tokens"]
                for licence, sums in facts.get("licences", {}).items():
                    licences[licence] += sums["tokens"]
    return sources, licences


def _tokens_by_licence(tokens: Counter[str]) -> Table:
    rows = tuple(sorted(tokens.items(), key=lambda row: (-row[1], row[0])))
    return Table("Tokens by licence", (Column("licence"), Column("tokens", "count", has_bar=True)), rows)


def _tokens(folders: Folders, rows: Sequence[Language]) -> Section:
    splits = folders.splits()
    columns = (
        *(*texts("language"), Column("tokens to train on", "count", has_bar=True), *counts("held out")),
        *(Column("bytes per token", "ratio"), Column("premium", "ratio"), *texts("premium from")),
    )
    table = []
    for row in rows:
        if row.kept:
            train, held_out = (
                splits[split].get(row.code, {}).get("tokens", 0) if splits else None
                for split in ("train", "validation")
            )
            table.append((named(row.code), train, held_out, row.bytes_per_token, row.premium, row.premium_basis))
    note = (
        "The premium is tokens over English for the same content: 1.12 means 12 % more. From 'parallel' it is measured "
        "on texts that exist in both languages; from 'bytes' it is only a comparison of bytes per token, which favours "
        "scripts of two bytes a letter."
    )
    return Section("Tokens", (note,), (Table("Tokens by language", columns, tuple(table)),))


# --------------------------------------------------------------------------- what is not


def _dropped(sums: dict[str, Any], rows: Sequence[Language]) -> Section:
    by_reason: Counter[str] = Counter()
    for row in rows:
        by_reason.update(dict(row.reasons))
    ordered = sorted(by_reason, key=lambda reason: (-by_reason[reason], reason))
    cells = {row.code: dict(row.reasons) for row in rows if row.dropped}
    of_all = tuple((reason, by_reason[reason], by_reason[reason] / sums["documents"]) for reason in ordered)
    matrix: tuple[Row, ...] = tuple((reason, *(cells[code].get(reason, 0) for code in cells)) for reason in ordered)
    columns = (*texts("reason"), *counts("documents"), Column("share of documents read", "share", has_bar=True))
    note = (
        f"{plain.count(sums['documents'] - sums['kept'])} of {plain.count(sums['documents'])} documents. "
        "A document may have several reasons, so they sum to more."
    )
    tables = (
        Table("Documents by reason", columns, of_all, adds_up=False),
        Table("Documents by reason and language", (*texts("reason"), *counts(*cells)), matrix, adds_up=False),
    )
    return Section("Dropped", (note,), tables)


def _reservations(found: Scan) -> Section:
    outcomes = ("none", "reserved", "unknown")
    totals: dict[tuple[str, str], Counter[str]] = {}
    for (signal, says, outcome), documents in found.reservations.items():
        totals.setdefault((signal, says), Counter())[outcome] += documents
    rows: tuple[Row, ...] = tuple(
        (f"{signal}, says {says}" if signal else "no evidence", sum(each.values()), *(each[o] for o in outcomes))
        for (signal, says), each in sorted(totals.items(), key=lambda item: (-sum(item[1].values()), item[0]))
    )
    note = (
        "Whether rights holders have reserved their texts against mining: the evidence that was found, and what the "
        "policy made of it, over all documents read. A document with several kinds of evidence counts in several rows."
    )
    columns = (*texts("evidence"), *counts("documents", *(f"outcome {outcome}" for outcome in outcomes)))
    return Section("Reservations", (note,), (Table("Outcomes by evidence", columns, rows, adds_up=False),))


def _personal(found: Scan) -> Section:
    kinds = sorted({row["kind"] for row in found.personal})
    cells = {(row["language"], row["kind"]): row["findings"] for row in found.personal}
    sums: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
    for row in found.personal:
        sums[row["kind"]].update({name: row[name] for name in ("findings", "documents", "checked")})
    by_kind = tuple((kind, *(sums[kind][name] for name in ("findings", "documents", "checked"))) for kind in kinds)
    codes = sorted({row["language"] for row in found.personal})
    matrix = tuple((named(code), *(cells.get((code, kind), 0) for kind in kinds)) for code in codes)
    columns = (
        *(*texts("kind"), Column("findings", "count", has_bar=True)),
        *counts("documents", "with a checksum that holds"),
    )
    note = (
        "Found in the documents kept. What became of it is said by the recipe's [curate] pii; the dataset records "
        "kinds and places, never the values."
    )
    tables = (
        Table("Findings by kind", columns, by_kind),
        Table("Findings by language and kind", (*texts("language"), *counts(*kinds)), matrix),
    )
    return Section("Personal data", (note,), tables)


def _copies(rows: Sequence[Language], found: Scan) -> Section:
    by_language: list[Row] = []
    for row in rows:
        copies = [dict(row.reasons).get(reason, 0) for reason in COPY_REASONS]
        if any(copies):
            by_language.append((named(row.code), *copies, sum(copies) / row.read))
    share = Column("share of documents read", "share", has_bar=True)
    columns = (*texts("language"), *counts("word for word", "nearly"), share)
    of_cluster = (*texts("document that stayed"), *counts("word for word", "nearly"),
                  *texts("language", "source", "domain", "title"))  # fmt: skip
    clusters = tuple(
        (row["cluster"], row["exact"], row["near"], row["language"], row["source"], row["domain"] or "", row["title"])
        for row in found.clusters
    )
    note = (
        "Of documents that say the same, the one with the fewest licence duties stays. To see the copies of one: "
        "hanse find DATASET --id ID"
    )
    tables = (
        Table("Copies dropped by language", columns, tuple(by_language)),
        Table("Largest clusters", of_cluster, clusters, found=found.clusters_found),
    )
    return Section("Copies", (note,), tables)


def _contamination(found: Scan) -> Section:
    rows = tuple(
        (row["item"], row["documents"], row["kept"], row["containment"], row["longest"]) for row in found.items
    )
    columns = (
        *(*texts("item"), *counts("documents", "of them kept")),
        *(Column("most of the item", "share"), *counts("words of the longest match")),
    )
    note = "Evaluation items in documents: the share of an item's runs of words that one document holds at most."
    table = Table("Documents by evaluation item", columns, rows, adds_up=False, found=found.items_found)
    return Section("Contamination", (note,), (table,))


def _quarantine(dataset: Path, quarantined: Iterable[dict[str, Any]]) -> Section:
    records: Counter[str] = Counter()
    sources: dict[str, Counter[str]] = {}
    for row in quarantined:
        records[row["reason"]] += row["records"]
        sources.setdefault(row["reason"], Counter())[row["source"]] += row["records"]
    rows = tuple(
        (reason, n, ", ".join(f"{source} {plain.count(held)}" for source, held in _most(sources[reason])[:3]))
        for reason, n in _most(records)
    )
    columns = (*texts("reason"), Column("records", "count", has_bar=True), *texts("most from"))
    examples = Quotes("The first ones of each reason", samples.faults(dataset, set(records)))
    note = "Records that could not become a document."
    return Section("Quarantine", (note,), (Table("Records by reason", columns, rows), examples))


def _samples(dataset: Path, found: Scan) -> Section:
    notes = [f"The beginnings of some documents, at most {samples.CHARACTERS} characters, personal data masked."]
    blocks = [Quotes("Kept", samples.kept(dataset, found.samples))]
    dropped = samples.dropped(dataset)
    if dropped is None:
        notes.append("Nothing is shown of what was dropped: this dataset keeps no text of it.")
    else:
        blocks.append(Quotes("Dropped", dropped))
    return Section("Samples", tuple(notes), tuple(blocks))


def _most(numbers: Counter[str]) -> list[tuple[str, int]]:
    return sorted(numbers.items(), key=lambda item: (-item[1], item[0]))
