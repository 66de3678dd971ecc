"""Products with the weights where few rows are multiplied, as a step of serving has them, one for each text.

Legend: N rows, I and O widths of input and output.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

#: Up to this many rows the weight is cut in pieces. 8192 x 256 on two cores with AVX2, microseconds whole and in 16
#: pieces: 1 row 886 and 379, 4 rows 1,758 and 573, 16 rows 1,786 and 1,220, 32 rows 3,262 and 1,452. With 64 the way
#: back from columns to rows takes what was won.
FEW_ROWS = 32
# As many as threads can use that share one memory; more than there are do no harm.
_PIECES = 16
# Smaller weights (1 MB in float32) stay in a core's cache, and calls of operators are what they cost.
_LARGE = 1 << 18


def product(x_NI: Tensor, weight_OI: Tensor) -> Tensor:
    """`x @ weight.T`, (N, O).

    On a CPU a product of few rows is bound by reading the weight, and libraries leave that to one thread. So without
    gradient the weight is cut in pieces, which threads read side by side. Sums differ in their last bit.
    """
    is_few = x_NI.ndim == 2 and len(x_NI) <= FEW_ROWS and weight_OI.numel() >= _LARGE
    if is_few and x_NI.device.type == "cpu" and not torch.is_grad_enabled():
        return columns(x_NI, weight_OI).T.contiguous()
    return F.linear(x_NI, weight_OI)


def columns(x_NI: Tensor, weight_OI: Tensor) -> Tensor:
    """`weight @ x.T`, (O, N), on a CPU by pieces of the weight."""
    if weight_OI.device.type != "cpu":
        return weight_OI @ x_NI.T
    outputs, inputs = weight_OI.shape
    pieces = math.gcd(outputs, _PIECES)
    x_PIN = x_NI.contiguous().T.expand(pieces, inputs, len(x_NI))
    return torch.bmm(weight_OI.reshape(pieces, -1, inputs), x_PIN).view(outputs, len(x_NI))
