"""May we use this document? Licences are SPDX identifiers or expressions; reservations are what opt-outs say.

A licence label is not clearance, and missing evidence of a reservation is "unknown", never "allowed": the recipe's
policy decides what happens to the unknown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# Fewer duties first: of two copies of one text we keep the one that is easier to honour. An order, not legal advice.
_DUTIES = (
    ("CC0-1.0", "PDDL-1.0", "Unlicense", "0BSD", "MIT-0", "CC-PDDC"),
    ("MIT", "BSD-2-Clause", "BSD-3-Clause", "Apache-2.0", "ISC", "Unicode-3.0", "CC-BY-4.0", "CC-BY-3.0", "CC-BY-2.0",
     "ODC-By-1.0", "Etalab-2.0", "OGL-UK-3.0", "DL-DE-BY-2.0", "DL-DE-ZERO-2.0"),
    ("CC-BY-SA-4.0", "CC-BY-SA-3.0", "EUPL-1.2", "EUPL-1.1", "MPL-2.0", "LGPL-2.1-or-later", "LGPL-3.0-or-later",
     "ODbL-1.0", "GFDL-1.3-or-later"),
)  # fmt: skip
MAX_EXPRESSION = 1000  # characters; a longer one is no licence but an attack
_RANK = {licence.lower(): rank for rank, group in enumerate(_DUTIES) for licence in group}
_SPELLING = {licence.lower(): licence for group in _DUTIES for licence in group}
_TOKEN = re.compile(r"\(|\)|[^\s()]+")


def canonical(licence: str, allowed: Iterable[str] = ()) -> str:
    """The licence as SPDX (or the recipe's allow-list) spells it; SPDX identifiers ignore case (SPDX 2.3, annex D)."""
    spelling = {**_SPELLING, **{name.lower(): name for name in allowed}}
    return re.sub(r"[^\s()]+", lambda match: spelling.get(match.group().lower(), match.group()), licence.strip())


def is_allowed(licence: str, allowed: Iterable[str]) -> bool:
    """Whether an SPDX identifier or expression holds under the allow-list: `OR` needs one side, `AND` both.

    An identifier `WITH` an exception is one name and has to be on the list as such. What cannot be parsed is not
    allowed.
    """
    names = {name.lower() for name in allowed}
    if licence.strip().lower() in names:
        return True
    if len(licence) > MAX_EXPRESSION:
        return False
    tokens = _TOKEN.findall(licence)
    try:
        verdict, rest = _either(tokens, names)
    except (IndexError, RecursionError):
        return False
    return verdict and not rest


def duties(licence: str) -> int:
    """Order of preference among copies of one text: 0 public domain, 1 attribution, 2 share-alike, 3 anything else."""
    return _RANK.get(licence.strip().lower(), len(_DUTIES))


def reservation_reasons(reservation: str, *, on_unknown: str) -> list[str]:
    """Why a document may not be used for what its rights holder reserved; empty if it may under the policy.

    Args:
        reservation: "none", "reserved" or "unknown".
        on_unknown: the policy for "unknown", "keep" or "drop".
    """
    if reservation == "reserved":
        return ["rights-reserved"]
    if reservation == "unknown" and on_unknown == "drop":
        return ["reservation-unknown"]
    return []


def _either(tokens: list[str], names: set[str]) -> tuple[bool, list[str]]:
    verdict, tokens = _both(tokens, names)
    while tokens and tokens[0].upper() == "OR":
        other, tokens = _both(tokens[1:], names)
        verdict = verdict or other
    return verdict, tokens


def _both(tokens: list[str], names: set[str]) -> tuple[bool, list[str]]:
    verdict, tokens = _one(tokens, names)
    while tokens and tokens[0].upper() == "AND":
        other, tokens = _one(tokens[1:], names)
        verdict = verdict and other
    return verdict, tokens


def _one(tokens: list[str], names: set[str]) -> tuple[bool, list[str]]:
    if tokens[0] == "(":
        verdict, tokens = _either(tokens[1:], names)
        return verdict and tokens[0] == ")", tokens[1:]
    if len(tokens) > 2 and tokens[1].upper() == "WITH":
        return " ".join((tokens[0], "WITH", tokens[2])).lower() in names, tokens[3:]
    return tokens[0].lower() in names, tokens[1:]
