"""Attention by torch's kernel for variable lengths: what we hand it, and when it is trusted.

The kernel runs on GPUs alone. Elsewhere one with its arguments, written out below, stands in for it where the question
is what it is given; the last test asks the real one and needs a GPU.
"""

import pytest
import torch
import torch.nn.functional as F

from hanse.model import documents, varlen
from hanse.model.loss import next_token_loss
from hanse.parallel.recompute import recompute
from hanse.parallel.shard import blocks

from .sizes import model_of, tokens_of

CAUSAL = (-1, 0)
KERNEL = "torch.nn.attention.varlen.varlen_attn"
HERE = (torch.device("cpu"), torch.bfloat16, 16)
DOCUMENTS = torch.tensor([[0] * 21 + [1] * 9, [4] * 30, [1] * 15 + [2] * 15, [5] * 1 + [6] * 29])


def spelled_out(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, window_size=(-1, -1)):
    """What the kernel gives, and what it asks for."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert query.shape == key.shape == value.shape
    assert cu_seq_q[-1] == cu_seq_k[-1] == len(query)
    lengths = cu_seq_q.diff().tolist()
    assert max(lengths) <= max_q == max_k
    parts = zip(*(x.split(lengths) for x in (query, key, value)), strict=True)
    return torch.cat(
        [
            F.scaled_dot_product_attention(
                *(x.transpose(0, 1) for x in part), is_causal=window_size == CAUSAL
            ).transpose(0, 1)
            for part in parts
        ]
    )


@pytest.fixture(autouse=True)
def asked_anew():
    varlen.agrees.cache_clear()
    yield
    varlen.agrees.cache_clear()


def trained(model, compute, monkeypatch):
    """Hidden states and the gradients of all parameters."""
    monkeypatch.setattr("hanse.model.attention.attend_documents", compute)
    model.zero_grad()
    tokens = tokens_of(*DOCUMENTS.shape)
    hidden = model(tokens, DOCUMENTS)
    total, count = next_token_loss(model, hidden, tokens.roll(-1, 1))
    (total / count).backward()
    return [hidden.detach(), *(parameter.grad.clone() for parameter in model.parameters())]


@pytest.mark.parametrize("variant", [{}, {"v_head_dim": 16}], ids=["narrow values", "wide values"])
def test_the_kernel_is_given_what_gives_the_same_training(monkeypatch, variant):
    model, calls = model_of(variant), []
    expected = trained(model, lambda *x: documents._DocumentAttention.apply(*x), monkeypatch)
    monkeypatch.setattr(KERNEL, spelled_out)
    monkeypatch.setattr(varlen, "serves", lambda query: calls.append(query) or True)
    found = trained(model, documents._fused_attention, monkeypatch)
    # Values wider than keys are not for the kernel.
    assert len(calls) == (0 if variant else model.config.num_hidden_layers)
    for ours, other in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, other, atol=1e-5, rtol=1e-3)


def test_asking_inside_a_block_that_recomputes_changes_nothing(monkeypatch):
    monkeypatch.setattr(KERNEL, spelled_out)
    monkeypatch.setattr(varlen, "serves", lambda query: varlen.agrees(query.device, query.dtype, query.shape[2]))
    model = model_of({}).train()
    expected = trained(model, documents._fused_attention, monkeypatch)
    varlen.agrees.cache_clear()  # asked in the first forward, not again when that is recomputed
    for block in blocks(model):
        recompute(block)
    found = trained(model, documents._fused_attention, monkeypatch)
    for ours, other in zip(found, expected, strict=True):
        assert torch.equal(ours, other)


def test_documents_that_make_one_group_need_no_bounds():
    whole = torch.zeros(4, 8, dtype=torch.int64)
    assert documents.Layout.of(whole, whole).bounds is None
    assert documents.Layout.of(DOCUMENTS, DOCUMENTS).bounds.tolist() == [0, 1, 10, 25, 40, 61, 90, 120]


def test_a_kernel_that_agrees_is_trusted(monkeypatch):
    monkeypatch.setattr(KERNEL, spelled_out)
    before = torch.random.get_rng_state()
    with torch.inference_mode():
        assert varlen.agrees(*HERE)
    assert torch.equal(torch.random.get_rng_state(), before)


def unmasked(*arguments, window_size):
    return spelled_out(*arguments)


def across_documents(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, window_size):
    whole = cu_seq_q[[0, -1]]
    return spelled_out(query, key, value, whole, whole, len(query), len(query), window_size=window_size)


def without_gradients_of_values(query, key, value, *arguments, window_size):
    return spelled_out(query, key, value.detach() + 0 * value, *arguments, window_size=window_size)


def not_numbers(*arguments, window_size):
    return spelled_out(*arguments, window_size=window_size) * float("nan")


def other_arguments(query, key, value, ends):
    raise AssertionError("cannot be reached")


def no_such_width(*arguments, window_size):
    raise RuntimeError("head_size should be a multiple of 8")


@pytest.mark.parametrize(
    ("kernel", "reason"),
    [
        (unmasked, "are off by"),
        (across_documents, "are off by"),
        (without_gradients_of_values, "are off by 0.0%, 0.0%, 0.0%, 100.0%"),
        (not_numbers, "are off by nan%"),
        (other_arguments, "window_size"),
        (no_such_width, "multiple of 8"),
    ],
)
def test_a_kernel_that_disagrees_is_not_used_and_a_warning_says_why(monkeypatch, kernel, reason):
    monkeypatch.setattr(KERNEL, kernel)
    with pytest.warns(UserWarning, match=reason):
        assert not varlen.agrees(*HERE)


def test_a_device_without_the_kernel_is_not_served():
    with pytest.warns(UserWarning, match="groups of equal lengths"):
        assert not varlen.agrees(*HERE)
    assert not varlen.serves(torch.zeros(4, 2, 16, dtype=torch.bfloat16))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernel runs on a GPU only")
def test_the_kernel_of_this_gpu_agrees():
    device = torch.device("cuda", torch.cuda.current_device())
    assert varlen.agrees(device, torch.bfloat16, 96)
    assert varlen.agrees(device, torch.bfloat16, 192)  # the presets' from 100M on
    assert not varlen.serves(torch.zeros(4, 2, 96, device=device))  # float32
