"""The list of weights is the model's own, name by name."""

import pytest
import torch

from hanse.model.config import ModelConfig, derive
from hanse.model.transformer import Transformer
from hanse.plan.sizes import total, weights
from hanse.train.optimizer import assign

SMALL = {
    "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "q_lora_rank": 32, "kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 12,
}  # fmt: skip
MOE = {
    "n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_shared_experts": 2,
    "first_k_dense_replace": 1,
}  # fmt: skip
CONFIGS = {
    "dense": ModelConfig(**SMALL),
    "tied": ModelConfig(**SMALL, tie_word_embeddings=True),
    "experts": ModelConfig(**SMALL, **MOE),
    "multi-token": ModelConfig(**SMALL, **MOE, num_nextn_predict_layers=1),
    "1B": derive("1B", vocab_size=65536),
    "apertus": derive("3M", family="apertus", vocab_size=300),
}


class Rates:
    learning_rate = adam_learning_rate = weight_decay = 0.1
    optimizer = "muon"


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_names_and_shapes_are_those_of_the_model(config):
    with torch.device("meta"):
        model = Transformer(config)
    assert {w.name: w.shape for w in weights(config)} == {n: tuple(p.shape) for n, p in model.named_parameters()}
    assert total(weights(config)) == config.parameters()


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_every_weight_is_in_the_group_that_the_optimizer_puts_it_in(config):
    with torch.device("meta"):
        model = Transformer(config)
    groups = {name: group.label for group in assign(model, Rates()) for name in group.names}
    assert {w.name: w.group for w in weights(config)} == groups
