"""The gate on the files of a release: red for whatever runs code, breaks the export, or is not what was recorded."""

import json

import pytest
import torch
from gate_release import failures
from safetensors.torch import load_file, save_file

from hanse.release.gate import audit as gate
from hanse.release.gate import files as gate_files
from hanse.store.digest import SUMS


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("optimizer.pt", b"x"), ("pytorch_model.bin", b"x"), ("extra.dat", b"\x80\x04\x95"),
        ("extra.dat", b"\x80\x02}q"), ("notes", b"PK\x03\x04...."), ("evaluation/cache.pkl", b"x"),
    ],
)  # fmt: skip
def test_a_pickle_is_red_whatever_it_is_called(sealed, name, content):
    (sealed / name).write_bytes(content)
    assert failures(gate_files.files(sealed)) == [
        f"files: is a pickle or an archive, which can run code when read ({name})"
    ]


def test_code_beside_the_verifier_is_red(unsealed):
    (unsealed / "modeling_toy.py").write_text("x = 1")
    assert failures(gate_files.files(unsealed)) == [
        "files: is code; a release carries none but its verifier (modeling_toy.py)"
    ]
    (unsealed / "modeling_toy.py").unlink()
    (unsealed / "verify.py").write_text("print('all is well')")
    assert "is not the verifier" in failures(gate_files.files(unsealed))[0]


def test_a_config_that_asks_for_outside_code_is_red(sealed):
    config = json.loads((sealed / "config.json").read_text())
    (sealed / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "x.Y"}}))
    assert "auto_map" in failures(gate_files.files(sealed))[0]


def test_a_second_metadata_key_is_red_in_every_weights_file(sealed):
    save_file({"a": torch.zeros(2)}, sealed / "adapter.safetensors", metadata={"format": "pt", "run": "7"})
    assert failures(gate_files.export(sealed)) == [
        "export: its metadata has to be 'format' alone (found: format, run) (adapter.safetensors)"
    ]
    (sealed / "adapter.safetensors").unlink()
    save_file(
        load_file(sealed / "model.safetensors"), sealed / "model.safetensors", metadata={"format": "pt", "a": "b"}
    )
    (found,) = failures(gate_files.export(sealed))
    assert "metadata" in found


def test_a_broken_export_contract_is_red(sealed):
    config = json.loads((sealed / "config.json").read_text())
    (sealed / "config.json").write_text(json.dumps({**config, "scoring_func": "softmax"}))
    assert "scoring_func" in failures(gate_files.export(sealed))[0]


def test_a_file_that_is_not_the_recorded_one_is_red(sealed, published):
    (sealed / "evaluation/scores.json").write_text("[]")
    assert failures(gate_files.copies(sealed, published.ledger)) == [
        "copies: is not the one that evaluation/toy-chat/1 was recorded with (evaluation/scores.json)"
    ]
    (sealed / "chat_template.jinja").unlink()
    assert "copies: is missing (chat_template.jinja)" in failures(gate_files.copies(sealed, published.ledger))


def test_a_signature_that_does_not_hold_is_red(sealed):
    assert failures(gate.signature(sealed)) == []
    with (sealed / "README.md").open("a") as stream:
        stream.write("more")
    assert any("README.md" in each for each in failures(gate.signature(sealed)))
    (sealed / "README.md").unlink()
    (sealed / "model.sig").unlink()
    assert any("model.sig" in each and "nobody vouches" in each for each in failures(gate.signature(sealed)))


def test_a_sealed_folder_without_its_signature_is_not_taken_for_an_unsealed_one(unsealed):
    assert not gate_files.is_sealed(unsealed)
    (unsealed / SUMS).write_text("")
    assert gate_files.is_sealed(unsealed)
