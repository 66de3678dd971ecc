"""How figures and other people's text are shown, on a page and in a terminal."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jinja2

NOT_RECORDED = "not recorded"

# Control characters can move a terminal's cursor, direction overrides can turn a name around, half a surrogate pair
# cannot be encoded.
_UNSHOWABLE = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_UNITS = ("kB", "MB", "GB", "TB", "PB")


def visible(text: str) -> str:
    """The text on one line, without anything that acts on whoever shows it; U+FFFD stands for what was there."""
    return _UNSHOWABLE.sub("\ufffd", " ".join(text.split()))


def shortened(text: str, width: int) -> str:
    """The text as `visible`, at most `width` characters; "…" where more follows."""
    line = visible(text[: 4 * width])
    return line if len(line) <= width and len(text) <= 4 * width else line[: width - 1] + "…"


def count(number: int) -> str:
    """A whole number with its thousands apart: 1,234,567."""
    return f"{number:,}"


def size(number: int) -> str:
    """Bytes in decimal units: 999 B, 1.2 kB, 132.6 MB."""
    if number < 1000:
        return f"{number} B"
    power = next((p for p in range(1, len(_UNITS)) if number / 1000**p < 999.95), len(_UNITS))
    return f"{number / 1000**power:,.1f} {_UNITS[power - 1]}"


def share(part: float) -> str:
    """A share of one in percent; what is there never reads as nothing, nor what is missing as all."""
    if 0 < part < 0.0005:
        return "<0.1 %"
    if 0.9995 < part < 1:
        return ">99.9 %"
    return f"{100 * part:.1f} %"


def templates(folder: Path) -> jinja2.Environment:
    """The templates of a folder; what they are given is escaped, and a name that they lack is an error."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
