"""The files by which a site speaks for all its pages: robots.txt, tdmrep.json, ai.txt and an RSL licence.

Each parser takes the bytes of one file as seen on one day and answers `evidence(url)`; none raises on what it is given.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Protocol
from urllib.parse import urlsplit
from xml.etree import ElementTree

from hanse.data.rights import usage
from hanse.data.rights.evidence import Evidence, Says, observed
from hanse.data.rights.paths import Pattern, decoded, site, target
from hanse.data.rights.robots import MAX_BYTES, Robots
from hanse.data.rights.tables import vocabulary

MAX_RULES = 10_000  # of one file that are compared with a URL
MAX_DEPTH = 32  # of XML


class SiteFile(Protocol):
    """A parsed file of a site."""

    def evidence(self, url: str) -> list[Evidence]:
        """What the file says about a URL of its site; nothing where it does not speak of it."""
        ...


class TdmRep:
    """`/.well-known/tdmrep.json` of the TDM Reservation Protocol (W3C community group, final report, 10 May 2024).

    The report calls the first matching rule the most specific one, while sites also sort the other way round. Where the
    first and the longest match disagree both are evidence, and the policy weighs them.
    """

    VERSION = "tdmrep/1"

    def __init__(self, content: bytes, *, place: str, seen: str) -> None:
        self._make = partial(
            observed, "tdmrep-file", place=place, seen=seen, parser=self.VERSION, file_digest=_digest(content)
        )
        self._trouble = ""
        self._rules: list[tuple[Pattern, dict[str, Any]]] = []
        if len(content) > MAX_BYTES:
            self._trouble = "too-large"
            return
        try:
            rules = json.loads(content.decode("utf-8-sig"))
        except (ValueError, RecursionError):
            self._trouble = "not-json"
            return
        if not isinstance(rules, list) or len(rules) > MAX_RULES or not all(isinstance(r, dict) for r in rules):
            self._trouble = "not-rules"
            return
        located = [rule for rule in rules if isinstance(rule.get("location"), str)]
        self._rules = [(_pattern(rule["location"]), rule) for rule in located]
        if len(self._rules) < len(rules):
            self._trouble = "rule-without-location"

    def evidence(self, url: str) -> list[Evidence]:
        """The first and the longest rule that match; "unclear" beside them where the file is not sound."""
        path = target(url)
        if path is None:
            return [self._make("unclear", "", trouble="bad-url")]
        found = [self._make("unclear", "", trouble=self._trouble)] if self._trouble else []
        text = decoded(path)
        fitting = [(pattern.length, rule) for pattern, rule in self._rules if pattern.covers(text)]
        if fitting:
            first, longest = fitting[0][1], max(fitting, key=lambda pair: pair[0])[1]
            for rule in (longest,) if longest is first else (first, longest):
                raw = json.dumps(rule, ensure_ascii=False, sort_keys=True)
                found.append(self._make(_tdm_value(rule.get("tdm-reservation")), raw))
        return found


class AiTxt:
    """`/ai.txt` as spawning.ai proposed it (2023): Allow and Disallow by file type or path, for everybody.

    Two other formats use the same name; those are "unclear".
    """

    VERSION = "ai.txt/1"

    def __init__(self, content: bytes, *, place: str, seen: str) -> None:
        self._make = partial(observed, "ai.txt", place=place, seen=seen, parser=self.VERSION)
        self._digest = _digest(content)
        lines = content[:MAX_BYTES].decode("utf-8-sig", "replace").splitlines()
        rules = [tuple(part.strip() for part in line.partition("#")[0].partition(":")[::2]) for line in lines]
        self._rules = [
            (field.lower(), value, Pattern(value))
            for field, value in rules
            if field.lower() in ("allow", "disallow") and value
        ]
        has_lines = any(line.strip() and not line.lstrip().startswith("#") for line in lines)
        self._trouble = "truncated" if len(content) > MAX_BYTES else ""
        if len(self._rules) > MAX_RULES:
            self._rules, self._trouble = self._rules[:MAX_RULES], "truncated"
        if has_lines and not self._rules:
            self._trouble = "other-format"

    def evidence(self, url: str) -> list[Evidence]:
        """The first rule against text; else the first rule for it; else nothing."""
        path = target(url)
        if path is None:
            return [self._make("unclear", "", file_digest=self._digest, trouble="bad-url")]
        against = self._first("disallow", path)
        if against is not None:
            return [self._found("reserved", f"Disallow: {against}")]
        if self._trouble:
            return [self._found("unclear", "")]
        for_it = self._first("allow", path)
        return [] if for_it is None else [self._found("allowed", f"Allow: {for_it}")]

    def _first(self, field: str, path: str) -> str | None:
        """The first rule of a kind that speaks of text by its file type, of everything, or of this path."""
        types, text = vocabulary("ai-txt")["text"], decoded(path)
        for name, value, pattern in self._rules:
            if name == field:
                is_type = value.startswith("*.")
                if value[2:].lower().rstrip("$") in types if is_type else value == "*" or pattern.covers(text):
                    return value
        return None

    def _found(self, says: Says, raw: str) -> Evidence:
        return self._make(says, raw, file_digest=self._digest, trouble=self._trouble)


class Rsl:
    """A licence file of Really Simple Licensing 1.0 (RSL-SPEC-1.0, 6 November 2025).

    Training is "reserved" where it is prohibited, where only other uses are permitted, or where it has a price; it is
    "allowed" where the file grants it free and to everybody; any other condition is "unclear".
    """

    VERSION = "rsl/1"

    def __init__(self, content: bytes, *, place: str, seen: str) -> None:
        self._make = partial(
            observed, "rsl-file", place=place, seen=seen, parser=self.VERSION, file_digest=_digest(content)
        )
        self._terms: list[tuple[Pattern, Says, str]] = []
        self.trouble = ""
        # An entity can make a small file huge, and RSL needs none.
        if len(content) > MAX_BYTES or b"<!ENTITY" in content or b"<!DOCTYPE" in content:
            self.trouble = "too-large" if len(content) > MAX_BYTES else "has-doctype"
            return
        try:
            self._terms = [term for element in _contents(content) for term in _terms(element)]
        except (ElementTree.ParseError, ValueError, LookupError):
            self.trouble = "not-xml"
        if not self._terms and not self.trouble:
            self.trouble = "no-terms"

    def evidence(self, url: str) -> list[Evidence]:
        """The licences whose pattern is the longest that covers the URL."""
        path = target(url)
        if path is None or self.trouble:
            return [self._make("unclear", "", trouble=self.trouble or "bad-url")]
        text = decoded(path)
        fitting = [term for term in self._terms if term[0].covers(text)]
        longest = max((pattern.length for pattern, _, _ in fitting), default=0)
        return [self._make(says, raw) for pattern, says, raw in fitting if pattern.length == longest]


_Parser = Callable[..., SiteFile]
PLACES: Mapping[str, str] = MappingProxyType(
    {"robots.txt": "robots.txt", "tdmrep.json": ".well-known/tdmrep.json", "ai.txt": "ai.txt", "rsl.xml": "rsl.xml"}
)
"""Where a site keeps each file that we read, by the name under which a snapshot stores it."""
_PARSERS: Mapping[str, _Parser] = MappingProxyType(
    {"robots.txt": Robots, "tdmrep.json": TdmRep, "ai.txt": AiTxt, "rsl.xml": Rsl}
)


class SiteFiles:
    """The files of one site as seen on one day.

    Args:
        host: as `hanse.data.rights.paths.site` gives it.
        files: content by name, a name of `PLACES`; others are ignored.
        seen: ISO 8601 day.
    """

    def __init__(self, host: str, files: Mapping[str, bytes], *, seen: str) -> None:
        self._host = host
        self._files: dict[str, SiteFile] = {
            name: parser(files[name], place=f"https://{host}/{PLACES[name]}", seen=seen)
            for name, parser in _PARSERS.items()
            if name in files
        }
        robots, rsl = self._files.get("robots.txt"), self._files.get("rsl.xml")
        if isinstance(robots, Robots) and isinstance(rsl, Rsl) and not rsl.trouble:
            robots.licences.clear()  # the terms that it points to have been read
        self.weight = sum(1 + len(content) // 64 for content in files.values())
        if isinstance(robots, Robots):
            self.weight += robots.weight

    def evidence(self, url: str) -> list[Evidence]:
        """What all files say about a URL; nothing where it belongs to another site."""
        if site(url) != self._host:
            return []
        return [evidence for file in self._files.values() for evidence in file.evidence(url)]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _tdm_value(value: object) -> Says:
    """JSON gives a number; a string is forgiven, `true` is a protocol error."""
    return usage.tdm_reservation(str(value)) if isinstance(value, int | str) else "unclear"


def _pattern(location: str) -> Pattern:
    """The pattern of a path, which some files write as a whole URL."""
    if not location.startswith("/") and "://" in location:
        try:
            parts = urlsplit(location)
        except ValueError:
            return Pattern(location)
        return Pattern(f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}")
    return Pattern(location)


def _contents(content: bytes) -> Iterable[ElementTree.Element]:
    """The `<content>` elements; ValueError where the file is nested deeper than any licence."""
    depth = 0
    found = []
    for event, element in ElementTree.iterparse(io.BytesIO(content), events=("start", "end")):
        depth += 1 if event == "start" else -1
        if depth > MAX_DEPTH:
            raise ValueError("nested too deeply")
        if event == "end" and _name(element) == "content":
            found.append(element)
    return found


def _terms(content: ElementTree.Element) -> Iterable[tuple[Pattern, Says, str]]:
    """URL pattern, answer and text of each licence of one `<content>`."""
    for child in content:
        if _name(child) == "license":
            raw = ElementTree.tostring(child, encoding="unicode").strip()
            yield _pattern(content.get("url", "/")), _answer(content, child), raw


def _answer(content: ElementTree.Element, licence: ElementTree.Element) -> Says:
    parts: dict[str, list[ElementTree.Element]] = {}
    for element in licence:
        parts.setdefault(_name(element), []).append(element)
    permits, prohibits = _usages(parts.get("permits", [])), _usages(parts.get("prohibits", []))
    training = set(vocabulary("rsl")["training"])
    if prohibits & training or (permits and not permits & training):
        return "reserved"
    payments = {payment.get("type", "free").strip().lower() for payment in parts.get("payment", [])}
    if payments - {"free", "attribution"}:
        return "reserved"
    others = [p for name in ("permits", "prohibits") for p in parts.get(name, []) if p.get("type", "usage") != "usage"]
    is_unconditional = not (payments - {"free"} or others or content.get("server") or parts.get("legal"))
    return "allowed" if permits & training and is_unconditional else "unclear"


def _usages(elements: Iterable[ElementTree.Element]) -> set[str]:
    words: set[str] = set()
    for element in elements:
        if element.get("type", "usage") == "usage":
            words |= set((element.text or "").replace(",", " ").lower().split())
    return words


def _name(element: Any) -> str:
    return str(element.tag).rpartition("}")[2].lower()
