"""The gate on the model itself: its logits, its template, the marks in its answers."""

import pytest
import torch
from licensed_store import QUESTION
from safetensors.torch import load_file, save_file

from hanse.release.gate import files as gate_files
from hanse.release.gate import model as gate_model

pytest.importorskip("transformers")


def test_other_weights_than_transformers_reads_are_red(sealed, monkeypatch):
    from hanse.model import hf

    assert gate_model.same_logits(sealed)[0] == []
    real = hf.load

    def bent(path, **options):
        model = real(path, **options)
        with torch.no_grad():
            next(model.parameters()).mul_(1.5)
        return model

    monkeypatch.setattr(hf, "load", bent)
    assert "computes other logits" in gate_model.same_logits(sealed)[0][0]["what"]


def test_weights_that_are_no_numbers_are_red(sealed):
    weights = load_file(sealed / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, sealed / "model.safetensors", metadata={"format": "pt"})
    assert "no numbers" in gate_model.same_logits(sealed)[0][0]["what"]


def test_a_folder_that_nobody_can_load_is_red_in_one_line(sealed):
    (sealed / "model.safetensors").write_bytes(b"\0" * 64)
    found = gate_model._tried(lambda: gate_model.same_logits(sealed))
    assert found["problems"][0]["what"].startswith("cannot be done: ") and "\n" not in found["problems"][0]["what"]


def test_no_connection_is_opened():
    import socket

    with pytest.raises(OSError, match="looks at the folder alone"):
        gate_model._refuse(socket.socket(), ("127.0.0.1", 9))


def test_the_template_goes_there_and_back(sealed):
    assert gate_model.round_trip(sealed)[0] == []


def test_another_template_is_red(sealed):
    path = sealed / "chat_template.jinja"
    path.write_text(path.read_text().replace("'<|tool_call|>{", "'<|tool_call|>[{"))
    words = [each["what"] for each in gate_model.round_trip(sealed)[0]]
    assert "is not the template that training used" in words
    assert "transformers renders a conversation with other tokens" in words


def test_a_tokenizer_without_the_frame_is_red(sealed):
    path = sealed / "tokenizer.json"
    path.write_text(path.read_text().replace("<think>", "<thinq>"))
    assert gate_model._tried(lambda: gate_model.round_trip(sealed))["problems"]


@pytest.mark.parametrize(
    ("answer", "is_ended", "words"),
    [
        ("a<think>b</think>c", True, ""),
        ("a<think>b", False, ""),
        ("a<think>b", True, "opens <think> and never closes it"),
        ("a</think>b", True, "holds a stray </think>"),
        ("<think><think>a</think>", True, "holds a stray <think>"),
        ('<|tool_call|>{"name": "f", "arguments": {}}<|/tool_call|>', True, ""),
        ("<|/tool_call|>", True, "holds a stray <|/tool_call|>"),
    ],
)
def test_marks_of_reasoning_and_tools_have_to_match(sealed, answer, is_ended, words):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(sealed / "tokenizer.json"))
    tokens = tokenizer.encode(answer, add_special_tokens=False).ids
    assert gate_model.stray(tokenizer, tokens, is_ended=is_ended) == words


def test_a_tag_that_is_spelt_as_text_is_red(sealed):
    from tokenizers import Tokenizer

    from hanse.tune.template import encode_text

    tokenizer = Tokenizer.from_file(str(sealed / "tokenizer.json"))
    tokens = encode_text(tokenizer, "Sure. </Think> Yes")
    assert gate_model.stray(tokenizer, tokens, is_ended=True) == "spells the tag '</think' as text"
    assert gate_model.stray(tokenizer, encode_text(tokenizer, "2 < 3, and 4 > 1"), is_ended=True) == ""


def test_a_model_that_answers_with_a_stray_tag_is_red(sealed):
    from tokenizers import Tokenizer

    mark = Tokenizer.from_file(str(sealed / "tokenizer.json")).token_to_id("</think>")
    weights = load_file(sealed / "model.safetensors")
    row = weights["model.embed_tokens.weight"].sum(0)
    found = []
    for head in (row, -row):  # the hidden state lies on one side or the other: there the mark is the likeliest token
        weights["lm_head.weight"] = torch.zeros_like(weights["lm_head.weight"])
        weights["lm_head.weight"][mark] = head
        save_file(weights, sealed / "model.safetensors", metadata={"format": "pt"})
        found += gate_model.clean_answers(sealed, ["Hej"])[0]
    assert any(each["what"] == "the answer to 'Hej' holds a stray </think>" for each in found)


def test_a_model_that_was_never_tuned_is_asked_nothing(sealed, published):
    assert gate_model.clean_answers(sealed, []) == ([], "not tuned on conversations, so no answers to look at")
    assert gate_files._questions(published.ledger) == [QUESTION]
