"""Language identification: the library's own verdicts, batch by batch."""

from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from library import CORPUS, sentences

from hanse.data.language_id import LanguageIdentifier, _sample, agrees
from hanse.languages import LANGUAGES


@pytest.fixture(scope="module")
def identifier() -> LanguageIdentifier:
    return LanguageIdentifier(LANGUAGES)


def library_verdict(identifier: LanguageIdentifier, text: str) -> tuple[str, float]:
    code, score = identifier._model.classify(_sample(text))
    return ("nb" if code == "no" else code), score


@settings(max_examples=30)
@given(st.lists(st.text(max_size=300), max_size=40))
def test_a_batch_gets_the_verdicts_that_the_library_gives_one_by_one(texts: list[str]) -> None:
    identifier = LanguageIdentifier()
    for text, (code, score) in zip(texts, identifier.identify(texts), strict=True):
        expected_code, expected_score = library_verdict(identifier, text)
        assert score == pytest.approx(expected_score, abs=2e-3)
        assert code == expected_code or score < 0.02  # a tie among all languages


def test_verdicts_do_not_depend_on_the_neighbours_in_the_batch(identifier: LanguageIdentifier) -> None:
    texts = [sentences(language, n, words=n) for language in ("de", "en", "el") for n in range(1, 40)]
    assert identifier.identify(texts) == [identifier.identify([text])[0] for text in texts]


def test_real_documents_are_read_as_their_language(identifier: LanguageIdentifier) -> None:
    if not CORPUS.is_dir():
        pytest.skip("the corpus of real documents is not beside the checkout (../shared/corpus)")
    for code in LANGUAGES:
        texts = []
        for path in sorted(CORPUS.glob(f"*.{code}.jsonl.gz")):
            with gzip.open(path) as file:
                texts += [json.loads(line)["text"] for line, _ in zip(file, range(20), strict=False)]
        verdicts = identifier.identify(texts)
        assert verdicts == [(c, pytest.approx(s, abs=2e-3)) for c, s in (library_verdict(identifier, t) for t in texts)]
        assert sum(agrees(code, found) for found, _ in verdicts) >= 0.97 * len(texts)
