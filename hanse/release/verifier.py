#!/usr/bin/env python3
"""Check a released model: every file, the signature, and the chain of records down to the documents.

    python verify.py [FOLDER] [--key PUBLIC_KEY.pem]

Needs Python 3.11 and the package `cryptography`; no network, nothing of Hanse. Ends with 0 when everything holds, with
1 when anything does not, and names each file that changed, is missing or was added.

Whoever could replace the model could replace this file too. Trust comes from outside the folder: a copy of this program
that you had before, and the signer's public key (`--key`) or its fingerprint from a place that you trust.

What is checked, in this order:
  SHA256SUMS   each file's digest (coreutils format; `sha256sum -c SHA256SUMS` does this part too)
  step.json    the release's own record: an in-toto Statement v1 with SLSA provenance v1
  provenance/  every ancestor's record; each is named, with its digest, by the record of what was made from it
  model.sig    OpenSSF Model Signing v1.0: a signature by an ECDSA P-256 key over the digests of all files
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import re
import stat
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

SUMS, RECORD, SIGNATURE, PUBLIC_KEY, PROVENANCE = (
    "SHA256SUMS",
    "step.json",
    "model.sig",
    "signing-key.pub",
    "provenance",
)
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PROVENANCE_TYPE = "https://slsa.dev/provenance/v1"
SIGNATURE_TYPE = "https://model_signing/signature/v1.0"
BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
#: What a clone or a model hub lays beside the files; the reference verifier leaves the same out.
IGNORED = (".git", ".gitattributes", ".github", ".gitignore")
#: Text files are read whole; a larger one is an attack or an accident.
LARGEST_TEXT_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class Problem:
    """One thing that does not hold: the file, and what is wrong with it."""

    path: str
    what: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


@dataclass(frozen=True)
class Report:
    """What was found. `notes` say what holds, and what the reader still has to compare."""

    problems: tuple[Problem, ...]
    notes: tuple[str, ...]


class Malformed(Exception):
    """A file is not what its name says."""


def verify(folder: Path, key: Path | None = None) -> Report:
    """Check the release in `folder`. Every byte is read once, in pieces.

    Args:
        folder: the release.
        key: PEM of the P-256 public key that has to have signed. Without it, the key inside the folder is used, which
            shows that nothing broke, not who signed.
    """
    problems: list[Problem] = []
    digests = _hash_all(folder, problems)
    notes = [f"{len(digests)} files read"]
    if SUMS not in digests and SIGNATURE not in digests:
        return Report((Problem(SUMS, "is missing; this folder is no release"),), ())
    records, own = _read_records(folder, digests, problems)
    _check_sums(folder, digests, own, problems)
    if own is not None:
        names = _check_chain(records, own, digests, problems)
        notes.append(f"{len(names)} ancestors on record: {', '.join(sorted(names)) or 'none'}")
    _check_signature(folder, digests, key, problems, notes)
    first = {problem.path: problem for problem in reversed(problems)}
    return Report(tuple(first[path] for path in dict.fromkeys(problem.path for problem in problems)), tuple(notes))


def _hash_all(folder: Path, problems: list[Problem]) -> dict[str, str]:
    """Path -> SHA-256 of each regular file. Links and special files are problems, and never opened."""
    digests = {}
    pending = [""]
    while pending:
        parent = pending.pop()
        for name in sorted(os.listdir(folder / parent)):
            path = f"{parent}/{name}" if parent else name
            if path in IGNORED:
                continue
            mode = (folder / path).lstat().st_mode
            if stat.S_ISDIR(mode):
                pending.append(path)
            elif not _is_plain(path):
                problems.append(Problem(ascii(path), "has a name that no release holds"))
            elif not stat.S_ISREG(mode):
                problems.append(Problem(path, "is a link or a special file"))
            else:
                with (folder / path).open("rb") as stream:
                    digests[path] = hashlib.file_digest(stream, "sha256").hexdigest()
    return digests


def _check_sums(
    folder: Path, digests: Mapping[str, str], own: Mapping[str, Any] | None, problems: list[Problem]
) -> None:
    try:
        expected = _parse_sums(_text(folder, SUMS))
    except (OSError, Malformed) as error:
        problems.append(Problem(SUMS, "is missing" if isinstance(error, FileNotFoundError) else str(error)))
        return
    beside = {SUMS, RECORD, SIGNATURE}
    if own is not None:
        byproducts = own["predicate"]["runDetails"].get("byproducts", [])
        named = {each["name"]: each["digest"]["sha256"] for each in byproducts}
        expected |= {path: digest for path, digest in named.items() if path.startswith("run/")}
    for path in sorted(expected):
        if path not in digests:
            problems.append(Problem(path, "is missing"))
        elif digests[path] != expected[path]:
            problems.append(Problem(path, "changed"))
    problems += [Problem(path, "was added") for path in sorted(digests.keys() - expected.keys() - beside)]


def _read_records(
    folder: Path, digests: Mapping[str, str], problems: list[Problem]
) -> tuple[dict[str, tuple[str, dict[str, Any]]], dict[str, Any] | None]:
    """Ancestors' records by their digest, each with its path; and the release's own."""
    records: dict[str, tuple[str, dict[str, Any]]] = {}
    own = None
    for path in sorted(digests):
        is_ancestor = path.startswith(f"{PROVENANCE}/") and path.endswith(".json")
        if path != RECORD and not is_ancestor:
            continue
        try:
            record = _parse_record(_text(folder, path))
        except (OSError, Malformed) as error:
            problems.append(Problem(path, str(error)))
            continue
        if path == RECORD:
            own = record
        else:
            records[digests[path]] = (path, record)
    if RECORD not in digests:
        problems.append(Problem(RECORD, "is missing"))
    return records, own


def _check_chain(
    records: Mapping[str, tuple[str, dict[str, Any]]],
    own: Mapping[str, Any],
    digests: Mapping[str, str],
    problems: list[Problem],
) -> set[str]:
    """Follow the records from the release upwards. Returns the names of the ancestors that were reached."""
    problems += _check_subjects(RECORD, own)
    if _subjects(own)[0][1] != digests.get(SUMS):
        problems.append(Problem(RECORD, f"is about another {SUMS}"))
    reached: dict[str, str] = {}
    pending: list[tuple[str, Mapping[str, Any]]] = [(RECORD, own)]
    while pending:
        path, record = pending.pop()
        for name, digest, sought in _inputs(record):
            if sought not in records:
                problems.append(Problem(f"{name} (named by {path})", f"has no record with SHA-256 {sought} here"))
                continue
            found_path, found = records[sought]
            if _subjects(found)[0] != (name, digest):
                problems.append(Problem(found_path, f"is not about the {name} that {path} names"))
            if sought not in reached:
                reached[sought] = name
                problems += _check_subjects(found_path, found)
                pending.append((found_path, found))
    for digest in records.keys() - reached.keys():
        problems.append(Problem(records[digest][0], "is named by no other record"))
    _check_contents({name: dict(_subjects(records[d][1])) for d, name in reached.items()}, own, digests, problems)
    return set(reached.values())


def _check_contents(
    subjects: Mapping[str, Mapping[str, str]],
    own: Mapping[str, Any],
    digests: Mapping[str, str],
    problems: list[Problem],
) -> None:
    """What the release copied from its ancestors has to be what their records are about."""
    for name, _, _ in _inputs(own):
        for path, digest in subjects.get(name, {}).items():
            if name.startswith("model/") and path in digests and digests[path] != digest:
                problems.append(Problem(path, f"is not the one that {name} was recorded with"))
    recorded = {digest for files in subjects.values() for digest in files.values()}
    for path, digest in digests.items():
        is_copy = path.startswith(f"{PROVENANCE}/") and not path.endswith(".json")
        if (is_copy or path.startswith("evaluation/")) and digest not in recorded:
            problems.append(Problem(path, "is named by no record"))


def _check_subjects(path: str, record: Mapping[str, Any]) -> list[Problem]:
    """The first subject is the whole: the SHA-256 of the sums over the others."""
    (_, whole), *files = _subjects(record)
    ordered = sorted(files, key=lambda item: item[0].encode("utf-8"))
    text = "".join(f"{digest}  {name}\n" for name, digest in ordered)
    if hashlib.sha256(text.encode("utf-8")).hexdigest() != whole:
        return [Problem(path, "contradicts itself: its files do not add up to its subject")]
    return []


def _check_signature(
    folder: Path, digests: Mapping[str, str], key: Path | None, problems: list[Problem], notes: list[str]
) -> None:
    if SIGNATURE not in digests:
        problems.append(Problem(SIGNATURE, "is missing; nobody vouches for this folder"))
        return
    path = key if key is not None else folder / PUBLIC_KEY
    try:
        public_key = load_public_key(path.read_bytes())
    except OSError as error:
        problems.append(Problem(str(path) if key else PUBLIC_KEY, f"cannot be read ({error.strerror})"))
        return
    except Malformed as error:
        problems.append(Problem(str(path) if key else PUBLIC_KEY, str(error)))
        return
    try:
        signed = open_bundle(_text(folder, SIGNATURE), public_key)
    except (OSError, Malformed) as error:
        problems.append(Problem(SIGNATURE, str(error)))
        return
    _compare_signed(signed, digests, problems)
    if key is None:
        notes.append(f"signed by the key with fingerprint {fingerprint(public_key)}")
        notes.append("who signed is open: compare that with the signer's published fingerprint, or use --key")
    else:
        notes.append(f"signed by the key given, fingerprint {fingerprint(public_key)}")


def _compare_signed(signed: Mapping[str, str], digests: Mapping[str, str], problems: list[Problem]) -> None:
    for path in sorted(signed.keys() | digests.keys() - {SIGNATURE}):
        if path not in digests:
            problems.append(Problem(path, "is missing"))
        elif path not in signed:
            problems.append(Problem(path, "was added after signing"))
        elif signed[path] != digests[path]:
            problems.append(Problem(path, "changed after signing"))


def load_public_key(pem: bytes) -> ec.EllipticCurvePublicKey:
    """The P-256 public key in a PEM file. Raises Malformed for anything else."""
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, TypeError) as error:
        raise Malformed(f"is no public key in PEM ({error})") from None
    except Exception as error:  # an algorithm that this build of cryptography does not know
        raise Malformed(f"is no public key that can be used here ({error})") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Malformed("is not a P-256 key")
    return key


def fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """SHA-256 of the key in DER, as `openssl ec -pubin -in KEY -outform DER | sha256sum` prints it."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def key_hint(key: ec.EllipticCurvePublicKey) -> str:
    """What a bundle says about its key: SHA-256 of the key in PEM (OpenSSF Model Signing 1.1)."""
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(pem).hexdigest()


