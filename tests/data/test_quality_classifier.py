"""The classifier learns to tell text from damaged text, the same way every time."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from library import WORDS

from hanse.data.quality.classifier import MIN_CHARACTERS, SLOT_BITS, Classifier, train
from hanse.data.quality.damage import DAMAGES, damaged
from hanse.errors import InputError

# Openings, subjects and predicates: sentences have an order that shuffled words lose.
PARTS = {
    "de": (("Am Morgen", "Im Winter", "Nach dem Regen", "Vor der Ernte"), ("sah der Müller", "fand die Tochter",
           "suchte mein Bruder", "hörte das Kind"), ("einen alten Brief.", "die weiße Katze.", "das Ende der Straße.")),
    "el": (("Το πρωί", "Τον χειμώνα", "Μετά τη βροχή", "Πριν από τη γιορτή"), ("ο γιατρός είδε", "η κόρη βρήκε",
           "το παιδί άκουσε"), ("ένα παλιό γράμμα.", "την άσπρη γάτα.", "το τέλος του δρόμου.")),
}  # fmt: skip


def story(language: str, number: int) -> str:
    pick = random.Random(f"{language} {number}")
    noun = pick.choice(WORDS[language])
    return " ".join(" ".join(pick.choice(part) for part in PARTS[language]) for _ in range(12)) + f" {noun.title()}."


@pytest.fixture(scope="module")
def trained() -> Classifier:
    return train([story(language, n) for language in PARTS for n in range(40)], seed=5, epochs=3)


@pytest.mark.parametrize("kind", sorted(set(DAMAGES) - {"repeated"}))
@pytest.mark.parametrize("language", PARTS)
def test_good_text_scores_above_damaged_text(trained: Classifier, language: str, kind: str) -> None:
    texts = [story(language, n) for n in range(100, 120)]
    spoiled = [damaged(text, kind, seed=9) for text in texts]
    good, bad = trained.score(texts), trained.score(spoiled)
    above = (good[:, None] > bad[None, :]).mean()
    assert above > 0.97, (above, good.mean(), bad.mean())


@given(st.lists(st.text(max_size=300), max_size=6))
def test_a_text_has_the_same_score_in_every_batch(trained: Classifier, texts: list[str]) -> None:
    together = trained.score(pa.array(texts, pa.string()))
    assert together.dtype == np.float32
    assert together.tolist() == [trained.score([text])[0] for text in texts]
    assert ((together >= 0) & (together <= 1)).all()


def test_the_score_is_the_logistic_function_of_the_mean_weight() -> None:
    flat = Classifier(np.full(2 << SLOT_BITS, 100, np.int16), step=0.01, bias=-1.0)  # 1 for each length of sequence
    assert flat.score(["abcde", "abcdef", "x" * 3000]).tolist() == pytest.approx([1 / (1 + np.exp(-1))] * 3, abs=1e-4)


def test_one_digit_stands_for_all(trained: Classifier) -> None:
    first, second = trained.score([story("de", 1) + " 1917, 38 Mark.", story("de", 1) + " 2026, 45 Mark."])
    assert first == second


def test_nothing_to_judge_scores_in_the_middle(trained: Classifier) -> None:
    assert trained.score([None, "", "abcd"]).tolist() == [0.5, 0.5, 0.5]
    assert len(trained.score([])) == 0


def test_a_long_text_is_judged_by_its_beginning_and_middle(trained: Classifier) -> None:
    text = " ".join(story("de", n) for n in range(40))
    assert trained.score([text])[0] == trained.score([text[:-2000] + "1" * 2000])[0]
    assert trained.score(["1" * 2000 + text[2000:]])[0] < trained.score([text])[0]


def test_training_again_gives_the_same_file(tmp_path: Path) -> None:
    texts = [story("de", n) for n in range(12)]
    for name in ("a", "b"):
        train(texts, seed=1, epochs=1).save(tmp_path / name)
    train(texts, seed=2, epochs=1).save(tmp_path / "c")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() != (tmp_path / "c").read_bytes()


def test_a_saved_classifier_scores_as_before(trained: Classifier, tmp_path: Path) -> None:
    trained.save(tmp_path / "quality.safetensors")
    texts = [story("de", 7), "x y z " * 100]
    assert Classifier.load(tmp_path / "quality.safetensors").score(texts).tolist() == trained.score(texts).tolist()


def test_what_is_no_classifier_is_refused(trained: Classifier, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    (tmp_path / "text").write_text("not safetensors")
    save_file({"weights": np.zeros(4, np.int16)}, tmp_path / "other", metadata={"format": "pt"})
    Classifier(trained.weights_N[:8].copy(), 1.0, 0.0).save(tmp_path / "small")
    complaints = {"text": "cannot be read", "absent": "cannot be read", "other": "no quality", "small": "another size"}
    for name, complaint in complaints.items():
        with pytest.raises(InputError, match=complaint):
            Classifier.load(tmp_path / name)


def test_too_few_texts_are_refused() -> None:
    with pytest.raises(InputError, match="9 texts"):
        train([story("de", n) for n in range(9)] + ["short"[: MIN_CHARACTERS - 1]] * 50, seed=1)


@pytest.mark.parametrize("kind", DAMAGES)
@given(text=st.text(max_size=200), seed=st.integers(0, 9))
def test_any_text_can_be_damaged_and_the_same_way_again(kind: str, text: str, seed: int) -> None:
    assert damaged(text, kind, seed=seed) == damaged(text, kind, seed=seed)
