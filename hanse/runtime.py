"""Where to run: device, compute precision, threads, determinism, ranks. What to make is the recipe's business.

A launcher such as torchrun starts one process a rank and says which in RANK, WORLD_SIZE and LOCAL_RANK.
"""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hanse.errors import InputError

CPU_FLAGS = Path("/proc/cpuinfo")
CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")
CORES = Path("/sys/devices/system/cpu")


@dataclass(frozen=True)
class Runtime:
    """A machine as one run uses it.

    Attributes:
        device: where tensors live.
        dtype: of matrix products; weights, optimizer state and loss stay float32. bfloat16 only where the hardware
            multiplies it natively: elsewhere it is emulated (measured on an AVX2 CPU: 1 GFLOP/s against 90-138 in
            float32). float16 never: it is emulated on CPUs and overflows.
        threads: CPU threads inside one operator. The sum of a product depends on it in the last bit, so a run repeats
            bit for bit only at an equal number.
        deterministic: choose deterministic kernels, so that a resumed run equals an uninterrupted one.
        threads_chosen: whether a person fixed `threads`; otherwise a resumed run takes its checkpoint's number.
        rank: this process's number among `ranks`, from 0.
        ranks: processes that train one model together.
        replicate: copies of the model; each is sharded over ranks / replicate ranks.
        expert: ranks that split the routed experts among them.
        recompute: compute activations a second time for the backward instead of keeping them.
        float8: run large products in float8 where the hardware can.
    """

    device: torch.device
    dtype: torch.dtype = torch.float32
    threads: int = 1
    deterministic: bool = True
    threads_chosen: bool = False
    rank: int = 0
    ranks: int = 1
    replicate: int = 1
    expert: int = 1
    recompute: bool = False
    float8: bool = False

    @classmethod
    def detect(
        cls,
        device: str = "auto",
        threads: int | None = None,
        *,
        replicate: int = 1,
        expert: int = 1,
        recompute: bool = False,
        float8: bool = False,
    ) -> Runtime:
        """Look at the machine.

        Args:
            device: "auto" (CUDA if there is one), "cpu", "cuda" or "cuda:N".
            threads: CPU threads; by default HANSE_THREADS, OMP_NUM_THREADS, or all cores this process may use, shared
                with the other ranks of the machine.
            replicate, expert, recompute, float8: as the attributes.

        Raises:
            InputError: the device is absent, the number of threads is no positive integer, or the launcher's ranks
                cannot be divided like that.
        """
        rank, ranks = _launched("RANK", 0), _launched("WORLD_SIZE", 1)
        _check_layout(ranks, replicate, expert)
        place = _device(device)
        chosen = threads if threads is not None else _threads_from_environment()
        if chosen is not None and not 1 <= chosen <= 4096:
            raise InputError(f"threads: {chosen} is not a number of CPU threads; give 1 or more.")
        cores = usable_cores()
        if chosen is not None and chosen > cores:
            warnings.warn(
                f"{chosen} CPU threads on {cores} cores wait for one another and run slower than {cores} would.",
                stacklevel=2,
            )
        return cls(
            device=place,
            dtype=_compute_dtype(place),
            threads=chosen or max(1, cores // _ranks_here()),
            threads_chosen=chosen is not None,
            rank=rank,
            ranks=ranks,
            replicate=replicate,
            expert=expert,
            recompute=recompute,
            float8=float8,
        )

    def apply(self) -> None:
        """Make it so for this process: threads and kernels. Call it before the first operation on CUDA."""
        torch.set_num_threads(self.threads)
        if self.deterministic:
            # cuBLAS promises equal results only with a fixed workspace, and reads this when it starts.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # On CUDA some operators have no deterministic kernel: then a warning, for a run that ends beats one that cannot
        # start. On CPU all that we use have one.
        torch.use_deterministic_algorithms(self.deterministic, warn_only=self.device.type != "cpu")
        # Would write NaN into every fresh tensor: costs time and protects nothing that the tests do not.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        if self.device.type == "cuda":
            torch.backends.cudnn.benchmark = False

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The context for forward passes: matrix products in `dtype`."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def synchronize(self) -> None:
        """Wait until the device is done, so that a clock read afterwards means something."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def peak_memory_bytes(self) -> int:
        """The most memory this process has held: on the GPU if that computes, else in RAM."""
        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self.device))
        # Linux counts in KiB, macOS in bytes.
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    def describe(self) -> dict[str, Any]:
        """Facts for the record of a step; it belongs to where a thing was made, not to what it is."""
        return {
            "device": self.device.type,
            "device_name": _device_name(self.device),
            "compute_dtype": str(self.dtype).removeprefix("torch."),
            "threads": self.threads,
            "deterministic": self.deterministic,
            "ranks": self.ranks,
            "replicate": self.replicate,
            "expert": self.expert,
            "recompute": self.recompute,
            "float8": self.float8,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
            "system": platform.system(),
            "machine": platform.machine(),
        }


def usable_cores() -> int:
    """Physical cores that this process may use: affinity and container quota respected, at least 1.

    Busy cores are not subtracted: a number that depends on the moment would make two runs differ in the last bit. Set
    HANSE_THREADS on a machine that is shared.
    """
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    siblings = {_read(CORES / f"cpu{core}" / "topology" / "thread_siblings_list") or str(core) for core in allowed}
    quota, _, period = (_read(CGROUP_QUOTA) or "max 1").partition(" ")
    limit = int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else len(siblings)
    return max(1, min(len(siblings), int(limit)))


def has_native_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 natively (AVX512-BF16 or AMX; on Arm the bf16 extension)."""
    for line in (_read(CPU_FLAGS) or "").splitlines():
        name, _, flags = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(flags.split()))
    return False


