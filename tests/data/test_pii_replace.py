"""What stands in the place of personal data, and that nothing of it stays."""

from __future__ import annotations

import ipaddress
import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanse.data.pii.detect import Detector
from hanse.data.pii.finding import Finding
from hanse.data.pii.replace import dataset_key, masked, normalised, replace
from hanse.errors import InputError

KEY = bytes(range(32))
LANGUAGES = ("de", "pl", "sv")
DETECTOR = Detector(LANGUAGES)
ITEMS = (
    "max@firma.de", "anna (at) firma (punkt) de", "DE89 3704 0044 0532 0130 00", "+49 30 901820", "Tel. 030 901820",
    "4111 1111 1111 1111", "PESEL 44051401359", "https://a:b@host.eu/?token=Zk3f9Qa1", "85.214.132.117",
    "2a02:908:1234::17", "880320-0016", "RCCMNL83S18D969H",
)  # fmt: skip
TEXTS = st.lists(
    st.one_of(st.sampled_from(ITEMS), st.text(st.sampled_from("aZ9 0@.:/+-()=?&😀é<>\n"), max_size=9)), max_size=10
).map("".join)


def values(text: str, language: str) -> list[str]:
    return [text[f.start : f.end] for f in DETECTOR.find(text, language)]


@settings(max_examples=200, deadline=None)
@given(text=TEXTS, how=st.sampled_from(["mask", "pseudonym"]), language=st.sampled_from(LANGUAGES))
def test_no_value_that_was_found_is_found_again_after_replacing(text: str, how: str, language: str) -> None:
    before = values(text, language)
    replaced = replace(text, DETECTOR.find(text, language), how, KEY, language=language)  # type: ignore[arg-type]
    assert not set(before) & set(values(replaced, language))


@settings(max_examples=200, deadline=None)
@given(items=st.lists(st.sampled_from(ITEMS), max_size=6), how=st.sampled_from(["mask", "pseudonym"]))
def test_separate_items_leave_nothing_to_find(items: list[str], how: str) -> None:
    text = "\n\n".join(items)
    assert values(replace(text, DETECTOR.find(text, "pl"), how, KEY, language="pl"), "pl") == []  # type: ignore[arg-type]


@given(text=st.text(max_size=60), cuts=st.lists(st.integers(0, 60), max_size=8))
def test_everything_between_findings_stays_as_it_was(text: str, cuts: list[int]) -> None:
    edges = sorted({min(cut, len(text)) for cut in cuts})
    spans = list(pairwise(edges))  # adjacent ones included
    findings = [Finding("email", start, end, False) for start, end in spans]
    expected = text[: edges[0]] + "<email>" * len(spans) + text[edges[-1] :] if spans else text
    assert replace(text, findings) == expected


def test_a_mask_names_the_kind() -> None:
    text = "Mail an max@firma.de, PESEL 44051401359"
    assert replace(text, DETECTOR.find(text, "pl")) == "Mail an <email>, PESEL <national-id-pl>"


@pytest.mark.parametrize(
    ("kind", "one", "same", "other"),
    [
        ("email", "Max.Muster@Firma.de", "max.muster@firma.DE", "max@firma.de"),
        ("email", "anna@firma.de", "anna (at) firma (punkt) de", "anna@firma.com"),
        ("email", "anna@firma.de", "Anna[at]firma.de", "hanna@firma.de"),
        ("phone", "030 901820", "+49 (0)30 90 18 20", "030 901821"),
        ("phone", "0049 30 901820", "030/901820", "031 901820"),
        ("iban", "DE89 3704 0044 0532 0130 00", "de89370400440532013000", "GB82 WEST 1234 5698 7654 32"),
        ("card", "4111 1111 1111 1111", "4111-1111-1111-1111", "5500 0000 0000 0004"),
        ("ipv6", "2a02:908:0:0::17", "2A02:908::17", "2a02:908::18"),
        ("national-id-cz", "710319/2745", "7103192745", "710319/2746"),
    ],
)
def test_one_person_has_one_pseudonym_however_it_is_written(kind: str, one: str, same: str, other: str) -> None:
    def pseudonym(value: str) -> str:
        return replace(value, [Finding(kind, 0, len(value), True)], "pseudonym", KEY, language="de")

    assert pseudonym(one) == pseudonym(same) != pseudonym(other)
    assert one not in pseudonym(one)


