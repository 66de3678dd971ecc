"""The record of a step: an in-toto Statement v1 with a SLSA provenance v1 predicate, in `step.json`.

Its subjects are the artifact and each file of it; its resolved dependencies name each input by digest, and the input's
own record by digest too. So whoever trusts one record can follow it, record by record, down to the documents.

Formats: in-toto attestation framework v1 (Statement), SLSA v1.0 "Provenance"; own fields are prefixed `hanse_`.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import platform
import subprocess
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hanse
from hanse.store.digest import RECORD, RUN, SUMS, fingerprint, plain, sha256_text, sums_text

if TYPE_CHECKING:
    from hanse.store.stage import Artifact

STATEMENT = "https://in-toto.io/Statement/v1"
PROVENANCE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:hanse:stage:{kind}:v1"
#: Versions of what can move numbers; looked up without importing anything.
PACKAGES = ("cryptography", "daft", "numpy", "pyarrow", "safetensors", "tokenizers", "torch")


@dataclass(frozen=True)
class Input:
    """An input as a record names it: the role it played, what it was, and the digest of its own record."""

    role: str
    ref: str
    digest: str
    record: str


def statement(
    ref: str,
    sums: Mapping[str, str],
    *,
    definition: Mapping[str, Any],
    inputs: tuple[Input, ...],
    byproducts: Mapping[str, str],
    facts: Mapping[str, Any],
    started: str,
    seals: tuple[str, ...] = (),
) -> dict[str, Any]:
    """The record of one step.

    Args:
        ref: `kind/name/version`.
        sums: path -> SHA-256 of each file that counts for the artifact's identity.
        definition: what decided the content; plain JSON values.
        inputs: what it was made from.
        byproducts: path -> SHA-256 of the files under `run/`.
        facts: counts and measurements; plain JSON values.
        started: when the step began, RFC 3339.
        seals: signatures that will be written over the record.
    """
    kind = ref.split("/")[0]
    metadata: dict[str, Any] = {
        "invocationId": f"urn:uuid:{uuid.uuid4()}",
        "startedOn": started,
        "finishedOn": now(),
        "hanse_fingerprint": fingerprint(definition, {each.role: each.digest for each in inputs}),
        "hanse_facts": dict(facts),
    }
    if seals:
        metadata["hanse_seals"] = list(seals)
    return {
        "_type": STATEMENT,
        "subject": [_resource(ref, sha256_text(sums_text(sums))), *(_resource(n, d) for n, d in _by_path(sums))],
        "predicateType": PROVENANCE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE.format(kind=kind),
                "externalParameters": dict(definition),
                "internalParameters": where_it_ran(),
                "resolvedDependencies": [
                    _resource(each.ref, each.digest) | {"annotations": {"role": each.role, "record": each.record}}
                    for each in inputs
                ],
            },
            "runDetails": {
                "builder": _builder(),
                "metadata": metadata,
                "byproducts": [_resource(name, digest) for name, digest in _by_path(byproducts)],
            },
        },
    }


def to_text(record: Mapping[str, Any]) -> str:
    """A record as it stands on disk: for people to read, byte for byte what its digest is over."""
    return json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def inputs_of(record: Mapping[str, Any]) -> tuple[Input, ...]:
    """The inputs that a record names. Raises KeyError or TypeError when it is not a record of ours."""
    found = record["predicate"]["buildDefinition"]["resolvedDependencies"]
    return tuple(
        Input(each["annotations"]["role"], each["name"], each["digest"]["sha256"], each["annotations"]["record"])
        for each in found
    )


def definition_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """What decided the content."""
    return dict(record["predicate"]["buildDefinition"]["externalParameters"])


def facts_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Counts and measurements that the step noted."""
    return dict(record["predicate"]["runDetails"]["metadata"].get("hanse_facts", {}))


def fingerprint_of(record: Mapping[str, Any]) -> str:
    """Recomputed from the definition and the inputs, so that it cannot disagree with them."""
    return fingerprint(definition_of(record), {each.role: each.digest for each in inputs_of(record)})


def subjects_of(record: Mapping[str, Any]) -> dict[str, str]:
    """Name -> SHA-256; the first is the artifact, the others are its files."""
    return {each["name"]: each["digest"]["sha256"] for each in record["subject"]}


def byproducts_of(record: Mapping[str, Any]) -> dict[str, str]:
    """Path -> SHA-256 of the files under `run/`."""
    named = record["predicate"]["runDetails"].get("byproducts", [])
    return {each["name"]: each["digest"]["sha256"] for each in named if each["name"].startswith(f"{RUN}/")}


def seals_of(record: Mapping[str, Any]) -> tuple[str, ...]:
    """The signatures that have to lie beside the record."""
    return tuple(record["predicate"]["runDetails"]["metadata"].get("hanse_seals", ()))


def drift(old: Mapping[str, Any], definition: Mapping[str, Any], inputs: Mapping[str, str]) -> list[str]:
    """What changed since a record was made, a line each.

    For example `[pretrain] learning_rate: 0.01 -> 0.02` and `input tokenizer: 3fa9c01b22de -> 81b7702c90aa`.
    """
    lines: list[str] = []
    _compare((), definition_of(old), definition, lines)
    before = {each.role: each.digest for each in inputs_of(old)}
    for role in sorted(before | dict(inputs)):
        if before.get(role) != inputs.get(role):
            shown = [digest[:12] if digest else "none" for digest in (before.get(role), inputs.get(role))]
            lines.append(f"input {role}: {shown[0]} -> {shown[1]}")
    return lines


