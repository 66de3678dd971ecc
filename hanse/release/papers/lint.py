"""What keeps papers from being final: mandatory questions that nobody answered, and answers that records contradict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from hanse.release.ledger import Ledger, SourceRecord, table_of
from hanse.release.papers import answers
from hanse.release.papers.categories import CLAIMS, recorded_use, sources_of
from hanse.release.papers.paper import Entry, Paper
from hanse.release.papers.summary import COMMENTED, month
from hanse.release.papers.summary_data import COUNTS, latest, read_json, sound, started_from
from hanse.store.documents import count_documents

#: What two records of one source have to agree in.
_SAME = ("obtained", "licence", "licence_basis", "rights_holder", "contract", "crawler", "model")


def missing(papers: Iterable[Paper]) -> list[Entry]:
    """The mandatory questions without an answer; one that several papers ask stands once."""
    found: dict[str, Entry] = {}
    for paper in papers:
        for entry in paper.entries:
            if entry.is_mandatory and not entry.cell.is_recorded:
                found.setdefault(entry.key or f"{paper.name} {entry.number} {entry.question}", entry)
    return list(found.values())


def contradictions(ledger: Ledger) -> list[str]:
    """What does not go together, each with both sides: answers and records, or two records. No final full stop."""
    unfit = [f"answers.toml {problem.rstrip('.')}" for problem in answers.problems(ledger.answers)]
    if unfit:  # nothing can be compared with an answer of a wrong type
        return unfit
    return [*_claims(ledger), *_names(ledger), *_comments(ledger), *_contact(ledger), *_dates(ledger), *_base(ledger),
            *_sources(ledger), *_counts(ledger)]  # fmt: skip


def _claims(ledger: Ledger) -> Iterator[str]:
    """Yes or no to a category of sources, where the record knows."""
    for wanted, key in CLAIMS.items():
        said, known = ledger.answer(key).value, recorded_use(ledger, wanted)
        if said is None or known is None or said == known:
            continue
        if known:
            source = sources_of(ledger, wanted)[0]
            shown = f'{source.cell("obtained").source} is "{source.declared.get("obtained")}" (source {source.name})'
        else:
            shown = f"no source of the record is of that kind ({_how(ledger)})"
        yield f"answers.toml {key} is {str(said).lower()}, but {shown}"


def _how(ledger: Ledger) -> str:
    """How each source was obtained."""
    shown = (f"{s.name}: {s.declared.get('obtained')}{_by_rules(s)}" for s in ledger.sources)
    return ", ".join(dict.fromkeys(shown))


def _by_rules(source: SourceRecord) -> str:
    is_by_rules = source.declared.get("obtained") == "synthetic" and not source.declared.get("model")
    return ", written by rules and not by a model" if is_by_rules else ""


def _names(ledger: Ledger) -> Iterator[str]:
    """Sources that answers name have to exist, and to be of the kind that is spoken of."""
    known = {source.name: source for source in ledger.sources}
    for key, obtained in (
        ("data.private_third_party", "other"),
        ("data.from_model_interaction", "user"),
        ("data.from_other_services", "user"),
    ):
        for name in ledger.answer(key).value or ():
            if name not in known:
                yield f"answers.toml {key} names '{name}', but the records have {_listed(known, 'no source')}"
            elif known[name].declared.get("obtained") != obtained:
                place = known[name].cell("obtained")
                shown = f'{place.source or name} is "{place.value}", not "{obtained}"'
                yield f"answers.toml {key} names '{name}', but {shown}"
    for name in ledger.answer("data.generator_links").value or ():
        models = {str(source.declared["model"]) for source in ledger.sources if source.declared.get("model")}
        if name not in models:
            shown = _listed(models, "no model")
            yield f"answers.toml data.generator_links names '{name}', but the records have {shown}"


def _comments(ledger: Ledger) -> Iterator[str]:
    for number, said in (ledger.answer("summary.comments").value or {}).items():
        if number not in COMMENTED:
            yield f"answers.toml summary.comments names section '{number}', but they belong to {', '.join(COMMENTED)}"
        elif not isinstance(said, str):
            yield f"answers.toml summary.comments.{number} is {said!r}, but a comment is text"


def _listed(names: Iterable[str], otherwise: str) -> str:
    return ", ".join(sorted(names)) or otherwise


def _contact(ledger: Ledger) -> Iterator[str]:
    said = ledger.answer("provider.contact").value
    if said and ledger.contact and said.strip() != ledger.contact.strip():
        yield f"answers.toml provider.contact is '{said}', but [release] contact of the recipe is '{ledger.contact}'"


def _dates(ledger: Ledger) -> Iterator[str]:
    ended = ledger.model.record["predicate"]["runDetails"]["metadata"]["finishedOn"][:10]
    for key in ("model.union_market_date", "model.release_date"):
        day = ledger.answer(key).value
        if day and day < ended:
            place = f"{ledger.model.ref} step.json finishedOn"
            yield f"answers.toml {key} is {day}, but training ended on {ended} ({place})"
    first, union = ledger.answer("model.release_date").value, ledger.answer("model.union_market_date").value
    if first and union and union < first:
        yield f"answers.toml model.union_market_date is {union}, but model.release_date is {first}"
    said = ledger.answer("data.latest_acquisition").value
    if said:
        for source in ledger.sources:
            found = latest(ledger, source)
            if found.is_recorded and found.value[:7] > f"{said[3:]}-{said[:2]}"[: len(found.value)]:
                yield (
                    f"answers.toml data.latest_acquisition is {said}, but text of source '{source.name}' was obtained "
                    f"in {month(found.value)} ({found.source})"
                )


def _base(ledger: Ledger) -> Iterator[str]:
    said = ledger.answer("model.base_model")
    has_definition = any(source for source in ledger.of_kind("model") if _made_by(source))
    if said.is_recorded and has_definition and not started_from(ledger):
        yield f"answers.toml model.base_model is '{said.value}', but the records begin with random weights"


def _made_by(model: Any) -> bool:
    from hanse.store import record as records

    return "model" in records.definition_of(model.record)


def _sources(ledger: Ledger) -> Iterator[str]:
    """A source that two records declare has to be declared alike."""
    first: dict[str, SourceRecord] = {}
    for source in ledger.sources:
        other = first.setdefault(source.name, source)
        for key in _SAME:
            one, two = other.cell(key), source.cell(key)
            if one.is_recorded and two.is_recorded and one.value != two.value:
                yield f"{one.source} is '{one.value}', but {two.source} is '{two.value}'"


def _counts(ledger: Ledger) -> Iterator[str]:
    """What a dataset's step noted, its counts and its table of documents have to agree."""
    for dataset in ledger.of_kind("dataset"):
        sizes: list[tuple[str, int]] = []
        if isinstance(dataset.facts.get("kept"), int):
            sizes.append((f"{dataset.ref} step.json kept", dataset.facts["kept"]))
        if (dataset.path / COUNTS).is_file():
            sizes.append((f"{dataset.ref} {COUNTS} kept", read_json(dataset.path / COUNTS).get("kept", 0)))
        if sizes and table_of(dataset).is_file():
            with sound(table_of(dataset)):
                table = sum(group.documents for group in count_documents(table_of(dataset), ["split"]))
            sizes.append((f"{dataset.ref} documents.parquet without a reason to drop", table))
        yield from _unequal(sizes)


def _unequal(sizes: Sequence[tuple[str, int]]) -> Iterator[str]:
    for place, size in sizes[1:]:
        if size != sizes[0][1]:
            yield f"{sizes[0][0]} is {sizes[0][1]:,}, but {place} is {size:,}"
