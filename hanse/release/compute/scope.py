"""What belongs to the two sums of training compute and what does not, item by item, with the reason.

Guidelines C(2025) 5045, annex, paragraphs 118 to 133.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from hanse.errors import InputError
from hanse.plan import operations
from hanse.release.compute.jobs import Job, exact, flop_text, integer, joined
from hanse.release.ledger import Ledger, SourceRecord, runtime_of
from hanse.release.papers.paper import Cell
from hanse.store import record as records
from hanse.store.stage import Artifact

#: Where the rules stand. Which of these paragraphs holds which rule is not said: check it against the numbered text.
ANNEX = "C(2025) 5045, annex, paragraphs 118-133"


@dataclass(frozen=True)
class Item:
    """One thing that took compute.

    Attributes:
        what: it is.
        flop: an integer as `exact` writes it; empty where nothing backs it.
        in_update: whether it counts as compute that directly moved the weights.
        in_cumulative: whether it counts as cumulative compute.
        reason: the rule.
        source: the record that shows it.
        note: what stands in place of a figure that is not needed.
    """

    what: str
    flop: Cell
    in_update: bool
    in_cumulative: bool
    reason: str
    source: str
    note: str = ""

    @property
    def shown(self) -> Cell:
        """Its operations as a paper prints them."""
        return Cell(self.note, self.source) if self.note and not self.flop.is_recorded else self.flop


@dataclass(frozen=True)
class Parent:
    """Weights from outside that training went on from.

    Attributes:
        flop: their own training compute.
        is_systemic: whether their model is presumed to be of systemic risk.
        source: the record that names them.
        refs: the steps of the ancestry that made them; empty where they came from outside the store.
    """

    flop: Cell
    is_systemic: Cell
    source: str
    refs: frozenset[str] = frozenset()


def items(ledger: Ledger, found: tuple[Job, ...]) -> tuple[Item, ...]:
    """Everything, counted or not, in the order of a pipeline."""
    parent = parent_of(ledger, found)
    sources = {source.name: source for source in ledger.sources}.values()  # a source may stand in several records
    mine = [job for job in found if parent is None or job.ref not in parent.refs]
    return (
        *_preparing(ledger),
        *(_synthetic(ledger, source) for source in sources if source.cell("obtained").value == "synthetic"),
        *(_writer(source) for source in sources if source.cell("model").is_recorded),
        *([_initial(parent)] if parent else []),
        *(_moving(job) for job in mine),
        *_beside(found),
        *_merging(ledger, found),
        *_looking(ledger),
    )


def parent_of(ledger: Ledger, found: tuple[Job, ...]) -> Parent | None:
    """The weights that some step went on from without naming their artifact; None where every step had its own.

    Their compute is taken from the records if these weights are among them, else from `answers.toml`.

    Raises:
        InputError: an answer that is no number of operations.
    """
    starts = {tuple(sorted(job.start.items())): job for job in found if job.start}
    if not starts:
        return None
    source = joined(f"{job.ref} step.json model.start" for job in starts.values())
    systemic = ledger.answer("compute.parent_is_systemic")
    if len(starts) > 1:
        return Parent(Cell(None), systemic, source)
    ((files, _),) = starts.items()
    holder = _holder(ledger, {digest for _, digest in files})
    refs = _ancestry(ledger, holder.ref) if holder else frozenset()
    inside = [job for job in found if job.ref in refs]
    if inside and all(job.flop.is_recorded for job in inside):
        total = sum(integer(job.flop) or 0 for job in inside)
        places = joined(job.flop.source for job in inside)
        return Parent(Cell(exact(total), places, flop_text(total)), systemic, source, refs)
    return Parent(stated_flop(ledger, "compute.parent_flop"), systemic, source, refs)


def stated_flop(ledger: Ledger, key: str) -> Cell:
    """Operations that `answers.toml` states, as a number or as text such as "2.1e24".

    Raises:
        InputError: it is no number above 0.
    """
    return _flop_of(ledger.answer(key), f"answers.toml {key}")


def _flop_of(stated: Cell, place: str) -> Cell:
    if not stated.is_recorded:
        return Cell(None)
    try:
        number = Decimal("nan" if isinstance(stated.value, bool) else str(stated.value))
    except InvalidOperation:
        number = Decimal("nan")
    if not (number.is_finite() and 1 <= number < Decimal("1e40")):
        raise InputError(f"{place} = {stated.value!r}: is no number of operations; write one such as 2.1e24.")
    return Cell(exact(int(number)), place, flop_text(int(number)))


def _preparing(ledger: Ledger) -> Iterator[Item]:
    refs = [artifact.ref for artifact in ledger.ancestors if artifact.kind in ("dataset", "conversations", "tokenizer",
                                                                               "shards")]  # fmt: skip
    if refs:
        yield Item("curation, tokenizer and shards", Cell(None), False, False,
                   "preparing text moves no weight of this model", "; ".join(f"{ref} step.json" for ref in refs),
                   note="not needed")  # fmt: skip


def _synthetic(ledger: Ledger, source: SourceRecord) -> Item:
    what, place = (
        f"writing the synthetic text of source '{source.name}', thrown-away samples too",
        source.cell("obtained").source,
    )
    if source.cell("kind").value == "atlas":
        return Item(what, Cell(0, place, "none"), False, False, "rules wrote it: no model made a forward pass",
                    source.cell("kind").source)  # fmt: skip
    stated = _stated(ledger, source.name)
    key = f"compute.synthetic.{source.name}"
    is_public = stated.get("is_public")
    if is_public is not None and not isinstance(is_public, bool):
        raise InputError(f"answers.toml {key}.is_public = {is_public!r}: has to be true or false.")
    flop = _flop_of(Cell(stated.get("flop"), key), f"answers.toml {key}.flop")
    if is_public:
        return Item(what, flop, False, False, "forward passes that made publicly accessible data need not be counted",
                    f"{place}; answers.toml {key}.is_public", note="not needed")  # fmt: skip
    reason = "forward passes that made data which is not public count, also those of samples that were thrown away"
    if is_public is None:
        reason += "; nothing says whether this text is public, so it counts"
    return Item(what, flop, False, True, reason, place)


def _writer(source: SourceRecord) -> Item:
    model = source.cell("model")
    return Item(f"training of {model.value}, which wrote source '{source.name}'", Cell(None), False, False,
                "the training of a model that is only distilled from is not counted", model.source,
                note="not needed")  # fmt: skip


def _initial(parent: Parent) -> Item:
    return Item("training of the model whose weights were the start", parent.flop, False, True,
                "weights used as initialisation bring their training along; what moved the weights here is the "
                "modification alone", parent.source)  # fmt: skip


def _moving(job: Job) -> Item:
    if job.kind == "merging":
        return Item(f"merging: {job.ref}", job.flop, True, True,
                    "averaging takes no pass; the training of each merged model stands in this list",
                    f"{job.ref} step.json merge")  # fmt: skip
    return Item(f"{job.kind}: {job.ref}", job.flop, True, True, "forward and backward passes that moved the weights",
                f"{job.ref} step.json")  # fmt: skip


def _beside(found: tuple[Job, ...]) -> Iterator[Item]:
    for job in found:
        optimizer, steps = job.section.get("optimizer"), job.artifact.facts.get("steps")
        if isinstance(optimizer, str) and isinstance(steps, int) and job.config is not None:
            source = f"{job.ref} step.json steps; {job.ref} config.json"
            yield Item(f"optimizer steps ({optimizer}) of {job.ref}", _optimizer_flop(job, optimizer, steps, source),
                       False, False, "no pass through the model: stated beside the operations of the architecture",
                       source)  # fmt: skip
        recompute = runtime_of(job.artifact).get("recompute")
        if recompute is not None:
            said = "was on" if recompute else "was off"
            yield Item(f"activations computed again in {job.ref}", Cell(None), False, False,
                       "recomputed activations need not be counted", f"{job.ref} step.json runtime.recompute",
                       note=f"{said}; not needed")  # fmt: skip


def _optimizer_flop(job: Job, optimizer: str, steps: int, source: str) -> Cell:
    assert job.config is not None
    try:
        flop = sum(operations.updating(job.config, optimizer, steps).values())
    except InputError:
        return Cell(None)
    return Cell(exact(flop), source, flop_text(flop))


def _merging(ledger: Ledger, found: tuple[Job, ...]) -> Iterator[Item]:
    if not any(job.kind == "merging" for job in found):
        yield Item("merged or averaged weights", Cell(0, f"{ledger.model.ref} step.json", "none"), False, False,
                   "no step of the ancestry merged weights", f"{ledger.model.ref} step.json")  # fmt: skip


def _looking(ledger: Ledger) -> Iterator[Item]:
    yield Item("evaluation", Cell(None), False, False, "evaluation and red-teaming need not be counted",
               f"{ledger.evaluation.ref} step.json", note="not needed")  # fmt: skip
    if ledger.memorisation is not None:
        yield Item("memorisation tests", Cell(None), False, False, "evaluation and red-teaming need not be counted",
                   f"{ledger.memorisation.ref} step.json", note="not needed")  # fmt: skip
    stated = stated_flop(ledger, "compute.exploratory_flop")
    yield Item("exploratory runs", stated, False, False,
               "runs that only taught people something need not be counted", stated.source or ANNEX)  # fmt: skip


def _stated(ledger: Ledger, source: str) -> Mapping[str, Any]:
    """What `answers.toml` says under [compute.synthetic.NAME]; the name may hold dots."""
    section: Any = ledger.answers
    for part in ("compute", "synthetic", source):
        section = section.get(part) if isinstance(section, Mapping) else None
    return section if isinstance(section, Mapping) else {}


def _holder(ledger: Ledger, digests: set[str]) -> Artifact | None:
    """The model of the ancestry that holds all these weight files."""
    for artifact in ledger.of_kind("model"):
        if digests <= set(records.subjects_of(artifact.record).values()):
            return artifact
    return None


def _ancestry(ledger: Ledger, ref: str) -> frozenset[str]:
    """An artifact and all that it was made from, each once; a record that leads back to itself ends there."""
    known = {artifact.ref: artifact for artifact in ledger.ancestors}
    seen: set[str] = set()
    pending = [ref]
    while pending:
        here = pending.pop()
        if here in seen or here not in known:
            continue
        seen.add(here)
        pending += [each.ref for each in records.inputs_of(known[here].record)]
    return frozenset(seen)
