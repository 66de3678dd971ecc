"""TEI, the XML of digital editions: header for the record, body for the text.

The parser fetches nothing and expands nothing. A licence counts where the header states it, never inside an XML
comment. Left out are front and back matter, notes, running heads and apparatus; of a choice the regularised reading is
taken.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import IO, Any

from hanse.data.schema import BadRecord
from hanse.data.sources.records import Found, whole
from hanse.data.sources.statements import all_of, spdx_of_url, spdx_of_words

MAX_FILE_BYTES = 16 * 2**20
MAX_FIELD = 1000  # characters of a title or author

_ROOTS = ("TEI", "TEI.2")
_SKIPPED = frozenset(
    (
        "teiHeader", "front", "back", "note", "notes", "figDesc", "fw", "facsimile", "standOff", "sic", "orig", "abbr",
        "rdg", "del", "surplus", "listBibl", "index", "desc", "vocal", "kinesic", "incident", "gap",
    )
)  # fmt: skip
# In a <choice> these have a better reading beside them; alone they are all there is.
_ALTERNATIVES = frozenset(("sic", "orig", "abbr"))
_PARAGRAPHS = frozenset(
    ("p", "ab", "head", "lg", "u", "div", "div1", "div2", "div3", "div4", "div5", "sp", "list", "table", "quote",
     "floatingText", "opener", "closer", "trailer", "argument", "epigraph", "salute", "signed", "dateline")
)  # fmt: skip
_LINES = frozenset(("l", "item", "row", "speaker", "stage", "seg", "label", "byline"))
_SPACES = frozenset(("lb", "pb", "cb", "milestone", "cell"))
_PARAGRAPH, _LINE = "\x1d", "\x1e"  # characters that XML 1.0 forbids
_LIFE = re.compile(r"\b(1\d{3}|20\d{2})\s?[-–—]\s?(1\d{3}|20\d{2})\b")
_YEAR = re.compile(r"(?<!\d)(1\d{3}|20\d{2})(?!\d)")
_XML = "{http://www.w3.org/XML/1998/namespace}"


def records(stream: IO[bytes], name: str) -> Iterator[Found]:
    """One record for each TEI element of the file: one, or many in a teiCorpus."""
    try:
        root = _parsed(whole(stream, most=MAX_FILE_BYTES))
    except BadRecord as fault:
        yield Found(0, fault)
        return
    texts = [element for element in root.iter("{*}TEI", "{*}TEI.2")]
    if not texts:
        yield Found(0, BadRecord("not-tei", f"the file is XML, but its root is <{_local(root)}> and holds no <TEI>"))
    for number, element in enumerate(texts, start=1):
        yield Found(number, _record(element))


def _parsed(content: bytes) -> Any:
    from lxml import etree

    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, remove_comments=True, remove_pis=True
    )
    try:
        root = etree.fromstring(content, parser)
    except (etree.XMLSyntaxError, ValueError, LookupError) as error:
        raise BadRecord("not-xml", f"the file is not XML: {str(error)[:200]}") from None
    for entity in root.iter(etree.Entity):
        # Left out, they would be lost without a word; expanded, they are how XML bombs are made.
        raise BadRecord("entity", f"the file uses the entity {entity.text[:40]}, which only its DTD defines; expand it")
    return root


def _record(element: Any) -> dict[str, Any]:
    header = element.find("{*}teiHeader")
    if header is None:
        header = element.makeelement("teiHeader")
    authors = [name for author in header.iterfind("{*}fileDesc/{*}titleStmt/{*}author") if (name := _words(author))]
    licence, statement = _licence(element, header)
    extra = {"licence_statement": statement[:MAX_FIELD]} if statement and not licence else None
    return {
        "text": _text(element),
        "id": element.get(f"{_XML}id"),
        "language": _language(element, header),
        "title": _title(header),
        "author": "; ".join(authors)[:MAX_FIELD] or None,
        "author_died": _author_died(authors),
        "year": _year(header),
        "url": _address(header),
        "licence": licence,
        "licence_basis": "stated" if licence else None,
        "extra": extra,
    }


def _title(header: Any) -> str | None:
    titles = list(header.iterfind("{*}fileDesc/{*}titleStmt/{*}title"))
    main = [title for title in titles if title.get("type") in (None, "main")] or titles
    return (_words(main[0])[:MAX_FIELD] or None) if main else None


def _author_died(authors: list[str]) -> int | None:
    """The last year of death, if each author's is given; rights in a joint work end with the last of them."""
    lives = [_LIFE.search(author) for author in authors]
    return max((int(life[2]) for life in lives if life), default=None) if all(lives) else None


