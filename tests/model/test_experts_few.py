"""The experts of a step of serving: what training computes, whichever way is the shorter."""

from __future__ import annotations

import pytest
import torch

from hanse.model.moe import Routing, compute_experts

EXPERTS, CHOSEN, HIDDEN, WIDTH = 8, 3, 12, 6


@pytest.mark.parametrize("tokens", [1, 2, 5, 6, 19, 20, 21, 200])
def test_few_tokens_and_many_get_what_training_computes(tokens: int) -> None:
    draw = torch.Generator().manual_seed(tokens)
    x_ND = torch.randn(tokens, HIDDEN, generator=draw)
    gate_up = torch.randn(EXPERTS, 2, WIDTH, HIDDEN, generator=draw)
    down = torch.randn(EXPERTS, HIDDEN, WIDTH, generator=draw)
    chosen = torch.stack([torch.randperm(EXPERTS, generator=draw)[:CHOSEN] for _ in range(tokens)])
    routing = Routing(chosen, torch.rand(tokens, CHOSEN, generator=draw))
    expected = compute_experts(x_ND, routing, gate_up, down)
    with torch.no_grad():
        torch.testing.assert_close(compute_experts(x_ND, routing, gate_up, down), expected, atol=1e-4, rtol=1e-4)
