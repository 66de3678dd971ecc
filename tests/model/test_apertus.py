"""Our Apertus computes what transformers' ApertusForCausalLM computes, and reads and writes its files."""

import json
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hanse.errors import InputError
from hanse.model import hf
from hanse.model.apertus import XIELU
from hanse.model.config import ApertusConfig, derive
from hanse.model.config.rotary import Rotary
from hanse.model.loss import next_token_loss
from hanse.model.rotation import rotation
from hanse.model.transformer import Transformer

from .sizes import APERTUS_VARIANTS, LONG, SMALL_APERTUS, apertus_of, tokens_of

transformers = pytest.importorskip("transformers")
TOLERANCE = 1e-4


@pytest.fixture(params=APERTUS_VARIANTS, ids=str)
def variant(request):
    return APERTUS_VARIANTS[request.param]


def reference_from(folder):
    return transformers.ApertusForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def reference_config(**changes):
    plain = {"rope_type": "default", "rope_theta": 1e4}
    sizes = {"rope_parameters": plain, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return transformers.ApertusConfig(**SMALL_APERTUS | sizes | changes)


# --------------------------------------------------------------------------- parity


@torch.no_grad()
def test_saved_model_gives_the_same_logits_in_transformers(variant, tmp_path):
    model = apertus_of(variant)
    hf.save(model, tmp_path)
    tokens = tokens_of(3, 20)
    expected = reference_from(tmp_path)(tokens).logits
    assert (model.logits(model(tokens)) - expected).abs().max() < TOLERANCE * expected.abs().max()


@torch.no_grad()
def test_saved_model_continues_with_the_same_greedy_tokens_in_transformers(variant, tmp_path):
    model = apertus_of(variant)
    hf.save(model, tmp_path)
    tokens = tokens_of(2, 5)
    expected = reference_from(tmp_path).generate(tokens, max_new_tokens=12, do_sample=False, pad_token_id=0)
    for _ in range(12):
        tokens = torch.cat((tokens, model.logits(model(tokens)[:, -1]).argmax(-1, keepdim=True)), 1)
    assert tokens.tolist() == expected.tolist()


def test_gradients_equal_those_of_transformers(variant, tmp_path):
    model = apertus_of({**variant, "tie_word_embeddings": False}).train()
    hf.save(model, tmp_path)
    reference = reference_from(tmp_path).train()
    tokens, targets = tokens_of(3, 20), tokens_of(3, 20, seed=3)
    loss, count = next_token_loss(model, model(tokens), targets)
    (loss / count).backward()
    torch.nn.functional.cross_entropy(reference(tokens).logits.flatten(0, 1), targets.flatten()).backward()
    expected = {name: parameter.grad for name, parameter in reference.named_parameters()}
    ours = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert len(ours) == len(expected)
    for name, gradient in ours.items():
        known_as = {"lm_head": "lm_head.weight", "embed_tokens": "model.embed_tokens.weight"}.get(name, f"model.{name}")
        assert expected[known_as].abs().max() > 0
        torch.testing.assert_close(
            gradient, expected[known_as], atol=1e-5, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("changes", [{}, {"num_key_value_heads": 6}, {"tie_word_embeddings": True}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_model_saved_by_transformers_gives_the_same_logits_here(changes, dtype, tmp_path):
    torch.manual_seed(5)
    transformers.ApertusForCausalLM(reference_config(**changes)).to(dtype).save_pretrained(tmp_path)
    reference, model = reference_from(tmp_path), hf.load(tmp_path).eval()
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    tokens = tokens_of(3, 20)
    expected = reference(tokens).logits
    assert (model.logits(model(tokens)) - expected).abs().max() < TOLERANCE * expected.abs().max()


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
        {"rope_theta": 500.0, "rope_scaling": None},
        {"rope_theta": 500.0, "rope_scaling": {"type": "llama3", **vars(LONG)}},
        {"rope_parameters": {"rope_type": "llama3", **vars(LONG), "rope_theta": 7.0}},
        {"rope_parameters": {"rope_type": "default"}},
    ],
)
@torch.no_grad()
def test_a_config_json_means_the_rotation_that_it_means_to_transformers(said, tmp_path):
    values = {**SMALL_APERTUS, "max_position_embeddings": 64, "model_type": "apertus"}
    values = json.loads(json.dumps(values | said))
    ours = ApertusConfig.from_hf(values)
    (tmp_path / "config.json").write_text(json.dumps(values))
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    module = transformers.models.apertus.modeling_apertus.ApertusRotaryEmbedding(theirs)
    positions = torch.arange(50)
    cosine, _ = module(torch.zeros(1), positions[None])
    turns = rotation(positions, ours.rotary)
    torch.testing.assert_close(torch.cat((turns.real, turns.real), -1), cosine[0], atol=1e-4, rtol=1e-4)


def test_scaling_stretches_slow_pairs_and_keeps_fast_ones():
    rotary = Rotary(8, 9.0, LONG)
    plain, scaled = (rotation(torch.tensor([1]), r).angle()[0] for r in (replace(rotary, scaling=None), rotary))
    factors = plain / scaled
    assert factors[0] == pytest.approx(1.35, abs=0.05) and factors[-1] == pytest.approx(8.0)
    assert bool((factors.diff() > 0).all())


# --------------------------------------------------------------------------- the activation


def test_activation_and_its_gradients_equal_those_of_transformers():
    ours, theirs = XIELU(), transformers.activations.XIELUActivation(dtype=torch.float32)
    with torch.no_grad():
        for name, value in (("alpha_p", 0.4), ("alpha_n", -0.7)):
            getattr(ours, name).fill_(value)
            getattr(theirs, name).fill_(value)
    x = torch.cat((torch.linspace(-6, 6, 202), torch.tensor([-2e-6, 1e-7, -1e4, 1e4])))
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outs = [module(each) for module, each in zip((ours, theirs), inputs, strict=True)]
    torch.testing.assert_close(*outs)
    weights = torch.randn(len(x), generator=torch.Generator().manual_seed(0)) / (1 + x.square())
    for out in outs:
        (out * weights).sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ours.alpha_p.grad, theirs.alpha_p.grad)
    torch.testing.assert_close(ours.alpha_n.grad, theirs.alpha_n.grad)


def test_activation_is_smooth_at_zero():
    activation = XIELU()
    for alpha in (activation.alpha_p, activation.alpha_n):
        torch.nn.init.constant_(alpha, 0.4)
    x = torch.tensor([-1e-3, -1e-7, 0.0, 1e-7, 1e-3], requires_grad=True)
    activation(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.full((5,), 0.5), atol=3e-3, rtol=0)


def test_slopes_start_where_those_of_the_published_models_start():
    model = Transformer(ApertusConfig(**SMALL_APERTUS)).init_weights()
    activation = model.layers[1].mlp.act_fn
    slopes = [torch.nn.functional.softplus(alpha).item() for alpha in (activation.alpha_p, activation.alpha_n)]
    assert slopes == [pytest.approx(0.79986, abs=1e-5), pytest.approx(0.8 - 0.5, abs=1e-3)]


def test_constants_survive_a_model_that_was_made_without_memory():
    with torch.device("meta"):
        model = Transformer(ApertusConfig(**SMALL_APERTUS))
    model.to_empty(device="cpu")
    model.init_weights()
    assert (model.layers[0].mlp.act_fn.beta, model.layers[0].mlp.act_fn.eps) == (0.5, pytest.approx(-1e-6))


# --------------------------------------------------------------------------- files


def test_loading_what_was_saved_gives_back_every_number(variant, tmp_path):
    model = apertus_of(variant)
    hf.save(model, tmp_path)
    again = hf.load(tmp_path)
    assert again.config == model.config
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_saved_folder_says_all_that_runtimes_ask_for(variant, tmp_path):
    model = apertus_of(variant)
    hf.save(model, tmp_path, token_ids={"eos_token_id": 7}, dtype=torch.bfloat16)
    config = json.loads((tmp_path / "config.json").read_text())
    promised = {
        "architectures": ["ApertusForCausalLM"],
        "hidden_act": "xielu",
        "qk_norm": True,
        "post_norm": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "rope_theta": model.config.rope_theta,
        "bos_token_id": None,
        "eos_token_id": 7,
        "dtype": "bfloat16",
    }
    assert {key: config[key] for key in promised} == promised
    assert config["rope_parameters"]["rope_type"] == ("llama3" if model.config.rope_scaling else "default")
    weights = hf._read_weights(tmp_path)
    assert torch.equal(weights["lm_head.weight"], model.head_VD.to(torch.bfloat16))
    assert weights["model.layers.2.mlp.act_fn.beta"] == 0.5
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}


