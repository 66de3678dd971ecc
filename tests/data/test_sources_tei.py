"""TEI: what the header states, the text as it is read, and XML that is made to do harm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reading import collect

from hanse.data.sources import tei
from hanse.errors import InputError
from hanse.recipe import Source

CC_BY = '<licence target="https://creativecommons.org/licenses/by/4.0/">CC BY 4.0</licence>'
TITLE = "<title>Der Schiffbruch</title><author>Kröger, Timm (1844-1918)</author>"


def document(
    body: str = "<p>Es war einmal.</p>",
    *,
    title: str = TITLE,
    licence: str = CC_BY,
    more: str = "",
    attributes: str = 'xml:lang="de" xml:id="DEU001"',
    front: str = "",
) -> str:
    header = (
        f"<teiHeader><fileDesc><titleStmt>{title}</titleStmt>"
        f"<publicationStmt><availability>{licence}</availability></publicationStmt>{more}</fileDesc></teiHeader>"
    )
    text = f"<text>{front}<body>{body}</body></text>"
    return f'<?xml version="1.0"?><TEI xmlns="http://www.tei-c.org/ns/1.0" {attributes}>{header}{text}</TEI>'


def folder(path: Path, **files: str | bytes) -> Source:
    for name, content in files.items():
        (path / f"{name}.xml").write_bytes(content if isinstance(content, bytes) else content.encode())
    return Source(name="novels", kind="tei", path=str(path))


def read_one(path: Path, content: str) -> dict[str, Any]:
    rows, faults = collect(folder(path, a=content))
    assert not faults
    assert len(rows) == 1
    return rows[0]


def test_the_header_becomes_the_record(tmp_path: Path) -> None:
    source = (
        '<sourceDesc><bibl type="digitalSource"><date>2021</date></bibl>'
        '<bibl type="printSource"><date>1925</date></bibl>'
        '<bibl type="firstEdition"><date>um 1897</date></bibl></sourceDesc>'
    )
    row = read_one(tmp_path, document(more=source))
    assert {
        key: row[key]
        for key in ("title", "author", "author_died", "year", "language", "licence", "licence_basis", "source_id")
    } == {
        "title": "Der Schiffbruch",
        "author": "Kröger, Timm (1844-1918)",
        "author_died": 1918,
        "year": 1897,
        "language": "de",
        "licence": "CC-BY-4.0",
        "licence_basis": "stated",
        "source_id": "DEU001",
    }


@pytest.mark.parametrize(
    ("authors", "died"),
    [
        ("<author>Goethe (1749–1832)</author><author>Schiller (1759-1805)</author>", 1832),
        ("<author>Goethe (1749-1832)</author><author>Jemand</author>", None),
        ("<author>Jemand (geb. 1850)</author>", None),
        ("", None),
    ],
)
def test_the_year_of_death_is_the_last_one_and_only_if_all_are_known(
    tmp_path: Path, authors: str, died: int | None
) -> None:
    assert read_one(tmp_path, document(title=f"<title>x</title>{authors}"))["author_died"] == died


@pytest.mark.parametrize(
    ("licence", "spdx"),
    [
        ("<licence target='https://creativecommons.org/licenses/by-sa/3.0/de/'/>", "CC-BY-SA-3.0-DE"),
        ("<p>Available under CC BY-NC 4.0.</p>", "CC-BY-NC-4.0"),
        ("<p>See <ref target='https://creativecommons.org/publicdomain/zero/1.0/'>here</ref></p>", "CC0-1.0"),
        (
            "<licence target='https://creativecommons.org/licenses/by/4.0/'>CC BY-NC 4.0</licence>",
            "CC-BY-4.0 AND CC-BY-NC-4.0",
        ),
    ],
)
def test_a_licence_is_read_from_address_or_words(tmp_path: Path, licence: str, spdx: str) -> None:
    assert read_one(tmp_path, document(licence=licence))["licence"] == spdx


@pytest.mark.parametrize("licence", [f"<!-- {CC_BY} -->", "<p>Free to read.</p>", "<p>CC-BY</p>", ""])
def test_a_licence_in_a_comment_or_without_a_name_is_none(tmp_path: Path, licence: str) -> None:
    rows, faults = collect(folder(tmp_path, a=document(), b=document(licence=licence)))
    assert [row["file"] for row in rows] == ["a.xml"]
    assert [(f.file, f.reason) for f in faults] == [("b.xml", "licence-missing")]


def test_the_body_is_read_by_paragraphs_without_what_is_around_it(tmp_path: Path) -> None:
    body = """
      <div><head>Erstes   Kapitel</head>
        <p>Er ging<lb/>hinaus, und<note n="1">Nein.</note> die <hi rend="italic">See</hi>
           war ruh<lb break="no"/>ig.<pb n="3"/></p>
        <p>Sie sprach:
           <quote><lg><l>Vers eins,</l><l>Vers zwei.</l></lg></quote></p>
        <fw type="header">Kolumnentitel</fw>
        <p>Ein <choice><sic>Feler</sic><corr>Fehler</corr></choice>,
           <choice><orig>seyn</orig><reg>sein</reg></choice> <del>weg</del>.</p>
        <p>Allein <sic>stehnd</sic>.</p>
      </div>"""
    row = read_one(
        tmp_path, document(body, front="<front><titlePage><docTitle>Titelblatt</docTitle></titlePage></front>")
    )
    assert row["text"].split("\n\n") == [
        "Erstes Kapitel",
        "Er ging hinaus, und die See war ruhig.",
        "Sie sprach:",
        "Vers eins,\nVers zwei.",
        "Ein Fehler, sein .",
        "Allein stehnd.",
    ]


def test_annotated_words_join_as_they_were_written(tmp_path: Path) -> None:
    body = '<u><seg><s>\n<w>Guten</w>\n<w join="right">Tag</w>\n<pc>!</pc>\n</s></seg>\n<seg>Danke.</seg></u>'
    assert read_one(tmp_path, document(body))["text"] == "Guten Tag!\nDanke."


def test_each_text_of_a_corpus_is_a_document_and_inherits_the_licence(tmp_path: Path) -> None:
    inner = [document(f"<p>Text {n}.</p>", licence="", attributes="").partition("?>")[2] for n in (1, 2)]
    statement = f"<publicationStmt><availability>{CC_BY}</availability></publicationStmt>"
    header = f"<teiHeader><fileDesc>{statement}</fileDesc></teiHeader>"
    corpus = f'<teiCorpus xmlns="http://www.tei-c.org/ns/1.0">{header}{"".join(inner)}</teiCorpus>'
    rows, faults = collect(folder(tmp_path, a=corpus))
    assert not faults
    assert [(row["line"], row["text"], row["licence"]) for row in rows] == [
        (1, "Text 1.", "CC-BY-4.0"),
        (2, "Text 2.", "CC-BY-4.0"),
    ]


BILLION = (
    '<!DOCTYPE TEI [<!ENTITY a0 "lol">' + "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10)) + "]>"
)
HARM = {
    "entities": (document("<p>&a9;</p>").replace("?>", f"?>{BILLION}", 1), "not-xml or entity"),
    "entities in an attribute": (document('<p n="&a9;">x</p>').replace("?>", f"?>{BILLION}", 1), "not-xml"),
    "a file of the machine": (
        document("<p>&file;</p>").replace("?>", '?><!DOCTYPE TEI [<!ENTITY file SYSTEM "file:///etc/passwd">]>', 1),
        "entity",
    ),
    "an entity of a DTD": (
        document("<p>a &mdash; b</p>").replace("?>", '?><!DOCTYPE TEI SYSTEM "http://127.0.0.1:1/tei.dtd">', 1),
        "entity",
    ),
    "depth": (document("<div>" * 100_000 + "</div>" * 100_000), "not-xml"),
    "cut off": (document()[:-20], "not-xml"),
    "no XML": ("Es war einmal.", "not-xml"),
    "nothing": ("", "not-xml"),
    "another XML": ("<html><body/></html>", "not-tei"),
    "wrong encoding": (document().encode("latin-1").replace(b'"1.0"', b'"1.0" encoding="utf-8"', 1), "not-xml"),
    "unknown encoding": (document().replace('"1.0"', '"1.0" encoding="klingon"', 1), "not-xml"),
}


@pytest.mark.parametrize("name", HARM)
def test_harmful_or_broken_xml_is_a_fault(tmp_path: Path, name: str) -> None:
    content, reason = HARM[name]
    rows, faults = collect(folder(tmp_path, bad=content, good=document()))
    assert [row["file"] for row in rows] == ["good.xml"]
    assert [f.file for f in faults] == ["bad.xml"]
    assert faults[0].reason in reason.split(" or ")
    assert "root:" not in faults[0].detail


def test_a_file_over_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folder(tmp_path, bad=document("<p>x</p>" * 500), good=document())
    monkeypatch.setattr(tei, "MAX_FILE_BYTES", 2000)
    rows, faults = collect(source)
    assert [row["file"] for row in rows] == ["good.xml"]
    assert [f.reason for f in faults] == ["too-long"]


def test_an_older_encoding_that_is_declared_is_read(tmp_path: Path) -> None:
    content = document("<p>Größe</p>").replace('"1.0"', '"1.0" encoding="iso-8859-1"', 1).encode("iso-8859-1")
    rows, _ = collect(folder(tmp_path, a=content))
    assert rows[0]["text"] == "Größe"


elements = st.sampled_from(
    ["p", "l", "lb", "note", "choice", "sic", "corr", "div", "w", "head", "quote", "TEI", "text", "body"]
)
trees = st.recursive(
    st.text(st.characters(codec="utf-8", exclude_characters="<&>", exclude_categories=("Cc", "Cs")), max_size=5),
    lambda inner: st.tuples(elements, st.lists(inner, max_size=4)).map(
        lambda pair: f"<{pair[0]}>{''.join(pair[1])}</{pair[0]}>"
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=trees)
def test_any_sound_body_is_read(tmp_path: Path, body: str) -> None:
    try:
        rows, faults = collect(folder(tmp_path, a=document(body)))
    except InputError as error:
        assert "is not XML" in str(error)
        return
    assert rows
    assert all(fault.reason == "licence-missing" for fault in faults)  # a <TEI> in the body has no header
