"""Feed-forward layers: dense, and fine-grained experts with shared ones (DeepSeekMoE, arXiv:2401.06066).

Legend: N tokens, D hidden, E experts, K experts a token, S = N * K chosen pairs sorted by expert, F expert width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hanse.model.config import ModelConfig
from hanse.model.product import FEW_ROWS, columns, product

# Where every expert gets tokens and this many times more arithmetic is the price, two products over all experts are
# faster than a pair for each: 0.8 against 1.4 ms for 16 tokens and 16 experts of 96 x 256, 4 a token, on two cores.
_EVERY_EXPERT_FOR = 4


class Routing(NamedTuple):
    """Chosen experts (N, K) int64 and their mixing weights (N, K) float32.

    A tuple, because sharding looks for the tensors that a module returns, and finds none inside a dataclass.
    """

    experts_NK: Tensor
    weights_NK: Tensor


def route(scores_NE: Tensor, bias_E: Tensor, config: ModelConfig) -> Routing:
    """Pick `num_experts_per_tok` experts per token by biased score; mix by the unbiased one.

    The bias only steers who is chosen (auxiliary-loss-free balancing, DeepSeek-V3, arXiv:2412.19437, sec. 2.1.2).
    With groups, only experts of the `topk_group` best groups may be chosen, a group being worth the sum of its two
    best.

    Args:
        scores_NE: sigmoid affinities, float32, in (0, 1).
        bias_E: balance bias, float32, not trained by gradient.
        config: gives n_group, topk_group, num_experts_per_tok, norm_topk_prob and routed_scaling_factor.
    """
    with torch.no_grad():
        biased_NE = scores_NE + bias_E
        if config.topk_group < config.n_group:
            biased_NGE = biased_NE.unflatten(-1, (config.n_group, -1))
            worth_NG = biased_NGE.topk(2, dim=-1).values.sum(-1)
            chosen_NG = worth_NG.topk(config.topk_group, dim=-1, sorted=False).indices
            is_shut_NG = torch.ones_like(worth_NG, dtype=torch.bool).scatter_(1, chosen_NG, False)
            biased_NE = biased_NGE.masked_fill(is_shut_NG.unsqueeze(-1), float("-inf")).flatten(1)
        experts_NK = biased_NE.topk(config.num_experts_per_tok, dim=-1, sorted=False).indices
    weights_NK = scores_NE.gather(1, experts_NK)
    if config.norm_topk_prob:
        weights_NK = weights_NK / (weights_NK.sum(-1, keepdim=True) + 1e-20)
    return Routing(experts_NK, weights_NK * config.routed_scaling_factor)


class _Swiglu(torch.autograd.Function):
    """silu(gate) * up for (N, 2F) rows [gate, up]; keeps only its input, and writes its gradient in one buffer."""

    @staticmethod
    def forward(ctx, pair_N2F):
        ctx.save_for_backward(pair_N2F)
        gate, up = pair_N2F.chunk(2, -1)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx, gradient_NF):
        (pair_N2F,) = ctx.saved_tensors
        gate, up = pair_N2F.chunk(2, -1)
        d_pair = torch.empty_like(pair_N2F)
        d_gate, d_up = d_pair.chunk(2, -1)
        torch.mul(gradient_NF, F.silu(gate), out=d_up)
        d_gate.copy_(torch.ops.aten.silu_backward(gradient_NF * up, gate))
        return d_pair


class _Experts(torch.autograd.Function):
    """All routed experts of a layer, one after the other on rows gathered in expert order.

    An expert's rows stay in cache between its two products. Sums over a token's K outputs, and over the K gradients
    of its input, are gathers through the inverse permutation (`embedding_bag`): measured 1.0 ms, against 6.7 for a
    gather and a sum and, at larger sizes, far more for the index_add that autograd would use.
    """

    @staticmethod
    def forward(ctx, x_ND, weights_NK, experts_NK, gate_up_E2FD, down_EDF):
        order_S, inverse_NK, counts_E = sort_by_expert(experts_NK, down_EDF.shape[0])
        counts = counts_E.tolist()
        tokens_S = order_S // experts_NK.shape[1]
        weights_S1 = weights_NK.flatten()[order_S].unsqueeze(1).to(x_ND.dtype)
        pairs_S2F = x_ND.new_empty(len(order_S), 2 * down_EDF.shape[2])
        out_SD = x_ND.new_empty(len(order_S), x_ND.shape[1])
        for expert, rows in _runs(counts):
            gate_up_2FD, pair = gate_up_E2FD[expert].flatten(0, 1), pairs_S2F[rows]
            torch.mm(x_ND.index_select(0, tokens_S[rows]), gate_up_2FD.T, out=pair)
            gate, up = pair.chunk(2, -1)
            torch.mm(F.silu(gate).mul_(up).mul_(weights_S1[rows]), down_EDF[expert].T, out=out_SD[rows])
        ctx.save_for_backward(x_ND, weights_S1, gate_up_E2FD, down_EDF, pairs_S2F, order_S, tokens_S, inverse_NK)
        ctx.counts = counts
        return F.embedding_bag(inverse_NK, out_SD, mode="sum")

    @staticmethod
    def backward(ctx, gradient_ND):
        x_ND, weights_S1, gate_up_E2FD, down_EDF, pairs_S2F, order_S, tokens_S, inverse_NK = ctx.saved_tensors
        d_gate_up, d_down = torch.zeros_like(gate_up_E2FD), torch.zeros_like(down_EDF)
        d_x_SD = x_ND.new_empty(len(order_S), x_ND.shape[1])
        d_weights_S = weights_S1.new_empty(len(order_S))
        for expert, rows in _runs(ctx.counts):
            gate_up_2FD, pair = gate_up_E2FD[expert].flatten(0, 1), pairs_S2F[rows]
            d_out, weight = gradient_ND.index_select(0, tokens_S[rows]), weights_S1[rows]
            gate, up = pair.chunk(2, -1)
            silu = F.silu(gate)
            hidden = silu * up
            d_weighted = d_out @ down_EDF[expert]
            torch.linalg.vecdot(d_weighted, hidden, out=d_weights_S[rows])
            torch.mm(d_out.T, hidden.mul_(weight), out=d_down[expert])
            d_hidden = d_weighted.mul_(weight)
            d_pair = torch.empty_like(pair)
            d_gate, d_up = d_pair.chunk(2, -1)
            torch.mul(d_hidden, silu, out=d_up)
            d_gate.copy_(torch.ops.aten.silu_backward(d_hidden.mul_(up), gate))
            torch.mm(d_pair.T, x_ND.index_select(0, tokens_S[rows]), out=d_gate_up[expert].view_as(gate_up_2FD))
            torch.mm(d_pair, gate_up_2FD, out=d_x_SD[rows])
        d_weights = torch.empty_like(d_weights_S).scatter_(0, order_S, d_weights_S).view_as(inverse_NK)
        return F.embedding_bag(inverse_NK, d_x_SD, mode="sum"), d_weights.float(), None, d_gate_up, d_down


def infer_experts(
    x_ND: Tensor, weights_NK: Tensor, experts_NK: Tensor, gate_up_E2FD: Tensor, down_EDF: Tensor
) -> Tensor:
    """What `_Experts` computes, for a step of serving: at most `FEW_ROWS` tokens, and no gradient."""
    experts, each = len(down_EDF), experts_NK.shape[1]
    if experts <= experts_NK.numel() and experts <= _EVERY_EXPERT_FOR * each:
        return _every_expert(x_ND, weights_NK, experts_NK, gate_up_E2FD, down_EDF)
    order_S, inverse_NK, counts_E = sort_by_expert(experts_NK, experts)
    chosen = [(expert, count) for expert, count in enumerate(counts_E.tolist()) if count]
    sizes = [count for _, count in chosen]
    rows_SD = x_ND.index_select(0, order_S // each).split(sizes)
    pairs = [
        columns(x_nD, gate_up_E2FD[expert].flatten(0, 1)) for (expert, _), x_nD in zip(chosen, rows_SD, strict=True)
    ]
    gate_FS, up_FS = torch.cat(pairs, 1).chunk(2)
    hidden_FS = F.silu(gate_FS).mul_(up_FS).mul_(weights_NK.flatten()[order_S].to(x_ND.dtype))
    hidden_SF = hidden_FS.T.contiguous().split(sizes)
    outs = [columns(hidden_nF, down_EDF[expert]) for (expert, _), hidden_nF in zip(chosen, hidden_SF, strict=True)]
    return F.embedding_bag(inverse_NK, torch.cat(outs, 1).T.contiguous(), mode="sum")


def _every_expert(
    x_ND: Tensor, weights_NK: Tensor, experts_NK: Tensor, gate_up_E2FD: Tensor, down_EDF: Tensor
) -> Tensor:
    """The same by two products over all experts, of which those not chosen weigh nothing."""
    experts = len(down_EDF)
    pairs_E2FN = torch.bmm(gate_up_E2FD.flatten(1, 2), x_ND.T.expand(experts, -1, -1))
    gate_EFN, up_EFN = pairs_E2FN.chunk(2, 1)
    weights_NE = x_ND.new_zeros(len(x_ND), experts).scatter_(1, experts_NK, weights_NK.to(x_ND.dtype))
    hidden_EFN = F.silu(gate_EFN).mul_(up_EFN).mul_(weights_NE.T.unsqueeze(1))
    return torch.bmm(down_EDF, hidden_EFN).sum(0).T.contiguous()


class ToExperts(torch.autograd.Function):
    """Rows of x in expert order (S, D); the backward sums each token's K gradients by a gather."""

    @staticmethod
    def forward(ctx, x_ND, tokens_S, inverse_NK):
        ctx.save_for_backward(inverse_NK)
        return x_ND.index_select(0, tokens_S)

    @staticmethod
    def backward(ctx, gradient_SD):
        return F.embedding_bag(ctx.saved_tensors[0], gradient_SD, mode="sum"), None, None


