"""The model: embedding, blocks of one family, norm and head. Here the block of DeepSeek-V3 (arXiv:2412.19437), with
latent attention and experts, and the optional multi-token block; that of Apertus is in `apertus`.

Legend: B batch, T positions, N = B * T packed tokens, D hidden, R rope width, E experts.

Contract with optimisers: apart from `embed_tokens`, `lm_head` and each router's `gate.weight`, every parameter with two
or more axes is a stack of matrices over its leading axes (experts, then gate and up), the last two being (out, in).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hanse.model.apertus import FIRST_SLOPES, XIELU, ApertusBlock
from hanse.model.attention import LatentAttention
from hanse.model.cache import Cache, Pool, View
from hanse.model.config import ApertusConfig, Config, ModelConfig
from hanse.model.documents import Layout
from hanse.model.moe import Dense, Experts, Router
from hanse.model.norm import RMSNorm
from hanse.model.product import product
from hanse.model.rotation import rotation


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

    def extend(self, x_ND: Tensor, turns_NR: Tensor, past: View, *, layer: int) -> Tensor:
        """The same for tokens that have a past."""
        x_ND = x_ND + self.self_attn.extend(self.input_layernorm(x_ND), turns_NR, past, layer=layer)
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
        return self.norm(self.block(product(both, self.eh_proj.weight), turns_NR, layout))

    def extend(self, hidden_ND: Tensor, embedded_ND: Tensor, turns_NR: Tensor, past: View, *, layer: int) -> Tensor:
        """The same for tokens that have a past."""
        both = torch.cat((self.enorm(embedded_ND), self.hnorm(hidden_ND)), -1)
        return self.norm(self.block.extend(product(both, self.eh_proj.weight), turns_NR, past, layer=layer))


class Transformer(nn.Module):
    """A language model. Weights are uninitialised until `init_weights` or `hf.load`.

    Training, evaluation and serving use nothing of a model but what this class says, so that another way to compute
    one (`foreign`) can stand in its place.
    """

    config: Config
    mtp: MultiTokenBlock | None

    def __init__(self, config: ModelConfig | ApertusConfig) -> None:
        super().__init__()
        self.config = config.check()
        self.rotary, self.cache_width = config.rotary, config.cache_width
        self.initializer_range = config.initializer_range
        self.embed_tokens = nn.Parameter(torch.empty(config.vocab_size, config.hidden_size))
        self.layers = nn.ModuleList(_block(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head: nn.Parameter | None = None
        if not config.tie_word_embeddings:
            self.lm_head = nn.Parameter(torch.empty(config.vocab_size, config.hidden_size))
        self.mtp = None
        if isinstance(config, ModelConfig) and config.num_nextn_predict_layers:
            self.mtp = MultiTokenBlock(config)
        self.init_seed = 0

    @property
    def head_VD(self) -> Tensor:
        """The output head's weight, (V, D); the embedding itself where tied."""
        return self.embed_tokens if self.lm_head is None else self.lm_head

    def forward(
        self,
        tokens_BT: Tensor,
        documents_BT: Tensor | None = None,
        *,
        cache: Cache | None = None,
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
            if not 0 <= start <= cache.length:
                raise ValueError(f"start {start} lies outside the cache, which holds {cache.length} tokens")
            past = cache.view(start, tokens_BT.shape[1], absorb=absorb)
            cache.length = start + tokens_BT.shape[1]
            return self.extend(tokens_BT.flatten(), past).view(*tokens_BT.shape, -1)
        layout = Layout.of(tokens_BT, documents_BT)
        turns_NR = self.turns(layout.positions_N)
        x_ND = F.embedding(layout.pack(tokens_BT), self.embed_tokens)
        for block in self.layers:
            x_ND = block(x_ND, turns_NR, layout)
        return layout.unpack(self.norm(x_ND), tokens_BT.shape)

    def extend(self, tokens_N: Tensor, past: View) -> Tensor:
        """Hidden states (N, D) after the final norm of tokens that go on texts in a pool."""
        turns_NR = self.turns(past.positions_N)
        x_ND = F.embedding(tokens_N, self.embed_tokens)
        for layer, block in enumerate(cast(Iterable[Block | ApertusBlock], self.layers)):
            x_ND = block.extend(x_ND, turns_NR, past, layer=layer)
        return self.norm(x_ND)

    def draft(self, hidden_ND: Tensor, tokens_N: Tensor, past: View) -> Tensor:
        """Hidden states (N, D) of the multi-token block, whose `logits` say which token follows `tokens_N`.

        Args:
            hidden_ND: the main model's, of the tokens before `tokens_N`.
            past: positions are those of `tokens_N`; the block's state lies behind the last layer's.
        """
        assert self.mtp is not None
        embedded_ND = F.embedding(tokens_N, self.embed_tokens)
        turns_NR = self.turns(past.positions_N)
        return self.mtp.extend(hidden_ND, embedded_ND, turns_NR, past, layer=len(self.layers))

    def turns(self, positions_N: Tensor) -> Tensor:
        """What rotates heads at these positions of their documents: unit complex numbers (N, R / 2)."""
        return rotation(positions_N, self.rotary)

    def new_cache(self, rows: int, *, capacity: int) -> Cache:
        """An empty cache for `forward`, where the model is and in its precision.

        Args:
            rows: texts that are generated together.
            capacity: tokens that each may have, prompt included.
        """
        return Cache(self.new_pool(rows + 1, block=capacity), rows)

    def new_pool(self, blocks: int, *, block: int, is_drafting: bool = False) -> Pool:
        """Room for the past of texts, where the model is and in its precision.

        Args:
            blocks: how many, with the first, which nobody can use.
            block: tokens in each.
            is_drafting: also for the multi-token block.
        """
        weight = self.embed_tokens
        layers = len(self.layers) + is_drafting
        return Pool(layers, blocks, block, self.cache_width, device=weight.device, dtype=weight.dtype)

    def logits(self, hidden: Tensor) -> Tensor:
        """Float32 scores (..., V) over the vocabulary for hidden states (..., D) of `forward`."""
        return product(hidden, self.head_VD).float()

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> Transformer:
        """Set all weights to what `first_weights` draws, router biases to 0. Returns itself.

        The draw depends only on the generator's state and the names and shapes of the parameters. A model on the meta
        device just remembers the seed, for whoever gives it memory.
        """
        self.init_seed = int(torch.randint(2**62, (), generator=generator))
        for name, parameter in self.named_parameters():
            if not parameter.is_meta:
                parameter.copy_(self.first_weights(name, parameter.shape))
        self.reset_buffers()
        return self

    @torch.no_grad()
    def reset_buffers(self) -> None:
        """Set all that is kept and not trained to what it starts as: router biases and counts to 0, constants."""
        for router in self.routers().values():
            router.e_score_correction_bias.zero_()
            router.counts_E.zero_()
        for module in self.modules():
            if isinstance(module, XIELU):
                module.reset_buffers()

    def first_weights(self, name: str, shape: torch.Size, rows: range | None = None) -> Tensor:
        """What a parameter starts as: matrices from N(0, initializer_range), norms 1, slopes 0.8. On the CPU, float32.

        Every matrix has a seed of its own, from `init_seed`, its name and its place in a stack, so that a rank which
        keeps some experts of a stack draws only these.

        Args:
            name, shape: of the whole parameter.
            rows: which part of the first axis; all of it by default.
        """
        rows = range(shape[0]) if rows is None else rows
        if len(shape) == 1:
            return torch.full((len(rows),), FIRST_SLOPES.get(name.rpartition(".")[2], 1.0))
        if len(shape) == 2:
            return self._draw(name, shape)[rows.start : rows.stop]
        return torch.stack([self._draw(f"{name}.{row}", shape[1:]) for row in rows])

    def _draw(self, name: str, shape: torch.Size) -> Tensor:
        digest = hashlib.sha256(f"{self.init_seed} {name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        return torch.empty(shape, device="cpu").normal_(0.0, self.initializer_range, generator=generator)

    def blank(self) -> Transformer:
        """A model of the same shapes on the CPU, its weights still to be set."""
        return Transformer(cast(ModelConfig | ApertusConfig, self.config))

    def routers(self) -> dict[int, Router]:
        """Routers by block number; the multi-token block counts as block `num_hidden_layers`."""
        blocks = [*self.layers, *([self.mtp.block] if self.mtp is not None else [])]
        return {number: block.mlp.gate for number, block in enumerate(blocks) if isinstance(block.mlp, Experts)}

    @torch.no_grad()
    def grow_vocabulary(self, vocab_size: int) -> None:
        """Add rows to embedding and head, each the mean of those that are there; nothing if there are enough.

        New tokens then start as the average token, which a model ranks as no special one (J. Hewitt, "Initializing New
        Word Embeddings for Pretrained Language Models", 2021).
        """
        if vocab_size <= self.config.vocab_size:
            return
        self.embed_tokens = nn.Parameter(grown(self.embed_tokens, vocab_size))
        if self.lm_head is not None:
            self.lm_head = nn.Parameter(grown(self.lm_head, vocab_size))
        self.config = replace(cast(ModelConfig | ApertusConfig, self.config), vocab_size=vocab_size)

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


def _block(config: ModelConfig | ApertusConfig, layer: int) -> Block | ApertusBlock:
    return ApertusBlock(config) if isinstance(config, ApertusConfig) else Block(config, layer)


def grown(rows_VD: Tensor, count: int) -> Tensor:
    """The rows, and behind them their mean as often as it takes to make `count`."""
    mean_1D = rows_VD.mean(0, keepdim=True, dtype=torch.float64).to(rows_VD.dtype)
    return torch.cat((rows_VD, mean_1D.expand(count - len(rows_VD), -1)))
