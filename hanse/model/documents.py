"""Attention inside the documents of a packed batch, as multi-head latent attention (see `attention`) trains it.

Legend: B batch, T positions, N packed tokens, H heads, Q query/key head width (nope + rope), V value head width,
W nope + V, R rope width, L places of a document, G documents of a group, P places of all groups, X documents times
heads of one piece of work, S places that a query sees, D any width.

Everything outside the attention core treats tokens one by one, so a batch is permuted once, before the first block:
documents of equal length come to lie next to each other. Attention is then dense and causal inside each
document, without a mask and without work on pairs that may not see each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hanse.model import varlen
from hanse.model.rotation import rotate

# Scores of one piece of work, in numbers: a piece of 1 MiB stays near the cores; 4 and 16 MiB were slower on AVX2.
_PIECE = 1 << 18
# Queries of one product. Fewer leave out more of the keys that causality hides, more make fewer and larger products.
_QUERY_BLOCK = 128
# Up to this document length probabilities are kept for the backward: about as much memory as queries, keys and
# values together. Beyond, they are recomputed, so that memory stays linear in the length.
_KEEP_UP_TO = 512


@dataclass(frozen=True)
class Layout:
    """How a (B, T) batch is packed: documents one after the other, by length.

    Attention sees them in groups of one length, the shorter ones filled up at their end, where causality hides the
    filling from every token. Groups of exact lengths took 1.3 to 2 times as long (documents of 10 to 60 tokens,
    batches of 8,192 and 2,048; CPU seconds).

    Attributes:
        groups: (documents, places in each), in packed order; the products sum to P >= N.
        positions_N: position of each packed token inside its document, int64.
        order_N: flat (B, T) index of each packed token, or None where packing changes nothing.
        inverse_N: packed index of each flat (B, T) token, or None.
        places_P: packed token of each place of the groups, a document's last one where filled, or None where P = N.
        real_N: place of each packed token, or None.
        bounds: first packed token of each document, and N, int32; or None where one group holds all.
    """

    groups: tuple[tuple[int, int], ...]
    positions_N: Tensor
    order_N: Tensor | None = None
    inverse_N: Tensor | None = None
    places_P: Tensor | None = None
    real_N: Tensor | None = None
    bounds: Tensor | None = None

    @classmethod
    @torch.compiler.disable
    def of(cls, tokens_BT: Tensor, documents_BT: Tensor | None) -> Layout:
        """Pack a batch. Equal numbers in one row are one document, even when another stands between."""
        rows, length = tokens_BT.shape
        if documents_BT is None:
            positions_N = torch.arange(length, device=tokens_BT.device).repeat(rows)
            return cls(((rows, length),), positions_N)
        if documents_BT.shape != tokens_BT.shape:
            raise ValueError(f"documents have shape {tuple(documents_BT.shape)}, tokens {tuple(tokens_BT.shape)}")
        return _pack(documents_BT)

    def pack(self, values_BT: Tensor) -> Tensor:
        """Flatten (B, T, ...) to (N, ...) in packed order."""
        flat_N = values_BT.flatten(0, 1)
        return flat_N if self.order_N is None else flat_N[self.order_N]

    def fill(self, *packed: Tensor) -> tuple[Tensor, ...]:
        """Packed (N, ...) to places (P, ...)."""
        return packed if self.places_P is None else tuple(x.index_select(0, self.places_P) for x in packed)

    def take(self, *filled: Tensor) -> tuple[Tensor, ...]:
        """Places (P, ...) to packed (N, ...)."""
        return filled if self.real_N is None else tuple(x.index_select(0, self.real_N) for x in filled)

    def unpack(self, values_ND: Tensor, shape: torch.Size) -> Tensor:
        """Back from (N, D) to (B, T, D)."""
        if self.order_N is not None and self.inverse_N is not None:
            values_ND = _Permute.apply(values_ND, self.inverse_N, self.order_N)
        return values_ND.view(*shape, -1)


def _pack(documents_BT: Tensor) -> Layout:
    """The layout of a batch of documents: stable sort by (row, document), then by length."""
    device = documents_BT.device
    low, high = documents_BT.aminmax()
    rows_B1 = torch.arange(documents_BT.shape[0], device=device).unsqueeze(1)
    keys_N = ((documents_BT - low) + rows_B1 * (high - low + 1)).flatten()
    sorted_N, by_document_N = torch.sort(keys_N, stable=True)
    lengths = torch.unique_consecutive(sorted_N, return_counts=True)[1]
    starts = lengths.cumsum(0) - lengths
    lengths, by_length = torch.sort(lengths, stable=True)
    starts = starts[by_length]
    begins = lengths.cumsum(0) - lengths
    all_N = torch.arange(keys_N.numel(), device=device)
    positions_N = all_N - begins.repeat_interleave(lengths)
    order_N = by_document_N[starts.repeat_interleave(lengths) + positions_N]
    inverse_N = torch.empty_like(order_N).scatter_(0, order_N, all_N)
    filled = _filled(lengths)
    sizes, counts = torch.unique_consecutive(filled, return_counts=True)
    groups = tuple(zip(counts.tolist(), sizes.tolist(), strict=True))
    bounds = F.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0)) if len(groups) > 1 else None
    if torch.equal(filled, lengths):
        return Layout(groups, positions_N, order_N, inverse_N, bounds=bounds)
    firsts = filled.cumsum(0) - filled
    steps_P = torch.arange(int(filled.sum()), device=device) - firsts.repeat_interleave(filled)
    places_P = begins.repeat_interleave(filled) + torch.minimum(steps_P, (lengths - 1).repeat_interleave(filled))
    real_N = firsts.repeat_interleave(lengths) + positions_N
    return Layout(groups, positions_N, order_N, inverse_N, places_P, real_N, bounds)


def _filled(lengths: Tensor) -> Tensor:
    """Lengths rounded up in steps of an eighth of their power of two, at least 4: some 7 % more. Long ones stay."""
    steps = (2 ** (lengths.float().log2().ceil() - 3)).long().clamp_(min=4)
    return torch.where(lengths > _KEEP_UP_TO, lengths, (lengths + steps - 1) // steps * steps)


class _Permute(torch.autograd.Function):
    """Reorder rows; the backward is a gather too, where autograd's own would be a slow index_add."""

    @staticmethod
    def forward(ctx, values_ND, order_N, inverse_N):
        ctx.save_for_backward(inverse_N)
        return values_ND.index_select(0, order_N)

    @staticmethod
    def backward(ctx, gradient_ND):
        (inverse_N,) = ctx.saved_tensors
        return gradient_ND.index_select(0, inverse_N), None, None


