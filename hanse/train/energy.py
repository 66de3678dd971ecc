"""Energy that a training process measures while it runs: RAPL of the host's processors, NVML of its NVIDIA GPU.

RAPL counters are files of Linux (Documentation/power/powercap/powercap.rst): microjoules that start again at 0 beyond
`max_energy_range_uj`, after minutes under load, so a thread looks now and then. Since Linux 5.10 only root may read
them unless an administrator says otherwise. NVML is asked through nvidia-ml-py where that is installed: millijoules
since the driver was loaded (Volta and newer), else its power, added up over time.

A counter that cannot be read stops nothing: the record then says so, and energy is "not recorded".
"""

from __future__ import annotations

import importlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import torch

POWERCAP = Path("/sys/class/powercap")
SAMPLE_SECONDS = 10.0  # RAPL's range lasts several minutes at least
POWER_SECONDS = 1.0  # where a GPU has no counter: NVML itself averages over a second
JOULES_PER_WH = 3600.0

Energy = Callable[[], float]  # joules since it was last asked


class _Library(Protocol):
    """What is used of nvidia-ml-py's module `pynvml`."""

    def nvmlInit(self) -> None: ...
    def nvmlShutdown(self) -> None: ...
    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Any: ...
    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any) -> int: ...
    def nvmlDeviceGetPowerUsage(self, handle: Any) -> int: ...


class EnergyMeter:
    """Adds up energy between `with` and its end.

    On each host one process reads the processors, whoever else computes there, and each process its own GPU; so the
    sum over all ranks is that of the machines.

    Args:
        device: where this process computes. Without that device's own counter nothing counts as measured.
        ranks: processes that train together.
        powercap: where RAPL's counters lie.
        uuid: of the GPU; asked of torch by default.

    Attributes:
        is_readable: whether what computes here is measured.
        method: what is read, or why nothing is; for the record.
    """

    def __init__(
        self, device: torch.device, *, ranks: int = 1, powercap: Path = POWERCAP, uuid: str | None = None
    ) -> None:
        self.is_readable, self.method = False, "not readable: the meter was not started"
        self._device, self._ranks, self._powercap, self._uuid = device, ranks, powercap, uuid
        self._counters: list[Energy] = []
        self._library: _Library | None = None
        self._period = SAMPLE_SECONDS
        self._joules = 0.0
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> EnergyMeter:
        host = self._open_host()
        if self._device.type == "cpu":
            self.is_readable = host.startswith("RAPL")
            self.method = host if self.is_readable else f"not readable: {host}"
        else:
            gpu = self._open_gpu()
            self.is_readable = gpu.startswith("NVML")
            self.method = f"{gpu}; {host}" if self.is_readable else f"not readable: {gpu}"
        if self._counters and self.is_readable:
            self._thread = threading.Thread(target=self._watch, name="energy", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self._library is not None:
            self._library.nvmlShutdown()
            self._library = None

    def lap(self) -> float:
        """Wh since the last lap; 0 where nothing is readable, and from a process that another one measures for."""
        self._sample()
        with self._lock:
            joules, self._joules = self._joules, 0.0
        return joules / JOULES_PER_WH

    def _watch(self) -> None:
        while not self._stop.wait(self._period):
            self._sample()

    def _sample(self) -> None:
        with self._lock:
            if not self.is_readable:
                return
            try:
                self._joules += sum(counter() for counter in self._counters)
            except Exception as error:  # of a driver we may not even have: measuring must never stop a training
                self.is_readable = False
                self.method = f"not readable: a counter was lost on the way ({' '.join(str(error).split())[:100]})"

    def _open_host(self) -> str:
        """Take the processors' counters, if it is this process that reads them. Returns what they are, or why not."""
        local = os.environ.get("LOCAL_RANK", "" if self._ranks > 1 else "0").strip()
        if not local.isdigit():
            return "hosts without RAPL, since LOCAL_RANK does not say who reads it"
        zones, refused = _zones(self._powercap)
        if not zones:
            return f"hosts without RAPL, since {refused}"
        if int(local) == 0:
            self._counters += [_rapl(zone) for zone in zones]
        memory = " and memory" if any(_name(zone) == "dram" for zone in zones) else ", without memory"
        return f"RAPL, processors{memory} of each host, other work there included"

    def _open_gpu(self) -> str:
        """Take this process's GPU. Returns what is read, or why nothing is."""
        try:
            library: _Library = importlib.import_module("pynvml")  # type: ignore[assignment]
        except ImportError:
            return "the GPU, since nvidia-ml-py is not installed"
        try:
            library.nvmlInit()
            self._library = library
            uuid = self._uuid or f"GPU-{torch.cuda.get_device_properties(self._device).uuid}"
            handle = library.nvmlDeviceGetHandleByUUID(uuid)
            try:
                self._counters.append(_total(library, handle))
                return "NVML, energy counter of each GPU board"
            except Exception:  # its own class, of a module that need not be there
                self._counters.append(_power(library, handle))
                self._period = POWER_SECONDS
                return f"NVML, power of each GPU board every {POWER_SECONDS:g} s"
        except Exception as error:
            return f"the GPU, since NVML says: {' '.join(str(error).split())[:100]}"


def _zones(powercap: Path) -> tuple[list[Path], str]:
    """The counters to add up: packages, and memory, which lies outside them. Else why there are none.

    Cores and graphics are parts of a package, "psys" contains it, and "intel-rapl-mmio" is the same counter again.
    """
    found, refused = [], f"{powercap} has no counter"
    for zone in sorted(powercap.glob("intel-rapl:*")) if powercap.is_dir() else []:
        name = _name(zone)
        if not (name.startswith("package") or name == "dram"):
            continue
        try:
            _number(zone / "energy_uj"), _number(zone / "max_energy_range_uj")
            found.append(zone)
        except (OSError, ValueError):
            if name != "dram":
                return [], f"{zone / 'energy_uj'} may not be read"
    return found, refused


def _rapl(zone: Path) -> Energy:
    before, span = _number(zone / "energy_uj"), _number(zone / "max_energy_range_uj")

    def joules() -> float:
        nonlocal before
        now = _number(zone / "energy_uj")
        difference, before = now - before, now
        return (difference if difference >= 0 else difference + span) / 1e6

    return joules


def _total(library: _Library, handle: Any) -> Energy:
    before = library.nvmlDeviceGetTotalEnergyConsumption(handle)

    def joules() -> float:
        nonlocal before
        now = library.nvmlDeviceGetTotalEnergyConsumption(handle)
        difference, before = now - before, now
        if difference < 0:
            raise OSError("the GPU's counter went back, as when its driver is loaded again")
        return difference / 1e3

    return joules


def _power(library: _Library, handle: Any) -> Energy:
    before, watts_before = time.monotonic(), library.nvmlDeviceGetPowerUsage(handle) / 1e3

    def joules() -> float:
        nonlocal before, watts_before
        now, watts = time.monotonic(), library.nvmlDeviceGetPowerUsage(handle) / 1e3
        energy = (now - before) * (watts + watts_before) / 2
        before, watts_before = now, watts
        return energy

    return joules


def _name(zone: Path) -> str:
    try:
        return (zone / "name").read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _number(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))
