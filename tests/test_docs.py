"""The pages say what the code does: links, commands, keys, defaults, reasons and columns are held against it."""

import argparse
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from hanse import cli, recipe, verbs
from hanse.model.config import keys as keys_of

ROOT = Path(__file__).parents[1]
PAGES = sorted(page for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")) if page.is_file())
SECTIONS = {
    "source": recipe.Source,
    "curate": recipe.Curate,
    "tokenizer": recipe.Tokenizer,
    "pretrain": recipe.Pretrain,
    "tune": recipe.Tune,
    "evaluate": recipe.Evaluate,
    "memorisation": recipe.Memorisation,
    "release": recipe.Release,
}
SECTION = re.compile(r"\[{1,2}(" + "|".join((*SECTIONS, "model")) + r")\]{1,2}")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def text_of(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def commands(page: Path) -> Iterator[str]:
    """Every line in a fenced block that begins with the word hanse."""
    for _, block in FENCE.findall(page.read_text(encoding="utf-8")):
        yield from (line.strip() for line in block.splitlines() if line.strip().startswith("hanse "))


def cells(line: str) -> list[str]:
    """The cells of a table row; an escaped bar belongs to its cell."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]


def codes(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def tables(text: str) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Text above, header and rows of each table outside fenced blocks."""
    lines = FENCE.sub("", text).splitlines()
    for number, line in enumerate(lines):
        if number and re.fullmatch(r"\|(:?-+:?\|)+", line.replace(" ", "")):
            rows = []
            for row in lines[number + 1 :]:
                if not row.startswith("|"):
                    break
                rows.append(cells(row))
            yield "\n".join(lines[: number - 1]), cells(lines[number - 1]), rows


def table_of(name: str, first: str) -> list[list[str]]:
    """The rows of the table of a page whose first column has this title."""
    (found,) = [rows for _, header, rows in tables(text_of(name)) if header[0] == first]
    return found


def key_tables() -> list[tuple[str, dict[int, str], str, list[list[str]]]]:
    """Page, section by column of defaults, section of the keys, and rows, for each table of recipe keys."""
    found = []
    for page in PAGES:
        for above, header, rows in tables(page.read_text(encoding="utf-8")):
            if header[0].split(" ")[0] == "key":
                titles = [SECTION.search(title) for title in header]
                defaults = {number: match[1] for number, match in enumerate(titles) if number and match}
                named = SECTION.findall(header[0]) or list(defaults.values()) or SECTION.findall(above)[-1:]
                if "default" in header:
                    defaults[header.index("default")] = named[-1]
                found.append((page.name, defaults, named[-1], rows))
    return found


def test_every_relative_link_leads_to_a_file():
    assert PAGES
    for page in PAGES:
        prose = FENCE.sub("", page.read_text(encoding="utf-8"))
        for target in re.findall(r"\]\(([^)\s]+)\)", prose):
            if not re.match(r"[a-z]+:|#", target):
                assert (page.parent / target.split("#")[0]).exists(), f"{page.name}: {target} leads nowhere"


def test_every_command_is_one_that_hanse_takes(capsys):
    found = [(page.name, line) for page in PAGES for line in commands(page)]
    assert len(found) > 10
    for page, line in found:
        try:
            cli.parser().parse_args(shlex.split(line, comments=True)[1:])
        except SystemExit as stop:
            assert stop.code == 0, f"{page}: {line}: {capsys.readouterr().err}"


def test_every_setting_on_a_command_line_fits_the_recipe():
    lines = [line for page in PAGES for line in commands(page)]
    asked = [cli.parser().parse_args(shlex.split(line, comments=True)[1:]) for line in lines]
    runs = [options for options in asked if options.verb is verbs.run]
    assert sum(bool(options.set) for options in runs) >= 4
    for options in runs:
        path = ROOT / options.recipe if options.recipe else recipe.embedded()
        assert (recipe.load(path, options.set) != recipe.load(path)) == bool(options.set), options.set


def test_every_key_in_a_table_exists_with_the_default_that_is_named():
    known = {section: set(model.model_fields) for section, model in SECTIONS.items()}
    families = ("deepseek_v3", "apertus")
    known["model"] = {*(key for family in families for key in keys_of(family)), *recipe.Model.model_fields}
    found = key_tables()
    assert {page for page, *_ in found} >= {"recipe.md", "data.md", "model.md", "training.md", "evaluation.md"}
    for page, defaults, section, rows in found:
        for row in rows:
            keys = codes(row[0])
            assert keys, f"{page}: {row[0]} names no key"
            for key in keys:
                if not defaults:
                    assert key in known[section], f"{page}: [{section}] has no {key}"
                for column, of in defaults.items():
                    check_default(page, of, key, row[column])


def check_default(page: str, section: str, key: str, cell: str) -> None:
    """A dash stands for a key that the section lacks; words stand for themselves."""
    fields = SECTIONS[section].model_fields
    where = f"{page}: [{section}] {key}"
    assert (key in fields) == (cell != "-"), where
    if cell == "required":
        assert fields[key].is_required(), where
    elif cell == "none":
        assert fields[key].default is None, where
    elif cell.startswith("`") and "--dry-run" not in cell:
        default = fields[key].default
        default = list(default) if isinstance(default, tuple) else default
        assert tomllib.loads(f"value = {codes(cell)[0]}")["value"] == default, where


@pytest.mark.parametrize(
    ("page", "section"), [("data.md", "curate"), ("training.md", "pretrain"), ("training.md", "tune")]
)
def test_no_key_of_a_section_is_left_out_of_its_page(page, section):
    rows = [
        row for name, defaults, _, rows in key_tables() if name == page and section in defaults.values() for row in rows
    ]
    assert set(SECTIONS[section].model_fields) <= {key for row in rows for key in codes(row[0])}


def test_every_dependency_is_named_with_what_it_is_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *(each for group in project["optional-dependencies"].values() for each in group),
    ]
    named = {
        name.strip()
        for _, header, rows in tables(text_of("dependencies.md"))
        for row in rows
        for name in row[0].split(",")
    }
    missing = {re.match(r"[A-Za-z0-9_.-]+", each)[0] for each in wanted} - named  # type: ignore[index]
    assert not missing


def test_every_reason_to_quarantine_or_drop_is_explained():
    page = "".join(text_of(name) for name in ("data.md", "sources.md", "rights.md", "quality.md", "contamination.md"))
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "hanse" / "data").rglob("*.py"))
    reasons = set(re.findall(r'(?:BadRecord\(|append\(|return \[)\s*"([a-z0-9-]+)"', code)) | {"broken-file"}
    assert len(reasons) > 20
    assert not {reason for reason in reasons if f"`{reason}`" not in page}