class _DocumentAttention(torch.autograd.Function):
    """Causal attention inside each document; the backward recomputes probabilities of long documents.

    Written out because on this kind of CPU it beats the fused kernel: that one needs values as wide as keys,
    and takes 163 ms where this takes under 94 ms (8 x 512 tokens, 4 heads of 96/64, forward and backward, AVX2).
    """

    @staticmethod
    def forward(ctx, query_NHQ, expanded_NHW, rope_NR, turns_NR, layout):
        ctx.save_for_backward(query_NHQ, expanded_NHW, rope_NR, turns_NR)
        ctx.layout, ctx.kept = layout, []
        inputs = layout.fill(query_NHQ, expanded_NHW, rope_NR, turns_NR)
        nope = query_NHQ.shape[2] - rope_NR.shape[1]
        out_PHV = query_NHQ.new_empty(*inputs[0].shape[:2], expanded_NHW.shape[2] - nope)
        for rows, length in _pieces(layout.groups, query_NHQ.shape[1]):
            query_XLQ, key_XLQ, value_XLV = _assemble(inputs, rows, length)
            out_XLV = torch.empty_like(value_XLV)
            for block, seen in _blocks(length):
                weights = _probabilities(query_XLQ[:, block], key_XLQ[:, :seen])
                out_XLV[:, block] = torch.bmm(weights, value_XLV[:, :seen])
                if length <= _KEEP_UP_TO and any(ctx.needs_input_grad):
                    ctx.kept.append(weights)
            _unfold(out_PHV[rows], length).copy_(out_XLV.view(-1, out_PHV.shape[1], *out_XLV.shape[1:]))
        return layout.take(out_PHV)[0]

    @staticmethod
    def backward(ctx, gradient_NHV):
        inputs = ctx.layout.fill(*ctx.saved_tensors)
        heads = inputs[0].shape[1]
        kept, ctx.kept = iter(ctx.kept), []  # freed with the loop; a second backward recomputes
        gradients = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in inputs[:3]]
        gradient_PHV = gradient_NHV
        if ctx.layout.real_N is not None:
            gradient_PHV = gradient_NHV.new_zeros(len(inputs[0]), *gradient_NHV.shape[1:])
            gradient_PHV.index_copy_(0, ctx.layout.real_N, gradient_NHV)
        for rows, length in _pieces(ctx.layout.groups, heads):
            query, key, value = _assemble(inputs, rows, length)
            d_out = _unfold(gradient_PHV[rows], length).reshape(value.shape)
            dq, dk, dv = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
            for block, seen in _blocks(length):
                weights = next(kept, None) if length <= _KEEP_UP_TO else None
                if weights is None:
                    weights = _probabilities(query[:, block], key[:, :seen])
                # Not into a part of dv or dq: what is not contiguous is multiplied matrix by matrix, some 15 % slower.
                dv[:, :seen] += torch.bmm(weights.mT, d_out[:, block])
                d_weights = torch.bmm(d_out[:, block], value[:, :seen].mT)
                d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
                dq[:, block] = torch.bmm(d_scores, key[:, :seen])
                dk[:, :seen] += torch.bmm(d_scores.mT, query[:, block])
            dq, dk, dv = (x.view(-1, heads, *x.shape[1:]) for x in (dq, dk, dv))
            _disassemble(dq, dk, dv, inputs[3][rows], *(x[rows] for x in gradients))
        return *ctx.layout.take(*gradients), None, None


