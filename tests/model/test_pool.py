"""Texts that share a pool of blocks are computed as if each were alone."""

from __future__ import annotations

import pytest
import torch

from hanse.model.cache import Pool, View
from hanse.model.documents import Layout
from hanse.model.transformer import Transformer

from .sizes import APERTUS_VARIANTS, GROUPS, MOE, VARIANTS, apertus_of, model_of, tokens_of

BLOCK = 4
#: Blocks of four texts, scattered; the third begins like the second and shares its first block.
BLOCKS = [[9, 2, 14, 5], [3, 4, 6, 7], [3, 11, 8, 12], [1, 15, 10, 13]]


@pytest.fixture(params=["dense", "experts", "groups", "apertus", "one key"])
def model(request: pytest.FixtureRequest) -> Transformer:
    made = {
        "dense": lambda: model_of({}),
        "experts": lambda: model_of(MOE),
        "groups": lambda: model_of(MOE | GROUPS),
        "apertus": lambda: apertus_of({}),
        "one key": lambda: apertus_of(APERTUS_VARIANTS["tied, one key for all queries"]),
    }
    return made[request.param]()


def texts() -> torch.Tensor:
    tokens = tokens_of(4, 16)
    tokens[2, :BLOCK] = tokens[1, :BLOCK]
    return tokens


def read(model: Transformer, pool: Pool, tokens: torch.Tensor, row: int, start: int, end: int, **how) -> torch.Tensor:
    """One piece of one text."""
    return model.extend(tokens[row, start:end], View.of(pool, [(end - start, [(start, BLOCKS[row], 0)])], **how))


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=3e-5, rtol=1e-4)


@torch.inference_mode()
def test_texts_of_many_lengths_in_one_forward_give_what_each_gives_alone(model: Transformer) -> None:
    tokens, pool = texts(), model.new_pool(17, block=BLOCK)
    whole = model(tokens)
    read(model, pool, tokens, 0, 0, 3)
    read(model, pool, tokens, 1, 0, 10)
    read(model, pool, tokens, 2, 0, 4)
    parts = [(1, [(3, BLOCKS[0], 0), (10, BLOCKS[1], 0)]), (9, [(4, BLOCKS[2], 0)]), (5, [(0, BLOCKS[3], 0)])]
    new = torch.cat((tokens[0, 3:4], tokens[1, 10:11], tokens[2, 4:13], tokens[3, :5]))
    found = model.extend(new, View.of(pool, parts))
    close(found, torch.cat((whole[0, 3:4], whole[1, 10:11], whole[2, 4:13], whole[3, :5])))


@pytest.mark.parametrize("absorb", [True, False, None])
@torch.inference_mode()
def test_a_prompt_in_pieces_gives_what_it_gives_at_once(model: Transformer, absorb: bool | None) -> None:
    tokens, pool = texts(), model.new_pool(17, block=BLOCK)
    pieces = [read(model, pool, tokens, 0, a, b, absorb=absorb) for a, b in ((0, 1), (1, 11), (11, 13), (13, 16))]
    close(torch.cat(pieces), model(tokens)[0])


@torch.inference_mode()
def test_nothing_is_written_to_a_block_that_others_read(model: Transformer) -> None:
    tokens, pool = texts(), model.new_pool(17, block=BLOCK)
    read(model, pool, tokens, 1, 0, 8)
    before = [held.clone() for held in pool.held]
    found = model.extend(tokens[2, 3:6], View.of(pool, [(3, [(3, BLOCKS[2], BLOCK)])]))
    close(found, model(tokens)[2, 3:6])
    shared = slice(3 * BLOCK, 4 * BLOCK)
    assert all(torch.equal(held[shared], old[shared]) for held, old in zip(pool.held, before, strict=True))


@torch.inference_mode()
def test_consecutive_blocks_are_read_in_place_and_give_the_same(model: Transformer) -> None:
    tokens, pool = texts(), model.new_pool(17, block=BLOCK)
    read(model, pool, tokens, 1, 0, 4)
    model.extend(tokens[1, :4], View.of(pool, [(4, [(0, [4, 5], 0)])]))
    inside = View.of(pool, [(2, [(4, [4, 5], 0)])])
    assert inside.groups[0].first == 4
    assert View.of(pool, [(2, [(4, BLOCKS[0], 0)])]).groups[0].first is None
    close(model.extend(tokens[1, 4:6], inside), model(tokens)[1, 4:6])


@pytest.mark.parametrize("variant", ["tied, with a multi-token block", "dense, tied, with a multi-token block"])
@torch.inference_mode()
def test_the_multi_token_block_in_pieces_gives_what_training_computes(variant: str) -> None:
    model, tokens = model_of(VARIANTS[variant]), texts()
    pool = model.new_pool(17, block=BLOCK, is_drafting=True)
    hidden = model(tokens)
    layout_turns = model.turns(torch.arange(1, 16))
    whole = Layout(((1, 15),), torch.arange(15))
    embedded = torch.nn.functional.embedding(tokens[0, 1:], model.embed_tokens)
    expected = model.mtp(hidden[0, :-1], embedded, layout_turns, whole)
    found = [
        model.draft(
            hidden[0, a - 1 : b - 1], tokens[0, a:b], View.of(pool, [(b - a, [(a, BLOCKS[0], 0)])], hides_first=True)
        )
        for a, b in ((1, 6), (6, 7), (7, 16))
    ]
    close(torch.cat(found), expected)
