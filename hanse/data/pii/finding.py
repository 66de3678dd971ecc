"""What a finding is, and which of two that overlap stays."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

# The shape of our own pseudonyms: a kind and sixteen consonants, which spell no word and look like no number.
CONSONANTS = "bcdfghjklmnpqrstvwxz"
PSEUDONYM = re.compile(rf"[a-z0-9-]+-[{CONSONANTS}]{{16}}")


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One item of personal data. The value itself is never kept.

    Attributes:
        kind: "email", "ipv4", "ipv6", "iban", "phone", "card", "url-token", or "national-id-" and a country code.
        start: offset of the first character (code point) in the text.
        end: offset after the last one.
        checksum: whether a check digit or letter confirms it.
    """

    kind: str
    start: int
    end: int
    checksum: bool


class Candidate(NamedTuple):
    """A finding that may yet give way to a stronger one."""

    strength: int
    finding: Finding


# How sure we are, strongest first. An address within a URL's user part is part of that secret; a number with a check
# digit and a name beside it beats the telephone number that the same digits could be.
BANK = URL = 5
CHECKED = 4
SYNTAX = 3
INTERNATIONAL = 2
CONTEXT = 1


def resolve(candidates: Iterable[Candidate]) -> list[Finding]:
    """The findings that stay, sorted, none overlapping: stronger evidence wins, then the longer, then the earlier."""

    def rank(candidate: Candidate) -> tuple[int, int, int, str, bool]:
        strength, finding = candidate
        return -strength, finding.start - finding.end, finding.start, finding.kind, finding.checksum

    ranked = sorted(set(candidates), key=rank)
    taken = bytearray(max((finding.end for _, finding in ranked), default=0))  # a mark a character: linear, always
    kept: list[Finding] = []
    for _, finding in ranked:
        if taken.find(1, finding.start, finding.end) < 0:
            taken[finding.start : finding.end] = b"\1" * (finding.end - finding.start)
            kept.append(finding)
    return sorted(kept, key=lambda finding: finding.start)
