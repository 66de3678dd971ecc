"""What transformers keeps of the past of texts, and which texts each of its caches belongs to.

A cache of transformers holds rows of one length, so texts that began together share one and go on together. It is
freed with the last of them.

Legend: B rows, S tokens so far.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Stands for a text that is over until its row is dropped. Blocks have no negative numbers.
_NOBODY = -1


class ForeignCache:
    """What a transformers model keeps of the past, for rows that all have the same length.

    Attributes:
        tokens_BS: the tokens so far.
        inner: transformers' own cache, or None where the tokens are all that is kept.
        length: tokens held in each row.
        capacity: tokens that a row may have; transformers' cache itself would grow on.
    """

    def __init__(self, tokens_BS: Tensor, inner: Any, capacity: int) -> None:
        self.tokens_BS = tokens_BS
        self.inner = inner
        self.capacity = capacity
        self.length = 0

    def keep(self, rows: Tensor) -> None:
        """Keep only these rows, in this order; a row may be repeated."""
        self.tokens_BS = self.tokens_BS[rows]
        if self.inner is not None:
            self.inner.batch_select_indices(rows)


class ForeignPool:
    """The caches of texts, each text known by its first block.

    Attributes:
        block, device, bytes_per_token: as `cache.Pool` has them; the last is a guess, since families differ.
        texts_of: the caches that are held, and of each row the text.
    """

    def __init__(self, block: int, device: torch.device, bytes_per_token: int) -> None:
        self.block, self.device, self.bytes_per_token = block, device, bytes_per_token
        self.texts_of: dict[ForeignCache, list[int]] = {}

    def begin(self, texts: list[int], cache: ForeignCache) -> None:
        """These texts are new, whatever their blocks held before."""
        for text in texts:
            self.forget(text)
        self.texts_of[cache] = list(texts)

    def gather(self, texts: list[int]) -> list[tuple[ForeignCache, list[int]]]:
        """The caches of these texts with their rows; rows of texts that do not go on are dropped."""
        wanted, found = set(texts), []
        for cache, held in list(self.texts_of.items()):
            staying = [text for text in held if text in wanted]
            if not staying:
                continue
            if len(staying) < len(held):
                device = cache.tokens_BS.device
                cache.keep(torch.tensor([held.index(text) for text in staying], device=device))
                self.texts_of[cache] = staying
            found.append((cache, staying))
        return found

    def forget(self, text: int) -> None:
        """A text is over, if it was here: its cache goes with it, or its row when the others of the cache go on."""
        for cache, held in list(self.texts_of.items()):
            held[:] = [_NOBODY if each == text else each for each in held]
            if set(held) == {_NOBODY}:
                del self.texts_of[cache]