def open_bundle(text: str, key: ec.EllipticCurvePublicKey) -> dict[str, str]:
    """Path -> SHA-256 from a Sigstore bundle v0.3 (OpenSSF Model Signing v1.0), after checking its signature.

    Nothing of the payload is looked at before the signature holds.

    Raises:
        Malformed: another key, a signature that does not hold, or a bundle of another make.
    """
    try:
        bundle = json.loads(text)
        if bundle["mediaType"] != BUNDLE_TYPE or bundle["dsseEnvelope"]["payloadType"] != PAYLOAD_TYPE:
            raise Malformed("is a bundle of another type")
        hint = bundle["verificationMaterial"]["publicKey"].get("hint")
        if hint and hint != key_hint(key):
            raise Malformed(f"was made with another key than the one with fingerprint {fingerprint(key)}")
        payload = base64.b64decode(bundle["dsseEnvelope"]["payload"], validate=True)
        (signature,) = bundle["dsseEnvelope"]["signatures"]
        key.verify(base64.b64decode(signature["sig"], validate=True), encode(payload), ec.ECDSA(hashes.SHA256()))
        return _signed_digests(json.loads(payload))
    except InvalidSignature:
        raise Malformed(f"does not hold under the key with fingerprint {fingerprint(key)}") from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise Malformed(f"is no signature bundle ({type(error).__name__}: {error})") from None


