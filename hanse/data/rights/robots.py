"""robots.txt (RFC 9309): what it says to each agent of the table, and the usage rules and licences written into it.

Protego decides whether an agent may fetch a URL. It drops what it does not know, so the lines about use
(`Content-Usage`, `Content-Signal`) and the `License` line of RSL are read here, and so are the groups, because those
lines belong to groups too.
"""

from __future__ import annotations

import codecs
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hanse.data.rights import usage
from hanse.data.rights.evidence import Evidence, Says, observed
from hanse.data.rights.paths import Pattern, decoded, target
from hanse.data.rights.tables import agent_names

if TYPE_CHECKING:
    from protego import Protego

VERSION = "robots/1"
MAX_BYTES = 512 * 1024  # RFC 9309, section 2.5: at least 500 KiB have to be read
# Groups overlap, so a hostile file can make 28,000 lines count for every agent anew. Beyond this we say "unclear".
MAX_RULES = 100_000
MAX_USAGE_RULES = 256
MAX_KEPT = 1024  # pieces of evidence that are made once and handed out again
_USER_AGENT = re.compile(r"user[- ]?agent(?:\s*:|\s)\s*(.*)", re.IGNORECASE)
_WORD = re.compile(r"[a-z0-9_-]+")
_USAGE = {
    "content-usage": ("robots-content-usage", usage.content_usage),
    "content-signal": ("robots-content-signal", usage.content_signal),
}
_SITE_WIDE = ("sitemap", "sitemaps", "site-map", "host")
_KNOWN = ("allow", "disallow", "crawl-delay", "request-rate", "visit-time", "noindex", "clean-param", *_SITE_WIDE)


@dataclass(frozen=True, slots=True)
class _UsageRule:
    """A `Content-Usage` or `Content-Signal` line: for whom, on which paths, and what it says about training."""

    agents: frozenset[str]
    field: str
    path: Pattern
    says: Says | None
    line: str


class _Rules:
    """The Allow and Disallow rules that some agents share."""

    def __init__(self, lines: tuple[str, ...]) -> None:
        self.lines = lines
        self.agents: list[str] = []
        self._parser: Protego | None = None
        self._patterns: dict[bool, list[tuple[Pattern, str]]] | None = None

    def may_fetch(self, path: str) -> bool:
        """Protego's answer."""
        if self._parser is None:
            from protego import Protego

            self._parser = Protego.parse("\n".join(("User-agent: *", *self.lines)))
        return self._parser.can_fetch(f"http://site{path}", "*")

    def answer(self, path: str) -> tuple[bool, str]:
        """May the agents fetch a target, and the longest rule that says so, as found; "" where no rule is needed."""
        may = self.may_fetch(path)
        patterns = self._by_length(may)
        if not patterns:
            return may, ""
        text = decoded(path)
        return may, next((line for pattern, line in patterns if pattern.covers(text)), "")

    def _by_length(self, is_allow: bool) -> list[tuple[Pattern, str]]:
        """The rules of one kind, longest pattern first."""
        if self._patterns is None:
            self._patterns = {True: [], False: []}
            for line in self.lines:
                field, _, pattern = line.partition(":")
                field, pattern = field.strip().lower(), pattern.strip()
                if pattern and field.startswith(("allow", "di")):  # Protego forgives "dissallow" and the like
                    self._patterns[field == "allow"].append((Pattern(pattern), line))
            for patterns in self._patterns.values():
                patterns.sort(key=lambda pair: -pair[0].length)
        return self._patterns[is_allow]


