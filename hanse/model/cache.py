"""The latent cache: what multi-head latent attention keeps of the past.

Legend: B rows, S capacity in tokens, X kv latent width + rope width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hanse.errors import InputError
from hanse.model.config import ModelConfig


class LatentCache:
    """`kv_lora_rank + qk_rope_head_dim` numbers a token and layer, for rows that all have the same length.

    Attributes:
        length: tokens held in each row. `Transformer.forward` sets it.
    """

    def __init__(
        self,
        config: ModelConfig,
        rows: int,
        *,
        capacity: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        width = config.kv_lora_rank + config.qk_rope_head_dim
        self.latents = [
            torch.empty(rows, capacity, width, device=device, dtype=dtype) for _ in range(config.num_hidden_layers)
        ]
        self.length = 0

    @property
    def rows(self) -> int:
        """Sequences held."""
        return self.latents[0].shape[0]

    @property
    def capacity(self) -> int:
        """Tokens that fit in a row."""
        return self.latents[0].shape[1]

    @property
    def bytes(self) -> int:
        """Memory held, in bytes."""
        return sum(latent.numel() * latent.element_size() for latent in self.latents)

    def write(self, layer: int, start: int, values_NX: Tensor) -> Tensor:
        """Store (B * T, X) at positions start ... start + T - 1 and return everything up to there, (B, start + T, X).

        Raises:
            InputError: if the tokens do not fit.
        """
        latent = self.latents[layer]
        values_BTX = values_NX.unflatten(0, (self.rows, -1))
        end = start + values_BTX.shape[1]
        if end > self.capacity:
            raise InputError(
                f"A text of {end} tokens exceeds the {self.capacity} that this conversation has room for; shorten it."
            )
        latent[:, start:end] = values_BTX.to(latent.dtype)
        return latent[:, :end]

    def keep(self, rows: Tensor) -> None:
        """Keep only these rows, in this order, to drop finished sequences; a row may be repeated."""
        self.latents = [latent[rows] for latent in self.latents]
