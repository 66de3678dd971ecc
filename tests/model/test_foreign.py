"""Families that transformers computes: trained, cached, grown and written through the interface of our own."""

import json
import socket
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from hanse.errors import InputError
from hanse.model import hf
from hanse.model.config import ForeignConfig, open_config
from hanse.model.foreign import ForeignModel
from hanse.model.loss import Objective, next_token_loss
from hanse.model.transformer import Transformer

from .families import FAMILIES, family_folder
from .sizes import MOE, apertus_of, model_of, tokens_of

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request, tmp_path_factory):
    return family_folder(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def model(folder):
    """Opened once for the tests that only ask it."""
    return hf.load(folder)


@pytest.fixture(scope="module")
def reference(folder):
    return reference_of(folder)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return family_folder("llama", tmp_path_factory.mktemp("llama"))


def reference_of(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


DOCUMENTS = torch.tensor(
    [[0] * 5 + [1] + [2] * 14, [5] * 20, [1] * 4 + [2] * 8 + [1] * 4 + [3] * 4, [-1] * 2 + [7] * 18]
)


@torch.no_grad()
def test_logits_equal_those_of_transformers(model, reference):
    tokens = tokens_of(3, 20)
    assert isinstance(model, ForeignModel)
    torch.testing.assert_close(model.logits(model(tokens)), reference(tokens).logits, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_packed_documents_equal_documents_alone_in_transformers(model, reference):
    base, tokens = reference.base_model, tokens_of(4, 20)
    hidden = model(tokens, DOCUMENTS)
    for row, borders in enumerate(DOCUMENTS):
        for number in borders.unique():
            places = borders == number
            alone = base(input_ids=tokens[row, places][None], use_cache=False).last_hidden_state[0]
            torch.testing.assert_close(hidden[row, places], alone, atol=2e-5, rtol=1e-4)


def test_gradients_of_packed_documents_equal_those_of_documents_alone(model):
    tokens, gradients = tokens_of(4, 20), []
    weights = torch.randn(4, 20, model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    packed = (model(tokens, DOCUMENTS) * weights).sum()
    alone = sum(
        (model(tokens[row, places][None])[0] * weights[row, places]).sum()
        for row, borders in enumerate(DOCUMENTS)
        for places in (borders == number for number in borders.unique())
    )
    for total in (packed, alone):
        model.zero_grad()
        total.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    model.zero_grad()
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("chunks", [(20,), (11, *[1] * 9), (7, 5, 1, 7)])
@torch.no_grad()
def test_prefill_and_steps_equal_the_full_forward(model, chunks):
    tokens, start, parts = tokens_of(3, 20), 0, []
    cache = model.new_cache(3, capacity=20)
    for size in chunks:
        parts.append(model(tokens[:, start : start + size], cache=cache, start=start))
        start += size
    assert cache.length == 20
    torch.testing.assert_close(torch.cat(parts, 1), model(tokens), atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_kept_rows_and_a_rewound_cache_continue_as_their_own_texts(model):
    tokens, other = tokens_of(3, 10), tokens_of(3, 10, seed=9)
    cache = model.new_cache(3, capacity=12)
    model(other, cache=cache)
    model(tokens[:, :9], cache=cache, start=0)
    rows = torch.tensor([2, 0, 0])
    cache.keep(rows)
    step = model(tokens[rows, 9:], cache=cache, start=9)
    torch.testing.assert_close(step[:, -1], model(tokens)[rows, -1], atol=2e-5, rtol=1e-4)
    with pytest.raises(InputError, match="13 tokens exceeds the 12"):
        model(tokens[:, :3], cache=cache, start=10)
    with pytest.raises(ValueError, match="holds 10 tokens"):
        model(tokens[:, :1], cache=cache, start=11)


def test_what_a_family_does_not_do_is_found_out_and_not_believed(folder, model):
    apart = {"bloom": (False, True), "falcon_h1": (False, False)}
    name = next(name for name in FAMILIES if folder.name.startswith(name))
    found = (model.isolates, model.caches)
    assert found == apart.get(name, (True, True))
    assert len(model.layers) == 2 and type(model.norm) is not torch.nn.Identity


def test_sizes_and_operations_are_counted_without_loading_the_weights(folder, model):
    config = open_config(folder)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert isinstance(config, ForeignConfig) and config == model.config
    assert config.parameters() == parameters
    routed = sum(p.numel() for name, p in model.named_parameters() if ".experts." in name)
    assert config.active_parameters() == parameters - routed // 2
    assert (config.num_hidden_layers, config.hidden_size, config.max_position_embeddings) == (2, 32, 64)
    is_tied = model.embed_tokens is model.head_VD
    assert config.tie_word_embeddings == is_tied
    tables = [name for name, p in model.named_parameters() if p.ndim > 1 and ("embed_tokens" in name or "wpe" in name)]
    looked_up = sum(dict(model.named_parameters())[name].numel() for name in tables) * (not is_tied)
    if "gpt2" in str(folder):
        looked_up = 64 * 32
    matrices = sum(p.numel() for p in model.parameters() if p.ndim > 1) - looked_up - routed // 2
    if "falcon" not in str(folder):  # its convolution has three axes
        width = {"llama": 8, "gpt2": 8, "bloom": 8}.get(config.model_type, config.head_dim)
        assert config.flop_per_token(17) == 6 * matrices + 3 * 2 * 4 * 2 * width * 18


def test_sizes_need_no_torch(llama):
    import subprocess

    code = "import sys, pathlib; from hanse.model.config import open_config; open_config(pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", f"{code}; 'torch' in sys.modules and 1/0", str(llama)], check=True)


# --------------------------------------------------------------------------- training


def test_a_training_step_lowers_the_loss_and_dropout_stays_off(tmp_path):
    model = hf.load(family_folder("gpt2", tmp_path, attn_pdrop=0.5, resid_pdrop=0.5, embd_pdrop=0.5)).train()
    objective, tokens = Objective(model), tokens_of(4, 20)
    targets = tokens.roll(-1, 1)
    losses = [objective(tokens, targets, DOCUMENTS, with_mtp=False)[0] for _ in range(2)]
    assert torch.equal(*losses)
    losses[0].backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 1e-3 * parameter.grad / parameter.grad.norm()
    assert objective(tokens, targets, DOCUMENTS, with_mtp=False)[0] < losses[0]


def test_it_has_no_router_bias_no_multi_token_block_and_no_random_start(llama):
    model = hf.load(llama)
    assert model.routers() == {} and model.update_router_bias(0.1) == [] and model.mtp is None
    with pytest.raises(InputError, match="starts from a folder"):
        model.init_weights()


def test_a_blank_model_has_the_same_tensors_and_takes_the_weights(folder):
    model = hf.load(folder, vocab_size=101)
    blank = model.blank()
    assert [(n, p.shape) for n, p in blank.named_parameters()] == [(n, p.shape) for n, p in model.named_parameters()]
    blank.load_state_dict(model.state_dict())
    tokens = tokens_of(2, 9)
    with torch.no_grad():
        assert torch.equal(blank(tokens, DOCUMENTS[:2, :9]), model(tokens, DOCUMENTS[:2, :9]))


# --------------------------------------------------------------------------- files


def test_a_saved_folder_is_what_transformers_wrote_and_reads(folder, tmp_path):
    model, tokens = hf.load(folder), tokens_of(2, 9)
    with torch.no_grad():
        next(model.parameters()).add_(0.01)
    hf.save(model, tmp_path, token_ids={"eos_token_id": 7, "pad_token_id": 5})
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    assert load_file(tmp_path / hf.WEIGHTS).keys() == load_file(folder / hf.WEIGHTS).keys()
    before, after = (json.loads((place / "config.json").read_text()) for place in (folder, tmp_path))
    assert after == before | {"eos_token_id": 7, "pad_token_id": 5, "dtype": "float32"}
    with torch.no_grad():
        torch.testing.assert_close(reference_of(tmp_path)(tokens).logits, model.logits(model(tokens)))


def test_saving_in_half_precision_keeps_ties_and_says_so(folder, model, tmp_path):
    hf.save(model, tmp_path, dtype=torch.bfloat16)
    weights = load_file(tmp_path / hf.WEIGHTS)
    assert weights.keys() == load_file(folder / hf.WEIGHTS).keys()
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"


def test_one_of_our_own_families_stays_with_transformers_if_a_person_wants_it(tmp_path):
    for name, model in (("apertus", apertus_of({})), ("experts", model_of(MOE))):
        hf.save(model, tmp_path / name)
        foreign, tokens = hf.load(tmp_path / name, family="transformers"), tokens_of(2, 9)
        assert isinstance(foreign, ForeignModel)
        with torch.no_grad():
            torch.testing.assert_close(foreign(tokens), model(tokens), atol=1e-4, rtol=1e-4)
        hf.save(foreign, tmp_path / "again")
        assert isinstance(hf.load(tmp_path / "again"), ForeignModel)
        assert (
            type(
                hf.load(
                    tmp_path / "again", family=json.loads((tmp_path / name / "config.json").read_text())["model_type"]
                )
            )
            is Transformer
        )


def check_growth(folder, place):
    """New tokens get the mean of all logits, the others keep theirs, and a saved folder remembers."""
    before, after = hf.load(folder), hf.load(folder, vocab_size=103)
    tokens = tokens_of(2, 9)
    assert after.config.vocab_size == 103 and after.head_VD.shape[0] == after.embed_tokens.shape[0] == 103
    assert after.config.parameters() == sum(parameter.numel() for parameter in after.parameters())
    with torch.no_grad():
        old, new = before.logits(before(tokens)), after.logits(after(tokens))
        torch.testing.assert_close(new[..., :97], old, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(new[..., 97:], old.mean(-1, keepdim=True).expand(-1, -1, 6), atol=1e-5, rtol=1e-4)
        hf.save(after, place)
        again = hf.load(place)
        torch.testing.assert_close(again.logits(again(tokens)), new)
    assert hf.load(folder, vocab_size=5).config.vocab_size == 97


def test_new_tokens_start_as_the_average_token(folder, tmp_path):
    check_growth(folder, tmp_path)


@pytest.mark.parametrize(
    "make",
    [lambda: model_of({}), lambda: model_of({"tie_word_embeddings": True}), lambda: apertus_of({})],
    ids=["deepseek_v3", "deepseek_v3, tied", "apertus"],
)
def test_new_tokens_start_as_the_average_token_in_our_own_families(make, tmp_path):
    hf.save(make(), tmp_path / "before")
    check_growth(tmp_path / "before", tmp_path / "after")


def test_opening_a_folder_touches_no_network(llama, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("something wanted the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    hf.load(llama)


def edit(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def drop(folder, name):
    weights = load_file(folder / hf.WEIGHTS)
    del weights[name]
    save_file(weights, folder / hf.WEIGHTS, metadata={"format": "pt"})


def add(folder, name):
    save_file(load_file(folder / hf.WEIGHTS) | {name: torch.zeros(3)}, folder / hf.WEIGHTS, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda f: (f / "config.json").write_text("[]"), "no JSON object"),
        (lambda f: (f / "config.json").write_text('{"a":' * 100_000), "cannot be read"),
        (lambda f: edit(f, model_type="nothing_like_it"), "transformers cannot open"),
        (lambda f: edit(f, model_type="nothing_like_it", auto_map={"AutoConfig": "evil.Config"}), "cannot open"),
        (lambda f: edit(f, model_type=None), "cannot open"),
        (lambda f: edit(f, hidden_size="many"), "hidden_size"),
        (lambda f: edit(f, hidden_size=0), "hidden_size"),
        (lambda f: edit(f, head_dim=[8]), "head_dim"),
        (lambda f: edit(f, hidden_size=64), "another shape"),
        (lambda f: edit(f, num_hidden_layers=3), "layers.2.* is missing"),
        (lambda f: edit(f, num_hidden_layers=1), "layers.1.* has no place"),
        (lambda f: edit(f, quantization_config={"quant_method": "fp8"}), "quantised"),
        (lambda f: edit(f, final_logit_softcapping=30.0), "final_logit_softcapping"),
        (lambda f: edit(f, logits_scaling=8.0), "logits_scaling"),
        (lambda f: drop(f, "model.norm.weight"), "model.norm.weight is missing"),
        (lambda f: add(f, "model.extra.weight"), "model.extra.weight has no place"),
        (lambda f: (f / hf.WEIGHTS).write_bytes(b"\xff" * 50), "weights cannot be read"),
        (lambda f: (f / hf.WEIGHTS).rename(f / "pytorch_model.bin"), "can run code"),
        (
            lambda f: (f / "model.safetensors.index.json").write_text(
                '{"weight_map": {"a": "sub/../../x.safetensors"}}'
            ),
            "beside",
        ),
        (lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": 3}'), "cannot be read"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_in_one_sentence(damage, complaint, tmp_path):
    damage(family_folder("llama", tmp_path))
    with pytest.raises(InputError, match=complaint) as caught:
        hf.load(tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_no_code_in_a_folder_is_run(tmp_path):
    family_folder("llama", tmp_path)
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    edit(tmp_path, auto_map={"AutoModelForCausalLM": "evil.Model", "AutoConfig": "evil.Config"})
    model = hf.load(tmp_path)
    assert isinstance(model, ForeignModel)
    hf.save(model, tmp_path / "saved")
    assert "auto_map" not in json.loads((tmp_path / "saved" / "config.json").read_text())


@pytest.mark.parametrize(
    ("name", "changes", "complaint"),
    [
        ("phi", {}, "not its last hidden states times one matrix"),
        ("cohere", {"logit_scale": 0.5}, "logit_scale"),
        ("granite", {"logits_scaling": 3.0}, "logits_scaling"),
        ("gemma2", {"head_dim": 8, "query_pre_attn_scalar": 8}, "final_logit_softcapping"),
    ],
)
def test_families_that_change_their_logits_after_the_head_are_refused(name, changes, complaint, tmp_path):
    family_folder(name, tmp_path, **changes)
    with pytest.raises(InputError, match=complaint):
        hf.load(tmp_path)


def test_without_transformers_the_extra_is_named(llama, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"pip install 'hanse\[transformers\]'"):
        hf.load(llama)


def test_a_family_that_is_asked_for_has_to_be_the_one_in_the_folder(llama, tmp_path):
    hf.save(apertus_of({}), tmp_path)
    with pytest.raises(InputError, match='set family = "apertus"'):
        hf.load(tmp_path, family="deepseek_v3")
    with pytest.raises(InputError, match='set family = "transformers"'):
        hf.load(llama, family="apertus")


def test_loss_of_a_foreign_model_is_its_own_cross_entropy(model, reference):
    tokens, targets = tokens_of(3, 20), tokens_of(3, 20, seed=4)
    loss, count = next_token_loss(model, model(tokens), targets)
    expected = torch.nn.functional.cross_entropy(reference(tokens).logits.flatten(0, 1), targets.flatten())
    torch.testing.assert_close(loss / count, expected)
