"""A GGUF file holds the folder's numbers, tokens and papers, or it is not written at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, TokenType, dequantize
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from hanse import cli
from hanse.errors import InputError
from hanse.model import gguf, hf
from hanse.model.config import ModelConfig
from hanse.model.config.rotary import Llama3Scaling, Rotary
from hanse.model.gguf import quantise
from hanse.model.gguf.layout import rotation_factors
from hanse.model.transformer import Transformer
from hanse.release import convert
from hanse.release.vocabulary import read_vocabulary
from hanse.store.digest import sha256_file, sums_text
from hanse.tune.template import CHAT_TEMPLATE, SPECIAL_TOKENS, render

from .families import family_folder
from .sizes import GROUPS, MOE, SMALL, apertus_of, model_of

ROWS = {"vocab_size": 280}  # more rows than tokens
WIDE = {
    "vocab_size": 280,
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "q_lora_rank": 256,
    "kv_lora_rank": 64,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 64,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 256,
    "first_k_dense_replace": 1,
}


def folder_of(model: Transformer, folder: Path, tokenizer: Tokenizer) -> Path:
    hf.save(model, folder, token_ids={"bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 257})
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def moe(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    model = model_of(MOE | GROUPS | ROWS | {"num_nextn_predict_layers": 1})
    return folder_of(model, tmp_path_factory.mktemp("moe"), tokenizer)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    model = Transformer(ModelConfig(**WIDE)).init_weights(torch.Generator().manual_seed(2))
    return folder_of(model, tmp_path_factory.mktemp("wide"), tokenizer)


@pytest.fixture(scope="module")
def apertus(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    return folder_of(apertus_of(ROWS), tmp_path_factory.mktemp("apertus"), tokenizer)


def written(folder: Path, out: Path, kind: gguf.Kind = "f32", **options: Any) -> dict[str, np.ndarray]:
    """The tensors of the file that is made of a folder, as float32 in numpy's order of axes."""
    convert.write_gguf(folder, out, kind=kind, **options)
    return {each.name: dequantize(each.data, each.tensor_type) for each in GGUFReader(out).tensors}


def field(path: Path, key: str) -> Any:
    return GGUFReader(path).fields[key].contents()


# --------------------------------------------------------------------------- what is in it


def test_every_number_of_the_folder_is_in_the_file_once_and_unchanged(moe: Path, tmp_path: Path) -> None:
    ours = {name: tensor.numpy() for name, tensor in load_file(moe / "model.safetensors").items()}
    theirs = written(moe, tmp_path / "m.gguf")
    config = ModelConfig(**SMALL | MOE | ROWS)
    layers = range(config.num_hidden_layers)
    np.testing.assert_array_equal(theirs["output.weight"], ours["lm_head.weight"])
    for layer in layers:
        keys, values = theirs[f"blk.{layer}.attn_k_b.weight"], theirs[f"blk.{layer}.attn_v_b.weight"]
        both = np.concatenate((keys.transpose(0, 2, 1), values), 1).reshape(-1, config.kv_lora_rank)
        np.testing.assert_array_equal(both, ours[f"model.layers.{layer}.self_attn.kv_b_proj.weight"])
    for expert in range(config.n_routed_experts):
        for name in ("gate", "up", "down"):
            source = ours[f"model.layers.2.mlp.experts.{expert}.{name}_proj.weight"]
            np.testing.assert_array_equal(theirs[f"blk.2.ffn_{name}_exps.weight"][expert], source)
    extra = sum(tensor.size for name, tensor in ours.items() if name.startswith("model.layers.3."))
    assert sum(tensor.size for tensor in theirs.values()) == sum(each.size for each in ours.values()) - extra


def test_bfloat16_keeps_what_bfloat16_can_and_the_router_all(moe: Path, tmp_path: Path) -> None:
    exact, rounded = written(moe, tmp_path / "a.gguf"), written(moe, tmp_path / "b.gguf", "bf16")
    for name, numbers in exact.items():
        is_exact = "norm" in name or "ffn_gate_inp" in name or "exp_probs_b" in name
        expected = numbers if is_exact else torch.from_numpy(numbers.copy()).bfloat16().float().numpy()
        np.testing.assert_array_equal(rounded[name], expected, err_msg=name)