def test_constants_of_the_activation_are_read_where_they_are_and_assumed_where_not(tmp_path):
    model = apertus_of({})
    model.layers[0].mlp.act_fn.beta.fill_(0.25)
    hf.save(model, tmp_path)
    weights = hf._read_weights(tmp_path)
    del weights["model.layers.1.mlp.act_fn.beta"]
    hf.save_file(weights, tmp_path / hf.WEIGHTS, metadata={"format": "pt"})
    again = hf.load(tmp_path)
    assert [float(block.mlp.act_fn.beta) for block in again.layers] == [0.25, 0.5, 0.5]


def test_a_bound_of_the_activation_that_would_change_it_is_refused(tmp_path):
    model = apertus_of({})
    model.layers[2].mlp.act_fn.eps.fill_(-0.5)
    hf.save(model, tmp_path)
    with pytest.raises(InputError, match=r"layers\.2\.mlp\.act_fn\.eps is -0\.5"):
        hf.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"hidden_act": "silu"}, "hidden_act"),
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"post_norm": True}, "post_norm"),
        ({"qk_norm": False}, "qk_norm"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "yarn"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor"),
        ({"rope_parameters": {"rope_type": "llama3", **vars(LONG), "factor": "8"}}, "factor"),
        ({"rope_parameters": {"rope_type": "llama3", **vars(LONG), "high_freq_factor": 1.0}}, "below"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"rope_parameters": [1, 2]}, "rope_parameters"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantised"),
        ({"num_key_value_heads": 4}, "num_key_value_heads"),
        ({"num_key_value_heads": 0}, "num_key_value_heads"),
        ({"head_dim": 7}, "odd"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ({"rms_norm_eps": -1e-5}, "rms_norm_eps"),
        ({"hidden_size": "32"}, "hidden_size = '32'"),
        ({"hidden_size": 32.0}, "hidden_size"),
        ({"hidden_size": True}, "hidden_size"),
        ({"hidden_size": None}, "hidden_size missing"),
        ({"hidden_size": 10**30}, "hidden_size"),
        ({"num_hidden_layers": 10**9}, "do not belong together"),
        ({"vocab_size": 2**31 - 1}, "do not belong together"),
        ({"vocab_size": 98}, "shape"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        ({"model_type": "deepseek_v3"}, "hidden_act"),
    ],
)
def test_a_hostile_or_odd_config_json_is_refused_in_one_sentence(changes, complaint, tmp_path):
    hf.save(apertus_of({}), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(InputError, match=complaint) as caught:
        hf.load(tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


# --------------------------------------------------------------------------- sizes


def test_parameters_are_those_of_the_model(variant):
    model = apertus_of(variant)
    assert model.config.parameters() == sum(parameter.numel() for parameter in model.parameters())
    assert model.config.active_parameters() == model.config.parameters()


def test_apertus_8b_itself_has_8_billion_parameters():
    config = ApertusConfig(
        vocab_size=131072, hidden_size=4096, intermediate_size=21504, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, head_dim=128, max_position_embeddings=65536,
    ).check()  # fmt: skip
    assert round(config.parameters() / 1e9, 2) == 8.05


def test_flop_per_token_equals_what_torch_counts():
    length = 17
    model = apertus_of({})
    matrices = sum(p.numel() for name, p in model.named_parameters() if p.ndim >= 2 and name != "embed_tokens")
    query = torch.randn(1, 6, length, 8)
    with FlopCounterMode(display=False) as counter:
        (query @ query.mT) @ query
    attention = 3 * 3 * counter.get_total_flops() / length * (length + 1) / 2 / length
    assert model.config.flop_per_token(length) == pytest.approx(6 * matrices + attention)


@pytest.mark.parametrize(
    ("size", "vocabulary"),
    [
        ("1M", 4096),
        ("3M", 4096),
        ("30M", 8192),
        ("100M", 65536),
        ("1B", 65536),
        ("3B", 65536),
        ("8B", 131072),
        ("20B", 131072),
        ("70B", 131072),
    ],
)
def test_the_dial_comes_near_its_number_with_heads_that_fill_the_width(size, vocabulary):
    config = derive(size, family="apertus", vocab_size=vocabulary)
    target = float(size[:-1]) * {"M": 1e6, "B": 1e9}[size[-1]]
    assert 0.75 < config.active_parameters() / target < 1.25
    assert config.num_attention_heads * config.head_dim == config.hidden_size
    shared = config.num_attention_heads / config.num_key_value_heads
    assert shared == 4 if config.num_attention_heads > 16 else shared <= 8


def test_keys_of_another_family_are_refused_by_its_name():
    with pytest.raises(InputError, match=r'n_routed_experts: apertus models are dense; .* family = "deepseek_v3"'):
        derive("3M", family="apertus", vocab_size=4096, overrides={"n_routed_experts": 8})
    with pytest.raises(InputError, match=r'not a key of deepseek_v3, but of family = "apertus"'):
        derive("3M", vocab_size=4096, overrides={"num_key_value_heads": 2})
    with pytest.raises(InputError, match="no size dial"):
        derive("3M", family="llama", vocab_size=4096)
    with pytest.raises(InputError, match="Did you mean head_dim"):
        derive("3M", family="apertus", vocab_size=4096, overrides={"head_dims": 8})