def test_every_column_of_the_document_table_is_explained():
    from hanse.data.schema import DOCUMENTS

    named = {name for row in table_of("data.md", "columns") for name in codes(row[0])}
    assert named == set(DOCUMENTS.names)


def test_the_atlas_page_counts_the_facts_of_every_task():
    from hanse.data.atlas.facts import FACTS_PER_TASK

    assert {codes(row[0])[0]: int(row[1]) for row in table_of("atlas.md", "task")} == dict(FACTS_PER_TASK)


def test_the_size_table_is_what_the_dial_gives():
    from hanse.model.config import derive

    for size, vocabulary, *cells_ in table_of("model.md", "size"):
        config = derive(codes(size)[0], vocab_size=int(vocabulary))
        counts = [f"{config.parameters():,}", f"{config.active_parameters():,}"]
        shape = [str(config.hidden_size), str(config.num_hidden_layers), str(config.n_routed_experts)]
        assert cells_ == [*counts, *shape, f"{config.kv_lora_rank} + {config.qk_rope_head_dim}"], size


def test_the_size_table_of_apertus_is_what_the_dial_gives():
    from hanse.model.config import ApertusConfig, derive

    for size, vocabulary, *cells_ in table_of("model.md", "size of apertus"):
        config = derive(codes(size)[0], family="apertus", vocab_size=int(vocabulary))
        assert isinstance(config, ApertusConfig)
        shape = (config.hidden_size, config.num_hidden_layers, config.intermediate_size)
        heads = (config.num_attention_heads, config.num_key_value_heads)
        assert cells_ == [f"{config.parameters():,}", *map(str, (*shape, *heads))], size


def test_every_option_of_chat_is_explained():
    (choices,) = [action.choices for action in cli.parser()._actions if isinstance(action, argparse._SubParsersAction)]
    options = {name for action in choices["chat"]._actions for name in action.option_strings if name.startswith("--")}
    missing = {name for name in options - {"--help", "--json"} if name not in text_of("chat.md")}
    assert not missing


def test_no_file_names_a_place_on_one_machine():
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    place = re.compile(r"(?<![\w.~-])/" + "(?:" + "work|root" + ")/")
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        try:
            text = path.read_text(encoding="utf-8") if path.is_file() else ""
        except UnicodeDecodeError:
            continue  # no text file
        assert not place.search(text), f"{name} names {place.search(text)[0]}"  # type: ignore[index]