def encode(payload: bytes) -> bytes:
    """DSSE v1 pre-authentication encoding: what is really signed."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def _signed_digests(statement: Mapping[str, Any]) -> dict[str, str]:
    if statement["_type"] != STATEMENT_TYPE or statement["predicateType"] != SIGNATURE_TYPE:
        raise Malformed("holds a statement of another type")
    predicate = statement["predicate"]
    how = predicate["serialization"]
    if how["method"] != "files" or how["hash_type"] != "sha256" or how.get("allow_symlinks"):
        raise Malformed("was made over something else than files by SHA-256")
    if not set(how.get("ignore_paths", ())) <= {SIGNATURE, *IGNORED}:
        raise Malformed("leaves out files that a release signs")
    resources = predicate["resources"]
    signed = {each["name"]: each["digest"] for each in resources}
    if len(signed) != len(resources) or not all(_is_plain(name) for name in signed):
        raise Malformed("names a file twice, or one outside the folder")
    root = hashlib.sha256(b"".join(bytes.fromhex(each["digest"]) for each in resources)).hexdigest()
    (subject,) = statement["subject"]
    if subject["digest"]["sha256"] != root or any(each["algorithm"] != "sha256" for each in resources):
        raise Malformed("contradicts itself: its files do not add up to its subject")
    return signed


def _parse_sums(text: str) -> dict[str, str]:
    digests: dict[str, str] = {}
    if not text.endswith("\n"):
        raise Malformed("its last line is cut off")
    for number, line in enumerate(text[:-1].split("\n"), start=1):
        match = re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line)
        if match is None or not _is_plain(match[2]) or match[2] in digests:
            raise Malformed(f"line {number} is not '<sha256>  <path>', repeats a path, or leads out of the folder")
        digests[match[2]] = match[1]
    return digests


def _parse_record(text: str) -> dict[str, Any]:
    try:
        record = json.loads(text)
        if record["_type"] != STATEMENT_TYPE or record["predicateType"] != PROVENANCE_TYPE:
            raise Malformed("is not an in-toto Statement v1 with SLSA provenance v1")
        texts = [part for item in (*_subjects(record), *_inputs(record)) for part in item]
        byproducts = record["predicate"]["runDetails"].get("byproducts", [])
        texts += [part for each in byproducts for part in (each["name"], each["digest"]["sha256"])]
        if not _subjects(record) or not all(isinstance(part, str) for part in texts):
            raise Malformed("is no record of a step: a name or digest is not text")
        return dict(record)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise Malformed(f"is no record of a step ({type(error).__name__}: {error})") from None


def _subjects(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(each["name"], each["digest"]["sha256"]) for each in record["subject"]]


def _inputs(record: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Name, digest, and digest of the record, of each input."""
    found = record["predicate"]["buildDefinition"]["resolvedDependencies"]
    return [(each["name"], each["digest"]["sha256"], each["annotations"]["record"]) for each in found]


