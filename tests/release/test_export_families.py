"""Each line of the export contract of the other families, broken once."""

import json
from pathlib import Path

import pytest
from toy_release import TEMPLATE, TOKENIZER

from hanse.release.export import export_problems

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file  # noqa: E402

from hanse.model import hf  # noqa: E402
from hanse.model.config import ApertusConfig  # noqa: E402
from hanse.model.transformer import Transformer  # noqa: E402

SIZES = {"vocab_size": 32, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1}


def with_tokenizer(folder: Path) -> Path:
    (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@pytest.fixture
def swiss(tmp_path):
    hf.save(
        Transformer(ApertusConfig(**SIZES, **HEADS, head_dim=4, tie_word_embeddings=True)).init_weights(),
        tmp_path / "swiss",
    )
    return with_tokenizer(tmp_path / "swiss")


@pytest.fixture
def foreign(tmp_path):
    config = transformers.LlamaConfig(**SIZES, **HEADS)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "theirs")
    hf.save(hf.load(tmp_path / "theirs"), tmp_path / "ours")
    return with_tokenizer(tmp_path / "ours")


def edit(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def reweigh(folder, change, **metadata):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt", **metadata})


def test_what_our_own_exporter_writes_obeys(swiss):
    assert export_problems(swiss) == []


def test_what_transformers_writes_for_us_obeys(foreign):
    assert export_problems(foreign) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_act": "silu"}, "hidden_act"),
        ({"qk_norm": None}, "qk_norm"),
        ({"post_norm": 0}, "post_norm"),
        ({"mlp_bias": None}, "mlp_bias"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings"),
        ({"rope_parameters": None}, "rope_parameters"),
        ({"rope_theta": 5.0}, "rope_theta"),
        ({"rope_theta": None}, "rope_theta"),
        ({"num_hidden_layers": None}, "num_hidden_layers"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
    ],
)
def test_a_wrong_key_of_apertus_is_named(swiss, changes, words):
    edit(swiss, **changes)
    (problem,) = export_problems(swiss)
    assert words in problem


def test_every_missing_tensor_of_apertus_is_named(swiss):
    whole = load_file(swiss / "model.safetensors")
    for name in whole:
        save_file({n: t for n, t in whole.items() if n != name}, swiss / "model.safetensors", metadata={"format": "pt"})
        (problem,) = export_problems(swiss)
        assert name in problem


def test_a_second_key_in_the_metadata_is_refused(swiss, foreign):
    for folder in (swiss, foreign):
        reweigh(folder, lambda weights: None, run="7")
        assert "metadata" in export_problems(folder)[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architectures": None}, "architectures is missing"),
        ({"architectures": ["ApertusForCausalLM"]}, "but architectures ApertusForCausalLM"),
        ({"auto_map": {"AutoModel": "x.Y"}}, "auto_map"),
        ({"vocab_size": 3}, "token"),
    ],
)
def test_a_wrong_key_of_another_family_is_named(foreign, changes, words):
    edit(foreign, **changes)
    (problem,) = export_problems(foreign)
    assert words in problem


def test_an_apertus_that_transformers_computed_is_held_to_what_transformers_writes(swiss, tmp_path):
    hf.save(hf.load(swiss, family="transformers"), tmp_path / "again")
    assert export_problems(with_tokenizer(tmp_path / "again")) == []
