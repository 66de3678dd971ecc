"""The books over the pool: no block has two owners, and what is kept can be found until its room is needed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.serve.blocks import Blocks, digest_of


def test_a_kept_block_is_found_after_its_user_has_gone() -> None:
    blocks = Blocks(3, 4)
    first = blocks.take()
    blocks.keep(first, b"text")
    blocks.release([first])
    assert blocks.find(b"text") == first
    assert blocks.unused == 2


def test_what_nobody_can_find_is_taken_before_what_could_be_found_again() -> None:
    blocks = Blocks(2, 4)
    kept, plain = blocks.take(), blocks.take()
    blocks.keep(kept, b"text")
    blocks.release([kept])
    blocks.release([plain])
    assert blocks.take() == plain
    assert blocks.take() == kept
    assert blocks.find(b"text") is None


def test_a_block_stays_while_anybody_uses_it() -> None:
    blocks = Blocks(1, 4)
    block = blocks.take()
    blocks.keep(block, b"text")
    blocks.find(b"text")
    blocks.release([block])
    with pytest.raises(IndexError):
        blocks.take()
    blocks.release([block])
    assert blocks.take() == block


def test_a_digest_depends_on_the_text_before() -> None:
    assert digest_of(digest_of(b"", [1, 2]), [3]) != digest_of(digest_of(b"", [1, 4]), [3])
    assert digest_of(b"", [1, 2]) != digest_of(b"salt", [1, 2])


@given(st.lists(st.tuples(st.sampled_from(["take", "find", "keep", "release"]), st.integers(0, 5)), max_size=80))
def test_no_block_is_ever_given_to_two_writers_or_lost(steps: list[tuple[str, int]]) -> None:
    blocks, held, writers = Blocks(4, 2), [], set()
    for action, number in steps:
        if action == "take" and blocks.unused:
            block = blocks.take()
            assert block not in held
            held.append(block)
            writers.add(block)
        elif action == "find":
            block = blocks.find(bytes([number]))
            if block is not None:
                held.append(block)
        elif action == "keep" and held:
            blocks.keep(held[number % len(held)], bytes([number]))
        elif action == "release" and held:
            blocks.release([held.pop(number % len(held))])
        assert blocks.unused == 4 - len(set(held))
    blocks.release(held)
    assert blocks.unused == 4
