"""`answers.toml`: strict about its keys and values, and every question is asked in the template."""

import hashlib
import json
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.cli import main
from hanse.errors import InputError
from hanse.release.papers import answers
from hanse.release.papers.questions import BY_KEY, FREE, QUESTIONS, SECTIONS
from hanse.report.plain import visible

EXAMPLE = Path(__file__).parents[2] / "recipes" / "answers" / "example.toml"


@pytest.fixture
def write(tmp_path):
    def run(text: str | bytes) -> Path:
        path = tmp_path / "answers.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
        return path

    return run


def test_answers_come_back_as_json_values_with_the_digest_of_the_file(write):
    path = write('[model]\nunion_market_date = 2026-12-01\n[provider]\nname = "Æ"\nis_sme = true\n')
    found, digest = answers.read(path)
    assert found == {"model": {"union_market_date": "2026-12-01"}, "provider": {"name": "Æ", "is_sme": True}}
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert list(answers.problems(found)) == []  # as read they fit too


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[provder]\nname = 'x'", "[provder]: unknown section. Did you mean provider?"),
        ("[provider]\nnmae = 'x'", "[provider] nmae: unknown key. Did you mean name?"),
        ("provider = 'x'", "provider: is text instead of a section; write [provider]"),
        ("[code]\nis_signatory = 'yes'", "[code] is_signatory: is text instead of true or false"),
        ("[code]\nis_signatory = 1", "is the number 1 instead of true or false"),
        ("[provider]\nname = true", "[provider] name: is true instead of text"),
        ("[model]\nunion_market_date = '1.2.2026'", "instead of a day such as 2026-11-30"),
        ("[model]\nunion_market_date = 2026-02-01T10:00:00", "instead of a day"),
        ("[model]\nchannels = 'web'", "is text instead of a list of texts"),
        ("[model]\nchannels = ['']", "is a list instead of a list of texts, none of them empty"),
        ("[data]\nlatest_acquisition = '2026-01'", 'instead of a month such as "11/2026"'),
        ("[data]\nlatest_acquisition = '13/2026'", "instead of a month"),
        ("[compute]\npue = 0.5", "is the number 0.5 instead of a number of at least 1"),
        ("[compute]\npower_w = -1", "of at least 0"),
        ("[compute]\npower_w = inf", "is the number inf instead of a number"),
        ("[compute]\npower_w = true", "is true instead of a number"),
        ("[compute]\nutilisation = 1.5", "of at least 1e-06 and at most 1"),
        ("[compute]\nparent_flop = 'much'", "instead of a number of operations above 0"),
        ("[compute]\nparent_flop = 0", "instead of a number of operations above 0"),
        ("[sovereignty]\nhosts = {a = nan}", "sovereignty.hosts.a: nan is no number"),
        ("[a\n", "is not valid TOML"),
        ("a = 1\na = 2", "is not valid TOML"),
        (b"[provider]\nname = '\xff'", "is not UTF-8 text"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(write, text, words):
    path = write(text)
    with pytest.raises(InputError, match=re.escape(words)) as caught:
        answers.read(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["2.1e24", '"2.1e24"', "1", '"123456789012345678901234567890"'])
def test_operations_are_a_number_or_its_text(write, value):
    found, _ = answers.read(write(f"[compute]\nparent_flop = {value}"))
    assert found == tomllib.loads(f"[compute]\nparent_flop = {value}")


def test_a_missing_file_says_how_to_begin_one(tmp_path):
    with pytest.raises(InputError, match="no such file; begin one with: hanse release --write-answers"):
        answers.read(tmp_path / "none.toml")
    with pytest.raises(InputError, match="is a folder"):
        answers.read(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--set", "release.answers=none.toml"], "no such file; begin one with"),
        (["release", "--set", "release.answers=none.toml", "--final"], "no such file; begin one with"),
        (["release", "--final"], r"\[release\] answers names no file; write one with"),
    ],
)
def test_answers_that_are_missing_are_missed_before_anything_is_made(arguments, words, tmp_path, capsys):
    store = tmp_path / "store"
    assert main([*arguments, "--threads", "1", "--store", str(store)]) == 2
    assert re.search(words, capsys.readouterr().err)
    assert not list(store.glob("dataset/*"))


