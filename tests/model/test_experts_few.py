"""Products of few rows and the experts of a step of serving: what training computes, whichever way is the shorter."""

from __future__ import annotations

import pytest
import torch

from hanse.model import moe, product
from hanse.model.moe import Routing, compute_experts
from hanse.model.product import FEW_ROWS

EXPERTS, CHOSEN, HIDDEN, WIDTH = 8, 3, 12, 6


@pytest.mark.parametrize("tokens", [1, 2, 5, 6, FEW_ROWS, FEW_ROWS + 1, 200])
@pytest.mark.parametrize("is_every", [False, True], ids=["chosen", "every"])
def test_few_tokens_and_many_get_what_training_computes(
    tokens: int, is_every: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moe, "_EVERY_EXPERT_FOR", 4 if is_every else 0)
    draw = torch.Generator().manual_seed(tokens)
    x_ND = torch.randn(tokens, HIDDEN, generator=draw)
    gate_up = torch.randn(EXPERTS, 2, WIDTH, HIDDEN, generator=draw)
    down = torch.randn(EXPERTS, HIDDEN, WIDTH, generator=draw)
    chosen = torch.stack([torch.randperm(EXPERTS, generator=draw)[:CHOSEN] for _ in range(tokens)])
    routing = Routing(chosen, torch.rand(tokens, CHOSEN, generator=draw))
    expected = compute_experts(x_ND, routing, gate_up, down)
    with torch.no_grad():
        torch.testing.assert_close(compute_experts(x_ND, routing, gate_up, down), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("rows", [1, 2, 3, FEW_ROWS, FEW_ROWS + 1])
@pytest.mark.parametrize("outputs", [1, 7, 12, 48, 1 << 12])
def test_a_product_in_pieces_is_the_whole_one(rows: int, outputs: int) -> None:
    draw = torch.Generator().manual_seed(rows)
    x, weight = torch.randn(rows, 64, generator=draw), torch.randn(outputs, 64, generator=draw)
    expected = (x.double() @ weight.double().T).float()
    with torch.no_grad():
        for given in (x, x.T.contiguous().T, torch.cat((x, x), 1)[:, :64]):
            torch.testing.assert_close(product.columns(given, weight).T, expected)
            torch.testing.assert_close(product.product(given, weight), expected)


def test_a_product_keeps_the_axes_and_the_gradient_of_its_input() -> None:
    x, weight = torch.randn(2, 3, 64), torch.randn(1 << 12, 64, requires_grad=True)
    with torch.no_grad():
        assert product.product(x, weight).shape == (2, 3, 1 << 12)
    product.product(x[0], weight).sum().backward()
    assert weight.grad is not None
