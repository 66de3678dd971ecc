"""The model computes what transformers' DeepseekV3ForCausalLM computes, and reads and writes its files."""

import json

import pytest
import torch
from safetensors import safe_open

from hanse.errors import InputError
from hanse.model import hf
from hanse.model.config import ModelConfig
from hanse.model.loss import next_token_loss

from .sizes import GROUPS, MOE, SMALL, VARIANTS, model_of, tokens_of

transformers = pytest.importorskip("transformers")
TOLERANCE = 1e-4


@pytest.fixture(params=VARIANTS, ids=str)
def variant(request):
    return VARIANTS[request.param]


def reference_from(folder):
    return transformers.DeepseekV3ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@torch.no_grad()
def test_saved_model_gives_the_same_logits_in_transformers(variant, tmp_path):
    model = model_of(variant)
    hf.save(model, tmp_path)
    tokens = tokens_of(3, 20)
    difference = (model.logits(model(tokens)) - reference_from(tmp_path)(tokens).logits).abs().max()
    assert difference < TOLERANCE


@torch.no_grad()
def test_saved_model_continues_with_the_same_greedy_tokens_in_transformers(variant, tmp_path):
    model = model_of(variant)
    hf.save(model, tmp_path)
    tokens = tokens_of(2, 5)
    expected = reference_from(tmp_path).generate(tokens, max_new_tokens=12, do_sample=False, pad_token_id=0)
    for _ in range(12):
        tokens = torch.cat((tokens, model.logits(model(tokens)[:, -1]).argmax(-1, keepdim=True)), 1)
    assert tokens.tolist() == expected.tolist()


@pytest.mark.parametrize("extra", [MOE, MOE | GROUPS, {"first_k_dense_replace": 3, "n_routed_experts": 8}])
@torch.no_grad()
def test_model_saved_by_transformers_gives_the_same_logits_here(extra, tmp_path):
    torch.manual_seed(5)
    extra = {"n_group": 1, "topk_group": 1, "num_experts_per_tok": 2} | extra
    reference = transformers.DeepseekV3ForCausalLM(transformers.DeepseekV3Config(**SMALL | extra)).eval()
    for name, buffer in reference.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.normal_(0, 0.3)
    reference.save_pretrained(tmp_path)
    model = hf.load(tmp_path).eval()
    tokens = tokens_of(3, 20)
    assert (model.logits(model(tokens)) - reference(tokens).logits).abs().max() < TOLERANCE


def test_gradients_equal_those_of_transformers(variant, tmp_path):
    model = model_of({**variant, "num_nextn_predict_layers": 0, "tie_word_embeddings": False}).train()
    hf.save(model, tmp_path)
    reference = reference_from(tmp_path).train()
    tokens, targets = tokens_of(3, 20), tokens_of(3, 20, seed=3)
    loss, count = next_token_loss(model, model(tokens), targets)
    (loss / count).backward()
    torch.nn.functional.cross_entropy(reference(tokens).logits.flatten(0, 1), targets.flatten()).backward()
    for parameter in model.parameters():
        parameter.data = parameter.grad
    for parameter in reference.parameters():
        parameter.data = parameter.grad
    for router in model.routers().values():
        router.e_score_correction_bias.zero_()
    reference.save_pretrained(tmp_path / "gradients")
    expected = hf._read_weights(tmp_path / "gradients")
    for name, gradient in hf.to_hf_state(model).items():
        if not name.endswith("e_score_correction_bias"):
            torch.testing.assert_close(
                gradient, expected[name], atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
            )


def test_loading_what_was_saved_gives_back_every_number(variant, tmp_path):
    model = model_of(variant)
    hf.save(model, tmp_path)
    again = hf.load(tmp_path)
    assert again.config == model.config
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_saving_twice_gives_equal_bytes_and_one_metadata_key(tmp_path):
    model = model_of(MOE)
    hf.save(model, tmp_path / "a")
    hf.save(model, tmp_path / "b")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    with safe_open(tmp_path / "a" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_export_obeys_the_contract_line_by_line(variant, tmp_path):
    model = model_of(variant)
    hf.save(model, tmp_path, with_mtp=False, token_ids={"eos_token_id": 7}, dtype=torch.bfloat16)
    config = json.loads((tmp_path / "config.json").read_text())
    promised = {
        "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
        "moe_router_dtype": "float32",
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "rms_norm_eps": 1e-6,
        "rope_interleave": True,
        "num_nextn_predict_layers": 0,
        "bos_token_id": None,
        "eos_token_id": 7,
        "dtype": "bfloat16",
    }
    assert {key: config[key] for key in promised} == promised
    assert config["q_lora_rank"] > 0
    weights = hf._read_weights(tmp_path)
    assert torch.equal(weights["lm_head.weight"], model.head_VD.to(torch.bfloat16))
    assert not any(name.startswith("model.layers.3.") for name in weights)
    for name, tensor in weights.items():
        assert tensor.dtype == (torch.float32 if name.endswith("e_score_correction_bias") else torch.bfloat16)
        assert tensor.ndim <= 2


def test_a_dense_export_has_expert_keys_that_every_runtime_accepts():
    values = ModelConfig(**SMALL).to_hf()
    assert values["first_k_dense_replace"] == SMALL["num_hidden_layers"]
    assert values["n_routed_experts"] >= 2 and values["moe_intermediate_size"] > 0
    assert ModelConfig.from_hf(values) == ModelConfig(**SMALL)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda folder: (folder / "config.json").unlink(), "config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\0" * 20), "weights cannot be read"),
        (lambda folder: _edit(folder, hidden_size=64), "shape"),
        (lambda folder: _edit(folder, num_hidden_layers=4), "is missing"),
        (lambda folder: _edit(folder, num_hidden_layers=2), "does not mention"),
        (lambda folder: _edit(folder, scoring_func="softmax"), "scoring_func"),
        (lambda folder: _edit(folder, rope_parameters={"rope_type": "yarn", "rope_theta": 1e4}), "yarn"),
        (lambda folder: _edit(folder, model_type="llama"), "llama"),
        (lambda folder: _edit(folder, q_lora_rank=None), "q_lora_rank"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused_by_name(damage, complaint, tmp_path):
    hf.save(model_of(MOE), tmp_path)
    damage(tmp_path)
    with pytest.raises(InputError, match=complaint):
        hf.load(tmp_path)


def _edit(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
