"""The tokenizer: exact round trips, control tokens that nobody can type, and a fair share for small languages."""

from __future__ import annotations

import gzip
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from library import CORPUS, new_work, record, run_curate, write_lines
from transformers import AutoTokenizer

from hanse.data.encoder import Encoder
from hanse.data.premium import measure, table
from hanse.data.tokenizer import (
    BEGIN_OF_TEXT,
    END_OF_TEXT,
    MAX_REPEATS,
    PAD,
    SPECIAL_TOKENS,
    Tokenizer,
    sample,
    share_out,
    train,
    train_tokenizer,
)
from hanse.errors import InputError
from hanse.recipe import Source
from hanse.recipe import Tokenizer as TokenizerSettings
from hanse.tune.template import SPECIAL_TOKENS as TEMPLATE_TOKENS


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder: Path) -> Tokenizer:
    return Tokenizer.load(tokenizer_folder)


def test_the_vocabulary_has_exactly_the_size_asked_for_and_control_tokens_come_first(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size == 340
    assert [tokenizer.id_of(token) for token in SPECIAL_TOKENS] == list(range(len(SPECIAL_TOKENS)))
    assert set(TEMPLATE_TOKENS) <= set(SPECIAL_TOKENS)


@settings(max_examples=300)
@given(text=st.text())
def test_every_string_comes_back_unchanged(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode_batch([text]) == [ids]
    assert not set(ids) & set(range(len(SPECIAL_TOKENS)))


@settings(max_examples=100)
@given(parts=st.lists(st.sampled_from(SPECIAL_TOKENS) | st.text(max_size=5), max_size=6))
def test_control_tokens_spelled_in_a_text_stay_text(tokenizer: Tokenizer, parts: list[str]) -> None:
    text = "".join(parts)
    ids = tokenizer.encode(text)
    assert not set(ids) & set(range(len(SPECIAL_TOKENS)))
    assert tokenizer.decode(ids) == text


@pytest.mark.skipif(not CORPUS.is_dir(), reason="the test corpus is not beside the repository")
def test_real_text_in_24_languages_comes_back_unchanged(tokenizer: Tokenizer) -> None:
    firsts = (gzip.decompress(path.read_bytes()).splitlines()[0] for path in sorted(CORPUS.glob("eusurvey.*.jsonl.gz")))
    texts = [json.loads(line)["text"][:5000] for line in firsts]
    assert len(texts) == 24
    assert [tokenizer.decode(ids) for ids in tokenizer.encode_batch(texts)] == texts


def test_control_tokens_are_read_when_asked_for(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("<|user|>Haus<|end_of_turn|>", special=True)
    assert ids[0] == tokenizer.id_of("<|user|>")
    assert ids[-1] == tokenizer.id_of("<|end_of_turn|>")
    assert ids[1:-1] == tokenizer.encode("Haus")


def test_transformers_loads_the_same_tokenizer(tokenizer: Tokenizer, tokenizer_folder: Path) -> None:
    theirs = AutoTokenizer.from_pretrained(tokenizer_folder)
    assert len(theirs) == tokenizer.vocab_size
    for text in ("Guten Morgen, Straße 123!", " to νερό\n\n\tx", "don't", "<|user|>Hi<|end_of_turn|>", "🙂🙂"):
        assert theirs(text)["input_ids"] == tokenizer.encode(text, special=True)
        assert theirs.decode(tokenizer.encode(text)) == text
    assert (theirs.bos_token, theirs.eos_token, theirs.pad_token) == (BEGIN_OF_TEXT, END_OF_TEXT, PAD)
    assert theirs.chat_template == "{{ messages }}"


def test_training_twice_gives_the_same_bytes(dataset: Path, tokenizer_folder: Path, tmp_path: Path) -> None:
    work = new_work(tmp_path)
    train_tokenizer(
        work, dataset, TokenizerSettings(vocab_size=340), chat_template="{{ messages }}", extra_texts=["Guten Tag!"]
    )
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "premium.json"):
        assert (work.folder / name).read_bytes() == (tokenizer_folder / name).read_bytes()


def test_a_vocabulary_larger_than_the_data_supports_names_the_largest(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"vocab_size: 100000 is larger than the data supports; set it to (\d+)"
    ) as caught:
        train_tokenizer(new_work(tmp_path), dataset, TokenizerSettings(vocab_size=100_000), chat_template="")
    largest = int(str(caught.value).split("set it to ")[1].split()[0])
    texts = sample(dataset, sample_bytes=200_000_000, temperature=2.0, seed=0)
    assert train(texts, largest).get_vocab_size() == largest
    with pytest.raises(InputError):
        train(texts, largest + 1)


def test_a_dataset_without_training_text_is_an_error(dataset: Path, tmp_path: Path) -> None:
    shutil.copytree(dataset, tmp_path / "dataset")
    for path in (tmp_path / "dataset" / "text").glob("train-*"):
        path.unlink()
    with pytest.raises(InputError, match="no training text"):
        train_tokenizer(new_work(tmp_path), tmp_path / "dataset", TokenizerSettings(vocab_size=340), chat_template="")


@pytest.mark.parametrize("content", [None, b"{}", b"\xff", b"[1]"])
def test_a_folder_without_a_tokenizer_is_an_error(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(InputError, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path)


@given(
    sizes=st.dictionaries(st.text(min_size=1, max_size=3), st.integers(1, 10**9), min_size=1, max_size=8),
    total=st.integers(1, 10**9),
    temperature=st.floats(1, 100),
)
def test_shares_stay_within_the_budget_and_the_repeats(sizes: dict[str, int], total: int, temperature: float) -> None:
    quotas = share_out(sizes, total, temperature)
    assert quotas.keys() == sizes.keys()
    assert sum(quotas.values()) <= min(total, sum(sizes.values())) + len(sizes)
    assert all(0 <= quota <= MAX_REPEATS * sizes[language] for language, quota in quotas.items())


def test_temperature_lifts_small_languages() -> None:
    sizes = {"de": 90_000, "mt": 10_000}
    assert share_out(sizes, 10_000, 1.0) == {"de": 9000, "mt": 1000}
    assert share_out(sizes, 10_000, 2.0) == {"de": 7500, "mt": 2500}


def test_the_sample_has_the_shares_and_takes_no_document_before_another_twice(tmp_path: Path) -> None:
    records = [record("de", n, text=f"{n:05d} " + "ä" * 497) for n in range(90)]
    records += [record("en", n, text=f"{n:05d} " + "e" * 994) for n in range(10)]
    path = write_lines(tmp_path / "a.jsonl", records)
    folder = run_curate(tmp_path, Source(name="a", kind="jsonl", path=str(path)), validation_share=0.0)
    texts = sample(folder, sample_bytes=20_000, temperature=2.0, seed=3)
    size = Counter[str]()
    for text in texts:
        size["de" if "ä" in text else "en"] += len(text.encode())
    assert abs(size["de"] - 15_000) <= 2
    assert abs(size["en"] - 5_000) <= 2
    assert max(Counter(text[:5] + text[-1] for text in texts).values()) == 1
    assert texts != sample(folder, sample_bytes=20_000, temperature=2.0, seed=4)


def test_the_premium_compares_documents_that_both_languages_have(dataset: Path, tokenizer: Tokenizer) -> None:
    class Letters:
        def lengths(self, texts: Sequence[bytes]) -> np.ndarray:
            return np.array([len(text.decode()) for text in texts])

    rows = {row["language"]: row for row in measure(Letters(), dataset)["languages"]}
    assert rows["en"]["premium"] == 1.0
    assert rows["de"]["basis"] == rows["el"]["basis"] == "parallel"
    assert rows["el"]["bytes_per_token"] > 1.5
    premium = measure(Encoder(tokenizer), dataset)
    assert json.loads(json.dumps(premium)) == premium
    lines = table(premium).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["de", "el", "en"]


def test_without_english_there_is_no_premium(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [record("de", n) for n in range(12)])
    folder = run_curate(tmp_path, Source(name="a", kind="jsonl", path=str(path)), languages=("de",))
    tokenizer = train(["der die das und"] * 3, 280)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    premium = measure(Encoder(Tokenizer.load(tmp_path)), folder)
    assert premium["languages"][0]["premium"] is None
    assert "-" in table(premium)
