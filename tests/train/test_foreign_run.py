"""A model that transformers computes goes through the same loop as our own: same optimizer, checkpoints, promises."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from toy import toy_batch_at, toy_train, weights_digest

from hanse.data.loader import Batch
from hanse.errors import Interrupted
from hanse.model import hf

transformers = pytest.importorskip("transformers")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = transformers.LlamaConfig(
        vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=32, tie_word_embeddings=True,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


def test_it_learns_and_a_run_that_was_stopped_ends_in_the_same_weights(folder: Path, tmp_path: Path) -> None:
    straight, stopped, resumed = (hf.load(folder) for _ in range(3))
    summary = toy_train(tmp_path / "straight", model=straight, steps=30)
    assert summary.loss_last < summary.loss_first - 0.5

    def stopping(step: int) -> list[Batch]:
        if step == 12:
            os.kill(os.getpid(), signal.SIGTERM)
        return toy_batch_at(step)

    with pytest.raises(Interrupted):
        toy_train(tmp_path / "run", model=stopped, batch_at=stopping, steps=30)
    toy_train(tmp_path / "run", model=resumed, steps=30)
    assert weights_digest(resumed) == weights_digest(straight)


def test_what_was_trained_is_read_by_transformers(folder: Path, tmp_path: Path) -> None:
    model = hf.load(folder)
    toy_train(tmp_path / "run", model=model, steps=5)
    hf.save(model, tmp_path / "saved")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    batch = toy_batch_at(0)[0]
    ours = model.logits(model(batch.tokens_BT, batch.documents_BT))
    assert (ours - again(batch.tokens_BT).logits).abs().max() < 1e-4
