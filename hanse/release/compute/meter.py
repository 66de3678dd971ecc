"""The compute meter: what training a release took, counted as the Commission's guidelines ask, and what that means.

Guidelines on the scope of the obligations for providers of general-purpose AI models, C(2025) 5045, annex, paragraphs
118 to 133. Two sums are kept apart: compute that directly moved the weights, and cumulative compute. Two methods are
held against each other: operations of the architecture, and hardware (N x L x H x U). What no record or answer backs
makes a sum "not recorded"; what is known of it is then a lower bound, and says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction

from hanse.errors import InputError
from hanse.plan import operations
from hanse.release.compute import energy as energies
from hanse.release.compute.hardware import hardware_section
from hanse.release.compute.jobs import (
    Job,
    Problem,
    exact,
    flop_text,
    gaps,
    integer,
    jobs,
    joined,
    problems,
    scientific,
    wall_time,
)
from hanse.release.compute.scope import ANNEX, Item, Parent, items, parent_of
from hanse.release.ledger import Ledger
from hanse.release.papers.paper import Cell, Entry, Paper, Section, Table, not_applicable

NAME = "compute"
GPAI, SYSTEMIC = 10**23, 10**25
#: What a use of the model is reckoned for: tokens to read and to write.
PROMPT, ANSWER = 1000, 100


@dataclass(frozen=True)
class Total:
    """A sum of operations.

    Attributes:
        flop: all of it; empty where a part that belongs to it is not recorded.
        known: what is recorded, which is then a lower bound.
        source: the records behind that.
    """

    flop: Cell
    known: int
    source: str


def paper(ledger: Ledger) -> Paper:
    """Compute, energy, and which side of each threshold the release is on."""
    found = jobs(ledger)
    counted = items(ledger, found)
    return Paper(
        name=NAME,
        title=f"Compute and energy of {ledger.title or ledger.name}",
        about=(
            "Training compute after the annex (paragraphs 118 to 133) of the Commission's guidelines for providers of "
            "general-purpose AI models, C(2025) 5045; energy, emissions and cost."
        ),
        sections=(
            _sums(ledger),
            _architecture(found),
            hardware_section(ledger, found),
            _scope(counted),
            _thresholds(ledger),
            energies.section(ledger, found),
            _use(ledger),
            _trouble(ledger, found),
        ),
    )


def training_flop(ledger: Ledger) -> Cell:
    """Compute that directly moved the weights, over the whole ancestry: an integer, as text beyond 2**53."""
    return update_total(ledger).flop


def update_total(ledger: Ledger) -> Total:
    """The sum below systemic risk, with what is known where it is not complete."""
    return _total(each for each in items(ledger, jobs(ledger)) if each.in_update)


def cumulative_total(ledger: Ledger) -> Total:
    """The sum for systemic risk, with what is known where it is not complete."""
    return _total(each for each in items(ledger, jobs(ledger)) if each.in_cumulative)


def training_time(ledger: Ledger) -> Cell:
    """Wall time of all training steps in seconds, and hardware-days; empty where a step did not record it."""
    return wall_time(jobs(ledger))


def energy(ledger: Ledger) -> Cell:
    """Energy of training in Wh, and by which method it is known; empty where it is not known for a step."""
    return energies.energy(ledger, jobs(ledger))


def energy_method(ledger: Ledger) -> Cell:
    """How that energy is known."""
    return energies.method(ledger, jobs(ledger))


def contradictions(ledger: Ledger) -> list[Problem]:
    """What in the records of training, or in the answers about them, cannot be or does not hold together."""
    found = jobs(ledger)
    return [*problems(found), *energies.problems(ledger, found)]


def inference_flop(ledger: Ledger) -> Cell:
    """Operations of one use of the model: counted from its architecture, for a stated task; measured on no hardware."""
    try:
        config = operations.config_of(ledger.config, ledger.model.path)
    except (InputError, LookupError, TypeError, ValueError):
        return Cell(None)
    prompt = max(1, min(PROMPT, config.max_position_embeddings // 2))
    answer = max(1, min(ANSWER, config.max_position_embeddings - prompt))
    flop = operations.inference(config, prompt, answer)
    text = (
        f"{flop_text(flop)} to read {prompt:,} tokens and write {answer:,} with a cache, counted from the architecture"
    )
    return Cell(exact(flop), f"{ledger.model.ref} config.json", text)


def order_of_magnitude(flop: Cell) -> Cell:
    """The power of ten at or below it, as national authorities get it."""
    number = integer(flop)
    return Cell(None) if number is None else Cell(power(number), flop.source)


def two_figures(flop: Cell) -> Cell:
    """Rounded to two significant figures, as the AI Office gets it."""
    number = integer(flop)
    return Cell(None) if number is None else Cell(rounded(number), flop.source)


def power(number: int) -> str:
    """10 to the power that is at or below a positive integer, as text: `10^23`."""
    return f"10^{len(str(number)) - 1}" if number > 0 else "0"


def rounded(number: int) -> str:
    """A positive integer with two significant figures, halves upwards: `5.2e23`."""
    digits = len(str(number)) - 1
    tenths = round_half_up(Fraction(number * 10, 10**digits))
    if tenths == 100:
        tenths, digits = 10, digits + 1
    return f"{tenths // 10}.{tenths % 10}e{digits}" if number > 0 else "0"


def round_half_up(value: Fraction) -> int:
    """The nearest integer; halves upwards."""
    return (2 * value.numerator + value.denominator) // (2 * value.denominator)


# --------------------------------------------------------------------------- sections


def _sums(ledger: Ledger) -> Section:
    update, cumulative = update_total(ledger), cumulative_total(ledger)
    return Section("1", "Training compute", (
        "Compute that directly moved the weights counts below systemic risk; cumulative compute counts for systemic "
        "risk. Both are sums over the whole ancestry, in which a shared ancestor stands once.",
        Entry("1.1", "Compute that contributed directly to parameter updates", update.flop),
        *_bound("1.1", update),
        Entry("1.2", "Cumulative compute", cumulative.flop),
        *_bound("1.2", cumulative),
        Entry("1.3", "Training compute, order of magnitude", order_of_magnitude(update.flop), readers=("NCA",)),
        Entry("1.4", "Training compute, two significant figures", two_figures(update.flop), readers=("AIO",)),
        Entry("1.5", "Cumulative compute, order of magnitude", order_of_magnitude(cumulative.flop), readers=("NCA",)),
        Entry("1.6", "Cumulative compute, two significant figures", two_figures(cumulative.flop), readers=("AIO",)),
    ))  # fmt: skip


def _bound(number: str, total: Total) -> tuple[Entry, ...]:
    if total.flop.is_recorded or not total.known:
        return ()
    known = Cell(exact(total.known), total.source, f"at least {flop_text(total.known)}")
    return (Entry(f"{number}.1", "Of which recorded, a lower bound", known),)


def _architecture(found: Iterable[Job]) -> Section:
    tables = []
    for job in found:
        source, total = f"{job.ref} step.json operations", integer(job.flop)
        rows = [
            (Cell(part, source), Cell(exact(flop), source, flop_text(flop)), _share(flop, total, source))
            for part, flop in job.operations.items()
        ]
        rows.append((Cell("all of forward and backward", f"{job.ref} step.json"), job.flop,
                     _share(total, total, job.flop.source)))  # fmt: skip
        for mover, flop in _updating(job).items():
            place = f"{job.ref} step.json steps; {job.ref} config.json"
            beside = _share(flop, total, place)
            if beside.is_recorded:
                beside = Cell(beside.value, place, f"{beside.text}, not in the sum")
            rows.append((Cell(f"optimizer: {mover}", place), Cell(exact(flop), place, flop_text(flop)), beside))
        tables.append(Table(("part", "operations", "share"), tuple(rows), title=f"{job.kind}: {job.ref}"))
    return Section("2", "Operations of the architecture", (
        "Two operations for each number of a matrix that a token meets in the forward pass, and twice that in the "
        "backward pass. Attention: each pair of tokens that see each other, so the causal half and only inside "
        "documents. Experts: those chosen for a token, the shared ones, and the router. The unembedding counts where "
        "a position entered the loss. Activations computed a second time are left out. Element-wise work (norms, "
        "rotations, activations) is left out of forward and backward: it is far below the tolerance of 30 %. Steps of "
        "the optimizer are no pass through the model and are stated beside the sum. Where a record has no parts, it "
        "was written by a version that took each sequence for one document and each position for counted.",
        *tables,
    ))  # fmt: skip


def _share(flop: int | None, total: int | None, source: str) -> Cell:
    if not flop or not total:
        return Cell(None)
    return Cell(flop / total, source, f"{flop / total:.2%}")


def _updating(job: Job) -> Mapping[str, int]:
    optimizer, steps = job.section.get("optimizer"), job.artifact.facts.get("steps")
    if job.config is None or not isinstance(optimizer, str) or not isinstance(steps, int):
        return {}
    try:
        return operations.updating(job.config, optimizer, steps)
    except InputError:
        return {}


def _scope(counted: Iterable[Item]) -> Section:
    rows = tuple(
        (
            Cell(each.what, each.source),
            each.shown,
            Cell(each.in_update, each.source),
            Cell(each.in_cumulative, each.source),
            Cell(each.reason, ANNEX),
        )
        for each in counted
    )
    columns = ("what", "operations", "moves weights: counted", "cumulative: counted", "why")
    return Section("4", "What the sums hold", (Table(columns, rows),))


def _thresholds(ledger: Ledger) -> Section:
    update, cumulative = update_total(ledger), cumulative_total(ledger)
    parent = parent_of(ledger, jobs(ledger))
    rows = [_threshold("general-purpose model: above 1e23", update, GPAI, "1e23", "C(2025) 5045")]
    if parent is None:
        none = not_applicable("its first weights are its own", f"{ledger.model.ref} step.json")
        rows.append(
            (Cell("provider of a modified model: above one third of the parent", none.source), none, none, none, none)
        )
    else:
        what = "the same, with the training of the model that was continued"
        rows += [_threshold(what, cumulative, GPAI, "1e23", "C(2025) 5045"), _modifier(update, parent)]
    rows.append(_threshold("systemic risk presumed: above 1e25", cumulative, SYSTEMIC, "1e25", "AI Act, Art. 51(2)"))
    columns = ("threshold", "compute", "limit", "compute / limit", "side")
    return Section("5", "Thresholds", (
        "The general-purpose threshold is compared with what moved the weights, the modifier's with the same (for a "
        "model that was continued that is the modification alone), the systemic one with cumulative compute. This is "
        "arithmetic and no judgement: a presumption can be rebutted, and a model below it designated.",
        *([Entry("5.1", "Training compute of the model that was continued", parent.flop, key="compute.parent_flop")]
          if parent else []),
        Table(columns, tuple(rows)),
    ))  # fmt: skip


def _modifier(update: Total, parent: Parent) -> tuple[Cell, ...]:
    base, source = integer(parent.flop), parent.flop.source
    if base is not None:
        return _threshold("provider of a modified model: above one third of the parent", update, Fraction(base, 3),
                          f"{flop_text(base)} / 3", source)  # fmt: skip
    limit, name = (SYSTEMIC, "1e25") if parent.is_systemic.value is True else (GPAI, "1e23")
    why = "the parent's compute is not recorded" + (", and it is of systemic risk" if limit == SYSTEMIC else "")
    place = joined((parent.source, parent.is_systemic.source))
    return _threshold(f"provider of a modified model: above {name} / 3, since {why}", update, Fraction(limit, 3),
                      f"{name} / 3", place)  # fmt: skip


def _threshold(what: str, total: Total, limit: int | Fraction, name: str, source: str) -> tuple[Cell, ...]:
    """Arithmetic and side. A lower bound decides only if it is above the limit already."""
    shown = f"{name} = {scientific(limit)}" if "/" in name else f"{name} FLOP"
    cells = [Cell(what, source), total.flop, Cell(scientific(limit), source, shown)]
    number = integer(total.flop)
    if number is None and Fraction(total.known) > limit:
        cells[1] = Cell(exact(total.known), total.source, f"at least {flop_text(total.known)}")
        number = total.known
    if number is None:
        return (*cells, Cell(None), Cell(None))
    place = joined((total.source, source))
    ratio = Fraction(number) / Fraction(limit)
    sum_text = f"{scientific(number)} / {scientific(limit)} = {float(ratio):.3g}"
    if ratio != 1 and f"{float(ratio):.3g}" == "1":  # rounding hides the side
        sum_text += f": {number:,} is {'more' if ratio > 1 else 'less'} than {name}"
    side = "above" if ratio > 1 else "not above"
    return (*cells, Cell(float(ratio), place, sum_text), Cell(side, place))


def _use(ledger: Ledger) -> Section:
    return Section("7", "Use of the model", (
        Entry("7.1", "Operations of inference", inference_flop(ledger)),
        Entry("7.2", "Hardware on which inference was measured", Cell(None)),
    ))  # fmt: skip


def _trouble(ledger: Ledger, found: tuple[Job, ...]) -> Section:
    def table(title: str, rows: Iterable[Problem]) -> Table:
        cells = tuple((Cell(each.source.split(" ")[0], each.source), Cell(each.what, each.source)) for each in rows)
        return Table(("where", "what"), cells, title=title)

    return Section("8", "Contradictions and gaps", (
        table("Contradictions", contradictions(ledger)),
        table("Gaps", gaps(found)),
        "Uncertainty: operations are counted from recorded tokens and the model's sizes, so they are exact for what "
        "they count; the annex allows 30 % for all that they leave out.",
    ))  # fmt: skip


# --------------------------------------------------------------------------- arithmetic


def _total(chosen: Iterable[Item]) -> Total:
    parts = list(chosen)
    known = sum(number for each in parts if (number := integer(each.flop)) is not None)
    source = joined(each.flop.source for each in parts)
    is_whole = bool(parts) and all(each.flop.is_recorded for each in parts)
    return Total(Cell(exact(known), source, flop_text(known)) if is_whole else Cell(None), known, source)
