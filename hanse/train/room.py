"""Whether a machine has room for a run: memory, by how much it is too small and what to change; and free cores."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from hanse.errors import InputError
from hanse.model.config import ApertusConfig, Config, ModelConfig
from hanse.plan.activations import Native
from hanse.plan.choose import Job, Wishes, choose
from hanse.plan.layout import Layout
from hanse.plan.machines import Machine
from hanse.plan.memory import memory
from hanse.recipe import Training
from hanse.runtime import Runtime, usable_cores

STAT = Path("/proc/stat")
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
MOMENT_SECONDS = 0.2


@contextlib.contextmanager
def enough_memory(config: Config, settings: Training, runtime: Runtime) -> Iterator[None]:
    """Say what a run needs and what to change where its memory runs out: placing the model, or in any of its steps.

    Args:
        config: the model's.
        settings: of the training.
        runtime: where, and how ranks share the model.

    Raises:
        InputError: it ran out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(_too_little(error, config, settings, runtime)) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out."""
    text = str(error)
    is_reported = "can't allocate memory" in text or "not enough memory" in text
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or is_reported


def memory_bytes(device: torch.device) -> int:
    """What there is in all: of the GPU, or of RAM as far as a container may use it."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError):
        return min(physical, int(CGROUP_LIMIT.read_text()))
    return physical


def crowded(runtime: Runtime) -> str:
    """A sentence if other work holds cores that the threads were meant for, else ""."""
    if runtime.device.type != "cpu" or runtime.threads == 1:
        return ""
    free = free_cores()
    if free is None or free > runtime.threads - 0.5:
        return ""
    return (
        f"{runtime.threads} threads, but only {free:.1f} cores are free at the moment: threads wait for one another, "
        f"so fewer are faster; --threads {max(1, round(free))} (or HANSE_THREADS) sets that."
    )


def free_cores() -> float | None:
    """Of the cores that this process may use, how many stand idle while it sleeps a moment; None if nobody tells."""
    before = _idle_and_all()
    time.sleep(MOMENT_SECONDS)
    after = _idle_and_all()
    passed = {core: (idle - before[core][0], ticks - before[core][1]) for core, (idle, ticks) in after.items()}
    if not passed:
        return None
    return min(float(usable_cores()), sum(idle / ticks if ticks else 1.0 for idle, ticks in passed.values()))


def _idle_and_all() -> dict[int, tuple[int, int]]:
    """Clock ticks of each usable core since the start: idle (or waiting for a disk), and all."""
    try:
        lines = STAT.read_text(encoding="ascii").splitlines()
        usable = os.sched_getaffinity(0)
    except (OSError, AttributeError):
        return {}
    found = {}
    for name, *numbers in (line.split() for line in lines if line.startswith("cpu") and line[3:4].isdigit()):
        ticks = [int(number) for number in numbers[:8]]  # what guests take is counted in the first two already
        if int(name[3:]) in usable:
            found[int(name[3:])] = (ticks[3] + ticks[4], sum(ticks))
    return found


def _too_little(error: BaseException, config: Config, settings: Training, runtime: Runtime) -> str:
    micro = min(settings.micro_batch_tokens or settings.batch_tokens, settings.batch_tokens // runtime.ranks)
    asked = str(error).split(". If ", 1)[0].strip() or type(error).__name__
    start = f"training: micro-batches of {micro:,} tokens do not fit into memory"
    if not isinstance(config, ModelConfig | ApertusConfig):
        return f"{start} ({asked}); set micro_batch_tokens lower, add --recompute, or use more ranks."
    job = _job(config, settings, runtime)
    machine = _here(runtime)
    layout = Layout(
        machine.nodes, machine.accelerators_per_node, runtime.replicate, runtime.expert, runtime.recompute, micro
    )
    needed = memory(
        config, layout, vendor=machine.vendor, memory_bytes=machine.memory_bytes,
        sequence_length=settings.sequence_length, compute_bytes=job.compute_bytes, has_mtp_loss=job.has_mtp_loss,
        optimizer=job.optimizer,
    )  # fmt: skip
    sizes = f"{needed.bytes / 1e9:.1f} GB by plan, and {machine.accelerator} has {needed.limit_bytes / 1e9:.1f} GB"
    if needed.fits:
        return f"{start} ({asked}): {sizes}, so others may hold it; halve micro_batch_tokens, or add --recompute."
    short = f"{start}: {sizes} to use, {(needed.bytes - needed.limit_bytes) / 1e9:.1f} GB too little"
    wishes = Wishes(runtime.replicate, runtime.expert, True if runtime.recompute else None)
    try:
        found = choose(job, machine, machine.nodes, wishes).layout
    except InputError:
        return f"{short}; nothing else fits here either: use more ranks, a smaller model or a shorter sequence_length."
    changes = [f"micro_batch_tokens = {found.micro_batch_tokens}"] if found.micro_batch_tokens != micro else []
    changes += ["--recompute"] if found.recompute and not runtime.recompute else []
    return f"{short}; it would fit with {' and '.join(changes)}."


def _job(config: Native, settings: Training, runtime: Runtime) -> Job:
    return Job(
        config,
        settings.batch_tokens,
        settings.sequence_length,
        utilisation=1.0,
        has_mtp_loss=bool(getattr(settings, "mtp_weight", 0.0)),
        optimizer=settings.optimizer,
        compute_bytes=2 if runtime.dtype == torch.bfloat16 else 4,
    )


def _here(runtime: Runtime) -> Machine:
    """This run's accelerators as a machine. Only their memory counts: no speed is asked for."""
    per_node = min(runtime.ranks, int(os.environ.get("LOCAL_WORLD_SIZE") or runtime.ranks))
    is_cpu = runtime.device.type == "cpu"
    whole = memory_bytes(runtime.device)
    return Machine(
        name="here",
        title="here",
        nodes=runtime.ranks // per_node,
        max_nodes=runtime.ranks // per_node,
        accelerators_per_node=per_node,
        accelerator="this computer" if is_cpu else torch.cuda.get_device_name(runtime.device),
        vendor="cpu" if is_cpu else "amd" if torch.version.hip else "nvidia",
        host="",
        memory_bytes=whole // per_node if is_cpu else whole,
        peak_bf16_flops=1.0,
        node_link_bytes_per_second=1.0,
        network_bytes_per_second=1.0,
        max_hours=1.0,
        partition="",
        cpus_per_node=1,
        source={},
    )
