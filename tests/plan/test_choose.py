"""Layouts: what fits is found, what cannot be divided or does not fit is refused with what to do."""

from dataclasses import replace

import pytest

from hanse.errors import InputError
from hanse.model.config import ModelConfig
from hanse.plan import activations
from hanse.plan.choose import Job, Wishes, assess, choose
from hanse.plan.layout import Layout, cut_axis, groups, kept, part
from hanse.plan.machines import machine
from hanse.plan.sizes import Weight, total, weights
from hanse.plan.traffic import traffic

LARGE = ModelConfig(
    vocab_size=65536, hidden_size=2048, intermediate_size=8192, num_hidden_layers=12, num_attention_heads=16,
    q_lora_rank=1024, kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128,
    n_routed_experts=64, num_experts_per_tok=8, moe_intermediate_size=1024, first_k_dense_replace=1,
)  # fmt: skip
JOB = Job(LARGE, batch_tokens=2**22, sequence_length=4096, utilisation=0.15)
HOUSE = machine("h100-node")
JUPITER = machine("jupiter")


def test_the_chosen_layout_fits_and_none_that_fits_is_faster_by_more_than_a_hundredth():
    chosen = choose(JOB, JUPITER, 4)
    assert chosen.memory.fits
    assert chosen.layout.ranks == 16
    for replicate in (1, 2, 4, 8):
        for expert in (1, 2):
            for recompute in (False, True):
                other = assess(JOB, JUPITER, Layout(4, 4, replicate, expert, recompute, 8192))
                assert not other.memory.fits or other.step.seconds >= chosen.step.seconds / 1.01


