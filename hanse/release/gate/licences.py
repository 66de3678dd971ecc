"""Whether text under one licence lets a model be released under another: one matrix, each answer with its reason.

The reading is the cautious one: weights count as an adaptation of the text they were trained on. Whether they are is
unsettled; Creative Commons advises to follow the licence's terms where one wants to be safe ("Using CC-licensed works
for AI training", May 2025). What the matrix does not know is "unknown", never "allowed". docs/gate.md prints it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["compatible", "conditional", "unknown", "incompatible"]
_ORDER: tuple[Verdict, ...] = ("compatible", "conditional", "unknown", "incompatible")
_CC = re.compile(r"CC-BY(?P<nc>-NC)?(?P<nd>-ND)?(?P<sa>-SA)?-(?P<version>[0-9]\.[0-9])(?:-[A-Z]+)?")
_GNU = re.compile(r"(?P<kind>A?GPL|LGPL)-(?P<version>[0-9]\.[0-9])(?P<later>-only|-or-later|\+)?")
_PERMISSIVE, _COPYLEFT = 1, 2  # of hanse.data.rights.licence.duties


@dataclass(frozen=True)
class Judgement:
    """An answer of the matrix, and why."""

    verdict: Verdict
    why: str


@dataclass(frozen=True)
class _Listed:
    """A copyleft licence whose text names where its adaptations may go."""

    licences: Mapping[str, str]  # licence of the release -> why that is allowed
    otherwise: Judgement


_EUPL_LIST = "it is on the EUPL's own list of compatible licences (appendix)"
_ONLY_SAME = "its copyleft asks for the same licence"
#: Copyleft licences by their own text. Creative Commons and GNU licences follow from their names, below.
LISTED: Mapping[str, _Listed] = {
    "EUPL-1.2": _Listed(
        {
            **dict.fromkeys(
                ("GPL-2.0-only", "GPL-3.0-only", "AGPL-3.0-only", "OSL-2.1", "OSL-3.0", "EPL-1.0", "CECILL-2.0",
                 "CECILL-2.1", "MPL-2.0", "LGPL-2.1-only", "LGPL-3.0-only", "CC-BY-SA-3.0", "EUPL-1.1"),
                _EUPL_LIST,
            ),
            "CC-BY-SA-4.0": "by way of CC-BY-SA-3.0, which is on the EUPL's list for works other than software and "
            "lets adaptations take a later version",
        },
        Judgement("incompatible", _ONLY_SAME + ", or one on the EUPL's list"),
    ),
    "EUPL-1.1": _Listed(
        {
            **dict.fromkeys(("GPL-2.0-only", "OSL-2.1", "OSL-3.0", "EPL-1.0", "CECILL-2.0"), _EUPL_LIST),
            "EUPL-1.2": "a later version of it",
        },
        Judgement("incompatible", _ONLY_SAME + ", or one on the EUPL's list"),
    ),
    "MPL-2.0": _Listed(
        {},
        Judgement(
            "compatible",
            "its copyleft ends at the file (sections 1.7 and 3.3): a larger work may have another licence, and the "
            "release carries no file of it",
        ),
    ),
    "ODbL-1.0": _Listed(
        {},
        Judgement(
            "conditional",
            "a work produced from the database needs a notice that names it (section 4.3); a database made from it "
            "would have to stay under ODbL",
        ),
    ),
}  # fmt: skip
#: Answers by name alone that are no mere yes: allowed, but somebody should have looked.
_CONDITIONAL = {("EUPL-1.2", "CC-BY-SA-4.0")}


def judge(text: str, release: str, *, basis: str = "stated") -> Judgement:
    """Whether text under the licence `text` lets a model be released under `release`.

    Args:
        text: an SPDX expression; of `OR` the better side counts, of `AND` the worse.
        release: of the weights. Where it is an expression, the text has to allow each licence in it.
        basis: on what ground the text was used (`licence_basis` of the source).
    """
    if not release.strip():
        return Judgement("unknown", "the release names no licence")
    ground = _ground(basis)
    if ground is not None:
        return ground
    sides = _licences(release)
    judged = [_judge(_tree(text), side) for side in sides]
    return max(judged, key=lambda each: _ORDER.index(each.verdict))


def _ground(basis: str) -> Judgement | None:
    """What is used on another ground than a licence."""
    if basis == "contract":
        return Judgement("conditional", "it was licensed by contract, and the contract decides: read it")
    if basis == "public-domain":
        return Judgement("compatible", "it is in the public domain, so no licence binds")
    if basis.startswith("tdm-"):
        return Judgement(
            "conditional", "it was mined under an exception (Directive (EU) 2019/790), not licensed: read which acts "
            "that covers"
        )  # fmt: skip
    return None


def _judge(tree: Any, release: str) -> Judgement:
    if isinstance(tree, tuple):
        operator, parts = tree
        judged = [_judge(part, release) for part in parts]
        pick = min if operator == "OR" else max
        return pick(judged, key=lambda each: _ORDER.index(each.verdict))
    return _of_one(str(tree), release)


def _of_one(text: str, release: str) -> Judgement:
    """Two single licences."""
    from hanse.data.rights.licence import duties

    creative = _CC.fullmatch(text)
    if creative is not None:
        return _creative(creative, text, release)
    asked = duties(text)
    if text == release and asked <= _COPYLEFT:
        return Judgement("compatible", "the same licence")
    if text in LISTED:
        listed = LISTED[text]
        if release not in listed.licences:
            return listed.otherwise
        verdict: Verdict = "conditional" if (text, release) in _CONDITIONAL else "compatible"
        return Judgement(verdict, listed.licences[release])
    gnu = _GNU.fullmatch(text)
    if gnu is not None:
        return _gnu(gnu, release)
    if asked <= _PERMISSIVE:
        return Judgement("compatible", "it asks for attribution at most, which ATTRIBUTION.md gives")
    if asked == _COPYLEFT:
        return Judgement("incompatible", f"{_ONLY_SAME}, and this matrix knows no way from it to {release}")
    return Judgement("unknown", "this matrix does not know the licence" if text else "nobody named a licence")


def _creative(text: re.Match[str], name: str, release: str) -> Judgement:
    """A Creative Commons licence by its elements."""
    into = _CC.fullmatch(release)
    if text["nd"]:
        return Judgement("incompatible", "no derivatives: adaptations may not be shared under any licence")
    if text["nc"] and (into is None or not into["nc"]):
        return Judgement("incompatible", f"non-commercial: {release} would allow commercial use")
    if not text["sa"]:
        return Judgement("compatible", "it asks for attribution, which ATTRIBUTION.md gives")
    if into is not None and into["sa"] and not into["nd"] and into["nc"] == text["nc"]:
        if into["version"] == text["version"]:
            return Judgement("compatible", "the same licence")
        if into["version"] > text["version"] > "1.0":
            return Judgement("compatible", "share-alike: adaptations may take a later version with the same elements")
    if name.startswith("CC-BY-SA-4.0") and release in ("GPL-3.0-only", "LAL-1.3"):
        return Judgement(
            "compatible", "Creative Commons lists it as compatible, one way (creativecommons.org/compatiblelicenses)"
        )
    return Judgement(
        "incompatible", f"share-alike: adaptations have to stay under it or a later version, not {release}"
    )


def _gnu(text: re.Match[str], release: str) -> Judgement:
    """A licence of the GNU family by kind and version."""
    into = _GNU.fullmatch(release)
    later, into_later = (found is not None and found["later"] in ("-or-later", "+") for found in (text, into))
    if text["kind"] == "LGPL" and (into is None or into["kind"] == "AGPL"):
        return Judgement(
            "conditional", "its copyleft covers the library itself; whether weights are a part of it is open"
        )
    if into is not None:
        same = into["version"] == text["version"] or (later and into["version"] > text["version"])
        if into_later and not later and text["kind"] != "LGPL":
            return Judgement("incompatible", f"it allows its own version alone, and {release} gives later ones away")
        if text["kind"] == into["kind"] and same and (later or not into_later):
            return Judgement("compatible", "the same licence, or a later version that it allows")
        if (
            text["kind"] == "GPL"
            and into["kind"] == "AGPL"
            and into["version"] == "3.0"
            and (text["version"] == "3.0" or later)
        ):
            return Judgement("compatible", "GPL version 3, section 13, lets it be combined with the AGPL")
        if (text["kind"], into["kind"]) == ("LGPL", "GPL") and into["version"][0] >= text["version"][0]:
            return Judgement("compatible", "the LGPL lets copies be put under the GPL")
    return Judgement("incompatible", f"{_ONLY_SAME}, not {release}")


def _licences(expression: str) -> list[str]:
    """Every single licence named in an expression."""

    def names(tree: Any) -> list[str]:
        return [name for part in tree[1] for name in names(part)] if isinstance(tree, tuple) else [str(tree)]

    return list(dict.fromkeys(names(_tree(expression))))


def _tree(expression: str) -> Any:
    """(operator, parts), or the name of one licence as SPDX spells it. A licence WITH an exception is the licence:
    exceptions only give leave.
    """
    from hanse.data.rights.licence import canonical, problem

    if problem(expression) is not None:
        return expression
    from license_expression import AND, OR, LicenseWithExceptionSymbol, Licensing

    def plain(node: Any) -> Any:
        if isinstance(node, (AND, OR)):
            return "AND" if isinstance(node, AND) else "OR", tuple(plain(part) for part in node.args)
        if isinstance(node, LicenseWithExceptionSymbol):
            return str(node.license_symbol.key)
        return str(node.key)

    return plain(Licensing().parse(canonical(expression), simple=True))
