"""Packing conversations: what counts, what is seen, and that every step can be computed alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hanse.errors import InputError
from hanse.model.config import ModelConfig
from hanse.model.transformer import Transformer
from hanse.plan.dealing import micro_batches
from hanse.tune.sft import PackedConversations, Packing, pack
from hanse.tune.template import Rendered


def _conversation(number: int, length: int) -> Rendered:
    """Tokens of one conversation, all in its own hundred; the second half is the assistant's."""
    ids = [100 * number + place for place in range(length)]
    return Rendered(ids, [place >= length // 2 for place in range(length)])


def _packing(**changes: object) -> Packing:
    values: dict = {"sequence_length": 16, "batch_rows": 4, "micro_rows": 2, "epochs": 1.0, "seed": 7}
    values |= changes
    micro = micro_batches(values["batch_rows"], values.pop("micro_rows"), rank=0, ranks=1)
    return Packing(**values, micro_batches=tuple(micro))


MANY = [_conversation(number, 3 + number % 9) for number in range(1, 60)]


@given(st.lists(st.integers(1, 16), min_size=1, max_size=200))
def test_pack_places_everything_once_and_overfills_no_row(lengths: list[int]) -> None:
    rows = list(pack(range(len(lengths)), lengths, 16))
    assert sorted(place for row in rows for place in row) == list(range(len(lengths)))
    assert all(sum(lengths[place] for place in row) <= 16 for row in rows)


def test_rows_are_nearly_full() -> None:
    lengths = [3 + 7 * number % 23 for number in range(2000)]
    rows = list(pack(range(2000), lengths, 256))
    assert sum(lengths) / (256 * len(rows)) > 0.98


def test_only_the_assistants_tokens_and_its_end_count() -> None:
    data = PackedConversations([_conversation(1, 8)], _packing(batch_rows=1, micro_rows=1))
    (batch,) = data.batch_at(0)
    assert batch.tokens_BT[0, :7].tolist() == [100, 101, 102, 103, 104, 105, 106]
    assert batch.targets_BT[0, :7].tolist() == [-100, -100, -100, 104, 105, 106, 107]
    assert (batch.targets_BT[0, 7:] == -100).all()
    assert batch.documents_BT[0].tolist() == [0] * 7 + [1] * 9


def test_every_conversation_is_learnt_once_an_epoch() -> None:
    data = PackedConversations(MANY, _packing(batch_rows=1, micro_rows=1, epochs=2))
    seen: list[int] = []
    for step in range(data.steps):
        for batch in data.batch_at(step):
            seen += batch.targets_BT[batch.targets_BT != -100].tolist()
    expected = [i for c in MANY for i, mine in zip(c.ids[1:], c.is_assistant[1:], strict=True) if mine]
    assert sorted(seen) == sorted(2 * expected)


def test_parts_of_an_epoch_count() -> None:
    one = PackedConversations(MANY, _packing(epochs=1.0, batch_rows=1))
    half = PackedConversations(MANY, _packing(epochs=0.5, batch_rows=1))
    more = PackedConversations(MANY, _packing(epochs=1.5, batch_rows=1))
    assert half.steps < one.steps < more.steps
    assert more.steps == pytest.approx(one.steps + half.steps, abs=3)


def test_conversations_in_a_row_are_documents_of_their_own() -> None:
    data = PackedConversations(MANY, _packing())
    for batch in data.batch_at(0):
        for tokens, documents in zip(batch.tokens_BT, batch.documents_BT, strict=True):
            for document in documents.unique():
                assert len((tokens[documents == document] // 100).unique()) == 1


def test_a_step_is_a_function_of_its_number_alone() -> None:
    data, again = PackedConversations(MANY, _packing(epochs=3)), PackedConversations(MANY, _packing(epochs=3))
    for step in reversed(range(data.steps)):
        for one, other in zip(data.batch_at(step), again.batch_at(step), strict=True):
            assert torch.equal(one.tokens_BT, other.tokens_BT) and torch.equal(one.targets_BT, other.targets_BT)
    assert again.digest == data.digest


def test_the_order_changes_with_epoch_and_seed_but_the_digest_does_not() -> None:
    data = PackedConversations(MANY, _packing(epochs=2))
    other = PackedConversations(MANY, _packing(epochs=2, seed=8))
    assert data._rows[0] != other._rows[0]
    assert data._rows[0] != data._rows[len(data._rows) // 2]
    assert data.digest == other.digest != PackedConversations(MANY[1:], _packing()).digest


def test_micro_batches_are_slices_of_the_step() -> None:
    whole = PackedConversations(MANY, _packing(micro_rows=4)).batch_at(1)
    parts = PackedConversations(MANY, _packing(micro_rows=1)).batch_at(1)
    assert [len(whole), len(parts)] == [1, 4]
    assert torch.equal(torch.cat([part.tokens_BT for part in parts]), whole[0].tokens_BT)


def test_what_cannot_be_used_is_counted_and_nothing_left_is_an_error() -> None:
    silent = Rendered([1, 2, 3], [False] * 3)
    data = PackedConversations([_conversation(1, 40), silent, _conversation(2, 17)], _packing(batch_rows=1))
    assert (data.conversations, data.too_long, data.unanswered) == (1, 1, 1)
    with pytest.raises(InputError, match=r"1 do not fit into sequence_length = 16, 1 have no answer"):
        PackedConversations([_conversation(1, 40), silent], _packing())


def test_few_conversations_still_make_one_step() -> None:
    data = PackedConversations([_conversation(1, 8)], _packing(batch_rows=64))
    assert data.steps == 1
    assert [bool((batch.targets_BT != -100).any()) for batch in data.batch_at(0)] == [True] + 31 * [False]


def test_neighbours_in_a_row_do_not_influence_each_other() -> None:
    config = ModelConfig(
        vocab_size=8000, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        q_lora_rank=16, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=8,
        max_position_embeddings=64,
    )  # fmt: skip
    model = Transformer(config).init_weights(torch.Generator().manual_seed(0)).eval()
    packed = PackedConversations(MANY[:6], _packing(sequence_length=64, batch_rows=1)).batch_at(0)[0]
    with torch.no_grad():
        together = model(packed.tokens_BT, packed.documents_BT)[0]
        for document in packed.documents_BT[0].unique()[:-1]:
            is_mine = packed.documents_BT[0] == document
            alone = model(packed.tokens_BT[:1, is_mine], None)[0]
            torch.testing.assert_close(together[is_mine], alone, rtol=1e-4, atol=1e-5)


def test_ranks_share_the_rows_of_a_step_without_overlap() -> None:
    whole = PackedConversations(MANY, _packing(micro_rows=4)).batch_at(1)[0]
    shares = [tuple(micro_batches(4, 1, rank=rank, ranks=2)) for rank in range(2)]
    parts = [
        batch
        for share in shares
        for batch in PackedConversations(MANY, replace(_packing(), micro_batches=share)).batch_at(1)
    ]
    assert torch.equal(torch.cat([part.tokens_BT for part in parts]), whole.tokens_BT)


def test_fewer_conversations_than_a_batch_leave_rows_empty_on_some_rank() -> None:
    last = tuple(micro_batches(4, 2, rank=1, ranks=2))
    (batch,) = PackedConversations(MANY[:1], replace(_packing(), micro_batches=last)).batch_at(0)
    assert batch.tokens_BT.shape == (2, 16)
    assert not (batch.targets_BT != -100).any()
