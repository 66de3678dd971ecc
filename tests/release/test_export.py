"""Each line of the export contract, broken once."""

import json

import pytest
from toy_release import CONFIG, TEMPLATE, TOKENIZER, shapes, write_model

from hanse.errors import InputError
from hanse.release.export import check_export, export_problems, read_header


@pytest.fixture
def folder(tmp_path):
    write_model(tmp_path)
    return tmp_path


def only(folder) -> str:
    problems = export_problems(folder)
    assert len(problems) == 1, problems
    with pytest.raises(InputError, match="cannot be released"):
        check_export(folder)
    return problems[0]


def test_a_folder_that_obeys_is_accepted(folder):
    assert export_problems(folder) == []
    check_export(folder)
    assert read_header(folder / "model.safetensors").tensors["lm_head.weight"] == ("F32", (32, 8))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("topk_method", "greedy"), ("scoring_func", "softmax"), ("moe_router_dtype", "bfloat16"), ("rope_theta", None),
        ("rope_theta", 5.0), ("q_lora_rank", None), ("q_lora_rank", 0), ("q_lora_rank", True), ("q_lora_rank", "4"),
        ("tie_word_embeddings", True), ("tie_word_embeddings", 0), ("rms_norm_eps", 1e-5), ("rope_interleave", False),
        ("num_nextn_predict_layers", None), ("num_nextn_predict_layers", 2), ("num_nextn_predict_layers", True),
        ("num_hidden_layers", 26), ("num_hidden_layers", 27), ("num_hidden_layers", None), ("model_type", "llama"),
        ("vocab_size", "32"),
    ],
)  # fmt: skip
def test_a_wrong_or_missing_key_of_the_config_is_named(folder, key, value):
    (folder / "config.json").write_text(json.dumps(CONFIG | {key: value}))
    assert key in only(folder) or "layers" in only(folder)
    if value is None:
        (folder / "config.json").write_text(json.dumps({k: v for k, v in CONFIG.items() if k != key}))
        assert key in only(folder)


@pytest.mark.parametrize(("layers", "vocabulary"), [(48, 128256), (47, 154880), (48, 154880)])
def test_sizes_that_llama_cpp_takes_for_another_family_are_refused(folder, layers, vocabulary):
    config = CONFIG | {"num_hidden_layers": layers, "vocab_size": vocabulary}
    (folder / "config.json").write_text(json.dumps(config))
    assert "llama.cpp" in only(folder)


@pytest.mark.parametrize("metadata", [{}, {"format": "pt", "run": "7"}, {"run": "7"}])
def test_weights_carry_exactly_one_metadata_key(folder, metadata):
    write_model(folder, metadata=metadata)
    assert "metadata" in only(folder)


@pytest.mark.parametrize("name", sorted(n for n in shapes() if "shared_experts" not in n))
def test_every_missing_tensor_is_named(folder, name):
    write_model(folder, tensors={n: v for n, v in shapes().items() if n != name})
    assert name in only(folder)


def test_a_router_bias_in_another_precision_is_refused(folder):
    name = "model.layers.1.mlp.gate.e_score_correction_bias"
    write_model(folder, tensors=shapes() | {name: ("BF16", [2])})
    assert "has to be F32" in only(folder)


def test_fused_experts_are_refused(folder):
    write_model(folder, tensors=shapes() | {"model.layers.1.mlp.experts.gate_up_proj": ("F32", [2, 8, 16])})
    assert "fused" in only(folder)
    write_model(folder, tensors=shapes() | {"model.layers.1.mlp.experts.0.gate_proj.weight": ("F32", [2, 8, 16])})
    assert "fused" in only(folder)


def test_a_head_that_does_not_fit_the_vocabulary_is_refused(folder):
    write_model(folder, tensors=shapes() | {"lm_head.weight": ("F32", [31, 8])})
    assert "lm_head.weight has shape [31, 8]" in only(folder)


def test_a_layer_too_many_is_refused(folder):
    write_model(folder, tensors=shapes() | {"model.layers.2.eh_proj.weight": ("F32", [8, 16])})
    assert "does not count" in only(folder)


def test_a_promised_prediction_layer_has_to_be_there(folder):
    write_model(folder, CONFIG | {"num_nextn_predict_layers": 1})
    assert any("model.layers.2.eh_proj.weight is missing" in problem for problem in export_problems(folder))


@pytest.mark.parametrize("template", ["", "{{ x }}", TEMPLATE.replace("endgeneration", "end"), "{% generation_ %}"])
def test_a_template_without_generation_markers_is_refused(folder, template):
    (folder / "chat_template.jinja").write_text(template)
    assert all("chat_template.jinja" in problem for problem in export_problems(folder)) and export_problems(folder)


def test_a_tokenizer_that_does_not_fit_is_refused(folder):
    added = [{"id": 32, "content": "x"}]
    (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER | {"added_tokens": added}))
    assert "token 32" in only(folder)
    (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER | {"model": {"type": "Unigram"}}))
    assert "not byte-level BPE" in only(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"])
@pytest.mark.parametrize("content", [None, b"", b"\xff" * 40, b"[]", b"{}", b"\x02" + b"\0" * 7 + b"[]"])
def test_a_broken_file_is_bad_input_and_no_crash(folder, name, content):
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(InputError):
        check_export(folder)


@pytest.mark.parametrize("shape", ["experts", "dense", "multi-token"])
def test_what_our_own_exporter_writes_obeys(folder, shape):
    torch = pytest.importorskip("torch")
    from hanse.model import hf
    from hanse.model.config import ModelConfig
    from hanse.model.transformer import Transformer

    changes = {
        "dense": {"n_routed_experts": 0, "first_k_dense_replace": 0},
        "multi-token": {"num_nextn_predict_layers": 1},
    }
    config = ModelConfig.from_hf(CONFIG | changes.get(shape, {}))
    model = Transformer(config)
    model.init_weights(torch.Generator().manual_seed(0))
    hf.save(model, folder)
    assert export_problems(folder) == []
