"""What was done about reservations of rights, from the records of curation: policy, signals, evidence, drops.

Directive (EU) 2019/790, Art. 4(3). The table of signals is `hanse.data.rights.signals`.
"""

from __future__ import annotations

from hanse.release.ledger import Ledger
from hanse.release.papers.paper import Cell, Entry, Table, not_applicable
from hanse.release.papers.summary_data import COUNTS, Signal, definition, dropped_cell, signals, unknown_cell
from hanse.store.stage import Artifact
from hanse.store.tables import EVIDENCE

#: Reasons for which the policy on rights refuses a document, and what they mean.
REASONS = {
    "rights-reserved": "a statement reserves text and data mining",
    "reservation-unknown": "no clear statement, and the policy does not go on without",
    "basis-not-accepted": "the ground for the use is not accepted",
    "licence-not-allowed": "the licence is not on the list",
    "licence-not-spdx": "the licence is no SPDX expression",
    "contract-dates-missing": "the contract names no dates",
    "contract-not-in-force": "the contract was not in force",
    "public-domain-not-clear": "the author has not been dead for long enough",
    "public-domain-unknown": "nobody knows when the author died",
    "research-only": "for research organisations only",
    "jurisdiction-not-accepted": "the policy leaves this country out",
    "evidence-missing": "the ground asks for a statement that was not there",
    "withdrawn": "withdrawn by its author or holder",
}
_UNKNOWN = {
    "keep": "kept: curation was set to go on without a clear statement",
    "drop": "left out: unknown is not taken for allowed",
}


def measures(ledger: Ledger, number: str) -> list[Entry | Table | str]:
    """The policy that each dataset was curated under, as questions and answers."""
    body: list[Entry | Table | str] = []
    datasets = ledger.of_kind("dataset")
    for dataset in datasets:
        of = f" ({dataset.ref})" if len(datasets) > 1 else ""
        policy, unknown = (
            definition(dataset, "curate", "policy"),
            definition(dataset, "curate", "on_unknown_reservation"),
        )
        files = definition(dataset, "curate", "site_files")
        if unknown.is_recorded:
            unknown = Cell(unknown.value, unknown.source, _UNKNOWN.get(str(unknown.value), ""))
        if not files.is_recorded and policy.is_recorded:
            files = not_applicable("no robots.txt or other site files were given to curation", policy.source)
        body += [
            Entry(number, f"Policy that decides on evidence, by SHA-256{of}", _policy(policy, dataset)),
            Entry(number, f"Documents whose reservation is unknown{of}", unknown),
            Entry(number, f"Documents trained on whose reservation is unknown{of}", unknown_cell(dataset)),
            Entry(number, f"Site files judged, by SHA-256{of}", files),
            Entry(number, f"Day on which reservations and contracts were judged{of}", _day(dataset)),
        ]
    return body


def honoured(ledger: Ledger) -> Table:
    """Every signal that Hanse reads, whether the policy counts it, and how often it was found."""
    from hanse.data.rights.signals import SIGNALS

    datasets = ledger.of_kind("dataset")
    found = [signal for dataset in datasets for signal in signals(dataset)]
    rows = []
    for signal in SIGNALS:
        own = [each for each in found if each.kind == signal.kind]
        rows.append(
            (
                Cell(signal.kind, "hanse/data/rights/signals.py"),
                Cell(signal.name, "hanse/data/rights/signals.py"),
                Cell(signal.specification, "hanse/data/rights/signals.py"),
                _counts(datasets, signal.kind),
                _statements(datasets, own),
                _statements(datasets, [each for each in own if each.says == "reserved"]),
            )
        )
    columns = ("signal", "where", "defined by", "counts", "statements found", "of them reservations")
    return Table(columns, tuple(rows), title="Signals that are read")


def robots_dates(ledger: Ledger) -> Table:
    """When the robots.txt files and the like were seen that the decisions rest on."""
    rows = []
    for dataset in ledger.of_kind("dataset"):
        for signal in signals(dataset):
            if signal.hosts:
                rows.append(
                    (
                        Cell(signal.kind, signal.source),
                        Cell(signal.says, signal.source),
                        Cell(signal.statements, signal.source),
                        Cell(signal.hosts, f"{dataset.ref} {EVIDENCE} place"),
                        Cell(signal.first or None, signal.source if signal.first else ""),
                        Cell(signal.last or None, signal.source if signal.last else ""),
                    )
                )
    columns = ("signal", "says", "statements", "sites", "first seen", "last seen")
    note = "Each statement, with the line that was found, is in the dataset's evidence." if rows else ""
    return Table(columns, tuple(rows), title="Statements of sites, and when they were seen", note=note)


def drops(ledger: Ledger) -> Table:
    """How many documents each reason of the policy on rights left out, in each dataset."""
    rows = [
        (Cell(f"{reason}: {meaning}"), Cell(dataset.ref, f"{dataset.ref} {COUNTS} dropped"), found)
        for dataset in ledger.of_kind("dataset")
        for reason, meaning in REASONS.items()
        if (found := dropped_cell(dataset, reason)).value or reason in ("rights-reserved", "reservation-unknown")
    ]
    columns = ("reason", "dataset", "documents left out")
    return Table(
        columns, tuple(rows), title="Documents left out for their rights", note="A document can have several reasons."
    )


def _policy(policy: Cell, dataset: Artifact) -> Cell:
    """The digest, and whether it is the policy that comes with this Hanse."""
    if not policy.is_recorded:
        return policy
    is_own = "" if _is_embedded(dataset) else "; a policy of the provider's own"
    named = "; the policy that comes with Hanse" if _is_embedded(dataset) else is_own
    return Cell(policy.value, policy.source, f"{policy.value}{named}")


def _is_embedded(dataset: Artifact) -> bool:
    from hanse.data.rights.policy import Policy

    unknown = definition(dataset, "curate", "on_unknown_reservation").value
    if unknown not in ("keep", "drop"):
        return False
    policy = definition(dataset, "curate", "policy").value
    return bool(Policy.load(None, on_unknown=unknown).digest == policy)


def _counts(datasets: list[Artifact], kind: str) -> Cell:
    """Whether the policies of all datasets count a signal; empty where a policy is somebody's own, of which only the
    digest is on record."""
    from hanse.data.rights.policy import Policy

    if not datasets or not all(_is_embedded(dataset) for dataset in datasets):
        return Cell(None)
    return Cell(
        kind in Policy.load(None).file.signals, "; ".join(f"{each.ref} step.json curate.policy" for each in datasets)
    )


def _statements(datasets: list[Artifact], own: list[Signal]) -> Cell:
    if own:
        return Cell(sum(each.statements for each in own), "; ".join(each.source for each in own))
    if not datasets or not all((dataset.path / EVIDENCE).is_file() for dataset in datasets):
        return Cell(None)
    return Cell(0, "; ".join(f"{dataset.ref} {EVIDENCE}" for dataset in datasets))


def _day(dataset: Artifact) -> Cell:
    day = definition(dataset, "curate", "day")
    policy = definition(dataset, "curate", "policy")
    if day.is_recorded or not policy.is_recorded:
        return day
    return not_applicable("the recipe names no day, so every statement counts whenever it was seen", policy.source)
