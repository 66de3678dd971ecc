"""The cache: what attention keeps of the past.

Legend: B rows, S capacity in tokens, X numbers of a token and layer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hanse.errors import InputError


class Cache:
    """X numbers a token and layer, for rows that all have the same length.

    What they are is the attention's business: the latent and a rotated key in `deepseek_v3`, keys and values in
    `apertus`.

    Attributes:
        length: tokens held in each row. `Transformer.forward` sets it.
    """

    def __init__(
        self,
        layers: int,
        rows: int,
        *,
        capacity: int,
        width: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._held = [torch.empty(rows, capacity, width, device=device, dtype=dtype) for _ in range(layers)]
        self.length = 0

    @property
    def rows(self) -> int:
        """Sequences held."""
        return self._held[0].shape[0]

    @property
    def capacity(self) -> int:
        """Tokens that fit in a row."""
        return self._held[0].shape[1]

    @property
    def bytes(self) -> int:
        """Memory held, in bytes."""
        return sum(held.numel() * held.element_size() for held in self._held)

    def write(self, layer: int, start: int, values_NX: Tensor) -> Tensor:
        """Store (B * T, X) at positions start ... start + T - 1 and return everything up to there, (B, start + T, X).

        Raises:
            InputError: if the tokens do not fit.
        """
        held_BSX = self._held[layer]
        values_BTX = values_NX.unflatten(0, (self.rows, -1))
        end = start + values_BTX.shape[1]
        if end > self.capacity:
            raise too_long(end, self.capacity)
        held_BSX[:, start:end] = values_BTX.to(held_BSX.dtype)
        return held_BSX[:, :end]

    def keep(self, rows: Tensor) -> None:
        """Keep only these rows, in this order, to drop finished sequences; a row may be repeated."""
        self._held = [held[rows] for held in self._held]


def too_long(tokens: int, capacity: int) -> InputError:
    """What to say of a text that outgrows its cache."""
    return InputError(
        f"A text of {tokens} tokens exceeds the {capacity} that this conversation has room for; shorten it."
    )
