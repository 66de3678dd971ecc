"""The key that somebody probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def suggestion(word: str, known: Iterable[str]) -> str:
    """A sentence that names the closest of the known words, or all of them; it begins with a blank."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    shuffled = [k for k in known if sorted(k.split("_")) == sorted(word.split("_"))]
    parts = [k for k in known if set(word.split("_")) & set(k.split("_"))]
    best = (shuffled or close or parts)[:1]
    return f" Did you mean {best[0]}?" if best else f" Known here: {', '.join(known)}."
