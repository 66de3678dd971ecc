"""Web pages: encoding, main text, title, language, address, licence statement, and what the page says about its use.

Comments under an article are left out: they belong to other people. What a page declares is recorded as declared; a
licence found in it has the basis "detected".
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from html import unescape
from typing import IO, Any, Literal
from urllib.parse import urljoin, urlsplit

from hanse.data.rights.evidence import Evidence
from hanse.data.schema import BadRecord
from hanse.data.sources.markup import bounded
from hanse.data.sources.records import Found
from hanse.data.sources.statements import all_of, spdx_of_url
from hanse.errors import InputError

Extractor = Literal["resiliparse", "trafilatura"]

MAX_PAGE_BYTES = 8 * 2**20
MOST_ELEMENTS = 500  # of <meta>, <link> and the like that are looked at
MAX_TITLE = 1000  # characters
_SNIFFED_BYTES = 4096
_DETECTED_BYTES = 2**17

_META_CHARSET = re.compile(
    rb"<meta[^>]{1,500}?charset\s{0,9}=\s{0,9}[\"']?\s{0,9}([a-zA-Z0-9_:.-]{2,40})", re.IGNORECASE
)
_XML_ENCODING = re.compile(rb"<\?xml[^>]{1,200}?encoding\s{0,9}=\s{0,9}[\"']([a-zA-Z0-9_:.-]{2,40})", re.IGNORECASE)
_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_LANGUAGE = re.compile(r"\s*([A-Za-z]{2,3})(?:[-_][A-Za-z0-9_-]{0,32})?\s*")
_TITLE = re.compile(r"<title\b[^>]{0,500}+>([^<]*+(?:<(?!/title\b)[^<]*+)*+)", re.IGNORECASE)


def records(stream: IO[bytes], name: str, *, extractor: Extractor) -> Iterator[Found]:
    """One record, the page. Nobody recorded when it was fetched, so its evidence has no date."""
    content = stream.read(MAX_PAGE_BYTES + 1)
    try:
        record, evidence = read_page(content, place=name, extractor=extractor)
    except BadRecord as fault:
        yield Found(0, fault)
        return
    yield Found(1, record, evidence)


def read_page(
    content: bytes, *, place: str, extractor: Extractor, charset: str = "", url: str = "", seen: str = ""
) -> tuple[dict[str, Any], tuple[Evidence, ...]]:
    """The record of a page and the evidence in its head.

    Args:
        content: the bytes of the page.
        place: stands for the address where the page names none.
        extractor: what finds the main text.
        charset: the encoding that the server named, or "".
        url: where the page was fetched, or "": then the page's canonical address is taken.
        seen: day on which it was fetched, ISO 8601, or "".

    Raises:
        BadRecord: too long, nested too deeply, too many elements, or in no encoding that fits.
        InputError: trafilatura is asked for and not installed.
    """
    from resiliparse.parse.html import HTMLTree

    from hanse.data.rights import signals

    if len(content) > MAX_PAGE_BYTES:
        raise BadRecord("too-long", f"the page is longer than {MAX_PAGE_BYTES // 2**20} MiB")
    page, encoding = decode(content, charset)
    title = _TITLE.search(page)
    page = bounded(page)
    tree = HTMLTree.parse(page)
    canonical = _canonical(tree, url)
    address = url or canonical or ""
    licence, mark = _licence(tree, address)
    extra = {"encoding": encoding} if encoding != "utf-8" else {}
    extra |= {"licence_mark": mark} if licence else {}
    extra |= {"canonical": canonical} if canonical and canonical != address else {}
    record = {
        "text": _main_text(tree, page, extractor),
        "title": " ".join(unescape(title[1][: 4 * MAX_TITLE]).split())[:MAX_TITLE] or None if title else None,
        "language": _language(tree),
        "url": address or None,
        "licence": licence,
        "licence_basis": "detected" if licence else None,
        "extra": extra or None,
    }
    found = {"url": address or place, "seen": seen}
    evidence = [*signals.from_meta(_metas(tree), **found), *signals.from_links(_links(tree), **found)]
    return record, tuple(evidence)


def decode(content: bytes, charset: str = "") -> tuple[str, str]:
    """The text of a page and the name of its encoding.

    A byte order mark decides. Else bytes that are valid UTF-8 are UTF-8 whatever is declared, because other text
    hardly ever is by chance, and pages that were converted often still declare what they were. Then what the server
    said, what the page says, and what the detector believes, the first that fits without a broken character.

    Raises:
        BadRecord: none of them fits.
    """
    from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5

    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return _decoded(content[len(mark) :], encoding), encoding
    if b"\0" not in content[:_SNIFFED_BYTES]:
        try:
            return content.decode("utf-8"), "utf-8"
        except UnicodeDecodeError:
            pass
    head = content[:_SNIFFED_BYTES]
    declared = [match[1].decode("ascii") for match in (_META_CHARSET.search(head), _XML_ENCODING.search(head)) if match]
    detected = detect_encoding(content[:_DETECTED_BYTES])
    for label in (charset, *declared, detected):
        # Only labels of the WHATWG standard: Python also knows codecs that are no encodings of text.
        known = map_encoding_to_html5(label, fallback_utf8=False) if label else None
        if known and known.lower() != "utf-8":
            try:
                return content.decode(known), known.lower()
            except (UnicodeDecodeError, LookupError):
                continue
    raise BadRecord("not-decodable", "the page is in no encoding that it declares, nor in one that could be detected")


def _decoded(content: bytes, encoding: str) -> str:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise BadRecord(
            "not-decodable", f"the page begins with the mark of {encoding}, but byte {error.start + 1} is not"
        ) from None


def _main_text(tree: Any, page: str, extractor: Extractor) -> str:
    if extractor == "trafilatura":
        return _by_trafilatura(page)
    from resiliparse.extract.html2text import extract_plain_text

    return extract_plain_text(tree, main_content=True, alt_texts=False, comments=False, preserve_formatting=True)


def _by_trafilatura(page: str) -> str:
    try:
        import trafilatura
    except ImportError:
        raise InputError(
            "extractor: trafilatura is not installed; pip install 'hanse[web]', or take resiliparse."
        ) from None
    return trafilatura.extract(page, include_comments=False, include_images=False, deduplicate=False) or ""


def _language(tree: Any) -> str | None:
    root = tree.document.document_element
    for name in ("lang", "xml:lang"):
        match = _LANGUAGE.fullmatch((root.get_attribute(name) if root else None) or "")
        if match:
            return match[1]
    return None


def _canonical(tree: Any, base: str) -> str | None:
    link = tree.document.query_selector("link[rel~=canonical]")
    href = (link.get_attribute("href") or "").strip() if link else ""
    return _absolute(href, base) if href else None


def _absolute(href: str, base: str) -> str | None:
    """A web address, or None: a relative one without a base leads nowhere."""
    try:
        address = urljoin(base, href)
        parts = urlsplit(address)
        return address if parts.scheme in ("http", "https") and parts.hostname else None
    except ValueError:
        return None


def _licence(tree: Any, base: str) -> tuple[str | None, str]:
    """SPDX, and by which mark: a link that says it leads to the licence, or at least one to Creative Commons."""
    places = (
        ("rel", "link[rel~=license], a[rel~=license], area[rel~=license]"),
        ("link", 'a[href*="creativecommons.org/"]'),
    )
    for mark, selector in places:
        links = tree.document.query_selector_all(selector)
        addresses = [link.get_attribute("href") or "" for link in links[:MOST_ELEMENTS]]
        licence = all_of(spdx_of_url(address) for address in addresses)
        if licence:
            return licence, mark
    return None, ""


def _metas(tree: Any) -> list[tuple[str, str]]:
    """Name and content of the <meta> elements; an http-equiv counts as a name."""
    found = []
    for meta in tree.document.query_selector_all("meta")[:MOST_ELEMENTS]:
        name = meta.get_attribute("name") or meta.get_attribute("http-equiv") or meta.get_attribute("property")
        if name:
            found.append((name, meta.get_attribute("content") or ""))
    return found


def _links(tree: Any) -> list[tuple[str, str, str]]:
    """Relation, media type and address of the <link> elements that speak of a licence."""
    found = tree.document.query_selector_all("link[rel~=license]")[:MOST_ELEMENTS]
    return [
        (link.get_attribute("rel") or "", link.get_attribute("type") or "", link.get_attribute("href") or "")
        for link in found
    ]
