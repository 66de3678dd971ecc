"""Goldfish loss: one token in k is never a target, so a text cannot be learnt by heart (Hans et al., arXiv:2406.10209).

Which one follows from the tokens before it alone, so that copies of a text hide the same places.
"""

from __future__ import annotations

import torch
from torch import Tensor

CONTEXT = 13  # tokens that decide; the paper's h
IGNORED = -100
_FACTOR = 6364136223846793005  # Knuth's multiplier for 64-bit sequences; products wrap around


def hide(tokens_BT: Tensor, targets_BT: Tensor, *, k: int) -> Tensor:
    """Targets with one in `k` hidden.

    Args:
        tokens_BT: int64; position t's target is decided by tokens t - 12 to t of its row.
        targets_BT: int64, the next token.
        k: at least 2.

    Returns:
        A copy with -100 where a target is hidden; the first 12 positions of a row keep theirs.
    """
    hashes_BT = torch.zeros_like(tokens_BT)
    for back in range(CONTEXT):
        shifted_BT = torch.roll(tokens_BT, back, dims=1)
        hashes_BT = hashes_BT * _FACTOR + shifted_BT + 1
    hashes_BT = (hashes_BT ^ (hashes_BT >> 31)) * _FACTOR
    is_hidden_BT = (hashes_BT >> 33) % k == 0
    is_hidden_BT[:, : CONTEXT - 1] = False
    return targets_BT.masked_fill(is_hidden_BT, IGNORED)