_ABSENT = object()


def _compare(place: tuple[str, ...], old: Any, new: Any, lines: list[str]) -> None:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*old, *(key for key in new if key not in old)]:
            _compare((*place, key), old.get(key, _ABSENT), new.get(key, _ABSENT), lines)
    elif isinstance(old, list) and isinstance(new, list) and old != new:
        _compare_lists(place, old, new, lines)
    elif old is _ABSENT or new is _ABSENT or plain(old, "old") != plain(new, "new") or type(old) is not type(new):
        lines.append(f"{_label(place)}: {_shown(old)} -> {_shown(new)}")


def _compare_lists(place: tuple[str, ...], old: list[Any], new: list[Any], lines: list[str]) -> None:
    named = [item.get("name") if isinstance(item, Mapping) else None for item in [*old, *new]]
    if all(isinstance(name, str) for name in named) and len(set(named[: len(old)])) == len(old):
        both = [{item["name"]: item for item in side} for side in (old, new)]
        _compare(place, both[0], both[1], lines)
    elif len(old) == len(new) and all(isinstance(item, Mapping | list) for item in [*old, *new]):
        for number, (before, after) in enumerate(zip(old, new, strict=True)):
            _compare((*place, str(number)), before, after, lines)
    else:
        gone, came = [i for i in old if i not in new], [i for i in new if i not in old]
        if len(old) + len(new) > 6 and (gone or came):
            parts = [f"without {_shown(gone)}"] * bool(gone) + [f"with {_shown(came)}"] * bool(came)
            lines.append(f"{_label(place)}: now {' and '.join(parts)}")
        else:
            lines.append(f"{_label(place)}: {_shown(old)} -> {_shown(new)}")


def _label(place: tuple[str, ...]) -> str:
    return place[0] if len(place) == 1 else f"[{place[0]}] {'.'.join(place[1:])}"


def _shown(value: object) -> str:
    if value is _ABSENT:
        return "none"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else text[:117] + "..."


def now() -> str:
    """The time in UTC, RFC 3339, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@functools.cache
def where_it_ran() -> dict[str, Any]:
    """The machine and software of this process. No host or user name: a record is published with its release."""
    packages = {}
    for package in PACKAGES:
        try:
            packages[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS", "not set"),
        "python": platform.python_version(),
        "packages": packages,
    }


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "not recorded"


def _builder() -> dict[str, Any]:
    builder: dict[str, Any] = {"id": "urn:hanse:builder:v1", "version": {"hanse": hanse.__version__}}
    commit = _git_commit()
    if commit is not None:
        digest, is_modified = commit
        source = {"name": "hanse", "digest": {"gitCommit": digest}, "annotations": {"modified": is_modified}}
        builder["builderDependencies"] = [source]
    return builder


@functools.cache
def _git_commit() -> tuple[str, bool] | None:
    """The commit of Hanse's code and whether the working tree differs from it; None outside our repository."""
    package = Path(hanse.__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(package), *arguments]
        environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10, env=environment).stdout

    try:
        # An environment inside somebody's repository must not lend us their commit: the file has to be tracked.
        git("ls-files", "--error-unmatch", "__init__.py")
        return git("rev-parse", "HEAD").strip(), bool(git("status", "--porcelain", "--", ".").strip())
    except (OSError, subprocess.SubprocessError):
        return None


def _resource(name: str, digest: str) -> dict[str, Any]:
    return {"name": name, "digest": {"sha256": digest}}


def _by_path(digests: Mapping[str, str]) -> list[tuple[str, str]]:
    return sorted(digests.items(), key=lambda item: item[0].encode("utf-8"))


def summary(artifact: Artifact) -> str:
    """A record for people: what it is, what it was made from, by which definition, with which facts."""
    record = artifact.record
    run = record["predicate"]["runDetails"]
    builder = run["builder"]
    source = builder.get("builderDependencies", [{"digest": {"gitCommit": "not recorded"}}])[0]
    lines = [
        artifact.ref,
        f"  digest      sha256:{artifact.digest}",
        f"  made        {run['metadata']['startedOn']} to {run['metadata']['finishedOn']}",
        f"  by          hanse {builder['version']['hanse']}, commit {source['digest']['gitCommit']}",
        f"  files       {len(record['subject']) - 1} in {SUMS}, record in {RECORD}",
    ]
    inputs = inputs_of(record)
    lines += ["  inputs" if inputs else "  inputs      none"]
    width = max((len(each.role) for each in inputs), default=0)
    lines += [f"    {each.role:<{width}}  {each.ref}  sha256:{each.digest[:12]}" for each in inputs]
    for title, values in (("definition", definition_of(record)), ("facts", facts_of(record))):
        lines += [f"  {title}"] + [f"    {key}: {_shown(value)}" for key, value in values.items()]
    return "\n".join(lines)
