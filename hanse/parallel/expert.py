"""Expert parallelism: whole experts live on different ranks, and tokens travel to them and back. None is dropped.

Legend: N tokens, D hidden, E experts, K experts a token, S = N * K chosen pairs sorted by expert, R arrived rows.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from hanse.errors import InputError
from hanse.model.moe import FromExperts, RoutedExperts, Routing, ToExperts, compute_experts, sort_by_expert
from hanse.parallel.ranks import Ranks


def split(experts: RoutedExperts, ranks: Ranks) -> None:
    """Keep only this rank's experts, and send every token to the ranks that hold its own.

    Raises:
        InputError: the ranks do not divide the experts.
    """
    count = experts.down.shape[0]
    if count % ranks.expert:
        raise InputError(
            f"--expert {ranks.expert}: does not divide the {count} routed experts; give a divisor of {count}."
        )
    mesh = ranks.expert_mesh()
    for name, parameter in list(experts.named_parameters(recurse=False)):
        mine = distribute_tensor(parameter.data, mesh, [Shard(0)], src_data_rank=None)
        setattr(experts, name, nn.Parameter(mine))
    experts.compute = _Exchange(mesh.get_group(), ranks.expert)


class _Exchange:
    """What `compute_experts` computes, with the experts of this rank and of its peers."""

    def __init__(self, group: dist.ProcessGroup, ranks: int) -> None:
        self.group, self.ranks = group, ranks

    @torch.compiler.disable  # how many rows travel is only known at run time
    def __call__(self, x_ND: Tensor, routing: Routing, gate_up: Tensor, down: Tensor) -> Tensor:
        gate_up, down = _local(gate_up), _local(down)
        mine = down.shape[0]
        if torch.is_autocast_enabled(x_ND.device.type):
            x_ND = x_ND.to(torch.get_autocast_dtype(x_ND.device.type))  # half the bytes on the wire
        order_S, inverse_NK, counts_E = sort_by_expert(routing.experts_NK, mine * self.ranks)
        tokens_S = order_S // routing.experts_NK.shape[1]
        arriving_RE = torch.empty_like(counts_E)
        dist.all_to_all_single(arriving_RE, counts_E, group=self.group)
        arriving_RE = arriving_RE.view(self.ranks, mine)
        sent, received = counts_E.view(self.ranks, mine).sum(1).tolist(), arriving_RE.sum(1).tolist()

        rows_SD = ToExperts.apply(x_ND, tokens_S, inverse_NK)
        rows_RD = _AllToAll.apply(rows_SD, received, sent, self.group)
        # Rows arrive by rank, and by expert within each: their experts follow from the counts alone.
        local_R = torch.arange(mine, device=x_ND.device).repeat(self.ranks).repeat_interleave(arriving_RE.flatten())
        once = Routing(local_R.unsqueeze(1), torch.ones(len(local_R), 1, device=x_ND.device))
        out_RD = compute_experts(rows_RD, once, gate_up, down)
        back_SD = _AllToAll.apply(out_RD, sent, received, self.group)
        weights_S1 = routing.weights_NK.flatten()[order_S].unsqueeze(1)
        return FromExperts.apply(back_SD * weights_S1.to(back_SD.dtype), tokens_S, inverse_NK)


def _local(parameter: Tensor) -> Tensor:
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


class _AllToAll(torch.autograd.Function):
    """Rows to their ranks; the gradient travels the other way."""

    @staticmethod
    def forward(ctx, rows, received, sent, group):
        ctx.received, ctx.sent, ctx.group = received, sent, group
        return _exchange(rows, received, sent, group)

    @staticmethod
    def backward(ctx, gradient):
        return _exchange(gradient, ctx.sent, ctx.received, ctx.group), None, None, None


def _exchange(rows: Tensor, received: list[int], sent: list[int], group: dist.ProcessGroup) -> Tensor:
    out = rows.new_empty(sum(received), *rows.shape[1:])
    dist.all_to_all_single(out, rows.contiguous(), received, sent, group=group)
    return out
