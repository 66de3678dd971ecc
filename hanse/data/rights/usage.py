"""What a statement of preferences says about training: `Content-Usage`, `Content-Signal`, and robots directives.

Each function takes the value of a header, rule or element and answers "allowed", "reserved", "unclear", or None where
the value does not speak of training at all.
"""

from __future__ import annotations

import re

from hanse.data.rights.evidence import Says
from hanse.data.rights.tables import vocabulary

# Members of a structured-field dictionary (RFC 9651, section 4.2.2): no alternative begins like another and nothing
# repeats inside a repetition, so the match is linear.
_KEY = r"[a-z*][a-z0-9_.*-]*"
_TOKEN = r"[A-Za-z*][!#$%&'*+.^_`|~0-9A-Za-z:/-]*"
_ITEM = rf"""(?:{_TOKEN}|"(?:[^"\\]|\\["\\])*"|[-@]{{0,2}}[0-9][0-9.]*|\?[01]|:[A-Za-z0-9+/=]*:)"""
_PARAMETERS = rf"(?:;[ ]*{_KEY}(?:={_ITEM})?)*"
_MEMBER = re.compile(rf"({_KEY})(?:=({_ITEM}|\([^()]*\)))?{_PARAMETERS}[ \t]*(?:,[ \t]*(?!$)|$)")
_WORD = re.compile(r"[a-z_-]+")


def content_usage(value: str) -> Says | None:
    """An AIPREF statement, such as `train-ai=n, search=y`.

    Only the tokens `y` and `n` are preferences (draft-ietf-aipref-vocab-08, section 6): `train-ai="n"`, a bare
    `train-ai` and a line that is no dictionary at all are "unclear". Of a repeated key the last value holds.
    """
    members = dictionary(value)
    if members is None:
        return "unclear"
    return _by_labels(members, "content-usage")


def content_signal(value: str) -> Says | None:
    """A Content-Signal statement, such as `search=yes, ai-train=no`; of contradictory values "no" holds."""
    members: dict[str, str] = {}
    for part in value.lower().split(","):
        key, separator, said = (piece.strip() for piece in part.partition("="))
        if members.get(key) != "no":
            members[key] = said if separator else ""
    return _by_labels(members, "content-signal")


def robots_directives(value: str) -> Says | None:
    """A robots meta element or an X-Robots-Tag: `noindex, noai`, also behind a crawler's name (`gptbot: noai`)."""
    words = set(_WORD.findall(value.lower()))
    table = vocabulary("robots-directives")
    if not words.isdisjoint(table["reserved"]):
        return "reserved"
    return None if words.isdisjoint(table["unclear"]) else "unclear"


def tdm_reservation(value: str) -> Says:
    """A TDMRep reservation: 1 is reserved, 0 is not; anything else is a protocol error, and neither."""
    answers: dict[str, Says] = {"1": "reserved", "0": "allowed"}
    return answers.get(value.strip(), "unclear")


def dictionary(value: str) -> dict[str, str] | None:
    """Keys and raw values of a structured-field dictionary without parameters (RFC 9651); None where it is none.

    A key without a value maps to "?1", which is what it stands for.
    """
    text = value.strip(" ")
    members: dict[str, str] = {}
    position = 0
    while position < len(text):
        match = _MEMBER.match(text, position)
        if match is None:
            return None
        members[match[1]] = match[2] if match[2] is not None else "?1"
        position = match.end()
    return members


def _by_labels(members: dict[str, str], section: str) -> Says | None:
    """What the most specific label with a clear value says; "unclear" where only unclear values speak of training."""
    table = vocabulary(section)
    is_mentioned = False
    for label in table["labels"]:
        if label in members:
            is_mentioned = True
            if members[label] == table["reserved"]:
                return "reserved"
            if members[label] == table["allowed"]:
                return "allowed"
    return "unclear" if is_mentioned else None
