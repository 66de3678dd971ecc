"""May a document be used? A pure function of its case, the evidence, and a policy file.

The order of the evidence makes no difference, and one more reservation never turns a refusal into a permission.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hanse import toml
from hanse.data.rights.evidence import Evidence
from hanse.data.rights.robots import agents_of
from hanse.data.rights.signals import by_kind
from hanse.data.rights.tables import agent_names, agents, member_states
from hanse.errors import InputError

Basis = Literal[
    "stated", "detected", "contract", "public-domain", "tdm-art-4", "tdm-art-3", "generated", "unknown"
]  # fmt: skip
Reservation = Literal["none", "reserved", "unknown"]

LABEL_NOT_CLEARANCE = "label-not-clearance"
_DEFAULT = Path(__file__).parent / "policy.toml"


@dataclass(frozen=True, slots=True)
class Case:
    """What is known of a document besides evidence; documents with equal cases and evidence are decided once.

    Attributes:
        basis: the ground that the use stands on; a word that is no `Basis` counts as "unknown".
        is_licence_allowed: whether the licence holds under the recipe's allow-list.
        jurisdiction: ISO 3166-1 code of the country whose law governs the document, "EU", or "" where nobody knows.
        day: the day of use, ISO 8601, normally that of the build; "" where contracts and dates are not checked.
        contract_start, contract_end: first and last day of the contract, ISO 8601, or "".
        public_domain: outcome of `hanse.data.rights.public_domain.check`, or "" where it was not asked.
    """

    basis: str
    is_licence_allowed: bool = True
    jurisdiction: str = ""
    day: str = ""
    contract_start: str = ""
    contract_end: str = ""
    public_domain: Literal["clear", "not-clear", "unknown", ""] = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """An outcome and what it rests on.

    Attributes:
        outcome: "permitted" or "refused".
        reasons: why it was refused, one word each, in a fixed order; empty where it was permitted.
        flags: worth knowing, no reason to refuse.
        reservation: what the counted evidence says together.
        evidence: ids of the statements that `reservation` rests on, sorted.
    """

    outcome: Literal["permitted", "refused"]
    reasons: tuple[str, ...]
    flags: tuple[str, ...]
    reservation: Reservation
    evidence: tuple[str, ...]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BasisRule(_Section):
    """What one basis needs; the keys are explained in `policy.toml`."""

    permit: bool
    licence: bool
    reservation: Literal["respected", "absent", "ignored"]
    evidence: tuple[str, ...]
    contract: bool
    public_domain: tuple[Literal["clear", "unknown", "not-clear"], ...]
    research: bool
    jurisdictions: tuple[str, ...]


class RobotsRule(_Section):
    """Which agents of robots.txt count."""

    purposes: tuple[Literal["training", "search", "assistant", "any"], ...]
    also: tuple[str, ...]
    except_: tuple[str, ...] = Field(alias="except")


class Organisation(_Section):
    """Who trains."""

    is_research: bool


class PolicyFile(_Section):
    """A whole policy."""

    signals: tuple[str, ...]
    on_conflict: Literal["most-restrictive", "newest"]
    on_unclear: Literal["unknown", "reserved", "ignored"]
    on_unknown: Literal["keep", "drop"]
    robots: RobotsRule
    organisation: Organisation
    basis: dict[Basis, BasisRule]

    @model_validator(mode="after")
    def _names_are_known(self) -> PolicyFile:
        needed = [name for rule in self.basis.values() for name in rule.evidence]
        for name in (*self.signals, *needed):
            _check_name(name, by_kind(), "signal")
        for name in (*self.robots.also, *self.robots.except_):
            _check_name(name.lower(), agent_names(), "agent")
        return self


@dataclass(frozen=True, eq=False)
class Policy:
    """A policy that can decide. Load it once: decisions are remembered per policy object.

    Attributes:
        file: the whole policy, defaults filled in.
        digest: SHA-256 of its canonical JSON, for the record; comments and the order of keys do not change it.
    """

    file: PolicyFile
    digest: str
    _signals: frozenset[str]
    _agents: frozenset[str]

    @classmethod
    def load(cls, path: Path | None = None, *, on_unknown: Literal["keep", "drop"] | None = None) -> Policy:
        """The embedded policy, with what a file and the recipe say on top.

        Args:
            path: a TOML file that states what differs from `policy.toml`, or None.
            on_unknown: the recipe's [curate] on_unknown_reservation, or None to leave it to the policy.

        Raises:
            InputError: the file cannot be read, is not TOML, or holds a key or value that does not fit.
        """
        data = tomllib.loads(_DEFAULT.read_text(encoding="utf-8"))
        if path is not None:
            _overlay(data, toml.parse(toml.content(path, "the policy"), where=str(path)))
        if on_unknown is not None:
            data["on_unknown"] = on_unknown
        try:
            file = PolicyFile.model_validate(data)
        except ValidationError as error:
            raise InputError(f"{path or _DEFAULT.name}: {_sentence(error)}") from None
        text = json.dumps(file.model_dump(by_alias=True, mode="json"), sort_keys=True, ensure_ascii=False)
        return cls(file, hashlib.sha256(text.encode()).hexdigest(), frozenset(file.signals), _counted(file.robots))

    def decide(self, case: Case, evidence: Iterable[Evidence]) -> Decision:
        """Whether a document may be used; the same for the same case and set of evidence, in any order."""
        return _decide(self, case, frozenset(evidence))

    def counts(self, evidence: Evidence) -> bool:
        """Whether this policy looks at a statement: its signal, and for robots.txt one of its agents, is listed."""
        if evidence.kind not in self._signals:
            return False
        named = _agents_of(evidence.raw) if evidence.kind.startswith("robots") else ()
        return not named or not self._agents.isdisjoint(named)


@lru_cache(maxsize=4096)
def _decide(policy: Policy, case: Case, evidence: frozenset[Evidence]) -> Decision:
    file = policy.file
    rule = file.basis.get(case.basis, file.basis["unknown"])  # type: ignore[call-overload]
    counted = [each for each in evidence if policy.counts(each)]
    if file.on_conflict == "newest":
        counted = _newest(counted, case.day)
    reservation, used = _reservation(file, counted, case.day)
    reasons = [*_reservation_reasons(rule, file, reservation), *_basis_reasons(rule, file, case)]
    permitting = {each.kind for each in counted if _says(each, case.day) == "allowed"}
    if not permitting.issuperset(rule.evidence):
        reasons.append("evidence-missing")
    is_labelled = case.basis in ("stated", "detected", "unknown") and case.public_domain == "not-clear"
    return Decision(
        outcome="refused" if reasons else "permitted",
        reasons=tuple(reasons),
        flags=(LABEL_NOT_CLEARANCE,) if is_labelled else (),
        reservation=reservation,
        evidence=tuple(sorted(each.id for each in used)),
    )


def _says(evidence: Evidence, day: str) -> str:
    """What a statement says on the day of use; one from the future says nothing clear."""
    return "unclear" if day and evidence.seen[:10] > day else evidence.says


def _newest(evidence: list[Evidence], day: str) -> list[Evidence]:
    """Of each kind and place the clear statements of its latest day; what is unclear or has no date always stays.

    An unclear statement never hides an older clear one: a broken file must not lift a reservation.
    """
    latest: dict[tuple[str, str], str] = {}
    for each in evidence:
        if _says(each, day) != "unclear":
            key = each.kind, each.place
            latest[key] = max(latest.get(key, ""), each.seen)
    return [
        each
        for each in evidence
        if not each.seen or _says(each, day) == "unclear" or each.seen == latest[each.kind, each.place]
    ]


def _reservation(file: PolicyFile, evidence: list[Evidence], day: str) -> tuple[Reservation, list[Evidence]]:
    """What the statements say together, and those that it rests on."""
    said: dict[str, list[Evidence]] = {"reserved": [], "allowed": [], "unclear": []}
    for each in evidence:
        says = _says(each, day)
        if says == "unclear" and file.on_unclear == "reserved":
            says = "reserved"
        said[says].append(each)
    if said["reserved"]:
        return "reserved", said["reserved"]
    if said["unclear"] and file.on_unclear == "unknown":
        return "unknown", said["unclear"]
    return ("none", said["allowed"]) if said["allowed"] else ("unknown", [])


def _reservation_reasons(rule: BasisRule, file: PolicyFile, reservation: Reservation) -> list[str]:
    if rule.reservation == "ignored":
        return []
    if reservation == "reserved":
        return ["rights-reserved"]
    if reservation == "unknown" and (rule.reservation == "absent" or file.on_unknown == "drop"):
        return ["reservation-unknown"]
    return []


def _basis_reasons(rule: BasisRule, file: PolicyFile, case: Case) -> list[str]:
    reasons = []
    if not rule.permit:
        reasons.append("basis-not-accepted")
    if rule.licence and not case.is_licence_allowed:
        reasons.append("licence-not-allowed")
    if rule.contract:
        if not (case.contract_start and case.contract_end and case.day):
            reasons.append("contract-dates-missing")
        elif not case.contract_start <= case.day <= case.contract_end:
            reasons.append("contract-not-in-force")
    if rule.public_domain and case.public_domain not in rule.public_domain:
        reasons.append("public-domain-not-clear" if case.public_domain == "not-clear" else "public-domain-unknown")
    if rule.research and not file.organisation.is_research:
        reasons.append("research-only")
    if rule.jurisdictions and not _is_in(case.jurisdiction.upper(), rule.jurisdictions):
        reasons.append("jurisdiction-not-accepted")
    return reasons


def _is_in(jurisdiction: str, accepted: tuple[str, ...]) -> bool:
    return jurisdiction in accepted or ("EU" in accepted and jurisdiction in member_states())


def _counted(rule: RobotsRule) -> frozenset[str]:
    names = agent_names()
    of_purpose = {name for name, purpose in agents().items() if purpose in rule.purposes}
    also, without = ({names[name.lower()] for name in part} for part in (rule.also, rule.except_))
    return frozenset((of_purpose | also) - without)


@lru_cache(maxsize=4096)
def _agents_of(raw: str) -> tuple[str, ...]:
    return agents_of(raw)


def _overlay(base: dict[str, Any], changes: dict[str, Any]) -> None:
    """Write changes over a nested table, key by key; lists are replaced."""
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _overlay(base[key], value)
        else:
            base[key] = value


def _check_name(name: str, known: Iterable[str], what: str) -> None:
    names = list(known)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        raise ValueError(f"{name}: no such {what}.{f' Did you mean {near[0]}?' if near else ''}")


def _sentence(error: ValidationError) -> str:
    """The first problem, as one sentence."""
    first = error.errors(include_url=False)[0]
    message = first["msg"].removeprefix("Value error, ")
    place = ".".join(str(part) for part in first["loc"] if part != "[key]")
    if first["type"] == "extra_forbidden":
        return f"{place}: unknown key; the keys are those of the embedded policy.toml."
    return f"{place}: {message}." if place else message
