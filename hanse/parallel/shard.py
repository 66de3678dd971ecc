"""Sharding: every rank keeps a part of each parameter and gathers a block's whole ones while it computes that block.

FSDP2 (`fully_shard`), over all ranks or, with copies of the model (HSDP), over the ranks of one copy. All that is
applied to a model from outside is applied here, in one order; each step needs those before it:

    1. split the experts over ranks, while they are plain parameters;
    2. put float8 products in, which compilation has to see;
    3. compile each block's forward, which must not see collectives of its own parameters;
    4. recompute activations: outside of the compiled forward, whose graph breaks a checkpoint cannot hold;
    5. shard: blocks first, then what is left under the root.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from hanse.errors import InputError
from hanse.model.loss import Objective
from hanse.model.moe import RoutedExperts, Router
from hanse.model.transformer import Transformer
from hanse.parallel import expert, float8
from hanse.parallel.compiled import Compiled
from hanse.parallel.ranks import Ranks
from hanse.parallel.recompute import recompute
from hanse.runtime import Runtime


class Placed:
    """A model as one rank trains it.

    Attributes:
        objective: the model and its loss; call this.
        compiled: the switch of its blocks' compilation.
    """

    def __init__(self, model: Transformer, ranks: Ranks, runtime: Runtime, *, z_weight: float = 0.0) -> None:
        """Place a model in place.

        Args:
            model: with its weights, the same on every rank; or on the meta device after `init_weights`: then every
                rank draws only what it keeps.
            ranks: who takes part.
            runtime: where, in which precision, and whether activations are recomputed.
            z_weight: as `Objective` takes it.
        """
        if ranks.size > 1 and not getattr(model, "isolates", True):
            raise InputError(
                "this family lets packed documents see each other, so every batch takes another number of forwards and "
                "ranks would wait for one another for ever; train it on one rank."
            )
        self.objective = Objective(model, z_weight=z_weight)
        if ranks.expert > 1:
            stacks = [module for module in model.modules() if isinstance(module, RoutedExperts)]
            if not stacks:
                raise InputError(f"--expert {ranks.expert}: this model has no experts to split; leave it out.")
            for experts in stacks:
                expert.split(experts, ranks)
                _shard(experts, ranks.outer_mesh(), runtime.dtype)
        if runtime.float8 and float8.is_served(runtime.device):
            float8.apply(model)
        self.compiled = Compiled(blocks(model))
        if runtime.recompute:
            for block in blocks(model):
                recompute(block)
        if ranks.size > 1:
            for block in blocks(model):
                for router in [module for module in block.modules() if isinstance(module, Router)]:
                    _shard(router, ranks.dense_mesh(), torch.float32)  # scores are always float32
                _shard(block, ranks.dense_mesh(), runtime.dtype)
            _shard(self.objective, ranks.dense_mesh(), torch.float32)
        _materialise(model, runtime.device)
        self.objective.to(runtime.device)


def sum_over_copies(objective: Objective, is_last: bool) -> None:
    """Let copies of the model exchange gradients in the coming backward: in that of a step's last micro-batch only."""
    if isinstance(objective, FSDPModule):
        objective.set_requires_all_reduce(is_last)


def blocks(model: Transformer) -> list[nn.Module]:
    """The blocks of a model, that of the multi-token module last."""
    return [*model.layers, *([model.mtp.block] if model.mtp is not None else [])]


def _shard(module: nn.Module, mesh: DeviceMesh, dtype: torch.dtype) -> None:
    size = mesh.size(mesh.ndim - 1)
    policy = MixedPrecisionPolicy(
        param_dtype=None if dtype == torch.float32 else dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    sharded = cast(
        FSDPModule, fully_shard(module, mesh=mesh, mp_policy=policy, shard_placement_fn=partial(_placement, size))
    )
    # The loss is divided by the tokens of all ranks already: gradients are summed, not averaged.
    sharded.set_gradient_divide_factor(1.0)
    sharded.set_force_sum_reduction_for_comms(True)


def _placement(ranks: int, parameter: nn.Parameter) -> Shard:
    """The axis to cut: between experts where that comes out even, else through their width; pairs (2, F, D) along F."""
    is_pair = parameter.ndim == 3 and parameter.shape[0] == 2
    is_even = local(parameter).shape[0] % ranks == 0
    axis = 1 if is_pair else 2 if parameter.ndim > 2 and not is_even else 0
    return Shard(axis if parameter.shape[axis] % ranks == 0 else 0)  # FSDP cuts only its first axis unevenly


def _materialise(model: Transformer, device: torch.device) -> None:
    """Give a model on the meta device memory and its first weights, each rank its own part of them only."""
    if not any(parameter.is_meta for parameter in model.parameters()):
        return
    model.to_empty(device=device)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not isinstance(parameter, DTensor):
                parameter.copy_(model.first_weights(name, parameter.shape))
                continue
            shape, offset = compute_local_shape_and_global_offset(
                parameter.shape, parameter.device_mesh, parameter.placements
            )
            local = parameter.to_local()
            if local.numel() == 0:
                continue
            first = model.first_weights(name, parameter.shape, range(offset[0], offset[0] + shape[0]))
            for axis in range(1, parameter.ndim):
                first = first.narrow(axis, offset[axis], shape[axis])
            local.copy_(first)
        model.reset_buffers()


@torch.no_grad()
def whole(model: Transformer, ranks: Ranks) -> Transformer | None:
    """The model in one piece, on the CPU of rank 0; None on the others. All ranks have to call it.

    Args:
        model: as `Placed` left it; itself where there is one rank only.
    """
    if ranks.size == 1:
        return model
    # Experts are cut along two axes of the mesh, of which torch gathers one after the other; it warns of the time.
    logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)
    target = model.blank() if ranks.is_first else None
    places = dict(target.named_parameters()) if target is not None else {}
    for name, parameter in model.named_parameters():
        full = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
        if places:
            places[name].copy_(full)
    if target is None:
        return None
    for (_, mine), (_, given) in zip(target.named_buffers(), model.named_buffers(), strict=True):
        mine.copy_(given)
    return target.eval()


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor; the tensor itself where it is whole."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def like(part: Tensor, parameter: Tensor) -> Tensor:
    """`part` as the same part of the same kind of tensor as `parameter` is; itself where that is whole."""
    if not isinstance(parameter, DTensor):
        return part
    return DTensor.from_local(
        part, parameter.device_mesh, parameter.placements, shape=parameter.shape, stride=parameter.stride()
    )
