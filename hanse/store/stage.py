"""Artifacts and the one place that writes them.

A stage is a function that fills a folder. `Store.build` gives it a temporary folder, then hashes, records, fsyncs and
renames it: kill the process at any moment and the artifact is there whole, or not at all.

    <root>/store.json                       format version
    <root>/<kind>/<name>/<version>/         files, SHA256SUMS, step.json, run/
    <root>/.work/<kind>/<name>/<version>/   temporary folders, and scratch that outlives a killed run
    <root>/.locks/, <root>/.index.sqlite    disposable
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hanse.errors import InputError
from hanse.store import lock as locks
from hanse.store import record as records
from hanse.store.digest import (
    RECORD,
    SUMS,
    exact_json,
    files_of,
    fingerprint,
    is_summed,
    parse_sums,
    sha256_file,
)
from hanse.store.disk import fsync_folder, full_disk, remove_empty_parents
from hanse.store.index import Index, Node
from hanse.store.layout import MARKER, begin, check_format, natural, parts_of
from hanse.store.work import Work as Work
from hanse.store.work import finish


@dataclass(frozen=True)
class Artifact:
    """A finished folder of the store.

    Attributes:
        digest: SHA-256 of its `SHA256SUMS`: equal content, equal digest.
        record: its `step.json`.
        record_digest: SHA-256 of `step.json` as it was read.
    """

    kind: str
    name: str
    version: str
    path: Path
    digest: str
    record: dict[str, Any] = field(compare=False, repr=False)
    record_digest: str = field(default="", compare=False, repr=False)

    @property
    def ref(self) -> str:
        """`kind/name/version`."""
        return f"{self.kind}/{self.name}/{self.version}"

    @property
    def facts(self) -> dict[str, Any]:
        """What its step noted: counts, tokens, FLOP."""
        return records.facts_of(self.record)


@dataclass(frozen=True)
class Built:
    """What `Store.build` found or made.

    Attributes:
        state: `made` now; `unchanged`: it was there; `drifted`: another definition or input made the one that is there.
        drift: what differs, a line each. The caller warns, and says to raise `version`.
    """

    artifact: Artifact
    state: Literal["made", "unchanged", "drifted"]
    drift: list[str] = field(default_factory=list)


class Store:
    """A folder of artifacts. Open it with `Store.open`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.index = Index(root)
        self._held: list[locks.Held] = []

    @classmethod
    def open(cls, root: Path, *, create: bool = True) -> Store:
        """Open the store at `root`, or begin one where nothing is.

        Raises:
            InputError: a store of another format, a folder that holds something else, or nothing there and not
                `create`.
        """
        root = Path(root).absolute()
        try:
            text = (root / MARKER).read_text(encoding="utf-8")
        except FileNotFoundError:
            begin(root, create)
            return cls(root)
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{root / MARKER}: cannot be read ({error}).") from None
        check_format(root, text)
        return cls(root)

    def folder(self, ref: str) -> Path:
        """Where `kind/name/version` lies or would lie. Raises InputError for a part that is no plain name."""
        return self.root.joinpath(*parts_of(ref, wanted=(3,)))

    def artifacts(self) -> Iterator[Artifact]:
        """Every readable artifact, by kind, name and version. A damaged one is left out here; `find` names it."""
        for path in self._folders():
            with suppress(InputError):
                yield self._load(path)

    def find(self, ref: str) -> Artifact:
        """The artifact `kind/name/version`, or the newest version of `kind/name`.

        Raises:
            InputError: no such artifact (with names that are near), or a damaged one.
        """
        return self._load(self.locate(ref))

    def locate(self, ref: str) -> Path:
        """The folder that `find` would read; nothing in it is looked at, so it may be damaged."""
        parts = parts_of(ref, wanted=(2, 3))
        folders = [f for f in self._folders() if f.parts[-3:][: len(parts)] == parts]
        if not folders:
            raise InputError(self._missing(ref))
        return folders[-1]

    def lock(self, name: str, doing: str = "") -> AbstractContextManager[locks.Held]:
        """Hold the lock `name` of this store while the block runs; it ends with the process, however that ends.

        Args:
            name: what is locked, for example a recipe's name.
            doing: what a second process is told; `build` keeps it up to date.

        Raises:
            InputError: another process holds it; says which, and what it is doing.
        """
        return self._lock(name.replace("/", "~"), doing or f"working on {name}")

    def ancestors(self, ref: str) -> list[str]:
        """Everything the artifact was made from, sorted; also what is no longer in the store."""
        return self.index.ancestors(self.find(ref).ref, self._stamps(), self._nodes)

    def descendants(self, ref: str) -> list[str]:
        """Everything in the store that was made from the artifact, sorted. It may itself be gone."""
        full = ref if ref.count("/") == 2 else self.find(ref).ref
        return self.index.descendants(full, self._stamps(), self._nodes)

    def build(
        self,
        kind: str,
        name: str,
        version: str,
        *,
        definition: Mapping[str, object],
        inputs: Mapping[str, Artifact],
        make: Callable[[Work], None],
    ) -> Built:
        """Return the artifact, and make it first if nothing has been made by this definition from these inputs.

        Args:
            kind, name, version: where it goes.
            definition: everything that decides the content, as JSON values; no path, device or thread count.
            inputs: role -> artifact it is made from.
            make: fills `work.folder`; run only when needed.

        Raises:
            InputError: an input or the artifact itself was tampered with, the disk is full, or another process is
                making it.
            TypeError, ValueError: a definition without one JSON text.
        """
        ref = "/".join(parts_of(f"{kind}/{name}/{version}", wanted=(3,)))
        definition = exact_json(definition, "definition")
        digests = {role: artifact.digest for role, artifact in inputs.items()}
        wanted = fingerprint(definition, digests)
        built = self._existing(ref, wanted, definition, digests)
        if built is not None:
            return built
        with self._lock(ref.replace("/", "~"), f"building {ref}"):
            # Someone may have finished it between our look and our lock.
            built = self._existing(ref, wanted, definition, digests)
            if built is not None:
                return built
            for artifact in inputs.values():
                self.require_intact(artifact, f"build {ref} from it")
            return Built(self._make(ref, wanted, definition, inputs, make), "made")

    def scratch(
        self, kind: str, name: str, version: str, *, definition: Mapping[str, object], inputs: Mapping[str, Artifact]
    ) -> Path:
        """The scratch folder that `build` with these arguments will find, for work that many processes share.

        No lock is held: who writes here has to bear others who write the same.
        """
        ref = "/".join(parts_of(f"{kind}/{name}/{version}", wanted=(3,)))
        digests = {role: artifact.digest for role, artifact in inputs.items()}
        path = self._scratch(ref, fingerprint(exact_json(definition, "definition"), digests))
        path.mkdir(parents=True, exist_ok=True)
        return path

    def require_intact(self, artifact: Artifact, purpose: str) -> None:
        """Refuse an artifact whose files differ from its `SHA256SUMS`. Unchanged files are not read again.

        Args:
            purpose: what is refused, for example `serve it`.

        Raises:
            InputError: names the first file that changed, is missing or was added.
        """
        sums = parse_sums((artifact.path / SUMS).read_text(encoding="utf-8"))
        present = [name for name in files_of(artifact.path) if is_summed(name)]
        wrong = [f"{name} is missing" for name in sums if name not in present]
        wrong += [f"{name} was added" for name in present if name not in sums]
        wrong += [
            f"{name} changed"
            for name in present
            if name in sums and self.index.sha256(artifact.path / name) != sums[name]
        ]
        if wrong:
            raise InputError(
                f"{artifact.ref} does not match its {SUMS}: {wrong[0]}. Refusing to {purpose}; restore the file, or "
                f"remove {artifact.path} and run again."
            )

    def _existing(
        self, ref: str, wanted: str, definition: Mapping[str, Any], digests: Mapping[str, str]
    ) -> Built | None:
        place = self.folder(ref)
        here = self._load(place) if place.exists() else None
        if here is not None:
            self._forget_work(ref)
        same = [here] if here is not None and records.fingerprint_of(here.record) == wanted else []
        if not same:
            same = [a for a in self._versions(place.parent) if records.fingerprint_of(a.record) == wanted]
        if same:
            self.require_intact(same[-1], "use it")
            return Built(same[-1], "unchanged")
        if here is None:
            return None
        self.require_intact(here, "use it")
        return Built(here, "drifted", records.drift(here.record, definition, digests))

    def _make(
        self,
        ref: str,
        wanted: str,
        definition: Mapping[str, Any],
        inputs: Mapping[str, Artifact],
        make: Callable[[Work], None],
    ) -> Artifact:
        """Run a stage in a temporary folder, record it, and put it in its place. The caller holds the lock."""
        scratch = self._scratch(ref, wanted)
        area = scratch.parent
        started = records.now()
        for held in self._held:
            held.say(f"building {ref}")
        try:
            area.mkdir(parents=True, exist_ok=True)
            for stale in area.iterdir():  # left by a killed run, or scratch of another definition
                if stale != scratch:
                    shutil.rmtree(stale)
            work = Work(Path(tempfile.mkdtemp(prefix="new-", dir=area)) / "artifact", scratch, ref)
        except OSError as error:
            raise full_disk(error, self.root, ref, area) or error from None
        try:
            make(work)
            finish(work, definition, _named(inputs), started)
            artifact = self._publish(work.folder, ref)
        except BaseException as error:
            told = full_disk(error, self.root, ref, work.folder)
            shutil.rmtree(work.folder.parent, ignore_errors=True)
            if told is not None:
                raise told from error
            raise
        self._forget_work(ref)
        return artifact

    def _scratch(self, ref: str, wanted: str) -> Path:
        return self.root.joinpath(".work", *ref.split("/"), f"scratch-{wanted[:16]}")

    def _publish(self, folder: Path, ref: str) -> Artifact:
        place = self.folder(ref)
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.rename(folder, place)
        except OSError as error:
            if not place.exists():
                raise
            # Only where locks do not reach, such as two machines on a file system without them.
            if sha256_file(place / SUMS) != sha256_file(folder / SUMS):
                raise InputError(
                    f"{ref} was made by another process meanwhile, with other content; raise the version in the recipe."
                ) from error
        for parent in (place.parent, place.parent.parent, self.root):
            fsync_folder(parent)
        return self._load(place)

    def _forget_work(self, ref: str) -> None:
        area = self.root.joinpath(".work", *ref.split("/"))
        if area.exists():
            shutil.rmtree(area, ignore_errors=True)
            remove_empty_parents(area.parent, self.root / ".work")

    def _folders(self, pattern: str = "[!.]*/[!.]*/[!.]*") -> list[Path]:
        """The folders at `kind/name/version`, versions in their natural order, so that 10 follows 9."""
        found = [f for f in self.root.glob(pattern) if f.is_dir()]
        return sorted(found, key=lambda f: (f.parts[-3], f.parts[-2], natural(f.parts[-1])))

    def _versions(self, parent: Path) -> Iterator[Artifact]:
        for path in self._folders(f"{parent.parts[-2]}/{parent.parts[-1]}/[!.]*"):
            with suppress(InputError):
                yield self._load(path)

    def _load(self, path: Path) -> Artifact:
        kind, name, version = path.parts[-3:]
        try:
            text = (path / RECORD).read_bytes()
            record = json.loads(text)
            records.fingerprint_of(record)
            digest = sha256_file(path / SUMS)
            if record["subject"][0]["digest"]["sha256"] != digest:
                raise InputError(
                    f"{kind}/{name}/{version}: {SUMS} is not the one that its record names. See: hanse verify {path}"
                )
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise InputError(
                f"{kind}/{name}/{version} is damaged: {RECORD} or {SUMS} cannot be read ({_one_line(error)}). "
                f"Restore it, or remove {path} and run again."
            ) from None
        return Artifact(kind, name, version, path, digest, record, hashlib.sha256(text).hexdigest())

    def _stamps(self) -> dict[str, str]:
        stamps = {}
        for path in self._folders():
            with suppress(OSError):
                status = (path / RECORD).stat()
                stamps["/".join(path.parts[-3:])] = f"{status.st_size}:{status.st_mtime_ns}:{status.st_ino}"
        return stamps

    def _nodes(self) -> Iterator[Node]:
        stamps = self._stamps()
        for artifact in self.artifacts():
            parents = tuple(each.ref for each in records.inputs_of(artifact.record))
            yield Node(artifact.ref, stamps.get(artifact.ref, ""), parents)

    def _missing(self, ref: str) -> str:
        known = [a for f in self._folders() for a in ("/".join(f.parts[-3:]), "/".join(f.parts[-3:-1]))]
        near = difflib.get_close_matches(ref, dict.fromkeys(known), n=3, cutoff=0.5)
        near = near or sorted({k for k in known if k.count("/") == 1 and k.split("/")[1] in ref})[:3]
        if near:
            return f"{ref}: no such artifact in {self.root}. Did you mean {' or '.join(near)}?"
        kinds = sorted({k.split("/")[0] for k in known})
        return f"{ref}: no such artifact in {self.root}, which holds " + (
            f"these kinds: {', '.join(kinds)}." if kinds else "nothing yet; make something with: hanse run"
        )

    @contextmanager
    def _lock(self, name: str, doing: str) -> Iterator[locks.Held]:
        with locks.hold(self.root / ".locks" / f"{name}.lock", doing) as held:
            self._held.append(held)
            try:
                yield held
            finally:
                self._held.remove(held)


def _named(inputs: Mapping[str, Artifact]) -> tuple[records.Input, ...]:
    return tuple(records.Input(role, a.ref, a.digest, a.record_digest) for role, a in inputs.items())


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
