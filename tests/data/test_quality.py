"""Features are what one would count by hand; rules catch damaged text and leave good text alone."""

from __future__ import annotations

import gzip
import json
import random
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from library import CORPUS

from hanse.data.quality import FEATURES, load_rules, measure, reasons
from hanse.data.quality.damage import damaged
from hanse.data.quality.measure import phrase_tables
from hanse.errors import InputError
from hanse.languages import LANGUAGES

# Paragraphs written for these tests, five sentences each.
PROSE = {
    "de": (
        "Am frühen Morgen ging die alte Frau zum Hafen hinunter, um nach den Schiffen zu sehen. Über dem Wasser "
        "lag noch der Nebel, und nur die Möwen waren schon wach. Ihr Sohn hatte versprochen, vor dem Winter "
        "zurückzukommen, aber der Herbst ging zu Ende, ohne dass ein Brief gekommen wäre. Sie setzte sich auf "
        "eine Kiste und wartete, wie sie es seit Wochen tat. Als die Glocke läutete, stand sie auf und ging "
        "langsam nach Hause."
    ),
    "en": (
        "The council met on the first Monday of the month to decide what should be done about the bridge. It had "
        "been closed since the flood, and the farmers on the far side of the river had to drive for an hour to "
        "reach the market. Some of the members wanted to repair it, while others thought that it would be cheaper"
        " to build a new one. In the end they agreed to ask an engineer for his opinion. Nobody was happy with "
        "that, but it was late."
    ),
    "el": (
        "Το χωριό βρίσκεται πάνω σε έναν λόφο και από την πλατεία του φαίνεται όλη η θάλασσα. Τα παλιά χρόνια οι "
        "κάτοικοι ζούσαν από το ψάρεμα και τις ελιές, αλλά σήμερα οι περισσότεροι δουλεύουν στην πόλη. Το "
        "καλοκαίρι επιστρέφουν για να δουν τους γονείς τους και να ξεκουραστούν. Τότε το καφενείο γεμίζει και η "
        "μουσική ακούγεται ως αργά. Μετά τον Αύγουστο όλα ησυχάζουν πάλι."
    ),
    "bg": (
        "Старият мост над реката беше построен от майстори, които дошли от планината преди повече от двеста "
        "години. Хората разказват, че първият камък е бил поставен през нощта, за да не види никой. Днес по него "
        "минават само пешеходци и няколко велосипеда, защото колите карат по новия път. През пролетта водата се "
        "покачва и тогава децата гледат как клоните се удрят в сводовете. Никой не помни мостът да е бил "
        "затварян."
    ),
    "fi": (
        "Kun lumi suli keväällä, kylän lapset juoksivat rantaan katsomaan, joko jää oli lähtenyt. Vanha kalastaja"
        " istui veneensä vieressä ja korjasi verkkoja, kuten hän oli tehnyt joka vuosi. Hän kertoi, että ennen "
        "talvet olivat pidempiä ja että järven yli ajettiin hevosella. Lapset eivät aina uskoneet häntä, mutta he"
        " kuuntelivat mielellään. Illalla kaikki palasivat kotiin, sillä tuuli oli vielä kylmä."
    ),
}  # fmt: skip


def one(text: str, language: str | None = None) -> dict[str, float]:
    """The features of one text."""
    return {name: float(values[0]) for name, values in measure(pa.array([text]), [language]).items()}


def verdict(text: str, language: str | None = None) -> list[str]:
    return reasons(measure(pa.array([text]), [language]), [language])[0]


# Letters, digits, signs and spaces of several scripts; what is irregular is counted by its class, and tested in
# test_wordstream.py.
texts = st.text(st.sampled_from("aeZŁéßščΣάЖїӏ漢ﬁ 019 \t\n\n..,-•*…»“—½¼€\u00a0\u202f\U0001f600"), max_size=120)


@given(texts)
def test_characters_are_counted_by_their_class(text: str) -> None:
    features = one(text)
    shown = [char for char in text if not char.isspace()]
    inside = [char for char in shown if unicodedata.category(char)[0] in "LMN"]
    digits = [char for char in shown if char in "0123456789"]
    letters = len(inside) - len(digits)
    assert features["characters"] == len(text)
    assert features["letters"] == pytest.approx(letters / max(len(shown), 1))
    assert features["digits"] == pytest.approx(len(digits) / max(len(shown), 1))
    assert features["symbols"] == pytest.approx((len(shown) - len(inside)) / max(len(shown), 1))
    assert features["uppercase"] == pytest.approx(sum(map(str.isupper, text)) / max(letters, 1))