class Robots:
    """One robots.txt, parsed.

    Args:
        content: the file, as received. An empty one is what to store where a site was asked and has none.
        place: its URL.
        seen: the day on which it was seen, ISO 8601.
    """

    def __init__(self, content: bytes, *, place: str, seen: str) -> None:
        self._place, self._seen = place, seen
        self._digest = hashlib.sha256(content).hexdigest()
        self._trouble = "truncated" if len(content) > MAX_BYTES else ""
        self._groups: list[tuple[set[str], list[str]]] = []
        self._usage: list[_UsageRule] = []
        self._has_more_usage = False
        self.licences: list[str] = []
        self._read(_lines(content))
        self._rules = self._merged()
        self._evidence: dict[tuple[object, ...], Evidence] = {}
        self._answers: dict[tuple[tuple[bool, str], ...], list[Evidence]] = {}

    @property
    def weight(self) -> int:
        """What it holds in memory, roughly, in lines."""
        return 1 + sum(len(rules.lines) for rules in self._rules) + len(self._usage)

    def evidence(self, url: str) -> list[Evidence]:
        """What the file says about a URL: at least one statement, "unclear" where it cannot be read."""
        path = target(url)
        if path is None:
            return [self._make("robots.txt", "unclear", "", trouble="bad-url")]
        if self._trouble not in ("", "truncated"):
            return [self._make("robots.txt", "unclear", "", trouble=self._trouble)]
        found = list(self._access(path))
        if self._usage or self._has_more_usage or self.licences:
            found += self._preferences(path)
            found += [self._make("rsl-robots", "unclear", line) for line in self.licences[:MAX_KEPT]]
            found = list(dict.fromkeys(found))
        return found

    def _read(self, lines: Iterator[str]) -> None:
        agents: set[str] = set()
        rules: list[str] = []
        is_in_rules = is_known = has_lines = has_agent = False
        for line in lines:
            has_lines = True
            if named := _USER_AGENT.fullmatch(line):
                if is_in_rules or not has_agent:
                    agents, rules = set(), []
                    self._groups.append((agents, rules))
                is_in_rules, is_known, has_agent = False, True, True
                agents |= _agents_in(named[1])
                continue
            field, separator, value = line.partition(":")
            field, value = field.strip().lower(), value.strip()
            if field in ("license", "licence") and separator:
                self.licences.append(line)
                is_known = True
            elif field in _USAGE and separator:
                # Without a group of its own the statement is meant for everybody.
                self._add_usage(frozenset(agents) if has_agent else frozenset("*"), field, value, line)
                is_in_rules, is_known = has_agent, True
            elif not separator and field.split()[0] not in _KNOWN:
                continue  # a line of prose neither rules nor ends a list of agents
            elif field not in _SITE_WIDE:
                is_in_rules, is_known = has_agent, is_known or field in _KNOWN
                if agents:
                    rules.append(line)
            else:
                is_known = True
        if has_lines and not is_known:
            self._trouble = "not-robots"  # a page of HTML behind a 200, or bytes that mean nothing

    def _add_usage(self, agents: frozenset[str], field: str, value: str, line: str) -> None:
        if not agents:
            return
        if len(self._usage) >= MAX_USAGE_RULES:
            self._has_more_usage = True
            return
        path, expression = "", value
        if value.startswith("/"):
            path, _, expression = value.replace("\t", " ").partition(" ")
        self._usage.append(_UsageRule(agents, field, Pattern(path), _USAGE[field][1](expression), line))

    def _merged(self) -> list[_Rules]:
        """The rules of every agent: RFC 9309 merges its groups. Agents with the same groups share them."""
        memberships: dict[str, list[int]] = {"*": []}
        for index, (agents, _) in enumerate(self._groups):
            for agent in agents:
                memberships.setdefault(agent, []).append(index)
        shared: dict[tuple[int, ...], _Rules] = {}
        count = 0
        for agent, indices in memberships.items():
            groups = tuple(indices)
            if groups not in shared:
                count += sum(len(self._groups[index][1]) for index in groups)
                if count > MAX_RULES:
                    self._trouble = "too-many-rules"
                    return []
                shared[groups] = _Rules(tuple(line for index in groups for line in self._groups[index][1]))
            shared[groups].agents.append(agent)
        return list(shared.values())

    def _access(self, path: str) -> list[Evidence]:
        """Allow and Disallow, agents with one answer and one deciding rule together."""
        key = tuple(rules.answer(path) for rules in self._rules)
        if key not in self._answers:
            if len(self._answers) >= MAX_KEPT:
                self._answers.clear()
            together: dict[tuple[bool, str], list[str]] = {}
            for answer, rules in zip(key, self._rules, strict=True):
                together.setdefault(answer, []).extend(rules.agents)
            # What was cut off could still forbid, so a truncated file never allows.
            otherwise: Says = "unclear" if self._trouble else "allowed"
            self._answers[key] = [
                self._make("robots.txt", otherwise if may else "reserved", _raw(agents, rule), trouble=self._trouble)
                for (may, rule), agents in together.items()
            ]
        return self._answers[key]

    def _preferences(self, path: str) -> list[Evidence]:
        """The usage rules with the longest path, for each agent; they permit only where the agent may fetch."""
        found = []
        if self._has_more_usage:
            found.append(self._make("robots-content-usage", "unclear", "", trouble="too-many-rules"))
        text = decoded(path)
        fitting = [rule for rule in self._usage if rule.path.covers(text)]
        for agent in sorted({agent for rule in fitting for agent in rule.agents}):
            for field in _USAGE:
                own = [rule for rule in fitting if agent in rule.agents and rule.field == field]
                longest = max((rule.path.length for rule in own), default=0)
                for rule in own:
                    if rule.path.length < longest or rule.says is None:
                        continue
                    if rule.says == "allowed" and not self._may_fetch(agent, path):
                        continue
                    says: Says = "unclear" if rule.says == "allowed" and self._trouble else rule.says
                    raw = _raw(list(rule.agents), rule.line)
                    found.append(self._make(_USAGE[field][0], says, raw, trouble=self._trouble))
        return found

    def _may_fetch(self, agent: str, path: str) -> bool:
        return next((rules.may_fetch(path) for rules in self._rules if agent in rules.agents), True)

    def _make(self, kind: str, says: Says, raw: str, *, trouble: str = "") -> Evidence:
        key = (kind, says, raw, trouble)
        if key not in self._evidence:
            if len(self._evidence) >= MAX_KEPT:
                self._evidence.clear()
            self._evidence[key] = observed(
                kind, says, raw, place=self._place, seen=self._seen, parser=VERSION, file_digest=self._digest,
                trouble=trouble,
            )  # fmt: skip
        return self._evidence[key]