def test_a_model_too_large_for_one_node_is_sharded_over_more_and_the_error_says_how_many():
    large = replace(JOB, config=replace(LARGE, num_hidden_layers=50, n_routed_experts=128))
    with pytest.raises(InputError) as refused:
        choose(large, JUPITER, 1)
    words = str(refused.value).split()
    enough = int(words[words.index("fits", words.index("much;")) + 2])
    assert "GB too much" in str(refused.value)
    assert choose(large, JUPITER, enough).memory.fits
    with pytest.raises(InputError):
        choose(large, JUPITER, enough // 2)


def test_where_no_number_of_nodes_is_enough_the_error_says_what_else():
    huge = replace(JOB, config=replace(LARGE, hidden_size=16384, intermediate_size=65536, n_routed_experts=256))
    with pytest.raises(InputError, match="take a smaller model"):
        choose(huge, HOUSE, 1)


def test_what_a_person_settled_is_kept():
    wishes = Wishes(replicate=2, expert=4, recompute=True, micro_batch_tokens=4096)
    layout = choose(JOB, JUPITER, 4, wishes).layout
    assert (layout.replicate, layout.expert, layout.recompute, layout.micro_batch_tokens) == (2, 4, True, 4096)
    assert layout.options() == "--replicate 2 --expert 4 --recompute --set pretrain.micro_batch_tokens=4096"


@pytest.mark.parametrize(
    ("nodes", "wishes", "said"),
    [
        (0, Wishes(), "may have 1 to"),
        (6000, Wishes(), "may have 1 to 5900"),
        (4, Wishes(replicate=3), "--replicate 3: does not divide 16 ranks"),
        (4, Wishes(replicate=0), "--replicate 0: does not divide 16 ranks"),
        (4, Wishes(replicate=4, expert=8), "--expert 8: does not divide the 4 ranks of one copy"),
        (3, Wishes(), "cannot be dealt out to 12 ranks"),
        (4, Wishes(micro_batch_tokens=5000), "micro_batch_tokens: 5,000 does not divide"),
        (512, Wishes(), "cannot be dealt out to 2048 ranks"),
    ],
)
def test_what_cannot_be_divided_is_refused(nodes, wishes, said):
    with pytest.raises(InputError) as refused:
        choose(JOB, JUPITER, nodes, wishes)
    assert said in str(refused.value)


def test_a_batch_that_grows_has_to_be_dealt_out_at_its_smallest_too():
    choose(replace(JOB, smallest_batch_tokens=2**20), JUPITER, 16)
    with pytest.raises(InputError, match="where the run begins with"):
        choose(replace(JOB, smallest_batch_tokens=2**20), JUPITER, 128)


def test_experts_of_a_dense_model_cannot_be_split():
    with pytest.raises(InputError, match="no experts to split"):
        Layout(1, 8, expert=2).check(replace(LARGE, n_routed_experts=0))
    with pytest.raises(InputError, match="does not divide the 64 routed experts"):
        Layout(1, 3, expert=3).check(LARGE)


def test_all_weights_are_kept_by_the_ranks_of_one_copy_together():
    even = replace(LARGE, kv_lora_rank=448)  # with 64 rotated: 512 rows, so that every cut comes out even
    layout = Layout(2, 8, expert=4)
    numbers = sum(count for _, count in kept(even, layout))
    assert numbers * layout.shard == total(weights(even))


def test_experts_are_cut_between_matrices_and_through_them_only_where_there_are_more_ranks() -> None:
    stack = Weight("x", (64, 2, 1024, 2048), "layers.1", "routed experts")
    assert (cut_axis(stack, 64), cut_axis(stack, 256)) == (0, 2)
    assert part(stack, 256) == stack.count // 256
    assert cut_axis(stack, 96) == 0  # neither comes out even: some ranks hold none
    gathered = {
        shard: sum(group.count for group in groups(LARGE, Layout(shard // 8, 8))) for shard in (64, 128)
    }  # fmt: skip
    assert gathered[128] < 1.1 * gathered[64]


def test_pairs_of_matrices_are_cut_along_their_rows_where_that_is_even():
    pair = Weight("x", (2, 1024, 2048), "layers.1", "matrices")
    assert part(pair, 64) == pair.count // 64
    assert part(pair, 60) == 1024 * 2048  # FSDP cuts only its first axis unevenly


def flows(layout, **changes):
    found = traffic(LARGE, layout, batch_tokens=2**22, **changes)
    return {flow.name.split(",")[0]: flow for flow in found}


def test_a_gpu_holds_as_many_logits_as_the_loss_makes_at_a_time():
    from hanse.model import loss

    assert activations.LOSS_CHUNK == loss._GPU_CHUNK
    one = activations.head_bytes(LARGE, activations.Precision(), 1024)
    two = activations.head_bytes(LARGE, activations.Precision(), 2048)
    many = activations.head_bytes(LARGE, activations.Precision(), 4096)
    hidden = 1024 * LARGE.hidden_size * 2
    assert two - one == 1024 * LARGE.vocab_size * 8 + hidden  # as many logits as tokens ...
    assert many - two == 2 * hidden  # ... and then no more


def test_one_rank_moves_nothing():
    assert traffic(LARGE, Layout(1, 1), batch_tokens=2**20) == ()


def test_within_a_node_nothing_goes_by_network():
    assert all(flow.network_bytes == 0 for flow in flows(Layout(1, 8, expert=4)).values())


def test_neighbours_in_a_node_share_what_the_network_brings():
    alone, shared = (flows(Layout(16 // n, n))["sum gradients over shards"].network_bytes for n in (1, 4))
    assert shared == pytest.approx(alone / 4 * (3 / 4) / (15 / 16))


def test_experts_split_in_a_node_move_tokens_there_and_weights_between_nodes():
    whole, split = flows(Layout(4, 4)), flows(Layout(4, 4, expert=4))
    assert split["tokens to experts and back"].network_bytes == 0 < split["tokens to experts and back"].node_bytes
    assert split["gather weights"].node_bytes < whole["gather weights"].node_bytes
    assert split["gather weights"].network_bytes == pytest.approx(whole["gather weights"].network_bytes, rel=0.01)


def test_experts_split_over_nodes_move_tokens_by_network():
    assert flows(Layout(4, 4, expert=16))["tokens to experts and back"].network_bytes > 0


def test_smaller_micro_batches_gather_more_often():
    often, seldom = (flows(Layout(4, 4, micro_batch_tokens=n))["gather weights"] for n in (2**15, 2**17))
    assert often.network_bytes == pytest.approx(4 * seldom.network_bytes)


def test_copies_sum_their_parts_of_the_gradients():
    assert "sum gradients over copies" not in flows(Layout(4, 4))
    assert flows(Layout(4, 4, replicate=2))["sum gradients over copies"].network_bytes > 0


def test_only_muon_puts_matrices_together():
    name = "Muon's matrices to their rank and back"
    assert name in flows(Layout(4, 4))
    assert name not in flows(Layout(4, 4), optimizer="adamw")


def test_recomputing_and_sharding_take_memory_away():
    plain = assess(JOB, JUPITER, Layout(4, 4, micro_batch_tokens=16384)).memory.bytes
    assert assess(JOB, JUPITER, Layout(4, 4, recompute=True, micro_batch_tokens=16384)).memory.bytes < plain
    assert assess(JOB, JUPITER, Layout(8, 4, micro_batch_tokens=16384)).memory.bytes < plain
    assert assess(JOB, JUPITER, Layout(4, 4, replicate=4, micro_batch_tokens=16384)).memory.bytes > plain


@pytest.mark.parametrize(("optimizer", "values"), [("muon", 4), ("adamw", 8), ("ademamix", 12)])
def test_the_optimizer_keeps_what_it_is_known_to_keep(optimizer, values):
    held = assess(replace(JOB, optimizer=optimizer), JUPITER, Layout(4, 4)).memory.items[2].bytes
    numbers = sum(count for _, count in kept(LARGE, Layout(4, 4)))
    assert held == pytest.approx(values * numbers, rel=0.1)
