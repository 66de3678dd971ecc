"""The block of Apertus (Swiss AI Initiative, arXiv:2509.14233): grouped queries with normalised heads, and xIELU.

Legend: B rows, T positions, N tokens of a packed batch, P places of all groups, D hidden, H heads, K key and value
heads, X head width, R = X rotated width, F feed-forward width, S cached positions.

Documents are packed as in `documents`: every group is dense and causal, so no mask is made. Queries, keys and values
are equally wide, which is what the fused kernels want, on a CPU too.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hanse.model.cache import View
from hanse.model.config import ApertusConfig
from hanse.model.documents import Layout
from hanse.model.norm import RMSNorm
from hanse.model.product import product
from hanse.model.rotation import rotate_halves

#: Of xIELU: the slope at 0, and the bound that other code puts on e^x - 1.
_BETA, _EPSILON = 0.5, -1e-6
#: What the two trained slopes start as: 0.8 after the softplus, in bfloat16's precision as in the published models (so
#: 0.79986). The second goes on from beta.
FIRST_SLOPES = {"alpha_p": 0.203125, "alpha_n": -1.046875}


class _Fill(torch.autograd.Function):
    """Packed (N, ...) to places (P, ...).

    The filling stands behind every token of its document, where causality hides it: its gradient is zero and the
    backward a gather, where autograd's own would be a slow index_add.
    """

    @staticmethod
    def forward(ctx, values, places_P, real_N):
        ctx.save_for_backward(real_N)
        return values.index_select(0, places_P)

    @staticmethod
    def backward(ctx, gradient):
        (real_N,) = ctx.saved_tensors
        return gradient.index_select(0, real_N), None, None


class _Take(torch.autograd.Function):
    """Places (P, ...) to packed (N, ...)."""

    @staticmethod
    def forward(ctx, values, real_N):
        ctx.save_for_backward(real_N)
        ctx.places = len(values)
        return values.index_select(0, real_N)

    @staticmethod
    def backward(ctx, gradient):
        (real_N,) = ctx.saved_tensors
        filled = gradient.new_zeros(ctx.places, *gradient.shape[1:])
        return filled.index_copy_(0, real_N, gradient), None


class GroupedQueryAttention(nn.Module):
    """Attention in which H / K queries share a key and a value (arXiv:2305.13245). Hugging Face names."""

    def __init__(self, config: ApertusConfig) -> None:
        super().__init__()
        self.config = config
        hidden, width = config.hidden_size, config.head_dim
        self.q_proj = nn.Linear(hidden, config.num_attention_heads * width, bias=False)
        self.k_proj = nn.Linear(hidden, config.num_key_value_heads * width, bias=False)
        self.v_proj = nn.Linear(hidden, config.num_key_value_heads * width, bias=False)
        self.o_proj = nn.Linear(config.num_attention_heads * width, hidden, bias=False)
        self.q_norm = RMSNorm(width, config.rms_norm_eps)
        self.k_norm = RMSNorm(width, config.rms_norm_eps)

    def forward(self, x_ND: Tensor, turns_NR: Tensor, layout: Layout) -> Tensor:
        """Attend inside each document of a packed batch. Returns (N, D)."""
        query_NHX, key_NKX, value_NKX = self._project(x_ND, turns_NR)
        return product(_attend(query_NHX, key_NKX, value_NKX, layout).flatten(1), self.o_proj.weight)

    def extend(self, x_ND: Tensor, turns_NR: Tensor, past: View, *, layer: int) -> Tensor:
        """Attend to the past and to these tokens, after writing their keys and values. Returns (N, D)."""
        query_NHX, key_NKX, value_NKX = self._project(x_ND, turns_NR)
        past.write(layer, torch.cat((key_NKX, value_NKX), -1).flatten(1))
        heads = (self.config.num_key_value_heads, 2 * self.config.head_dim)
        outs = []
        for group in past.groups:
            query, key, value = (
                x[group.part].unflatten(0, (group.rows, -1)).transpose(1, 2) for x in (query_NHX, key_NKX, value_NKX)
            )
            bias = None
            if not group.is_fresh:
                held_BSX = past.read(layer, group).to(query.dtype)
                key, value = held_BSX.unflatten(-1, heads).transpose(1, 2).chunk(2, -1)
                bias = None if group.bias_BTS is None else group.bias_BTS.unsqueeze(1).to(query.dtype)
            out_BHTX = _scaled_products(query, key, value, mask=bias, is_causal=group.is_fresh)
            outs.append(out_BHTX.transpose(1, 2).flatten(0, 1))
        out_NHX = outs[0] if len(outs) == 1 else torch.cat(outs)
        return product(out_NHX.flatten(1), self.o_proj.weight)

    def _project(self, x_ND: Tensor, turns_NR: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries (N, H, X) and keys (N, K, X), and values (N, K, X)."""
        query, key, value = (
            product(x_ND, projection.weight).unflatten(-1, (-1, self.config.head_dim))
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = rotate_halves(self.q_norm(query), turns_NR), rotate_halves(self.k_norm(key), turns_NR)
        return query, key, value


@torch.compiler.disable  # documents are only known at run time
def _attend(query_NHX: Tensor, key_NKX: Tensor, value_NKX: Tensor, layout: Layout) -> Tensor:
    """Causal attention inside each document, one call of the fused kernel for each group. Returns (N, H, X)."""
    inputs = (query_NHX, key_NKX, value_NKX)
    if layout.places_P is not None and layout.real_N is not None:
        inputs = tuple(_Fill.apply(x, layout.places_P, layout.real_N) for x in inputs)
    outs, begin = [], 0
    for documents, length in layout.groups:
        end = begin + documents * length
        parts = (x[begin:end].unflatten(0, (documents, length)).transpose(1, 2) for x in inputs)
        outs.append(_scaled_products(*parts, is_causal=True).transpose(1, 2).flatten(0, 1))
        begin = end
    out_PHX = outs[0] if len(outs) == 1 else torch.cat(outs)
    return out_PHX if layout.real_N is None else _Take.apply(out_PHX, layout.real_N)


def _scaled_products(
    query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor | None = None, is_causal: bool = False
) -> Tensor:
    """softmax(query key / sqrt(X)) value for (B, H, T, X) and (B, K, S, X), by torch's fused kernel."""
    # On CUDA in float32 only one of the fast kernels is left, and that one knows no groups.
    if query.is_cuda and query.dtype == torch.float32:
        repeats = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    is_grouped = key.shape[1] != query.shape[1]
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=is_causal, enable_gqa=is_grouped)