def _compute_dtype(device: torch.device) -> torch.dtype:
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float32
    return torch.bfloat16 if has_native_bfloat16() else torch.float32


def _device(name: str) -> torch.device:
    if name in ("auto", "cuda") and torch.cuda.is_available():
        here = _launched("LOCAL_RANK", 0)  # Slurm may show a rank its own accelerator only
        return torch.device("cuda", here if torch.cuda.device_count() > 1 else 0)
    if name == "auto":
        return torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"device: '{name}' is not known; give auto, cpu, cuda or cuda:N.") from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device: '{name}' is not served by this version; give auto, cpu, cuda or cuda:N.")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        raise InputError(f"device: '{name}' is not there; torch sees {count} CUDA devices. Give auto or cpu.")
    return device


def _threads_from_environment() -> int | None:
    for name in ("HANSE_THREADS", "OMP_NUM_THREADS"):
        value = os.environ.get(name, "").split(",")[0].strip()
        if value:
            if not value.isdigit() or int(value) < 1:
                raise InputError(f"{name}={value}: is not a number of CPU threads; give 1 or more, or unset it.")
            return int(value)
    return None


def _launched(name: str, default: int) -> int:
    """A number that a launcher put into the environment."""
    value = os.environ.get(name, "").strip()
    if not value:
        return default
    if not value.isdigit():
        raise InputError(f"{name}={value}: is no number; a launcher such as torchrun sets it, or nobody should.")
    return int(value)


def _ranks_here() -> int:
    """Ranks that share this process's cores: those of the machine, unless a batch system gave each its own."""
    is_alone = hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) < (os.cpu_count() or 1)
    return 1 if is_alone else max(1, _launched("LOCAL_WORLD_SIZE", 1))


def _check_layout(ranks: int, replicate: int, expert: int) -> None:
    for option, parts, whole, of in (
        ("--replicate", replicate, ranks, f"the {ranks} ranks that were started"),
        ("--expert", expert, ranks // max(1, replicate), f"the {ranks // max(1, replicate)} ranks of one copy"),
    ):
        if parts < 1 or whole % parts:
            raise InputError(f"{option} {parts}: does not divide {of}; give a divisor, or start other ranks.")


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    for line in (_read(CPU_FLAGS) or "").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
