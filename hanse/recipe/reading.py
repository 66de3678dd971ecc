"""From a TOML file to a checked recipe, and from a mistake in it to a sentence."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import (
    BaseModel,
    ValidationError,
)

from hanse import toml
from hanse.errors import InputError
from hanse.recipe.data import CURATE_PATHS
from hanse.recipe.sections import Recipe
from hanse.recipe.suggestion import suggestion


def load(path: Path, settings: Iterable[str] = ()) -> Recipe:
    """Read a recipe and apply `--set section.key=value` on top.

    Args:
        path: the TOML file; paths in it are relative to its folder.
        settings: `section.key=value` strings; the value is TOML, or a bare string; `tune.0.epochs=2` reaches into
            lists; a path given here is relative to the current folder.

    Raises:
        InputError: the file cannot be read, is not TOML, or holds a key or value that does not fit.
    """
    shipped = ", ".join(sorted(str(found) for found in embedded().parent.glob("*.toml")))
    absent = f"no such recipe. Those that come with Hanse: {shipped}."
    data = toml.parse(toml.content(path, "the recipe file", absent=absent), where=str(path))
    _make_paths_absolute(data, path.parent)
    for setting in settings:
        _apply(data, setting)
    _make_paths_absolute(data, Path.cwd())
    return parse(data, where=str(path))


def embedded() -> Path:
    """The recipe that runs when none is named: beside the package in a checkout, else where pip put it."""
    places = [Path(__file__).parents[2] / "recipes", Path(sys.prefix) / "share" / "hanse" / "recipes"]
    return next((p / "atlas.toml" for p in places if (p / "atlas.toml").is_file()), places[-1] / "atlas.toml")


def parse(data: Mapping[str, Any], *, where: str) -> Recipe:
    """Check a recipe's data. Raises InputError that names file, section, key and, for a misspelling, the likely key."""
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise InputError(f"{where}: {_sentence(error)}") from None


def _apply(data: dict[str, Any], setting: str) -> None:
    key, separator, value = setting.partition("=")
    if not separator or not key.strip():
        raise InputError(f"--set {setting}: write section.key=value, for example pretrain.budget_tokens=1000000.")
    *parents, last = key.strip().split(".")
    place: Any = data
    for parent in parents:
        if isinstance(place, list):
            if not parent.isdigit() or int(parent) >= len(place):
                raise InputError(f"--set {setting}: '{parent}' is not one of the {len(place)} entries; count from 0.")
            place = place[int(parent)]
        else:
            place = place.setdefault(parent, {})
        if not isinstance(place, dict | list):
            raise InputError(f"--set {setting}: '{parent}' is a value, not a section.")
    if isinstance(place, list):
        raise InputError(
            f"--set {setting}: '{parents[-1]}' is a list; say which entry, for example {parents[-1]}.0.{last}."
        )
    place[last] = _value(value.strip())


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _sentence(error: ValidationError) -> str:
    """The first problem of a recipe, as one sentence with its place and remedy."""
    first = error.errors(include_url=False)[0]
    *parents, key = first["loc"] or ("",)
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":  # our own rules already begin with the key
        return f"{_place(first['loc'])}{message}{'' if message.endswith(('?', '.')) else '.'}"
    if first["type"] == "extra_forbidden":
        return f"{_place(parents)}{key}: unknown key.{suggestion(str(key), _keys(parents))}"
    if first["type"] == "missing":
        return f"{_place(parents)}{key}: missing; the recipe has to say it."
    given = first.get("input")
    shown = f" (given: {given!r})" if isinstance(given, str | int | float | bool) else ""
    return f"{_place(parents)}{key}: {message}{shown}."


def _place(location: Iterable[int | str]) -> str:
    names = [str(part) if isinstance(part, str) else f"#{part}" for part in location]
    return f"[{' '.join(names)}] " if names else ""


def _keys(location: Iterable[int | str]) -> list[str]:
    section: type[BaseModel] = Recipe
    for part in location:
        if isinstance(part, str):
            annotation = section.model_fields[part].annotation
            inner = [a for a in (annotation, *get_args(annotation)) if isinstance(a, type) and issubclass(a, BaseModel)]
            section = inner[0] if inner else section
    return list(section.model_fields)


def _make_paths_absolute(data: Mapping[str, Any], folder: Path) -> None:
    """Anchor the relative paths of data that is not checked yet, so anything of another shape is left alone."""
    sources = data.get("source")
    places = ("curate", "model", "release")
    sections = [*(sources if isinstance(sources, list) else []), *(data.get(name) for name in places)]
    for section in (section for section in sections if isinstance(section, dict)):
        for key in ("path", "key", "answers", "start", *CURATE_PATHS):
            if key == "path" and section.get("kind") == "hub":
                continue  # a name, not a place
            value = section.get(key)
            if isinstance(value, list):
                section[key] = [_absolute(each, folder) for each in value]
            elif value:
                section[key] = _absolute(value, folder)


def _absolute(value: Any, folder: Path) -> Any:
    return str((folder / Path(value).expanduser()).absolute()) if isinstance(value, str) else value
