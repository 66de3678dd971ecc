"""The step of serving in which every text gets one token, compiled: hundreds of short operators become a few.

A small model spends its time on calls of operators, not on arithmetic. Two graphs are made, for one text and for
several, each once and for all lengths; from more texts than `FEW_ROWS` on arithmetic is what counts, and none is made.
What is computed is what `Transformer.extend` computes, in another order of sums, so a draw between two equally likely
tokens may fall the other way.

Legend: B texts, M blocks of a text, S places that they see, X numbers of a token and layer, N = B tokens, D hidden,
K experts a token, E experts, F expert width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from hanse.model.apertus import ApertusBlock
from hanse.model.cache import Group, Pool, View
from hanse.model.moe import RoutedExperts, Routing, compute_experts, infer_experts
from hanse.model.product import FEW_ROWS
from hanse.model.transformer import Block, Transformer

#: Tables of fewer blocks are filled up: a size of 1 would be another graph, and 2 that of two texts.
_LEAST_BLOCKS = 3


class CompiledStep:
    """`Transformer.extend` for texts of which each adds one token to a past.

    Args:
        model: of our own families.
        pool: where the texts lie.

    Raises:
        Exception: whatever the compiler raises, when `warm_up` or a call makes a graph.
    """

    def __init__(self, model: Transformer, pool: Pool) -> None:
        self._model, self._pool = model, pool
        for module in model.modules():
            if isinstance(module, RoutedExperts):
                module.compute = _experts
        self._compute = torch.compile(self._plain, fullgraph=True)

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Make both graphs; what is written goes where nobody reads."""
        for rows in (1, 2):
            self([0] * rows, [(1, [0], 1)] * rows)

    def __call__(self, tokens: Sequence[int], texts: Sequence[tuple[int, Sequence[int], int]]) -> Tensor:
        """Hidden states (B, D) after the final norm, the new tokens being written into the pool.

        Args:
            tokens: the new one of each text; at most `FEW_ROWS`.
            texts: tokens that each has already, at least 1; its blocks; and the first place that may be written.
        """
        device, size = self._pool.device, self._pool.block
        most = max(_LEAST_BLOCKS, *(start // size + 1 for start, _, _ in texts))
        tables = [[*blocks[:most], *([0] * (most - len(blocks)))] for _, blocks, _ in texts]
        places = [
            (blocks[start // size] * size if start >= writable else 0) + start % size
            for start, blocks, writable in texts
        ]
        starts_B = torch.tensor([start for start, _, _ in texts], device=device)
        # As cosines and sines: compilers do without complex numbers.
        turns_BR2 = torch.view_as_real(self._model.turns(starts_B))
        tokens_B, blocks_BM, places_B = (torch.tensor(values, device=device) for values in (tokens, tables, places))
        torch._dynamo.mark_dynamic(blocks_BM, 1)
        if len(texts) > 1:
            for values in (tokens_B, starts_B, turns_BR2, blocks_BM):
                torch._dynamo.mark_dynamic(values, 0, min=2, max=FEW_ROWS)
        hidden_BD, written = self._compute(tokens_B, starts_B, turns_BR2, blocks_BM)
        for held, values_BX in zip(self._pool.held, written, strict=False):  # the multi-token block's comes last
            held.index_copy_(0, places_B, values_BX.to(held.dtype))
        return cast(Tensor, hidden_BD)

    def _plain(
        self, tokens_B: Tensor, starts_B: Tensor, turns_BR2: Tensor, blocks_BM: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        past = _Past(self._pool, starts_B, blocks_BM)
        x_BD = F.embedding(tokens_B, self._model.embed_tokens)
        for layer, block in enumerate(cast(Iterable[Block | ApertusBlock], self._model.layers)):
            x_BD = block.extend(x_BD, turns_BR2, past, layer=layer)
        return self._model.norm(x_BD), past.written


class _Past(View):
    """What the graph sees of the pool: the past of each text as it lies there, and behind it the new token."""

    def __init__(self, pool: Pool, starts_B: Tensor, blocks_BM: Tensor) -> None:
        rows = blocks_BM.shape[0]
        seen_S = torch.arange(blocks_BM.shape[1] * pool.block, device=starts_B.device)
        bias_BS = torch.zeros_like(seen_S, dtype=torch.float32).expand(rows, -1)
        bias_BS = bias_BS.masked_fill(seen_S >= starts_B.unsqueeze(1), float("-inf"))
        bias_BTS = F.pad(bias_BS, (0, 1)).unsqueeze(1)
        group = Group(slice(None), rows, 1, False, blocks_BM, bias_BTS)
        super().__init__(pool, [group], starts_B, starts_B, absorb=True)
        self.written: list[Tensor] = []

    def write(self, layer: int, values_NX: Tensor) -> None:
        self.written.append(values_NX)

    def read(self, layer: int, group: Group) -> Tensor:
        """(B, S + 1, X)."""
        held, block = self.pool.held[layer], self.pool.block
        kept = held.view(-1, block * held.shape[1]).index_select(0, group.blocks_BM.flatten())
        kept_BSX = kept.view(group.rows, -1, held.shape[1])
        return torch.cat((kept_BSX, self.written[layer].unsqueeze(1)), 1)


def _experts(x_ND: Tensor, routing: Routing, gate_up_E2FD: Tensor, down_EDF: Tensor) -> Tensor:
    """The routed experts' part of the sum; inside a graph, in a form that the compiler can take."""
    if not torch.compiler.is_compiling():
        return compute_experts(x_ND, routing, gate_up_E2FD, down_EDF)
    if x_ND.shape[0] > 1:
        return cast(Tensor, _several(x_ND, routing.weights_NK, routing.experts_NK, gate_up_E2FD, down_EDF))
    # Products as sums: the compiler reads the chosen experts where they lie, where a product would copy them first.
    chosen_K = routing.experts_NK[0]
    pairs_K2F = (gate_up_E2FD[chosen_K] * x_ND[0]).sum(-1)
    hidden_KF = F.silu(pairs_K2F[:, 0]) * pairs_K2F[:, 1] * routing.weights_NK[0].unsqueeze(1)
    return (down_EDF[chosen_K] * hidden_KF.unsqueeze(1)).sum((0, 2)).unsqueeze(0)


@torch.library.custom_op("hanse::experts", mutates_args=())
def _several(x_ND: Tensor, weights_NK: Tensor, experts_NK: Tensor, gate_up_E2FD: Tensor, down_EDF: Tensor) -> Tensor:
    """For the compiler one operator that it does not look into: how many tokens an expert gets is known at run time."""
    return infer_experts(x_ND, weights_NK, experts_NK, gate_up_E2FD, down_EDF)


@_several.register_fake
def _(x_ND: Tensor, weights_NK: Tensor, experts_NK: Tensor, gate_up_E2FD: Tensor, down_EDF: Tensor) -> Tensor:
    return torch.empty_like(x_ND)
