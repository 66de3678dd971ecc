"""Bits per byte: known values for known models, and no effect of how the work is cut up."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hanse.errors import InputError
from hanse.evaluate import bits_per_byte
from hanse.evaluate.bits_per_byte import Document, bits, choose, measure, windows
from hanse.model.transformer import Transformer


class Uniform(nn.Module):
    """Holds every token for equally likely."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.config = SimpleNamespace(max_position_embeddings=16, vocab_size=vocabulary)
        self.weight = nn.Parameter(torch.zeros(vocabulary, 4))

    def forward(self, tokens_BT: torch.Tensor, documents_BT: torch.Tensor) -> torch.Tensor:
        return torch.randn(*tokens_BT.shape, 4)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden @ self.weight.T


class Successor(Uniform):
    """Gives the number after the one it sees probability 3/4, and shares the rest evenly."""

    def forward(self, tokens_BT: torch.Tensor, documents_BT: torch.Tensor) -> torch.Tensor:
        return tokens_BT[..., None]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        size = len(self.weight)
        probabilities = torch.full((len(hidden), size), 0.25 / (size - 1))
        return probabilities.scatter(1, (hidden + 1) % size, 0.75).log()


def documents(*lengths: int, seed: int = 0) -> list[Document]:
    """Documents of so many tokens, each after one that opens it."""
    generator = np.random.default_rng(seed)
    return [
        Document(str(number), "mt", "atlas", generator.integers(0, 256, length + 1), 3 * length)
        for number, length in enumerate(lengths)
    ]


def test_a_uniform_model_needs_log2_of_the_vocabulary_for_every_token() -> None:
    texts = documents(1, 5, 16, 17, 100)
    found = bits(cast(Any, Uniform(300)), texts)
    assert found == pytest.approx([length * math.log2(300) for length in (1, 5, 16, 17, 100)], rel=1e-6)
    values = [item.numerator / item.denominator for item in measure(texts, found)]
    assert values == pytest.approx([math.log2(300) / 3] * 5, rel=1e-6)


def test_each_token_is_predicted_from_the_one_before_and_the_first_from_the_one_that_opens() -> None:
    counting = Document("a", "en", "s", np.arange(20, dtype=np.int64), 20)
    stumbling = Document("b", "en", "s", np.array([7, 8, 10, 11], dtype=np.int64), 4)
    right, wrong = -math.log2(0.75), -math.log2(0.25 / 299)
    found = bits(cast(Any, Successor(300)), [counting, stumbling])
    assert found == pytest.approx([19 * right, 2 * right + wrong], rel=1e-5)


