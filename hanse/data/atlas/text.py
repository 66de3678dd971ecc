"""One normal form for every string that leaves atlas."""

from __future__ import annotations

import unicodedata

# CLDR hyphenates German "Reykjavík" softly and joins dates with no-break spaces: invisible, and fatal to exact answers.
_INVISIBLE = str.maketrans({"\u00ad": None, "\u200b": None, "\u00a0": " ", "\u202f": " ", "\u2009": " "})


def clean(text: str) -> str:
    """NFC, without soft hyphens, with plain spaces."""
    return unicodedata.normalize("NFC", text).translate(_INVISIBLE).strip()
