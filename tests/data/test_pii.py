"""What is found as personal data, where exactly, and what is left alone."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanse.data.pii import signs
from hanse.data.pii.detect import Detector
from hanse.data.pii.finding import CHECKED, CONTEXT, Candidate, Finding, resolve
from hanse.data.pii.rules import Words, national_check, national_numbers
from hanse.languages import EU24, LANGUAGES


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(LANGUAGES)


def found(detector: Detector, text: str, language: str | None = "en") -> list[tuple[str, str]]:
    return [(f.kind, text[f.start : f.end]) for f in detector.find(text, language)]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Schreiben Sie an max.muster+x@firma.de.", "max.muster+x@firma.de"),
        ("<a href=mailto:o'neill@mail.eu.int>", "o'neill@mail.eu.int"),
        ("jörg@müller.de,", "jörg@müller.de"),
        ("Γράψτε στο μαρία@παράδειγμα.ελ!", "μαρία@παράδειγμα.ελ"),
        ("(anna@xn--mller-kva.xn--p1ai)", "anna@xn--mller-kva.xn--p1ai"),
        ("anna (at) firma (punkt) de bitte", "anna (at) firma (punkt) de"),
        ("anna[at]firma.de", "anna[at]firma.de"),
        ("😀anna@firma.de😀", "anna@firma.de"),
    ],
)
def test_an_email_address_is_found_with_exact_offsets(detector: Detector, text: str, value: str) -> None:
    assert found(detector, text) == [("email", value)]


@pytest.mark.parametrize(
    "text",
    [
        "icon@2x.png", "npm install lodash@4.17.21", "@media print", "user@localhost", "a @ b.de", "anna@example.com",
        "anna@mail.example.org", "x@host.invalid", "memcpy@GLIBC_2.2.5", "git@github.com:hanse/hanse.git", "@anna.de",
        "meet (at) noon. then go",
    ],
)  # fmt: skip
def test_what_only_looks_like_an_email_address_is_left_alone(detector: Detector, text: str) -> None:
    assert found(detector, text) == []


@pytest.mark.parametrize(
    ("text", "findings"),
    [
        ("login from 85.214.132.117 failed", [("ipv4", "85.214.132.117")]),
        ("http://85.14.32.17:8080/x", [("ipv4", "85.14.32.17")]),
        ("the DNS server 9.9.9.9 answers", [("ipv4", "9.9.9.9")]),
        ("ping 2a02:908:1234:5600::17 now", [("ipv6", "2a02:908:1234:5600::17")]),
        ("[2001:67c:2e8:22::c100:68b]:443", [("ipv6", "2001:67c:2e8:22::c100:68b")]),
        ("version 1.2.3.4", []),
        ("v131.0.200.12", []),
        ("see 3.2.1.4 above", []),
        ("10.0.0.1 192.168.1.20 127.0.0.1 172.16.3.4", []),
        ("192.0.2.17, 198.51.100.3 and 203.0.113.9 are for documents", []),
        ("224.0.0.251 240.1.2.3 255.255.255.255", []),
        ("1.3.6.1.4.1.311.21.20", []),
        ("256.300.1.2 and 085.214.132.117", []),
        ("01.02.2003 12:30:45 std::vector a::b", []),
        ("2001:db8::1 fe80::1 ::1 3fff::17", []),
        ("00:1b:44:11:3a:b7", []),
    ],
)
def test_only_public_ip_addresses_are_personal(detector: Detector, text: str, findings: list[tuple[str, str]]) -> None:
    assert found(detector, text) == findings


@pytest.mark.parametrize(
    ("text", "findings"),
    [
        ("IBAN DE89 3704 0044 0532 0130 00 BIC COBADEFF", [("iban", "DE89 3704 0044 0532 0130 00")]),
        ("DE89370400440532013000.", [("iban", "DE89370400440532013000")]),
        ("GB82 WEST 1234 5698 7654 32", [("iban", "GB82 WEST 1234 5698 7654 32")]),
        ("MT84MALT011000012345MTLCAST001S", [("iban", "MT84MALT011000012345MTLCAST001S")]),
        ("ref AB12 DE89 3704 0044 0532 0130 00", [("iban", "DE89 3704 0044 0532 0130 00")]),
        ("DE88 3704 0044 0532 0130 00", []),
        ("DE89 3704 0044 0532 0130 001", []),
        ("XX00BCDFGHJKLMNPQRST", []),
        ("pay with 4111 1111 1111 1111 today", [("card", "4111 1111 1111 1111")]),
        ("credit card 4111111111111111", [("card", "4111111111111111")]),
        ("Amex 3782 822463 10005", [("card", "3782 822463 10005")]),
        ("order 4111111111111111", []),
        ("4111 1111 1111 1112", []),
        ("9111 1111 1111 1111", []),
        ("1 4111 1111 1111 1111 2", []),
    ],
)
def test_accounts_and_cards_need_their_check_digits(
    detector: Detector, text: str, findings: list[tuple[str, str]]
) -> None:
    assert found(detector, text) == findings
    assert all(f.checksum for f in detector.find(text, "en"))


@pytest.mark.parametrize(
    ("language", "text", "value"),
    [
        ("en", "write to +49 30 901820 or", "+49 30 901820"),
        ("de", "Tel.: 030 901820", "030 901820"),
        ("de", "Telefon (030) 90 18 20, 2. Stock", "(030) 90 18 20"),
        ("de", "oder 030 901820 am Abend", "030 901820"),
        ("fr", "Appelez le 01 42 34 56 78 avant midi", "01 42 34 56 78"),
        ("es", "teléfono 912 345 678", "912 345 678"),
        ("pl", "tel. 601 234 567", "601 234 567"),
        ("da", "tlf. 33 12 34 56", "33 12 34 56"),
        ("el", "τηλ. 210 3456789", "210 3456789"),
        ("bg", "тел. 02 981 1234", "02 981 1234"),
        ("hu", "telefon: 06 1 234 5678", "06 1 234 5678"),
        (None, "phone 030 901820", "030 901820"),
    ],
)
def test_a_telephone_number_is_read_by_its_countrys_plan(
    detector: Detector, language: str | None, text: str, value: str
) -> None:
    assert found(detector, text, language) == [("phone", value)]


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("de", "Tel. am 01.02.2003"),
        ("pl", "suma 601 234 567 zł"),
        ("de", "Bestellnummer 4711081512"),
        ("en", "+999123456789012"),
        ("en", "from 1939-1945 and 1914-1918"),
        ("de", "ISBN 978-3-16-148410-0"),
        ("en", "1234567 call <phone>"),
        ("da", "12 34 56 78"),
    ],
)
def test_dates_sums_and_orders_are_no_telephone_numbers(detector: Detector, language: str, text: str) -> None:
    assert found(detector, text, language) == []


@pytest.mark.parametrize(
    ("language", "text", "values"),
    [
        ("de", "Telefon +49 30 901820. Rechnung Nr. 4711081512", ["+49 30 901820"]),
        ("pl", "tel. 601 234 567 lub 602 345 678", ["601 234 567", "602 345 678"]),
        ("pl", "tel. 601 234 567, zamówienie 602 345 678", ["601 234 567"]),
        ("hu", "a 06201234567 telefonszámon", ["06201234567"]),
        ("hu", "a 06201234567 tétel. Telefon", []),
    ],
)
def test_a_word_speaks_of_one_number_or_of_two_that_stand_together(
    detector: Detector, language: str, text: str, values: list[str]
) -> None:
    assert found(detector, text, language) == [("phone", value) for value in values]


VALID = {
    "Versicherungsnummer": "1237 010180",
    "Abgabenkontonummer": "59-119/9013",
    "Rijksregisternummer, numéro de registre national": "85.07.30-033.28",
    "ЕГН": "7523169263",
    "ЛНЧ": "7111042925",
    "Αριθμός Φορολογικής Ταυτότητας": "00123456X",
    "rodné číslo": "710319/2745",
    "Steuerliche Identifikationsnummer": "36 574 261 809",
    "CPR-nummer": "211062-5629",
    "isikukood": "36805280109",
    "DNI": "54362315K",
    "NIE": "X2482300W",
    "NIF of minors, expatriates and foreigners": "M1234567L",
    "henkilötunnus": "131052-308T",
    "NIR (numéro de sécurité sociale)": "2 95 10 99 126 111 93",
    "numéro fiscal de référence": "30 23 217 600 053",
    "ΑΜΚΑ": "01013099997",
    "ΑΦΜ": "094259216",
    "OIB": "33392005961",
    "TAJ-szám": "123 456 788",
    "adóazonosító jel": "8071592153",
    "személyi azonosító": "1-800101-1234",
    "PPS number, UPSP": "6433435F",
    "codice fiscale": "RCCMNL83S18D969H",
    "asmens kodas": "33309240064",
    "matricule": "1980 01 01 123 45",
    "personas kods": "010180-12345",
    "karta tal-identità": "0123456M",
    "burgerservicenummer": "1112.22.333",
    "PESEL": "44051401359",
    "NIF (número de contribuinte)": "123456789",
    "cartão de cidadão": "00000000 0 ZZ4",
    "CNP": "1630615123457",
    "personnummer": "880320-0016",
    "EMŠO": "0101006500006",
    "davčna številka": "15012557",
}


@pytest.mark.parametrize("number", national_numbers(), ids=lambda n: f"{n['country']}-{n['name']}")
def test_every_national_number_is_found_beside_its_name(detector: Detector, number: dict[str, str]) -> None:
    value = VALID[number["name"]]
    word = number["words"][0].replace("*", "")
    language = number["languages"][0]
    findings = detector.find(f"{word}: {value}.", language)
    start = len(word) + 2
    checksum = "module" in number and number.get("checksum", True)
    assert findings == [Finding(f"national-id-{number['country']}", start, start + len(value), bool(checksum))]


@pytest.mark.parametrize("number", [n for n in national_numbers() if "written" in n], ids=lambda n: n["name"])
def test_a_particular_form_needs_no_name_at_home(detector: Detector, number: dict[str, str]) -> None:
    value = VALID[number["name"]]
    assert found(detector, f"so {value} so", number["languages"][0]) == [(f"national-id-{number['country']}", value)]
    assert found(detector, f"so {value} so", "lt") == []


@pytest.mark.parametrize("number", [n for n in national_numbers() if "written" not in n], ids=lambda n: n["name"])
def test_bare_digits_without_a_name_are_no_national_number(detector: Detector, number: dict[str, str]) -> None:
    kinds = {kind for kind, _ in found(detector, f"so {VALID[number['name']]} so", number["languages"][0])}
    assert f"national-id-{number['country']}" not in kinds


@pytest.mark.parametrize("number", [n for n in national_numbers() if "module" in n], ids=lambda n: n["name"])
def test_another_last_sign_fails_the_check(number: dict[str, str]) -> None:
    if not number.get("checksum", True):
        pytest.skip("its check looks at the date only")
    value = VALID[number["name"]]
    others = "0123456789" if value[-1].isdigit() else "ABCDEFGHJKLMNPQRSTVWXYZ"
    check = national_check(number["module"])
    assert check(value)
    assert not any(check(value[:-1] + sign) for sign in others if sign != value[-1])


def test_every_member_state_has_a_number_and_every_language_its_words() -> None:
    states = "at be bg cy cz de dk ee es fi fr gr hr hu ie it lt lu lv mt nl pl pt ro se si sk"
    assert " ".join(sorted({number["country"] for number in national_numbers()})) == states
    assert {code for number in national_numbers() for code in number["languages"]} | {"en"} == set(EU24)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("https://anna:geheim@host.eu/x", ["anna:geheim"]),
        ("https://git@github.com/x ssh://anna@host.eu", ["anna"]),
        ("https://a.eu/?page=2&token=Zk3f9Qa1&x=1", ["Zk3f9Qa1"]),
        ("https://a.eu/cb#access_token=ya29.a0AfH6SMB.", ["ya29.a0AfH6SMB"]),
        ("https://a.eu/x;jsessionid=0A1B2C3D4E5F?y", ["0A1B2C3D4E5F"]),
        ("https://a.eu/?q=hKq81LmZz0PwTr5Yx92BvNcd3F", ["hKq81LmZz0PwTr5Yx92BvNcd3F"]),
        ("https://a.eu/?token=YOUR_TOKEN&api_key=xxxxxxxx&password=%7Bpassword%7D", []),
        ("https://user:password@host.eu/", []),
        ("https://a.eu/?next=https://anna:geheim@b.eu/&token=Zk3f9Qa1", ["anna:geheim", "Zk3f9Qa1"]),
        ("https://a.eu/?id=4f2a9c1be88d03f7a6654c21d09e8b7f3a5c6d1e", []),
        ("https://a.eu/very/long/path/AndSomeWords2024/With-Everything", []),
        ("://", []),
    ],
)
def test_only_the_secret_part_of_a_url_is_marked(detector: Detector, text: str, values: list[str]) -> None:
    assert found(detector, text) == [("url-token", value) for value in values]


def test_the_stronger_evidence_wins_then_the_longer_then_the_earlier() -> None:
    def candidate(strength: int, start: int, end: int) -> Candidate:
        return Candidate(strength, Finding("phone", start, end, False))

    weak, strong = candidate(CONTEXT, 0, 20), candidate(CHECKED, 5, 10)
    assert resolve([weak, strong]) == [strong.finding]
    assert resolve([candidate(1, 3, 6), candidate(1, 0, 4), candidate(1, 6, 9)]) == [
        Finding("phone", 0, 4, False), Finding("phone", 6, 9, False),
    ]  # fmt: skip
    assert resolve([strong, strong]) == [strong.finding]


@given(
    st.lists(
        st.tuples(st.integers(1, 5), st.sampled_from(["email", "phone"]), st.integers(0, 30), st.integers(1, 9)),
        max_size=30,
    )
)
def test_kept_findings_are_sorted_and_each_other_candidate_overlaps_one(
    drawn: list[tuple[int, str, int, int]],
) -> None:
    candidates = [Candidate(s, Finding(kind, start, start + length, False)) for s, kind, start, length in drawn]
    kept = resolve(candidates)
    assert all(a.end <= b.start for a, b in pairwise(kept))
    for _, finding in candidates:
        assert any(finding.start < other.end and other.start < finding.end for other in kept)
    assert resolve(candidates[::-1]) == kept


ITEMS = (
    "max@firma.de", "DE89 3704 0044 0532 0130 00", "+49 30 901820", "Tel. 030 901820", "4111 1111 1111 1111",
    "PESEL 44051401359", "https://a:b@host.eu/?token=Zk3f9Qa1", "85.214.132.117", "2a02:908:1234::17", "880320-0016",
    "RCCMNL83S18D969H",
)  # fmt: skip
FILLERS = st.text(st.sampled_from("aZ9 0@.:/+-()=?&😀é<>\n\u202f"), max_size=12)
TEXTS = st.lists(st.one_of(st.sampled_from(ITEMS), FILLERS), max_size=12).map("".join)


@settings(max_examples=150, deadline=None)
@given(text=TEXTS, language=st.sampled_from(["de", "pl", "sv", "en", None, "xx"]))
def test_findings_of_any_text_are_sorted_disjoint_and_inside(text: str, language: str | None) -> None:
    findings = DETECTOR.find(text, language)
    assert all(0 <= f.start < f.end <= len(text) for f in findings)
    assert all(a.end <= b.start for a, b in pairwise(findings))
    assert DETECTOR.find(text, language) == findings


DETECTOR = Detector(("de", "pl", "sv", "en"))


@settings(max_examples=200, deadline=None)
@given(
    item=st.sampled_from(ITEMS[:3]),
    before=st.sampled_from(["", "😀 ", "𝔸\n", "éé "]),
    after=st.sampled_from(["", ".", " 😀"]),
)
def test_offsets_count_characters_beyond_the_basic_plane(item: str, before: str, after: str) -> None:
    findings = DETECTOR.find(before + item + after, "de")
    assert [(f.start, f.end) for f in findings] == [(len(before), len(before) + len(item))]


def test_a_number_told_by_its_context_is_found_in_the_whole_text(detector: Detector) -> None:
    text = f"Tel. 601 234 567{' lorem' * 40} 601 234 567 ipsum 1601 234 567"
    assert [value for _, value in found(detector, text, "pl")] == ["601 234 567"] * 2


def test_a_batch_gives_what_single_texts_give(detector: Detector) -> None:
    texts = ["", "a", *ITEMS, " ".join(ITEMS)]
    languages = [None, *(["pl"] * (len(texts) - 1))]
    assert detector.find_batch(texts, languages) == [
        detector.find(text, language) for text, language in zip(texts, languages, strict=True)
    ]
    with pytest.raises(ValueError, match="14 texts and 13 languages"):
        detector.find_batch(texts, languages[1:])


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(TEXTS, max_size=6))
def test_texts_do_not_run_into_each_other(texts: list[str]) -> None:
    assert DETECTOR.find_batch(texts, ["pl"] * len(texts)) == [DETECTOR.find(text, "pl") for text in texts]


def test_an_item_is_found_in_a_batch_of_any_length(detector: Detector) -> None:
    filler = "lorem ipsum 1848, " * 5000
    texts = [filler, "Tel. +49 30 901820", *([filler] * 5), filler + "max@firma.de", ""]
    batch = detector.find_batch(texts, ["de"] * len(texts))
    assert [number for number, findings in enumerate(batch) if findings] == [1, 7]
    assert batch[7] == [Finding("email", len(filler), len(filler) + 12, False)]


@pytest.mark.parametrize("overlap", [1, 7, 12])
def test_an_item_that_lies_across_two_slices_of_a_long_text_is_found(detector: Detector, overlap: int) -> None:
    start = signs._SLICE - overlap
    text = "a " * (start // 2) + " " * (start % 2) + "+49 30 901820 and more"
    assert detector.find(text, "de") == [Finding("phone", start, start + 13, False)]


@pytest.mark.parametrize("sign", ["a", "1", "(", "@", ":", ".", "+", "1 ", "a@", "://", "A1", "1.1.", "::1", "0a:"])
def test_a_megabyte_of_one_sign_is_read_in_linear_time(detector: Detector, sign: str) -> None:
    # The time limit of the suite is the test: a quadratic expression would need hours for this.
    assert detector.find(sign * (500_000 // len(sign)), "en") == []


def test_words_in_capitals_are_exact_and_a_star_is_the_rest_of_a_word() -> None:
    words = Words.of(["IK", "tel", "telefon*", "*karte", "r. č", "číslo*"])
    for text in ("IK: 3", "Tel. 3", "TELEFONE", "Kreditkarte", "karte", "r.  č", "ČÍSLA".replace("A", "O")):
        assert words.stand_in(text, 0, len(text)), text
    for text in ("ik", "Hotel", "telegraf", "karten", "<tel>", "MIK"):
        assert not words.stand_in(text, 0, len(text)), text


def test_heavy_libraries_are_not_imported_with_the_package() -> None:
    code = (
        "import re, sys, hanse.data.pii.detect, hanse.data.pii.replace; "
        "print([name for name in sys.modules if re.match('stdnum|phonenumbers|torch', name)])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout == "[]\n"
