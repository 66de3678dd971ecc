"""Small models of families that transformers has, written as folders."""

from pathlib import Path

import torch

COMMON = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT2 = {key: COMMON[key] for key in ("vocab_size", "initializer_range", "bos_token_id", "eos_token_id")}

#: Name in transformers -> what differs. Between them: packed by transformers or not, with a cache that can be used or
#: not, tied and not, positions learnt, turned, biased and in a recurrence, experts.
FAMILIES = {
    "llama": {},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8},
    "gemma3_text": {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 4},
    "gpt2": {**GPT2, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "bloom": {**GPT2, "hidden_size": 32, "n_layer": 2, "n_head": 4, "max_position_embeddings": 64},
    "falcon_h1": {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8, "head_dim": 8},
}


def family_folder(name: str, folder: Path, *, seed: int = 3, **changes: object) -> Path:
    """Write a model of a family with random weights as transformers writes it; returns the folder."""
    import transformers

    torch.manual_seed(seed)
    base = {} if name in ("gpt2", "bloom") else COMMON
    config = transformers.AutoConfig.for_model(name, **{**base, **FAMILIES.get(name, {}), **changes})
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder
