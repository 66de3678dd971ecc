"""Who trains together: the process group, how it is divided, and the few numbers that ranks tell one another.

A launcher (torchrun, or `srun` as `hanse launch` writes it) starts one process an accelerator and says so in RANK,
WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT. Started alone, every method here does nothing and costs nothing.
"""

from __future__ import annotations

import datetime
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from hanse import __version__
from hanse.errors import InputError
from hanse.runtime import Runtime

T = TypeVar("T")
PATIENCE = datetime.timedelta(days=7)  # rank 0 may curate for days while the others wait


class Ranks:
    """The processes that train one model.

    Attributes:
        rank: this process's number, from 0.
        size: how many there are.
        replicate: copies of the whole model; each is sharded over `shard` ranks.
        shard: ranks that hold one copy together.
        expert: ranks that split the routed experts among them; divides `shard`.
        device: where this rank computes.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.rank, self.size, self.device = runtime.rank, runtime.ranks, runtime.device
        self.replicate, self.expert = runtime.replicate, runtime.expert
        self.shard = self.size // self.replicate
        self._mesh: DeviceMesh | None = None
        self._flat: DeviceMesh | None = None
        if self.size == 1:
            return
        if not dist.is_initialized():
            _join(self.device)
        # Small messages between processes go through the CPU, whatever the accelerators speak.
        self.control = dist.new_group(backend="gloo", timeout=PATIENCE)
        self.saving = dist.new_group(backend="gloo", timeout=PATIENCE)  # a thread's own: messages must not mix
        self._refuse_strangers(runtime)
        shape = (self.replicate, self.shard // self.expert, self.expert)
        self._mesh = init_device_mesh(self.device.type, shape, mesh_dim_names=("replicate", "outer", "expert"))
        self._flat = self._mesh["outer", "expert"]._flatten("shard")

    @property
    def is_first(self) -> bool:
        """Whether this rank writes files and talks to people."""
        return self.rank == 0

    def dense_mesh(self) -> DeviceMesh:
        """Over which every parameter but routed experts is sharded; with copies, a second axis before."""
        assert self._mesh is not None and self._flat is not None
        return self._mesh["replicate", "shard"] if self.replicate > 1 else self._flat

    def expert_mesh(self) -> DeviceMesh:
        """Over which whole experts are split."""
        assert self._mesh is not None
        return self._mesh["expert"]

    def outer_mesh(self) -> DeviceMesh:
        """Over which the experts of one rank of `expert_mesh` are sharded further."""
        assert self._mesh is not None
        return self._mesh["replicate", "outer"] if self.replicate > 1 else self._mesh["outer"]

    def shard_group(self) -> dist.ProcessGroup:
        """The ranks that hold one copy of the model together."""
        assert self._flat is not None
        return self._flat.get_group()

    def sum(self, *values: float) -> list[float]:
        """Each value summed over all ranks."""
        if self.size == 1:
            return list(values)
        numbers = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(numbers, group=self.control)
        return [float(number) for number in numbers]

    def sum_over_shards(self, value: Tensor) -> Tensor:
        """A scalar on the device, summed over the ranks that hold one copy of the model; in place."""
        if self.shard > 1:
            dist.all_reduce(value, group=self.shard_group())
        return value

    def sum_tensors(self, tensors: Sequence[Tensor]) -> None:
        """Sum small integer tensors over all ranks, in place, in one message."""
        if self.size == 1 or not tensors:
            return
        whole = torch.cat([tensor.flatten().cpu() for tensor in tensors])
        dist.all_reduce(whole, group=self.control)
        for tensor, part in zip(tensors, whole.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def any(self, is_true: bool) -> bool:
        """Whether it is true on any rank."""
        return self.sum(float(is_true))[0] > 0

    def broadcast(self, value: T) -> T:
        """What rank 0 holds, on every rank."""
        if self.size == 1:
            return value
        box: list[Any] = [value if self.is_first else None]
        dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]

    def gather(self, value: T) -> list[T]:
        """What every rank holds, in the order of the ranks, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.control)
        return values

    def barrier(self) -> None:
        """Wait until all are here."""
        if self.size > 1:
            dist.barrier(group=self.control)

    def _refuse_strangers(self, runtime: Runtime) -> None:
        """All ranks have to run the same code in the same layout; sums differ silently otherwise."""
        mine = {
            "hanse": __version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
            "layout": f"{runtime.ranks} ranks, replicate {runtime.replicate}, expert {runtime.expert}",
            "precision": str(runtime.dtype).removeprefix("torch."),
            "device": runtime.device.type,
        }
        _compare(self.gather(mine))


def is_lost_peer(error: BaseException) -> bool:
    """Whether an error only says that another rank is gone."""
    signs = ("connection closed by peer", "connection reset", "broken pipe", "timed out", "socket closed", "nccl")
    is_network = isinstance(error, dist.DistError) or any(sign in str(error).lower() for sign in signs)
    return dist.is_initialized() and isinstance(error, RuntimeError) and is_network


def leave(code: int) -> None:
    """End a process that was in a group. gloo aborts one interpreter exit in six after success, so skip that exit."""
    sys.stdout.flush()
    sys.stderr.flush()
    if dist.is_initialized():
        os._exit(code)


def _join(device: torch.device) -> None:
    backend = "nccl" if device.type == "cuda" else "gloo"  # torch's ROCm build calls its RCCL nccl too
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT", "RANK") if not os.environ.get(name)]
    if missing:
        raise InputError(
            f"WORLD_SIZE is set but {', '.join(missing)} is not; start with torchrun or `hanse launch`, or unset it."
        )
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        dist.init_process_group(backend, timeout=PATIENCE if backend == "gloo" else datetime.timedelta(minutes=20))
    except (RuntimeError, ValueError) as error:
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise InputError(f"ranks cannot meet at {place}: {str(error).splitlines()[0]}") from error


def _compare(facts: Sequence[Mapping[str, str]]) -> None:
    for key, value in facts[0].items():
        for rank, other in enumerate(facts):
            if other[key] != value:
                raise InputError(
                    f"ranks: rank 0 has {key} {value}, rank {rank} has {other[key]}; install and start the same "
                    "everywhere."
                )
