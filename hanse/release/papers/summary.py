"""The public summary of training content (Regulation (EU) 2024/1689, Art. 53(1)(d)).

Sections, numbers and headings are those of the AI Office's template of 24 July 2025, formally C(2025) 8311.
"""

from __future__ import annotations

from dataclasses import replace

from hanse.languages import EU24, LANGUAGES
from hanse.release.attribution import flags
from hanse.release.ledger import Ledger
from hanse.release.papers import answers, reservations
from hanse.release.papers.paper import Cell, Entry, Paper, Section, Table, not_applicable
from hanse.release.papers.render import backing
from hanse.release.papers.summary_data import (
    Counted,
    bytes_cell,
    conversations_cell,
    counted,
    documents_cell,
    dropped,
    dropped_cell,
    latest,
    share_cell,
    started_from,
    tokens_cell,
)
from hanse.release.papers.summary_sources import sections
from hanse.store import record as records

NAME = "public-summary"
#: Sections of the template that end in a comment.
COMMENTED = ("1.3", "2.1", "2.2.2", "2.3", "2.4", "2.5", "2.6", "3.1")
BILLION = 10**9
#: Bands of the template for text: the first number of tokens that is above, and what it is called.
BANDS = ((BILLION, "less than 1 billion tokens"), (10_000 * BILLION + 1, "1 billion to 10 trillion tokens"))
ABOVE_BANDS = "more than 10 trillion tokens"
_EU24 = "Regulation No 1 of 1958, as amended"


def paper(ledger: Ledger) -> Paper:
    """The public summary of a release."""
    made = Paper(
        NAME,
        f"Public summary of training content: {ledger.title or ledger.name}, version {ledger.version}",
        "Follows the template of the AI Office for the public summary under Article 53(1)(d) of Regulation (EU) "
        "2024/1689, section by section. Counts are of the text that was trained on; what was held out is not counted.",
        (
            Section("", "Version of the summary", tuple(_head(ledger))),
            Section("1", "General information", ()),
            Section("1.1", "Provider identification", tuple(_provider(ledger))),
            Section("1.2", "Model identification", tuple(_model(ledger))),
            Section(
                "1.3",
                "Modalities, overall training data size and other characteristics",
                tuple(_characteristics(ledger)),
            ),
            Section("2", "List of data sources", ()),
            *sections(ledger),
            Section("3", "Data processing aspects", ()),
            Section(
                "3.1",
                "Respect of reservation of rights from text and data mining exception or limitation",
                tuple(_reservations(ledger)),
            ),
            Section("3.2", "Removal of illegal content", tuple(_illegal(ledger))),
            Section("3.3", "Other information", tuple(_other(ledger))),
        ),
    )
    return replace(made, sections=tuple(_with_comment(ledger, section) for section in made.sections))


def _with_comment(ledger: Ledger, section: Section) -> Section:
    if section.number not in COMMENTED:
        return section
    key = "summary.comments"
    said = (ledger.answer(key).value or {}).get(section.number)
    none = not_applicable("optional, and none was made", f"answers.toml {key}")
    cell = Cell(said, f"answers.toml {key}.{section.number}") if said else none
    return replace(section, body=(*section.body, Entry(section.number, "Additional comments", cell, key=key)))


def dependency(ledger: Ledger) -> Cell:
    """Which other model this one goes on from; not applicable where training began with random weights."""
    starts = started_from(ledger)
    named = ledger.answer("model.base_model")
    if starts:
        place = "; ".join(f"{model.ref} step.json model.start" for model in starts)
        return Cell(named.value, f"{named.source}; {place}") if named.is_recorded else Cell(None)
    first = [model for model in ledger.of_kind("model") if "model" in records.definition_of(model.record)]
    if not first:
        return named
    place = "; ".join(f"{model.ref} step.json model" for model in first)
    return not_applicable("training began with random weights", place)


def size_band(tokens: int) -> str:
    """The template's band of a number of tokens."""
    return next((name for bound, name in BANDS if tokens < bound), ABOVE_BANDS)


def month(day: str) -> str:
    """MM/YYYY of an ISO day, as far as it is known."""
    return f"{day[5:7]}/{day[:4]}" if len(day) >= 7 else day


def provider_contact(ledger: Ledger) -> Cell:
    """Where questions go: by `answers.toml`, else by the recipe's [release]."""
    said = ledger.answer("provider.contact")
    if said.is_recorded or not ledger.contact:
        return said
    return Cell(ledger.contact, f"{ledger.ref} step.json release.contact")


def predecessor(ledger: Ledger) -> Cell:
    """The release before this one."""
    before = ledger.predecessor
    if before is None:
        return not_applicable("this is the first release of this name", f"{ledger.ref} step.json")
    return Cell(before.ref, f"{before.ref} sha256:{before.digest}")


def _changes(ledger: Ledger) -> Cell:
    before = ledger.predecessor
    if before is None:
        return not_applicable("there is no predecessor", f"{ledger.ref} step.json")
    return Cell("changes", f"{before.ref} step.json; {ledger.ref} step.json", "see the paper on changes")


