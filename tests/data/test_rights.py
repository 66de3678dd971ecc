"""Licences and reservations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.data.rights import canonical, duties, is_allowed, reservation_reasons

ALLOWED = ("CC-BY-4.0", "MIT", "GPL-2.0-only WITH Classpath-exception-2.0")


@pytest.mark.parametrize(
    ("licence", "verdict"),
    [
        ("MIT", True),
        ("mit", True),
        (" cc-by-4.0 ", True),
        ("CC-BY-NC-4.0", False),
        ("CC-BY", False),
        ("", False),
        ("GPL-3.0-only OR MIT", True),
        ("GPL-3.0-only AND MIT", False),
        ("MIT and CC-BY-4.0", True),
        ("(GPL-3.0-only OR MIT) AND CC-BY-4.0", True),
        ("GPL-3.0-only OR MIT AND X", False),
        ("MIT OR GPL-3.0-only AND X", True),
        ("GPL-2.0-only WITH Classpath-exception-2.0", True),
        ("GPL-2.0-only", False),
        ("MIT OR", False),
        ("(MIT", False),
        ("MIT)", False),
        ("MIT MIT", False),
    ],
)
def test_an_expression_is_allowed_when_one_choice_is(licence: str, verdict: bool) -> None:
    assert is_allowed(licence, ALLOWED) is verdict


@given(st.text(alphabet="MIT() ORANDWITHX", max_size=60))
def test_no_licence_text_crashes_the_check(licence: str) -> None:
    assert is_allowed(licence, ALLOWED) in (True, False)


def test_deep_brackets_are_refused_not_fatal() -> None:
    assert not is_allowed("(" * 400 + "MIT" + ")" * 390, ALLOWED)
    assert not is_allowed("(" * 100_000 + "MIT", ALLOWED)


def test_spelling_follows_spdx_and_the_allow_list() -> None:
    assert canonical("cc-by-sa-4.0") == "CC-BY-SA-4.0"
    assert canonical("myown-1.0", ["MyOwn-1.0"]) == "MyOwn-1.0"
    assert canonical("(mit OR X)") == "(MIT OR X)"


def test_of_two_copies_the_one_with_fewer_duties_is_better() -> None:
    assert duties("CC0-1.0") < duties("CC-BY-4.0") < duties("CC-BY-SA-4.0") < duties("Proprietary")


def test_unknown_reservations_follow_the_policy_and_stated_ones_do_not() -> None:
    assert reservation_reasons("unknown", on_unknown="keep") == []
    assert reservation_reasons("unknown", on_unknown="drop") == ["reservation-unknown"]
    assert reservation_reasons("none", on_unknown="drop") == []
    assert reservation_reasons("reserved", on_unknown="keep") == ["rights-reserved"]
