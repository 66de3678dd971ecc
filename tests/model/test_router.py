"""Routing: who is chosen, with which weight, and how the balance bias moves."""

import torch

from hanse.model import moe
from hanse.model.config import ModelConfig
from hanse.model.moe import route

from .sizes import GROUPS, MOE, SMALL, model_of, tokens_of


def scores_of(tokens=50, experts=8):
    return torch.rand(tokens, experts, generator=torch.Generator().manual_seed(0))


def test_bias_chooses_but_does_not_weigh():
    config = ModelConfig(**SMALL | MOE)
    bias = torch.zeros(8)
    bias[5] = 10
    routing = route(scores_of(), bias, config)
    assert bool((routing.experts_NK == 5).any(1).all())
    raw = scores_of().gather(1, routing.experts_NK)
    torch.testing.assert_close(routing.weights_NK, 2.5 * raw / raw.sum(1, keepdim=True))


def test_only_the_best_groups_are_chosen_from():
    routing = route(scores_of(), torch.zeros(8), ModelConfig(**SMALL | MOE | GROUPS))
    groups = routing.experts_NK // 2
    assert max(len(row.unique()) for row in groups) == 2
    worth = scores_of().view(50, 4, 2).sum(-1).topk(2).indices
    assert all(set(row.tolist()) <= set(best.tolist()) for row, best in zip(groups, worth, strict=True))


def test_bias_update_follows_the_counts_once_and_is_centred():
    model = model_of(MOE).train()
    before = {layer: router.e_score_correction_bias.clone() for layer, router in model.routers().items()}
    model(tokens_of(4, 16))
    model(tokens_of(4, 16, seed=8))
    counts = {layer: router.counts_E.clone() for layer, router in model.routers().items()}
    loads = model.update_router_bias(0.01)
    assert [load.layer for load in loads] == [1, 2] and all(load.tokens == 2 * 4 * 16 * 3 for load in loads)
    for layer, router in model.routers().items():
        moved = before[layer] + 0.01 * torch.sign(counts[layer].float().mean() - counts[layer])
        torch.testing.assert_close(router.e_score_correction_bias, moved - moved.mean())
        assert int(router.counts_E.sum()) == 0
    after = {layer: router.e_score_correction_bias.clone() for layer, router in model.routers().items()}
    assert model.update_router_bias(0.01) == []
    assert all(torch.equal(after[layer], router.e_score_correction_bias) for layer, router in model.routers().items())


def test_evaluation_does_not_move_counts_and_forward_does_not_move_the_bias():
    model = model_of(MOE)
    bias = model.routers()[1].e_score_correction_bias.clone()
    model(tokens_of(2, 8))
    assert int(model.routers()[1].counts_E.sum()) == 0
    model.train()(tokens_of(2, 8))
    assert int(model.routers()[1].counts_E.sum()) == 2 * 8 * 3
    assert torch.equal(bias, model.routers()[1].e_score_correction_bias)


def test_repeated_updates_balance_a_router_that_prefers_two_experts():
    model = model_of(MOE | {"num_hidden_layers": 1, "first_k_dense_replace": 0, "num_experts_per_tok": 2}).train()
    router = model.routers()[0]
    router.e_score_correction_bias.copy_(torch.tensor([0.2, 0.2, 0, 0, 0, 0, 0, 0]))
    tokens = tokens_of(8, 32)
    violations = []
    for _ in range(60):
        model(tokens)
        violations.append(model.update_router_bias(0.01)[0].violation)
    assert violations[-1] < 0.5 * violations[0]
    assert abs(float(router.e_score_correction_bias.mean())) < 1e-6


def test_router_works_in_float32_under_autocast():
    model = model_of(MOE)
    seen = []
    model.routers()[1].register_forward_hook(lambda _, __, routing: seen.append(routing.weights_NK.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        model(tokens_of(2, 8))
    assert seen == [torch.float32]


def test_grouped_products_equal_the_loop_over_experts_and_so_do_their_gradients():
    generator = torch.Generator().manual_seed(0)
    shapes = ((40, 8), (40, 3), (6, 2, 16, 8), (6, 8, 16))
    x, weights, gate_up, down = (torch.randn(*shape, generator=generator, requires_grad=True) for shape in shapes)
    # Expert 5 gets nothing.
    experts = torch.stack([torch.randperm(5, generator=generator)[:3] for _ in range(40)])
    inputs = (x, weights, gate_up, down)
    outs = [compute(x, weights, experts, gate_up, down) for compute in (moe._grouped, moe._Experts.apply)]
    torch.testing.assert_close(*outs)
    wanted = torch.randn(40, 8, generator=generator)
    for one, other in zip(*(torch.autograd.grad((out * wanted).sum(), inputs) for out in outs), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_init_depends_on_the_generator_only():
    one, two, other = model_of(MOE, seed=4), model_of(MOE, seed=4), model_of(MOE, seed=5)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.embed_tokens, other.embed_tokens)
