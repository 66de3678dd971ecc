"""What to look for in a table of documents, and which rows of a batch are meant."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from hanse.errors import InputError

if TYPE_CHECKING:
    import argparse

    import numpy as np
    import pyarrow as pa


#: How each is asked for on a command line: what its value is called, and what it means.
_OPTIONS = {
    "author": ("A", "part of the author's name"),
    "title": ("T", "part of the title"),
    "domain": ("D", "a domain, with those below it"),
    "url": ("U", "the beginning of the address"),
    "licence": ("L", "as SPDX, exactly"),
    "source": ("S", "name of the source or collection, exactly"),
    "file": ("F", "file of the source"),
    "line": ("N", "line or row in the file, from 1"),
    "id": ("ID", "of one document"),
    "language": ("XX", "ISO 639-1 code"),
}


@dataclass(frozen=True)
class Criteria:
    """What a document has to be; all that is given has to hold.

    Attributes:
        author, title: contained, upper case or lower (simple case folding; composed and decomposed letters are equal).
        domain: the domain itself, or one below it; in Unicode or as IDNA.
        url: the beginning.
        licence, language, id: exactly.
        source: exactly; the name in the recipe, or the collection that the document names.
        file: where it was read, as recorded: relative to the source. A longer path that ends so will do.
        line: line or row in the file, from 1.

    Raises:
        InputError: nothing is given, something empty, or a line without its file.
    """

    author: str | None = None
    title: str | None = None
    domain: str | None = None
    url: str | None = None
    licence: str | None = None
    source: str | None = None
    file: str | None = None
    line: int | None = None
    id: str | None = None
    language: str | None = None

    def __post_init__(self) -> None:
        given = self.given()
        if not given:
            raise InputError(
                f"nothing to look for; give one or more of --{', --'.join(each.name for each in fields(self))}."
            )
        for name, value in given.items():
            if isinstance(value, str) and not value.strip():
                raise InputError(f"--{name}: is empty; say what to look for, or leave it out.")
        if self.line is not None and (self.file is None or self.line < 1):
            raise InputError(f"--line {self.line}: counts from 1 within a file; name that with --file.")
        if self.domain is not None and "/" in self.domain:
            raise InputError(f"--domain {self.domain}: write a host name such as example.org, or use --url.")

    def given(self) -> dict[str, Any]:
        """What was asked for, by column."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def columns(self) -> set[str]:
        """The columns that `hits` looks at; those besides the given ones may be missing."""
        return {*self.given(), *(("collection",) if self.source is not None else ())}

    def hits(self, table: pa.Table) -> np.ndarray:
        """Which rows are meant, bool."""
        import numpy as np
        import pyarrow.compute as pc

        mask = np.ones(len(table), bool)
        for name, value in self.given().items():
            if not mask.any():
                break
            mask &= np.asarray(pc.fill_null(_TESTS.get(name, _equals)(table, name, value), False))
        return mask


def add_options(parser: argparse._ActionsContainer, names: Iterable[str] = tuple(_OPTIONS)) -> None:
    """Give a command line options for these criteria, by default for all."""
    for name in names:
        metavar, text = _OPTIONS[name]
        parser.add_argument(f"--{name}", type=int if name == "line" else str, metavar=metavar, help=text)


def _equals(table: pa.Table, name: str, value: Any) -> Any:
    import pyarrow.compute as pc

    return pc.equal(table[name], value)


def _contains(table: pa.Table, name: str, value: str) -> Any:
    import pyarrow.compute as pc

    # Decomposed, because Arrow up to 25 only decomposes, whatever form is asked for (apache/arrow#51225).
    decomposed = pc.utf8_normalize(table[name], form="NFD")
    return pc.match_substring(decomposed, unicodedata.normalize("NFD", value), ignore_case=True)


def _begins(table: pa.Table, name: str, value: str) -> Any:
    import pyarrow.compute as pc

    return pc.starts_with(table[name], value)


def _below(table: pa.Table, name: str, value: str) -> Any:
    import pyarrow.compute as pc

    hosts = pc.utf8_rtrim(table[name], characters=".")
    domain = value.strip().strip(".").lower()
    hits = None
    for spelling in sorted({domain, *_spellings(domain)}):
        here = pc.or_(pc.equal(hosts, spelling), pc.ends_with(hosts, f".{spelling}"))
        hits = here if hits is None else pc.or_(hits, here)
    return hits


def _spellings(domain: str) -> list[str]:
    """The same domain in ASCII and in Unicode (IDNA, RFC 3490), as far as it is one."""
    try:
        ascii_form = domain.encode("idna")
        return [ascii_form.decode("ascii"), ascii_form.decode("idna")]
    except UnicodeError:
        return []


def _of_source(table: pa.Table, name: str, value: str) -> Any:
    import pyarrow.compute as pc

    hits = pc.equal(table[name], value)
    return pc.or_kleene(hits, pc.equal(table["collection"], value)) if "collection" in table.column_names else hits


def _in_file(table: pa.Table, name: str, value: str) -> Any:
    import pyarrow as pa

    encoded = table[name].combine_chunks().dictionary_encode()
    fits = [value == path or value.endswith(f"/{path}") for path in encoded.dictionary.to_pylist()]
    return pa.array(fits, pa.bool_()).take(encoded.indices)


_TESTS: Mapping[str, Callable[[Any, str, Any], Any]] = {
    "author": _contains, "title": _contains, "domain": _below, "url": _begins, "source": _of_source, "file": _in_file,
}  # fmt: skip
