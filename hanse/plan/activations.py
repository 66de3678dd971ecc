"""What a forward pass keeps for the backward pass, counted from the code in hanse/model, tensor by tensor."""

from __future__ import annotations

from dataclasses import dataclass

from hanse.model.config import ApertusConfig, ModelConfig
from hanse.plan.sizes import total, weights

# Up to this many tokens a document's attention probabilities are kept on a CPU (hanse/model/documents.py).
KEPT_PROBABILITIES = 512
QUERY_BLOCK = 128
# Logits that a GPU holds at a time (hanse/model/loss.py).
LOSS_CHUNK = 1 << 27


@dataclass(frozen=True)
class Precision:
    """How a forward pass computes.

    Attributes:
        compute_bytes: of a number in matrix products: 2 in bfloat16, 4 in float32.
        residual_bytes: of a number in the stream between blocks: 2 where weights are gathered in bfloat16, else 4.
        is_cpu: the CPU's kernels keep other tensors than the GPU's.
    """

    compute_bytes: int = 2
    residual_bytes: int = 2
    is_cpu: bool = False


Native = ModelConfig | ApertusConfig


def block_bytes(
    config: Native, layer: int, precision: Precision, *, document_tokens: int, expert_ranks: int, imbalance: float
) -> float:
    """Bytes that block `layer` keeps for one token.

    Args:
        config: the model.
        layer: block number; the multi-token block is `num_hidden_layers`.
        precision: how it computes.
        document_tokens: length of the documents that attention sees.
        expert_ranks: over which the routed experts are split.
        imbalance: rows that arrive at this rank's experts over the even share, where experts are split.
    """
    if isinstance(config, ApertusConfig):
        return _apertus(config, precision)
    attention = _attention(config, precision, document_tokens)
    if config.is_moe(layer):
        return attention + _experts(config, precision, expert_ranks, imbalance)
    return attention + _norm(config, precision) + _dense(config.intermediate_size, precision)


def kept_weights_bytes(config: Native, layer: int, precision: Precision, *, is_sharded: bool) -> float:
    """Bytes of weights that block `layer` keeps beside the parameters: the joined down-projections of latent attention,
    and, where autocast converts float32 weights, a copy of them all."""
    if not is_sharded and precision.compute_bytes != 4:
        return _block_matrices(config, layer) * precision.compute_bytes
    if isinstance(config, ApertusConfig):
        return 0.0
    joined = config.q_lora_rank + config.kv_lora_rank + config.qk_rope_head_dim
    return config.hidden_size * joined * precision.compute_bytes


def head_bytes(config: Native, precision: Precision, tokens: int) -> float:
    """Bytes that the loss takes: gradients of the hidden states and of the head.

    On a GPU a chunk of logits too: in what the forward computes in, in float32, and their gradient.
    """
    logits = 0 if precision.is_cpu else min(LOSS_CHUNK, tokens * config.vocab_size) * (4 + 2 * precision.compute_bytes)
    gradients = tokens * config.hidden_size * precision.compute_bytes + config.vocab_size * config.hidden_size * 4
    return gradients + logits


def exchange_bytes(config: Native, precision: Precision, *, expert_ranks: int, imbalance: float) -> float:
    """Bytes a token that pass through while tokens travel to experts and back: rows sent, rows arrived, results."""
    if expert_ranks == 1 or isinstance(config, ApertusConfig):
        return 0.0
    row = config.num_experts_per_tok * config.hidden_size * precision.compute_bytes
    return row * (1 + 2 * imbalance)


def _norm(config: Native, precision: Precision) -> float:
    """A norm over D and the product after it: its input, one number a token, its output as that product reads it."""
    return config.hidden_size * (precision.residual_bytes + precision.compute_bytes) + 4


def _attention(config: ModelConfig, precision: Precision, document_tokens: int) -> float:
    size = precision.compute_bytes
    heads, query, value = config.num_attention_heads, config.qk_head_dim, config.v_head_dim
    latents = config.q_lora_rank + config.kv_lora_rank
    down = latents + config.qk_rope_head_dim
    expanded = heads * (config.qk_nope_head_dim + value)
    # Both latent norms keep one number a token, and their outputs are what the up-projections keep.
    outside = _norm(config, precision) + size * (down + latents + heads * value) + 8
    if not precision.is_cpu:
        return outside + size * 4 * heads * query + 4 * heads
    kept = 0.0
    if document_tokens <= KEPT_PROBABILITIES:
        blocks = -(-document_tokens // QUERY_BLOCK)
        seen = [min((block + 1) * QUERY_BLOCK, document_tokens) for block in range(blocks)]
        rows = [min(QUERY_BLOCK, document_tokens - block * QUERY_BLOCK) for block in range(blocks)]
        kept = heads * sum(s * r for s, r in zip(seen, rows, strict=True)) / document_tokens
    return outside + size * (heads * query + expanded + kept)


def _dense(width: int, precision: Precision) -> float:
    """Gate and up side by side, and their product; the input is counted with the norm before."""
    return 3 * width * precision.compute_bytes


def _experts(config: ModelConfig, precision: Precision, expert_ranks: int, imbalance: float) -> float:
    hidden, width, chosen = config.hidden_size, config.moe_intermediate_size, config.num_experts_per_tok
    size = precision.compute_bytes
    norm = hidden * precision.residual_bytes + 4
    # The router keeps a float32 copy, the shared experts one of what they compute in; in float32 both are the same.
    inputs = hidden * (4 + size if size != 4 else 4)
    has_own_input = precision.is_cpu and precision.residual_bytes != size
    inputs += size * hidden if has_own_input and expert_ranks == 1 else 0
    router = 4 * (2 * config.n_routed_experts + 3 * chosen) + 8 * chosen
    shared = _dense(width * config.n_shared_experts, precision)
    per_pair = size * 2 * width if precision.is_cpu else size * (hidden + 4 * width)
    pairs: float = chosen * (per_pair + 24 + 2 * size)
    if expert_ranks > 1:
        # Rows that arrived stand in for the input, and the rows that came back are kept to weigh them.
        arrived = size * hidden if precision.is_cpu else 0
        pairs = pairs * imbalance + chosen * (arrived * imbalance + size * hidden)
    return norm + inputs + router + shared + pairs


def _apertus(config: ApertusConfig, precision: Precision) -> float:
    size = precision.compute_bytes
    queries, pairs = (n * config.head_dim for n in (config.num_attention_heads, config.num_key_value_heads))
    # Queries and keys before their norm and after rotation, values, what attention gives; a number for each head's norm
    # and one for its softmax.
    attention = size * (3 * queries + 3 * pairs) + 4 * (2 * config.num_attention_heads + config.num_key_value_heads)
    converted = 2 * config.hidden_size * size if precision.residual_bytes != size else 0  # each projection for itself
    return 2 * _norm(config, precision) + converted + attention + 2 * config.intermediate_size * size


def _block_matrices(config: Native, layer: int) -> int:
    block = "mtp" if layer == config.num_hidden_layers else f"layers.{layer}"
    return total(w for w in weights(config) if w.block == block and len(w.shape) > 1 and w.group != "router")
