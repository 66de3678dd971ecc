"""Licence statements inside documents: addresses and words, read as SPDX.

A statement without a version names no licence, and several that differ are joined by AND: whoever reads "BY" in one
place and "BY-NC" in another has to honour both. Addresses: creativecommons.org/licenses, and those that publishers of
open data in Europe give for their licences.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

MOST_STATEMENTS = 8  # more differing ones on one page say nothing about the page
MAX_WORDS = 10_000  # characters of a statement that are looked at

# Ported Creative Commons licences that SPDX lists (3.27); the others become a LicenseRef.
_PORTED = frozenset(
    (
        "CC-BY-2.5-AU", "CC-BY-3.0-AT", "CC-BY-3.0-AU", "CC-BY-3.0-DE", "CC-BY-3.0-IGO", "CC-BY-3.0-NL",
        "CC-BY-3.0-US", "CC-BY-NC-3.0-DE", "CC-BY-NC-ND-3.0-DE", "CC-BY-NC-ND-3.0-IGO", "CC-BY-NC-SA-2.0-DE",
        "CC-BY-NC-SA-2.0-FR", "CC-BY-NC-SA-2.0-UK", "CC-BY-NC-SA-3.0-DE", "CC-BY-NC-SA-3.0-IGO", "CC-BY-ND-3.0-DE",
        "CC-BY-SA-2.0-UK", "CC-BY-SA-2.1-JP", "CC-BY-SA-3.0-AT", "CC-BY-SA-3.0-DE", "CC-BY-SA-3.0-IGO",
    )
)  # fmt: skip
_ELEMENTS = ("BY", "BY-SA", "BY-ND", "BY-NC", "BY-NC-SA", "BY-NC-ND", "SA")
_CREATIVE_COMMONS = re.compile(
    r"/(licenses|publicdomain)/([a-z-]+)/([1-4]\.\d)(?:/([a-z]{2,3}|scotland))?(?=/|$)", re.IGNORECASE
)
_DOMAIN_MARKS = {"zero/1.0": "CC0-1.0", "mark/1.0": "CC-PDM-1.0"}
# Host without "www.", beginning of the path in small letters, licence.
_ADDRESSES = (
    ("opendatacommons.org", "/licenses/by/1", "ODC-By-1.0"),
    ("opendatacommons.org", "/licenses/odbl/1", "ODbL-1.0"),
    ("opendatacommons.org", "/licenses/pddl/1", "PDDL-1.0"),
    ("nationalarchives.gov.uk", "/doc/open-government-licence/version/3", "OGL-UK-3.0"),
    ("nationalarchives.gov.uk", "/doc/open-government-licence/version/2", "OGL-UK-2.0"),
    ("nationalarchives.gov.uk", "/doc/open-government-licence/version/1", "OGL-UK-1.0"),
    ("govdata.de", "/dl-de/by-2-0", "DL-DE-BY-2.0"),
    ("govdata.de", "/dl-de/zero-2-0", "DL-DE-ZERO-2.0"),
    ("etalab.gouv.fr", "/wp-content/uploads/2017/04/etalab-licence-ouverte-v2.0.pdf", "Etalab-2.0"),
    ("data.norge.no", "/nlod/no/2.0", "NLOD-2.0"),
    ("data.norge.no", "/nlod/en/2.0", "NLOD-2.0"),
    ("data.norge.no", "/nlod/no/1.0", "NLOD-1.0"),
    ("eupl.eu", "/1.2", "EUPL-1.2"),
    ("joinup.ec.europa.eu", "/collection/eupl/eupl-text-eupl-12", "EUPL-1.2"),
    ("apache.org", "/licenses/license-2.0", "Apache-2.0"),
    ("mozilla.org", "/mpl/2.0", "MPL-2.0"),
    ("opensource.org", "/license/mit", "MIT"),
    ("opensource.org", "/licenses/mit", "MIT"),
    ("unlicense.org", "", "Unlicense"),
)
_SPDX_PAGE = re.compile(r"/licenses/([A-Za-z0-9][A-Za-z0-9.+-]{1,60}?)(?:\.html|\.json)?/?")
_SHORT = re.compile(
    r"\bCC[\s_-]{0,3}(0(?!\d)|BY(?:[\s_-]{1,3}(?:NC|ND|SA)){0,2})(?:[\s_,-]{1,3}(?:v(?:ersion)?\.?\s?)?([1-4]\.\d)(?!\d))?",
    re.IGNORECASE,
)
_LONG = re.compile(r"\bCreative\s{1,3}Commons\b(.{0,160}?)\b([1-4]\.\d)(?!\d)", re.IGNORECASE | re.DOTALL)
_EUPL = re.compile(r"\bEUPL\b.{0,20}?\b(1\.[0-2])\b", re.IGNORECASE | re.DOTALL)


def spdx_of_url(url: str) -> str | None:
    """The licence that an address stands for, or None."""
    try:
        parts = urlsplit(url.strip())
        host = (parts.hostname or "").removeprefix("www.")
    except ValueError:
        return None
    if host == "creativecommons.org":
        return _creative_commons(parts.path)
    if host == "spdx.org":
        page = _SPDX_PAGE.fullmatch(parts.path)
        return page[1] if page else None
    path = parts.path.lower()
    return next((spdx for known, begin, spdx in _ADDRESSES if host == known and path.startswith(begin)), None)


def spdx_of_words(words: str) -> str | None:
    """The licences that a statement names with their version, joined by AND, or None."""
    words = words[:MAX_WORDS]
    found: list[str | None] = []
    for match in _SHORT.finditer(words):
        elements, version = match[1].upper(), match[2]
        if elements == "0":
            found.append("CC0-1.0")
        elif version:
            found.append(_joined(re.split(r"[\s_-]+", elements), version))
    for match in _LONG.finditer(words):
        found.append(_from_names(match[1].lower(), match[2]))
    found += [f"EUPL-{match[1]}" for match in _EUPL.finditer(words)]
    return all_of(found)


def all_of(licences: Iterable[str | None]) -> str | None:
    """One expression for everything that was stated; None where nothing was."""
    distinct = sorted({licence for licence in licences if licence})
    if len(distinct) > MOST_STATEMENTS:
        return "LicenseRef-contradictory"
    return " AND ".join(distinct) or None


def _creative_commons(path: str) -> str | None:
    match = _CREATIVE_COMMONS.search(path)
    if not match:
        return None
    kind, elements, version, place = (part.lower() if part else "" for part in match.groups())
    if kind == "publicdomain":
        return _DOMAIN_MARKS.get(f"{elements}/{version}")
    spdx = _joined(elements.upper().split("-"), version)
    if spdx is None or not place:
        return spdx
    ported = f"{spdx}-{place.upper()}"
    return ported if ported in _PORTED else f"LicenseRef-{ported}"


def _joined(elements: list[str], version: str) -> str | None:
    """Elements in the order of SPDX: BY, NC, then ND or SA."""
    order = ("BY", "NC", "ND", "SA")
    name = "-".join(element for element in order if element in elements)
    return f"CC-{name}-{version}" if name in _ELEMENTS and set(elements) <= {*order} else None


def _from_names(names: str, version: str) -> str | None:
    """Elements by their full names, as between "Creative Commons" and a version."""
    if "zero" in names or "cc0" in names:
        return "CC0-1.0"
    if "attribution" not in names:
        return None
    plain = re.sub(r"[\s-]", "", names)
    elements = ["BY"]
    elements += ["NC"] if "noncommercial" in plain else []
    elements += ["ND"] if "noderiv" in plain else []
    elements += ["SA"] if "sharealike" in plain else []
    return _joined(elements, version)
