"""DeepSeek-V3 (arXiv:2412.19437): blocks of latent attention and experts, and the optional multi-token block.

Legend: B batch, T positions, N = B * T packed tokens, D hidden, R rope width, E experts.

Contract with optimisers: apart from `embed_tokens`, `lm_head` and each router's `gate.weight`, every parameter with two
or more axes is a stack of matrices over its leading axes (experts, then gate and up), the last two being (out, in).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hanse.model.attention import LatentAttention, Layout, rotation
from hanse.model.cache import LatentCache
from hanse.model.config import ModelConfig
from hanse.model.moe import Dense, Experts, Router
from hanse.model.norm import RMSNorm

# Up to this many new tokens a row, decoding in latent space is cheaper than expanding the cache.
_ABSORB_UP_TO = 8


@dataclass(frozen=True)
class RouterLoad:
    """How evenly one layer's experts were used since the last bias update.

    Attributes:
        layer: block number.
        tokens: chosen (token, expert) pairs.
        violation: busiest expert's share over the even share, minus 1; 0 is perfect balance.
        idle: experts that no token chose.
    """

    layer: int
    tokens: int
    violation: float
    idle: int


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size)
        self.self_attn = LatentAttention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size)
        self.mlp: Dense | Experts
        if config.is_moe(layer):
            self.mlp = Experts(config)
        else:
            self.mlp = Dense(config.hidden_size, config.intermediate_size)

    def forward(self, x_ND: Tensor, turns_NR: Tensor, layout: Layout) -> Tensor:
        x_ND = x_ND + self.self_attn(self.input_layernorm(x_ND), turns_NR, layout)
        return x_ND + self.mlp(self.post_attention_layernorm(x_ND))

    def cached(
        self, x_ND: Tensor, turns_NR: Tensor, cache: LatentCache, *, layer: int, start: int, absorb: bool
    ) -> Tensor:
        """The same with the past in `cache`."""
        attended = self.self_attn.cached(
            self.input_layernorm(x_ND), turns_NR, cache, layer=layer, start=start, absorb=absorb
        )
        x_ND = x_ND + attended
        return x_ND + self.mlp(self.post_attention_layernorm(x_ND))


class MultiTokenBlock(nn.Module):
    """Predicts the token after the next from the final hidden state and the next token's embedding (sec. 2.2).

    Embedding and head are the main model's. All known runtimes feed it the *normalised* hidden state.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.enorm = RMSNorm(config.hidden_size)
        self.hnorm = RMSNorm(config.hidden_size)
        self.eh_proj = nn.Linear(2 * config.hidden_size, config.hidden_size, bias=False)
        self.block = Block(config, config.num_hidden_layers)
        self.norm = RMSNorm(config.hidden_size)

    def forward(self, hidden_ND: Tensor, embedded_ND: Tensor, turns_NR: Tensor, layout: Layout) -> Tensor:
        both = torch.cat((self.enorm(embedded_ND), self.hnorm(hidden_ND)), -1)
        return self.norm(self.block(self.eh_proj(both), turns_NR, layout))


