"""Which experts each token chose: what reinforcement learning replays, so that training routes as serving did.

Reports speak of collapsed runs where the two disagree (R3, arXiv:2510.11370).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hanse.model.moe import Router, Routing
from hanse.model.transformer import Transformer
from hanse.serve.sequence import Routes


class RouteRecorder:
    """What a model's routers chose in the last forward that was listened to, in the order of their layers."""

    def __init__(self, model: Transformer) -> None:
        layers = model.config.num_hidden_layers  # the multi-token block comes behind them
        self._routers = [router for layer, router in model.routers().items() if layer < layers]
        self._chosen: dict[nn.Module, Tensor] = {}

    @contextmanager
    def listening(self, is_wanted: bool) -> Iterator[None]:
        """Note what is chosen meanwhile, if anybody wants it."""
        hooks = [router.register_forward_hook(self._note) for router in self._routers if is_wanted]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _note(self, router: Router, _: object, routing: Routing) -> None:
        self._chosen[router] = routing.experts_NK

    def rows(self, begin: int, count: int) -> Routes:
        """Chosen experts of some tokens: (count, layers with experts, experts a token)."""
        if not self._routers:
            return ((),) * count
        chosen = torch.stack([self._chosen[router][begin : begin + count] for router in self._routers], 1)
        return tuple(tuple(tuple(layer) for layer in token) for token in chosen.tolist())
