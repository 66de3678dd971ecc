"""Section 2 of the public summary: where the text came from, by the category under which each source was obtained."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from functools import partial

from hanse.release.ledger import Ledger, SourceRecord
from hanse.release.papers import answers
from hanse.release.papers.categories import CLAIMS, obtained_place, sources_of, use
from hanse.release.papers.paper import Cell, Entry, Section, Table, not_applicable
from hanse.release.papers.render import backing
from hanse.release.papers.summary_data import (
    Counted,
    bytes_cell,
    conversations_cell,
    counted,
    documents_cell,
    of_source,
    percent,
    share_cell,
)

LARGE_SHARE = Fraction(3, 100)  # of the public text: from here a dataset is named
DOMAIN_SHARE, SME_DOMAIN_SHARE, SME_DOMAINS = Fraction(1, 10), Fraction(1, 20), 1000


def sections(ledger: Ledger) -> list[Section]:
    """Sections 2.1 to 2.6."""
    return [
        Section("2.1", "Publicly available datasets", tuple(_public(ledger))),
        Section("2.2", "Private non-publicly available datasets obtained from third parties", ()),
        Section(
            "2.2.1",
            "Datasets commercially licensed by rightsholders or their representatives",
            tuple(_licensed(ledger)),
        ),
        Section("2.2.2", "Private datasets obtained from other third parties", tuple(_private(ledger))),
        Section("2.3", "Data crawled and scraped from online sources", tuple(_crawled(ledger))),
        Section("2.4", "User data", tuple(_user(ledger))),
        Section("2.5", "Synthetic data", tuple(_synthetic(ledger))),
        Section("2.6", "Other sources of data", tuple(_other(ledger))),
    ]


def listed_domains(found: int, *, is_sme: bool) -> int:
    """How many of the crawled domains the summary lists: the top 10 %; of an SME the top 5 %, at most 1,000."""
    if is_sme:
        return min(math.ceil(found * SME_DOMAIN_SHARE), SME_DOMAINS)
    return math.ceil(found * DOMAIN_SHARE)


def _public(ledger: Ledger) -> list[Entry | Table | str]:
    used = use(ledger, "public-dataset")
    body = _opening(ledger, "2.1", "Publicly available datasets used", used, "public-dataset")
    rows = _rows(ledger, sources_of(ledger, "public-dataset"), "source", "collection")
    whole = sum(row.bytes for row in rows)
    large = [row for row in rows if row.bytes > LARGE_SHARE * whole]
    if rows:
        body.append(
            Table(
                (
                    "dataset",
                    "source",
                    "link",
                    "version or date",
                    "licence",
                    "documents",
                    "bytes",
                    "share of public text",
                ),
                tuple(_dataset(ledger, row, whole) for row in large),
                title=f"Large publicly available datasets: more than {100 * LARGE_SHARE} % of the public text",
                note=_rest([row for row in rows if row not in large], whole),
            )
        )
    is_asked = len(large) < len(rows)
    why = "every public dataset is listed above" if rows and not is_asked else ""
    body.append(_described(ledger, used, "data.public_datasets", "2.1", "General description of other public datasets",
                           is_mandatory=is_asked, why=why))  # fmt: skip
    return body


def _licensed(ledger: Ledger) -> list[Entry | Table | str]:
    used = use(ledger, "licensed")
    body = _opening(ledger, "2.2.1", "Commercial licences concluded with rightsholders", used, "licensed")
    return body + _amounts(ledger, "licensed")


def _private(ledger: Ledger) -> list[Entry | Table | str]:
    used = use(ledger, "private")
    named = ledger.answer("data.private_third_party")
    if not named.is_recorded and any(source.declared.get("obtained") == "other" for source in ledger.sources):
        used = Cell(None)  # nobody said whether one of these is a private dataset
    body = _opening(ledger, "2.2.2", "Private datasets obtained from other third parties", used, "private")
    body.append(_described(ledger, used, "data.private_description", "2.2.2", "General description of those not known"))
    return body + _amounts(ledger, "private")


def _crawled(ledger: Ledger) -> list[Entry | Table | str]:
    used = use(ledger, "crawl")
    found = sources_of(ledger, "crawl")
    body = _opening(ledger, "2.3", "Crawlers used by the provider or on its behalf", used, "crawl")
    for question, key in (("Crawler names", "crawler"), ("Period of collection", "period")):
        body.append(Entry("2.3", question, _then(used, partial(_values, found, key)), bool(found)))
    for question, key in (
        ("Purposes of the crawlers", "data.crawler_purposes"),
        ("Behaviour of the crawlers", "data.crawler_behaviour"),
        ("Kinds of content and online sources, with regions", "data.crawled_content"),
    ):
        body.append(_described(ledger, used, key, "2.3", question, is_mandatory=True))
    rows = _rows(ledger, found, "source", "language")
    body.append(
        Entry(
            "2.3", "Languages of the crawled text", _then(used, lambda: _joined(ledger, rows, "language")), bool(found)
        )
    )
    if found:
        body.append(_domains(ledger, found))
    return body


def _user(ledger: Ledger) -> list[Entry | Table | str]:
    used = use(ledger, "user")
    parts: list[Entry | Table | str] = []
    for question, key in (
        ("Data from interactions with the model used", "data.from_model_interaction"),
        ("Data from the provider's other services used", "data.from_other_services"),
    ):
        named = ledger.answer(key)
        if used.value is True:
            said = Cell(bool(named.value), named.source) if named.is_recorded else Cell(None)
        else:
            said = used
        parts.append(Entry("2.4", question, said, is_mandatory=True, key=key if used.value else CLAIMS["user"]))
    parts.append(Entry("2.4", "Modality", _modality(ledger, used, "user")))
    parts.append(_described(ledger, used, "data.user_data", "2.4", "Services the data comes from", is_mandatory=True))
    return parts + _amounts(ledger, "user")


def _synthetic(ledger: Ledger) -> list[Entry | Table | str]:
    used = use(ledger, "synthetic")
    body = _opening(ledger, "2.5", "Synthetic AI-generated data created by the provider or on its behalf", used,
                    "synthetic")  # fmt: skip
    found = sources_of(ledger, "synthetic")
    links = ledger.answer("data.generator_links").value or {}
    rows = []
    for model in sorted({str(source.declared["model"]) for source in found}):
        own = [source for source in found if source.declared["model"] == model]
        texts = _rows(ledger, own, "source")
        link = Cell(links[model], f"answers.toml data.generator_links.{model}") if links.get(model) else Cell(None)
        named = Cell(model, backing(source.cell("model") for source in own))
        rows.append(
            (
                named,
                link,
                _names(own),
                documents_cell(ledger, texts),
                conversations_cell(ledger, texts),
                bytes_cell(texts),
            )
        )
    if rows:
        columns = ("model", "link to its summary", "sources", "documents", "conversations", "bytes")
        body.append(Table(columns, tuple(rows), title="AI models that wrote the text, general-purpose or own"))
    body.append(Entry("2.5", "AI models used", _then(used, lambda: _values(found, "model")), bool(found)))
    return body


def _other(ledger: Ledger) -> list[Entry | Table | str]:
    used = use(ledger, "other")
    found = sources_of(ledger, "other")
    by_rules = [source for source in found if source.declared.get("obtained") == "synthetic"]
    body: list[Entry | Table | str] = [_asked_use("2.6", "Other sources used", used, CLAIMS["other"])]
    if len(found) > len(by_rules) or not found:
        body.append(_described(ledger, used, "data.other_sources", "2.6", "Narrative description", is_mandatory=True))
    if by_rules:
        names = ", ".join(dict.fromkeys(source.name for source in by_rules))
        text = f"{names}: sentences that a program writes by rules from tables of facts; no AI model had a part in it"
        body.append(Entry("2.6", "Text written by rules", Cell(text, obtained_place(by_rules))))
        body += _made_from(by_rules)
    return body + _amounts(ledger, "other")


def _made_from(sources: Sequence[SourceRecord]) -> list[Table]:
    """What the rules took their facts from, as the records name it."""
    rows: dict[tuple[str, ...], tuple[Cell, ...]] = {}
    for source in sources:
        for number, each in enumerate(source.declared.get("generated_from") or ()):
            place = f"{source.artifact.ref} step.json source.{source.number}.generated_from.{number}"
            values = tuple(str(each.get(name) or "") for name in ("name", "version", "licence", "purpose"))
            rows.setdefault(values, tuple(Cell(value or None, place) for value in values))
    return (
        [Table(("table", "version", "licence", "used for"), tuple(rows.values()), title="Facts it is written from")]
        if rows
        else []
    )


# --------------------------------------------------------------------------- pieces


def _opening(ledger: Ledger, number: str, question: str, used: Cell, wanted: str) -> list[Entry | Table | str]:
    """Yes or no, and the modality."""
    key = CLAIMS.get(wanted, "data.private_third_party")
    return [_asked_use(number, question, used, key), Entry(number, "Modality", _modality(ledger, used, wanted))]


def _asked_use(number: str, question: str, used: Cell, key: str) -> Entry:
    return Entry(number, question, used, is_mandatory=True, key=key)


def _described(
    ledger: Ledger, used: Cell, key: str, number: str, question: str, *, is_mandatory: bool = False, why: str = ""
) -> Entry:
    """What a person says about data of a category; not applicable where there is none of it, or for a reason."""
    entry = answers.entry(ledger, key, number, question, is_mandatory=is_mandatory and used.value is True)
    if entry.cell.is_recorded or used.value is None:
        return entry
    if used.value is False or why:
        cell = not_applicable(why or "there is no such data", used.source)
        return Entry(number, question, cell, key=key)
    return entry


def _then(used: Cell, found: Callable[[], Cell]) -> Cell:
    """The answer to "if yes": not applicable after a no, unknown where that is."""
    if used.value is False:
        return not_applicable("there is no such data", used.source)
    return found() if used.value else Cell(None)


def _modality(ledger: Ledger, used: Cell, wanted: str) -> Cell:
    kinds = sources_of(ledger, wanted)
    return _then(used, lambda: Cell("text", backing(source.cell("kind") for source in kinds) or used.source))


def _amounts(ledger: Ledger, wanted: str) -> list[Table]:
    """How much text each source of a category gave."""
    rows = []
    for source in sources_of(ledger, wanted):
        texts = _rows(ledger, [source], "source")
        named = Cell(source.name, source.cell("name").source)
        rows.append((named, source.cell("licence"), source.cell("rights_holder"), documents_cell(ledger, texts),
                     conversations_cell(ledger, texts), bytes_cell(texts)))  # fmt: skip
    columns = ("source", "licence where a text names none", "rights holder", "documents", "conversations", "bytes")
    return [Table(columns, tuple(rows), title="How much")] if rows else []


def _rows(ledger: Ledger, sources: Sequence[SourceRecord], *columns: str) -> list[Counted]:
    found = counted(ledger, *columns)
    return [row for source in sources for row in of_source(found, source)]


def _dataset(ledger: Ledger, row: Counted, whole: int) -> tuple[Cell, ...]:
    """A row of the list of large datasets: a collection within a source, or the source."""
    source = next(s for s in ledger.sources if s.artifact.ref == row.artifact.ref and s.name == row.values["source"])
    name = row.values["collection"] or source.name
    licences = [
        each
        for each in counted(ledger, "source", "collection", "licence")
        if each.artifact.ref == row.artifact.ref
        and all(each.values[key] == row.values[key] for key in ("source", "collection"))
    ]
    return (
        Cell(name, row.source),
        Cell(source.name, source.cell("name").source),
        _address(source),
        _version(source),
        _joined(ledger, licences, "licence"),
        documents_cell(ledger, [row]),
        bytes_cell([row]),
        share_cell([row], whole),
    )


def _address(source: SourceRecord) -> Cell:
    if source.declared.get("kind") == "hub" and source.declared.get("path"):
        place = source.cell("path")
        return Cell(f"https://huggingface.co/datasets/{place.value}", place.source)
    return source.cell("url")


def _version(source: SourceRecord) -> Cell:
    """The commit, else the period, else the digests of the files that were read."""
    for key in ("revision", "period"):
        if source.cell(key).is_recorded:
            return source.cell(key)
    files = source.cell("files")
    if isinstance(files.value, dict) and files.value:
        return Cell(len(files.value), files.source, f"{len(files.value)} files, by SHA-256 in the record")
    return Cell(None)


def _rest(rows: Sequence[Counted], whole: int) -> str:
    if not rows:
        return "No public dataset is smaller than that."
    size = sum(row.bytes for row in rows)
    names = ", ".join(dict.fromkeys(row.values["collection"] or row.values["source"] for row in rows))
    return f"Below that share, together {size:,} bytes or {percent(size / whole if whole else 0)}: {names}."


def _domains(ledger: Ledger, sources: Sequence[SourceRecord]) -> Table:
    """The most relevant domains by bytes: the top tenth, or for an SME the top twentieth, at most 1,000."""
    by_domain: dict[str, list[Counted]] = {}
    for row in _rows(ledger, sources, "source", "domain"):
        by_domain.setdefault(row.values["domain"], []).append(row)
    nameless = sum(row.texts for row in by_domain.pop("", []))
    ordered = sorted(by_domain, key=lambda name: (-sum(row.bytes for row in by_domain[name]), name))
    is_sme = ledger.answer("provider.is_sme").value
    shown = ordered[: listed_domains(len(ordered), is_sme=is_sme is True)]
    rule = (
        f"top {100 * SME_DOMAIN_SHARE} % or {SME_DOMAINS:,}, whichever is lower, as the provider is an SME"
        if is_sme is True
        else f"top {100 * DOMAIN_SHARE} %"
        + ("" if is_sme is False else ", as answers.toml does not say whether the provider is an SME")
    )
    rows = tuple(
        (
            Cell(name, backing([documents_cell(ledger, by_domain[name])])),
            documents_cell(ledger, by_domain[name]),
            bytes_cell(by_domain[name]),
        )
        for name in shown
    )
    note = f"{len(shown):,} of {len(ordered):,} host names by bytes of kept text: {rule}."
    note += f" {nameless:,} crawled documents name no host." if nameless else ""
    return Table(("domain", "documents", "bytes"), rows, title="Most relevant domain names crawled", note=note)


def _values(sources: Iterable[SourceRecord], key: str) -> Cell:
    """What the sources declare under a key, each value once."""
    cells = [source.cell(key) for source in sources]
    recorded = [each for each in cells if each.is_recorded]
    if not recorded or len(recorded) < len(cells):
        return Cell(None)
    return Cell(list(dict.fromkeys(str(each.value) for each in recorded)), backing(recorded))


def _joined(ledger: Ledger, rows: Sequence[Counted], column: str) -> Cell:
    values = sorted({row.values[column] for row in rows} - {""})
    return (
        Cell(values, backing([documents_cell(ledger, rows), conversations_cell(ledger, rows)]))
        if values
        else Cell(None)
    )


def _names(sources: Sequence[SourceRecord]) -> Cell:
    return Cell(list(dict.fromkeys(s.name for s in sources)), backing(source.cell("name") for source in sources))
