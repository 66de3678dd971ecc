"""A recipe's [model]: which family, which sizes, or which folder is continued."""

import tomllib
from pathlib import Path

import pytest
import tomli_w
import torch

from hanse import recipe
from hanse.errors import InputError
from hanse.model import hf
from hanse.model.config import ApertusConfig, ForeignConfig, ModelConfig, configure

from .families import family_folder
from .sizes import MOE, apertus_of, model_of

ATLAS = '[[source]]\nname = "atlas"\nkind = "atlas"\n'


def read(folder: Path, text: str, *settings: str) -> recipe.Recipe:
    path = folder / "r.toml"
    path.write_text(f'name = "r"\n{ATLAS}{text}')
    return recipe.load(path, settings)


def sizes(folder: Path, text: str, *, context: int = 64):
    return configure(read(folder, text).model, vocab_size=4096, context=context)


def test_nothing_said_makes_a_deepseek_v3_of_the_first_size(tmp_path):
    section = read(tmp_path, "").model
    assert section.model_dump() == {"family": "deepseek_v3", "size": "3M"}
    assert isinstance(sizes(tmp_path, ""), ModelConfig)


def test_apertus_is_derived_with_its_own_keys(tmp_path):
    config = sizes(
        tmp_path, '[model]\nfamily = "apertus"\nsize = "10M"\nnum_attention_heads = 6\nnum_key_value_heads = 2'
    )
    assert isinstance(config, ApertusConfig)
    assert (config.num_key_value_heads, config.max_position_embeddings, config.vocab_size) == (2, 64, 4096)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    hf.save(model_of(MOE | {"num_nextn_predict_layers": 1}), place / "experts")
    hf.save(apertus_of({}), place / "swiss")
    family_folder("llama", place / "llama")
    return place


def test_a_start_brings_its_family_and_its_sizes(folders, tmp_path):
    for name, kind in (("experts", ModelConfig), ("swiss", ApertusConfig), ("llama", ForeignConfig)):
        config = sizes(tmp_path, f'[model]\nstart = "{folders / name}"')
        assert isinstance(config, kind) and config.vocab_size == 97
    config = sizes(tmp_path, f'[model]\nfamily = "transformers"\nstart = "{folders / "swiss"}"')
    assert isinstance(config, ForeignConfig) and config.model_type == "apertus"
    assert hf.load(folders / "experts").mtp is not None
    assert hf.load(folders / "experts", with_mtp=False).mtp is None


def test_a_start_is_relative_to_the_recipe_and_on_the_command_line_to_the_current_folder(tmp_path, monkeypatch):
    assert read(tmp_path, '[model]\nstart = "../open model"').model.start == str(tmp_path / "../open model")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert read(tmp_path, "", "model.start=mine").model.start == str(tmp_path / "here" / "mine")


@pytest.mark.parametrize(
    "text",
    [
        "",
        '[model]\nfamily = "apertus"\nhead_dim = 16',
        '[model]\nstart = "m"',
        '[model]\nstart = "m"\nfamily = "apertus"',
    ],
)
def test_a_resolved_recipe_says_the_same_again(text, tmp_path):
    loaded = read(tmp_path, text)
    resolved = tomli_w.dumps(loaded.model_dump(mode="json", exclude_none=True))
    assert recipe.parse(tomllib.loads(resolved), where="round trip") == loaded


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('[model]\nfamily = "llama"', "[model] family: "),
        (
            '[model]\nfamily = "transformers"',
            '[model] start: missing; family = "transformers" goes on from a model folder',
        ),
        ('[model]\nstart = "m"\nsize = "3M"', "[model] size: the model in start brings its own"),
        ('[model]\nstart = "m"\nhidden_size = 64', "[model] hidden_size: the model in start brings its own"),
        ('[model]\nfamily = "apertus"\nn_routed_experts = 8', "n_routed_experts: apertus models are dense"),
        (
            '[model]\nfamily = "apertus"\nq_lora_rank = 8',
            'q_lora_rank: not a key of apertus, but of family = "deepseek_v3"',
        ),
        ("[model]\nnum_key_value_heads = 8", 'not a key of deepseek_v3, but of family = "apertus"'),
        ('[model]\nfamily = "apertus"\nheaddim = 8', "[model] headdim: unknown key. Did you mean head_dim?"),
        ('[model]\nstrat = "m"', "[model] strat: unknown key. Did you mean start?"),
        ('[model]\nstart = "m"\n[tokenizer]\nvocab_size = 500', "tokenizer: the model in [model] start brings its own"),
        ('[model]\nstart = "m"\n[pretrain]\nmtp_weight = 0.1', "goes on without a multi-token block"),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(text, complaint, tmp_path):
    with pytest.raises(InputError) as caught:
        read(tmp_path, text)
    assert complaint in str(caught.value) and "\n" not in str(caught.value)


def test_a_start_that_sees_less_than_the_recipe_shows_is_refused(folders, tmp_path):
    with pytest.raises(InputError, match="sees 64 tokens at a time, and the recipe has sequences of 65"):
        sizes(tmp_path, f'[model]\nstart = "{folders / "llama"}"', context=65)


def test_a_start_that_is_no_model_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"config\.json: cannot be read"):
        sizes(tmp_path, '[model]\nstart = "nowhere"')


@pytest.mark.parametrize("value", ['"64"', "6.4", "true", "[64]", "-1", "0", "100000000000000000000"])
def test_a_size_of_another_type_is_refused_by_name(value, tmp_path):
    with pytest.raises(InputError, match=r"\[model\] hidden_size"):
        sizes(tmp_path, f"[model]\nhidden_size = {value}")


def test_training_begins_with_random_weights_or_with_those_of_the_folder(folders, tmp_path):
    section = read(tmp_path, '[model]\nfamily = "apertus"\nsize = "1M"').model
    config = configure(section, vocab_size=400, context=64)
    one, two, other = (hf.begin(section, config, vocab_size=400, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.embed_tokens, two.embed_tokens) and not torch.equal(one.embed_tokens, other.embed_tokens)
    assert hf.begin(section, config, vocab_size=400, seed=1, device="meta").embed_tokens.is_meta
    for name in ("experts", "swiss", "llama"):
        section = read(tmp_path, f'[model]\nstart = "{folders / name}"').model
        model = hf.begin(section, configure(section, vocab_size=0, context=64), vocab_size=99, seed=1)
        assert torch.equal(model.embed_tokens[:97], hf.load(folders / name).embed_tokens)
        assert model.config.vocab_size == 99 and model.mtp is None
