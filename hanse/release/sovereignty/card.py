"""The sovereignty card: what a model hangs on, and a score from the worst to the best case that the records allow.

The objectives SOV-1 to SOV-8, their weights and the levels SEAL-0 to SEAL-4 are those of the European Commission's
Cloud Sovereignty Framework 1.2.1. It rates cloud services; how it is read for a model is ours, and so says the card.
What nobody knows widens the range. docs/sovereignty.md has the rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hanse.release.papers.paper import Cell, Entry, Paper, Section, Table
from hanse.release.sovereignty.components import Component, Kind, answers, components, facts, is_free

if TYPE_CHECKING:
    from hanse.release.ledger import Ledger

FULL, UNKNOWN = 4, (0, 4)
LEVELS = (
    "no sovereignty", "jurisdictional sovereignty", "data sovereignty", "digital resilience",
    "full digital sovereignty",
)  # fmt: skip
_TITLES: Mapping[Kind, str] = {
    "data": "Data",
    "code": "Code and packages",
    "teacher": "Teacher models",
    "weights": "Weights that training began with",
    "chip": "Chips",
    "host": "Hosts",
}


@dataclass(frozen=True)
class Level:
    """SEAL levels that are possible.

    Attributes:
        low, high: the worst and the best case, 0 to 4.
        why: what the worst case rests on.
        source: the records behind it, separated by "; ".
    """

    low: int
    high: int
    why: str
    source: str


def paper(ledger: Ledger) -> Paper:
    """The card.

    Raises:
        InputError: answers under [sovereignty] that cannot be read.
    """
    found = components(ledger)
    levels = objectives(ledger, found)
    kinds = [
        Section(str(number), title, (_table([each for each in found if each.kind == kind]),))
        for number, (kind, title) in enumerate(_TITLES.items(), 2)
    ]
    about = (
        "What this model hangs on, under whose law it is, and what happens if it goes away. The score takes "
        f"objectives, weights and levels from the {facts()['framework']['name']} {facts()['framework']['version']} of "
        "the European Commission, which rates cloud services; reading it for a model is Hanse's own doing, and no "
        "rating by the Commission."
    )
    last = Section(str(2 + len(kinds)), "How to read it", _READING)
    sections = (Section("1", "Score", tuple(_score(levels))), *kinds, last)
    return Paper("sovereignty", "Sovereignty card", about, sections)


def objectives(ledger: Ledger, found: Sequence[Component]) -> dict[str, Level]:
    """The possible levels of each objective: that of its weakest part.

    Args:
        found: of `components`.
    """
    said = answers(ledger)
    of = {kind: [each for each in found if each.kind == kind and not each.is_absent] for kind in _TITLES}
    weights = Cell(ledger.licence or None, "release step.json licence")
    return {
        "SOV-1": _seat("the provider", _country(said, "provider_country"), _country(said, "control_country")),
        "SOV-2": _weakest(_seat(_name(each), each.country, each.control) for each in of["host"]),
        "SOV-3": _weakest(_supplied(each) for each in (*of["data"], *of["teacher"], *of["weights"])),
        "SOV-4": _weakest([
            _open("the weights", is_free(ledger.licence), weights),
            *(_supplied(each) for each in of["code"]),
            _run_by("who operates it", _country(said, "operators_country"), least=1),
        ]),
        "SOV-5": _weakest([*(_made(each) for each in of["chip"]), *(_supplied(each) for each in of["code"])]),
        "SOV-6": _weakest([
            _open("the weights", is_free(ledger.licence), weights),
            *(_open(_name(each), each.is_free, each.licence) for each in of["code"]),
            *(_open(_name(each), each.is_free, each.name) for each in of["chip"]),
        ]),
        "SOV-7": _run_by(
            "who runs its security", _country(said, "security_country"), least=int(bool(ledger.key_fingerprint))
        ),
        "SOV-8": _energy(ledger, said),
    }  # fmt: skip


def score(levels: Mapping[str, Level]) -> tuple[float, float]:
    """The weighted score in percent, in the worst and the best case."""
    weights = {str(each["number"]): int(each["weight"]) for each in facts()["objective"]}
    low = sum(weights[number] * level.low / FULL for number, level in levels.items())
    high = sum(weights[number] * level.high / FULL for number, level in levels.items())
    return low, high


_READING = (
    "SEAL-0 to SEAL-4 are the framework's levels: " + ", ".join(f"{n} {what}" for n, what in enumerate(LEVELS)) + ".",
    "An objective has the level of its weakest part. Each part lies between the worst and the best that fits what is "
    "on record; nothing is assumed in between.",
    "A part under the law of the Union counts as SEAL-4. One from elsewhere counts as SEAL-3 if its licence lets "
    "anybody keep, change and pass on the copy at hand, and as SEAL-1 if not. A chip from elsewhere is SEAL-1, and "
    "SEAL-2 if only its maker sits in the Union.",
    "Facts about packages and chips name where and when they were read. What is marked second-hand was read with "
    "somebody else than the maker, a register or the licence itself: check it before you rely on it. Substitutes and "
    "effects are Hanse's own judgement.",
    "A high score does not make a model good, nor a low one unlawful.",
)


# --------------------------------------------------------------------------- levels of parts


def is_european(country: Cell) -> bool | None:
    """Whether a country is a member of the Union; None where nobody knows."""
    from hanse.data.rights.tables import member_states

    if not country.is_recorded:
        return None
    return country.value == "EU" or country.value in member_states()


def _supplied(part: Component) -> Level:
    """Something made by others that a copy of is at hand: data, code, another model."""
    inside = is_european(part.country)
    low, high = {
        (True, None): (4, 4), (True, True): (4, 4), (True, False): (4, 4),
        (False, True): (3, 3), (False, False): (1, 1), (False, None): (1, 3),
        (None, True): (3, 4), (None, False): (1, 4), (None, None): UNKNOWN,
    }[inside, part.is_free]  # fmt: skip
    told = {True: "of the Union", False: f"of {part.country.shown()}", None: "of no recorded country"}[inside]
    licence = {True: "free to keep and change", False: "not free to change", None: "under no licence known here"}
    why = f"{_name(part)}: {told}, {licence[part.is_free]}"
    return Level(low, high, why, _sources(part.country, part.licence, part.name))


def _made(chip: Component) -> Level:
    """A chip: no licence lets anybody make another one."""
    inside = is_european(chip.country)
    if inside is None:
        return Level(*UNKNOWN, f"{_name(chip)}: no maker on record", _sources(chip.name))
    elsewhere = inside and chip.made_in.is_recorded and not is_european(chip.made_in)
    level = 1 if not inside else 2 if elsewhere else 4
    made = f", made in {chip.made_in.shown()}" if chip.made_in.is_recorded else ""
    why = f"{_name(chip)}: maker of {chip.country.shown()}{made}"
    return Level(level, level, why, _sources(chip.country, chip.made_in, chip.name))


def _seat(who: str, country: Cell, control: Cell) -> Level:
    """Somebody with a seat, and perhaps somebody else behind it."""
    inside, behind = is_european(country), is_european(control)
    told = f"{who}: seat {country.shown()}, controlled from {control.shown()}"
    source = _sources(country, control)
    if inside is None:
        return Level(*UNKNOWN, told, source)
    if not inside:
        return Level(0, 0, told, source)
    return Level(*{True: (4, 4), False: (1, 1), None: (1, 4)}[behind], told, source)


def _open(what: str, free: bool | None, licence: Cell) -> Level:
    low, high = {True: (4, 4), False: (1, 1), None: UNKNOWN}[free]
    told = {True: "open", False: "not open", None: "not known to be open"}[free]
    return Level(low, high, f"{what}: {told}", _sources(licence))


def _run_by(what: str, country: Cell, *, least: int) -> Level:
    inside = is_european(country)
    low, high = {True: (4, 4), False: (1, 1), None: (int(least), FULL)}[inside]
    return Level(low, high, f"{what}: {country.shown()}", _sources(country))


def _energy(ledger: Ledger, said: Mapping[str, Any]) -> Level:
    """Measured energy shows that somebody looked; the rest is the country of the grid."""
    grid = _country(said, "grid_country")
    measured = [model for model in ledger.of_kind("model") if model.facts.get("energy_wh") is not None]
    is_measured = len(measured) == len(ledger.of_kind("model")) and bool(measured)
    low, high = {True: (1, 4), False: (0, 1), None: UNKNOWN}[is_european(grid)]
    low += int(is_measured)
    told = f"energy {'measured' if is_measured else 'not recorded'}, grid of {grid.shown()}"
    places = [Cell(True, f"{model.ref} step.json energy_wh") for model in measured]
    return Level(low, high, told, _sources(grid, *places))


def _weakest(levels: Iterable[Level]) -> Level:
    """The level of the weakest part; with no part on record, anything is possible."""
    parts = list(levels)
    if not parts:
        return Level(*UNKNOWN, "nothing on record", "")
    worst = min(parts, key=lambda each: (each.low, each.high))
    others = sum((each.low, each.high) == (worst.low, worst.high) for each in parts) - 1
    why = worst.why + (f", and {others} more like it" if others else "")
    limit = min(parts, key=lambda each: each.high)
    if limit.high < worst.high:
        why += f"; at best, {limit.why}"
    sources = dict.fromkeys(place for each in (worst, limit) for place in each.source.split("; ") if place)
    return Level(worst.low, limit.high, why, "; ".join(sources))


def _country(said: Mapping[str, Any], key: str) -> Cell:
    value = said.get(key)
    return Cell(value, f"answers.toml sovereignty.{key}") if value else Cell(None)


def _name(part: Component) -> str:
    return part.name.shown() if part.name.is_recorded else f"the {part.kind}"


def _sources(*cells: Cell) -> str:
    return "; ".join(dict.fromkeys(cell.source for cell in cells if cell.source))


# --------------------------------------------------------------------------- drawing


def _score(levels: Mapping[str, Level]) -> Iterable[Entry | Table]:
    low, high = score(levels)
    backed = "the table of objectives below"
    shown = f"{low:.1f} % to {high:.1f} %" if low != high else f"{low:.1f} %"
    yield Entry("1.1", "Score, from the worst to the best case that the records allow",
                Cell([round(low, 2), round(high, 2)], backed, shown))  # fmt: skip
    floor = min(each.low for each in levels.values()), min(each.high for each in levels.values())
    yield Entry("1.2", "Lowest level of any objective", Cell(list(floor), backed, _seal(*floor)))
    rows = []
    for entry in facts()["objective"]:
        number, level = str(entry["number"]), levels[str(entry["number"])]
        place = level.source or "nothing on record"
        rows.append((
            Cell(number, "Cloud Sovereignty Framework"), Cell(entry["title"], "Cloud Sovereignty Framework"),
            Cell(entry["weight"], "Cloud Sovereignty Framework", f"{entry['weight']} %"),
            Cell(entry["reading"], "sovereignty.toml of Hanse"),
            Cell([level.low, level.high], place, _seal(level.low, level.high)), Cell(level.why, place),
        ))  # fmt: skip
    columns = ("objective", "", "weight", "read for a model as", "level", "the weakest part")
    yield Table(columns, tuple(rows), "Objectives")


def _seal(low: int, high: int) -> str:
    if (low, high) == UNKNOWN:
        return "unknown: SEAL-0 to SEAL-4"
    return f"SEAL-{low}" if low == high else f"SEAL-{low} to SEAL-{high}"


_COLUMNS: Mapping[str, Callable[[Component], Cell]] = {
    "name": lambda part: part.name,
    "origin": lambda part: part.origin,
    "country of law": lambda part: part.country,
    "licence": lambda part: part.licence,
    "substitute": lambda part: part.substitute,
    "if it disappears": lambda part: part.effect,
}


def _table(parts: Sequence[Component]) -> Table:
    rows = tuple(tuple(read(part) for read in _COLUMNS.values()) for part in parts)
    return Table(tuple(_COLUMNS), rows)
