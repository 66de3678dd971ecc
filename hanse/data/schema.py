"""What a document is: one fixed Arrow schema, and the strict check that turns a record into a row of it.

Engines that infer schemas lose data without a word (a year column that is null in the first file stays null in all),
so nothing here is inferred: a value of another type is a fault, and the record goes to quarantine.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast, get_args
from urllib.parse import urlsplit

import pyarrow as pa

from hanse.data.dedup import BAND_NAMES
from hanse.data.quality.measure import FEATURES
from hanse.data.rights.evidence import Evidence, Says, observed

# Where a document comes from, and what we may do with it; filled by the reader.
ORIGIN = [
    ("id", pa.string()),  # first 128 bits of SHA-256 over the normalised text, as 32 hex digits
    ("source_id", pa.string()),  # the name the source itself gives the document
    ("language", pa.string()),  # ISO 639-1, as declared; as identified where none is declared
    ("source", pa.string()),  # name of the [[source]] in the recipe
    ("collection", pa.string()),  # what the document calls its source; the same as `source` where it does not
    ("file", pa.string()),  # relative to the source's path
    ("line", pa.int64()),  # line or row in the file, from 1
    ("url", pa.string()),
    ("domain", pa.string()),
    ("retrieved", pa.string()),
    ("licence", pa.string()),  # SPDX
    ("licence_basis", pa.string()),
    ("jurisdiction", pa.string()),  # ISO 3166-1 alpha-2, or EU
    ("rights_holder", pa.string()),
    ("author", pa.string()),
    ("author_died", pa.int32()),  # the last of them
    ("title", pa.string()),
    ("year", pa.int32()),
    ("extra", pa.string()),  # everything else the record held, as JSON
]
# What curation adds.
FINDING = pa.struct([("kind", pa.string()), ("start", pa.int32()), ("end", pa.int32()), ("checksum", pa.bool_())])
HIT = pa.struct([("item", pa.string()), ("containment", pa.float32()), ("longest", pa.int32())])
ANNOTATIONS = [
    ("ordinal", pa.int64()),  # position in reading order, over all sources
    ("bytes", pa.int64()),  # of the text in UTF-8
    ("characters", pa.int64()),
    ("lang", pa.string()),  # as identified
    ("lang_score", pa.float32()),  # probability of `lang`
    ("reservation", pa.string()),  # none, reserved or unknown: what the policy makes of the evidence
    ("evidence", pa.list_(pa.string())),  # ids in evidence.parquet
    ("pii", pa.list_(FINDING)),  # characters of the text as it was read; never the value
    ("quality", pa.struct([(name, pa.float32()) for name in FEATURES])),
    ("quality_score", pa.float32()),  # of the trained classifier
    ("contamination", pa.list_(HIT)),  # evaluation items found in the text
    ("flags", pa.list_(pa.string())),  # worth knowing, no reason to drop
    ("drop_reason", pa.list_(pa.string())),  # empty: kept
]

BANDS = [(name, pa.uint64()) for name in BAND_NAMES]
INGEST = pa.schema([("text", pa.string()), ("rank", pa.int64()), *ORIGIN, *ANNOTATIONS, *BANDS])
DOCUMENTS = pa.schema(
    [
        *ORIGIN,
        *ANNOTATIONS,
        ("cluster", pa.string()),  # id of the copy that stayed; its own where there is no other
        ("split", pa.string()),
    ]
)
TEXT = pa.schema([(name, pa.string()) for name in ("id", "text", "language", "source")])

OPTIONAL_STRINGS = (
    "id", "language", "source", "url", "licence", "licence_basis", "jurisdiction", "rights_holder", "reservation",
    "author", "title",
)  # fmt: skip
KNOWN = frozenset((*OPTIONAL_STRINGS, "text", "retrieved", "year", "author_died", "signals", "extra"))
# Text under an exception for text and data mining has no licence, and SPDX a word for that.
TDM_BASES = ("tdm-art-4", "tdm-art-3")
NO_LICENCE = "NOASSERTION"
MOST_SIGNALS = 1000  # of one record
LAST_YEAR = 2100  # a later one is a mistake, whatever the clock says
_BASES = ("stated", "detected", "contract", "public-domain", "generated", *TDM_BASES, "unknown")
_JURISDICTION = re.compile("[A-Z]{2}")
_DAY = re.compile(r"(\d{4})(?:-(\d{2})(?:-(\d{2})(?:[T ][0-9:.,+Zz-]{2,24})?)?)?")
_HOST = re.compile(r"https?://([a-z0-9.-]+)(?=[/?#]|$)")
_ENCODER = json.JSONEncoder(ensure_ascii=False, sort_keys=True)
# White space as str.split() knows it, but for the blank itself.
_BLANKS = tuple(chr(code).encode() for code in range(0x80) if chr(code).isspace() and chr(code) not in " \n")
# U+2000 and U+2001 are not in NFC; they and U+3000 are slow to look for in a string, because of their zero byte.
_WIDE_BLANKS = tuple(chr(code) for code in range(0x80, 0x3000) if chr(code).isspace() and code not in (0x2000, 0x2001))
_IDEOGRAPHIC_BLANK = "\u3000".encode()


class BadRecord(Exception):
    """A record that cannot become a document. `reason` is one word for counting, `detail` a phrase for people."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Defaults:
    """What stands in for a field that a record leaves out; from the recipe's [[source]].

    `day` is the ISO 8601 day after which nothing can have been retrieved or seen; "" for no such day.
    """

    source: str
    licence: str | None = None
    licence_basis: str = "unknown"
    jurisdiction: str = ""
    rights_holder: str = ""
    reservation: str = "unknown"
    day: str = ""