def _year(header: Any) -> int | None:
    """Of the first edition, else the earliest year among the sources or of creation; never of the digital edition."""
    first = [
        bibl.iterfind("{*}date")
        for bibl in header.iterfind(".//{*}sourceDesc//{*}bibl")
        if bibl.get("type") == "firstEdition"
    ]
    for dates in (
        [date for found in first for date in found],
        list(header.iterfind(".//{*}profileDesc/{*}creation/{*}date")),
        list(header.iterfind(".//{*}sourceDesc//{*}date")),
    ):
        stated = [f"{date.get('when') or date.get('notAfter') or ''} {_words(date)}" for date in dates]
        years = [int(match[1]) for words in stated if (match := _YEAR.search(words))]
        if years:
            return min(years)
    return None


def _licence(element: Any, header: Any) -> tuple[str | None, str]:
    """SPDX of what the header states, its own or that of the corpus around it, and the words of the statement."""
    corpora = [corpus.find("{*}teiHeader") for corpus in element.iterancestors("{*}teiCorpus")]
    for each in (header, *(corpus for corpus in corpora if corpus is not None)):
        for availability in each.iterfind("{*}fileDesc/{*}publicationStmt//{*}availability"):
            targets = [
                address
                for place in availability.iter("{*}licence", "{*}license", "{*}ref", "{*}ptr")
                for address in (place.get("target") or "").split()
            ]
            words = _words(availability)
            found = all_of([*map(spdx_of_url, targets), *(spdx_of_words(words) or "").split(" AND ")])
            if found or words or targets:
                return found, words or " ".join(targets)
    return None, ""


def _language(element: Any, header: Any) -> str | None:
    """Of the text, else of the whole, else the only one or most used one that the header lists."""
    text = element.find("{*}text")
    for place in (text, element):
        if place is not None and place.get(f"{_XML}lang"):
            return place.get(f"{_XML}lang")
    listed = [language for language in header.iterfind(".//{*}langUsage/{*}language") if language.get("ident")]
    usage = [int(found) if (found := language.get("usage") or "").isdecimal() else 0 for language in listed]
    if len(listed) == 1 or (listed and sorted(usage)[-1] > sorted(usage)[-2]):
        return listed[usage.index(max(usage))].get("ident")
    return None


def _address(header: Any) -> str | None:
    for identifier in header.iterfind("{*}fileDesc/{*}publicationStmt/{*}idno"):
        words = _words(identifier)
        if words.startswith(("https://", "http://")):
            return words[:MAX_FIELD].split()[0]
    return None


def _text(element: Any) -> str:
    """Paragraphs apart by an empty line, verses and the like by a line break."""
    bodies = [
        body for body in element.iterfind(".//{*}body") if next(body.iterancestors("{*}floatingText"), None) is None
    ]
    pieces: list[str] = []
    for body in bodies:
        if next(body.iterancestors(*(f"{{*}}{tag}" for tag in _ROOTS))) is element:
            _collect(body, pieces)
            pieces.append(_PARAGRAPH)
    paragraphs = []
    for paragraph in "".join(pieces).split(_PARAGRAPH):
        lines = [" ".join(line.split()) for line in paragraph.split(_LINE)]
        if any(lines):
            paragraphs.append("\n".join(filter(None, lines)))
    return "\n\n".join(paragraphs)


def _collect(body: Any, pieces: list[str]) -> None:
    from lxml import etree

    walk = etree.iterwalk(body, events=("start", "end"))
    is_skipped: Any = None
    for event, element in walk:
        tag = _local(element)
        pause = _PARAGRAPH if tag in _PARAGRAPHS else _LINE if tag in _LINES else " " if tag in _SPACES else ""
        if tag == "lb" and element.get("break") == "no":
            pause = ""
        if event == "start":
            if _is_left_out(element, tag):
                is_skipped = element
                walk.skip_subtree()
            else:
                pieces.append(pause + (element.text or ""))
        else:
            if element is is_skipped:
                is_skipped, pause = None, ""
            if element is not body:
                # Tokens of an annotated text are lines of XML; only their own mark says that no blank follows.
                joins = tag in ("w", "pc") and element.get("join") in ("right", "both")
                pieces.append(pause + ("" if joins else element.tail or ""))


def _is_left_out(element: Any, tag: str) -> bool:
    if tag in _ALTERNATIVES:
        parent = element.getparent()
        return parent is not None and _local(parent) == "choice" and len(parent) > 1
    return tag in _SKIPPED


def _words(element: Any) -> str:
    """The text of an element, white space collapsed."""
    return " ".join("".join(element.itertext()).split())


def _local(element: Any) -> str:
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""