class _XIELU(torch.autograd.Function):
    """Keeps only its input: the composite operators would keep five tensors of this size."""

    @staticmethod
    def forward(ctx, x_NF, positive, negative, beta):
        ctx.save_for_backward(x_NF, positive, negative, beta)
        return _xielu(x_NF.float(), positive, negative, beta).to(x_NF.dtype)

    @staticmethod
    def backward(ctx, gradient_NF):
        x_NF, positive, negative, beta = ctx.saved_tensors
        wide, gradient = x_NF.float(), gradient_NF.float()
        above, below = wide.clamp_min(0.0), wide.clamp_max(0.0)
        bent = below.expm1()
        d_positive = torch.dot(gradient.flatten(), above.square().flatten())
        d_negative = torch.dot(gradient.flatten(), (bent - below).flatten())
        d_x = above.mul_(2.0 * positive).addcmul_(bent, negative).add_(beta).mul_(gradient)
        return d_x.to(x_NF.dtype), d_positive.view_as(positive), d_negative.view_as(negative), None


def _xielu(x: Tensor, positive: Tensor, negative: Tensor, beta: Tensor) -> Tensor:
    # By clamps: with a choice element by element, forward and backward took 3.7 times as long (4096 x 1664, AVX2).
    above, below = x.clamp_min(0.0), x.clamp_max(0.0)
    return torch.addcmul(torch.addcmul(above.square() * positive, below.expm1() - below, negative), x, beta)


class XIELU(nn.Module):
    """positive x^2 + beta x above 0, negative (e^x - 1 - x) + beta x below (arXiv:2411.13010), in float32.

    The two slopes are trained: `alpha_p` and `alpha_n` hold them before a softplus, the latter without its beta.
    `beta` and `eps` are constants that the Hugging Face layout stores all the same. Other code bounds e^x by e^eps;
    that changes nothing but the gradient at exactly 0, where this one keeps to the paper.
    """

    beta: Tensor
    eps: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.alpha_p = nn.Parameter(torch.empty(1))
        self.alpha_n = nn.Parameter(torch.empty(1))
        self.register_buffer("beta", torch.tensor(_BETA))
        self.register_buffer("eps", torch.tensor(_EPSILON))

    def forward(self, x_NF: Tensor) -> Tensor:
        with torch.autocast(x_NF.device.type, enabled=False):
            positive = F.softplus(self.alpha_p.float())
            negative = self.beta + F.softplus(self.alpha_n.float())
            if torch.compiler.is_compiling():  # the compiler fuses the plain formula
                return _xielu(x_NF.float(), positive, negative, self.beta).to(x_NF.dtype)
            return _XIELU.apply(x_NF, positive, negative, self.beta)

    @torch.no_grad()
    def reset_buffers(self) -> None:
        """Set the constants, which a model that was made on the meta device has lost."""
        self.beta.fill_(_BETA)
        self.eps.fill_(_EPSILON)


class FeedForward(nn.Module):
    """down(xielu(up x)), without a gate."""

    def __init__(self, config: ApertusConfig) -> None:
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.act_fn = XIELU()
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x_ND: Tensor) -> Tensor:
        return product(self.act_fn(product(x_ND, self.up_proj.weight)), self.down_proj.weight)


class ApertusBlock(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, config: ApertusConfig) -> None:
        super().__init__()
        self.attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = GroupedQueryAttention(config)
        self.feedforward_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = FeedForward(config)

    def forward(self, x_ND: Tensor, turns_NR: Tensor, layout: Layout) -> Tensor:
        x_ND = x_ND + self.self_attn(self.attention_layernorm(x_ND), turns_NR, layout)
        return x_ND + self.mlp(self.feedforward_layernorm(x_ND))

    def extend(self, x_ND: Tensor, turns_NR: Tensor, past: View, *, layer: int) -> Tensor:
        """The same for tokens that have a past."""
        x_ND = x_ND + self.self_attn.extend(self.attention_layernorm(x_ND), turns_NR, past, layer=layer)
        return x_ND + self.mlp(self.feedforward_layernorm(x_ND))
