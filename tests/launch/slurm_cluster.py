"""A real Slurm for the tests: munged, slurmctld and two slurmd on this computer, on free ports, run by this user."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from loopback import reserved_port

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
SECOND = "zz-second"  # after every host's name
CONFIGURATION = """\
ClusterName=trial
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket
SlurmctldPort={controller}
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool-%n
SlurmctldPidFile={root}/controller.pid
SlurmdPidFile={root}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
KillWait=5
MailProg=/bin/true
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 Port={first} CPUs=4 RealMemory=8000 Gres=gpu:1 State=UNKNOWN
NodeName=zz-second NodeAddr=127.0.0.1 Port={second} CPUs=4 RealMemory=8000 Gres=gpu:1 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class NotHere(Exception):
    """Slurm is not installed, or this user may not run it."""


def missing() -> list[str]:
    return [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]


class Cluster:
    """Both nodes are this computer; each has a file for a GPU, which nothing opens.

    Ranks meet at the first node by its name, so that is this computer's.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environment = {
            key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SBATCH_"))
        } | {"SLURM_CONF": str(root / "slurm.conf"), "PATH": PATH}
        self._daemons: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        if missing():
            raise NotHere(f"{', '.join(missing())}: not installed; see docs/launch.md, or: make slurm")
        with reserved_port() as controller, reserved_port() as first, reserved_port() as second:
            self._start(controller, first, second)

    def _start(self, controller: int, first: int, second: int) -> None:
        host = socket.gethostname().split(".")[0]
        (self.root / "state").mkdir()
        (self.root / "gpu").touch()
        (self.root / "munge.key").write_bytes(os.urandom(128))
        (self.root / "munge.key").chmod(0o600)
        (self.root / "gres.conf").write_text(f"NodeName={host},{SECOND} Name=gpu File={self.root}/gpu\n")
        (self.root / "slurm.conf").write_text(
            CONFIGURATION.format(
                host=host,
                user=_user(),
                root=self.root,
                controller=controller,
                first=first,
                second=second,
            )
        )
        munge = [
            f"--{name}={self.root}/munge.{name.split('-')[0]}"
            for name in ("key-file", "socket", "pid-file", "log-file")
        ]
        self._run("munged", "--foreground", "--force", *munge, f"--seed-file={self.root}/munge.seed")
        wait_until(lambda: (self.root / "munge.socket").exists(), "munged opens its socket", self._alive)
        self._run("slurmctld", "-D")
        self._run("slurmd", "-D", "-N", host)
        self._run("slurmd", "-D", "-N", SECOND)
        wait_until(
            lambda: self.command("sinfo", "-h", "-t", "idle", "-o", "%D").split() == ["2"],
            "two idle nodes",
            self._alive,
        )

    def command(self, *words: str) -> str:
        """Output of one of Slurm's commands; what it complained about where it failed."""
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=300)
        return done.stdout if done.returncode == 0 else f"{done.stdout}{done.stderr}"

    def queue(self) -> list[str]:
        """Job numbers and states."""
        return self.command("squeue", "--noheader", "--format=%i %T").splitlines()

    def stop(self) -> None:
        """End jobs, then daemons, the ones that others need last."""
        if len(self._daemons) == 4 and self._alive():
            self.command("scancel", f"--user={_user()}")
            wait_until(lambda: not self.queue(), "an empty queue", self._alive)
        for daemon in reversed(self._daemons):
            daemon.terminate()
            try:
                daemon.wait(timeout=60)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def log(self) -> str:
        """The end of what each daemon said."""
        return "\n".join(
            "\n".join(path.read_text().splitlines()[-5:]) for path in sorted(self.root.glob("daemon-*.log"))
        )

    def _run(self, *words: str) -> None:
        with (self.root / f"daemon-{len(self._daemons)}-{words[0]}.log").open("wb") as log:
            self._daemons.append(subprocess.Popen(words, env=self.environment, stdout=log, stderr=log))

    def _alive(self) -> bool:
        return all(daemon.poll() is None for daemon in self._daemons)


def wait_until(
    is_so: Callable[[], bool], what: str, may_wait: Callable[[], bool] = lambda: True, seconds: float = 300
) -> None:
    """Wait for a condition; AssertionError after so many seconds, or as soon as waiting has become vain."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert may_wait(), f"waited in vain for {what}"
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.2)


def _user() -> str:
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name