def test_free_sections_take_any_key_and_days_in_them_become_text(write):
    found, _ = answers.read(write("[sovereignty.hosts.a]\nsince = 2026-01-01\nlist = [1, {b = 2026-01-02}]\n"))
    assert found["sovereignty"]["hosts"]["a"] == {"since": "2026-01-01", "list": [1, {"b": "2026-01-02"}]}


def test_the_template_answers_nothing_and_asks_every_question():
    text = answers.template()
    assert all(content == {} for content in tomllib.loads(text).values())
    assert list(tomllib.loads(text)) == list(SECTIONS)
    section, asked = "", set()
    for line in text.splitlines():
        if found := re.fullmatch(r"\[(\w+)\]", line):
            section = found[1]
        elif (found := re.match(r"# (\w+) = ", line)) and section not in FREE:
            asked.add(f"{section}.{found[1]}")
    assert asked >= set(BY_KEY)
    assert max(map(len, text.splitlines())) <= 120


def test_the_template_marks_what_is_mandatory_and_names_the_papers():
    section, told, blocks = "", "", {}
    for line in answers.template().splitlines():
        key = re.match(r"# (\w+) = ", line)
        if found := re.fullmatch(r"\[(\w+)\]", line):
            section, told = found[1], ""
        elif key and f"{section}.{key[1]}" in BY_KEY:
            blocks[f"{section}.{key[1]}"], told = told, ""
        else:
            told += f" {line.removeprefix('# ')}" if line else ""
    for question in QUESTIONS:
        block = blocks[question.key]
        assert question.asks in block and f"[{question.papers}]" in block
        assert block.startswith(" Mandatory") == bool(question.is_mandatory or question.when), block


def test_a_line_of_the_template_without_its_sign_is_an_answer():
    names = "|".join(key.partition(".")[2] for key in BY_KEY)
    told = tomllib.loads(re.sub(rf"^# ({names}) = ", r"\1 = ", answers.template(), flags=re.MULTILINE))
    wrong = [problem for problem in answers.problems(told) if "unknown" in problem]
    assert wrong == [] and sum(map(len, told.values())) >= len(BY_KEY)


def test_the_template_is_written_once_and_never_over_answers(tmp_path):
    path = tmp_path / "answers.toml"
    answers.write_template(path)
    assert answers.read(path)[0] == {section: {} for section in SECTIONS}
    path.write_text("[provider]\nname = 'kept'")
    with pytest.raises(InputError, match="is there already"):
        answers.write_template(path)
    assert "kept" in path.read_text()
    with pytest.raises(InputError, match="cannot be written"):
        answers.write_template(tmp_path / "none" / "answers.toml")


def test_the_example_answers_every_question_that_always_has_to_be():
    found, _ = answers.read(EXAMPLE)
    given_keys = {f"{section}.{name}" for section, content in found.items() for name in content}
    assert {question.key for question in QUESTIONS if question.is_mandatory} <= given_keys
    assert not [key for key in given_keys if key not in BY_KEY and key.partition(".")[0] not in FREE]
    assert "made-up" in found["provider"]["name"]


TOML = st.recursive(
    st.one_of(st.booleans(), st.integers(), st.floats(), st.text(), st.dates(), st.datetimes(), st.times()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    max_leaves=6,
)
NAMES = st.one_of(st.sampled_from([key.partition(".")[2] for key in BY_KEY]), st.text(max_size=8))


@given(
    st.dictionaries(
        st.one_of(st.sampled_from(list(SECTIONS)), st.text()),
        st.one_of(TOML, st.dictionaries(NAMES, TOML, max_size=3)),
        max_size=3,
    )
)
def test_any_value_is_either_fit_or_named(data):
    for problem in answers.problems(data):
        assert problem.endswith((".", "?")) and visible(problem) == problem


@given(st.sampled_from(QUESTIONS), TOML)
def test_a_value_that_fits_can_be_printed_as_json(question, value):
    section, _, name = question.key.partition(".")
    if not list(answers.problems({section: {name: value}})):
        plain = answers._plain(value)
        assert json.loads(json.dumps(plain, allow_nan=False)) == plain
