"""Muon against torch's own and against the one-matrix form; which parameter goes where; state."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from toy import ToySettings, toy_model

from hanse.train.optimizer import Group, Optimizer, assign, orthogonalize, table


def _muon(model: nn.Module, *, learning_rate: float = 0.02, weight_decay: float = 0.1) -> Optimizer:
    names = tuple(name for name, _ in model.named_parameters())
    count = sum(parameter.numel() for parameter in model.parameters())
    return Optimizer(
        model, [Group("all", "muon", learning_rate, weight_decay, names, count)], newton_schulz_dtype=torch.float32
    )


def _set_gradients(model: nn.Module, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=draw)


@pytest.mark.parametrize("shape", [(12, 12), (8, 40), (40, 8), (16, 24)])
def test_orthogonalize_keeps_singular_vectors_and_brings_values_near_one(shape: tuple[int, int]) -> None:
    matrices_GRC = torch.randn(5, *shape, generator=torch.Generator().manual_seed(1))
    result = orthogonalize(matrices_GRC)
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.3 and values.max() < 1.3
    left, _, right = torch.linalg.svd(matrices_GRC, full_matrices=False)
    inner = left.mT @ result @ right.mT
    torch.testing.assert_close(inner, torch.diag_embed(inner.diagonal(dim1=-2, dim2=-1)), rtol=0, atol=2e-4)


@pytest.mark.parametrize("shape", [(8, 40), (40, 8), (64, 130)])
def test_gram_form_equals_the_plain_iteration(shape: tuple[int, int]) -> None:
    matrix = torch.randn(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    x = matrix / matrix.norm(dim=(-2, -1), keepdim=True)
    a, b, c = 3.4445, -4.7750, 2.0315
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    torch.testing.assert_close(orthogonalize(matrix), x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(orthogonalize(matrix.float()).double(), x, rtol=0, atol=2e-5)


def test_a_zero_gradient_gives_no_update() -> None:
    assert not orthogonalize(torch.zeros(2, 4, 8)).any()


def test_batched_muon_equals_one_matrix_at_a_time() -> None:
    draw = torch.Generator().manual_seed(3)
    stack = torch.randn(3, 2, 10, 24, generator=draw)
    together, apart = nn.Module(), nn.Module()
    together.x = nn.ParameterList([stack.clone(), torch.randn(24, 10, generator=draw)])
    apart.x = nn.ParameterList([*(m.clone() for m in stack.flatten(0, 1)), together.x[1].detach().clone()])
    one, other = _muon(together), _muon(apart)
    for step in range(3):
        gradient = torch.randn(stack.shape, generator=torch.Generator().manual_seed(step))
        last = torch.randn((24, 10), generator=torch.Generator().manual_seed(step + 50))
        for parameter, value in zip(together.x, [gradient, last], strict=True):
            parameter.grad = value.clone()
        for parameter, value in zip(apart.x, [*gradient.flatten(0, 1), last], strict=True):
            parameter.grad = value.clone()
        one.step(0.5)
        other.step(0.5)
    torch.testing.assert_close(together.x[0].flatten(0, 1), torch.stack(list(apart.x)[:-1]), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(together.x[1], apart.x[-1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(24, 24), (12, 40), (40, 12)])
def test_muon_follows_torchs_own(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    # torch orthogonalises in bfloat16; given float32 instead, the two must agree closely.
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda self: self.clone())
    ours, theirs = nn.Linear(shape[1], shape[0], bias=False), nn.Linear(shape[1], shape[0], bias=False)
    theirs.load_state_dict(ours.state_dict())
    optimizer = _muon(ours, learning_rate=0.03, weight_decay=0.1)
    reference = torch.optim.Muon(
        theirs.parameters(), lr=0.03 * 0.7, weight_decay=0.1, momentum=0.95, nesterov=True, adjust_lr_fn="original"
    )
    for step in range(4):
        _set_gradients(ours, step)
        _set_gradients(theirs, step)
        optimizer.step(0.7)
        reference.step()
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-4, atol=1e-5)


def test_every_parameter_gets_exactly_one_optimizer_by_its_role() -> None:
    model = toy_model(num_nextn_predict_layers=1)
    groups = {group.label: group for group in assign(model, ToySettings())}
    assert groups["embeddings"].names == ("embed_tokens",)
    assert groups["head"].names == ("lm_head",)
    assert groups["router"].names == ("layers.1.mlp.gate.weight", "mtp.block.mlp.gate.weight")
    assert "layers.1.mlp.experts.down" in groups["routed experts"].names
    assert {"layers.0.mlp.gate_up", "layers.1.mlp.shared_experts.down", "mtp.eh_proj.weight"} <= {
        *groups["matrices"].names
    }
    assert all("norm" in name for name in groups["norms and biases"].names)
    assert {group.optimizer for label, group in groups.items() if label not in ("matrices", "routed experts")} == {
        "adamw"
    }
    names = [name for group in groups.values() for name in group.names]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    assert sum(group.parameters for group in groups.values()) == model.config.parameters()


def test_only_matrices_decay_and_the_table_shows_it() -> None:
    model = toy_model()
    rows = table(assign(model, replace(ToySettings(), weight_decay=0.25)))
    assert rows[0][0] == "group"
    assert {row[0]: row[-1] for row in rows[1:]} == {
        "matrices": "0.25", "routed experts": "0.25", "embeddings": "0", "head": "0", "router": "0",
        "norms and biases": "0",
    }  # fmt: skip


def test_a_tied_head_is_moved_once() -> None:
    groups = assign(toy_model(tie_word_embeddings=True), ToySettings())
    assert "head" not in {group.label for group in groups}


def test_a_parameter_without_gradient_stays_where_it_is() -> None:
    model = toy_model()
    optimizer = Optimizer(model, assign(model, ToySettings()), newton_schulz_dtype=torch.float32)
    _set_gradients(model, 0)
    still = [model.layers[0].mlp.down, model.norm.weight]
    before = [parameter.detach().clone() for parameter in still]
    for parameter in still:
        parameter.grad = None
    optimizer.step(1.0)
    assert all(torch.equal(parameter, old) for parameter, old in zip(still, before, strict=True))


def test_state_has_an_entry_for_every_parameter_before_the_first_step() -> None:
    model = toy_model()
    optimizer = Optimizer(model, assign(model, ToySettings()), newton_schulz_dtype=torch.float32)
    keys = set(optimizer.state())
    _set_gradients(model, 0)
    optimizer.step(1.0)
    assert set(optimizer.state()) == keys


def test_groups_that_forget_a_parameter_are_refused() -> None:
    model = toy_model()
    with pytest.raises(ValueError, match="every parameter once"):
        Optimizer(model, assign(model, ToySettings())[1:], newton_schulz_dtype=torch.float32)
