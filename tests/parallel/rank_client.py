"""Asks a server of forked ranks for runs of the toy model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


class RankServer:
    """Runs of the toy model on several ranks."""

    def __init__(self, log: Path) -> None:
        path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "train"), *sys.path])
        self.log = log
        self._server = subprocess.Popen(
            [sys.executable, str(HERE / "rank_server.py")],
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
        )

    def ask(self, folder: Path, ranks: int, **request: Any) -> tuple[list[int], dict[str, Any]]:
        """Exit statuses of the ranks, and what rank 0 answered."""
        assert self._server.stdin is not None and self._server.stdout is not None
        folder.mkdir(exist_ok=True)
        self._server.stdin.write(json.dumps({"folder": str(folder), "ranks": ranks, **request}) + "\n")
        self._server.stdin.flush()
        line = self._server.stdout.readline()
        assert line, self.log.read_text()[-3000:]
        answer = json.loads(line)
        return answer["statuses"], answer["result"] or {}

    def run(self, folder: Path, ranks: int, **request: Any) -> dict[str, Any]:
        """The answer of a run that has to succeed."""
        statuses, result = self.ask(folder, ranks, **request)
        assert statuses == [0] * ranks, self.log.read_text()[-3000:]
        return result

    def close(self) -> None:
        self._server.communicate()
