"""Checks of the gate on the files themselves: what they are, whether they load and answer, and the signature.

The model is loaded in a process of its own (`model`), so that no model library comes into this one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanse.errors import InputError
from hanse.release import verifier
from hanse.release.export import CONFIG, TEMPLATE, TOKENIZER, WEIGHTS, export_problems, read_header, read_json
from hanse.release.gate.audit import Finding, Outcome
from hanse.store import record as records
from hanse.store.digest import RECORD, SUMS, files_of, sha256_file

if TYPE_CHECKING:
    from hanse.release.ledger import Ledger

#: The one program that a release carries: its own verifier.
PROGRAMS = ("verify.py",)
_CODE = (".py", ".pyc", ".so", ".dll", ".dylib", ".sh", ".exe", ".whl")
_PICKLE_ENDINGS = (".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".bin", ".joblib", ".npy", ".npz", ".dill", ".mar", ".h5")
#: How pickles of protocol 2 to 5 begin (PEP 307, PEP 3154, PEP 574), and zip archives, as torch.save writes them.
_PICKLE_STARTS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")
QUESTIONS, QUESTION_CHARACTERS = 12, 1000
_MODEL_SECONDS = 3600


def is_sealed(folder: Path) -> bool:
    """Whether sums, record or signature are there, so that the folder claims to be finished."""
    return any((folder / name).exists() for name in (SUMS, RECORD, verifier.SIGNATURE))


def files(folder: Path) -> Iterator[Finding]:
    """No pickle and no code: whoever loads the release runs nothing of it."""
    names = files_of(folder)
    bad = [name for name in names if _is_pickle(folder / name)]
    yield from (Finding("files", "failed", "is a pickle or an archive, which can run code when read", n) for n in bad)
    code = [name for name in names if name.endswith(_CODE) and name not in PROGRAMS]
    yield from (Finding("files", "failed", "is code; a release carries none but its verifier", n) for n in code)
    own = folder / PROGRAMS[0]
    if own.is_file() and sha256_file(own) != sha256_file(Path(verifier.__file__)):
        # A finished release may be of an older Hanse; the signature says whose its verifier is.
        outcome: Outcome = "warned" if is_sealed(folder) else "failed"
        yield Finding("files", outcome, "is not the verifier that this Hanse carries", own.name)
    config = read_json(folder / CONFIG)
    if config.get("auto_map"):
        code.append(CONFIG)
        yield Finding("files", "failed", "auto_map asks runtimes to load code from outside", CONFIG)
    if not bad and not code:
        yield Finding("files", "passed", f"{len(names)} files, no pickle, no code but the verifier")


def export(folder: Path) -> Iterator[Finding]:
    """The export contract, and exactly one metadata key in every safetensors file."""
    problems = export_problems(folder)
    yield from (Finding("export", "failed", problem) for problem in problems)
    weights = [name for name in files_of(folder) if name.endswith(".safetensors")]
    wrong = []
    for name in weights:
        found = read_header(folder / name).metadata
        if list(found) != ["format"] and not (name == WEIGHTS and problems):
            wrong.append(name)
            keys = ", ".join(sorted(found)) or "none"
            yield Finding("export", "failed", f"its metadata has to be 'format' alone (found: {keys})", name)
    if not weights:
        yield Finding("export", "failed", "there are no weights", WEIGHTS)
    elif not problems and not wrong:
        yield Finding("export", "passed", "the export contract holds; one metadata key in each weights file")


def copies(folder: Path, ledger: Ledger) -> Iterator[Finding]:
    """What the release copied from the model and the evaluation is what their records name."""
    wanted: dict[str, tuple[str, str]] = {}
    for name, digest in records.subjects_of(ledger.model.record).items():
        if "/" not in name:
            wanted[name] = digest, ledger.model.ref
    for name, digest in records.subjects_of(ledger.evaluation.record).items():
        wanted[f"evaluation/{name}"] = digest, ledger.evaluation.ref
    wrong = 0
    for name in (CONFIG, WEIGHTS, TOKENIZER, TEMPLATE):
        if not (folder / name).is_file():
            wrong += 1
            yield Finding("copies", "failed", "is missing", name)
    for name in files_of(folder):
        if name in wanted and sha256_file(folder / name) != wanted[name][0]:
            wrong += 1
            yield Finding("copies", "failed", f"is not the one that {wanted[name][1]} was recorded with", name)
    if not wrong:
        yield Finding(
            "copies", "passed", f"model and scores are those of {ledger.model.ref} and {ledger.evaluation.ref}"
        )


def loads(folder: Path, ledger: Ledger) -> Iterator[Finding]:
    """Transformers and we compute the same, the template goes there and back, and answers carry no stray tags."""
    seen = _examined(folder, _questions(ledger) if ledger.is_chat else [])
    for check, key in (("loads", "loads"), ("template", "template"), ("reasoning tags", "answers")):
        problems = seen[key]["problems"]
        yield from (Finding(check, "failed", each["what"], each.get("where", "")) for each in problems)
        if not problems:
            yield Finding(check, "passed", seen[key]["passed"])


def signature(folder: Path, key: Path | None = None) -> Iterator[Finding]:
    """What the verifier in the release would say."""
    report = verifier.verify(folder, key)
    yield from (Finding("signature", "failed", problem.what, problem.path) for problem in report.problems)
    if not report.problems:
        yield Finding("signature", "passed", "; ".join(report.notes))


def _is_pickle(path: Path) -> bool:
    if path.name.endswith(_PICKLE_ENDINGS):
        return True
    with path.open("rb") as stream:
        start = stream.read(4)
    return start.startswith(_PICKLE_STARTS)


def _questions(ledger: Ledger) -> list[str]:
    """A few questions that were asked in the evaluation, of as many languages; plain greetings where none were."""
    path = ledger.evaluation.path / "answers.jsonl"
    by_language: dict[str, str] = {}
    if path.is_file():
        with path.open(encoding="utf-8") as lines:
            for row in map(json.loads, lines):
                by_language.setdefault(str(row.get("language")), str(row.get("question") or ""))
    asked = [question[:QUESTION_CHARACTERS] for _, question in sorted(by_language.items()) if question.strip()]
    step = max(1, len(asked) // QUESTIONS)
    return asked[::step][:QUESTIONS] or ["Hello!", "2 + 2 = ?"]


def _examined(folder: Path, questions: list[str]) -> Mapping[str, Any]:
    """What a process of its own says about the model; nothing of a model library comes into this one.

    Raises:
        InputError: it ended without saying anything.
    """
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
    # As an argument: the command line lets a closed pipe end the program, so nothing may be written to one here.
    command = [sys.executable, "-m", "hanse.release.gate.model", str(folder.absolute()), json.dumps(questions)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, env={**os.environ, **offline}, capture_output=True, text=True,
            timeout=_MODEL_SECONDS, encoding="utf-8", errors="replace",
        )  # fmt: skip
        return dict(json.loads(done.stdout.strip().splitlines()[-1]))
    except subprocess.TimeoutExpired:
        raise InputError(f"{folder}: the model gave no answer in {_MODEL_SECONDS} s.") from None
    except (ValueError, IndexError):
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise InputError(
            f"{folder}: the process that looks at the model ended with code {done.returncode}: {last}."
        ) from None