@given(texts)
def test_lines_are_counted_as_one_would_count_them(text: str) -> None:
    features = one(text)
    lines = [line for line in text.split("\n") if any(unicodedata.category(char)[0] in "LMN" for char in line)]
    size = max(sum(map(len, lines)), 1)

    def is_open(line: str) -> bool:
        last = line.rstrip(" \t")[-1]
        return unicodedata.category(last)[0] in "LMN" or last == ","

    # More than 8 blanks at an end are not looked behind.
    if any(len(line) - len(line.strip(" \t")) > 6 for line in lines):
        return
    count = max(len(lines), 1)
    assert features["lines"] == len(lines)
    assert features["short_lines"] == pytest.approx(sum(len(line) < 30 for line in lines) / count)
    assert features["open_lines"] == pytest.approx(sum(map(is_open, lines)) / count)
    menu = sum(len(line) for line in lines if len(line) < 30 and is_open(line))
    assert features["menu_lines"] == pytest.approx(menu / size)
    stripped = [line.strip(" \t") for line in lines]
    assert features["ellipsis_lines"] == pytest.approx(sum(line.endswith(("...", "…")) for line in stripped) / count)
    bullets = sum(line.startswith(("•", "- ", "* ")) for line in stripped)
    assert features["bullet_lines"] == pytest.approx(bullets / count)


@given(st.lists(st.sampled_from(["eins", "Zwei drei", "zwei, DREI", "fünf", "--", ""]), max_size=20))
def test_repeated_lines_are_counted_by_characters_whatever_their_case_and_punctuation(lines: list[str]) -> None:
    seen: set[tuple[str, ...]] = set()
    repeated = total = 0
    for line in lines:
        words = tuple(line.casefold().replace(",", "").replace("-", "").split())
        if words:
            repeated += len(line) if words in seen else 0
            total += len(line)
            seen.add(words)
    assert one("\n".join(lines))["duplicate_lines"] == pytest.approx(repeated / max(total, 1))


@given(seed=st.integers(0, 2**32), size=st.integers(200, 500), period=st.integers(20, 400))
def test_repetition_is_the_share_of_word_sequences_seen_before(seed: int, size: int, period: int) -> None:
    drawn = random.Random(seed).choices("abcdef", k=period)
    words = [drawn[i % period] for i in range(size)]
    runs = [tuple(words[i : i + 5]) for i in range(len(words) - 4)]
    # Linear counting with four slots a run: its standard error here is 0.02 at most.
    assert one(" ".join(words))["repetition"] == pytest.approx(1 - len(set(runs)) / len(runs), abs=0.1)


@given(st.lists(texts, max_size=12))
def test_a_document_has_the_same_features_in_every_batch(batch: list[str]) -> None:
    languages = ["de", None, "el"] * 4
    together = measure(pa.array(batch, pa.string()), languages[: len(batch)])
    for place, text in enumerate(batch):
        alone = measure(pa.array([text]), [languages[place]])
        assert {name: values[place] for name, values in together.items()} == {n: v[0] for n, v in alone.items()}


def test_stop_words_are_those_of_the_language() -> None:
    assert one("Der Hund und die Katze", "de")["stop_words"] == pytest.approx(3 / 5)
    assert one("Der Hund und die Katze", "el")["stop_words"] == 0
    assert one("Η γάτα ΚΑΙ ο σκύλος", "el")["stop_words"] == pytest.approx(3 / 5)
    assert one("Der Hund und die Katze", "xx")["stop_words"] >= 3 / 5  # nobody's language: those of all


def test_every_language_has_stop_words_and_boilerplate() -> None:
    tables = phrase_tables()
    assert set(tables.bits) == set(LANGUAGES)
    for code, bit in tables.bits.items():
        assert (tables.stops & bit > 0).sum() >= 20, code
        assert (tables.notices & bit > 0).sum() + (tables.pair_notices & bit > 0).sum() > 5, code


def test_boilerplate_lines_are_found_in_their_language_only() -> None:
    text = "Wir verwenden Cookies.\nAlle Rechte vorbehalten.\nDas Haus steht am Fluss.\n"
    assert one(text, "de")["boilerplate_lines"] == pytest.approx(46 / 70, abs=0.01)
    assert one(text, "fr")["boilerplate_lines"] == pytest.approx(22 / 70, abs=0.01)  # cookies are cookies anywhere
    assert one("Velik kakor hiša je bil.", "sl")["boilerplate_lines"] == 0  # Swedish for cookies, Slovenian for as


def test_a_phrase_does_not_reach_from_one_document_into_the_next() -> None:
    features = measure(pa.array(["all rights", "reserved for you", "rights reserved"]), ["en"] * 3)
    assert features["boilerplate_lines"].tolist() == [0, 0, 1]


def test_a_paragraph_about_cookies_is_no_cookie_notice() -> None:
    assert one(PROSE["en"] + " They ate cookies.", "en")["boilerplate_lines"] == 0


