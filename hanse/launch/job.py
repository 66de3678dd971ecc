"""Beginning and end of a job, called by its script:

    python -m hanse.launch.job begin FOLDER KIND
    python -m hanse.launch.job end FOLDER KIND STATUS

The exit code is a `Verdict`; anything else means that this could not run at all, and the next job tries again.
"""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path

from hanse.errors import InputError
from hanse.launch.chain import Chain, Verdict, note
from hanse.store.stage import Store

LOCK_SECONDS = 600.0
_LAST_BYTES = 4 * 1024 * 1024
_COMPLAINT = re.compile(r"^(?:\d+: )?hanse: (.+)$", re.MULTILINE)
INTERRUPTED = "Continue with:"  # said by what was asked to stop and saved; its code is 0, as if it were done
# Said by ranks that are not to blame, or where the next job may fare better: a rank or a link was lost.
CURABLE = ("rank has ended", "ranks cannot meet at")


def main(arguments: list[str]) -> int:
    """Decide and take a note. Returns a `Verdict`, or 2 for a record that cannot be used."""
    verb, folder, kind, *rest = arguments
    job = os.environ.get("SLURM_JOB_ID", "0")
    try:
        chain = Chain.read(Path(folder))
        if chain is None:
            raise InputError(f"{folder}: holds no chain; launch again.")
        verdict, why = (
            begin(chain, Path(folder), kind, job) if verb == "begin" else end(chain, Path(folder), kind, job, *rest)
        )
    except InputError as error:
        print(f"hanse: {error}", file=sys.stderr)
        return 2
    print(f"job {job} ({kind}), {verb}: {why}", file=sys.stderr)
    return verdict


def begin(chain: Chain, folder: Path, kind: str, job: str) -> tuple[Verdict, str]:
    """Whether this job has something to do; it is noted as begun if so."""
    _wait_for_the_last(chain)
    now = chain.progress()
    verdict, why = chain.before(kind, now)
    if verdict is Verdict.GO_ON:
        note(folder, "begin", job=job, kind=kind, progress=now.as_json())
    elif verdict is Verdict.STOPPED and not chain.stopped:
        note(folder, "stop", job=job, reason=why)
    return verdict, why


def end(chain: Chain, folder: Path, kind: str, job: str, status: str) -> tuple[Verdict, str]:
    """What to do after this job's ranks.

    Bad input (code 2 of any rank) is the same in the next job, so the chain stops. Anything else may be the machine's
    fault. After some progress the ranks are started again, without another wait in the queue; else the next job tries,
    on other nodes, and two that get nowhere stop the chain.
    """
    now = chain.progress()
    found = next((attempt.found for attempt in reversed(chain.attempts) if attempt.job == job), now)
    code, log = int(status), _log(folder, job, kind)
    is_done = code == 0 and bool(log) and INTERRUPTED not in log
    note(folder, "end", job=job, kind=kind, status=code, done=is_done)
    if now.has("release") or (is_done and kind == "train"):
        return Verdict.FINISHED, now.text()
    if 2 in {code, *_rank_codes(folder, job)}:
        said = [sentence for sentence in _COMPLAINT.findall(log) if INTERRUPTED not in sentence]
        bad = [sentence.strip() for sentence in said if not any(words in sentence for words in CURABLE)]
        if bad or not said:
            why = f"job {job} ended with an error: {bad[-1] if bad else f'see job-{job}.log'}"
            note(folder, "stop", job=job, reason=why)
            return Verdict.STOPPED, why
    is_crash = code != 0 and now != found
    return Verdict.AGAIN if is_crash else Verdict.GO_ON, f"{now.text()}; exit code {status}"


def _wait_for_the_last(chain: Chain) -> None:
    """Until the job before has let go of the recipe: a file system may hold the lock of a dead node for minutes."""
    store, deadline = Store.open(chain.store, create=False), time.monotonic() + LOCK_SECONDS
    while time.monotonic() < deadline:
        try:
            with store.lock(chain.name, f"beginning a job of {chain.name}"):
                return
        except InputError:
            time.sleep(LOCK_SECONDS / 60)


def _rank_codes(folder: Path, job: str) -> set[int]:
    """What the ranks left with, as each wrote it down: srun tells only the highest, which may be that of a signal."""
    codes = set()
    for path in folder.glob(f"exit-{job}-*"):
        text = path.read_text().strip()
        codes.add(int(text) if text.isdigit() else 1)
        path.unlink()  # what is started next in this job begins anew
    return codes


def _log(folder: Path, job: str, kind: str) -> str:
    """What was said since the last beginning; "" if it cannot be read."""
    try:
        with (folder / f"job-{job}.log").open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - _LAST_BYTES))
            text = stream.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    return text.rpartition(f"job {job} ({kind}), begin:")[2]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
