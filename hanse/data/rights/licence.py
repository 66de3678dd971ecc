"""Licences as SPDX expressions: are they valid, are they on the allow-list, and what do they ask for?

The list of licences and the parser come from license-expression (SPDX annex D; about 2,500 identifiers, with deprecated
spellings). A licence label is not clearance: see `hanse.data.rights.public_domain`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from types import MappingProxyType
from typing import Any

MAX_EXPRESSION = 1000  # characters; a longer one is no licence but an attack
MAX_DEPTH = 32  # brackets within brackets
NOT_SPDX = "licence-not-spdx"
OTHER_DUTIES = 3
# Fewer duties first: of two copies of one text we keep the one that is easier to honour. An order, not legal advice.
# The categories are those of the ScanCode licence list, which license-expression carries.
_DUTIES = {"Public Domain": 0, "Permissive": 1, "Copyleft Limited": 2, "Copyleft": 2}
_NOTHING_ASKED = frozenset(("0BSD", "MIT-0", "DL-DE-ZERO-2.0"))  # called permissive there, but ask for no attribution
_REFERENCE = re.compile(r"(?:DocumentRef-[A-Za-z0-9.-]+:)?LicenseRef-[A-Za-z0-9.-]+")
_EXPRESSION = re.compile(r"[A-Za-z0-9.+:()\s-]+")
_NO_EXPRESSION = ("NOASSERTION", "NONE")  # SPDX says so where there is nothing to say


@dataclass(frozen=True, slots=True)
class _Known:
    """One entry of the SPDX list."""

    name: str
    duties: int
    is_exception: bool


@dataclass(frozen=True, slots=True)
class _Node:
    """A parsed expression: `operator` is OR or AND over `parts`, or "" for a single licence of that `name`."""

    operator: str
    parts: tuple[_Node, ...] = ()
    name: str = ""
    duties: int = OTHER_DUTIES


def canonical(licence: str, allowed: Iterable[str] = ()) -> str:
    """The expression as SPDX (or the recipe's allow-list) spells it; unchanged where it is no SPDX expression.

    `mit and gpl-2.0` becomes `MIT AND GPL-2.0-only`.
    """
    return licence.strip() if len(licence) > MAX_EXPRESSION else _canonical(licence, tuple(allowed))


def problem(licence: str, allowed: Iterable[str] = ()) -> str | None:
    """ "licence-not-spdx" where a licence is neither an SPDX expression nor, as a whole, on the allow-list."""
    if len(licence) > MAX_EXPRESSION:
        return NOT_SPDX
    names = tuple(allowed)
    is_known = _folded(licence) in _names(names) or licence.strip() in _NO_EXPRESSION
    return None if is_known or _parsed(licence, names) else NOT_SPDX


def is_allowed(licence: str, allowed: Iterable[str]) -> bool:
    """Whether an expression holds under the allow-list: `OR` needs one side, `AND` both.

    A licence `WITH` an exception is one name and has to be on the list as such; `X+` holds where `X` does. What is no
    SPDX expression is not allowed, unless the list holds it as a whole.
    """
    return len(licence) <= MAX_EXPRESSION and _is_allowed(licence, tuple(allowed))


def duties(licence: str) -> int:
    """Order of preference among copies of one text: 0 nothing, 1 attribution, 2 share-alike, 3 anything else.

    Of `OR` the easier side counts, of `AND` the harder.
    """
    return OTHER_DUTIES if len(licence) > MAX_EXPRESSION else _duties(licence)


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


@lru_cache(maxsize=4096)
def _canonical(licence: str, allowed: tuple[str, ...]) -> str:
    whole = {_folded(name): name for name in allowed}.get(_folded(licence))
    if whole is not None:
        return whole
    tree = _parsed(licence, allowed)
    return _text(tree) if tree else licence.strip()


@lru_cache(maxsize=4096)
def _is_allowed(licence: str, allowed: tuple[str, ...]) -> bool:
    names = _names(allowed)
    if _folded(licence) in names:
        return True
    tree = _parsed(licence, allowed)
    return tree is not None and _holds(tree, names)


@lru_cache(maxsize=4096)
def _duties(licence: str) -> int:
    tree = _parsed(licence, ())
    return _least(tree) if tree else OTHER_DUTIES


@lru_cache(maxsize=64)
def _names(allowed: tuple[str, ...]) -> frozenset[str]:
    """The allow-list, folded: as written, and as SPDX spells it."""
    trees = ((name, _parsed(name, ())) for name in allowed)
    return frozenset(
        folded for name, tree in trees for folded in (_folded(name), _folded(_text(tree) if tree else name))
    )


@lru_cache(maxsize=4096)
def _parsed(licence: str, allowed: tuple[str, ...]) -> _Node | None:
    """The tree of an SPDX expression, with names as the list (or the allow-list) spells them; None where it is none."""
    if len(licence) > MAX_EXPRESSION or not _EXPRESSION.fullmatch(licence) or _depth(licence) > MAX_DEPTH:
        return None
    from license_expression import Licensing

    try:
        tree = Licensing().parse(licence, simple=True)
        return None if tree is None else _node(tree, {name.lower(): name for name in allowed})
    except Exception:  # besides its own errors the parser has IndexError for "()", and deep trees RecursionError
        return None


def _node(tree: Any, own: Mapping[str, str]) -> _Node:
    """Our tree from the library's. Raises ValueError for a name that is on no list."""
    from license_expression import AND, OR, LicenseWithExceptionSymbol

    if isinstance(tree, (OR, AND)):
        return _Node("OR" if isinstance(tree, OR) else "AND", tuple(_node(part, own) for part in tree.args))
    if isinstance(tree, LicenseWithExceptionSymbol):
        licence = _known(tree.license_symbol.key, own)
        exception = _known(tree.exception_symbol.key, own)
        if licence.is_exception or not (exception.is_exception or _REFERENCE.fullmatch(exception.name)):
            raise ValueError("not a licence with an exception")
        return _Node("", name=f"{licence.name} WITH {exception.name}", duties=licence.duties)
    known = _known(tree.key, own)
    if known.is_exception:
        raise ValueError("an exception alone is no licence")
    return _Node("", name=known.name, duties=known.duties)


def _known(name: str, own: Mapping[str, str]) -> _Known:
    """The entry of a name. Raises ValueError where there is none."""
    if (known := _spdx().get(name.lower())) is not None:
        return known
    if name.endswith("+") and (base := _spdx().get(name[:-1].lower())) is not None and not base.is_exception:
        return _Known(f"{base.name}+", base.duties, False)
    if name.lower() in own:
        return _Known(own[name.lower()], OTHER_DUTIES, False)
    if _REFERENCE.fullmatch(name):
        return _Known(name, OTHER_DUTIES, False)
    raise ValueError(f"{name} is not on the SPDX list")


@cache
def _spdx() -> Mapping[str, _Known]:
    """The SPDX list by lower-case identifier, deprecated and alternative identifiers included (about 20 ms)."""
    from license_expression import get_license_index

    entries = [entry for entry in get_license_index() if entry.get("spdx_license_key")]
    known = {}
    for entry in entries:
        name = entry["spdx_license_key"]
        rank = 0 if name in _NOTHING_ASKED else _DUTIES.get(entry["category"], OTHER_DUTIES)
        known[name.lower()] = _Known(name, rank, bool(entry["is_exception"]))
    for entry in entries:
        for alias in entry.get("other_spdx_license_keys", ()):
            known.setdefault(alias.lower(), known[entry["spdx_license_key"].lower()])
    return MappingProxyType(known)


def _holds(tree: _Node, names: frozenset[str]) -> bool:
    if tree.operator == "OR":
        return any(_holds(part, names) for part in tree.parts)
    if tree.operator == "AND":
        return all(_holds(part, names) for part in tree.parts)
    return _folded(tree.name) in names or (tree.name.endswith("+") and _folded(tree.name[:-1]) in names)


def _least(tree: _Node) -> int:
    if tree.operator:
        parts = [_least(part) for part in tree.parts]
        return min(parts) if tree.operator == "OR" else max(parts)
    return tree.duties


def _text(tree: _Node) -> str:
    if not tree.operator:
        return tree.name
    texts = [f"({_text(part)})" if tree.operator == "AND" and part.operator else _text(part) for part in tree.parts]
    return f" {tree.operator} ".join(texts)


def _depth(licence: str) -> int:
    depth = deepest = 0
    for character in licence:
        depth += (character == "(") - (character == ")")
        deepest = max(deepest, depth)
    return deepest


def _folded(licence: str) -> str:
    return " ".join(licence.lower().split())