@pytest.mark.parametrize("language", PROSE)
def test_prose_gets_no_reason(language: str) -> None:
    assert verdict(PROSE[language], language) == []


@pytest.mark.parametrize("language", PROSE)
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("repeated", {"quality-duplicate-lines"}),
        ("menu", {"quality-stop-words", "quality-menu"}),
        ("keywords", {"quality-stop-words"}),
        ("numbers", {"quality-digits"}),
        ("code", {"quality-symbols"}),
        ("mojibake", {"quality-mojibake"}),
    ],
)
def test_damaged_text_gets_a_reason(language: str, kind: str, expected: set[str]) -> None:
    if kind == "mojibake" and language == "en":
        pytest.skip("nothing outside ASCII that could be read wrongly")
    for seed in range(5):
        text = damaged(PROSE[language] * 2, kind, seed=seed)
        # A menu between bars, all in one line, is left to the classifier.
        assert expected & set(verdict(text, language)) or (kind == "menu" and "\n" not in text), seed


@given(st.text(max_size=199), st.sampled_from([None, *LANGUAGES]))
def test_a_short_text_never_gets_a_reason(text: str, language: str | None) -> None:
    assert verdict(text, language) == []


@pytest.mark.parametrize(
    "text",
    ["a" * 10**7, "1" * 10**7, "(" * 10**7, "@" * 10**6, "\n" * 10**6, "é" * 10**6, "a " * 10**6, "a\n" * 10**6],
    ids=lambda text: f"{len(text)} bytes of {text[:2]!r}",
)
def test_hostile_text_is_measured(text: str) -> None:
    features = measure(pa.array(["before", text, None, "", "after"]))
    assert all(np.isfinite(values).all() and len(values) == 5 for values in features.values())
    assert features["words"][[0, 2, 3, 4]].tolist() == [1, 0, 0, 1]
    if "\n" not in text:
        assert reasons(features, [None] * 5)[1] != []


def test_a_long_document_is_measured_by_its_beginning() -> None:
    features = measure(pa.array(["word " * 2_000_000]))
    assert 4 * 2**20 - 100 < features["characters"][0] <= 4 * 2**20


def test_no_document_is_measured_as_nothing() -> None:
    features = measure(pa.array([], pa.string()))
    assert tuple(features) == FEATURES
    assert all(values.dtype == np.float32 and len(values) == 0 for values in features.values())
    assert reasons(features, []) == []


def test_many_empty_documents_are_measured() -> None:
    features = measure(pa.array([""] * 200_000))
    assert not any(values.any() for values in features.values())


def test_a_language_can_have_its_own_limit(tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text('[[rule]]\nreason = "quality-x"\nfeature = "words"\nabove = 3\nlanguages = { de = 1, el = nan }\n')
    features = measure(pa.array(["eins zwei"] * 3 + ["a b c d"] * 3))
    assert reasons(features, ["de", "el", None] * 2, load_rules(path)) == [
        ["quality-x"],
        [],
        [],
        ["quality-x"],
        [],
        ["quality-x"],
    ]


@pytest.mark.parametrize(
    ("rule", "complaint"),
    [
        ('reason = "x"\nfeature = "words"\nabove = 1', "begins with 'quality-'"),
        ('reason = "quality-x"\nfeature = "wrods"\nabove = 1', "'feature' is none of"),
        ('reason = "quality-x"\nfeature = "words"', "either 'above' or 'below'"),
        ('reason = "quality-x"\nfeature = "words"\nabove = "1"', "not a number"),
        ('reason = "quality-x"\nfeature = "words"\nabove = 1\nfrom_words = 2', "unknown key 'from_words'"),
        ("reason = ", "is not valid TOML"),
    ],
)
def test_a_rule_that_cannot_be_applied_is_refused(tmp_path: Path, rule: str, complaint: str) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(f"[[rule]]\n{rule}\n")
    with pytest.raises(InputError, match=complaint):
        load_rules(path)


def test_every_rule_of_ours_says_where_its_limit_comes_from() -> None:
    assert all(rule.basis and rule.from_characters >= 200 for rule in load_rules())


@pytest.mark.skipif(not CORPUS.exists(), reason="the corpus of real documents is not beside the repository")
def test_hardly_any_real_document_gets_a_reason() -> None:
    dropped = {}
    for path in sorted(CORPUS.glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            documents = [json.loads(line)["text"] for _, line in zip(range(25), file, strict=False)]
        language = path.name.split(".")[1]
        found = reasons(measure(pa.array(documents), [language] * len(documents)), [language] * len(documents))
        dropped[path.name] = (sum(map(bool, found)), len(documents))
    assert sum(count for count, _ in dropped.values()) <= 0.015 * sum(size for _, size in dropped.values()), dropped
