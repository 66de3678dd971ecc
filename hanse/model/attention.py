"""Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, sec. 2.1).

Legend: N tokens of all texts, D hidden, H heads, Q query/key head width (nope + rope), V value head width, W nope + V,
C kv latent width, R rope width; of texts that go on: B texts, T new tokens of each, S places that they see.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hanse.model.cache import View
from hanse.model.config import ModelConfig
from hanse.model.documents import Layout, attend_documents
from hanse.model.norm import RMSNorm
from hanse.model.product import product
from hanse.model.rotation import rotate

# Up to this many new tokens a text, working in latent space is cheaper than expanding what was kept.
_ABSORB_UP_TO = 8


class LatentAttention(nn.Module):
    """Multi-head latent attention. Weights carry the Hugging Face names."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        hidden, heads = config.hidden_size, config.num_attention_heads
        expanded = config.qk_nope_head_dim + config.v_head_dim
        self.q_a_proj = nn.Linear(hidden, config.q_lora_rank, bias=False)
        self.q_a_layernorm = RMSNorm(config.q_lora_rank)
        self.q_b_proj = nn.Linear(config.q_lora_rank, heads * config.qk_head_dim, bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(hidden, config.kv_lora_rank + config.qk_rope_head_dim, bias=False)
        self.kv_a_layernorm = RMSNorm(config.kv_lora_rank)
        self.kv_b_proj = nn.Linear(config.kv_lora_rank, heads * expanded, bias=False)
        self.o_proj = nn.Linear(heads * config.v_head_dim, hidden, bias=False)
        self.product: Callable[[Tensor, Tensor], Tensor] = product  # `hanse.parallel.float8` puts another here

    def forward(self, x_ND: Tensor, turns_NR: Tensor, layout: Layout) -> Tensor:
        """Attend inside each document of a packed batch. Returns (N, D)."""
        query_NHQ, latent_NC, rope_NR = self._project(x_ND)
        out_NHV = self._attend(query_NHQ, latent_NC, rope_NR, turns_NR, layout)
        return self.product(out_NHV.flatten(1), self.o_proj.weight)

    def extend(self, x_ND: Tensor, turns_NR: Tensor, past: View, *, layer: int) -> Tensor:
        """Attend to the past and to these tokens, after writing their latents. Returns (N, D).

        Texts without a past, and long pieces, expand latents to keys and values; short pieces multiply their queries
        into latent space instead: the same numbers, far fewer operations (arXiv:2405.04434, sec. 2.1.2).
        """
        query_NHQ, latent_NC, rope_NR = self._project(x_ND)
        past.write(layer, torch.cat((latent_NC, rotate(rope_NR, turns_NR)), -1))
        outs = []
        for group in past.groups:
            part = group.part
            if group.is_fresh and not past.absorb:
                whole = Layout(((group.rows, group.length),), turns_NR[part])
                outs.append(self._attend(query_NHQ[part], latent_NC[part], rope_NR[part], turns_NR[part], whole))
                continue
            query_BTHQ = query_NHQ[part].unflatten(0, (group.rows, -1))
            turns_BTR = turns_NR[part].unflatten(0, (group.rows, -1))
            keys_BSX = past.read(layer, group).to(query_NHQ.dtype)
            is_short = group.length <= _ABSORB_UP_TO if past.absorb is None else past.absorb
            attend = self._attend_absorbed if is_short else self._attend_expanded
            outs.append(attend(query_BTHQ, turns_BTR, keys_BSX, group.bias_BTS).flatten(0, 1))
        out_NHV = outs[0] if len(outs) == 1 else torch.cat(outs)
        return self.product(out_NHV.flatten(1), self.o_proj.weight)

    def _project(self, x_ND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (N, H, Q), normalised latents (N, C) and the unrotated shared key part (N, R)."""
        config = self.config
        widths = (config.q_lora_rank, config.kv_lora_rank, config.qk_rope_head_dim)
        if torch.is_grad_enabled():
            # One product for both: the concatenation is small beside it, and its backward saves a product and a sum.
            down = self.product(x_ND, torch.cat((self.q_a_proj.weight, self.kv_a_proj_with_mqa.weight)))
            query_latent, latent_NC, rope_NR = down.split(widths, -1)
        else:  # of a single token the concatenation costs more than the product
            query_latent = self.product(x_ND, self.q_a_proj.weight)
            latent_NC, rope_NR = self.product(x_ND, self.kv_a_proj_with_mqa.weight).split(widths[1:], -1)
        query_N = self.product(self.q_a_layernorm(query_latent), self.q_b_proj.weight)
        query_NHQ = query_N.unflatten(-1, (-1, config.qk_head_dim))
        return query_NHQ, self.kv_a_layernorm(latent_NC), rope_NR

    def _attend(
        self, query_NHQ: Tensor, latent_NC: Tensor, rope_NR: Tensor, turns_NR: Tensor, layout: Layout
    ) -> Tensor:
        expanded_N = self.product(latent_NC, self.kv_b_proj.weight)
        expanded_NHW = expanded_N.unflatten(-1, (self.config.num_attention_heads, -1))
        return attend_documents(query_NHQ, expanded_NHW, rope_NR, turns_NR, layout)

    def _attend_absorbed(
        self, query_BTHQ: Tensor, turns_BTR: Tensor, keys_BSX: Tensor, bias_BTS: Tensor | None
    ) -> Tensor:
        """Outputs (B, T, H, V), worked out in latent space: every head reads the same S latents."""
        config = self.config
        nope, heads, latent = config.qk_nope_head_dim, config.num_attention_heads, config.kv_lora_rank
        rows, length = query_BTHQ.shape[:2]
        query_nope, query_rope = (query_BTHQ * config.qk_head_dim**-0.5).split((nope, config.qk_rope_head_dim), -1)
        up_HWC = self.kv_b_proj.weight.view(heads, -1, latent).to(query_nope.dtype)
        absorbed_HNC = torch.bmm(query_nope.flatten(0, 1).transpose(0, 1), up_HWC[:, :nope])
        turned_BTHR = rotate(query_rope, turns_BTR.unsqueeze(2))
        query = torch.cat((absorbed_HNC.transpose(0, 1).view(rows, length, heads, latent), turned_BTHR), -1)
        scores = torch.bmm(query.flatten(1, 2), keys_BSX.mT).float()
        if bias_BTS is not None:
            scores.view(rows, length, heads, -1).add_(bias_BTS.unsqueeze(2))
        weights = torch.softmax(scores, -1).to(query.dtype)
        mixed = torch.bmm(weights, keys_BSX[..., :latent]).view(rows * length, heads, latent)
        out_HNV = torch.bmm(mixed.transpose(0, 1), up_HWC[:, nope:].mT)
        return out_HNV.transpose(0, 1).unflatten(0, (rows, length))

    def _attend_expanded(
        self, query_BTHQ: Tensor, turns_BTR: Tensor, keys_BSX: Tensor, bias_BTS: Tensor | None
    ) -> Tensor:
        """Outputs (B, T, H, V), every latent expanded to each head's key and value."""
        config = self.config
        nope, latent = config.qk_nope_head_dim, config.kv_lora_rank
        query_nope, query_rope = query_BTHQ.split((nope, config.qk_rope_head_dim), -1)
        query = torch.cat((query_nope, rotate(query_rope, turns_BTR.unsqueeze(2))), -1).transpose(1, 2)
        latent_BSC, rope_BSR = keys_BSX.split((latent, config.qk_rope_head_dim), -1)
        expanded = self.product(latent_BSC, self.kv_b_proj.weight.to(query.dtype))
        expanded = expanded.unflatten(-1, (config.num_attention_heads, -1)).transpose(1, 2)
        rope_BHSR = rope_BSR.unsqueeze(1).expand(-1, config.num_attention_heads, -1, -1)
        key = torch.cat((expanded[..., :nope], rope_BHSR), -1)
        # Values as wide as keys: with other widths the fused kernel falls silently to the quadratic path.
        width = config.v_head_dim
        value = F.pad(expanded[..., nope:], (0, max(0, key.shape[-1] - width)))
        bias = None if bias_BTS is None else bias_BTS.unsqueeze(1).to(query.dtype)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=config.qk_head_dim**-0.5)
        return out.transpose(1, 2)[..., :width]
