"""From features to reasons: thresholds for each language, kept in a data file with where each comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hanse import toml
from hanse.data.quality.measure import FEATURES
from hanse.errors import InputError

_KEYS = {"reason", "feature", "above", "below", "from_characters", "from_lines", "languages", "basis"}


@dataclass(frozen=True)
class Rule:
    """One reason to drop a document.

    Attributes:
        reason: its name in `drop_reason`, `quality-...`.
        feature: the column of `measure` that it looks at.
        side: whether values above or below the limit are bad.
        limit: for languages without their own.
        languages: limits by language; NaN: the rule does not hold there.
        from_characters, from_lines: shorter documents are left alone.
        basis: where the limit comes from.
    """

    reason: str
    feature: str
    side: Literal["above", "below"]
    limit: float
    languages: Mapping[str, float] = field(default_factory=dict)
    from_characters: int = 0
    from_lines: int = 0
    basis: str = ""


def load_rules(path: Path | None = None) -> tuple[Rule, ...]:
    """The rules of a TOML file; by default those of Hanse, `thresholds.toml`.

    Raises:
        InputError: the file cannot be read, or a rule is not complete.
    """
    name = str(path or "thresholds.toml")
    if path is None:
        content = resources.files("hanse.data.quality").joinpath(name).read_bytes()
    else:
        content = toml.content(path, "the file of quality rules")
    given = toml.parse(content, where=name)
    sizes = {key: given.get(key, 0) for key in ("from_characters", "from_lines")}
    return tuple(
        _rule(entry, sizes, f"{name}, [[rule]] {number}") for number, entry in enumerate(given.get("rule", []), 1)
    )


def reasons(
    features: Mapping[str, np.ndarray], languages: Sequence[str | None], rules: Sequence[Rule] | None = None
) -> list[list[str]]:
    """Why each document should be dropped for its quality; most lists are empty.

    Args:
        features: of `hanse.data.quality.measure`.
        languages: code of each document; None or an unknown one gets the limits for all.
        rules: by default those of Hanse.
    """
    found: list[list[str]] = [[] for _ in languages]
    codes = {code: place for place, code in enumerate(dict.fromkeys(languages))}
    code_D = np.fromiter((codes[code] for code in languages), np.int64, len(languages))
    for rule in load_rules() if rules is None else rules:
        limits = np.array([rule.languages.get(code or "", rule.limit) for code in codes], np.float32)
        limit_D = limits[code_D]
        values_D = features[rule.feature]
        is_bad_D = values_D > limit_D if rule.side == "above" else values_D < limit_D
        is_bad_D &= (features["characters"] >= rule.from_characters) & (features["lines"] >= rule.from_lines)
        for document in np.flatnonzero(is_bad_D).tolist():
            if rule.reason not in found[document]:
                found[document].append(rule.reason)
    return found


def _rule(entry: dict[str, Any], sizes: dict[str, int], place: str) -> Rule:
    if unknown := sorted(set(entry) - _KEYS):
        raise InputError(f"{place}: unknown key '{unknown[0]}'; known are {', '.join(sorted(_KEYS))}.")
    if not isinstance(entry.get("reason"), str) or not entry["reason"].startswith("quality-"):
        raise InputError(f"{place}: 'reason' is missing; give a name that begins with 'quality-'.")
    if entry.get("feature") not in FEATURES:
        raise InputError(f"{place}: 'feature' is none of {', '.join(FEATURES)}.")
    if ("above" in entry) == ("below" in entry):
        raise InputError(f"{place}: give either 'above' or 'below'.")
    side: Literal["above", "below"] = "above" if "above" in entry else "below"
    limits = [entry[side], *entry.get("languages", {}).values()]
    if any(isinstance(limit, bool) or not isinstance(limit, int | float) for limit in limits):
        raise InputError(f"{place}: a limit is not a number.")
    return Rule(
        reason=entry["reason"],
        feature=entry["feature"],
        side=side,
        limit=float(entry[side]),
        languages={code: float(limit) for code, limit in entry.get("languages", {}).items()},
        from_characters=entry.get("from_characters", sizes["from_characters"]),
        from_lines=entry.get("from_lines", sizes["from_lines"]),
        basis=entry.get("basis", ""),
    )
