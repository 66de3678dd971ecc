"""One process of a job, started by srun: `python -m hanse.launch.rank FOLDER run recipe.toml ...`.

Slurm numbers the processes; this says it in the names that torch reads, and runs the command in the same process, so
that Slurm's signal reaches it.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path


def environment(slurm: Mapping[str, str]) -> dict[str, str]:
    """RANK, WORLD_SIZE and their like, as torchrun sets them, from Slurm's variables.

    Nothing for a single process: it needs no process group. MASTER_ADDR and MASTER_PORT are the job script's business.
    """
    count, nodes = int(slurm.get("SLURM_STEP_NUM_TASKS", "1")), int(slurm.get("SLURM_STEP_NUM_NODES", "1"))
    if count == 1:
        return {}
    return {
        "RANK": slurm["SLURM_PROCID"],
        "WORLD_SIZE": str(count),
        "LOCAL_RANK": slurm["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": str(count // nodes),
    }


def main(arguments: list[str]) -> int:
    """Run a command of hanse as one rank; a failure's exit code is left in `exit-JOB-RANK` for the end of the job."""
    folder, *command = arguments
    os.environ.update(environment(os.environ))
    from hanse.cli import main as hanse

    code = 1
    try:
        code = hanse(command)
    except SystemExit as stop:  # argparse leaves this way
        code = stop.code if isinstance(stop.code, int) else 1
    finally:
        # The work is done: a signal that comes while Python packs up must not make a failure of it.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if code:
            name = f"exit-{os.environ.get('SLURM_JOB_ID', '0')}-{os.environ.get('SLURM_PROCID', '0')}"
            (Path(folder) / name).write_text(f"{code}\n", encoding="ascii")
    return code


if __name__ == "__main__":
    status = main(sys.argv[1:])
    if "hanse.parallel.ranks" in sys.modules:
        from hanse.parallel.ranks import leave

        leave(status)
    sys.exit(status)
