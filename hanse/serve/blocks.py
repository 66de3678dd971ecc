"""Which block of the pool belongs to whom, and which may be found again by the text in it.

A full block has a digest of its text and of all text before it. Blocks that nobody uses keep what they hold until the
room is needed, the longest unused first; a prompt that begins with the same text takes them over.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence


class Blocks:
    """The books over `count` blocks of `size` tokens, numbered from 1: block 0 is nobody's."""

    def __init__(self, count: int, size: int) -> None:
        self.count, self.size = count, size
        self._unused: OrderedDict[int, None] = OrderedDict.fromkeys(range(1, count + 1))  # the longest unused first
        self._users = [0] * (count + 1)
        self._digests: list[bytes | None] = [None] * (count + 1)
        self._found: dict[bytes, int] = {}

    @property
    def unused(self) -> int:
        """Blocks that can be taken."""
        return len(self._unused)

    def take(self) -> int:
        """A block to write to. What it held is lost.

        Raises:
            IndexError: none is left.
        """
        if not self._unused:
            raise IndexError("no block is left")
        block, _ = self._unused.popitem(last=False)
        digest = self._digests[block]
        if digest is not None:
            del self._found[digest]
            self._digests[block] = None
        self._users[block] = 1
        return block

    def find(self, digest: bytes) -> int | None:
        """A block that holds this text, now used by one more."""
        block = self._found.get(digest)
        if block is not None:
            if not self._users[block]:
                del self._unused[block]
            self._users[block] += 1
        return block

    def keep(self, block: int, digest: bytes) -> None:
        """From now on a used, full block can be found; of two with one text the first is."""
        if self._digests[block] is None and digest not in self._found:
            self._digests[block] = digest
            self._found[digest] = block

    def release(self, blocks: Sequence[int]) -> None:
        """One user less for each. The end of a text goes first, since its beginning is asked for more often."""
        for block in reversed(blocks):
            self._users[block] -= 1
            if not self._users[block]:
                self._unused[block] = None
                if self._digests[block] is None:
                    self._unused.move_to_end(block, last=False)  # nobody can find it: let it be taken first


def digest_of(before: bytes, tokens: Sequence[int]) -> bytes:
    """Digest of a block's text and of all before it, from that of the text before."""
    return hashlib.blake2b(before + array("q", tokens).tobytes(), digest_size=16).digest()
