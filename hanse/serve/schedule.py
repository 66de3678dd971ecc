"""Who computes what in the next step, and in which blocks: no tensors here.

Growing answers come first, then prompts in the order in which they came. Where no block is left, the youngest request
gives its own back, waits, and is computed again later.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from hanse.serve.blocks import Blocks
from hanse.serve.sequence import Sequence

#: Tokens of a block. Fewer: more of a common beginning is shared, since only whole blocks are, and less is wasted at a
#: text's end, half a block on average. More: fewer digests, shorter tables of blocks, longer pieces to gather at once.
#: Chosen, not measured.
BLOCK = 16
#: Requests of one step; beyond this a step on a CPU costs as much per row.
ROWS = 512
#: Up to this many growing answers the multi-token block proposes. A right proposal saves a step; each one, right or
#: wrong, costs a row of the forward and a run of the block. With few rows that hides behind the wait for weights, with
#: many it is arithmetic on top; where the line lies depends on the machine, the experts that more rows wake, and how
#: often proposals are right. Chosen, not measured.
DRAFT_ROWS = 4


@dataclass
class Due:
    """A request's part of a step: `count` new tokens from place `start` of its text, rows `begin` ... of the N.

    `is_drafted`: the last of them is only proposed.
    """

    sequence: Sequence
    start: int
    count: int
    is_drafted: bool = False
    begin: int = 0


class Schedule:
    """The requests and their blocks.

    Args:
        blocks: of BLOCK tokens each; at least what one text in full takes.
        chunk: tokens of prompts that a step reads.
        is_drafting: whether there is a multi-token block that proposes.
        shares: whether a text may take over the blocks of another that begins alike.
        on_release: told the first block of each text that gives its blocks back.

    Attributes:
        waiting, running: requests, the oldest first.
        preemptions: times a request gave its blocks back for another.
        cached_tokens: of prompts that did not have to be read.
    """

    def __init__(
        self, blocks: int, *, chunk: int, is_drafting: bool, shares: bool, on_release: Callable[[int], None]
    ) -> None:
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.preemptions = self.cached_tokens = 0
        self._blocks = Blocks(blocks, BLOCK)
        self._chunk = chunk
        self._is_drafting = is_drafting
        self._shares = shares
        self._on_release = on_release

    @property
    def capacity(self) -> int:
        """Tokens that fit."""
        return self._blocks.count * BLOCK

    @property
    def used(self) -> int:
        """Tokens of the blocks of running requests."""
        return (self._blocks.count - self._blocks.unused) * BLOCK

    @property
    def may_draft(self) -> bool:
        """Whether proposals pay now."""
        return self._is_drafting and len(self.running) <= DRAFT_ROWS

    def next(self) -> list[Due]:
        """The parts of the next step, with blocks for all their tokens."""
        due: list[Due] = []
        budget, may_draft = self._chunk, self.may_draft
        turn = 0
        while turn < len(self.running):  # it shrinks from its end when room is made
            sequence = self.running[turn]
            turn += 1
            count = 1 if sequence.left == 1 else min(sequence.left, budget)
            if count < 1:
                continue
            if not may_draft or sequence.said + 1 >= sequence.room:
                sequence.draft = None
            is_drafted = sequence.left == 1 and sequence.draft is not None
            if self._reserve(sequence, count + is_drafted):
                due.append(Due(sequence, sequence.computed, count + is_drafted, is_drafted))
                budget -= count
        while self.waiting and budget > 0 and len(self.running) < ROWS:
            sequence = self.waiting[0]
            self._find_prefix(sequence)
            if self._missing(sequence, sequence.left) > self._blocks.unused:
                self._give_back(sequence)
                break
            self.running.append(self.waiting.popleft())
            self.cached_tokens += sequence.cached
            count = min(sequence.left, budget)
            self._reserve(sequence, count)
            due.append(Due(sequence, sequence.computed, count))
            budget -= count
        return due

    def _missing(self, sequence: Sequence, count: int) -> int:
        """Blocks that a request lacks for `count` more tokens and the one that may be proposed behind them."""
        return -(-(sequence.computed + count + self._is_drafting) // BLOCK) - len(sequence.blocks)

    def _reserve(self, sequence: Sequence, count: int) -> bool:
        """Take the blocks for `count` more tokens, from the youngest if need be; False if it is the youngest."""
        while (missing := self._missing(sequence, count)) > 0:
            if self._blocks.unused:
                sequence.blocks += [self._blocks.take() for _ in range(min(missing, self._blocks.unused))]
                continue
            youngest = self.running.pop()
            self._give_back(youngest)
            self.waiting.appendleft(youngest)
            self.preemptions += 1
            if youngest is sequence:
                return False
        return True

    def _find_prefix(self, sequence: Sequence) -> None:
        """Take over the blocks of an earlier text that begins alike."""
        if not self._shares or sequence.request.prompt_logprobs or sequence.request.records_routes:
            return
        for digest in sequence.prefix_digests(BLOCK):
            block = self._blocks.find(digest)
            if block is None:
                break
            sequence.blocks.append(block)
        sequence.shared = len(sequence.blocks) * BLOCK
        # The last known token is computed again where its hidden state is wanted: by the head or by the next block.
        is_wanted = self._is_drafting or sequence.shared == len(sequence.tokens)
        sequence.computed = max(0, sequence.shared - is_wanted)
        sequence.kept = len(sequence.blocks)
        sequence.cached = 0 if sequence.said else sequence.computed

    def keep(self, sequence: Sequence) -> None:
        """Let others find the blocks that are full by now."""
        full = sequence.computed // BLOCK
        if not self._shares or full <= sequence.kept:
            return
        digests = sequence.prefix_digests(BLOCK)
        for index in range(sequence.kept, full):
            self._blocks.keep(sequence.blocks[index], digests[index])
        sequence.kept = full

    def _give_back(self, sequence: Sequence) -> None:
        """A request's blocks go; its text stays, and is computed again when it is its turn."""
        if sequence.blocks:
            self._on_release(sequence.blocks[0])
        self._blocks.release(sequence.blocks)
        sequence.blocks = []
        sequence.computed = sequence.shared = sequence.kept = 0
        sequence.draft = None

    def leave(self, sequence: Sequence) -> None:
        """A request is over."""
        if sequence in self.running:
            self.running.remove(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        self.keep(sequence)
        self._give_back(sequence)
