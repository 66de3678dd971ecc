"""A batch of packed documents gives what each document gives alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hanse.model.documents import Layout, _DocumentAttention, _filled, _fused_attention
from hanse.model.loss import multi_token_loss, next_token_loss

from .sizes import GROUPS, MOE, VARIANTS, apertus_of, model_of, tokens_of

MODELS = {
    "dense": lambda: model_of({}),
    "experts": lambda: model_of(MOE | GROUPS),
    "apertus": lambda: apertus_of({}),
}


def alone(model, tokens, documents):
    """Hidden states of each document run by itself, put back in place."""
    out = torch.zeros(*tokens.shape, model.config.hidden_size)
    for row in range(len(tokens)):
        for number in documents[row].unique():
            places = documents[row] == number
            out[row, places] = model(tokens[row, places].unsqueeze(0))[0]
    return out


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.integers(-2, 3), min_size=9, max_size=9), min_size=1, max_size=4), st.sampled_from([*MODELS])
)
@torch.no_grad()
def test_packed_documents_equal_documents_alone(numbers, name):
    # Arbitrary numbers: negative ones, and documents that continue after another, included.
    model = MODELS[name]()
    documents = torch.tensor(numbers)
    tokens = tokens_of(*documents.shape)
    torch.testing.assert_close(model(tokens, documents), alone(model, tokens, documents), atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_documents_longer_than_a_block_of_queries_equal_documents_alone(monkeypatch):
    monkeypatch.setattr("hanse.model.documents._QUERY_BLOCK", 4)
    monkeypatch.setattr("hanse.model.documents._PIECE", 64)
    model = model_of({})
    documents = torch.tensor([[0] * 21 + [1] * 9, [4] * 30, [1] * 15 + [2] * 15, [5] * 9 + [6] * 21])
    tokens = tokens_of(*documents.shape)
    torch.testing.assert_close(model(tokens, documents), alone(model, tokens, documents), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("keep_up_to", [0, 5, 512])
@pytest.mark.parametrize("block", [4, 128])
def test_gradients_of_packed_documents_equal_those_of_documents_alone(monkeypatch, block, keep_up_to):
    monkeypatch.setattr("hanse.model.documents._QUERY_BLOCK", block)
    monkeypatch.setattr("hanse.model.documents._KEEP_UP_TO", keep_up_to)
    monkeypatch.setattr("hanse.model.documents._PIECE", 64)
    check_gradients(model_of(MOE))


def test_gradients_of_packed_documents_equal_those_of_documents_alone_in_apertus():
    check_gradients(apertus_of({}))


def check_gradients(model):
    """Packed in one batch or each alone: the same gradients of every parameter."""
    documents = torch.tensor([[3] * 10 + [1] * 3 + [2] * 4, [7] * 4 + [7] * 3 + [8] * 10])
    tokens = tokens_of(*documents.shape)
    weights = torch.randn(2, 17, model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    gradients = []
    for hidden in (model(tokens, documents), alone(model, tokens, documents)):
        model.zero_grad()
        (hidden * weights).sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None])
    for packed, separate in zip(*gradients, strict=True):
        torch.testing.assert_close(packed, separate, atol=1e-4, rtol=1e-3)


def test_gradients_of_attention_equal_numeric_ones():
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)

    # The rotation works in float32 by design; with angle 0 it is exact, so that double precision can judge the rest.
    turns = torch.ones(10, 1, dtype=torch.complex128)
    documents = torch.tensor([[0] * 2 + [1] * 3 + [2] * 5])
    layout = Layout.of(documents, documents)
    inputs = (draw(10, 2, 5), draw(10, 2, 6), draw(10, 2))
    assert torch.autograd.gradcheck(lambda *x: _DocumentAttention.apply(*x, turns, layout), inputs, eps=1e-3, atol=1e-2)


@pytest.mark.parametrize("variant", [{}, {"v_head_dim": 16}], ids=["narrow values", "wide values"])
def test_fused_attention_equals_our_own(monkeypatch, variant):
    model, documents = model_of(variant), torch.tensor([[0] * 5 + [1] * 5, [2] * 7 + [3] * 3])
    tokens, hidden = tokens_of(2, 10), []
    for compute in (_DocumentAttention.apply, _fused_attention):
        monkeypatch.setattr("hanse.model.attention.attend_documents", lambda *x, f=compute: f(*x))
        hidden.append(model(tokens, documents))
    torch.testing.assert_close(*hidden, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_bf16_autocast_trains_towards_the_same_gradients(name):
    model, tokens = MODELS[name]().train(), tokens_of(4, 16)
    gradients = []
    for is_on in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=is_on):
            total, count = next_token_loss(model, model(tokens), tokens.roll(-1, 1))
        (total / count).backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    # Close scores route differently in bf16 (see the facts on parity), so only the direction is asked for.
    assert torch.cosine_similarity(*gradients, dim=0) > 0.8


@pytest.mark.parametrize("seed", range(3))
def test_packing_is_a_permutation_that_unpacks(seed):
    generator = torch.Generator().manual_seed(seed)
    documents = torch.randint(0, 5, (4, 12), generator=generator)
    layout = Layout.of(documents, documents)
    values = torch.randn(4, 12, 3, generator=generator)
    packed = layout.pack(values)
    assert torch.equal(layout.unpack(packed, documents.shape), values)
    assert torch.equal(layout.take(*layout.fill(packed))[0], packed)
    filled, positions = layout.fill(layout.pack(documents), layout.positions_N)
    assert sum(count * length for count, length in layout.groups) == len(filled) >= 48
    begin = 0
    for count, length in layout.groups:
        for _ in range(count):
            assert filled[begin : begin + length].unique().numel() == 1
            own = int(positions[begin : begin + length].max())
            assert positions[begin : begin + length].tolist() == [min(step, own) for step in range(length)]
            begin += length


def test_short_documents_are_filled_up_by_little_and_long_ones_not_at_all():
    lengths = torch.arange(1, 600)
    filled = _filled(lengths)
    assert bool((filled >= lengths).all()) and torch.equal(filled, filled.sort().values)
    assert torch.equal(filled[512:], lengths[512:])
    assert float((filled[15:512] / lengths[15:512]).max()) < 1.25 and len(filled[9:60].unique()) < 12


def test_documents_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="shape"):
        model_of({})(tokens_of(2, 6), torch.zeros(2, 5, dtype=torch.int64))


@pytest.mark.parametrize("variant", [v for v in VARIANTS.values() if "num_nextn_predict_layers" in v])
def test_multi_token_loss_of_packed_documents_is_the_sum_over_documents_alone(variant):
    model = model_of(variant)
    lengths, tokens = (6, 1, 2, 8), tokens_of(1, 17)
    documents = torch.cat([torch.full((1, n), number) for number, n in enumerate(lengths)], 1)
    targets = torch.cat((tokens[:, 1:], tokens[:, :1]), 1)
    ends = torch.tensor(lengths).cumsum(0) - 1
    targets[0, ends] = -100
    together, count = multi_token_loss(model, model(tokens, documents), tokens, targets, documents)
    parts = [
        multi_token_loss(model, model(own), own, wanted)
        for own, wanted in zip(tokens.split(lengths, 1), targets.split(lengths, 1), strict=True)
    ]
    assert count == sum(part[1] for part in parts) == 4 + 0 + 0 + 6
    torch.testing.assert_close(together, sum(part[0] for part in parts))


def test_the_loss_reaches_every_parameter_of_apertus():
    model, tokens = apertus_of({}).train(), tokens_of(8, 32)
    next_token_loss(model, model(tokens), tokens.roll(-1, 1))[0].backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_both_losses_reach_every_parameter():
    model = model_of(VARIANTS["tied, with a multi-token block"]).train()
    tokens = tokens_of(8, 32)
    hidden = model(tokens)
    targets = tokens.roll(-1, 1)
    loss = next_token_loss(model, hidden, targets)[0] + 0.1 * multi_token_loss(model, hidden, tokens, targets)[0]
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())