class FromExperts(torch.autograd.Function):
    """Sum of each token's K rows (N, D); the backward is a gather."""

    @staticmethod
    def forward(ctx, out_SD, tokens_S, inverse_NK):
        ctx.save_for_backward(tokens_S)
        return F.embedding_bag(inverse_NK, out_SD, mode="sum")

    @staticmethod
    def backward(ctx, gradient_ND):
        return gradient_ND.index_select(0, ctx.saved_tensors[0]), None, None


def _grouped(x_ND: Tensor, weights_NK: Tensor, experts_NK: Tensor, gate_up_E2FD: Tensor, down_EDF: Tensor) -> Tensor:
    """What `_Experts` computes, with one grouped product for all experts and without waiting for the counts."""
    order_S, inverse_NK, counts_E = sort_by_expert(experts_NK, down_EDF.shape[0])
    tokens_S = order_S // experts_NK.shape[1]
    # grouped_mm reads int32 offsets only.
    ends_E = counts_E.cumsum(0).to(torch.int32)
    weights_S1 = weights_NK.flatten()[order_S].unsqueeze(1).to(x_ND.dtype)
    rows_SD = ToExperts.apply(x_ND, tokens_S, inverse_NK)
    pairs_S2F = F.grouped_mm(rows_SD, gate_up_E2FD.flatten(1, 2).mT, offs=ends_E)
    out_SD = F.grouped_mm(_Swiglu.apply(pairs_S2F) * weights_S1, down_EDF.mT, offs=ends_E)
    return FromExperts.apply(out_SD, tokens_S, inverse_NK)


