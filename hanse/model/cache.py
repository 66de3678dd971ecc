"""What attention keeps of the past: a pool of blocks that many texts share, and what one forward sees of it.

Legend: N new tokens of all texts, B texts that add equally many, T tokens that each adds, S places that they see, M
blocks of a text, X numbers of a token and layer (the latent and a rotated key in `deepseek_v3`, keys and values in
`apertus`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hanse.errors import InputError


class Pool:
    """Room for tokens in blocks of equal size, in every layer. Block 0 is nobody's: what is written there is lost.

    Attributes:
        block: tokens in a block.
    """

    def __init__(
        self,
        layers: int,
        blocks: int,
        block: int,
        width: int,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.block = block
        # Zeroed: what nobody wrote is multiplied by a weight of 0, and 0 times what memory held may be no number.
        self.held = [torch.zeros(blocks * block, width, device=device, dtype=dtype) for _ in range(layers)]

    @property
    def blocks(self) -> int:
        """Blocks, the lost one included."""
        return self.held[0].shape[0] // self.block

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return self.held[0].device

    @property
    def bytes_per_token(self) -> int:
        """Memory of one token in all layers."""
        return sum(held.shape[1] * held.element_size() for held in self.held)

    def forget(self, text: int) -> None:
        """The text that begins in this block is over. Nothing to do here: its room stays, for whoever comes next."""


@dataclass(frozen=True)
class Group:
    """Texts of one forward that add equally many tokens.

    Attributes:
        part: which of the N tokens are theirs, text by text.
        rows: B.
        length: T.
        is_fresh: none of them has a past, so they need not read what they write.
        blocks_BM: where each text lies; rows of fewer blocks are filled up with block 0.
        bias_BTS: minus infinity at places that a new token must not see, else 0; None where all see all.
        first: the first of consecutive blocks if B is 1 and they are consecutive, so that nothing has to be gathered.
    """

    part: slice
    rows: int
    length: int
    is_fresh: bool
    blocks_BM: Tensor
    bias_BTS: Tensor | None
    first: int | None = None


class View:
    """What one forward reads and writes.

    Attributes:
        groups: together they cover the N tokens, in order.
        positions_N: place of each new token in its text.
        absorb: work in latent space (True) or expand what was kept (False); None chooses by T.
    """

    def __init__(
        self,
        pool: Pool,
        groups: Sequence[Group],
        positions_N: Tensor,
        places_N: Tensor,
        *,
        absorb: bool | None = None,
    ) -> None:
        self.pool = pool
        self.groups = tuple(groups)
        self.positions_N = positions_N
        self._places_N = places_N
        self.absorb = absorb

    @classmethod
    def of(
        cls,
        pool: Pool,
        parts: Sequence[tuple[int, Sequence[tuple[int, Sequence[int], int]]]],
        *,
        hides_first: bool = False,
        absorb: bool | None = None,
    ) -> View:
        """Plan a forward.

        Args:
            pool: where the texts lie.
            parts: of each group T, and for each of its texts: tokens it has already, its blocks (enough for those and
                the new ones), and the first place that may be written (what is new and lies before is lost: it belongs
                to a block that others read).
            hides_first: nobody sees place 0, where the multi-token block has nothing.
        """
        groups, positions, places, begin = [], [], [], 0
        for length, rows in parts:
            end = begin + len(rows) * length
            group, positions_BT, places_BT = _group(
                pool, slice(begin, end), length, rows, hides_first=hides_first, reads_new=bool(absorb)
            )
            groups.append(group)
            positions.append(positions_BT.flatten())
            places.append(places_BT.flatten())
            begin = end
        if len(positions) == 1:
            return cls(pool, groups, positions[0], places[0], absorb=absorb)
        return cls(pool, groups, torch.cat(positions), torch.cat(places), absorb=absorb)

    def write(self, layer: int, values_NX: Tensor) -> None:
        """Store what attention keeps of the new tokens."""
        held = self.pool.held[layer]
        held.index_copy_(0, self._places_N, values_NX.to(held.dtype))

    def read(self, layer: int, group: Group) -> Tensor:
        """What is kept of a group's texts, new tokens included: (B, S, X)."""
        held, block = self.pool.held[layer], self.pool.block
        if group.first is not None:
            return held[group.first * block : (group.first + group.blocks_BM.shape[1]) * block][None]
        blocks = held.view(-1, block * held.shape[1]).index_select(0, group.blocks_BM.flatten())
        return blocks.view(group.rows, -1, held.shape[1])


