"""The record of a withdrawal: one add-only file for each, which every later build reads.

    <store>/withdrawals/<day>-<id>.json     an in-toto Statement v1; its subject is the SHA-256 of its own predicate

A request about personal data is kept as salted hashes only: no name, address or title stands in its file. A salted hash
keeps a name from being read and from being searched for. It does not keep it from whoever has the name already and
tries it: the file stays personal data (Regulation (EU) 2016/679, recital 26).
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from hanse.errors import InputError
from hanse.store import disk
from hanse.store.criteria import Criteria
from hanse.store.digest import canonical_json, sha256_file, sha256_text

FOLDER = "withdrawals"
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "urn:hanse:withdrawal:v1"
PERSONAL = "personal-data"
REASONS = ("opt-out", "licence", PERSONAL, "court", "other")
#: Who asked, as a class. A name has no place here, so there is no free text.
REQUESTERS = ("", "author", "rights-holder", "publisher", "site", "person", "authority", "court", "lab")
#: What a document can be withdrawn by. A file and a line say where a text was read, and mean another one tomorrow.
FIELDS = ("id", "url", "domain", "author", "title", "source", "licence", "language")
LONGEST_EVIDENCE = 2000  # characters
_FILE_NAME = re.compile(
    r"\.(asc|docx?|eml|html?|jpe?g|json|md|msg|odt|p7m|pdf|png|rtf|tiff?|txt|xml|zip)$", re.IGNORECASE
)
_NAME = re.compile(r"(\d{4}-\d{2}-\d{2})-([0-9a-f]{12})\.json")
_HEX = re.compile(r"[0-9a-f]{64}")
_SIZED = re.compile(r"[1-9][0-9]{0,5}:[0-9a-f]{64}")
_KEYS = (
    "id", "received", "effective", "reason", "requester", "evidence", "criteria", "copies", "documents", "salt",
    "hashes", "found",
)  # fmt: skip


@dataclass(frozen=True)
class Withdrawal:
    """That documents have to be left out from now on.

    Attributes:
        id: 12 hex digits.
        received: the day on which the request came, ISO 8601.
        effective: the day on which it was recorded; builds that begin later leave the documents out.
        reason: one of REASONS.
        evidence: a text, or `sha256:` and the digest of a file; empty where there is none.
        requester: one of REQUESTERS; empty where nobody said.
        criteria: fields of `hanse.store.criteria.Criteria`, all of which have to hold; empty for personal data.
        documents: ids that were found in the store, and copies that a person confirmed; empty for personal data.
        copies: whether near-copies of these documents are meant too, those of later builds included.
        salt: of the hashes, 32 hex digits; empty where there are none.
        hashes: for personal data, by field: what the criteria have to be, as `<size>:<SHA-256>` (see `hash_of`); and
            under `documents` the SHA-256 of each id.
        found: documents kept in each artifact at that time, by `kind/name/version`.
        digest: SHA-256 of the file; empty before it is written.
    """

    id: str
    received: str
    effective: str
    reason: str
    evidence: str = ""
    requester: str = ""
    criteria: Mapping[str, str] = field(default_factory=dict)
    documents: tuple[str, ...] = ()
    copies: bool = False
    salt: str = ""
    hashes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    found: Mapping[str, int] = field(default_factory=dict)
    digest: str = ""

    @property
    def file_name(self) -> str:
        """`<day>-<id>.json`."""
        return f"{self.effective}-{self.id}.json"

    @property
    def is_personal(self) -> bool:
        """Whether it is kept as hashes only."""
        return self.reason == PERSONAL

    def as_dict(self) -> dict[str, Any]:
        """JSON values: the predicate of the statement, and the digest of the file."""
        return {**self.predicate(), "digest": self.digest}

    def predicate(self) -> dict[str, Any]:
        """What the statement says."""
        told = {name: getattr(self, name) for name in _KEYS}
        for name in ("criteria", "found"):
            told[name] = dict(told[name])
        told["documents"] = list(self.documents)
        told["hashes"] = {name: list(values) for name, values in self.hashes.items()}
        return told


# --------------------------------------------------------------------------- making one


def draft(
    criteria: Mapping[str, str],
    *,
    reason: str,
    received: str = "",
    evidence: str = "",
    requester: str = "",
    copies: bool = False,
) -> Withdrawal:
    """A withdrawal as a person asks for it, still in clear.

    Args:
        criteria: values by FIELDS; at least one.
        received: ISO day; today if empty.
        evidence: a text, or the path of a file, of which the digest is kept.

    Raises:
        InputError: nothing or something empty to look for, an unknown reason or requester, a day that is none or not
            over yet, or evidence that cannot be read or is the name of a file that is not there.
    """
    unknown = [name for name in criteria if name not in FIELDS]
    if unknown:
        raise InputError(f"--{unknown[0]}: nothing is withdrawn by that; known: {', '.join(FIELDS)}.")
    if not criteria:
        raise InputError(f"nothing to withdraw; give one or more of --{', --'.join(FIELDS)}.")
    for name, value in {**criteria, "evidence": evidence}.items():
        if "\0" in value or any(0xD800 <= ord(sign) <= 0xDFFF for sign in value):
            raise InputError(f"--{name}: is no Unicode text; write it in UTF-8.")
    Criteria(**criteria)  # type: ignore[arg-type]
    for name in ("author", "title", "domain"):
        if name in criteria and not normalised(name, criteria[name]):
            raise InputError(f"--{name} {criteria[name]}: holds no letter; say what to look for.")
    if reason not in REASONS:
        raise InputError(f"--reason {reason}: give one of {', '.join(REASONS)}.")
    if requester not in REQUESTERS:
        raise InputError(f"--requester {requester}: give a class, never a name: {', '.join(REQUESTERS[1:])}.")
    today = datetime.now(UTC).date().isoformat()
    day = received or today
    if not is_day(day):
        raise InputError(f"--received {day}: is no day; write it as {today}.")
    if day > today:
        raise InputError(f"--received {day}: is in the future; today is {today} (UTC).")
    return Withdrawal(
        id=secrets.token_hex(6), received=day, effective=today, reason=reason, requester=requester,
        evidence=_evidence(evidence, is_personal=reason == PERSONAL), criteria=dict(criteria), copies=copies,
    )  # fmt: skip


def sealed(
    asked: Withdrawal, documents: Iterable[str], found: Mapping[str, int], known: Sequence[Withdrawal]
) -> Withdrawal:
    """A draft with what it found; for personal data everything in clear is replaced by hashes.

    Args:
        asked: of `draft`.
        documents: ids that are meant.
        found: documents kept, by artifact.
        known: what the store holds already; one salt serves all of a store, so that a large table is hashed once.
    """
    ids = tuple(sorted(set(documents)))
    if not asked.is_personal:
        return replace(asked, documents=ids, found=dict(found))
    salt = next((each.salt for each in known if each.salt), "") or secrets.token_hex(16)
    hashes: dict[str, tuple[str, ...]] = {
        name: (sized_hash(salt, name, value),) for name, value in asked.criteria.items()
    }
    hashes["documents"] = tuple(sorted(hash_of(salt, "documents", each) for each in ids))
    return replace(asked, criteria={}, documents=(), salt=salt, hashes=hashes, found=dict(found))


def repeats(asked: Withdrawal, known: Iterable[Withdrawal]) -> Withdrawal | None:
    """A withdrawal in the store that means the same already, or None."""
    for each in known:
        if each.copies < asked.copies:
            continue
        if each.is_personal:
            own = {name: (sized_hash(each.salt, name, value),) for name, value in asked.criteria.items()}
            is_same = own == {name: values for name, values in each.hashes.items() if name != "documents"}
        else:
            is_same = dict(each.criteria) == dict(asked.criteria) and not asked.is_personal
        if is_same:
            return each
    return None


def normalised(name: str, value: str) -> str:
    """What of a value counts when hashes are compared.

    Of an author or a title the words, without case (Unicode NFKC and full case folding); of a domain its name in lower
    case, as IDNA where it has one; of anything else every character.
    """
    if name in ("author", "title"):
        return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", value).casefold()))
    if name == "domain":
        plain = value.strip().strip(".").lower()
        try:
            return plain.encode("idna").decode("ascii")
        except UnicodeError:
            return plain
    return value


def sized_hash(salt: str, name: str, value: str) -> str:
    """`<size>:<SHA-256>` of a value: hashes have no beginning and no parts, so the size says which part to hash.

    The size is in words of an author or title, labels of a domain, and characters of anything else.
    """
    plain = normalised(name, value)
    size = plain.count(" ") + 1 if name in ("author", "title") else plain.count(".") + 1
    return f"{size if name in ('author', 'title', 'domain') else len(plain)}:{hash_of(salt, name, plain)}"


def hash_of(salt: str, name: str, plain: str) -> str:
    """SHA-256 over salt, field and normalised value, 64 hex digits."""
    return hashlib.sha256(f"{salt}\0{name}\0{plain}".encode()).hexdigest()


def _evidence(given: str, *, is_personal: bool) -> str:
    path = Path(given) if given and len(given) < 4096 and "\0" not in given else None
    try:
        if path is not None and path.is_file():
            return f"sha256:{sha256_file(path)}"
    except OSError as error:
        if error.filename and path is not None and path.exists():
            raise InputError(f"--evidence {given}: cannot be read ({error.strerror}).") from None
    if _FILE_NAME.search(given) and "://" not in given:  # a name is no evidence, and the record is never edited
        raise InputError(f"--evidence {given}: there is no such file; correct the path, or say it in a sentence.")
    if is_personal and given:
        return f"sha256:{sha256_text(given)}"
    if len(given) > LONGEST_EVIDENCE:
        raise InputError(f"--evidence: is {len(given)} characters long; put it into a file and name that.")
    return given


# --------------------------------------------------------------------------- writing and reading


def write(root: Path, withdrawal: Withdrawal) -> Withdrawal:
    """Put a withdrawal into a store, whole or not at all. Returns it with the digest of its file.

    Raises:
        InputError: no room, or no right to write.
    """
    predicate = withdrawal.predicate()
    subject = {"name": f"withdrawal/{withdrawal.id}", "digest": {"sha256": sha256_text(canonical_json(predicate))}}
    statement = {"_type": STATEMENT, "subject": [subject], "predicateType": PREDICATE, "predicate": predicate}
    content = (json.dumps(statement, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
    _parse(content)  # what could not be read back must not be written
    place = root / FOLDER / withdrawal.file_name
    disk.write_whole(place, content, root=root, what="a withdrawal")
    return replace(withdrawal, digest=hashlib.sha256(content).hexdigest())


def read(root: Path) -> tuple[Withdrawal, ...]:
    """Every withdrawal of a store, oldest first. No clock is asked: a file means the same on every day.

    Raises:
        InputError: a file that cannot be read, was changed, or contradicts itself, its name or another one; names it.
    """
    folder = root / FOLDER
    try:
        names = sorted(each.name for each in folder.iterdir() if each.name.endswith(".json") and each.name[0] != ".")
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror}).") from None
    found: dict[str, Withdrawal] = {}
    for name in names:
        each = _read_one(folder / name)
        if each.id in found:
            raise InputError(
                f"{folder / name}: has the id of {found[each.id].file_name}; remove the one that is false."
            )
        found[each.id] = each
    return tuple(found.values())


def is_day(text: str) -> bool:
    """Whether this is a day of the calendar as ISO 8601 writes it."""
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _read_one(path: Path) -> Withdrawal:
    try:
        content = path.read_bytes()
        found = _parse(content)
        if found.file_name != path.name:
            raise ValueError(f"it says that it is {found.file_name}")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from None
    except (InputError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        told = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path}: is no withdrawal as it was written ({told}); these files are never edited: restore it, since "
            "without it documents would come back."
        ) from None
    return found


def _parse(content: bytes) -> Withdrawal:
    """The withdrawal of a file. Raises ValueError, LookupError or TypeError for anything else."""
    statement = json.loads(content.decode("utf-8"), object_pairs_hook=_unique)
    predicate = statement["predicate"]
    if statement["_type"] != STATEMENT or statement["predicateType"] != PREDICATE:
        raise ValueError("it is a statement of another type")
    (subject,) = statement["subject"]
    if subject["digest"]["sha256"] != sha256_text(canonical_json(predicate)):
        raise ValueError("it was changed: its content is not the one that its digest is of")
    if set(predicate) != set(_KEYS):
        raise ValueError(f"its keys are not {', '.join(_KEYS)}")
    if subject["name"] != f"withdrawal/{predicate['id']}":
        raise ValueError("its subject is another one")
    made = Withdrawal(
        **{
            **predicate,
            "documents": tuple(predicate["documents"]),
            "hashes": {name: tuple(values) for name, values in predicate["hashes"].items()},
        },
        digest=hashlib.sha256(content).hexdigest(),
    )
    _check(made)
    return made


def _check(made: Withdrawal) -> None:
    """Refuse values that no withdrawal holds, and such as contradict each other."""
    texts = (made.id, made.received, made.effective, made.reason, made.evidence, made.requester, made.salt)
    lists = (made.criteria.values(), made.documents, *made.hashes.values())
    if not all(isinstance(each, str) for each in (*texts, *(each for values in lists for each in values))):
        raise ValueError("a value is not text")
    if not isinstance(made.copies, bool) or not all(type(count) is int and count >= 0 for count in made.found.values()):
        raise ValueError("'copies' or 'found' is of another type")
    if _NAME.fullmatch(made.file_name) is None or not is_day(made.received) or not is_day(made.effective):
        raise ValueError("its id or one of its days is none")
    if made.received > made.effective:
        raise ValueError(f"it was received on {made.received}, after it took effect on {made.effective}")
    if made.reason not in REASONS or made.requester not in REQUESTERS:
        raise ValueError("its reason or requester is unknown")
    if made.is_personal:
        fields = {name: values for name, values in made.hashes.items() if name != "documents"}
        if made.criteria or made.documents or not re.fullmatch("[0-9a-f]{32}", made.salt):
            raise ValueError("it is about personal data, of which only salted hashes are kept")
        if not all(_HEX.fullmatch(each) for each in made.hashes["documents"]) or not all(
            _SIZED.fullmatch(each) for values in fields.values() for each in values
        ):
            raise ValueError("a hash is none")
    else:
        fields = {name: (value,) for name, value in made.criteria.items()}
        if made.hashes or made.salt:
            raise ValueError("it is not about personal data, and holds hashes")
        if fields:
            Criteria(**made.criteria)  # type: ignore[arg-type]
    if not fields or not set(fields) <= set(FIELDS):
        raise ValueError(f"it is by something else than {', '.join(FIELDS)}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is given twice")
    return found
