"""What may be switched on to learn more from a token: each does what its paper says."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from toy import ToySettings, toy_batch_at, toy_model, toy_train

from hanse.errors import InputError
from hanse.model.loss import next_token_loss
from hanse.recipe import Pretrain
from hanse.train.ademamix import ALPHA, AdEMAMix
from hanse.train.goldfish import CONTEXT, hide
from hanse.train.ramp import Ramp
from hanse.train.step import mtp_weight_at


def test_goldfish_hides_one_target_in_k_and_the_same_in_every_copy() -> None:
    draw = torch.Generator().manual_seed(0)
    text = torch.randint(5000, (1, 6000), generator=draw)
    other = torch.randint(5000, (1, 100), generator=draw)
    hidden = hide(text, text + 1, k=4) == -100
    assert 0.22 < hidden[:, CONTEXT:].float().mean() < 0.28
    assert not hidden[:, : CONTEXT - 1].any()
    copy = torch.cat((other, text), 1)
    again = hide(copy, copy + 1, k=4) == -100
    assert torch.equal(again[:, 100 + CONTEXT :], hidden[:, CONTEXT:])
    changed = text.clone()
    changed[0, 3000] += 1
    different = (hide(changed, changed + 1, k=4) == -100) != hidden
    assert different[0, 3000 : 3000 + CONTEXT].any()
    assert not different[0, :3000].any() and not different[0, 3000 + CONTEXT :].any()


def test_z_loss_adds_its_gradient_and_leaves_the_loss_alone() -> None:
    model = toy_model()
    batch = toy_batch_at(0, micro_batches=1)[0]
    hidden = model(batch.tokens_BT, batch.documents_BT).detach().mul_(5).requires_grad_()
    loss, _ = next_token_loss(model, hidden, batch.targets_BT, z_weight=0.1)
    loss.backward()
    given_hidden, given_head = hidden.grad.clone(), model.lm_head.grad.clone()
    hidden.grad = model.lm_head.grad = None
    logits = F.linear(hidden, model.lm_head).flatten(0, 1)
    targets = batch.targets_BT.flatten()
    plain = F.cross_entropy(logits, targets, ignore_index=-100, reduction="sum")
    assert float(loss.detach()) == pytest.approx(float(plain.detach()), rel=1e-5)
    z = torch.logsumexp(logits, -1)[targets != -100].square().sum()
    (plain + 0.1 * z).backward()
    torch.testing.assert_close(given_hidden, hidden.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(given_head, model.lm_head.grad, rtol=1e-4, atol=1e-5)


def test_ademamix_follows_its_paper_step_by_step() -> None:
    draw = torch.Generator().manual_seed(1)
    weight = torch.randn(7, 3, generator=draw, dtype=torch.float64)
    mine = weight.clone().requires_grad_()
    optimizer = AdEMAMix([{"params": [mine], "lr": 0.01, "weight_decay": 0.1}], betas=(0.9, 0.95), eps=1e-8, steps=40)
    optimizer.state[mine] = optimizer.first_state(mine)
    fast, slow, square = (torch.zeros_like(weight) for _ in range(3))
    for step in range(1, 41):
        gradient = torch.randn(7, 3, generator=draw, dtype=torch.float64)
        mine.grad = gradient.clone()
        optimizer.step()
        share = step / 40
        log_first, log_slow = math.log(0.9), math.log(optimizer.slow)
        third = math.exp(log_first * log_slow / ((1 - share) * log_slow + share * log_first))
        fast = 0.9 * fast + 0.1 * gradient
        slow = third * slow + (1 - third) * gradient
        square = 0.95 * square + 0.05 * gradient**2
        move = (fast / (1 - 0.9**step) + ALPHA * share * slow) / ((square / (1 - 0.95**step)).sqrt() + 1e-8)
        weight = weight * (1 - 0.01 * 0.1) - 0.01 * move
    torch.testing.assert_close(mine.detach(), weight, rtol=1e-9, atol=1e-12)
    assert optimizer.slow == pytest.approx(0.5 ** (1 / 4))


@pytest.mark.parametrize("optimizer", ["adamw", "ademamix"])
def test_other_optimizers_learn_and_resume(tmp_path, optimizer: str) -> None:
    settings = ToySettings(optimizer=optimizer, learning_rate=0.01)
    summary = toy_train(tmp_path, steps=60, settings=settings)
    assert summary.loss_last < 0.9 * summary.loss_first


@given(st.integers(1, 64).map(lambda n: 4 * n), st.integers(1, 300), st.floats(0, 1))
def test_a_ramp_deals_out_every_row_once_and_grows(rows: int, batches: int, share: float) -> None:
    ramp = Ramp.of(rows, total_rows=rows * batches, share=share)
    expected = 0
    sizes = []
    for step in range(ramp.steps):
        mine = ramp.at(step)
        assert mine.start == expected
        expected = mine.stop
        sizes.append(len(mine))
    assert rows * batches - rows < expected <= rows * batches
    assert sizes == sorted(sizes) and set(sizes) <= {rows // 4, rows // 2, rows}


def test_without_a_ramp_every_step_has_the_whole_batch() -> None:
    pretrain = Pretrain(budget_tokens=100_000, batch_tokens=4096, sequence_length=256)
    assert pretrain.steps == 24 and pretrain.tokens == 24 * 4096
    assert pretrain.ramp.at(3) == range(48, 64)
    ramped = Pretrain(budget_tokens=100_000, batch_tokens=4096, sequence_length=256, batch_ramp_share=0.5)
    assert ramped.steps > 24 and 95_000 < ramped.tokens <= 24 * 4096
    assert len(ramped.ramp.at(0)) == 4


def test_the_weight_of_the_multi_token_loss_falls_when_rates_decay() -> None:
    settings = Pretrain(mtp_weight=0.3, mtp_final_weight=0.1, decay_share=0.4)
    assert [mtp_weight_at(settings, step, steps=100) for step in (0, 59, 60, 99)] == [0.3, 0.3, 0.1, 0.1]
    assert mtp_weight_at(Pretrain(mtp_weight=0.3), 99, steps=100) == 0.3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"goldfish": 1}, "would hide every target"),
        ({"batch_ramp_share": 0.2, "batch_tokens": 512, "sequence_length": 256}, "multiple of 4 sequences"),
        ({"optimizer": "sgd"}, "optimizer"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values: dict, message: str) -> None:
    from hanse.recipe import parse

    source = [{"name": "a", "kind": "atlas"}]
    with pytest.raises(InputError, match=message):
        parse({"name": "x", "source": source, "pretrain": values}, where="x.toml")
