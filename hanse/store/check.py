"""`hanse verify`: does an artifact hold what its record says, and does the record's ancestry still stand?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanse.errors import InputError
from hanse.store import record as records
from hanse.store.digest import RECORD, RUN, SEALS, SUMS, check_file_name, is_summed, parse_sums, sha256_file, walk_files
from hanse.store.layout import MARKER
from hanse.store.stage import Store


@dataclass(frozen=True)
class Problem:
    """One thing that does not hold: which file or artifact, and what is wrong with it."""

    path: str
    what: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


@dataclass(frozen=True)
class Report:
    """The outcome of a check.

    Attributes:
        what: what was checked.
        problems: what does not hold; empty when everything does.
        notes: what was found in order, and what the reader still has to compare.
    """

    what: str
    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def text(self) -> str:
        """The report for people."""
        verdict = "holds" if self.holds else f"does not hold: {len(self.problems)} problem(s)"
        lines = [f"{self.what} {verdict}", *(f"  {problem}" for problem in self.problems)]
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        problems = [{"path": problem.path, "what": problem.what} for problem in self.problems]
        return {"what": self.what, "holds": self.holds, "problems": problems, "notes": list(self.notes)}


def verify(what: str, *, store_root: Path, key: Path | None = None) -> Report:
    """Check a folder, or an artifact of a store by name. Every byte is read; no cache is trusted.

    Args:
        what: a folder (an artifact inside or outside a store, or a published release) or `kind/name[/version]`.
        store_root: where names are looked up.
        key: the public key, in PEM, that has to have signed; only a release is signed.

    Raises:
        InputError: there is no such thing, or a key was given for something that carries no signature.
    """
    folder = Path(what).absolute()
    if not any((folder / name).is_file() for name in (SUMS, RECORD, *SEALS)):
        if folder.is_dir() and what.count("/") not in (1, 2):
            raise InputError(f"{what}: is no artifact; it holds none of {SUMS}, {RECORD} and {SEALS[0]}.")
        folder = Store.open(store_root, create=False).locate(what)
    store = _store_around(folder)
    problems = check_folder(folder)
    notes: list[str] = []
    if _is_release(folder):
        from hanse.release import verifier

        report = verifier.verify(folder, key)
        problems += [Problem(problem.path, problem.what) for problem in report.problems]
        notes += report.notes
    elif key is not None:
        raise InputError(f"{what}: carries no signature to check with a key; only a release does.")
    else:
        notes.append(f"{sum(1 for _ in walk_files(folder))} files read")
    if store is not None and _is_release(folder):
        from hanse.trace import notice

        for each in notice.beside(store.root, folder, key):
            problems += [Problem(f"notice {each.path.name}", each.problem)] if each.problem else []
            notes += [] if each.problem else [f"notice {each.path.name}: {each.says}; {each.path}"]
    if store is not None:
        ancestry, names = check_ancestry(folder, store)
        problems += ancestry
        notes.append(f"{len(names)} ancestors still in the store" if names else "made from no other artifact")
    unique = {problem.path: problem for problem in reversed(problems)}  # the first finding about a path is the plainest
    return Report(what, tuple(unique[path] for path in dict.fromkeys(p.path for p in problems)), tuple(notes))


def check_folder(folder: Path) -> list[Problem]:
    """Compare a folder with its `SHA256SUMS` and its `step.json`: changed, missing and added files, by name."""
    problems: list[Problem] = []
    present = _present(folder, problems)
    try:
        sums = parse_sums((folder / SUMS).read_bytes().decode("utf-8"))
        digest = sha256_file(folder / SUMS)
    except FileNotFoundError:
        problems.append(Problem(SUMS, "is missing"))
        sums, digest = {}, ""
    except (InputError, UnicodeDecodeError, OSError) as error:
        problems.append(Problem(SUMS, f"cannot be read: {error}"))
        sums, digest = {}, ""
    record = read_record(folder, problems)
    byproducts = records.byproducts_of(record) if record else {}
    expected = sums | byproducts
    for name in sorted(expected):
        if name not in present:
            problems.append(Problem(name, "is missing"))
        elif present[name] != expected[name]:
            problems.append(Problem(name, "changed"))
    for name in sorted(present):
        if name not in expected and (is_summed(name) or name.startswith(f"{RUN}/")) and digest:
            problems.append(Problem(name, "was added"))
    if record:
        problems += _check_subjects(record, sums, digest)
        problems += [Problem(seal, "is missing") for seal in records.seals_of(record) if seal not in present]
        problems += [Problem(s, "was added") for s in SEALS if s in present and s not in records.seals_of(record)]
    return problems


def check_ancestry(folder: Path, store: Store) -> tuple[list[Problem], list[str]]:
    """Follow a record upwards: each ancestor has to be there, with the record and the content that were recorded.

    An ancestor's `SHA256SUMS` is compared; its files are not read. Verify the ancestor itself for that.

    Returns:
        Problems, and the names of all ancestors.
    """
    problems: list[Problem] = []
    seen: dict[str, str] = {}
    pending = [folder]
    while pending:
        at = pending.pop()
        record = read_record(at, [])
        for each in records.inputs_of(record) if record else ():
            if each.ref in seen:
                if seen[each.ref] != each.record:
                    problems.append(Problem(each.ref, "two records name it with different digests"))
                continue
            seen[each.ref] = each.record
            place = store.folder(each.ref)
            found = _check_ancestor(place, each)
            problems += [Problem(each.ref, what) for what in found]
            if not found:
                pending.append(place)
    return problems, sorted(seen)


def read_record(folder: Path, problems: list[Problem]) -> dict[str, Any] | None:
    """`step.json` of a folder, or None with the reason added to `problems`."""
    try:
        record = json.loads((folder / RECORD).read_bytes())
        records.fingerprint_of(record), records.subjects_of(record), records.byproducts_of(record)
        records.seals_of(record), record["subject"][0]["name"]
        return dict(record)
    except FileNotFoundError:
        problems.append(Problem(RECORD, "is missing"))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        problems.append(Problem(RECORD, f"is no record of a step ({type(error).__name__}: {error})"))
    return None


def _check_subjects(record: Mapping[str, Any], sums: Mapping[str, str], digest: str) -> list[Problem]:
    subjects = records.subjects_of(record)
    whole = record["subject"][0]["name"]
    problems = []
    if digest and subjects.pop(whole) != digest:
        problems.append(Problem(SUMS, f"is not the one that {RECORD} names"))
    if record["_type"] != records.STATEMENT or record["predicateType"] != records.PROVENANCE:
        problems.append(Problem(RECORD, "is not an in-toto Statement v1 with SLSA provenance v1"))
    for name in sorted(sums.keys() | subjects.keys()) if digest else ():
        if sums.get(name) != subjects.get(name):
            problems.append(Problem(RECORD, f"and {SUMS} disagree about {name}"))
            break
    return problems


def _check_ancestor(place: Path, named: records.Input) -> list[str]:
    if not place.is_dir():
        return ["is missing, so what was made from it cannot be followed to its source"]
    try:
        if sha256_file(place / RECORD) != named.record:
            return [f"its {RECORD} is not the one that was recorded"]
        if sha256_file(place / SUMS) != named.digest:
            return [f"its {SUMS} is not the one that was recorded"]
    except OSError as error:
        return [f"{Path(str(error.filename)).name} cannot be read ({error.strerror})"]
    return []


def _present(folder: Path, problems: list[Problem]) -> dict[str, str]:
    """Path -> SHA-256 of the files there are; links and names that no sum could carry become problems."""
    present = {}
    for name, is_regular in walk_files(folder):
        try:
            check_file_name(name)
        except InputError:
            problems.append(Problem(repr(name), "has a name that no artifact may hold"))
            continue
        if is_regular:
            present[name] = sha256_file(folder / name)
        else:
            problems.append(Problem(name, "is a link or a special file"))
    return present


def _is_release(folder: Path) -> bool:
    record = read_record(folder, [])
    is_signed = any((folder / seal).exists() for seal in SEALS)
    return is_signed or (record is not None and str(record["subject"][0]["name"]).startswith("release/"))


def _store_around(folder: Path) -> Store | None:
    root = folder.parents[2] if len(folder.parents) > 2 else folder
    return Store.open(root, create=False) if (root / MARKER).is_file() else None
