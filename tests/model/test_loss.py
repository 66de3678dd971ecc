"""The chunked loss equals plain cross entropy and its gradients."""

import pytest
import torch
import torch.nn.functional as F

from hanse.errors import InputError
from hanse.model import loss as loss_module
from hanse.model.loss import multi_token_loss, next_token_loss

from .sizes import MOE, model_of, tokens_of


@pytest.mark.parametrize("chunk", [97, 97 * 3 + 5, 1 << 22])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("masked", [0.0, 0.5, 0.97])
def test_loss_and_gradients_equal_plain_cross_entropy(monkeypatch, chunk, tied, masked):
    monkeypatch.setattr(loss_module, "_CHUNK", chunk)
    model = model_of({"tie_word_embeddings": tied})
    hidden = torch.randn(4, 9, 32, generator=torch.Generator().manual_seed(0), requires_grad=True)
    targets = tokens_of(4, 9)
    targets[torch.rand(4, 9, generator=torch.Generator().manual_seed(1)) < masked] = -100
    total, count = next_token_loss(model, hidden, targets)
    gradients = torch.autograd.grad(total / 7, (hidden, model.head_VD))
    plain = F.cross_entropy(model.logits(hidden).flatten(0, 1), targets.flatten(), reduction="sum")
    torch.testing.assert_close(total, plain)
    assert count == int((targets != -100).sum())
    for ours, expected in zip(gradients, torch.autograd.grad(plain / 7, (hidden, model.head_VD)), strict=True):
        torch.testing.assert_close(ours, expected)


def test_a_certain_model_has_finite_loss_and_no_gradient_to_speak_of():
    model = model_of({})
    with torch.no_grad():
        model.lm_head.mul_(1000)
    hidden = torch.randn(1, 5, 32, requires_grad=True)
    best = model.logits(hidden).argmax(-1)
    total, _ = next_token_loss(model, hidden, best)
    wrong, _ = next_token_loss(model, hidden, (best + 1) % 97)
    assert 0 <= float(total.detach()) < 1 and torch.isfinite(wrong) and wrong > 100


def test_loss_without_gradient_keeps_nothing():
    model = model_of({})
    with torch.no_grad():
        total, count = next_token_loss(model, torch.randn(2, 3, 32), tokens_of(2, 3))
    assert not total.requires_grad and count == 6


def test_a_batch_that_counts_nothing_is_an_error():
    with pytest.raises(InputError, match="no position to learn from"):
        next_token_loss(model_of({}), torch.randn(2, 3, 32), torch.full((2, 3), -100))


def test_multi_token_loss_needs_the_block_and_tolerates_a_batch_without_targets():
    with pytest.raises(ValueError, match="no multi-token block"):
        multi_token_loss(model_of({}), torch.randn(1, 3, 32), tokens_of(1, 3), tokens_of(1, 3))
    model = model_of(MOE | {"num_nextn_predict_layers": 1})
    tokens, targets = tokens_of(1, 3), torch.full((1, 3), -100)
    total, count = multi_token_loss(model, model(tokens), tokens, targets)
    assert count == 0 and float(total.detach()) == 0