def _group(
    pool: Pool,
    part: slice,
    length: int,
    rows: Sequence[tuple[int, Sequence[int], int]],
    *,
    hides_first: bool,
    reads_new: bool,
) -> tuple[Group, Tensor, Tensor]:
    """A group, and positions and places (B, T) of its new tokens."""
    device, size = pool.device, pool.block
    most = max(-(-(start + length) // size) for start, _, _ in rows)
    tables = [[*blocks[:most], *([0] * (most - len(blocks)))] for _, blocks, _ in rows]
    blocks_BM = torch.tensor(tables, device=device)
    starts_B1 = torch.tensor([[start] for start, _, _ in rows], device=device)
    positions_BT = starts_B1 + torch.arange(length, device=device)
    places_BT = blocks_BM.gather(1, positions_BT // size) * size + positions_BT % size
    if any(start < writable for start, _, writable in rows):
        writable_B1 = torch.tensor([[writable] for _, _, writable in rows], device=device)
        places_BT = torch.where(positions_BT < writable_B1, positions_BT % size, places_BT)
    is_fresh = not hides_first and all(start == 0 for start, _, _ in rows)
    first = None
    if len(rows) == 1 and all(later == earlier + 1 for earlier, later in zip(tables[0], tables[0][1:], strict=False)):
        first = tables[0][0]
    bias = None
    if reads_new or not is_fresh:
        seen_S = torch.arange(most * size, device=device)
        is_hidden = seen_S > positions_BT.unsqueeze(-1)
        if hides_first:
            is_hidden |= seen_S == 0
        bias = torch.zeros(is_hidden.shape, device=device).masked_fill_(is_hidden, float("-inf"))
    return Group(part, len(rows), length, is_fresh, blocks_BM, bias, first), positions_BT, places_BT


class Cache:
    """A pool of its own for rows that all have the same length: an evaluation's, or a test's.

    Attributes:
        length: tokens held in each row. `Transformer.forward` sets it.
        rows, capacity: texts, and tokens that fit in each.
    """

    def __init__(self, pool: Pool, rows: int) -> None:
        self._pool = pool
        self.rows, self.capacity = rows, pool.block
        self.length = 0

    @property
    def bytes(self) -> int:
        """Memory held, in bytes."""
        return self._pool.bytes_per_token * self.rows * self.capacity

    def view(self, start: int, length: int, *, absorb: bool | None = None) -> View:
        """For a forward of tokens start ... start + length - 1 of every row.

        Raises:
            InputError: if the tokens do not fit.
        """
        end = start + length
        if end > self.capacity:
            raise too_long(end, self.capacity)
        device = self._pool.device
        positions_T = torch.arange(start, end, device=device)
        firsts_B1 = (torch.arange(self.rows, device=device) + 1).unsqueeze(1) * self.capacity
        bias = None
        if length > 1:
            is_hidden = torch.arange(end, device=device) > positions_T.unsqueeze(1)
            bias = torch.zeros(1, length, end, device=device).masked_fill_(is_hidden, float("-inf"))
        group = Group(slice(0, self.rows * length), self.rows, length, start == 0, firsts_B1, bias)
        places_N = (firsts_B1 + positions_T).flatten()
        return _Rows(self._pool, [group], positions_T.repeat(self.rows), places_N, absorb=absorb, end=end)

    def keep(self, rows: Tensor) -> None:
        """Keep only these rows, in this order, to drop finished sequences; a row may be repeated."""
        blocks = torch.cat((rows.new_zeros(1), rows + 1))
        self._pool.held = [
            held.view(-1, self.capacity, held.shape[1])[blocks].flatten(0, 1) for held in self._pool.held
        ]
        self.rows = len(rows)


class _Rows(View):
    """A view on rows of equal length that lie one after the other: nothing is gathered."""

    def __init__(self, *arguments: object, end: int, **further: object) -> None:
        super().__init__(*arguments, **further)  # type: ignore[arg-type]
        self._end = end

    def read(self, layer: int, group: Group) -> Tensor:
        held = self.pool.held[layer]
        return held.view(-1, self.pool.block, held.shape[1])[1:, : self._end]


def too_long(tokens: int, capacity: int) -> InputError:
    """What to say of a text that outgrows its cache."""
    return InputError(
        f"A text of {tokens} tokens exceeds the {capacity} that this conversation has room for; shorten it."
    )
