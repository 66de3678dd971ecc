"""Operations of a run: against arithmetic by hand, against what torch counts, against published models."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hanse.errors import InputError
from hanse.model.config import ApertusConfig, ModelConfig
from hanse.model.config.operations import ATTENTION, MTP_ATTENTION, UNEMBEDDING
from hanse.model.loss import Objective
from hanse.model.transformer import Transformer
from hanse.plan.operations import Work, attended_pairs, config_of, inference, training, updating
from hanse.train.optimizer import orthogonalize

HAND = ModelConfig(
    vocab_size=100, hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, q_lora_rank=4,
    kv_lora_rank=4, qk_nope_head_dim=4, qk_rope_head_dim=2, v_head_dim=4,
)  # fmt: skip
HAND_EXPERTS = replace(
    HAND, n_routed_experts=6, num_experts_per_tok=2, moe_intermediate_size=5, first_k_dense_replace=1
)

# --------------------------------------------------------------------------- by hand


def test_a_dense_model_counts_as_worked_out_by_hand():
    # One block's projections, numbers: q_a 8 x 4 = 32, kv_a 8 x (4 + 2) = 48, q_b 4 x 2 x (4 + 2) = 48,
    # kv_b 4 x 2 x (4 + 4) = 64, o 2 x 4 x 8 = 64: 256. Two operations each, two blocks: 1,024.
    # A pair: 2 heads x (6 for query x key + 4 for weight x value) x 2 = 40. Sequences of 7: (7 + 1) / 2 = 4 keys a
    # query, so 160 a block: 320.
    # SwiGLU: 3 x 8 x 16 = 384 numbers, two operations, two blocks: 1,536. Head: 2 x 100 x 8 = 1,600.
    expected = {"attention projections": 1024, "attention": 320, "dense feed-forward": 1536, "unembedding": 1600}
    assert HAND.operations(7) == expected
    assert HAND.flop_per_token(7) == 3 * (1024 + 320 + 1536 + 1600) == 13_440


def test_experts_count_as_worked_out_by_hand():
    # Projections, attention and head as above. Block 0 is dense: 2 x 384 = 768. Block 1: router 2 x 8 x 6 = 96; an
    # expert has 3 x 8 x 5 = 120 numbers, so two chosen ones are 480 and the shared one is 240; four experts idle.
    expected = {
        "attention projections": 1024, "attention": 320, "dense feed-forward": 768, "router": 96,
        "chosen experts": 480, "shared experts": 240, "unembedding": 1600,
    }  # fmt: skip
    assert HAND_EXPERTS.operations(7) == expected
    assert HAND_EXPERTS.flop_per_token(7) == 3 * 4528 == 13_584


def test_the_multi_token_block_counts_as_worked_out_by_hand():
    # Joining two hidden states: 2 x (2 x 8 x 8) = 256. Its block has experts: 512 + 96 + 480 + 240 = 1,328. Attention
    # 160, and the head once more.
    found = replace(HAND_EXPERTS, num_nextn_predict_layers=1).operations(7)
    added = {"multi-token block": 1584, "multi-token attention": 160, "multi-token unembedding": 1600}
    assert found == HAND_EXPERTS.operations(7) | added


def test_grouped_queries_count_as_worked_out_by_hand():
    # Heads of 2: queries and output 8 x 8 each, keys and values 8 x 4 each: 192 numbers, 2 blocks: 768 operations.
    # A pair: 4 query heads x (2 + 2) x 2 = 32, 4 keys a query, 2 blocks: 256. Two matrices of 8 x 16: 1,024.
    config = ApertusConfig(vocab_size=100, hidden_size=8, intermediate_size=16, num_hidden_layers=2,
                           num_attention_heads=4, num_key_value_heads=2, head_dim=2)  # fmt: skip
    expected = {"attention projections": 768, "attention": 256, "dense feed-forward": 1024, "unembedding": 1600}
    assert config.operations(7) == expected
    assert config.flop_per_token(7) == 3 * 3648


@pytest.mark.parametrize("config", [HAND, HAND_EXPERTS, replace(HAND_EXPERTS, num_nextn_predict_layers=1)])
def test_a_run_over_whole_sequences_is_tokens_times_flop_per_token(config):
    assert sum(training(config, Work.whole_sequences(7 * 30, 7)).values()) == 7 * 30 * config.flop_per_token(7)


def test_the_head_is_counted_where_a_position_counts_and_the_extra_block_where_its_loss_does():
    config = replace(HAND, num_nextn_predict_layers=1)
    found = training(config, Work(tokens=100, counted_tokens=30, pairs=250, mtp_tokens=50, mtp_counted_tokens=10))
    assert found[UNEMBEDDING] == 3 * 1600 * 30
    assert found[ATTENTION] == 3 * 2 * 40 * 250  # a pair is 40 in each of two blocks
    assert found["multi-token unembedding"] == 3 * 1600 * 10
    assert found[MTP_ATTENTION] == 3 * 40 * 125  # half the tokens, so half the pairs
    tuned = training(config, Work(tokens=100, counted_tokens=30, pairs=250))
    assert not [part for part in tuned if part.startswith("multi-token")]


def test_inference_counts_as_worked_out_by_hand():
    # Three tokens read and two written: the last one written is not read, so four tokens pass through the blocks. Their
    # pairs: 1 + 2 + 3 + 4 = 10, of 80 each (two blocks). Two tokens need the head.
    assert inference(HAND, 3, 2) == 4 * (1024 + 1536) + 10 * 80 + 2 * 1600
    assert inference(replace(HAND, num_nextn_predict_layers=1), 3, 2) == inference(HAND, 3, 2)


# --------------------------------------------------------------------------- pairs


@given(st.integers(0, 2**32 - 1))
def test_pairs_are_those_of_tokens_with_all_before_them_in_their_document(seed):
    draw = np.random.default_rng(seed)
    documents = draw.integers(draw.integers(-3, 1), draw.integers(2, 9), (draw.integers(1, 4), draw.integers(1, 12)))
    by_looking = sum(
        row[key] == row[query] for row in documents for query in range(len(row)) for key in range(query + 1)
    )
    assert attended_pairs(documents) == by_looking, f"seed {seed}"


def test_pairs_of_one_long_document_are_exact():
    assert attended_pairs(np.zeros((2, 100_000), dtype=np.int64)) == 2 * 100_000 * 100_001 // 2


# --------------------------------------------------------------------------- what torch counts

WIDE = {
    "vocab_size": 512, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 2, "num_attention_heads": 2,
    "q_lora_rank": 96, "kv_lora_rank": 64, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "v_head_dim": 32,
}  # fmt: skip
EXPERTS = {
    "n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 128, "first_k_dense_replace": 1,
    "n_shared_experts": 2,
}  # fmt: skip
LENGTH, ROWS = 64, 4


def added_in_place(total, left, right, *, out_shape, **others) -> int:
    """FLOP of a product of these shapes, or of a batch of them."""
    return 2 * math.prod(left) * right[-1]


# FlopCounterMode knows no product that is added in place, which the hand-written backward passes use.
IN_PLACE = {torch.ops.aten.addmm_: added_in_place, torch.ops.aten.baddbmm_: added_in_place}


def unless_a_sum(left, right, *, out_shape, **others) -> int:
    """FLOP of a product; none for one with a single column, by which the norms add up rows."""
    return 2 * math.prod(left) * right[-1] if right[-1] > 1 else 0


# What is left to count when the element-wise work that happens to be written as a product is taken out.
WITHOUT_SUMS = IN_PLACE | {torch.ops.aten.mm: unless_a_sum}


def counted(config, *, lengths=(LENGTH,), masked=0.0, with_mtp=False, formulas=IN_PLACE) -> tuple[int, Work]:
    """FLOP that torch sees in forward and backward of rows of documents of these lengths, and what went through."""
    torch.manual_seed(3)
    model = Transformer(config).init_weights()
    model.train()
    tokens = torch.randint(config.vocab_size, (ROWS, sum(lengths)))
    targets = torch.randint(config.vocab_size, tokens.shape).masked_fill(torch.rand(tokens.shape) < masked, -100)
    documents = torch.cat([torch.full((n,), number) for number, n in enumerate(lengths)]).expand(ROWS, -1).contiguous()
    counter = FlopCounterMode(display=False, custom_mapping=formulas)
    # The fused kernel of a CPU has no formula either; its plain form computes the whole square of a document.
    with counter, sdpa_kernel(SDPBackend.MATH):
        losses = Objective(model)(tokens, targets, documents, with_mtp=with_mtp)
        sum(losses).backward()
    assert (targets == -100).any() == bool(masked)
    count = int((targets != -100).sum())
    return counter.get_total_flops(), Work(
        tokens.numel(), count, attended_pairs(documents.numpy()), *((tokens.numel(), count) if with_mtp else (0, 0))
    )


CASES = {
    "deepseek_v3, dense": (ModelConfig(**WIDE), {}),
    "deepseek_v3, experts": (ModelConfig(**WIDE | EXPERTS), {}),
    "deepseek_v3, experts and a multi-token block": (
        ModelConfig(**WIDE | EXPERTS | {"num_nextn_predict_layers": 1}), {"with_mtp": True},
    ),
    "deepseek_v3, a multi-token block that is not trained": (
        ModelConfig(**WIDE | {"num_nextn_predict_layers": 1}), {},
    ),
    "deepseek_v3, half the targets masked": (ModelConfig(**WIDE), {"masked": 0.5}),
    "deepseek_v3, documents": (ModelConfig(**WIDE | EXPERTS), {"lengths": (8, 32, 16, 8)}),
    "apertus": (
        ApertusConfig(vocab_size=512, hidden_size=256, intermediate_size=2048, num_hidden_layers=2,
                      num_attention_heads=4, num_key_value_heads=2, head_dim=64), {},
    ),
    "apertus, half the targets masked": (
        ApertusConfig(vocab_size=512, hidden_size=256, intermediate_size=2048, num_hidden_layers=2,
                      num_attention_heads=4, num_key_value_heads=2, head_dim=64), {"masked": 0.5},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_run_counts_what_torch_counts_within_two_per_cent(case):
    config, how = CASES[case]
    seen, work = counted(config, **how)
    assert sum(training(config, work).values()) == pytest.approx(seen, rel=0.02)


@pytest.mark.parametrize("case", ["deepseek_v3, dense", "deepseek_v3, experts", "deepseek_v3, documents", "apertus"])
def test_what_is_left_is_the_empty_half_of_attention_and_nothing_else(case):
    config, how = CASES[case]
    seen, work = counted(config, **how, formulas=WITHOUT_SUMS)
    squares = ROWS * sum(length**2 for length in how.get("lengths", (LENGTH,)))
    assert sum(training(config, replace(work, pairs=squares)).values()) == seen


def test_muons_products_are_those_that_torch_counts():
    matrices = torch.randn(3, 24, 24)
    with FlopCounterMode(display=False) as counter:
        orthogonalize(matrices)
    assert counter.get_total_flops() == 3 * 5 * (4 * 24**3 + 2 * 24**3)


def test_optimizer_steps_count_each_matrix_and_each_number():
    found = updating(HAND, "muon", steps=7)
    shapes = 2 * [(4, 8), (12, 4), (6, 8), (16, 4), (8, 8), (16, 8), (16, 8), (8, 16)]  # gate and up are two
    products = sum(5 * (4 * min(s) ** 2 * max(s) + 2 * min(s) ** 3) for s in shapes)
    numbers = sum(rows * columns for rows, columns in shapes)
    assert found["muon, orthogonalising"] == 7 * products
    assert found["muon"] == 7 * 12 * numbers
    assert found["adamw"] == 7 * 13 * (HAND.parameters() - numbers)
    assert updating(HAND, "adamw", steps=7) == {"adamw": 7 * 13 * HAND.parameters()}
    with pytest.raises(InputError, match="'sgd': its operations are not counted"):
        updating(HAND, "sgd", steps=7)


# --------------------------------------------------------------------------- published models

DEEPSEEK_V3 = ModelConfig(
    vocab_size=129280, hidden_size=7168, intermediate_size=18432, moe_intermediate_size=2048, num_hidden_layers=61,
    num_attention_heads=128, q_lora_rank=1536, kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64,
    v_head_dim=128, n_routed_experts=256, num_experts_per_tok=8, n_group=8, topk_group=4, first_k_dense_replace=3,
    num_nextn_predict_layers=1,
)  # fmt: skip
APERTUS_70B = ApertusConfig(
    vocab_size=131072, hidden_size=8192, intermediate_size=43008, num_hidden_layers=80, num_attention_heads=64,
    num_key_value_heads=8, head_dim=128,
)  # fmt: skip
#: Size, tokens, sequence length, and GPU hours of pre-training with the GPU's dense bfloat16 peak, as published.
#: DeepSeek-V3: arXiv:2412.19437 (37B active, 14.8T tokens, sequences of 4K, 2.664M H800 hours; the H800 has the H100's
#: rate). Apertus-70B: arXiv:2509.14233 (15T tokens, 4K, 6M GH200 hours on up to 4,096 GPUs).
PUBLISHED = {
    "DeepSeek-V3": (DEEPSEEK_V3, 37e9, 14_800_000_000_000, 4096, 2_664_000, 989e12, 24),
    "Apertus-70B": (APERTUS_70B, 70e9, 15_000_000_000_000, 4096, 6_000_000, 989e12, 24),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_come_out_at_the_order_of_magnitude_of_their_compute(name):
    config, active, tokens, length, hours, peak, exponent = PUBLISHED[name]
    flop = sum(training(config, Work.whole_sequences(tokens, length)).values())
    assert len(str(flop)) - 1 == exponent
    # The rule of thumb for large models, 6 operations a parameter and token, knows no attention and no extra block.
    assert 1.0 < flop / (6 * active * tokens) < 1.35
    # Their own hours say how busy the GPUs must have been: what such runs report, and less than everything.
    assert 0.2 < flop / (hours * 3600 * peak) < 0.6


def test_smollm3_comes_out_at_two_times_ten_to_the_twenty_three(tmp_path):
    # HuggingFaceTB/SmolLM3-3B: 36 layers of 2048, 16 query and 4 key heads of 128, SwiGLU of 11008, 128,256 tokens in a
    # tied table; 11.2T tokens in sequences of 4K; 384 H100 for 24 days (220,000 hours).
    import json

    from hanse.model.config.foreign import ForeignConfig

    hidden, width = 2048, 11008
    shapes = {"model.embed_tokens.weight": (128256, hidden)}
    for layer in range(36):
        for projection, shape in {
            "self_attn.q_proj": (2048, hidden), "self_attn.k_proj": (512, hidden), "self_attn.v_proj": (512, hidden),
            "self_attn.o_proj": (hidden, 2048), "mlp.gate_proj": (width, hidden), "mlp.up_proj": (width, hidden),
            "mlp.down_proj": (hidden, width),
        }.items():  # fmt: skip
            shapes[f"model.layers.{layer}.{projection}.weight"] = shape
    values = {
        "model_type": "smollm3", "vocab_size": 128256, "hidden_size": hidden, "num_hidden_layers": 36,
        "num_attention_heads": 16, "num_key_value_heads": 4, "max_position_embeddings": 65536,
        "tie_word_embeddings": True,
    }  # fmt: skip
    config = ForeignConfig.of(values, shapes)
    assert config.parameters() == pytest.approx(3.08e9, rel=0.01)
    flop = sum(training(config, Work.whole_sequences(11_200_000_000_000, 4096)).values())
    assert len(str(flop)) - 1 == 23
    assert 1.0 < flop / (6 * 3.08e9 * 11.2e12) < 1.35
    assert 0.2 < flop / (220_000 * 3600 * 989e12) < 0.6
    # The same sizes from a folder: a family that we do not compute ourselves needs the weights' shapes.
    header = json.dumps({n: {"dtype": "F32", "shape": list(s), "data_offsets": [0, 0]} for n, s in shapes.items()})
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header.encode())
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert config_of(values, tmp_path).flop_per_token(4096) == config.flop_per_token(4096)