class Transformer(nn.Module):
    """The model. Weights are uninitialised until `init_weights` or `hf.load`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config.check()
        self.embed_tokens = nn.Parameter(torch.empty(config.vocab_size, config.hidden_size))
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size)
        self.lm_head: nn.Parameter | None = None
        if not config.tie_word_embeddings:
            self.lm_head = nn.Parameter(torch.empty(config.vocab_size, config.hidden_size))
        self.mtp = MultiTokenBlock(config) if config.num_nextn_predict_layers else None

    @property
    def head_VD(self) -> Tensor:
        """The output head's weight, (V, D); the embedding itself where tied."""
        return self.embed_tokens if self.lm_head is None else self.lm_head

    def forward(
        self,
        tokens_BT: Tensor,
        documents_BT: Tensor | None = None,
        *,
        cache: LatentCache | None = None,
        start: int = 0,
        absorb: bool | None = None,
    ) -> Tensor:
        """Hidden states (B, T, D) after the final norm.

        Args:
            tokens_BT: token ids, int64.
            documents_BT: attention stays inside equal numbers of a row, and positions count from each document's
                start. None: each row is one document.
            cache: read and extend this cache; `tokens_BT` are positions start ... start + T - 1 of its rows.
            start: tokens already in the cache that these may see; a smaller number than `cache.length` rewinds it.
            absorb: only with a cache: work in latent space (True) or expand (False); None chooses by T.

        Raises:
            ValueError: documents together with a cache, or a start beyond the cache's length.
        """
        if cache is not None:
            if documents_BT is not None:
                raise ValueError("documents and a cache cannot be used together")
            return self._forward_cached(tokens_BT, cache, start, absorb)
        layout = Layout.of(tokens_BT, documents_BT)
        turns_NR = rotation(layout.positions_N, self.config.qk_rope_head_dim, self.config.rope_theta)
        x_ND = F.embedding(layout.pack(tokens_BT), self.embed_tokens)
        for block in self.layers:
            x_ND = block(x_ND, turns_NR, layout)
        return layout.unpack(self.norm(x_ND), tokens_BT.shape)

    def _forward_cached(self, tokens_BT: Tensor, cache: LatentCache, start: int, absorb: bool | None) -> Tensor:
        if not 0 <= start <= cache.length:
            raise ValueError(f"start {start} lies outside the cache, which holds {cache.length} tokens")
        rows, length = tokens_BT.shape
        absorb = (start > 0 and length <= _ABSORB_UP_TO) if absorb is None else absorb
        positions_N = torch.arange(start, start + length, device=tokens_BT.device).repeat(rows)
        turns_NR = rotation(positions_N, self.config.qk_rope_head_dim, self.config.rope_theta)
        x_ND = F.embedding(tokens_BT.flatten(), self.embed_tokens)
        for layer, block in enumerate(cast(Iterable[Block], self.layers)):
            x_ND = block.cached(x_ND, turns_NR, cache, layer=layer, start=start, absorb=absorb)
        cache.length = start + length
        return self.norm(x_ND).view(rows, length, -1)

    def logits(self, hidden: Tensor) -> Tensor:
        """Float32 scores (..., V) over the vocabulary for hidden states (..., D) of `forward`."""
        return F.linear(hidden, self.head_VD).float()

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> Transformer:
        """Draw all matrices from N(0, initializer_range), norms 1, router biases 0. Returns itself.

        The draw depends only on the generator's state and the config: parameters are visited in definition order.
        """
        for parameter in self.parameters():
            if parameter.ndim == 1:
                parameter.fill_(1.0)
            else:
                parameter.normal_(0.0, self.config.initializer_range, generator=generator)
        for router in self.routers().values():
            router.e_score_correction_bias.zero_()
            router.counts_E.zero_()
        return self

    def routers(self) -> dict[int, Router]:
        """Routers by block number; the multi-token block counts as block `num_hidden_layers`."""
        blocks = [*self.layers, *([self.mtp.block] if self.mtp is not None else [])]
        return {number: block.mlp.gate for number, block in enumerate(blocks) if isinstance(block.mlp, Experts)}

    @torch.no_grad()
    def update_router_bias(self, rate: float) -> list[RouterLoad]:
        """Move every router bias once, by what training forwards chose since the last call; zero the counts.

        The rule of DeepSeek-V3 (arXiv:2412.19437, sec. 2.1.2, after arXiv:2408.15664): up by `rate` for an expert
        below the mean load, down above; then the bias is centred on zero, since only differences matter. Call it once
        per optimizer step; with several ranks, sum each router's `counts_E` over them first. A layer that saw no
        tokens is left alone.
        """
        loads = []
        for layer, router in self.routers().items():
            counts_E = router.counts_E.float()
            total = float(counts_E.sum())
            if total:
                bias_E = router.e_score_correction_bias
                bias_E += rate * torch.sign(counts_E.mean() - counts_E)
                bias_E -= bias_E.mean()
                violation = float(counts_E.max() / counts_E.mean() - 1)
                loads.append(RouterLoad(layer, int(total), violation, int((counts_E == 0).sum())))
            router.counts_E.zero_()
        return loads