@torch.compiler.disable  # documents are only known at run time
def attend_documents(
    query_NHQ: Tensor, expanded_NHW: Tensor, rope_NR: Tensor, turns_NR: Tensor, layout: Layout
) -> Tensor:
    """Causal attention inside each document of a packed batch, every head with its own keys and values.

    Args:
        query_NHQ: queries, their last R numbers not rotated yet.
        expanded_NHW: of each head the keys' unrotated numbers and the values.
        rope_NR: the keys' numbers that are rotated, the same for all heads.
        turns_NR: unit complex numbers (N, R / 2), from `rotation`.
        layout: how the batch is packed.

    Returns:
        Outputs (N, H, V).
    """
    compute = _DocumentAttention.apply if query_NHQ.device.type == "cpu" else _fused_attention
    return compute(query_NHQ, expanded_NHW, rope_NR, turns_NR, layout)


def _fused_attention(
    query_NHQ: Tensor, expanded_NHW: Tensor, rope_NR: Tensor, turns_NR: Tensor, layout: Layout
) -> Tensor:
    """What `_DocumentAttention` computes, with torch's fused kernels: one for all lengths, or a call for each group."""
    rope = rope_NR.shape[1]
    nope = query_NHQ.shape[2] - rope
    width = expanded_NHW.shape[2] - nope
    bounds = layout.bounds if width <= query_NHQ.shape[2] and varlen.serves(query_NHQ) else None
    if bounds is None:
        query_NHQ, expanded_NHW, rope_NR, turns_NR = layout.fill(query_NHQ, expanded_NHW, rope_NR, turns_NR)
    turns = turns_NR.unsqueeze(1)
    key_rope = rotate(rope_NR.unsqueeze(1), turns).expand(-1, query_NHQ.shape[1], -1)
    query = torch.cat((query_NHQ[..., :nope], rotate(query_NHQ[..., nope:], turns)), -1)
    key = torch.cat((expanded_NHW[..., :nope], key_rope.to(query.dtype)), -1)
    # Kernels want values as wide as keys: with other widths SDPA falls silently to the quadratic path.
    value = F.pad(expanded_NHW[..., nope:], (0, max(0, query.shape[2] - width)))
    if bounds is not None:
        longest = max(length for _, length in layout.groups)
        return varlen.attend(query, key, value, bounds, longest)[..., :width]
    outs, begin = [], 0
    for documents, length in layout.groups:
        end = begin + documents * length
        q, k, v = (_unfold(x[begin:end], length) for x in (query, key, value))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=query.shape[2] ** -0.5)
        outs.append(out.transpose(1, 2).flatten(0, 1)[..., :width])
        begin = end
    return layout.take(torch.cat(outs))[0]


