"""Decoding with a cache gives what the whole text gives at once."""

import pytest
import torch

from hanse.errors import InputError

from .sizes import APERTUS_VARIANTS, GROUPS, MOE, apertus_of, model_of, tokens_of

MODELS = {"dense": (model_of, {}), "experts": (model_of, MOE | GROUPS)}
MODELS |= {f"apertus, {name}": (apertus_of, variant) for name, variant in APERTUS_VARIANTS.items()}


@pytest.fixture(params=MODELS, ids=str)
def model(request):
    make, variant = MODELS[request.param]
    return make(variant)


def cache_for(model, rows=3, capacity=24):
    return model.new_cache(rows, capacity=capacity)


@pytest.mark.parametrize("absorb", [True, False, None])
@pytest.mark.parametrize("chunks", [(20,), (11, *[1] * 9), (7, 5, 1, 7), (1,) * 20])
@torch.no_grad()
def test_prefill_and_steps_equal_the_full_forward(model, chunks, absorb):
    tokens, cache, start, parts = tokens_of(3, 20), cache_for(model), 0, []
    for size in chunks:
        parts.append(model(tokens[:, start : start + size], cache=cache, start=start, absorb=absorb))
        start += size
    assert cache.length == 20
    torch.testing.assert_close(torch.cat(parts, 1), model(tokens), atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_a_smaller_start_rewinds_the_cache(model):
    tokens, other, cache = tokens_of(3, 12), tokens_of(3, 12, seed=9), cache_for(model)
    model(other, cache=cache)
    rewound = model(tokens, cache=cache, start=0)
    torch.testing.assert_close(rewound, model(tokens), atol=2e-5, rtol=1e-4)
    model(other[:, 6:], cache=cache, start=6)
    mixed = torch.cat((tokens[:, :6], other[:, 6:8], tokens[:, :1]), 1)
    last = model(tokens[:, :1], cache=cache, start=8)
    torch.testing.assert_close(last[:, -1], model(mixed)[:, -1], atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_kept_rows_continue_as_their_own_texts(model):
    tokens, cache = tokens_of(3, 10), cache_for(model)
    model(tokens[:, :9], cache=cache)
    rows = torch.tensor([2, 0, 0])
    cache.keep(rows)
    step = model(tokens[rows, 9:], cache=cache, start=9)
    torch.testing.assert_close(step[:, -1], model(tokens)[rows, -1], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("model", "width"),
    [("dense", 24 + 4), ("apertus, plain", 2 * 2 * 8), ("apertus, tied, one key for all queries", 2 * 8)],
    indirect=["model"],
)
def test_cache_holds_the_latent_or_the_shared_keys_and_values_and_no_more(model, width):
    assert cache_for(model).bytes == 3 * 3 * 24 * width * 4


@torch.no_grad()
def test_too_long_a_text_and_a_wrong_start_are_refused(model):
    cache = cache_for(model, capacity=8)
    with pytest.raises(InputError, match="9 tokens exceeds the 8"):
        model(tokens_of(3, 9), cache=cache)
    with pytest.raises(ValueError, match="holds 0 tokens"):
        model(tokens_of(3, 1), cache=cache, start=1)
    with pytest.raises(ValueError, match="documents"):
        model(tokens_of(3, 4), torch.zeros(3, 4, dtype=torch.int64), cache=cache)