def agents_of(raw: str) -> tuple[str, ...]:
    """The agents that a piece of robots evidence speaks to, from its first line; empty where it names none."""
    first = raw.partition("\n")[0]
    return tuple(first.removeprefix("User-agent: ").split(", ")) if first.startswith("User-agent: ") else ()


def _lines(content: bytes) -> Iterator[str]:
    """Lines that say something, without comments. A byte-order mark would hide the first one, from Protego too."""
    is_cut = len(content) > MAX_BYTES
    content = content[:MAX_BYTES]
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = content.decode("utf-16", "replace")
    else:
        text = content.removeprefix(codecs.BOM_UTF8).decode("utf-8", "replace")
    lines = text.splitlines()
    if is_cut:
        lines = lines[:-1]  # its end is missing
    for line in lines:
        line = line.partition("#")[0].strip()
        if line:
            yield line


def _agents_in(value: str) -> set[str]:
    """Agents of the table that a `User-agent` line names, in whatever dress: "GPTBot/1.0", "Mozilla (GPTBot)"."""
    if value == "*":
        return {"*"}
    names = agent_names()
    return {names[word] for word in _WORD.findall(value[:1000].lower()) if word in names}


def _raw(agents: list[str], rule: str) -> str:
    named = f"User-agent: {', '.join(sorted(agents, key=str.lower))}"
    return f"{named}\n{rule}" if rule else named
