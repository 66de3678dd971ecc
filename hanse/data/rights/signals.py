"""The table of signals: every way that we know by which somebody says whether their text may train a model.

One row a signal. Readers hand over what they found and get evidence back:

    from_headers([("TDM-Reservation", "1")], url=url, seen="2026-11-20")
    from_meta([("robots", "noai")], url=url, seen="2026-11-20")
    SiteFiles("example.org", {"robots.txt": content}, seen="2026-11-20").evidence(url)

A new signal is one new row, and a function for its value where none of `hanse.data.rights.usage` fits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Literal

from hanse.data.rights import usage
from hanse.data.rights.evidence import Evidence, Says, observed
from hanse.data.rights.robots import VERSION as ROBOTS
from hanse.data.rights.site_files import AiTxt, Rsl, SiteFiles, TdmRep
from hanse.data.rights.tables import agent_names

__all__ = ["SIGNALS", "Signal", "SiteFiles", "from_declared", "from_headers", "from_links", "from_meta"]

MAX_VALUE = 8192  # characters of a header or element that are read
MAX_STATEMENTS = 64  # of one page; more are an attack
_RSL_TYPE = "application/rsl+xml"
_LINK = re.compile(r"<([^<>]*)>([^<]*)")


@dataclass(frozen=True, slots=True)
class Signal:
    """One row of the table.

    Attributes:
        kind: the name that evidence carries and policies use.
        place: what carries it.
        name: of the file, header, element or rule.
        parser: what reads it, with its version.
        specification: where it is defined, with number and date.
        read: for headers and elements, the meaning of a value; None where it does not speak of training.
    """

    kind: str
    place: Literal["file", "header", "meta", "link", "record"]
    name: str
    parser: str
    specification: str
    read: Callable[[str], Says | None] | None = None


_TDMREP = "TDMRep, W3C community group final report, 10 May 2024 (no standard)"
_AIPREF = "IETF drafts draft-ietf-aipref-vocab-08 (13 September 2026) and -attach-05 (19 August 2026)"
_CONTENT_SIGNAL = "contentsignals.org (Cloudflare, 2025); draft-romm-aipref-contentsignals-00 (1 October 2025)"
_NOAI = "convention: DeviantArt, November 2022; noml.info, 2023"
_RSL = "RSL-SPEC-1.0, Recommendation, 6 November 2025"

SIGNALS: tuple[Signal, ...] = (
    Signal("robots.txt", "file", "robots.txt: Allow, Disallow", ROBOTS, "RFC 9309, September 2022; agents.toml"),
    Signal("robots-content-usage", "file", "robots.txt: Content-Usage", ROBOTS, _AIPREF),
    Signal("robots-content-signal", "file", "robots.txt: Content-Signal", ROBOTS, _CONTENT_SIGNAL),
    Signal("rsl-robots", "file", "robots.txt: License", ROBOTS, _RSL),
    Signal("tdmrep-file", "file", "/.well-known/tdmrep.json", TdmRep.VERSION, _TDMREP),
    Signal("ai.txt", "file", "/ai.txt", AiTxt.VERSION, "spawning.ai, May 2023 (no standard)"),
    Signal("rsl-file", "file", "the licence file that RSL names", Rsl.VERSION, _RSL),
    Signal("tdmrep-header", "header", "tdm-reservation", "headers/1", _TDMREP, usage.tdm_reservation),
    Signal("content-usage", "header", "content-usage", "headers/1", _AIPREF, usage.content_usage),
    Signal("content-signal", "header", "content-signal", "headers/1", _CONTENT_SIGNAL, usage.content_signal),
    Signal("robots-header", "header", "x-robots-tag", "headers/1", _NOAI, usage.robots_directives),
    Signal("tdmrep-meta", "meta", "tdm-reservation", "meta/1", _TDMREP, usage.tdm_reservation),
    Signal("robots-meta", "meta", "robots", "meta/1", _NOAI, usage.robots_directives),
    Signal("rsl-link", "link", "license", "links/1", _RSL),
    Signal("declared", "record", "reservation", "record/1", "the record of the source itself"),
)


def from_headers(headers: Iterable[tuple[str, str]], *, url: str, seen: str) -> list[Evidence]:
    """What the HTTP headers of a response say about its content.

    Args:
        headers: names, in any case, and values, in order; a name may come more than once.
        url: of the page.
        seen: day of the response, ISO 8601, or "".
    """
    pairs = [(name.strip().lower(), value) for name, value in headers]
    found = _statements(pairs, "header", url=url, seen=seen)
    links = [link for name, value in pairs if name == "link" for link in _links(value)]
    return _bounded([*found, *from_links(links, url=url, seen=seen)], url=url, seen=seen)


def from_meta(metas: Iterable[tuple[str, str]], *, url: str, seen: str) -> list[Evidence]:
    """What the `<meta name content>` elements of a page say about it; a crawler's own name counts as `robots`.

    Args:
        metas: name and content of each element, in order.
        url: of the page.
        seen: day on which the page was fetched, ISO 8601, or "".
    """
    names = agent_names()
    pairs = [(name.strip().lower(), content) for name, content in metas]
    pairs = [("robots" if name in names and name != "*" else name, content) for name, content in pairs]
    return _bounded(_statements(pairs, "meta", url=url, seen=seen), url=url, seen=seen)


def from_links(links: Iterable[tuple[str, str, str]], *, url: str, seen: str) -> list[Evidence]:
    """Links to an RSL licence, which say that there are terms and not which.

    Args:
        links: `rel`, `type` and `href` of each `<link>` element or `Link` header.
        url, seen: as in `from_meta`.
    """
    found = []
    for relation, media_type, href in links:
        if "license" in relation.lower().split() and media_type.strip().lower() == _RSL_TYPE:
            raw = f'<link rel="license" type="{_RSL_TYPE}" href="{href[:MAX_VALUE]}">'
            found.append(observed("rsl-link", "unclear", raw, place=url, seen=seen, parser="links/1"))
    return _bounded(found, url=url, seen=seen)


def from_declared(reservation: str, *, seen: str) -> list[Evidence]:
    """What the source's own record said: "none", "reserved", "unknown" (no evidence), or something unreadable."""
    meanings: dict[str, Says] = {"none": "allowed", "reserved": "reserved"}
    word = reservation.strip().lower()
    if word in ("", "unknown"):
        return []
    says = meanings.get(word, "unclear")
    return [observed("declared", says, reservation, place="record", seen=seen, parser="record/1")]


