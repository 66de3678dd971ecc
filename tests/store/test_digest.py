"""Sums against coreutils, fingerprints against their definition."""

import json
import string
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hanse.errors import InputError
from hanse.store.digest import (
    canonical_json,
    check_file_name,
    exact_json,
    files_of,
    fingerprint,
    parse_sums,
    sha256_file,
    sums_text,
)

NAMES = st.text(st.sampled_from(string.ascii_letters + " *?'\"$&;[]#~-.=ßøжλ中\u0301\u200b/"), min_size=1, max_size=12)
DIGESTS = st.text("0123456789abcdef", min_size=64, max_size=64)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


def _is_plain(name: str) -> bool:
    try:
        check_file_name(name)
    except InputError:
        return False
    return True


@given(st.dictionaries(NAMES.filter(_is_plain), DIGESTS, max_size=8))
def test_sums_read_back_as_written(digests):
    assert parse_sums(sums_text(digests)) == digests


@settings(max_examples=30, deadline=None)
@example(names=["-leading dash", " blanks ", "* star", "two  blanks", "#hash", "ünï/çödé"])
@given(st.lists(NAMES.filter(_is_plain), min_size=1, max_size=6))
def test_coreutils_accepts_every_name_that_we_accept(tmp_path_factory, names):
    folder = tmp_path_factory.mktemp("sums")
    for name in names:
        try:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(name)
        except OSError:  # one name is a folder of another
            continue
    digests = {name: sha256_file(folder / name) for name in files_of(folder)}
    (folder / "SHA256SUMS").write_text(sums_text(digests), encoding="utf-8")
    done = subprocess.run(
        ["sha256sum", "--strict", "--check", "--quiet", "SHA256SUMS"], cwd=folder, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, ""), (sorted(digests), done.stdout)


def test_sums_equal_those_of_coreutils(tmp_path):
    for name in ("b", "a b", "é", "Z", "sub/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    command = "find . -type f -printf '%P\\0' | LC_ALL=C sort -z | xargs -0 sha256sum"
    theirs = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True).stdout
    assert sums_text({name: sha256_file(tmp_path / name) for name in files_of(tmp_path)}) == theirs


@pytest.mark.parametrize(
    "name", ["a\nb", "a\\b", "a\x7f", "/etc/passwd", "../up", "a/../b", "a//b", "./a", "", "-", "a\ud800"]
)
def test_a_name_that_sums_could_not_carry_is_refused(name):
    with pytest.raises(InputError):
        check_file_name(name)


@pytest.mark.parametrize(
    "text",
    ["x", "abc  file\n", f"{'a' * 64}  f", f"{'a' * 64}  f\n{'b' * 64}  f\n", f"{'a' * 64}  ../f\n",
     f"{'A' * 64}  f\n", f"\\{'a' * 64}  f\n", f"{'a' * 64}  f\n\n"],
)  # fmt: skip
def test_sums_that_are_no_sums_are_refused(text):
    with pytest.raises(InputError):
        parse_sums(text)


def test_a_link_is_refused(tmp_path):
    (tmp_path / "link").symlink_to("/etc/passwd")
    with pytest.raises(InputError, match="link"):
        files_of(tmp_path)


@given(JSON)
def test_a_value_keeps_its_canonical_text_through_a_file(value):
    text = canonical_json(value)
    assert canonical_json(json.loads(json.dumps(value, indent=3))) == text


@given(st.dictionaries(st.text(string.ascii_letters, min_size=1), JSON, min_size=2, max_size=5))
def test_the_order_of_keys_does_not_change_a_fingerprint(definition):
    backwards = dict(reversed(definition.items()))
    assert fingerprint(definition, {"a": "1", "b": "2"}) == fingerprint(backwards, {"b": "2", "a": "1"})


def test_every_value_and_every_input_counts():
    base = {"a": 1, "b": {"c": [1, 2]}}
    others = [
        fingerprint({"a": 2, "b": {"c": [1, 2]}}, {"x": "1"}),
        fingerprint({"a": 1, "b": {"c": [2, 1]}}, {"x": "1"}),
        fingerprint({"a": True, "b": {"c": [1, 2]}}, {"x": "1"}),
        fingerprint({"a": "1", "b": {"c": [1, 2]}}, {"x": "1"}),
        fingerprint({**base, "d": None}, {"x": "1"}),
        fingerprint(base, {"x": "2"}),
        fingerprint(base, {"y": "1"}),
    ]
    assert len({fingerprint(base, {"x": "1"}), *others}) == len(others) + 1


@pytest.mark.parametrize(
    "value", [Path("/data"), object(), {1, 2}, b"bytes", {1: "x"}, float("nan"), float("inf"), 2**53 + 1, "\ud800"]
)
def test_a_value_without_one_json_text_is_an_error_that_names_its_place(value):
    with pytest.raises((TypeError, ValueError)) as caught:
        fingerprint({"pretrain": {"path": value}}, {})
    assert isinstance(caught.value, UnicodeEncodeError) or "definition.pretrain.path" in str(caught.value)


def test_flop_beyond_exact_integers_become_text():
    assert exact_json({"flop": 10**21, "deep": {"list": [2**60, 1]}, "small": 2**53}, "note") == {
        "flop": "1000000000000000000000",
        "deep": {"list": ["1152921504606846976", 1]},
        "small": 2**53,
    }
