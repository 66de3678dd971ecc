"""What a document is: one fixed Arrow schema, and the strict check that turns a record into a row of it.

Engines that infer schemas lose data without a word (a year column that is null in the first file stays null in all),
so nothing here is inferred: a value of another type is a fault, and the record goes to quarantine.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa

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
    ("rights_holder", pa.string()),
    ("reservation", pa.string()),  # none, reserved or unknown
    ("author", pa.string()),
    ("title", pa.string()),
    ("year", pa.int32()),
    ("extra", pa.string()),  # everything else the record held, as JSON
]
# What curation adds.
ANNOTATIONS = [
    ("ordinal", pa.int64()),  # position in reading order, over all sources
    ("bytes", pa.int64()),  # of the text in UTF-8
    ("characters", pa.int64()),
    ("lang", pa.string()),  # as identified
    ("lang_score", pa.float32()),  # probability of `lang`
    ("cluster", pa.string()),  # documents with the same text carry the same cluster
    ("flags", pa.list_(pa.string())),  # worth knowing, no reason to drop
    ("drop_reason", pa.list_(pa.string())),  # empty: kept
]

INGEST = pa.schema([("text", pa.string()), ("rank", pa.int64()), *ORIGIN, *ANNOTATIONS])
DOCUMENTS = pa.schema([*ORIGIN, *ANNOTATIONS, ("split", pa.string())])
TEXT = pa.schema([(name, pa.string()) for name in ("id", "text", "language", "source")])

OPTIONAL_STRINGS = (
    "id", "language", "source", "url", "retrieved", "licence", "licence_basis", "rights_holder", "reservation",
    "author", "title",
)  # fmt: skip
KNOWN = frozenset((*OPTIONAL_STRINGS, "text", "year", "extra"))


class BadRecord(Exception):
    """A record that cannot become a document. `reason` is one word for counting, `detail` a phrase for people."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Defaults:
    """What stands in for a field that a record leaves out; from the recipe's [[source]]."""

    source: str
    licence: str | None = None
    licence_basis: str = "unknown"
    rights_holder: str = ""
    reservation: str = "unknown"


def parse_line(line: bytes) -> object:
    """The JSON value on one line.

    Raises:
        BadRecord: not UTF-8, not JSON (RFC 8259: no NaN, no infinity), nested too deeply, or a key given twice.
    """
    try:
        return json.loads(line.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_unique_keys)
    except UnicodeDecodeError as error:
        raise BadRecord("not-utf8", f"byte {error.start + 1} is not UTF-8") from None
    except RecursionError:
        raise BadRecord("not-json", "the line is not JSON: nested too deeply") from None
    except ValueError as error:
        raise BadRecord("not-json", f"the line is not JSON: {error}") from None


def check_record(record: object, defaults: Defaults) -> dict[str, Any]:
    """The text and ORIGIN fields of one document, without `file` and `line`; defaults fill what is left out.

    Raises:
        BadRecord: no object, no text, no licence, a value of a wrong type, NUL, or a lone surrogate.
    """
    if not isinstance(record, Mapping):
        raise BadRecord("not-an-object", "the line is JSON, but not an object")
    text = record.get("text")
    if text is None:
        raise BadRecord("text-missing", "'text' is missing")
    if not isinstance(text, str):
        raise BadRecord("wrong-type", f"'text' is {_kind(text)} instead of a string")
    fields = {key: _string(record, key) for key in OPTIONAL_STRINGS}
    licence = fields["licence"] or defaults.licence
    if not licence:
        hint = " (there is 'license'; the field is 'licence')" if "license" in record else ""
        raise BadRecord("licence-missing", f"'licence' is missing{hint}")
    _check_characters("text", text)
    reservation = fields["reservation"] or defaults.reservation
    return {
        "id": document_id(text),
        "text": text,
        "source_id": fields["id"],
        "language": language_code(fields["language"]),
        "source": defaults.source,
        "collection": fields["source"] or defaults.source,
        "url": fields["url"],
        "domain": _domain(fields["url"]),
        "retrieved": fields["retrieved"],
        "licence": licence.strip(),
        "licence_basis": fields["licence_basis"] or defaults.licence_basis,
        "rights_holder": fields["rights_holder"] or defaults.rights_holder or None,
        # Evidence that cannot be read is no evidence, in either direction.
        "reservation": reservation if reservation in ("none", "reserved") else "unknown",
        "author": fields["author"],
        "title": fields["title"],
        "year": _year(record.get("year")),
        "extra": _extra(record),
    }


def normalised(text: str) -> str:
    """The text as compared with others: Unicode NFC, every run of white space one blank, none at the ends."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def document_id(text: str) -> str:
    """First 128 bits of SHA-256 over the normalised text, as 32 hex digits."""
    return hashlib.sha256(normalised(text).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def language_code(tag: str | None) -> str | None:
    """ISO 639-1 code of a BCP 47 tag: "de-AT" is "de". Bare Norwegian ("no") is Bokmål, as CLDR has it."""
    if not tag or not tag.strip():
        return None
    code = tag.strip().replace("_", "-").split("-")[0].lower()
    return "nb" if code == "no" else code


def _string(record: Mapping[str, Any], key: str) -> str | None:
    value = record.get(key)
    if value is None:
        return None
    if key == "id" and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if key == "retrieved" and isinstance(value, datetime.date):  # a Parquet column of dates
        return value.isoformat()
    if not isinstance(value, str):
        raise BadRecord("wrong-type", f"'{key}' is {_kind(value)} instead of a string")
    _check_characters(key, value)
    return value


def _check_characters(key: str, value: str) -> None:
    if "\0" in value:
        raise BadRecord("nul-character", f"'{key}' holds the character NUL")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise BadRecord("lone-surrogate", f"'{key}' holds half of a surrogate pair") from None


def _year(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, float) and (math.isnan(value) or value.is_integer()):
        # pandas turns a column of whole numbers into floats as soon as one is missing
        return None if math.isnan(value) else _year(int(value))
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadRecord("wrong-type", f"'year' is {_kind(value)} instead of a whole number")
    if not -10_000 < value < 10_000:
        raise BadRecord("wrong-type", "'year' is no year")
    return value


def _extra(record: Mapping[str, Any]) -> str | None:
    """What no column holds, as JSON. A field that this version does not know is kept here, not lost."""
    given = record.get("extra")
    rest = {key: value for key, value in record.items() if key not in KNOWN and value is not None}
    if given is not None and rest:
        rest = {**given, **rest} if isinstance(given, Mapping) else {"extra": given, **rest}
    kept = rest or given
    if kept is None:
        return None
    try:
        text = json.dumps(kept, ensure_ascii=False, sort_keys=True)
    except (TypeError, ValueError, RecursionError):
        raise BadRecord("wrong-type", "'extra' is not plain JSON data") from None
    _check_characters("extra", text)
    return text


def _domain(url: str | None) -> str | None:
    try:
        return urlsplit(url).hostname if url else None
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