def sort_by_expert(experts_NK: Tensor, experts: int) -> tuple[Tensor, Tensor, Tensor]:
    """Order of the chosen pairs by expert (S), its inverse (N, K), and pairs per expert."""
    flat_S = experts_NK.flatten()
    order_S = torch.sort(flat_S, stable=True).indices
    inverse_S = torch.empty_like(order_S).scatter_(0, order_S, torch.arange(len(order_S), device=order_S.device))
    return order_S, inverse_S.view_as(experts_NK), torch.bincount(flat_S, minlength=experts)


def _runs(counts: list[int]) -> Iterator[tuple[int, slice]]:
    """Each expert that has rows, with their slice."""
    begin = 0
    for expert, count in enumerate(counts):
        if count:
            yield expert, slice(begin, begin + count)
        begin += count


class Dense(nn.Module):
    """SwiGLU: down(silu(gate x) * up x). Gate and up lie in one (2, F, D) parameter, so that one product makes both."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.gate_up = nn.Parameter(torch.empty(2, width, hidden))
        self.down = nn.Parameter(torch.empty(hidden, width))
        self.product: Callable[[Tensor, Tensor], Tensor] = product  # `hanse.parallel.float8` puts another here

    def forward(self, x_ND: Tensor) -> Tensor:
        pair_N2F = self.product(x_ND, self.gate_up.flatten(0, 1))
        if torch.compiler.is_compiling():
            gate, up = pair_N2F.chunk(2, -1)
            return self.product(F.silu(gate) * up, self.down)
        if not torch.is_grad_enabled():
            gate, up = pair_N2F.chunk(2, -1)
            return self.product(F.silu(gate).mul_(up), self.down)
        return self.product(_Swiglu.apply(pair_N2F), self.down)


class Router(nn.Module):
    """Sigmoid affinities in float32, whatever autocast says: close scores flip otherwise.

    Buffers: `e_score_correction_bias` (E) moves only in `Transformer.update_router_bias`; `counts_E` gathers what
    training forwards chose since then.
    """

    e_score_correction_bias: Tensor
    counts_E: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.n_routed_experts, config.hidden_size))
        self.register_buffer("e_score_correction_bias", torch.zeros(config.n_routed_experts))
        self.register_buffer("counts_E", torch.zeros(config.n_routed_experts, dtype=torch.int64), persistent=False)
        self.is_counting = True  # not while a forward is computed a second time for its activations

    def forward(self, x_ND: Tensor) -> Routing:
        with torch.autocast(x_ND.device.type, enabled=False):
            scores_NE = F.linear(x_ND.float(), self.weight.float()).sigmoid()
            routing = route(scores_NE, self.e_score_correction_bias, self.config)
        if self.training and self.is_counting:
            chosen_S = routing.experts_NK.flatten()
            self.counts_E.scatter_add_(0, chosen_S, torch.ones_like(chosen_S))
        return routing


class RoutedExperts(nn.Module):
    """The stacks of all routed experts.

    Attributes:
        gate_up, down: (E, 2, F, D) and (E, D, F).
        compute: how their part of the sum is found, `compute_experts` on one device; `hanse.parallel.expert` puts its
            own here, which asks other ranks.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        experts, hidden, width = config.n_routed_experts, config.hidden_size, config.moe_intermediate_size
        self.gate_up = nn.Parameter(torch.empty(experts, 2, width, hidden))
        self.down = nn.Parameter(torch.empty(experts, hidden, width))
        self.compute: Callable[[Tensor, Routing, Tensor, Tensor], Tensor] = compute_experts

    def forward(self, x_ND: Tensor, routing: Routing) -> Tensor:
        return self.compute(x_ND, routing, self.gate_up, self.down)