def test_pseudonyms_belong_to_nobody() -> None:
    from phonenumbers import NumberParseException, parse
    from stdnum import iban, luhn

    def pseudonym(kind: str, value: str) -> str:
        return replace(value, [Finding(kind, 0, len(value), True)], "pseudonym", KEY)

    for number in range(50):
        assert re.fullmatch(r"email-[a-z]{16}@example\.invalid", pseudonym("email", f"a{number}@b.eu"))
        assert ipaddress.ip_address(pseudonym("ipv4", f"85.1.2.{number}")) in ipaddress.ip_network("240.0.0.0/4")
        assert ipaddress.ip_address(pseudonym("ipv6", f"2a02::{number}")) in ipaddress.ip_network("2001:db8::/32")
        assert not iban.is_valid(pseudonym("iban", f"DE{number}"))
        card = pseudonym("card", f"4111{number}")
        assert re.fullmatch("0000[0-9]{12}", card)
        assert not luhn.is_valid(card)
        phone = pseudonym("phone", f"+49 30 90182{number}")
        assert re.fullmatch(r"\+999[0-9]{12}", phone)
        with pytest.raises(NumberParseException):
            parse(phone, None)


def test_another_key_or_dataset_gives_another_pseudonym() -> None:
    findings = DETECTOR.find("max@firma.de", "de")
    keys = [KEY, dataset_key(KEY, "news/1"), dataset_key(KEY, "news/2"), dataset_key(KEY[1:], "news/1")]
    assert len({replace("max@firma.de", findings, "pseudonym", key) for key in keys}) == 4


def test_equal_digits_of_two_countries_get_two_pseudonyms() -> None:
    given_to = [
        replace("7103192745", [Finding(f"national-id-{country}", 0, 10, True)], "pseudonym", KEY).split("-", 3)[3]
        for country in ("cz", "bg")
    ]
    assert given_to[0] != given_to[1]


@pytest.mark.parametrize("key", [None, b"", b"fifteen bytes!!"])
def test_pseudonyms_without_a_proper_key_are_refused(key: bytes | None) -> None:
    with pytest.raises(InputError, match="16 bytes"):
        replace("max@firma.de", [], "pseudonym", key)
    with pytest.raises(InputError, match="16 bytes"):
        dataset_key(key or b"", "news/1")


def test_an_unknown_way_of_replacing_is_refused() -> None:
    with pytest.raises(InputError, match="'hash'"):
        replace("x", [], "hash", KEY)  # type: ignore[arg-type]


@pytest.mark.parametrize("spans", [[(0, 3), (2, 5)], [(3, 5), (0, 2)], [(0, 99)], [(2, 2)], [(-1, 2)]])
def test_findings_that_do_not_fit_the_text_are_a_mistake(spans: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="overlaps another finding"):
        replace("some text", [Finding("email", start, end, False) for start, end in spans])


@given(text=TEXTS, width=st.integers(1, 40))
def test_a_sample_has_its_width_and_nothing_that_was_found(text: str, width: int) -> None:
    findings = DETECTOR.find(text, "pl")
    sample = masked(text, findings, width)
    assert len(sample) <= width
    assert "\n" not in sample
    whole = " ".join(replace(text, findings).split())
    assert sample == whole or (sample.endswith("…") and whole.startswith(sample[:-1]))


def test_a_sample_of_an_endless_text_ends() -> None:
    assert masked("a" * 10_000_000, [], 20) == "a" * 19 + "…"
    assert masked(" " * 10_000_000 + "b", [], 20) == "…"
    assert masked("", [], 20) == ""
    with pytest.raises(ValueError, match="width"):
        masked("a", [], 0)


def test_normalising_keeps_apart_what_is_apart() -> None:
    assert normalised("url-token", "aB") != normalised("url-token", "ab")
    assert normalised("phone", "030 901820") == "030901820"
