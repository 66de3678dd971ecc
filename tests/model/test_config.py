"""Sizes: counts that match the real model, checks that speak, a dial that gives sane shapes."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from hanse.errors import InputError
from hanse.model.config import ModelConfig, derive
from hanse.model.transformer import Transformer

from .sizes import GROUPS, MOE, SMALL, VARIANTS, model_of

DIALS = {"1M": 1e6, "3M": 3e6, "10M": 10e6, "30M": 30e6, "100M": 100e6, "1B": 1e9, "10B": 10e9, "100B": 100e9}


def vocabulary(target):
    return 4096 if target < 5e6 else 8192 if target < 50e6 else 65536 if target < 5e8 else 131072


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_parameters_are_those_of_the_model(variant):
    model = model_of(variant)
    assert model.config.parameters() == sum(parameter.numel() for parameter in model.parameters())


def test_active_parameters_leave_out_the_experts_not_chosen_and_the_multi_token_block():
    config = ModelConfig(**SMALL | MOE | {"num_nextn_predict_layers": 1})
    idle = 2 * (8 - 3) * 3 * 32 * 16
    with_block, without_block = config.parameters(), replace(config, num_nextn_predict_layers=0).parameters()
    assert config.active_parameters() == without_block - idle < with_block


def test_deepseek_v3_itself_has_671_billion_parameters_and_37_active():
    config = ModelConfig(
        vocab_size=129280,
        hidden_size=7168,
        intermediate_size=18432,
        moe_intermediate_size=2048,
        num_hidden_layers=61,
        num_attention_heads=128,
        q_lora_rank=1536,
        kv_lora_rank=512,
        qk_nope_head_dim=128,
        qk_rope_head_dim=64,
        v_head_dim=128,
        n_routed_experts=256,
        num_experts_per_tok=8,
        n_group=8,
        topk_group=4,
        first_k_dense_replace=3,
    ).check()
    assert round(config.parameters() / 1e9) == 671
    assert round(config.active_parameters() / 1e9, 1) == 37.6


@pytest.mark.parametrize("variant", [{}, MOE, {"tie_word_embeddings": True}])
def test_flop_per_token_equals_what_torch_counts(variant):
    from torch.utils.flop_counter import FlopCounterMode

    config = ModelConfig(**SMALL | variant)
    length = 17
    with torch.device("meta"):
        model = Transformer(replace(config, n_routed_experts=0) if not config.n_routed_experts else config)
    linear = 6 * sum(p.numel() for name, p in model.named_parameters() if p.ndim >= 2 and "embed_tokens" not in name)
    if config.n_routed_experts:
        linear -= 6 * 2 * (8 - 3) * 3 * 32 * 16
    linear += 6 * 97 * 32 if config.tie_word_embeddings else 0
    query, value = torch.randn(1, 4, length, 12), torch.randn(1, 4, length, 6)
    with FlopCounterMode(display=False) as counter:
        (query @ query.mT) @ value
    # torch counts the full square; causality leaves (length + 1) / 2 of length keys.
    attention = 3 * config.num_hidden_layers * counter.get_total_flops() / length * (length + 1) / 2 / length
    assert config.flop_per_token(length) == pytest.approx(linear + attention)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"qk_rope_head_dim": 5}, "odd"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"q_lora_rank": 0}, "q_lora_rank"),
        ({"num_attention_heads": -1}, "num_attention_heads"),
        ({"num_hidden_layers": 26}, "llama.cpp"),
        ({"num_hidden_layers": 27}, "25 or 28"),
        ({"num_hidden_layers": 48, "vocab_size": 128256}, "128256"),
        ({"num_hidden_layers": 47, "vocab_size": 154880}, "154880"),
        ({"rms_norm_eps": 1e-5}, "1e-6"),
        ({"num_nextn_predict_layers": 2}, "0 or 1"),
        (MOE | {"num_experts_per_tok": 9}, "exceeds n_routed_experts"),
        (MOE | {"n_group": 3}, "n_group"),
        (MOE | {"n_group": 8}, "two or more"),
        (MOE | {"n_group": 4, "topk_group": 5}, "topk_group"),
        (MOE | GROUPS | {"num_experts_per_tok": 5}, "hold only 4"),
        (MOE | {"moe_intermediate_size": 0}, "moe_intermediate_size"),
        (MOE | {"first_k_dense_replace": 3}, "first_k_dense_replace"),
    ],
)
def test_impossible_sizes_are_refused_by_name(wrong, words):
    with pytest.raises(InputError, match=words):
        ModelConfig(**SMALL | wrong).check()


@pytest.mark.parametrize("size", DIALS)
def test_the_dial_comes_near_its_number_with_possible_sizes(size):
    config = derive(size, vocab_size=vocabulary(DIALS[size]))
    assert 0.75 < config.active_parameters() / DIALS[size] < 1.25
    if DIALS[size] >= 100e6:
        widths = (config.kv_lora_rank, config.qk_rope_head_dim, config.qk_nope_head_dim, config.v_head_dim)
        assert widths == (512, 64, 128, 128)


def test_overrides_win_and_a_misspelt_one_gets_a_suggestion():
    config = derive("3M", vocab_size=4096, overrides={"num_hidden_layers": 7, "hidden_size": 128})
    assert (config.num_hidden_layers, config.hidden_size) == (7, 128)
    with pytest.raises(InputError, match="Did you mean hidden_size"):
        derive("3M", vocab_size=4096, overrides={"hiden_size": 128})


@pytest.mark.parametrize("size", ["", "3", "M", "3 T", "0M", "-1M", "1e3M"])
def test_a_dial_that_cannot_be_read_is_refused(size):
    with pytest.raises(InputError, match="size"):
        derive(size, vocab_size=4096)


def test_a_dial_below_what_the_vocabulary_needs_is_refused():
    with pytest.raises(InputError, match="cannot be reached"):
        derive("1M", vocab_size=131072)


def test_sizes_need_no_torch():
    code = (
        "import sys; from hanse.model.config import derive; derive('1B', vocab_size=9); 'torch' in sys.modules and 1/0"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