def _head(ledger: Ledger) -> list[Entry | Table | str]:
    place = f"{ledger.ref} step.json"
    return [
        Entry("", "Version of the summary", Cell(ledger.version, place, f"{ledger.version} ({ledger.ref})"), True),
        Entry("", "Last update", Cell(ledger.made[:10], _newest(ledger)), True),
        Entry("", "Predecessor", predecessor(ledger)),
        Entry("", "What changed since", _changes(ledger)),
        Entry("", "Whether this is the newest", Cell(
            "the newest when it was made; a later one names it as its predecessor", place)),
        answers.entry(ledger, "summary.url", "", "Where the newest summary is found"),
    ]  # fmt: skip


def _newest(ledger: Ledger) -> str:
    last = [
        each.ref
        for each in ledger.ancestors
        if each.record["predicate"]["runDetails"]["metadata"]["finishedOn"] == ledger.made
    ]
    return f"{last[0]} step.json finishedOn"


def _provider(ledger: Ledger) -> list[Entry | Table | str]:
    return [
        answers.entry(ledger, "provider.name", "1.1", "Provider name"),
        Entry("1.1", "Contact details", provider_contact(ledger), True, "provider.contact"),
        answers.entry(ledger, "provider.address", "1.1", "Postal address"),
        answers.entry(ledger, "provider.representative", "1.1", "Authorised representative and contact details"),
        answers.entry(ledger, "provider.is_sme", "1.1", "Small or medium-sized enterprise"),
    ]


def _model(ledger: Ledger) -> list[Entry | Table | str]:
    name = Cell(ledger.ref, f"{ledger.ref} step.json", f"{ledger.title or ledger.name} {ledger.version} ({ledger.ref})")
    return [
        Entry("1.2", "Versioned model name", name, True),
        Entry("1.2", "Model dependencies", dependency(ledger), True, "model.base_model"),
        answers.entry(ledger, "model.union_market_date", "1.2", "Date of placement on the Union market"),
    ]


def _characteristics(ledger: Ledger) -> list[Entry | Table | str]:
    everything = counted(ledger)
    tokens = tokens_cell(ledger)
    kinds = backing(source.cell("kind") for source in ledger.sources)
    kind = Cell(True, kinds, "yes: text") if kinds else Cell(None)
    others = not_applicable("every source was read as text", kinds) if kinds else Cell(None)
    body: list[Entry | Table | str] = [
        Entry("1.3", "Modality: text", kind, True),
        Entry("1.3", "Modalities: image, audio, video, other", others, True),
        Entry("1.3", "Training data size: text", _band(everything, tokens), True),
        Entry("1.3", "Tokens of the documents", tokens),
        Entry("1.3", "Tokenizer by which they are counted", _tokenizer(ledger)),
        Entry("1.3", "Documents", documents_cell(ledger, everything)),
        Entry("1.3", "Conversations", conversations_cell(ledger, everything)),
        Entry("1.3", "Bytes of text, UTF-8", bytes_cell(everything)),
        answers.entry(ledger, "data.content_types", "1.3", "Types of content"),
        Entry("1.3", "Latest date of data acquisition", _latest(ledger), True, "data.latest_acquisition"),
        answers.entry(ledger, "data.training_continues", "1.3", "Training on new data goes on after this date"),
        Entry("1.3", "Linguistic characteristics: languages of the text", _languages(ledger), True),
        _language_table(ledger, everything),
        answers.entry(ledger, "data.other_characteristics", "1.3", "Other relevant characteristics"),
        _licence_table(ledger, everything),
    ]
    if _dates(ledger):
        body.append(
            Table(("source", "last text obtained"), tuple(_dates(ledger)), title="Dates of acquisition by source")
        )
    if started_from(ledger):
        body.append(
            "This release continues a model of others. The figures are of what was added, not of what that model had "
            "been trained on."
        )
    return body


def _band(everything: list[Counted], tokens: Cell) -> Cell:
    """The size band, where it is the same whatever the conversations come to in tokens."""
    if not tokens.is_recorded:
        return Cell(None)
    talk = [row for row in everything if row.is_talk]
    # A token of byte-level BPE is at least a byte; a conversation has some control tokens besides.
    most = tokens.value + sum(2 * row.bytes + 64 * row.texts for row in talk)
    if size_band(tokens.value) != size_band(most):
        return Cell(None)
    return Cell(size_band(tokens.value), tokens.source)


def _tokenizer(ledger: Ledger) -> Cell:
    found = ledger.of_kind("tokenizer")
    sizes = [ledger.fact(each, "vocab_size") for each in found]
    if not sizes or not all(size.is_recorded for size in sizes):
        return Cell(None)
    named = ", ".join(f"{each.ref} with {size.value:,} tokens" for each, size in zip(found, sizes, strict=True))
    return Cell([each.ref for each in found], backing(sizes), named)


def _latest(ledger: Ledger) -> Cell:
    """The last month of acquisition: by the record where every source has dates, else as a person says."""
    dates = [latest(ledger, source) for source in ledger.sources]
    if dates and all(each.is_recorded for each in dates):
        last = max(dates, key=lambda each: each.value)
        return Cell(last.value, last.source, month(last.value))
    return ledger.answer("data.latest_acquisition")