@pytest.mark.parametrize("kind, error", [("q8_0", 0.01), ("q6_k", 0.03), ("q5_k", 0.06), ("q4_k", 0.12)])
def test_packed_numbers_are_near_the_folders_and_what_decides_is_exact(
    wide: Path, tmp_path: Path, kind: gguf.Kind, error: float
) -> None:
    exact, packed = written(wide, tmp_path / "a.gguf"), written(wide, tmp_path / "b.gguf", kind)
    types = {each.name: each.tensor_type for each in GGUFReader(tmp_path / "b.gguf").tensors}
    for name, numbers in exact.items():
        off = np.linalg.norm(packed[name] - numbers) / np.linalg.norm(numbers) if numbers.any() else 0.0
        assert off < error, name
        is_exact = "norm" in name or "ffn_gate_inp" in name or "exp_probs_b" in name
        assert (types[name] == GGMLQuantizationType.F32) == is_exact, name
        assert is_exact or off > 0, name
    assert types["blk.1.ffn_down_exps.weight"].name.lower() == kind
    assert types["blk.1.attn_k_b.weight"] == GGMLQuantizationType.Q8_0  # rows of 32
    assert (tmp_path / "b.gguf").stat().st_size < 0.5 * (tmp_path / "a.gguf").stat().st_size


