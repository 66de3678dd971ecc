"""The fast encoder gives the ids of the slow one, and steps aside where it cannot."""

from __future__ import annotations

import gzip
import json
import sys
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from library import CORPUS

from hanse.data import encoder as module
from hanse.data.encoder import Encoded, Encoder, in_context, probes
from hanse.data.tokenizer import SPECIAL_TOKENS, Tokenizer, train


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder: Path) -> Tokenizer:
    return Tokenizer.load(tokenizer_folder)


@pytest.fixture(scope="module")
def encoder(tokenizer: Tokenizer) -> Encoder:
    found = Encoder(tokenizer)
    assert found.engine.startswith("gigatoken "), "the fast engine is what these tests are about"
    return found


def rows(encoded: Encoded) -> list[list[int]]:
    """The ids of each text."""
    return [part.tolist() for part in np.split(encoded.ids, np.cumsum(encoded.lengths))[:-1]]


def assert_same(tokenizer: Tokenizer, encoder: Encoder, texts: list[str]) -> None:
    assert rows(encoder.encode([text.encode() for text in texts])) == tokenizer.encode_batch(texts)


@settings(max_examples=100, deadline=None)
@given(texts=st.lists(st.text(), max_size=4))
def test_any_texts_get_the_ids_of_the_slow_encoder(tokenizer: Tokenizer, encoder: Encoder, texts: list[str]) -> None:
    assert_same(tokenizer, encoder, texts)


@settings(max_examples=300, deadline=None)
@given(text=st.text(st.sampled_from("aAé'sSlLdDtTmMrRevV’ \n\r\t\u00a09½.,!<|>ſ中🙂\u0301"), max_size=60))
def test_texts_on_the_edges_of_the_split_get_the_same_ids(tokenizer: Tokenizer, encoder: Encoder, text: str) -> None:
    assert_same(tokenizer, encoder, [text])


@settings(max_examples=100, deadline=None)
@given(parts=st.lists(st.sampled_from(SPECIAL_TOKENS) | st.text(max_size=5), max_size=6))
def test_control_tokens_in_a_text_are_text_to_both(tokenizer: Tokenizer, encoder: Encoder, parts: list[str]) -> None:
    (ids,) = rows(encoder.encode(["".join(parts).encode()]))
    assert ids == tokenizer.encode("".join(parts))
    assert not set(ids) & set(range(len(SPECIAL_TOKENS)))


@pytest.mark.skipif(not CORPUS.is_dir(), reason="the test corpus is not beside the repository")
def test_real_text_in_every_language_gets_the_same_ids() -> None:
    texts = []
    for path in sorted(CORPUS.glob("*.jsonl.gz")):
        with gzip.open(path) as lines:
            texts.append(json.loads(next(lines))["text"][:4000])
    assert len(texts) > 80
    learnt = Tokenizer(train(texts, 1500).to_str())
    assert_same(learnt, Encoder(learnt), texts)


def test_the_probes_hold_the_borders_of_every_kind_of_character() -> None:
    text = b" ".join(probes()).decode()
    assert {"ß", "ħ", "ſ", "Α", "Щ", "\u0300", "²", "½", "٠", "\u2028", "\ufeff", "𝔘", "🙂", "\x7f"} <= set(text)
    assert 4000 < len(set(text)) < 10_000


@pytest.mark.slow
def test_every_character_of_unicode_gets_the_same_ids(tokenizer: Tokenizer, encoder: Encoder) -> None:
    known = [c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c) not in ("Cn", "Co", "Cs")]
    assert len(known) > 140_000
    assert_same(tokenizer, encoder, in_context(known))


def refused(tokenizer: Tokenizer, reason: str) -> None:
    """The encoder warns with this reason, and encodes all the same."""
    with pytest.warns(UserWarning, match=reason):
        slow = Encoder(tokenizer)
    assert slow.engine.startswith("tokenizers ")
    texts = ["Guten Tag! <|user|>", "", "über 12345"]
    assert_same(tokenizer, slow, texts)
    assert slow.encode([b"a"]).ids.dtype == np.uint32


def test_without_gigatoken_the_slow_engine_serves(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gigatoken.gigatoken_rs", None)
    refused(tokenizer, "cannot be imported")


def test_a_tokenizer_that_gigatoken_does_not_know_is_left_to_the_slow_engine(tokenizer: Tokenizer) -> None:
    definition = json.loads(tokenizer.hf.to_str())
    definition["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {"Regex": r"\w+|\W+"}
    refused(Tokenizer(json.dumps(definition)), "does not take this tokenizer")


def test_other_ids_on_a_single_probe_are_enough_to_refuse(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = module._load_fast

    def load_wrong(definition: str):
        honest = load(definition)

        def encode(texts):
            encoded = honest(texts)
            return Encoded(np.append(encoded.ids[:-1], np.uint32(300)), encoded.lengths)

        return encode

    monkeypatch.setattr(module, "_load_fast", load_wrong)
    refused(tokenizer, "other ids on the probes")


def test_a_renewed_engine_goes_on_alike(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []
    load = module._load_fast

    def counted(definition: str):
        loads.append(definition)
        return load(definition)

    monkeypatch.setattr(module, "_load_fast", counted)
    monkeypatch.setattr(module, "RENEW_BYTES", 100)
    encoder = Encoder(tokenizer)
    texts = [f"Text {number} über das Haus" for number in range(50)]
    assert [rows(encoder.encode([text.encode()]))[0] for text in texts] == tokenizer.encode_batch(texts)
    assert len(loads) > 5


def test_a_good_engine_is_taken_without_a_word(tokenizer: Tokenizer) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Encoder(tokenizer).lengths([b"", b"a"]).tolist() == [0, 1]