def _is_plain(path: str) -> bool:
    """Whether a path stays inside the folder and reads the same in every tool."""
    is_clean = all(ord(sign) >= 32 and ord(sign) != 127 and not 0xD800 <= ord(sign) <= 0xDFFF for sign in path)
    return is_clean and "\\" not in path and all(part not in ("", ".", "..") for part in path.split("/"))


def _text(folder: Path, path: str) -> str:
    if (folder / path).stat().st_size > LARGEST_TEXT_BYTES:
        raise Malformed(f"is larger than {LARGEST_TEXT_BYTES} bytes")
    try:
        return (folder / path).read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        raise Malformed("is not UTF-8 text") from None


def main(arguments: Iterable[str] | None = None) -> int:
    """Check the folder named on the command line. Returns 0 when everything holds, else 1."""
    parser = argparse.ArgumentParser(description="Check a released model: files, records, signature.")
    here = Path(__file__).resolve().parent
    parser.add_argument(
        "folder", nargs="?", type=Path, default=here, help="the release (default: where this file lies)"
    )
    parser.add_argument("--key", type=Path, metavar="PEM", help="the public key that has to have signed")
    options = parser.parse_args(None if arguments is None else list(arguments))
    if not options.folder.is_dir():
        print(f"verify: {options.folder}: no such folder", file=sys.stderr)
        return 1
    try:
        report = verify(options.folder, options.key)
    except OSError as error:
        print(f"verify: {error.filename}: cannot be read ({error.strerror})", file=sys.stderr)
        return 1
    for problem in report.problems:
        print(problem)
    print(f"{options.folder}: {'DOES NOT HOLD' if report.problems else 'holds'}")
    for note in report.notes:
        print(f"  {note}")
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
