"""A recipe that does not fit is refused in one sentence that names file, section, key and remedy."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse import recipe
from hanse.errors import InputError

MINIMAL = """
name = "tiny"
languages = ["de", "mt"]
[[source]]
name = "texts"
kind = "jsonl"
path = "texts/*.jsonl"
licence = "CC-BY-4.0"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "tiny.toml"
    path.write_text(text)
    return path


def refusal(folder: Path, text: str, *settings: str) -> str:
    with pytest.raises(InputError) as caught:
        recipe.load(write(folder, text), settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_minimal_recipe_resolves_paths_against_its_own_folder(tmp_path):
    loaded = recipe.load(write(tmp_path, MINIMAL))
    assert loaded.source[0].path == str(tmp_path / "texts/*.jsonl")
    assert loaded.version == "1"


def test_path_given_on_the_command_line_is_relative_to_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    loaded = recipe.load(write(tmp_path, MINIMAL), ["source.0.path=mine/*.jsonl"])
    assert loaded.source[0].path == str(tmp_path / "here/mine/*.jsonl")


@pytest.mark.parametrize(
    ("addition", "expected"),
    [
        ("[pretrain]\ntoken_budget = 5", "[pretrain] token_budget: unknown key. Did you mean budget_tokens?"),
        ("[pretrian]\nbudget_tokens = 5", "pretrian: unknown key. Did you mean pretrain?"),
        ("[model]\nhiden_size = 5", "[model] hiden_size: unknown key. Did you mean hidden_size?"),
        ("[pretrain]\nbudget_tokens = 'many'", "[pretrain] budget_tokens: "),
        ("[pretrain]\nbudget_tokens = 100", "[pretrain] budget_tokens: less than one batch"),
        ("[pretrain]\nbatch_tokens = 1000", "[pretrain] batch_tokens: 1000 is not a multiple of sequence_length 256"),
        ("[pretrain]\nlearning_rate = nan", "[pretrain] learning_rate: "),
        ("[model]\nsize = 'huge'", "[model] size: "),
        ("[curate]\nlicences = []", "[curate] licences: the allow-list is empty"),
        ("[[tune]]\nsource = 'text'", "Did you mean texts?"),
        ("[[tune]]\nsource = 'texts'", "holds running text"),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(tmp_path, addition, expected):
    message = refusal(tmp_path, MINIMAL + addition)
    assert expected in message
    assert str(tmp_path / "tiny.toml") in message


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("de", "dd"), "'dd' is not served"),
        (('"de", "mt"', '"de", "de"'), "name each language once"),
        (('name = "texts"', ""), "name: missing"),
        (('path = "texts/*.jsonl"', ""), "path: missing"),
        (('"jsonl"', '"json"'), "kind: "),
        (('name = "tiny"', 'name = "../tiny"'), "name: "),
    ],
)
def test_broken_recipe_is_refused(tmp_path, change, expected):
    assert expected in refusal(tmp_path, MINIMAL.replace(*change))


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("pretrain.budget_tokens", "write section.key=value"),
        ("source.7.path=x", "'7' is not one of the 1 entries"),
        ("source.path=x", "say which entry"),
        ("name.first=x", "is a value, not a section"),
        ("pretrain.budgettokens=99999", "Did you mean budget_tokens?"),
    ],
)
def test_setting_that_does_not_fit_is_refused(tmp_path, setting, expected):
    assert expected in refusal(tmp_path, MINIMAL, setting)


def test_settings_reach_values_lists_and_new_sections(tmp_path):
    values = ["pretrain.budget_tokens=81920", "model.hidden_size=64", "languages=['ga']"]
    settings = [*values, "version=7", "release.title=Ein Titel"]
    loaded = recipe.load(write(tmp_path, MINIMAL), settings)
    assert (loaded.pretrain.steps, loaded.model.overrides) == (10, {"hidden_size": 64})
    assert (loaded.languages, loaded.version, loaded.release.title) == (("ga",), "7", "Ein Titel")


@pytest.mark.parametrize("content", [b"name = ", b"\xff\xfe", b""])
def test_file_that_is_no_recipe_is_refused(tmp_path, content):
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"broken\.toml"):
        recipe.load(path)


def test_missing_recipe_is_refused_with_what_there_is(tmp_path):
    with pytest.raises(InputError, match="no such recipe"):
        recipe.load(tmp_path / "none.toml")


@pytest.mark.parametrize("name", ["atlas", "europe"])
def test_shipped_recipes_load(name):
    loaded = recipe.load(recipe.embedded().with_name(f"{name}.toml"))
    assert loaded.name == name


@given(st.dictionaries(st.text(max_size=12), st.one_of(st.text(max_size=12), st.integers(), st.lists(st.integers()))))
def test_any_toml_is_either_a_recipe_or_refused_in_one_sentence(data):
    with pytest.raises(InputError) as caught:
        recipe.parse({"source": [{"name": "a", "kind": "atlas"}], **data, "unheard_of": 1}, where="x")
    assert str(caught.value).startswith("x: ")


def test_every_default_survives_a_round_trip_through_toml(tmp_path):
    import tomli_w

    loaded = recipe.load(write(tmp_path, MINIMAL))
    text = tomli_w.dumps(loaded.model_dump(mode="json", exclude_none=True))
    assert recipe.parse(tomllib.loads(text), where="round trip") == loaded