@given(length=st.integers(1, 300), context=st.integers(1, 64))
def test_windows_count_every_token_once_within_the_context(length: int, context: int) -> None:
    cut = list(windows(7, length, context=context))
    counted = [place for window in cut for place in range(window.counted, window.end)]
    assert counted == list(range(length))
    assert all(0 < window.size <= context and window.document == 7 for window in cut)
    assert all(window.counted - window.begin >= context // 4 for window in cut[1:-1])
    assert len(cut) == 1 or length > context


def nats(model: Transformer, tokens: np.ndarray) -> torch.Tensor:
    """-log p of each token but the first, by one plain forward pass."""
    fed = torch.from_numpy(tokens)
    with torch.inference_mode():
        log_p = torch.log_softmax(model.logits(model(fed[None, :-1]))[0].double(), -1)
    return -log_p.gather(1, fed[1:, None])[:, 0]


def alone(model: Transformer, document: Document) -> float:
    """Bits of a document that fits the context."""
    return float(nats(model, document.tokens).sum()) / math.log(2)


def test_documents_that_fit_give_the_same_value_packed_as_alone(model: Transformer) -> None:
    texts = documents(1, 1, 128, 40, 7, 40, 100, 3)
    assert bits(model, texts) == pytest.approx([alone(model, text) for text in texts], rel=1e-5)


def test_small_batches_do_not_change_the_value(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = documents(30, 200, 5, 64, 64, 1)
    whole = bits(model, texts)
    monkeypatch.setattr(bits_per_byte, "BATCH_TOKENS", 70)
    monkeypatch.setattr(bits_per_byte, "LOGIT_ROWS", 7)
    assert bits(model, texts) == pytest.approx(whole, rel=1e-5)


def test_a_context_as_long_as_the_document_changes_nothing_and_a_shorter_one_does(model: Transformer) -> None:
    text = documents(61)
    reference = bits(model, text)
    assert bits(model, text, context=61) == pytest.approx(reference, rel=1e-6)
    assert abs(bits(model, text, context=8)[0] - reference[0]) > 1e-3


def test_each_window_reads_the_text_that_stands_before_what_it_predicts(model: Transformer) -> None:
    (text,) = documents(50)
    expected = 0.0
    for window in windows(0, 50, context=16):
        found = nats(model, text.tokens[window.begin : window.end + 1])
        expected += float(found[window.counted - window.begin :].sum()) / math.log(2)
    assert bits(model, [text], context=16) == pytest.approx([expected], rel=1e-6)


# --------------------------------------------------------------------------- which documents


def shards(folder: Path, texts: dict[str, list[int]], *, dtype: str = "uint16") -> Path:
    """A shards artifact with documents of so many tokens each, every token the byte `a`, the last one the end token."""
    rows: list[dict[str, Any]] = []
    (folder / "validation").mkdir(parents=True)
    for language, lengths in texts.items():
        offset = 0
        for number, length in enumerate(lengths):
            rows.append({"id": f"{language}-{number}", "language": language, "source": "atlas", "split": "validation"})
            rows[-1] |= {"offset": offset, "tokens": length, "bytes": length - 1}
            offset += length
        ids = np.concatenate([[97] * (length - 1) + [256] for length in lengths])
        (folder / "validation" / f"{language}.bin").write_bytes(ids.astype(dtype).tobytes())
    rows.append(
        {"id": "x", "language": "mt", "source": "atlas", "split": "train", "offset": 0, "tokens": 9, "bytes": 8}
    )
    pq.write_table(pa.Table.from_pylist(rows), folder / "index.parquet")
    counts = {language: {"tokens": sum(lengths)} for language, lengths in texts.items()}
    facts = {"dtype": dtype, "vocab_size": 272, "end_of_text": 256, "splits": {"validation": counts}}
    (folder / "shards.json").write_text(json.dumps(facts))
    return folder


SIZES = [1] * 256 + [0] * 16


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_documents_are_read_whole_with_the_bytes_of_their_text(tmp_path: Path, dtype: str) -> None:
    found = choose(
        shards(tmp_path, {"mt": [5, 9], "el": [3]}, dtype=dtype), bytes_per_language=100, seed=0, sizes=SIZES
    )
    assert sorted((d.id, d.language, len(d.tokens), d.bytes) for d in found) == [
        ("el-0", "el", 4, 2),
        ("mt-0", "mt", 6, 4),
        ("mt-1", "mt", 10, 8),
    ]
    assert all(d.tokens[0] == d.tokens[-1] == 256 for d in found)


def test_the_choice_stops_at_the_bytes_and_depends_on_the_seed_alone(tmp_path: Path) -> None:
    folder = shards(tmp_path, {"mt": [11] * 50})
    chosen = [[d.id for d in choose(folder, bytes_per_language=95, seed=seed, sizes=SIZES)] for seed in (1, 1, 2)]
    assert [len(ids) for ids in chosen] == [10, 10, 10]
    assert chosen[0] == chosen[1] != chosen[2]


def test_a_very_long_document_is_cut_at_a_token_and_its_bytes_with_it(tmp_path: Path) -> None:
    folder = shards(tmp_path, {"mt": [30_001]})
    (document,) = choose(folder, bytes_per_language=100_000, seed=0, sizes=[2] * 256 + [0] * 16)
    assert (len(document.tokens), document.bytes) == (10_001, 20_000)


def test_an_index_that_promises_more_than_the_file_holds_is_refused(tmp_path: Path) -> None:
    folder = shards(tmp_path, {"mt": [11] * 3})
    index = pq.read_table(folder / "index.parquet")
    longer = pa.array([length + 1 for length in index["tokens"].to_pylist()])
    pq.write_table(index.set_column(index.column_names.index("tokens"), "tokens", longer), folder / "index.parquet")
    with pytest.raises(InputError, match=r"does not fit index\.parquet"):
        choose(folder, bytes_per_language=1000, seed=0, sizes=SIZES)


def test_shards_made_with_a_larger_vocabulary_than_the_models_tokenizer_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not fit"):
        choose(shards(tmp_path, {"mt": [11]}), bytes_per_language=1000, seed=0, sizes=SIZES[:100])
