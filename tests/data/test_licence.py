"""Licences: SPDX expressions, the allow-list, and the duties that rank copies."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.data.rights.licence import MAX_EXPRESSION, canonical, duties, is_allowed, problem, reservation_reasons

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
        ("GPL-3.0-only OR MIT AND BUSL-1.1", False),
        ("MIT OR GPL-3.0-only AND BUSL-1.1", True),
        ("GPL-2.0-only WITH Classpath-exception-2.0", True),
        ("gpl-2.0  with classpath-exception-2.0", True),
        ("GPL-2.0-only", False),
        ("MIT OR NoSuchLicence", False),
        ("MIT OR", False),
        ("(MIT", False),
        ("MIT)", False),
        ("MIT MIT", False),
    ],
)
def test_an_expression_is_allowed_when_one_choice_is(licence: str, verdict: bool) -> None:
    assert is_allowed(licence, ALLOWED) is verdict


@given(st.one_of(st.text(alphabet="MIT() ORANDWITHX+", max_size=60), st.text(max_size=200)))
def test_no_licence_text_crashes_the_check(licence: str) -> None:
    assert is_allowed(licence, ALLOWED) in (True, False)
    assert problem(licence, ALLOWED) in (None, "licence-not-spdx")
    assert 0 <= duties(licence) <= 3


NAMES = st.sampled_from(["MIT", "cc-by-4.0", "GPL-3.0-only", "LicenseRef-Ours", "Apache-2.0+"])
TREES = st.recursive(
    NAMES,
    lambda inner: st.tuples(inner, st.sampled_from([" OR ", " and "]), inner).map(lambda t: f"({t[0]}{t[1]}{t[2]})"),
    max_leaves=8,
)


@given(TREES)
def test_the_canonical_form_means_the_same_and_stays(licence: str) -> None:
    form = canonical(licence)
    assert problem(licence) is None
    assert canonical(form) == form
    for allowed in (("MIT",), ("MIT", "CC-BY-4.0"), ("GPL-3.0-only", "Apache-2.0")):
        assert is_allowed(form, allowed) is is_allowed(licence, allowed)
    assert duties(form) == duties(licence)


@pytest.mark.parametrize(
    "licence",
    ["CC BY 4.0", "Public Domain", "CC-BY", "()", "MIT()", "MIT WITH Apache-2.0", "Classpath-exception-2.0", "", "\0",
     "MIT/Apache-2.0", "LicenseRef-", "ΜΙΤ", "\ud800"],
)  # fmt: skip
def test_what_is_no_spdx_expression_is_called_so(licence: str) -> None:
    assert problem(licence) == "licence-not-spdx"
    assert not is_allowed(licence, ALLOWED)


@pytest.mark.parametrize(
    "licence", ["LicenseRef-Our-Contract.2", "DocumentRef-a:LicenseRef-b", "MPL-1.1+", "NOASSERTION"]
)
def test_spdx_has_room_for_own_references_later_versions_and_no_statement(licence: str) -> None:
    assert problem(licence) is None


def test_a_name_of_the_recipe_is_valid_as_it_stands() -> None:
    assert problem("House licence 3", ["House licence 3"]) is None
    assert is_allowed("house licence 3", ["House licence 3"])
    assert problem("House licence 3") == "licence-not-spdx"


def test_deep_brackets_and_long_texts_are_refused_not_fatal() -> None:
    for licence in ("(" * 400 + "MIT" + ")" * 400, "(" * 100_000 + "MIT", "MIT OR " * 1_000_000 + "MIT"):
        assert not is_allowed(licence, ALLOWED)
        assert problem(licence) == "licence-not-spdx"
        assert duties(licence) == 3
    longest = " OR ".join(["MIT"] * (MAX_EXPRESSION // 7))
    assert is_allowed(longest, ALLOWED)


def test_spelling_follows_spdx_and_the_allow_list() -> None:
    assert canonical("cc-by-sa-4.0") == "CC-BY-SA-4.0"
    assert canonical("myown-1.0", ["MyOwn-1.0"]) == "MyOwn-1.0"
    assert canonical("mit or myown-1.0", ["MyOwn-1.0"]) == "MIT OR MyOwn-1.0"
    assert canonical("gpl-2.0+") == "GPL-2.0-or-later"
    assert canonical(" (mit OR No Such) ") == "(mit OR No Such)"


def test_or_later_holds_where_the_version_itself_does() -> None:
    assert is_allowed("MPL-1.1+", ["MPL-1.1"])
    assert not is_allowed("MPL-1.1", ["MPL-1.1+"])


def test_an_old_spelling_on_the_allow_list_still_counts() -> None:
    assert is_allowed("GPL-2.0-only", ["GPL-2.0"])


def test_of_two_copies_the_one_with_fewer_duties_is_better() -> None:
    assert duties("CC0-1.0") < duties("CC-BY-4.0") < duties("CC-BY-SA-4.0") < duties("Proprietary")
    assert duties("CC-BY-NC-4.0") == duties("CC-BY-ND-4.0") == 3
    assert duties("CC-BY-SA-4.0 OR CC0-1.0") == 0
    assert duties("CC-BY-SA-4.0 AND CC0-1.0") == 2


def test_the_list_of_licences_is_not_loaded_by_an_import() -> None:
    code = "import sys, hanse.data.rights.licence; sys.exit('license_expression' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_unknown_reservations_follow_the_policy_and_stated_ones_do_not() -> None:
    assert reservation_reasons("unknown", on_unknown="keep") == []
    assert reservation_reasons("unknown", on_unknown="drop") == ["reservation-unknown"]
    assert reservation_reasons("none", on_unknown="drop") == []
    assert reservation_reasons("reserved", on_unknown="keep") == ["rights-reserved"]