def _pieces(groups: tuple[tuple[int, int], ...], heads: int) -> Iterator[tuple[slice, int]]:
    """Rows and document length of each piece of work; pieces are whole documents, as many as fit the cache."""
    begin = 0
    for documents, length in groups:
        step = max(1, _PIECE // (heads * min(length, _QUERY_BLOCK) * length))
        for first in range(0, documents, step):
            count = min(step, documents - first)
            yield slice(begin, begin + count * length), length
            begin += count * length


def _blocks(length: int) -> Iterator[tuple[slice, int]]:
    """Slices of queries and how many keys each may see: causality saves nearly half at long lengths."""
    for begin in range(0, length, _QUERY_BLOCK):
        end = min(begin + _QUERY_BLOCK, length)
        yield slice(begin, end), end


def _unfold(rows_NHX: Tensor, length: int) -> Tensor:
    """View packed rows (G * L, H, X) as (G, H, L, X)."""
    return rows_NHX.view(-1, length, *rows_NHX.shape[1:]).transpose(1, 2)


def _assemble(inputs: tuple[Tensor, ...], rows: slice, length: int) -> tuple[Tensor, ...]:
    """Contiguous (G * H, L, ...) queries (rotated and scaled), keys and values of one piece."""
    query_NHQ, expanded_NHW, rope_NR, turns_NR = (x[rows] for x in inputs)
    width = query_NHQ.shape[2]
    rope = rope_NR.shape[1]
    nope = width - rope
    turns = turns_NR.view(-1, 1, length, rope // 2)
    split, expanded = _unfold(query_NHQ, length), _unfold(expanded_NHW, length)
    query, key = query_NHQ.new_empty(split.shape), query_NHQ.new_empty(split.shape)
    torch.mul(split[..., :nope], width**-0.5, out=query[..., :nope])
    query[..., nope:] = rotate(split[..., nope:], turns * width**-0.5)
    key[..., :nope] = expanded[..., :nope]
    key[..., nope:] = rotate(rope_NR.view(-1, 1, length, rope), turns)
    value = expanded[..., nope:].contiguous()
    return tuple(x.view(-1, length, x.shape[-1]) for x in (query, key, value))


def _disassemble(dq, dk, dv, turns_NR: Tensor, d_query: Tensor, d_expanded: Tensor, d_rope: Tensor) -> None:
    """The backward of `_assemble`: from (G, H, L, ...) gradients into the packed ones."""
    length, width = dq.shape[2:]
    nope = width - d_rope.shape[1]
    back_GL = turns_NR.conj().view(-1, 1, length, turns_NR.shape[1])
    split, expanded = _unfold(d_query, length), _unfold(d_expanded, length)
    torch.mul(dq[..., :nope], width**-0.5, out=split[..., :nope])
    split[..., nope:] = rotate(dq[..., nope:], back_GL * width**-0.5)
    expanded[..., :nope] = dk[..., :nope]
    expanded[..., nope:] = dv
    d_rope.copy_(rotate(dk[..., nope:].sum(1), back_GL[:, 0]).view_as(d_rope))


def _probabilities(query_XLQ: Tensor, key_XSQ: Tensor) -> Tensor:
    """Softmax of causal scores; the queries are the last L of the S positions."""
    scores = torch.bmm(query_XLQ, key_XSQ.mT)
    length = query_XLQ.shape[1]
    if length > 1:
        # Added, not filled: masked_fill_ on this slice took three times as long.
        scores[:, :, -length:] += scores.new_full((length, length), float("-inf")).triu_(1)
    return torch.softmax(scores, -1)
