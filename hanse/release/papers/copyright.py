"""The copyright policy page: what a lab says it does, beside what the records show that was done.

Regulation (EU) 2024/1689, Art. 53(1)(c); Code of Practice, Copyright chapter, measures 1.1 to 1.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hanse.release.ledger import Ledger
from hanse.release.papers import answers, reservations
from hanse.release.papers.categories import use
from hanse.release.papers.paper import Cell, Entry, Paper, Section, Table, not_applicable
from hanse.release.papers.render import backing
from hanse.release.papers.summary import provider_contact
from hanse.release.papers.summary_data import definition, percent
from hanse.store import record as records

NAME = "copyright-policy"


def paper(ledger: Ledger) -> Paper:
    """The copyright policy of a release."""
    return Paper(
        NAME,
        f"Copyright policy: {ledger.title or ledger.name}, version {ledger.version}",
        "How the provider keeps to copyright law of the Union, and what the records show: by Article 53(1)(c) of "
        "Regulation (EU) 2024/1689 and the measures of the Copyright chapter of the Code of Practice.",
        (
            Section("1.1", "Policy", tuple(_policy(ledger))),
            Section("1.2", "Lawfully accessible content", tuple(_access(ledger))),
            Section("1.3", "Reservations of rights", tuple(_reservations(ledger))),
            Section("1.4", "Safeguards against infringing output", tuple(_output(ledger))),
            Section("1.5", "Contact, complaints and withdrawals", tuple(_complaints(ledger))),
        ),
    )


def _policy(ledger: Ledger) -> list[Entry | Table | str]:
    licences = [definition(dataset, "curate", "licences") for dataset in ledger.of_kind("dataset")]
    return [
        answers.entry(ledger, "provider.name", "1.1", "Provider"),
        answers.entry(ledger, "copyright.responsible", "1.1", "Responsible for this policy"),
        answers.entry(ledger, "code.is_signatory", "1.1", "Signatory of the Code of Practice"),
        Entry("1.1", "Applies to", Cell(ledger.ref, f"{ledger.ref} step.json")),
        Entry("1.1", "Licences that were accepted", _each(licences)),
        Entry("1.1", "Grounds on which text was used", _grounds(ledger)),
    ]


def _access(ledger: Ledger) -> list[Entry | Table | str]:
    crawled = use(ledger, "crawl")
    is_crawled = crawled.value is True
    excluded = answers.entry(ledger, "copyright.excluded_sites", "1.2", "Sites listed for persistent infringement",
                             is_mandatory=is_crawled)  # fmt: skip
    behaviour = answers.entry(
        ledger, "data.crawler_behaviour", "1.2", "Behaviour of the crawlers", is_mandatory=is_crawled
    )
    body: list[Entry | Table | str] = [
        answers.entry(ledger, "copyright.lawful_access", "1.2", "Lawful access, no circumvention"),
        Entry("1.2", "Text crawled by or for the provider", crawled, True, "data.uses_crawled_data"),
    ]
    for each in (excluded, behaviour):
        if crawled.value is False and not each.cell.is_recorded:
            cell = not_applicable("nothing was crawled by or for the provider", crawled.source)
            body.append(Entry(each.number, each.question, cell, key=each.key))
        else:
            body.append(each)
    return body


def _reservations(ledger: Ledger) -> list[Entry | Table | str]:
    return [
        "Evidence is stored as it was found, each statement with its place, line and day; a policy file decides what "
        "it means. Evidence that is missing or unclear is unknown, never allowed.",
        *reservations.measures(ledger, "1.3"),
        answers.entry(ledger, "copyright.reservation_measures", "1.3", "Measures beyond these"),
        reservations.honoured(ledger),
        reservations.robots_dates(ledger),
        reservations.drops(ledger),
    ]


def _output(ledger: Ledger) -> list[Entry | Table | str]:
    return [
        answers.entry(ledger, "copyright.output_safeguards", "1.4", "Safeguards"),
        Entry("1.4", "Targets hidden in training against learning by heart (Goldfish loss)", _goldfish(ledger)),
        Entry("1.4", "Test of what the model gives back of its training text", _memorisation(ledger)),
    ]


def _complaints(ledger: Ledger) -> list[Entry | Table | str]:
    return [
        Entry("1.5", "Contact", provider_contact(ledger), True, "provider.contact"),
        answers.entry(ledger, "copyright.complaint_contact", "1.5", "Complaints of rights holders, electronically"),
        answers.entry(ledger, "copyright.complaint_procedure", "1.5", "How complaints are handled"),
        Entry("1.5", "Withdrawals known when this release was made", Cell(
            len(ledger.withdrawals), f"{ledger.ref} step.json withdrawals")),
        _withdrawals(ledger),
        "Documents that were withdrawn are left out of every later build. Weights trained before that are named, not "
        "cleaned.",
    ]  # fmt: skip


def _withdrawals(ledger: Ledger) -> Table:
    """The log, oldest first. Of a request about personal data only that there was one is told."""
    rows = []
    for each in ledger.withdrawals:
        place = f"withdrawals/{each.get('effective', '')}-{each.get('id', '')}.json"
        found = each.get("found")
        amount = sum(found.values()) if isinstance(found, Mapping) else None
        rows.append(
            (
                _told(each, "id", place),
                _told(each, "received", place),
                _told(each, "effective", place),
                _told(each, "reason", place),
                _told(each, "requester", place),
                _meant(each, place),
                Cell(amount, place if amount is not None else ""),
            )
        )
    columns = (
        "withdrawal",
        "received",
        "effective",
        "reason",
        "asked by",
        "what",
        "documents found, over all artifacts",
    )
    return Table(columns, tuple(rows), title="Withdrawal log")


def _told(each: Mapping[str, Any], key: str, place: str) -> Cell:
    value = each.get(key)
    return Cell(value, place) if value not in (None, "") else Cell(None)


def _meant(each: Mapping[str, Any], place: str) -> Cell:
    criteria = each.get("criteria")
    if each.get("reason") == "personal-data":
        return Cell("personal data", place, "kept as hashes only")
    if not isinstance(criteria, Mapping) or not criteria:
        return Cell(None)
    return Cell(dict(criteria), place, ", ".join(f"{name}: {value}" for name, value in criteria.items()))


def _each(cells: list[Cell]) -> Cell:
    """The values of lists, each once."""
    recorded = [each for each in cells if each.is_recorded]
    if not recorded or len(recorded) < len(cells):
        return Cell(None)
    return Cell(list(dict.fromkeys(value for each in recorded for value in each.value)), backing(recorded))


def _grounds(ledger: Ledger) -> Cell:
    grounds = [source.cell("licence_basis") for source in ledger.sources]
    if not grounds or not all(each.is_recorded for each in grounds):
        return Cell(None)
    return Cell(list(dict.fromkeys(each.value for each in grounds)), backing(grounds))


def _goldfish(ledger: Ledger) -> Cell:
    """One target in so many, of each pre-training."""
    trained = [model for model in ledger.of_kind("model") if "pretrain" in records.definition_of(model.record)]
    found = [definition(model, "pretrain", "goldfish") for model in trained]
    if not found or not all(each.is_recorded for each in found):
        return Cell(None)
    said = [f"one target in {each.value}, {percent(1 / each.value)}" if each.value else "none" for each in found]
    return Cell([each.value for each in found], backing(found), "; ".join(said))


def _memorisation(ledger: Ledger) -> Cell:
    if ledger.memorisation is None:
        return Cell(False, f"{ledger.ref} step.json inputs", "no: it was not measured for this release")
    place = f"{ledger.memorisation.ref} step.json"
    return Cell(ledger.memorisation.ref, place, f"measured: {ledger.memorisation.ref}, see the paper on memorisation")
