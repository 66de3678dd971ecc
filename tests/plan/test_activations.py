"""What a block keeps for its backward is what autograd saves, byte for byte but for small indices."""

import contextlib

import pytest
import torch

from hanse.model import documents, moe
from hanse.model.config import ApertusConfig, ModelConfig
from hanse.model.documents import Layout
from hanse.model.rotation import rotation
from hanse.model.transformer import Transformer
from hanse.plan.activations import Precision, block_bytes, kept_weights_bytes

ROWS, LENGTH = 4, 256
SIZES = {
    "vocab_size": 512, "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 2, "num_attention_heads": 4,
    "q_lora_rank": 256, "kv_lora_rank": 128, "qk_nope_head_dim": 64, "qk_rope_head_dim": 32, "v_head_dim": 64,
}  # fmt: skip
EXPERTS = {"moe_intermediate_size": 160, "n_routed_experts": 16, "num_experts_per_tok": 4, "first_k_dense_replace": 1}
APERTUS = {
    "vocab_size": 512, "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 2, "num_attention_heads": 8,
    "num_key_value_heads": 2, "head_dim": 64,
}  # fmt: skip
CONFIGS = {
    "dense": ModelConfig(**SIZES),
    "experts": ModelConfig(**SIZES, **EXPERTS),
    "apertus": ApertusConfig(**APERTUS),
}
PRECISIONS = {"float32": (4, 4, False), "autocast": (2, 4, False), "sharded-bfloat16": (2, 4, True)}


@pytest.mark.parametrize("is_cpu", [True, False], ids=["cpu-kernels", "gpu-kernels"])
@pytest.mark.parametrize("precision", PRECISIONS.values(), ids=PRECISIONS)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_block_keeps_what_is_planned(config, precision, is_cpu, monkeypatch):
    compute, residual, is_sharded = precision
    if not is_cpu and compute == 4:
        pytest.skip("GPUs compute in bfloat16")
    if not is_cpu:
        monkeypatch.setattr(documents, "_DocumentAttention", _Applied(documents._fused_attention))
        monkeypatch.setattr(moe, "_Experts", _Applied(moe._grouped))
    planned = Precision(compute, residual, is_cpu)
    bytes_ = ROWS * LENGTH * block_bytes(
        config, 1, planned, document_tokens=LENGTH, expert_ranks=1, imbalance=1.0
    ) + kept_weights_bytes(config, 1, planned, is_sharded=is_sharded)
    assert saved(config, compute, is_sharded) == pytest.approx(bytes_, rel=0.02)


class _Applied:
    """A plain function in the place of an autograd function."""

    def __init__(self, function):
        self.apply = function


def saved(config, compute_bytes, is_sharded):
    """Bytes of all storages that autograd keeps, and of probabilities that attention keeps by itself."""
    model = Transformer(config)
    model.init_weights(torch.Generator().manual_seed(0))
    if is_sharded:  # as FSDP gathers a block: matrices in bfloat16
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.data = parameter.data.bfloat16()
    layout = Layout.of(torch.zeros(ROWS, LENGTH, dtype=torch.long), None)
    turns_NR = rotation(layout.positions_N, model.rotary)
    x_ND = torch.randn(ROWS * LENGTH, config.hidden_size, requires_grad=True)
    others = [*model.parameters(), *model.buffers(), turns_NR, layout.positions_N]
    known = {tensor.untyped_storage().data_ptr() for tensor in others}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    cast = torch.autocast("cpu", torch.bfloat16) if compute_bytes == 2 else contextlib.nullcontext()
    with cast, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = model.layers[1](x_ND, turns_NR, layout)
    return sum(count for count, _ in kept.values()) + probabilities(out.grad_fn)


def probabilities(node):
    """Bytes that the CPU's attention keeps outside of autograd's sight."""
    seen, waiting, found = set(), [node], 0
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        found += sum(part.numel() * part.element_size() for part in getattr(node, "kept", ()))
        waiting += [following for following, _ in node.next_functions]
    return found