class Experts(nn.Module):
    """Routed experts plus shared ones that see every token."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = Router(config)
        self.experts = RoutedExperts(config)
        self.shared_experts = Dense(config.hidden_size, config.moe_intermediate_size * config.n_shared_experts)

    def forward(self, x_ND: Tensor) -> Tensor:
        return self.experts(x_ND, self.gate(x_ND)) + self.shared_experts(x_ND)


@torch.compiler.disable  # how many tokens an expert gets is only known at run time
def compute_experts(x_ND: Tensor, routing: Routing, gate_up_E2FD: Tensor, down_EDF: Tensor) -> Tensor:
    """The routed experts' part of the sum, in autocast's dtype where it is on: autocast does not look inside."""
    operands = [x_ND, gate_up_E2FD, down_EDF]
    if torch.is_autocast_enabled(x_ND.device.type):
        operands = [value.to(torch.get_autocast_dtype(x_ND.device.type)) for value in operands]
    x, gate_up, down = operands
    # CUDA has a grouped kernel for bfloat16; on a CPU the loop is faster, because an expert's rows stay in cache.
    if x.is_cuda and x.dtype == torch.bfloat16:
        compute = _grouped
    elif torch.is_grad_enabled() or len(x) > FEW_ROWS:
        compute = _Experts.apply
    else:
        compute = infer_experts
    return compute(x, routing.weights_NK, routing.experts_NK, gate_up, down)
