"""Compiled blocks that can be switched back: compiling is a speed-up and never a requirement."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn


class Compiled:
    """The forwards of a model's blocks, compiled one by one, since equal blocks share one compilation.

    Attributes:
        is_on: whether blocks run compiled now.
    """

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        self.is_on = False
        for block in blocks:
            block.forward = self._switched(block.forward)

    def _switched(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        fast: Callable[..., Any] | None = None

        def forward(*arguments: Any, **named: Any) -> Any:
            nonlocal fast
            if not self.is_on:
                return plain(*arguments, **named)
            if fast is None:
                fast = torch.compile(plain)
            return fast(*arguments, **named)

        return forward