def test_large_tensors_are_packed_in_pieces_to_the_same_bytes(
    wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = written(wide, tmp_path / "a.gguf", "q4_k")
    monkeypatch.setattr(quantise, "_AT_ONCE", 1000)
    for name, numbers in written(wide, tmp_path / "b.gguf", "q4_k").items():
        np.testing.assert_array_equal(numbers, whole[name])


def test_narrow_rows_are_refused_by_name_and_width(moe: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"token_embd\.weight has rows of 32 numbers, but Q6_K packs 256.*use q8_0"):
        convert.write_gguf(moe, tmp_path / "m.gguf", kind="q4_k")
    with pytest.raises(InputError, match=r"has rows of \d+ numbers, but Q8_0 packs 32"):
        convert.write_gguf(moe, tmp_path / "m.gguf", kind="q8_0")
    assert not list(tmp_path.iterdir())


def test_without_llama_cpp_a_k_type_is_refused_before_anything_is_written(
    wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantise.llama_quantiser.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "xllamacpp.xllamacpp", None)
    with pytest.raises(InputError, match=r"pip install 'hanse\[llama-cpp\]'"):
        convert.write_gguf(wide, tmp_path / "m.gguf", kind="q5_k")
    assert not list(tmp_path.iterdir())


def test_sizes_of_a_mixture_are_in_the_header(moe: Path, tmp_path: Path) -> None:
    convert.write_gguf(moe, tmp_path / "m.gguf", kind="f32")
    expected = {
        "block_count": 3, "expert_count": 8, "expert_used_count": 3, "expert_shared_count": 2, "expert_group_count": 4,
        "expert_group_used_count": 2, "expert_weights_scale": 2.5, "expert_weights_norm": True,
        "expert_gating_func": 2, "leading_dense_block_count": 1, "attention.head_count_kv": 1,
        "attention.key_length": 28, "attention.key_length_mla": 12, "attention.value_length_mla": 6,
    }  # fmt: skip
    found = {key: field(tmp_path / "m.gguf", f"deepseek2.{key}") for key in expected}
    assert found == expected


def test_groups_that_exclude_nothing_are_left_out_for_llama_cpp_aborts_on_them(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    folder = folder_of(model_of(MOE | ROWS | {"n_group": 4, "topk_group": 4}), tmp_path / "m", tokenizer)
    convert.write_gguf(folder, tmp_path / "m.gguf", kind="f32")
    assert "deepseek2.expert_group_count" not in GGUFReader(tmp_path / "m.gguf").fields


def test_stretched_positions_are_those_of_transformers() -> None:
    rope_utils = pytest.importorskip("transformers.modeling_rope_utils")
    transformers = pytest.importorskip("transformers")
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    rope = {"rope_type": "llama3", "rope_theta": 500.0, **scaling}
    config = transformers.LlamaConfig(head_dim=32, rope_parameters=rope)
    theirs, _ = rope_utils.ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    factors = rotation_factors(Rotary(32, 500.0, Llama3Scaling(**scaling)))
    plain = 500.0 ** (-np.arange(0, 32, 2) / 32)
    np.testing.assert_allclose(plain / factors, theirs.numpy(), rtol=1e-5)
    assert factors[0] == 1.0 and factors[-1] == 8.0 and len(set(factors.tolist())) > 3


def test_the_activations_slopes_are_in_the_header_of_an_apertus(apertus: Path, tmp_path: Path) -> None:
    convert.write_gguf(apertus, tmp_path / "m.gguf", kind="f32")
    ours = load_file(apertus / "model.safetensors")
    for name in ("alpha_p", "alpha_n", "beta", "eps"):
        expected = [float(ours[f"model.layers.{layer}.mlp.act_fn.{name}"].reshape(())) for layer in range(3)]
        assert field(tmp_path / "m.gguf", f"xielu.{name}") == pytest.approx(expected)


# --------------------------------------------------------------------------- tokens and papers


def test_tokens_keep_their_ids_kinds_and_ends(moe: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    convert.write_gguf(moe, tmp_path / "m.gguf", kind="f32")
    out = tmp_path / "m.gguf"
    tokens, types = field(out, "tokenizer.ggml.tokens"), field(out, "tokenizer.ggml.token_type")
    assert len(tokens) == len(types) == 280
    assert tokens[:268] == [tokenizer.id_to_token(number) for number in range(268)]
    assert set(types[:256]) == {TokenType.NORMAL}
    assert set(types[256:268]) == {TokenType.CONTROL} and set(types[268:]) == {TokenType.UNUSED}
    ends = {key: field(out, f"tokenizer.ggml.{key}_token_id") for key in ("eos", "eot", "padding")}
    assert {key: tokens[number] for key, number in ends.items()} == {
        "eos": "<|end_of_text|>", "eot": "<|end_of_turn|>", "padding": "<|end_of_text|>",
    }  # fmt: skip
    assert field(out, "tokenizer.ggml.pre") == "llama-bpe" and field(out, "tokenizer.ggml.add_bos_token") is False


def test_only_a_file_for_ids_alone_spells_bytes_beyond_ascii_as_letters(moe: Path) -> None:
    ids = {"eos_token_id": 257}
    plain = read_vocabulary(moe, 280, token_ids=ids)
    for_ids = read_vocabulary(moe, 280, token_ids=ids, sends_every_token=True)
    assert TokenType.USER_DEFINED not in plain.types
    changed = [number for number in range(280) if for_ids.types[number] == TokenType.USER_DEFINED]
    assert sorted(for_ids.tokens[number] for number in changed) == [chr(byte) for byte in range(128, 256)]
    rest = set(range(280)) - set(changed)
    assert all(for_ids.tokens[number] == plain.tokens[number] for number in rest)
    assert len(set(for_ids.tokens)) == 280


def test_the_template_in_the_file_renders_what_the_folders_does(moe: Path, tmp_path: Path) -> None:
    convert.write_gguf(moe, tmp_path / "m.gguf", kind="f32")
    inside = field(tmp_path / "m.gguf", "tokenizer.chat_template")
    assert "generation %}" not in inside
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = json.dumps
    messages = [
        {"role": "user", "content": "Kemm?"},
        {"role": "assistant", "content": "Tnejn", "reasoning_content": "1+1"},
        {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": {}}]},
    ]
    tokenizer = Tokenizer.from_file(str(moe / "tokenizer.json"))
    ids = render(tokenizer, messages, add_generation_prompt=True).ids
    rendered = environment.from_string(inside).render(messages=messages, add_generation_prompt=True)
    assert rendered == tokenizer.decode(ids, skip_special_tokens=False)


def test_licence_languages_name_and_digest_come_from_the_release(moe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "release"
    shutil.copytree(moe, folder)
    card = '---\nlicense: apache-2.0\nlanguage:\n- "el"\n- "mt"\ntags:\n- hanse\n---\n\n# Title\n'
    (folder / "README.md").write_text(card)
    (folder / "step.json").write_text('{"subject": [{"name": "release/atlas/1"}]}')
    (folder / "SHA256SUMS").write_text(
        sums_text({name: sha256_file(folder / name) for name in ("config.json", "model.safetensors", "tokenizer.json")})
    )
    convert.write_gguf(folder, tmp_path / "m.gguf", kind="f32")
    keys = ("general.name", "general.license", "general.languages", "hanse.source", "hanse.source_digest")
    digest = f"sha256:{sha256_file(folder / 'SHA256SUMS')}"
    assert [field(tmp_path / "m.gguf", key) for key in keys] == [
        "release/atlas/1", "apache-2.0", ["el", "mt"], "release/atlas/1", digest,
    ]  # fmt: skip
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    with pytest.raises(InputError, match=r"does not match its SHA256SUMS: config\.json changed"):
        convert.write_gguf(folder, tmp_path / "n.gguf", kind="f32")


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"normalizer": normalizers.NFC()}, "changes its text first"),
        ({"pre_tokenizer": pre_tokenizers.Whitespace()}, "cuts text into words"),
        ({"pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=True)}, "cuts text into words"),
    ],
)
def test_a_tokenizer_that_llama_cpp_would_read_otherwise_is_refused(
    moe: Path, tokenizer: Tokenizer, tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    other = Tokenizer.from_str(tokenizer.to_str())
    for name, value in change.items():
        setattr(other, name, value)
    other.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(InputError, match=reason):
        read_vocabulary(tmp_path, 280, token_ids={})


def test_merges_need_a_split_that_llama_cpp_knows(tmp_path: Path) -> None:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: number for number, letter in enumerate(letters)} | {"ab": 256}
    built = Tokenizer(models.BPE(vocab=vocab, merges=[("a", "b")]))
    built.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    built.decoder = decoders.ByteLevel()
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    built.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(InputError, match="cuts text into words"):
        read_vocabulary(tmp_path, 280, token_ids={})
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.save(str(tmp_path / "tokenizer.json"))
    assert read_vocabulary(tmp_path, 280, token_ids={}).split == "gpt-2"


# --------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "spoil, reason",
    [
        (lambda folder: (folder / "model.safetensors").unlink(), r"model\.safetensors is missing"),
        (lambda folder: (folder / "config.json").unlink(), r"config\.json: cannot be read"),
        (lambda folder: (folder / "tokenizer.json").unlink(), r"tokenizer\.json: no tokenizer"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), r"tokenizer\.json: no tokenizer"),
        (lambda folder: os.truncate(folder / "model.safetensors", 50_000), "cannot be read"),
        (lambda folder: change(folder, {"model.norm.weight": None}), r"model\.norm\.weight is missing"),
        (lambda folder: change(folder, {"model.norm.weight": torch.ones(7)}), r"has shape \(7,\)"),
        (lambda folder: change(folder, {"model.norm.weight": torch.full((32,), torch.nan)}), "infinite or none"),
        (lambda folder: change(folder, {"model.norm.weight": torch.ones(32, dtype=torch.int32)}), "holds int32"),
        (lambda folder: change(folder, {"model.layers.0.odd.weight": torch.ones(3)}), "holds model.layers.0.odd"),
    ],
)
def test_a_broken_folder_is_refused_and_leaves_nothing(moe: Path, tmp_path: Path, spoil: Any, reason: str) -> None:
    folder, room = tmp_path / "model", tmp_path / "room"
    shutil.copytree(moe, folder)
    room.mkdir()
    spoil(folder)
    with pytest.raises(InputError, match=reason):
        convert.write_gguf(folder, room / "m.gguf", kind="f32")
    assert not list(room.iterdir())


def change(folder: Path, tensors: dict[str, torch.Tensor | None]) -> None:
    state = load_file(folder / "model.safetensors") | tensors
    kept = {name: tensor for name, tensor in state.items() if tensor is not None}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_family_that_transformers_computes_is_refused_with_a_way_out(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    folder = family_folder("llama", tmp_path / "llama")
    with pytest.raises(InputError, match=r"is a llama model that transformers computes.*convert_hf_to_gguf"):
        convert.write_gguf(folder, tmp_path / "m.gguf", kind="f32")


def test_what_is_there_stays_without_force(apertus: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.gguf"
    out.write_text("mine")
    with pytest.raises(InputError, match="is there already; give --force"):
        convert.write_gguf(apertus, out, kind="f32")
    assert out.read_text() == "mine"
    convert.write_gguf(apertus, out, kind="f32", force=True)
    assert field(out, "general.architecture") == "apertus"
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]


@pytest.mark.parametrize(
    "place, reason",
    [("model/m.gguf", "lies in the model folder"), ("no/m.gguf", "does not exist"), ("", "holds the model folder")],
)
def test_a_place_that_cannot_be_is_refused(moe: Path, tmp_path: Path, place: str, reason: str) -> None:
    shutil.copytree(moe, tmp_path / "model")
    before = sorted(path.name for path in (tmp_path / "model").iterdir())
    with pytest.raises(InputError, match=reason):
        convert.write_gguf(tmp_path / "model", tmp_path / place, kind="f32", force=True)
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == before


def test_too_little_room_is_told_before_and_a_full_disk_at_once(
    moe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1000))  # type: ignore[attr-defined]
        with pytest.raises(InputError, match=r"no room for m\.gguf, which needs 0 MB|no room for m\.gguf"):
            convert.write_gguf(moe, tmp_path / "m.gguf", kind="f32")
    assert not list(tmp_path.iterdir())

    def full(phrase: str, done: int, total: int | None) -> None:
        if done > 10_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(InputError, match=r"no space left while making m\.gguf"):
        convert.write_gguf(moe, tmp_path / "m.gguf", kind="f32", progress=full)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_export_leaves_nothing(moe: Path, tmp_path: Path) -> None:
    def stop(phrase: str, done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert.write_gguf(moe, tmp_path / "m.gguf", kind="f32", progress=stop)
    assert not list(tmp_path.iterdir())


# --------------------------------------------------------------------------- the command, and another folder


def test_the_command_writes_a_file_and_says_what_it_leaves_out(
    moe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "m.gguf"
    assert cli.main(["export", str(moe), str(out), "--type", "bf16", "--json"]) == 0
    said = capsys.readouterr()
    told = json.loads(said.out)
    assert told["bytes"] == out.stat().st_size and told["type"] == "bf16"
    assert "multi-token block is left out" in said.err
    assert cli.main(["export", str(moe), str(out)]) == 2
    assert cli.main(["export", str(moe), str(tmp_path / "n.gguf"), "--with-mtp", "--type", "f32"]) == 2
    assert "use --type hf" in capsys.readouterr().err


def test_a_folder_is_written_with_the_multi_token_block_or_without(moe: Path, tmp_path: Path) -> None:
    ours = load_file(moe / "model.safetensors")
    for with_mtp, name in ((True, "with"), (False, "without")):
        convert.write_folder(moe, tmp_path / name, with_mtp=with_mtp)
        theirs = load_file(tmp_path / name / "model.safetensors")
        expected = {key for key in ours if with_mtp or not key.startswith("model.layers.3.")}
        assert theirs.keys() == expected
        assert all(torch.equal(theirs[key], ours[key]) for key in expected)
        assert json.loads((tmp_path / name / "config.json").read_text())["num_nextn_predict_layers"] == int(with_mtp)
        assert (tmp_path / name / "tokenizer.json").read_bytes() == (moe / "tokenizer.json").read_bytes()
    with pytest.raises(InputError, match="has no multi-token block"):
        convert.write_folder(tmp_path / "without", tmp_path / "again", with_mtp=True)
    with pytest.raises(InputError, match="is there already"):
        convert.write_folder(moe, tmp_path / "with", with_mtp=False)
    convert.write_folder(moe, tmp_path / "with", with_mtp=False, force=True)
    assert not any(key.startswith("model.layers.3.") for key in load_file(tmp_path / "with" / "model.safetensors"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["with", "without"]


def test_a_folder_in_bfloat16_stays_in_bfloat16(tmp_path: Path, tokenizer: Tokenizer) -> None:
    hf.save(model_of(MOE | ROWS), tmp_path / "a", dtype=torch.bfloat16)
    tokenizer.save(str(tmp_path / "a" / "tokenizer.json"))
    convert.write_folder(tmp_path / "a", tmp_path / "b", with_mtp=False)
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()
