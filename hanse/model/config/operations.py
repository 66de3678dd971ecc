"""The parts by which operations of a model are counted, and the one rule from parts to a training token."""

from __future__ import annotations

from collections.abc import Mapping

PROJECTIONS = "attention projections"
ATTENTION = "attention"  # queries x keys and weights x values: grows with the pairs of tokens that see each other
DENSE = "dense feed-forward"
ROUTER = "router"
ROUTED = "chosen experts"
SHARED = "shared experts"
BLOCKS = "blocks"  # all products with weights, where a family's parts are not known
UNEMBEDDING = "unembedding"
MTP_BLOCK = "multi-token block"
MTP_ATTENTION = "multi-token attention"
MTP_UNEMBEDDING = "multi-token unembedding"

#: A forward pass is one, the backward pass two: gradients of what went in and of the weights.
PASSES = 3


def flop_of(forward: Mapping[str, int]) -> int:
    """FLOP of forward and backward from those of the forward, by part."""
    return PASSES * sum(forward.values())
