"""Under which heading of the public summary each source falls, and what shows that."""

from __future__ import annotations

from collections.abc import Sequence

from hanse.release.ledger import Ledger, SourceRecord
from hanse.release.papers.paper import Cell
from hanse.release.papers.render import backing

#: Which key of `answers.toml` speaks for a category where records do not know.
CLAIMS = {
    "public-dataset": "data.uses_public_datasets",
    "licensed": "data.uses_licensed_data",
    "crawl": "data.uses_crawled_data",
    "user": "data.uses_user_data",
    "synthetic": "data.uses_synthetic_data",
    "other": "data.uses_other_data",
}


def category(ledger: Ledger, source: SourceRecord) -> str:
    """Under which heading of the summary a source falls: as `obtained`, but for two cases.

    Text that a program wrote by rules is no text of an AI model, so it is `other`; and of the `other` sources, those
    that `answers.toml` names as private datasets of third parties are `private`.
    """
    obtained = str(source.declared.get("obtained") or "unknown")
    if obtained == "synthetic" and not source.declared.get("model"):
        return "other"
    if obtained == "other" and source.name in (ledger.answer("data.private_third_party").value or ()):
        return "private"
    return obtained


def sources_of(ledger: Ledger, wanted: str) -> list[SourceRecord]:
    """The sources of a category."""
    return [source for source in ledger.sources if category(ledger, source) == wanted]


def recorded_use(ledger: Ledger, wanted: str) -> bool | None:
    """Whether there are sources of a category, or None where a source does not say how it was obtained."""
    if sources_of(ledger, wanted):
        return True
    return None if not ledger.sources or sources_of(ledger, "unknown") else False


def use(ledger: Ledger, wanted: str) -> Cell:
    """Whether there are sources of a category: by the record, or where that does not know, by `answers.toml`."""
    found = recorded_use(ledger, wanted)
    if found:
        names = dict.fromkeys(source.name for source in sources_of(ledger, wanted))
        return Cell(True, obtained_place(sources_of(ledger, wanted)), f"yes: {', '.join(names)}")
    if found is False:
        return Cell(False, declared_place(ledger))
    return ledger.answer(CLAIMS[wanted]) if wanted in CLAIMS else Cell(None)


def obtained_place(sources: Sequence[SourceRecord]) -> str:
    """Where it is recorded how sources were obtained."""
    return backing(source.cell("obtained") for source in sources)


def declared_place(ledger: Ledger) -> str:
    """Where all sources are declared: what shows that none is of a kind."""
    return "; ".join(dict.fromkeys(f"{source.artifact.ref} step.json source" for source in ledger.sources))
