"""Runs that can be killed at a known instant, each in a process of its own, forked from one that has loaded torch.

For each line `FOLDER EVENT` on stdin it forks a run in FOLDER that counts events: a batch asked for, and what
`KillCounter` counts. At number EVENT the run kills itself; with EVENT 0 it ends. Answered is one line: the exit status,
the number of events, the digest of the weights.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

from kill_counter import KillCounter
from toy import toy_batch_at, toy_model, toy_train, weights_digest


def main() -> None:
    importlib.import_module(
        "torch._dynamo"
    )  # torch's optimizers load it at their first step: seconds that each fork would spend anew

    for line in sys.stdin:
        folder, _, event = line.strip().rpartition(" ")
        answer, question = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.write(question, _run(Path(folder), int(event)).encode())
                os._exit(0)
            finally:
                os._exit(1)
        os.close(question)
        _, status = os.waitpid(child, 0)
        said = os.read(answer, 1000).decode() or "- -"
        os.close(answer)
        print(os.waitstatus_to_exitcode(status), said, flush=True)


def _run(folder: Path, last: int) -> str:
    events = KillCounter(last)
    model = toy_model()
    toy_train(folder, model=model, steps=16, checkpoint_steps=3, batch_at=events.counted(toy_batch_at))
    return f"{events.count} {weights_digest(model)}"


if __name__ == "__main__":
    main()
