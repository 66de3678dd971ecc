"""Under which conditions a benchmark ran: its corpus, the machine and the versions, and where its result is kept.

Not a benchmark itself. What a corpus is: bench/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hanse.store.record import where_it_ran

ROOT = Path(__file__).resolve().parents[1]
CORPUS = "HANSE_BENCH_CORPUS"
RESULTS = ROOT / "bench" / "results"


def add_corpus(parser: argparse.ArgumentParser) -> None:
    """Add `--corpus`, which has to be a folder with text; processes that the benchmark starts take the same."""
    default = os.environ.get(CORPUS, str(ROOT.parent / "shared" / "corpus"))  # a text, so that it is checked too
    parser.add_argument("--corpus", type=_corpus, default=default, help="folder of SOURCE.LANGUAGE.jsonl.gz files")


def _corpus(text: str) -> Path:
    if not any(Path(text).glob("*.jsonl.gz")):
        raise argparse.ArgumentTypeError(f"{text}: no .jsonl.gz files; name a corpus, see bench/README.md")
    os.environ[CORPUS] = str(Path(text).resolve())
    return Path(text)


def conditions(*packages: str, threads: int | None = None) -> dict[str, Any]:
    """The commit, the day, the machine and its load now, and the versions of Python and of `packages`."""
    where = where_it_ran()
    machine = {"cpu": where["cpu"], "cores": where["cores"], "threads": threads or where["cores"]}
    return {
        "commit": commit(),
        "day": time.strftime("%Y-%m-%d"),
        "machine": machine | {"load": round(os.getloadavg()[0], 2)},
        "versions": {"python": where["python"]} | {name: _version(name) for name in packages},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def commit() -> str:
    """Of the code that runs, with a plus where files differ from it; "" outside a repository."""
    if not (git := shutil.which("git")):
        return ""
    asked = [git, "-C", str(ROOT), "describe", "--always", "--abbrev=7", "--exclude=*", "--dirty=+"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()


def store(result: dict[str, Any], path: Path) -> None:
    """Write a result as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
