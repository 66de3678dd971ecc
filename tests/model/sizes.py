"""Small models that between them use every part of the architecture."""

import torch

from hanse.model.config import ApertusConfig, ModelConfig
from hanse.model.config.rotary import Llama3Scaling
from hanse.model.transformer import Transformer

SMALL = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 24,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
    # Large, so that a wrong part shows in the logits.
    "initializer_range": 0.2,
}
MOE = {
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "n_shared_experts": 2,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 2.5,
}
GROUPS = {"n_group": 4, "topk_group": 2}

VARIANTS = {
    "dense": {},
    "experts": MOE,
    "expert groups": MOE | GROUPS,
    "experts without normalised weights": MOE | {"norm_topk_prob": False, "first_k_dense_replace": 0},
    "tied, with a multi-token block": MOE | {"tie_word_embeddings": True, "num_nextn_predict_layers": 1},
    "dense, tied, with a multi-token block": {"tie_word_embeddings": True, "num_nextn_predict_layers": 1},
}

SMALL_APERTUS = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.2,
}
# Of the four pairs of a head, the first is kept, two lie on the ramp and the last is stretched.
LONG = Llama3Scaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=20.0)

APERTUS_VARIANTS = {
    "plain": {},
    "long context": {"rope_scaling": LONG, "rope_theta": 9.0},
    "tied, one key for all queries": {"tie_word_embeddings": True, "num_key_value_heads": 1},
    "as many keys as queries, narrow heads": {"num_key_value_heads": 6, "head_dim": 4, "rms_norm_eps": 1e-3},
}


def model_of(variant: dict, seed: int = 1) -> Transformer:
    """A model with random weights and, so that a bias in the wrong place shows, random router biases."""
    generator = torch.Generator().manual_seed(seed)
    model = Transformer(ModelConfig(**SMALL | variant)).init_weights(generator)
    for router in model.routers().values():
        router.e_score_correction_bias.normal_(0, 0.3, generator=generator)
    return model.eval()


def apertus_of(variant: dict, seed: int = 1) -> Transformer:
    """An Apertus with random weights, norms and slopes of the activation included."""
    generator = torch.Generator().manual_seed(seed)
    model = Transformer(ApertusConfig(**SMALL_APERTUS | variant)).init_weights(generator)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += torch.empty_like(parameter).uniform_(-0.3, 0.3, generator=generator)
    return model.eval()


def tokens_of(rows: int, length: int, seed: int = 2) -> torch.Tensor:
    """Random token ids."""
    return torch.randint(0, SMALL["vocab_size"], (rows, length), generator=torch.Generator().manual_seed(seed))
