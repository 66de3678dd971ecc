"""Markup made harmless: HTML that no parser runs out of time or memory on.

Parsers that follow the HTML standard can be made to build far more than they are given, or to search a deep stack for
every tag. Measured on resiliparse 2.0.1 (Lexbor): 100,000 nested <div>, 1 MB, keep it busy for minutes; 50,000
attributes on one tag, 440 kB, for 7 s; 1,000 unclosed <b id=...> before 1,000 paragraphs, 14 kB, fill 370 MB.

To know a page's depth before it is parsed, one has to read its tags as the parser will. So whatever makes that hard is
taken out first: elements that are read by rules of their own (comments, scripts, ...) and angle brackets in quoted
values. After that a tag ends at the first ">", whatever the page tries, and counting is exact. Every expression here is
linear: it consumes what it has looked at.
"""

from __future__ import annotations

import re

from hanse.data.schema import BadRecord

MOST_TAGS = 400_000
MOST_DEPTH = 512  # elements inside one another; browsers stop here too
# Tags times the depth they stand at, because the extractor climbs: 500 deep, 300,000 paragraphs took it 19 s.
MOST_STEPS = 10_000_000
MOST_ATTRIBUTES = 500  # of one tag
# With this few tags no nesting is deep enough to cost a second, and no reopening fills 100 MB.
_TAGS_WITHOUT_DEPTH, _TAGS_WITHOUT_REOPENING = 3000, 600
_LONG_TAG = 1500  # characters; a shorter one cannot hold that many attributes

# Elements without text for us, or with content that is no markup; an unclosed one reaches to the end.
_UNREAD = re.compile(
    r"<!--(?:-?>|[^-]*+(?:-(?!->|-!>)[^-]*+)*+(?:--!?>|\Z))"
    r"|<(script|style|template|svg|math|noscript|iframe|object|textarea|title|xmp|noembed|noframes|plaintext|select)"
    r"(?=[\s/>]|\Z)[^<]*+(?:<(?!/\1(?:[\s/>]|\Z))[^<]*+)*+(?:</\1[^>]*+>?|\Z)",
    re.IGNORECASE,
)
# A formatting element that was not closed is opened again in each block that follows (HTML standard, 13.2.4.3). As a
# span it reads the same and stays closed.
_FORMATTING = re.compile(r"<(/?)(?:b|big|code|em|font|i|nobr|s|small|strike|strong|tt|u)(?=[\s/>])", re.IGNORECASE)
# From a "<" over what can stand in a tag, to a quoted value that holds a bracket or does not end.
_PLAIN = r"""[^<>"'=]++|=(?!\s*+["'])|["']"""
_BRACKET_IN_VALUE = re.compile(rf"""<(?:{_PLAIN}|=\s*+"[^"<>]*+"|=\s*+'[^'<>]*+')*+(?==)""")
_WHOLE_TAG = re.compile(rf"""<[a-zA-Z](?:{_PLAIN}|=\s*+"[^"]*+(?:"|\Z)|=\s*+'[^']*+(?:'|\Z))*+>?""")
_OPEN_QUOTE = re.compile(r"""=\s*+["']""")
_BRACKETS = str.maketrans("<>", "  ")
_LONG = re.compile(rf"<[a-zA-Z][^>]{{{_LONG_TAG}}}")
_TAG = re.compile(r"<(?:(/?)([a-zA-Z][^\s/>]*+)([^>]*+)|[!?/][^>]*+)")
_QUOTED_VALUE = re.compile(r"""=\s*+(?:"[^"]*+"|'[^']*+')""")
_SEPARATOR = re.compile(r"[\s/]+")
# Elements that end by themselves or hold no other of their kind, so that leaving them unclosed nests nothing.
_FLAT = frozenset(
    (
        "a", "area", "base", "body", "br", "col", "colgroup", "dd", "dt", "embed", "head", "hr", "html", "img", "input",
        "li", "link", "meta", "p", "param", "rp", "rt", "source", "tbody", "td", "tfoot", "th", "thead", "tr", "track",
        "wbr",
    )
)  # fmt: skip


def bounded(page: str) -> str:
    """The page without what is never text, fit for any parser.

    Raises:
        BadRecord: nested too deeply, too many elements, or too many attributes on one.
    """
    page = _UNREAD.sub(" ", page)
    if _BRACKET_IN_VALUE.search(page):
        page = _WHOLE_TAG.sub(_without_brackets, page)
        if _BRACKET_IN_VALUE.search(page):  # the quotes do not pair, so none of them counts
            page = _OPEN_QUOTE.sub("= ", page)
    tags = page.count("<")
    if tags > MOST_TAGS:
        raise BadRecord("too-many-elements", f"the page has more than {MOST_TAGS} tags")
    if _LONG.search(page):
        _check_attributes(page)
    if tags > _TAGS_WITHOUT_DEPTH:
        _check_depth(page)
    return _FORMATTING.sub(r"<\1span", page) if tags > _TAGS_WITHOUT_REOPENING else page


def _without_brackets(tag: re.Match[str]) -> str:
    inner = tag[0][1:].removesuffix(">")
    return f"<{inner.translate(_BRACKETS)}>" if "<" in inner or ">" in inner else tag[0]


def _check_attributes(page: str) -> None:
    for _, _, attributes in _TAG.findall(page):
        if len(attributes) > _LONG_TAG:
            count = len(_SEPARATOR.findall(_QUOTED_VALUE.sub(" ", attributes)))
            if count > MOST_ATTRIBUTES:
                raise BadRecord("too-many-attributes", f"a tag has more than {MOST_ATTRIBUTES} attributes")


def _check_depth(page: str) -> None:
    depth = deepest = steps = 0
    for closing, tag, _ in _TAG.findall(page):
        steps += depth
        if tag and tag.lower() not in _FLAT:
            depth = depth + 1 if not closing else max(0, depth - 1)
            deepest = max(deepest, depth)
    if deepest > MOST_DEPTH:
        raise BadRecord("too-deep", f"the page nests elements {deepest} deep; the limit is {MOST_DEPTH}")
    if steps > MOST_STEPS:
        raise BadRecord("too-deep", "the page has too many elements that deep")
