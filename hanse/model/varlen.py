"""Attention over packed documents by torch's kernel for variable lengths: one call, nothing filled up.

Legend: N packed tokens, H heads, X their width, D documents.

The kernel (FlashAttention-2, arXiv:2307.08691) is young in torch and knows some devices, types and widths only. So once
in a process it is asked whether it gives here what attention document by document gives, forward and backward; where it
does not, attention goes on in groups of equal lengths.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

_PROBE = (1, 5, 64, 130)  # tokens of the documents that it is asked with; 130 is more than one of its tiles
# Largest difference, as a share of the largest number: both kernels round to eight bits, along ways of their own.
_TOLERANCE = 0.02


def attend(query_NHX: Tensor, key_NHX: Tensor, value_NHX: Tensor, bounds_D: Tensor, longest: int) -> Tensor:
    """Causal attention inside each document. Returns (N, H, X).

    Args:
        query_NHX: queries, documents one after the other; in bfloat16 or float16.
        key_NHX: keys, as wide as the queries.
        value_NHX: values, as wide as the queries.
        bounds_D: the first token of each document, and N; int32 (D + 1,).
        longest: at least the tokens of the longest document.
    """
    from torch.nn.attention.varlen import varlen_attn

    causal = (-1, 0)  # all before a query, nothing after it
    out = varlen_attn(query_NHX, key_NHX, value_NHX, bounds_D, bounds_D, longest, longest, window_size=causal)
    assert isinstance(out, Tensor)  # a tuple only where more is asked for
    return out


def serves(query_NHX: Tensor) -> bool:
    """Whether the kernel may be used for queries like these: on a GPU, in half precision, and it agreed."""
    is_known = query_NHX.device.type == "cuda" and query_NHX.dtype in (torch.bfloat16, torch.float16)
    return is_known and agrees(query_NHX.device, query_NHX.dtype, query_NHX.shape[2])


@functools.cache
def agrees(device: torch.device, dtype: torch.dtype, width: int) -> bool:
    """Whether the kernel gives on a few random documents what torch's attention gives document by document."""
    draw = torch.Generator(device).manual_seed(0)  # its own, so that training draws the same with and without it
    bounds_D = F.pad(torch.tensor(_PROBE, device=device).cumsum(0, dtype=torch.int32), (1, 0))
    try:
        # The first block asks in its forward. Hooks of its own keep the question out of what that block recomputes.
        alone = torch.autograd.graph.saved_tensors_hooks(lambda kept: kept, lambda kept: kept)
        with alone, torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
            shape = (3, sum(_PROBE), 2, width)
            inputs, weights = (torch.randn(shape, generator=draw, device=device).to(dtype) for _ in range(2))
            found = _with_gradients(lambda q, k, v: attend(q, k, v, bounds_D, max(_PROBE)), inputs, weights[0])
            expected = _with_gradients(_document_by_document, inputs, weights[0])
    except (ImportError, RuntimeError, TypeError, ValueError) as error:
        return _refused(f"it says {error}")
    differences = [float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, expected, strict=True)]
    if not all(difference <= _TOLERANCE for difference in differences):  # not so for NaN either
        return _refused(f"output and gradients are off by {', '.join(f'{share:.1%}' for share in differences)}")
    return True


def _refused(reason: str) -> bool:
    warnings.warn(f"attention goes on in groups of equal lengths, for the varlen kernel fails: {reason}.", stacklevel=3)
    return False


def _with_gradients(compute: Callable[..., Tensor], inputs: Tensor, weights_NHX: Tensor) -> list[Tensor]:
    """The result of `compute` for queries, keys and values, and the gradients of all three, in float32."""
    given = [part.clone().requires_grad_() for part in inputs]
    out = compute(*given)
    gradients = torch.autograd.grad(out, given, weights_NHX)
    return [part.detach().float() for part in (out, *gradients)]


def _document_by_document(*inputs: Tensor) -> Tensor:
    documents = zip(*(part.transpose(0, 1).split(_PROBE, 1) for part in inputs), strict=True)
    outs = [F.scaled_dot_product_attention(q, k, v, is_causal=True) for q, k, v in documents]
    return torch.cat(outs, 1).transpose(0, 1)
