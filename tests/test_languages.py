"""The table of languages."""

import subprocess
import sys
import unicodedata

import pytest

from hanse.languages import EU24, LANGUAGES, NEIGHBOURS


def test_the_24_official_languages_are_complete_and_alphabetical():
    assert " ".join(EU24) == "bg cs da de el en es et fi fr ga hr hu it lt lv mt nl pl pt ro sk sl sv"
    assert len(EU24) == 24


def test_neighbours_are_known_but_not_official():
    assert set(NEIGHBOURS) == {"nb", "nn", "sr", "uk"}
    assert set(LANGUAGES) == {*EU24, *NEIGHBOURS}


def test_only_greek_and_three_cyrillic_languages_are_not_latin():
    other = {code: language.script for code, language in LANGUAGES.items() if language.script != "Latn"}
    assert other == {"bg": "Cyrl", "el": "Grek", "sr": "Cyrl", "uk": "Cyrl"}


@pytest.mark.parametrize("code", LANGUAGES)
def test_names_are_normal_form_and_the_autonym_is_in_its_script(code):
    language = LANGUAGES[code]
    assert language.code == code
    assert unicodedata.is_normalized("NFC", language.autonym)
    script = {"Latn": "LATIN", "Grek": "GREEK", "Cyrl": "CYRILLIC"}[language.script]
    assert all(unicodedata.name(sign).startswith(script) for sign in language.autonym if sign.isalpha())


@pytest.mark.parametrize("code", LANGUAGES)
def test_autonym_and_number_signs_agree_with_cldr(code):
    babel = pytest.importorskip("babel")
    locale = babel.Locale.parse({"pt": "pt_PT", "en": "en_IE"}.get(code, code))
    language = LANGUAGES[code]
    assert language.autonym == locale.languages[code]
    symbols = locale.number_symbols["latn"]
    assert (language.decimal, language.group) == (symbols["decimal"], symbols["group"])


def test_the_module_needs_the_standard_library_only():
    code = (
        "import sys; import hanse.languages; "
        "print([m for m in ('babel', 'torch', 'num2words', 'pydantic') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
