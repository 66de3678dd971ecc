"""Signing a release in the OpenSSF Model Signing (OMS) v1.0 format, with `cryptography` alone.

`model.sig` is a Sigstore bundle v0.3 around a DSSE envelope around an in-toto Statement v1 that lists the SHA-256 of
every file. The reference tool verifies it offline: `model_signing verify key FOLDER --signature FOLDER/model.sig
--public_key signing-key.pub`. Writing it ourselves spares some thirty packages.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from hanse.errors import InputError
from hanse.release import verifier


def default_key_path() -> Path:
    """Where the signing key of this person lives when a recipe names none: outside every store and repository."""
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser() / "hanse" / "signing-key.pem"


def load_or_create_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The P-256 private key in the PEM file at `path`; made, for its owner's eyes only, where there is none.

    Raises:
        InputError: the file is no unencrypted P-256 key, others may read it, or it cannot be made.
    """
    try:
        pem = path.read_bytes()
        mode = path.stat().st_mode
    except FileNotFoundError:
        return _create_key(path)
    except OSError as error:
        raise InputError(f"{path}: the signing key cannot be read ({error.strerror}).") from None
    if mode & 0o077:
        raise InputError(f"{path}: others may read this signing key; run: chmod 600 {path}")
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except TypeError:
        raise InputError(f"{path}: the signing key has a passphrase; give one without, readable by you only.") from None
    except ValueError:
        raise InputError(f"{path}: is no private key in PEM; name another file in [release] key.") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InputError(f"{path}: is not a P-256 key; name another file in [release] key, or none to have one made.")
    return key


def public_pem(key: ec.EllipticCurvePrivateKey) -> str:
    """The public half in PEM, to publish."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form).decode("ascii")


def fingerprint(key: ec.EllipticCurvePrivateKey) -> str:
    """SHA-256 of the public half in DER, 64 hex digits: what to publish elsewhere, for people to compare."""
    return verifier.fingerprint(key.public_key())


def bundle(digests: Mapping[str, str], *, name: str, key: ec.EllipticCurvePrivateKey) -> str:
    """The text of `model.sig`.

    Args:
        digests: path -> SHA-256 of each file of the folder, without the signature itself.
        name: what the signature calls the model; the folder may be renamed freely.
        key: a P-256 key.
    """
    paths = sorted(digests, key=lambda path: PurePosixPath(path).parts)
    root = hashlib.sha256(b"".join(bytes.fromhex(digests[path]) for path in paths)).hexdigest()
    statement = {
        "_type": verifier.STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": root}}],
        "predicateType": verifier.SIGNATURE_TYPE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": [*verifier.IGNORED, verifier.SIGNATURE],
            },
            "resources": [{"name": path, "algorithm": "sha256", "digest": digests[path]} for path in paths],
        },
    }
    payload = json.dumps(statement, indent=1, ensure_ascii=False).encode("utf-8")
    signature = key.sign(verifier.encode(payload), ec.ECDSA(hashes.SHA256()))
    envelope = {
        "payload": base64.b64encode(payload).decode("ascii"),
        "payloadType": verifier.PAYLOAD_TYPE,
        "signatures": [{"sig": base64.b64encode(signature).decode("ascii"), "keyid": ""}],
    }
    material = {"publicKey": {"hint": verifier.key_hint(key.public_key())}, "tlogEntries": []}
    return json.dumps(
        {"mediaType": verifier.BUNDLE_TYPE, "verificationMaterial": material, "dsseEnvelope": envelope}, indent=1
    )


def _create_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(pem)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise InputError(f"{path}: a signing key cannot be made there ({error.strerror}); set [release] key.") from None
    return key
