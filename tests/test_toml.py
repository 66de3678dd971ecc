"""A TOML file that somebody wrote is read, or refused in one sentence that begins with its place."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse import toml
from hanse.errors import InputError


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a = '\xff'", "f.toml: is not UTF-8 text; save it as UTF-8."),
        (b"a = 1\na = 2", "f.toml: is not valid TOML: "),
        (b"a = " + b"[" * 100_000, "f.toml: is not valid TOML: "),
    ],
    ids=["latin-1", "a key twice", "nothing but brackets"],
)
def test_what_is_no_toml_is_refused_with_its_place(content: bytes, said: str) -> None:
    with pytest.raises(InputError) as refused:
        toml.parse(content, where="f.toml")
    assert str(refused.value).startswith(said)


@given(st.binary(max_size=40))
def test_any_bytes_are_tables_or_refused(content: bytes) -> None:
    try:
        assert isinstance(toml.parse(content, where="f.toml"), dict)
    except InputError as error:
        assert str(error).startswith("f.toml: is not ")


def test_a_file_is_read_whole_and_what_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b"a = 1\n")
    assert toml.parse(toml.content(tmp_path / "a.toml", "the file"), where="a.toml") == {"a": 1}
    with pytest.raises(InputError, match=r"^--x: is a folder; name the file in it\.$"):
        toml.content(tmp_path, "the file", where="--x")
    with pytest.raises(InputError, match=r"none\.toml: cannot be read \(No such file or directory\)"):
        toml.content(tmp_path / "none.toml", "the file")
    with pytest.raises(InputError, match=r"none\.toml: begin one\.$"):
        toml.content(tmp_path / "none.toml", "the file", absent="begin one.")
