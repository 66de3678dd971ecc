"""Web pages: encodings, what a page says about itself, and pages that are made to exhaust a parser."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reading import collect

from hanse.data.schema import BadRecord
from hanse.data.sources import html, markup
from hanse.data.sources.statements import all_of, spdx_of_url, spdx_of_words
from hanse.errors import InputError
from hanse.recipe import Source

SENTENCE = "Am Hafen liegen die Schiffe, und über den Dächern kreisen Möwen; früh am Morgen öffnet der Markt."
ARTICLE = f"<article><h1>Hafen</h1><p>{SENTENCE}</p><p>{SENTENCE}</p></article>"


def page(body: str = ARTICLE, head: str = "", attributes: str = 'lang="de"') -> str:
    return f"<!DOCTYPE html><html {attributes}><head><title>Der Hafen</title>{head}</head><body>{body}</body></html>"


def read(content: str | bytes, **fields: Any) -> dict[str, Any]:
    """The record of a page, with its evidence."""
    raw = content.encode() if isinstance(content, str) else content
    record, evidence = html.read_page(raw, **{"place": "page.html", "extractor": "resiliparse", **fields})
    return {**record, "evidence": evidence}


def test_a_folder_of_pages_becomes_documents(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.htm").write_text(page(), encoding="utf-8")
    (tmp_path / "b.html").write_text(page(attributes=""), encoding="utf-8")
    (tmp_path / "c.css").write_text("p {}")
    rows, faults = collect(Source(name="web", kind="html", path=str(tmp_path), licence="CC0-1.0"))
    assert not faults
    assert [(r["file"], r["line"], r["language"], r["title"]) for r in rows] == [
        ("b.html", 1, None, "Der Hafen"),
        ("deep/a.htm", 1, "de", "Der Hafen"),
    ]
    assert SENTENCE in rows[0]["text"]
    assert "<" not in rows[0]["text"]


def test_navigation_scripts_and_comments_of_readers_are_left_out() -> None:
    noise = '<nav><a href="/">Start</a></nav><script>var tracker = 1</script><style>p {}</style>'
    comments = '<div id="comments" class="comments"><p>Ganz meine Meinung!</p></div>'
    text = read(page(noise + ARTICLE + comments))["text"]
    assert SENTENCE in text
    assert not {"Start", "tracker", "p {}", "Meinung"} & {
        word for word in ("Start", "tracker", "p {}", "Meinung") if word in text
    }


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "windows-1252", "iso-8859-15", "utf-16-be"])
@pytest.mark.parametrize("says", ["meta", "server", "nothing"])
def test_the_text_is_found_in_every_encoding(encoding: str, says: str) -> None:
    if encoding == "utf-16-be" and says != "server":
        pytest.skip("no mark, and an ASCII meta element cannot be read in it")
    head = f'<meta charset="{encoding}">' if says == "meta" else ""
    record = read(page(head=head).encode(encoding), charset=encoding if says == "server" else "")
    assert SENTENCE in record["text"]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (page(head='<meta charset="iso-8859-1">').encode("utf-8"), "utf-8"),  # converted, and the label left behind
        (page(head='<meta charset="utf-8">').encode("cp1252"), "cp1252"),
        (page(head='<meta charset="rot13">').encode("cp1252"), "cp1252"),
        (page(head='<meta charset="zip">').encode("utf-8"), "utf-8"),
        (
            page(head="<meta http-equiv=Content-Type content='text/html; charset=windows-1250'>").encode("cp1250"),
            "cp1250",
        ),
        (b'<?xml version="1.0" encoding="iso-8859-15"?>' + page().encode("iso-8859-15"), "iso8859-15"),
    ],
)
def test_a_wrong_encoding_is_recovered_and_recorded(content: bytes, found: str) -> None:
    record = read(content)
    assert SENTENCE in record["text"]
    assert (record["extra"] or {}).get("encoding", "utf-8") == found


@pytest.mark.parametrize("content", [b"\xff\xfe\x00\xd8\x00", b"\xef\xbb\xbf\xff", b"\x00\x81\x8d\x8f\x90\x9d" * 50])
def test_bytes_in_no_encoding_are_refused(content: bytes) -> None:
    with pytest.raises(BadRecord, match="not-decodable"):
        read(content)


@pytest.mark.parametrize(
    ("body", "licence", "mark"),
    [
        ('<a rel="license" href="https://creativecommons.org/licenses/by-sa/4.0/deed.de">x</a>', "CC-BY-SA-4.0", "rel"),
        ('<a rel="nofollow license" href="//creativecommons.org/licenses/by/3.0/de/">x</a>', "CC-BY-3.0-DE", "rel"),
        ('<a href="http://creativecommons.org/publicdomain/zero/1.0/">x</a>', "CC0-1.0", "link"),
        ('<a rel="license" href="/terms">x</a>', None, None),
        ('<a href="https://example.org/?to=creativecommons.org/licenses/by/4.0/">x</a>', None, None),
        ('<!-- <a rel="license" href="https://creativecommons.org/licenses/by/4.0/">x</a> -->', None, None),
        (
            '<a rel=license href="https://creativecommons.org/licenses/by/4.0/">x</a>'
            '<a rel=license href="https://creativecommons.org/licenses/by-nc/4.0/">x</a>',
            "CC-BY-4.0 AND CC-BY-NC-4.0",
            "rel",
        ),
    ],
)
def test_a_licence_is_read_from_links_and_has_the_basis_detected(
    body: str, licence: str | None, mark: str | None
) -> None:
    record = read(page(ARTICLE + body))
    assert record["licence"] == licence
    assert record["licence_basis"] == ("detected" if licence else None)
    assert (record["extra"] or {}).get("licence_mark") == mark


def test_the_licence_of_the_page_beats_that_of_the_source_and_its_basis(tmp_path: Path) -> None:
    link = '<link rel="license" href="https://creativecommons.org/licenses/by/4.0/">'
    (tmp_path / "a.html").write_text(page(head=link))
    (tmp_path / "b.html").write_text(page())
    source = Source(name="web", kind="html", path=str(tmp_path), licence="MIT", licence_basis="stated")
    rows, _ = collect(source)
    assert [(row["licence"], row["licence_basis"]) for row in rows] == [("CC-BY-4.0", "detected"), ("MIT", "stated")]


def test_text_under_a_mining_exception_needs_no_licence(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(page())
    rows, faults = collect(Source(name="web", kind="html", path=str(tmp_path), licence_basis="tdm-art-4"))
    assert not faults
    assert [(row["licence"], row["licence_basis"]) for row in rows] == [("NOASSERTION", "tdm-art-4")]


def test_the_canonical_address_is_taken_where_nobody_knows_a_better_one() -> None:
    head = '<link rel="canonical" href="https://example.org/hafen">'
    assert read(page(head=head))["url"] == "https://example.org/hafen"
    fetched = read(page(head=head), url="https://m.example.org/hafen?x=1")
    assert fetched["url"] == "https://m.example.org/hafen?x=1"
    assert fetched["extra"] == {"canonical": "https://example.org/hafen"}
    assert read(page(head='<link rel="canonical" href="/hafen">'))["url"] is None
    assert read(page(head='<link rel="canonical" href="javascript:alert(1)">'))["url"] is None


def test_what_the_head_says_about_use_becomes_evidence_in_the_row(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        page(head='<meta name="tdm-reservation" content="1"><meta name=robots content=noai>')
    )
    rows, _ = collect(Source(name="web", kind="html", path=str(tmp_path), licence="MIT"))
    found = [(e.kind, e.says, e.seen, e.place) for e in rows[0]["evidence"]]
    assert found == [("tdmrep-meta", "reserved", "", "a.html"), ("robots-meta", "reserved", "", "a.html")]


@pytest.mark.parametrize(
    ("attributes", "language"), [('lang="de-AT"', "de"), ('xml:lang="sv"', "sv"), ('lang="utf-8?"', None), ("", None)]
)
def test_the_language_is_what_the_root_declares(attributes: str, language: str | None) -> None:
    assert read(page(attributes=attributes))["language"] == language


BOMBS = {
    "deep": ("<div>" * 100_000 + "x", "too-deep"),
    "deep tables": ("<table><tr><td>" * 30_000 + "x", "too-deep"),
    "long": ("x" * (html.MAX_PAGE_BYTES + 1), "too-long"),
    "wide": ("<br>" * 500_000, "too-many-elements"),
    "attributes": ("<p " + " ".join(f"a{n}" for n in range(50_000)) + ">x", "too-many-attributes"),
    "attributes after a bracket": (
        '<p a=">" ' + " ".join(f"a{n}" for n in range(50_000)) + ">x",
        "too-many-attributes",
    ),
    "reopened": ("<p>" + "".join(f"<b id={n}>" for n in range(1000)) + "<p>x" * 50_000, "too-deep"),
    "deep and wide": ("<div>" * 400 + "<p>x" * 100_000, "too-deep"),
    "hidden ends": ("<div>" * 2000 + '<p a="' + "</div>" * 2000 + '">' + "<div>" * 2000, "too-deep"),
    "hidden in a script": ('<script>if (x<y a="</script>' + "<div>" * 4000 + '">', "too-deep"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_page_that_would_exhaust_the_parser_is_refused(tmp_path: Path, name: str) -> None:
    content, reason = BOMBS[name]
    (tmp_path / "bomb.html").write_text(content)
    (tmp_path / "good.html").write_text(page())
    rows, faults = collect(Source(name="web", kind="html", path=str(tmp_path), licence="MIT"))
    assert [row["file"] for row in rows] == ["good.html"]
    assert [(fault.file, fault.reason) for fault in faults] == [("bomb.html", reason)]


@pytest.mark.parametrize(
    "content",
    [
        '<a b="' * 1000,
        "<" * 100_000,
        "<!--" * 1000,
        "<script>" * 1000,
        '="' * 50_000,
        "<title" * 10_000,
        "<a " + " " * 100_000,
        "&amp" * 9999,
    ],
)
def test_unfinished_markup_is_no_trouble(content: str) -> None:
    assert isinstance(read(page(content))["text"], str)


def test_brackets_in_attributes_and_code_do_not_change_the_text() -> None:
    code = "<pre><code>value='a' <span>+</span> list='b<c'</code></pre>"
    text = read(page(f'<article><p title="a > b" data-x="<p>no</p>">{SENTENCE}</p>{code}<p>{SENTENCE}</p></article>'))[
        "text"
    ]
    assert text.count(SENTENCE) == 2
    assert "no" not in text.replace(SENTENCE, "")


pieces = st.sampled_from(
    [
        "<div>",
        "</div>",
        "<p>",
        "<b a=1>",
        '="',
        "'",
        ">",
        "<",
        "<!--",
        "-->",
        "<script>",
        "</script>",
        "<a href='",
        "x ",
        "/",
        "=",
        "<svg>",
        "\0",
    ]
)


@settings(max_examples=300, deadline=None)
@given(content=st.lists(pieces, max_size=60).map("".join) | st.text(max_size=60))
def test_no_markup_crashes_the_reader(content: str) -> None:
    try:
        record = read(content)
    except BadRecord as fault:
        assert fault.reason == "not-decodable"
        return
    assert isinstance(record["text"], str)


@settings(max_examples=300, deadline=None)
@given(content=st.lists(pieces, max_size=60).map("".join))
def test_after_cleaning_a_tag_ends_at_the_first_bracket(content: str) -> None:
    """What the counting of depth relies on: no quoted value of a tag holds a bracket."""
    from html.parser import HTMLParser

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            assert not any(">" in (value or "") for _, value in attributes), content

    Tags(convert_charrefs=False).feed(markup.bounded(content))


def test_trafilatura_is_an_option_and_says_so_when_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trafilatura")
    assert SENTENCE in read(page(), extractor="trafilatura")["text"]
    monkeypatch.setitem(sys.modules, "trafilatura", None)
    with pytest.raises(InputError, match=r"pip install 'hanse\[web\]'"):
        read(page(), extractor="trafilatura")


@pytest.mark.parametrize(
    ("url", "spdx"),
    [
        ("https://creativecommons.org/licenses/by/4.0/", "CC-BY-4.0"),
        ("http://www.creativecommons.org/licenses/by-nc-nd/3.0/igo/legalcode", "CC-BY-NC-ND-3.0-IGO"),
        ("https://creativecommons.org/licenses/by-nd-nc/1.0", "CC-BY-NC-ND-1.0"),
        ("https://creativecommons.org/licenses/by/3.0/fr/", "LicenseRef-CC-BY-3.0-FR"),
        ("https://creativecommons.org/licenses/by/4.0/deed.fr", "CC-BY-4.0"),
        ("https://creativecommons.org/publicdomain/mark/1.0/", "CC-PDM-1.0"),
        ("https://creativecommons.org/licenses/by/", None),
        ("https://creativecommons.org/licenses/all-rights/4.0/", None),
        ("https://creativecommons.org.evil.example/licenses/by/4.0/", None),
        ("https://joinup.ec.europa.eu/collection/eupl/eupl-text-eupl-12", "EUPL-1.2"),
        ("https://www.nationalarchives.gov.uk/doc/open-government-licence/version/3/", "OGL-UK-3.0"),
        ("https://spdx.org/licenses/0BSD.html", "0BSD"),
        ("https://[broken", None),
    ],
)
def test_addresses_stand_for_licences(url: str, spdx: str | None) -> None:
    assert spdx_of_url(url) == spdx


@pytest.mark.parametrize(
    ("words", "spdx"),
    [
        ("This text is available under CC BY-SA 4.0.", "CC-BY-SA-4.0"),
        ("Creative Commons Attribution 4.0 International (CC BY 4.0)", "CC-BY-4.0"),
        ("Creative Commons Attribution-NonCommercial-ShareAlike 3.0", "CC-BY-NC-SA-3.0"),
        ("Creative Commons Attribution 4.0, that is CC BY-NC 4.0", "CC-BY-4.0 AND CC-BY-NC-4.0"),
        ("CC0", "CC0-1.0"),
        ("CC-BY", None),
        ("Licensed under the EUPL, version 1.2", "EUPL-1.2"),
        ("All rights reserved.", None),
    ],
)
def test_words_stand_for_licences_when_they_name_a_version(words: str, spdx: str | None) -> None:
    assert spdx_of_words(words) == spdx


def test_more_licences_than_a_page_can_have_are_contradictory() -> None:
    assert all_of(f"X-{n}" for n in range(9)) == "LicenseRef-contradictory"
    assert all_of([None, None]) is None


def test_extra_of_a_page_is_plain_json(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_bytes(page().encode("cp1252"))
    rows, _ = collect(Source(name="web", kind="html", path=str(tmp_path), licence="MIT"))
    assert json.loads(rows[0]["extra"]) == {"encoding": "cp1252"}