@cache
def by_kind() -> Mapping[str, Signal]:
    """The rows of the table by kind."""
    return MappingProxyType({signal.kind: signal for signal in SIGNALS})


@cache
def _readers(place: str) -> Mapping[str, Signal]:
    return MappingProxyType({signal.name: signal for signal in SIGNALS if signal.place == place})


def _statements(pairs: list[tuple[str, str]], place: str, *, url: str, seen: str) -> list[Evidence]:
    readers = _readers(place)
    found = []
    for name, value in pairs:
        signal = readers.get(name)
        if signal is None or signal.read is None:
            continue
        says = signal.read(value[:MAX_VALUE])
        trouble = ""
        if len(value) > MAX_VALUE and says != "reserved":
            says, trouble = "unclear", "truncated"
        if says is not None:
            raw = f"{name}: {value[:MAX_VALUE]}"
            if signal.read is usage.tdm_reservation:
                raw += "".join(f"\n{other}: {policy[:500]}" for other, policy in pairs if other == "tdm-policy")
            found.append(observed(signal.kind, says, raw, place=url, seen=seen, parser=signal.parser, trouble=trouble))
        if len(found) > MAX_STATEMENTS:
            break
    return found


def _bounded(found: list[Evidence], *, url: str, seen: str) -> list[Evidence]:
    """Each statement once, and not more than MAX_STATEMENTS; the rest is one "unclear"."""
    found = list(dict.fromkeys(found))
    if len(found) <= MAX_STATEMENTS:
        return found
    kept = sorted(found, key=lambda evidence: evidence.says != "reserved")[:MAX_STATEMENTS]
    more = observed(kept[0].kind, "unclear", "", place=url, seen=seen, parser=kept[0].parser, trouble="too-many")
    return [*kept, more]


def _links(value: str) -> Iterable[tuple[str, str, str]]:
    """The links of a `Link` header (RFC 8288), roughly: enough to find one that names RSL."""
    for href, parameters in _LINK.findall(value[:MAX_VALUE]):
        fields = dict(
            (key.strip().lower(), content.strip().strip('",').lower())
            for key, _, content in (part.partition("=") for part in parameters.split(";"))
        )
        yield fields.get("rel", ""), fields.get("type", ""), href
