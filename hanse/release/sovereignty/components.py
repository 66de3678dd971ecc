"""What a model hangs on: data, code, teachers, weights, chips and hosts, by records, a table of facts, and people.

The facts about packages and chips lie in `sovereignty.toml`, each with its source and date. A person's answers
(answers.toml [sovereignty]) fill what neither knows, and replace nothing that is known.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hanse.errors import InputError
from hanse.release.attribution import flags
from hanse.release.papers.paper import Cell, not_applicable
from hanse.store import record as records

if TYPE_CHECKING:
    from hanse.release.ledger import Ledger, SourceRecord

Kind = Literal["data", "code", "teacher", "weights", "chip", "host"]
FACTS = "sovereignty.toml"
#: Keys of answers.toml [sovereignty]: single countries, and sections by the name of a component.
COUNTRIES = ("provider_country", "control_country", "operators_country", "security_country", "grid_country")
SECTIONS = ("data", "packages", "teachers", "chips", "hosts")
_OF_ONE = ("origin", "country", "control_country", "licence", "substitute", "effect")
SECOND_HAND = "second-hand"
_OWN = ("substitute", "effect")  # keys of the table that no source says
NOTHING = Cell(None)
_FREE = 2  # of hanse.data.rights.licence.duties: public domain, permissive, copyleft


@dataclass(frozen=True)
class Component:
    """One thing that the model hangs on.

    Attributes:
        kind: which table it belongs to.
        origin: who made it or stands behind it.
        country: ISO 3166-1 alpha-2, or EU, of the law that it is under.
        control: the same of whoever controls that party, where it is another; for hosts and providers.
        made_in: of a chip, where it is made, if elsewhere.
        licence: SPDX, or a contract.
        is_free: whether anybody may keep, change and pass it on; None where nobody knows.
        is_absent: there is none of this kind, as `name` says.
    """

    kind: Kind
    name: Cell
    origin: Cell = NOTHING
    country: Cell = NOTHING
    control: Cell = NOTHING
    made_in: Cell = NOTHING
    licence: Cell = NOTHING
    substitute: Cell = NOTHING
    effect: Cell = NOTHING
    is_free: bool | None = None
    is_absent: bool = False


@cache
def facts() -> Mapping[str, Any]:
    """`sovereignty.toml`."""
    return tomllib.loads(Path(__file__).with_name(FACTS).read_text(encoding="utf-8"))


def components(ledger: Ledger) -> list[Component]:
    """Everything that the model hangs on, by kind.

    Raises:
        InputError: answers under [sovereignty] that cannot be read.
    """
    said = answers(ledger)
    return [
        *_data(ledger, said),
        *_code(ledger, said),
        *_teachers(ledger, said),
        *_weights(ledger, said),
        *_chips(ledger, said),
        *_hosts(said),
    ]


def answers(ledger: Ledger) -> Mapping[str, Any]:
    """answers.toml [sovereignty], with its keys checked.

    Raises:
        InputError: an unknown key, or a country that is no code of two letters.
    """
    said = ledger.answers.get("sovereignty", {})
    place = "answers.toml [sovereignty]"
    known = (*COUNTRIES, *SECTIONS, "base_model")
    for key, value in said.items():
        if key not in known:
            raise InputError(f"{place} {key}: unknown key; known are {', '.join(known)}.")
        if key in COUNTRIES:
            _check_country(value, f"{place} {key}")
            continue
        for name, one in ({"": value} if key == "base_model" else _section(value, f"{place} {key}")).items():
            for inner, text in _section(one, f"{place} {key}.{name}".rstrip(".")).items():
                if inner not in _OF_ONE:
                    raise InputError(f"{place} {key}.{name} {inner}: unknown key; known are {', '.join(_OF_ONE)}.")
                if inner.endswith("country"):
                    _check_country(text, f"{place} {key}.{name} {inner}")
    return dict(said)


def is_free(licence: str) -> bool | None:
    """Whether a licence lets anybody keep, change and pass on; None where it is unknown here."""
    from hanse.data.rights.licence import duties

    if not licence:
        return None
    if {"non-commercial", "no derivatives"} & set(flags(licence)):
        return False
    return True if duties(licence) <= _FREE else None


def _data(ledger: Ledger, said: Mapping[str, Any]) -> Iterator[Component]:
    for source in ledger.sources:
        own = _answer(said, "data", source.name)
        licence = source.cell("licence")
        licences = sorted({credit.licence for credit in ledger.credits if credit.source == source.name} - {""})
        if not licence.is_recorded and licences:
            licence = Cell(" AND ".join(f"({each})" if " " in each else each for each in licences),
                           f"{source.artifact.ref} documents", ", ".join(licences))  # fmt: skip
        if source.declared.get("obtained") == "licensed":
            licence = Cell(f"contract {source.declared.get('contract')}", source.cell("contract").source)
        yield Component(
            "data",
            Cell(source.name, f"{source.artifact.ref} step.json source.{source.number}.name"),
            origin=_first(source.cell("rights_holder"), source.cell("url"), own("origin")),
            country=_first(source.cell("jurisdiction"), own("country")),
            licence=licence,
            substitute=own("substitute"),
            effect=_first(own("effect"), _kept(source)),
            is_free=None if str(licence.value or "").startswith("contract ") else is_free(str(licence.value or "")),
        )


def _kept(source: SourceRecord) -> Cell:
    """What the record itself shows about a source that goes away."""
    expiry = source.declared.get("contract_expiry")
    if expiry:
        what = f"the contract ends on {expiry}; what was read until then is on record"
        return Cell(what, source.cell("contract_expiry").source)
    what = "none on this model; the text that was read lies in the store, with its digest"
    return Cell(what, f"{source.artifact.ref} SHA256SUMS")


def _code(ledger: Ledger, said: Mapping[str, Any]) -> Iterator[Component]:
    versions: dict[str, tuple[str, str]] = {}
    for artifact in ledger.ancestors:
        where = artifact.record["predicate"]["buildDefinition"].get("internalParameters", {})
        place = f"{artifact.ref} step.json internalParameters"
        for name, version in {"python": where.get("python"), **where.get("packages", {})}.items():
            if version:
                versions.setdefault(name, (str(version), place))
    table = {str(entry["name"]): entry for entry in facts()["package"]}
    yield _hanse(ledger)
    for name, (version, place) in sorted(versions.items()):
        known, own = table.get(name, {}), _answer(said, "packages", name)
        licence = _first(_fact(known, "licence"), own("licence"))
        yield Component(
            "code",
            Cell(f"{name} {version}", place),
            origin=_first(_fact(known, "publisher"), own("origin")),
            country=_first(_fact(known, "jurisdiction"), own("country")),
            licence=licence,
            substitute=_first(_fact(known, "substitute"), own("substitute")),
            effect=_first(_fact(known, "effect"), own("effect")),
            is_free=is_free(str(licence.value or "")),
        )


def _hanse(ledger: Ledger) -> Component:
    """Hanse itself, which every record names."""
    builder = ledger.model.record["predicate"]["runDetails"]["builder"]
    version = builder["version"]["hanse"]
    return Component(
        "code",
        Cell(f"hanse {version}", f"{ledger.model.ref} step.json builder"),
        origin=Cell("the Hanse authors", "LICENSE of Hanse"),
        licence=Cell("Apache-2.0", "LICENSE of Hanse"),
        substitute=Cell("any copy of its source; the release loads without it", "docs/release.md of Hanse"),
        effect=Cell("none on the release, which checks and loads without it", "docs/release.md of Hanse"),
        is_free=True,
    )


def _teachers(ledger: Ledger, said: Mapping[str, Any]) -> Iterator[Component]:
    named = {str(s.declared["model"]): s.cell("model") for s in ledger.sources if s.declared.get("model")}
    if not named:
        places = "; ".join(dict.fromkeys(f"{each.artifact.ref} step.json source" for each in ledger.sources))
        yield _none("teacher", "no text on record was written by a model", places or "no source on record")
    for name, cell in sorted(named.items()):
        yield _answered("teacher", cell, _answer(said, "teachers", name))


def _weights(ledger: Ledger, said: Mapping[str, Any]) -> Iterator[Component]:
    begun = [m for m in ledger.of_kind("model") if records.definition_of(m.record).get("model", {}).get("start")]
    if not begun:
        yield _none("weights", "training began with random weights", f"{ledger.model.ref} step.json model")
    for model in begun:
        name = _first(ledger.answer("model.base_model"), Cell("a model folder", f"{model.ref} step.json model.start"))
        yield _answered("weights", name, _Own(said.get("base_model", {}), "answers.toml sovereignty.base_model"))


def _chips(ledger: Ledger, said: Mapping[str, Any]) -> Iterator[Component]:
    from hanse.release.ledger import runtime_of

    names: dict[str, str] = {}
    for model in ledger.of_kind("model"):
        device = runtime_of(model).get("device_name")
        if device:
            names.setdefault(str(device), f"{model.ref} step.json runtime.device_name")
    if not names:
        yield Component("chip", Cell(None))
    for name, place in sorted(names.items()):
        known, own = _chip(name), _answer(said, "chips", name)
        yield Component(
            "chip",
            Cell(name, place),
            origin=_first(_fact(known, "maker"), own("origin")),
            country=_first(_fact(known, "jurisdiction"), own("country")),
            made_in=_fact(known, "made_in"),
            licence=not_applicable("a thing, not a text", FACTS),
            substitute=_first(_fact(known, "substitute"), own("substitute")),
            effect=_first(_fact(known, "effect"), own("effect")),
            is_free=known.get("is_free"),
        )


def _chip(device: str) -> Mapping[str, Any]:
    words = set(re.findall(r"[a-z0-9]+", device.lower()))
    return next((entry for entry in facts()["chip"] if words & set(entry["words"])), {})


def _hosts(said: Mapping[str, Any]) -> Iterator[Component]:
    hosts = said.get("hosts", {})
    if not hosts:
        yield Component("host", Cell(None))
    for name in sorted(hosts):
        yield _answered("host", Cell(name, f"answers.toml sovereignty.hosts.{name}"), _answer(said, "hosts", name))


def _answered(kind: Kind, name: Cell, own: _Own) -> Component:
    licence = own("licence")
    return Component(
        kind, name, origin=own("origin"), country=own("country"), control=own("control_country"), licence=licence,
        substitute=own("substitute"), effect=own("effect"), is_free=is_free(str(licence.value or "")),
    )  # fmt: skip


def _none(kind: Kind, why: str, source: str) -> Component:
    nothing = not_applicable(why, source)
    return Component(
        kind, nothing, origin=nothing, country=nothing, licence=nothing, substitute=nothing, effect=nothing,
        is_absent=True,
    )  # fmt: skip


class _Own:
    """What a person says about one component."""

    def __init__(self, values: Mapping[str, Any], place: str) -> None:
        self._values, self._place = values, place

    def __call__(self, key: str) -> Cell:
        value = self._values.get(key)
        return Cell(value, f"{self._place}.{key}") if value not in (None, "") else Cell(None)


def _answer(said: Mapping[str, Any], section: str, name: str) -> _Own:
    return _Own(said.get(section, {}).get(name, {}), f"answers.toml sovereignty.{section}.{name}")


def _fact(entry: Mapping[str, Any], key: str) -> Cell:
    """A fact of the table: marked where it is second-hand, and told from what Hanse makes of the facts."""
    value = entry.get(key)
    if not value:
        return Cell(None)
    if key in _OWN:
        return Cell(value, f"{FACTS} of Hanse: its own judgement of {entry['date']}")
    is_second_hand = key in entry.get("second_hand", ())
    source = f"{FACTS} of Hanse: {entry['source']}, read {entry['date']}"
    return Cell(value, source, f"{value} ({SECOND_HAND})") if is_second_hand else Cell(value, source)


def _first(*cells: Cell) -> Cell:
    """The first one that is recorded."""
    return next((cell for cell in cells if cell.is_recorded), Cell(None))


def _section(value: Any, place: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{place}: has to be a section with keys of its own.")
    return value


def _check_country(value: Any, place: str) -> None:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Z]{2}", value):
        raise InputError(f"{place}: {value!r} is no country; write two capital letters as in ISO 3166-1, or EU.")