def parse_line(line: bytes) -> object:
    """The JSON value on one line.

    Raises:
        BadRecord: not UTF-8, not JSON (RFC 8259: no NaN, no infinity), nested too deeply, or a key given twice.
    """
    try:
        return _DECODER.decode(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadRecord("not-utf8", f"byte {error.start + 1} is not UTF-8") from None
    except RecursionError:
        raise BadRecord("not-json", "the line is not JSON: nested too deeply") from None
    except ValueError as error:
        raise BadRecord("not-json", f"the line is not JSON: {error}") from None


def check_record(record: object, defaults: Defaults, evidence: Sequence[Evidence] = ()) -> dict[str, Any]:
    """The text and ORIGIN fields of one document, without `file` and `line`; defaults fill what is left out.

    Beside these come `bytes` (of the text in UTF-8), `flags`, `reservation` as declared, and `evidence`: what is given,
    and after it the record's own `signals`.

    Raises:
        BadRecord: no object, no text, no licence, a value of a wrong type, NUL, or a lone surrogate.
    """
    if not isinstance(record, Mapping):
        raise BadRecord("not-an-object", "the line is JSON, but not an object")
    get = record.get
    text = get("text")
    if text is None:
        raise BadRecord("text-missing", "'text' is missing")
    if not isinstance(text, str):
        raise BadRecord("wrong-type", f"'text' is {_kind(text)} instead of a string")
    fields = {key: None if get(key) is None else _string(key, get(key)) for key in OPTIONAL_STRINGS}
    basis = fields["licence_basis"] or defaults.licence_basis
    licence = fields["licence"] or defaults.licence or (NO_LICENCE if basis in TDM_BASES else None)
    if not licence:
        hint = " (there is 'license'; the field is 'licence')" if "license" in record else ""
        raise BadRecord("licence-missing", f"'licence' is missing{hint}")
    content = _encoded("text", text)
    flags: list[str] = []
    retrieved = _retrieved(get("retrieved"), defaults.day, flags)
    reservation = fields["reservation"] or defaults.reservation
    return {
        "id": document_id(text, content),
        "text": text,
        "bytes": len(content),
        "source_id": fields["id"],
        "language": language_code(fields["language"]),
        "source": defaults.source,
        "collection": fields["source"] or defaults.source,
        "url": fields["url"],
        "domain": _domain(fields["url"]),
        "retrieved": retrieved,
        "licence": licence.strip(),
        "licence_basis": basis if basis in _BASES else "unknown",
        "jurisdiction": _jurisdiction(fields["jurisdiction"] or defaults.jurisdiction),
        "rights_holder": fields["rights_holder"] or defaults.rights_holder or None,
        # Evidence that cannot be read is no evidence, in either direction.
        "reservation": reservation if reservation in ("none", "reserved") else "unknown",
        "author": fields["author"],
        "author_died": _year("author_died", get("author_died")),
        "title": fields["title"],
        "year": _year("year", get("year")),
        "extra": _extra(record, None if retrieved else get("retrieved")),
        "flags": flags,
        "evidence": [*evidence, *_signals(get("signals"), defaults.day)],
    }


def normalised(text: str) -> str:
    """The text as compared with others: Unicode NFC, every run of white space one blank, none at the ends."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def document_id(text: str, content: bytes | None = None) -> str:
    """First 128 bits of SHA-256 over the normalised text, as 32 hex digits; `content`: its UTF-8, if at hand."""
    content = text.encode("utf-8", "surrogatepass") if content is None else content
    return hashlib.sha256(_normalised(text, content)).hexdigest()[:32]


def _normalised(text: str, content: bytes) -> bytes:
    """`normalised(text)` in UTF-8, from the text and its UTF-8: on bytes it takes a third of the time."""
    if not text.isascii():
        if not unicodedata.is_normalized("NFC", text):
            return normalised(text).encode("utf-8", "surrogatepass")
        for wide in _WIDE_BLANKS:
            if wide in text:
                content = content.replace(wide.encode(), b" ")
        if _IDEOGRAPHIC_BLANK[:1] in content:  # one byte is looked for ten times as fast as three
            content = content.replace(_IDEOGRAPHIC_BLANK, b" ")
    for blank in _BLANKS:
        if blank in content:
            content = content.replace(blank, b"\n")
    # Most doubled white space is an empty line, and splitting at one byte is four times as fast as replacing two.
    content = b" ".join(filter(None, content.split(b"\n")))
    while b"  " in content:
        content = content.replace(b"  ", b" ")
    return content.strip(b" ")


def is_day(text: str) -> bool:
    """Whether this is a day of the calendar as ISO 8601 writes it: 2026-11-20."""
    try:
        return len(text) == 10 and datetime.date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def language_code(tag: str | None) -> str | None:
    """ISO 639-1 code of a BCP 47 tag: "de-AT" is "de". Bare Norwegian ("no") is Bokmål, as CLDR has it."""
    if not tag or not tag.strip():
        return None
    code = tag.strip().replace("_", "-").split("-")[0].lower()
    return "nb" if code == "no" else code


def _string(key: str, value: object) -> str:
    if type(value) is str and value.isascii() and "\0" not in value:  # nearly all, so first
        return value
    if key == "id" and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise BadRecord("wrong-type", f"'{key}' is {_kind(value)} instead of a string")
    _encoded(key, value)
    return value


def _encoded(key: str, value: str) -> bytes:
    """UTF-8 of a string that can be stored."""
    try:
        content = value.encode("utf-8")
    except UnicodeEncodeError:
        raise BadRecord("lone-surrogate", f"'{key}' holds half of a surrogate pair") from None
    if b"\0" in content:  # in the string it would take ten times as long
        raise BadRecord("nul-character", f"'{key}' holds the character NUL")
    return content


def _retrieved(value: object, day: str, flags: list[str]) -> str | None:
    """ISO 8601 to the day, or as far as it is known. What is no date, or not over yet, is flagged and left out."""
    if value is None:
        return None
    if isinstance(value, datetime.date):  # a Parquet column of dates
        value = value.isoformat()
    found = _DAY.fullmatch(_string("retrieved", value).strip())
    text = "-".join(part for part in found.groups() if part) if found else ""
    if not found or not is_day((text + "-01-01")[:10]):
        flags.append("bad-date")
        return None
    if text > (day or str(LAST_YEAR)):
        flags.append("future-date")
        return None
    return text


def _jurisdiction(code: str) -> str | None:
    if not code:
        return None
    if not _JURISDICTION.fullmatch(code.upper()):
        raise BadRecord("wrong-type", "'jurisdiction' is no code of two letters (ISO 3166-1, or EU)")
    return code.upper()


def _signals(value: object, day: str) -> Iterator[Evidence]:
    """The record's own evidence: objects with `kind` and `says`, and where known `raw` and `seen`."""
    if value is None:
        return
    if not isinstance(value, list) or len(value) > MOST_SIGNALS:
        raise BadRecord("wrong-type", f"'signals' is no list of at most {MOST_SIGNALS} objects")
    for signal in value:
        if not isinstance(signal, Mapping):
            raise BadRecord("wrong-type", f"'signals' holds {_kind(signal)} instead of an object")
        fields = {key: _string(f"signals.{key}", signal.get(key) or "") for key in ("kind", "raw", "seen", "says")}
        if not fields["kind"] or fields["says"] not in get_args(Says):
            raise BadRecord("wrong-type", f"'signals' needs a 'kind', and in 'says' one of {', '.join(get_args(Says))}")
        seen, says, trouble = fields["seen"][:10], cast(Says, fields["says"]), ""
        if seen and not is_day(seen):
            trouble = "bad-date"
        elif seen > (day or str(LAST_YEAR)):
            trouble = "future-date"
        if trouble:  # a permission of no known day is none
            seen, says = "", "unclear" if says == "allowed" else says
        yield observed(
            fields["kind"], says, fields["raw"], place="record", seen=seen, parser="record/1", trouble=trouble
        )


def _year(key: str, value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, float) and (math.isnan(value) or value.is_integer()):
        # pandas turns a column of whole numbers into floats as soon as one is missing
        return None if math.isnan(value) else _year(key, int(value))
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadRecord("wrong-type", f"'{key}' is {_kind(value)} instead of a whole number")
    if not -10_000 < value <= LAST_YEAR:
        raise BadRecord("wrong-type", f"'{key}' is no year")
    return value


def _extra(record: Mapping[str, Any], retrieved: object) -> str | None:
    """What no column holds, as JSON: a field that this version does not know, and a `retrieved` that is no date."""
    given = record.get("extra")
    if retrieved is None and record.keys() <= KNOWN:
        kept = given
    else:
        rest = {key: value for key, value in record.items() if key not in KNOWN and value is not None}
        rest |= {} if retrieved is None else {"retrieved": str(retrieved)}
        if given is not None and rest:
            rest = {**given, **rest} if isinstance(given, Mapping) else {"extra": given, **rest}
        kept = rest or given
    if kept is None:
        return None
    try:
        text = _ENCODER.encode(kept)
    except (TypeError, ValueError, RecursionError):
        raise BadRecord("wrong-type", "'extra' is not plain JSON data") from None
    _encoded("extra", text)
    return text


def _domain(url: str | None) -> str | None:
    if not url:
        return None
    plain = _HOST.match(url)  # nearly all; urlsplit takes ten times as long
    if plain:
        return plain[1]
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _kind(value: object) -> str:
    names = {bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), f"of type {type(value).__name__}")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise BadRecord("duplicate-key", "a key is given twice")
    return record


_DECODER = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_unique_keys)
