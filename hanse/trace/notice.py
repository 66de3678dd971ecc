"""Signed notices beside releases that hold what was withdrawn later.

A release is never changed, so a notice lies outside its folder:

    <store>/notices/release~<name>~<version>/NOTICE-<withdrawal>.json

It is made like `model.sig`: a Sigstore bundle v0.3 around a DSSE envelope around an in-toto Statement v1, by the key
that signed the release. Whoever publishes the release publishes the notice with it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from hanse.release import sign, verifier
from hanse.store import disk
from hanse.store import record as records
from hanse.store.digest import SUMS, sha256_file
from hanse.store.stage import Artifact, Store
from hanse.trace.withdrawal import Withdrawal

FOLDER = "notices"
PREDICATE = "urn:hanse:notice:v1"
TEXT = (
    "Documents that went into this release were withdrawn after it was made. Its weights were trained on them; they "
    "are named here, and not cleaned. Versions that are built from now on are made without these documents."
)
KINDS = ("dataset", "conversations")


@dataclass(frozen=True)
class Affected:
    """A release that holds withdrawn documents.

    Attributes:
        documents: how many, by withdrawal id.
    """

    release: Artifact
    documents: Mapping[str, int]


@dataclass(frozen=True)
class Beside:
    """A notice beside a release: its file, what it says in a line, and what is wrong with it, empty if nothing."""

    path: Path
    says: str
    problem: str


def affected(store: Store, withdrawals: Sequence[Withdrawal]) -> list[Affected]:
    """The releases of a store that were made from documents that are meant.

    Where a dataset is gone, the table that the release carries answers for it.

    Raises:
        InputError: a table cannot be read.
    """
    from hanse.trace import leaving

    counted: dict[str, dict[str, int]] = {}

    def count(name: str, read: leaving.Read) -> dict[str, int]:
        if name not in counted:
            counted[name] = leaving.held(read, withdrawals)
        return counted[name]

    found = []
    for release in [each for each in store.artifacts() if each.kind == "release"] if withdrawals else []:
        totals: dict[str, int] = {}
        above = [ref for ref in store.ancestors(release.ref) if ref.split("/")[0] in KINDS]
        there = [ref for ref in above if store.folder(ref).is_dir()]
        parts = [count(ref, partial(leaving.tables, store.find(ref))) for ref in there]
        if any(ref.startswith("dataset/") for ref in above if ref not in there):
            own = sorted((release.path / verifier.PROVENANCE).glob("documents*.parquet"))
            parts += [count(str(path), partial(leaving.tables_of, path)) for path in own]
        for part in parts:
            for name, documents in part.items():
                totals[name] = totals.get(name, 0) + documents
        if totals:
            found.append(Affected(release, totals))
    return found


def folder_of(root: Path, ref: str) -> Path:
    """Where the notices of a release lie."""
    return root / FOLDER / ref.replace("/", "~")


def write_missing(
    store: Store, withdrawals: Sequence[Withdrawal], key_path: Path
) -> tuple[list[Path], list[tuple[str, str]]]:
    """Write a notice for each withdrawal and each release it concerns, unless it is there.

    Args:
        key_path: the private key in PEM that signed the releases; none is ever made here.

    Returns:
        New files; and (release, fingerprint of its key) where another key would be needed.

    Raises:
        InputError: a key that cannot be used, a table that cannot be read, or no room.
    """
    made: list[Path] = []
    unsigned: list[tuple[str, str]] = []
    key = sign.load_or_create_key(key_path) if key_path.is_file() else None
    for each in affected(store, withdrawals):
        place = folder_of(store.root, each.release.ref)
        missing = [w for w in withdrawals if w.id in each.documents and not (place / _name(w)).exists()]
        signer = str(records.definition_of(each.release.record).get("signed_by", ""))
        if missing and (key is None or sign.fingerprint(key) != signer):
            unsigned.append((each.release.ref, signer))
            continue
        for withdrawal in missing:
            assert key is not None
            statement = _statement(each.release, withdrawal, each.documents[withdrawal.id])
            _write(place / _name(withdrawal), _bundle(statement, key), store.root)
            made.append(place / _name(withdrawal))
    return made, unsigned


def beside(root: Path, release: Path, key: Path | None = None) -> list[Beside]:
    """The notices beside a release of a store, each checked.

    Args:
        release: its folder.
        key: the public key in PEM that has to have signed; the one in the folder if None.
    """
    place = folder_of(root, "/".join(release.parts[-3:]))
    found = []
    for path in sorted(place.glob("NOTICE-*.json")):
        try:
            public = verifier.load_public_key((key or release / verifier.PUBLIC_KEY).read_bytes())
            statement = open_notice(path.read_text(encoding="utf-8"), public)
            (subject,) = statement["subject"]
            told = statement["predicate"]
            count, about = told["documents"], told["withdrawal"]
            says = f"{count} document{'s' * (count != 1)} of it withdrawn on {about['effective']} ({about['reason']})"
            problem = ""
            if subject["digest"]["sha256"] != sha256_file(release / SUMS):
                problem = "is about another content of this release"
            elif path.name != f"NOTICE-{told['withdrawal']['id']}.json":
                problem = "is about another withdrawal than its name says"
        except OSError as error:
            says, problem = "", f"cannot be read ({error.strerror})"
        except verifier.Malformed as error:
            says, problem = "", str(error)
        except (ValueError, LookupError, TypeError) as error:
            says, problem = "", f"is no notice ({type(error).__name__}: {error})"
        found.append(Beside(path, says, problem))
    return found


def open_notice(text: str, key: ec.EllipticCurvePublicKey) -> dict[str, Any]:
    """The statement of a notice, after checking its signature. Nothing of it is looked at before the signature holds.

    Raises:
        Malformed: another key, a signature that does not hold, or something else than a notice.
    """
    try:
        bundle = json.loads(text)
        envelope = bundle["dsseEnvelope"]
        if bundle["mediaType"] != verifier.BUNDLE_TYPE or envelope["payloadType"] != verifier.PAYLOAD_TYPE:
            raise verifier.Malformed("is a bundle of another type")
        payload = base64.b64decode(envelope["payload"], validate=True)
        (signature,) = envelope["signatures"]
        signed = base64.b64decode(signature["sig"], validate=True)
        key.verify(signed, verifier.encode(payload), ec.ECDSA(hashes.SHA256()))
        statement = json.loads(payload)
        if statement["_type"] != verifier.STATEMENT_TYPE or statement["predicateType"] != PREDICATE:
            raise verifier.Malformed("holds a statement of another type")
        return dict(statement)
    except InvalidSignature:
        raise verifier.Malformed(f"does not hold under the key with fingerprint {verifier.fingerprint(key)}") from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise verifier.Malformed(f"is no notice ({type(error).__name__}: {error})") from None


def _name(withdrawal: Withdrawal) -> str:
    return f"NOTICE-{withdrawal.id}.json"


def _statement(release: Artifact, withdrawal: Withdrawal, documents: int) -> dict[str, Any]:
    """What a notice says. No criteria: those may be a person's name."""
    told = {"id": withdrawal.id, "reason": withdrawal.reason, "effective": withdrawal.effective}
    return {
        "_type": verifier.STATEMENT_TYPE,
        "subject": [{"name": release.ref, "digest": {"sha256": release.digest}}],
        "predicateType": PREDICATE,
        "predicate": {
            "withdrawal": {**told, "received": withdrawal.received, "sha256": withdrawal.digest},
            "documents": documents,
            "issued": datetime.now(UTC).date().isoformat(),
            "text": TEXT,
        },
    }


def _bundle(statement: Mapping[str, Any], key: ec.EllipticCurvePrivateKey) -> str:
    payload = json.dumps(statement, indent=1, ensure_ascii=False).encode("utf-8")
    envelope = {
        "payload": base64.b64encode(payload).decode("ascii"),
        "payloadType": verifier.PAYLOAD_TYPE,
        "signatures": [
            {
                "sig": base64.b64encode(key.sign(verifier.encode(payload), ec.ECDSA(hashes.SHA256()))).decode("ascii"),
                "keyid": "",
            }
        ],
    }
    material = {"publicKey": {"hint": verifier.key_hint(key.public_key())}, "tlogEntries": []}
    told = {"mediaType": verifier.BUNDLE_TYPE, "verificationMaterial": material, "dsseEnvelope": envelope}
    return json.dumps(told, indent=1) + "\n"


def _write(place: Path, text: str, root: Path) -> None:
    disk.write_whole(place, text.encode(), root=root, what="a notice")