def _dates(ledger: Ledger) -> list[tuple[Cell, ...]]:
    rows: list[tuple[Cell, ...]] = []
    for source in ledger.sources:
        day = latest(ledger, source)
        shown = Cell(day.value, day.source, month(day.value)) if day.is_recorded else day
        rows.append((Cell(f"{source.name} ({source.artifact.ref})", source.cell("name").source), shown))
    return rows


def _by(ledger: Ledger, column: str) -> dict[str, list[Counted]]:
    """What was trained on by the values of one column, most bytes first."""
    groups: dict[str, list[Counted]] = {}
    for row in counted(ledger, column):
        groups.setdefault(row.values[column], []).append(row)
    return dict(sorted(groups.items(), key=lambda item: (-sum(row.bytes for row in item[1]), item[0])))


def _languages(ledger: Ledger) -> Cell:
    codes = sorted(code for code in _by(ledger, "language") if code)
    if not codes:
        return Cell(None)
    place = [f"{data.ref} documents.parquet: select distinct language where split = 'train'" for data in
             ledger.of_kind("dataset")] + [f"{talk.ref} train.jsonl: select distinct language" for talk in
                                           ledger.of_kind("conversations")]  # fmt: skip
    official = sum(code in EU24 for code in codes)
    named = ", ".join(f"{language_name(code)} (EU)" if code in EU24 else language_name(code) for code in codes)
    head = f"{len(codes)}, of which {official} are official languages of the Union (marked EU): "
    return Cell(codes, "; ".join(place), head + named)


def language_name(code: str) -> str:
    """The English name of a language, or its code where that is not known."""
    return LANGUAGES[code].name if code in LANGUAGES else code


def _language_table(ledger: Ledger, everything: list[Counted]) -> Table:
    whole = sum(row.bytes for row in everything)
    rows = []
    for code, group in _by(ledger, "language").items():
        named = Cell(f"{language_name(code)} ({code})" if code else "language not recorded")
        official = Cell(code in EU24, _EU24) if code else Cell(None)
        rows.append((named, official, documents_cell(ledger, group), conversations_cell(ledger, group),
                     bytes_cell(group), share_cell(group, whole),
                     tokens_cell(ledger, language=code) if code else Cell(None)))  # fmt: skip
    columns = (
        "language",
        "official in the Union",
        "documents",
        "conversations",
        "bytes",
        "share",
        "tokens of documents",
    )
    return Table(columns, tuple(rows), title="Text by language")


def _licence_table(ledger: Ledger, everything: list[Counted]) -> Table:
    whole = sum(row.bytes for row in everything)
    rows = []
    for licence, group in _by(ledger, "licence").items():
        place = backing([documents_cell(ledger, group), conversations_cell(ledger, group)])
        named = Cell(licence, place) if licence else Cell(None)
        rows.append((named, _asks(licence), documents_cell(ledger, group),
                     conversations_cell(ledger, group), bytes_cell(group), share_cell(group, whole)))  # fmt: skip
    columns = ("licence", "asks for", "documents", "conversations", "bytes", "share")
    return Table(columns, tuple(rows), title="Text by licence")


def _asks(licence: str) -> Cell:
    """What a licence asks for, as far as its class is known."""
    from hanse.data.rights.licence import duties

    known = flags(licence) or {0: ["nothing"], 1: ["attribution"], 2: ["share-alike"]}.get(duties(licence))
    return Cell(known, "classes of the ScanCode licence list") if licence and known else Cell(None)


def _reservations(ledger: Ledger) -> list[Entry | Table | str]:
    return [
        answers.entry(
            ledger, "code.is_signatory", "3.1", "Signatory of the Code of Practice that commits to respect them"
        ),
        *reservations.measures(ledger, "3.1"),
        answers.entry(ledger, "copyright.reservation_measures", "3.1", "Measures beyond these"),
        reservations.drops(ledger),
        "Each statement on rights that was found, and the whole policy: the paper copyright-policy.",
    ]


def _illegal(ledger: Ledger) -> list[Entry | Table | str]:
    body: list[Entry | Table | str] = [answers.entry(ledger, "safety.illegal_content_measures", "3.2", "Measures")]
    rows = [
        (Cell(reason), Cell(data.ref, f"{data.ref} counts.json dropped"), dropped_cell(data, reason))
        for data in ledger.of_kind("dataset")
        for reason in dropped(data)
    ]
    note = "A document can have several reasons. No reason is a judgement on legality."
    columns = ("reason", "dataset", "documents left out")
    if rows:
        body.append(Table(columns, tuple(rows), title="What curation left out, for any reason", note=note))
    return body


def _other(ledger: Ledger) -> list[Entry | Table | str]:
    withdrawn = Cell(len(ledger.withdrawals), f"{ledger.ref} step.json withdrawals") if ledger.withdrawals else Cell(
        0, f"{ledger.ref} step.json", "none known when this release was made")  # fmt: skip
    return [
        Entry("3.3", "Withdrawals known to the provider", withdrawn),
        answers.entry(ledger, "summary.other_information", "3.3", "Other information on data processing"),
    ]
