"""How papers look: nothing from outside gets out of its place, whatever it says."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import html as parser
from markdown_it import MarkdownIt

from hanse.release.papers import render
from hanse.release.papers.paper import NO_ADVICE, Cell, Entry, Paper, Section, Table, not_applicable

HOSTILE = (
    "</style><script>alert(1)</script>", "<img src=x onerror=alert(1)>", "a | b | c", "x](javascript:alert(1))",
    "[click](javascript:alert(1))", "javascript:alert(1)", "https://example.org/\" onmouseover=\"alert(1)", "`code",
    "\n\n# heading\n\n<b>", "\u202egnp.exe", "1. one", "> quoted", "~~gone~~", "&lt;script&gt;", "{{ 7*7 }}", "\\",
    "\\|", "data:text/html,<script>alert(1)</script>", "<https://evil.example>", "www.evil.example", "```\nfence",
    "\x1b[2J", "- item", "| --- |", "--&gt;<!--", "a\u2028b", "\ud800",
)  # fmt: skip
ANYTHING = st.one_of(st.text(max_size=40), st.sampled_from(HOSTILE), st.text("|\\`*_[]<>#-~&\n!().: ", max_size=12))
VALUES = st.one_of(ANYTHING, st.none(), st.booleans(), st.integers(), st.lists(ANYTHING, max_size=3))
CELLS = st.builds(Cell, VALUES, ANYTHING, ANYTHING)
READERS = st.sampled_from([(), ("AIO",), ("AIO", "NCA"), ("DP",)])
ENTRIES = st.builds(
    Entry, ANYTHING, ANYTHING, CELLS, is_mandatory=st.booleans(), key=st.sampled_from(["", "a.b"]), readers=READERS
)
TABLES = st.integers(1, 4).flatmap(
    lambda width: st.builds(
        Table, st.tuples(*[ANYTHING] * width), st.lists(st.tuples(*[CELLS] * width), max_size=3).map(tuple),
        title=ANYTHING, note=ANYTHING, readers=READERS,
    )
)  # fmt: skip
SECTIONS = st.builds(Section, ANYTHING, ANYTHING, st.lists(st.one_of(ENTRIES, TABLES, ANYTHING), max_size=4).map(tuple))
PAPERS = st.builds(Paper, st.just("p"), ANYTHING, ANYTHING, st.lists(SECTIONS, max_size=3).map(tuple))


def one(*body, title="A paper") -> Paper:
    return Paper("p", title, "About it.", (Section("1", "Part", body),))


@settings(max_examples=40)
@given(PAPERS)
def test_a_page_runs_nothing_loads_nothing_and_links_nowhere_but_to_the_web(paper):
    page = render.html(paper)
    tree = parser.document_fromstring(page)
    assert not tree.xpath("//script | //iframe | //object | //embed | //img | //link | //form | //svg | //base")
    assert not re.search("url\\(|@import|expression\\(", tree.xpath("string(//style)"))
    for element in tree.iter():
        for name, value in element.attrib.items():
            assert not name.startswith("on"), (element.tag, name)
            if name in ("href", "src"):
                assert name == "href" and re.match("https?://|#s\\d+$", value), value
    policy = tree.xpath("string(//meta[@http-equiv='Content-Security-Policy']/@content)")
    assert policy.startswith("default-src 'none'")


@settings(max_examples=40)
@given(PAPERS)
def test_a_page_has_one_answer_for_each_question_and_names_its_rows_and_columns(paper):
    tree = parser.document_fromstring(render.html(paper))
    entries = [part for section in paper.sections for part in section.body if isinstance(part, Entry)]
    assert len(tree.xpath("//dl/div")) == len(entries)
    assert all(each.text_content().strip() for each in tree.xpath("//dd/p"))
    tables = [part for section in paper.sections for part in section.body if isinstance(part, Table) and part.rows]
    assert len(tree.xpath("//table")) == len(tables)
    for shown, table in zip(tree.xpath("//table"), tables, strict=True):
        assert len(shown.xpath(".//thead//th[@scope='col']")) == len(table.columns)
        assert len(shown.xpath(".//tbody//th[@scope='row']")) == len(table.rows)
        answers, behind = shown.xpath(".//tbody/tr[1]"), shown.xpath(".//tbody/tr[2]/td")
        assert [len(row.xpath("./th | ./td")) for row in answers] == [len(table.columns)] * len(table.rows)
        assert [each.get("colspan") for each in behind] == [str(len(table.columns))] * len(table.rows)
        assert all(each.text_content().strip() for each in shown.xpath(".//tbody//th | .//tbody//td"))


@settings(max_examples=40)
@given(PAPERS)
def test_markdown_tables_keep_their_shape_and_hold_no_html_and_no_link(paper):
    text = render.markdown(paper)
    tokens = MarkdownIt("commonmark", {"html": True, "linkify": False}).enable(["table", "strikethrough"]).parse(text)
    kinds = {token.type for token in tokens} | {child.type for token in tokens for child in token.children or ()}
    assert not kinds & {
        "html_block",
        "html_inline",
        "link_open",
        "image",
        "fence",
        "code_block",
        "code_inline",
        "s_open",
    }
    assert not kinds & {"bullet_list_open", "ordered_list_open", "blockquote_open", "hr"}
    assert sum(token.type == "heading_open" for token in tokens) == 1 + len(paper.sections)
    rows = sum(
        1 + len(part.rows) if part.rows else 0
        for section in paper.sections for part in section.body if isinstance(part, Table)
    )  # fmt: skip
    runs = sum(
        isinstance(part, Entry) and (number == 0 or not isinstance(section.body[number - 1], Entry))
        for section in paper.sections for number, part in enumerate(section.body)
    )  # fmt: skip
    entries = sum(isinstance(part, Entry) for section in paper.sections for part in section.body)
    assert sum(token.type == "tr_open" for token in tokens) == rows + runs + entries


@settings(max_examples=40)
@given(PAPERS)
def test_json_gives_every_value_back(paper):
    data = json.loads(render.as_json(paper).encode("utf-8"))
    assert data["title"] == paper.title and data["notice"] == NO_ADVICE
    assert [each["title"] for each in data["sections"]] == [section.title for section in paper.sections]
    for section, shown in zip(paper.sections, data["sections"], strict=True):
        for part, said in zip(section.body, shown["body"], strict=True):
            if isinstance(part, Entry):
                assert said["value"] == (part.cell.value if part.cell.is_recorded else None)
                assert said["source"] == part.cell.source and said["shown"] == part.cell.shown()
            elif isinstance(part, str):
                assert said["text"] == part


@settings(max_examples=40)
@given(PAPERS)
def test_every_paper_says_that_it_is_no_advice_and_is_utf8(paper):
    for text in (render.markdown(paper), render.html(paper), render.as_json(paper)):
        assert NO_ADVICE in text
        text.encode("utf-8")


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text):
    paper = one(Entry("1", text, Cell(text, text)), Table((text,), ((Cell(text, text),),), title=text, note=text), text)
    tree = parser.document_fromstring(render.html(paper))
    assert not tree.xpath("//script | //b[not(ancestor::bdi)] | //img")
    assert [a.get("href") for a in tree.xpath("//a")] in (["#s1"], ["#s1", *[text] * 2])


@pytest.mark.parametrize("text", ["https://example.org/a?b=c#d", "http://example.org"])
def test_the_address_of_a_page_becomes_a_link(text):
    assert f'<a href="{text}"' in render.html(one(Entry("", "Link", Cell(text, "record"))))


@pytest.mark.parametrize(
    "text", ["javascript:alert(1)", "https://", "see https://example.org", "data:text/html,x", "https://[", "HTTPS://A"]
)
def test_nothing_else_becomes_a_link(text):
    assert render.link(text) == ""


def test_each_answer_shows_what_backs_it_and_what_is_missing_where_to_say_it():
    paper = one(
        Entry("1.1", "Name", Cell("Lab", "answers.toml provider.name")),
        Entry("1.2", "Size", Cell(None), is_mandatory=True, key="provider.size"),
        Entry("1.3", "Speed", Cell(None)),
        Entry("1.4", "Wings", not_applicable("it does not fly", "model/a/1 step.json")),
    )
    for text in (render.markdown(paper), parser.document_fromstring(render.html(paper)).text_content()):
        plain = text.replace("\\", "")
        for part in ("answers.toml provider.name", "mandatory; asked for in answers.toml provider.size", "no record",
                     "not applicable: it does not fly", "not recorded"):  # fmt: skip
            assert part in plain, part


def views() -> Paper:
    return one(
        Entry("", "Everyone", Cell("all", "r")),
        Entry("", "Exact", Cell(2_853_184, "r"), readers=("AIO",)),
        Entry("", "Band", Cell("1 to 500 million", "r"), readers=("NCA", "DP")),
        Table(("secret",), ((Cell("x", "r"),),), title="Steps", readers=("AIO", "NCA")),
    )


def test_a_recipient_sees_what_is_for_him_and_for_all():
    seen = {reader: render.markdown(views(), reader=reader) for reader in render.READERS}
    assert "2,853,184" in seen["AIO"] and "1 to 500" not in seen["AIO"] and "Steps" in seen["AIO"]
    assert "2,853,184" not in seen["NCA"] and "1 to 500" in seen["NCA"] and "Steps" in seen["NCA"]
    assert "Steps" not in seen["DP"] and "1 to 500" in seen["DP"]
    assert all("Everyone" in text for text in seen.values())
    assert "| for |" in render.markdown(views()) and "| for |" not in seen["DP"]


def test_one_page_holds_the_views_of_all_recipients():
    page = render.html(views())
    for name in render.READERS:
        assert f'id="view-{name}"' in page
        assert f'[data-readers]:not([data-readers~="{name}"])' in page
    tree = parser.document_fromstring(page)
    assert [each.get("data-readers") for each in tree.xpath("//*[@data-readers]")] == ["AIO", "NCA DP", "AIO NCA"]
    assert "view-" not in render.html(one(Entry("", "Q", Cell("a", "r"))))


def test_headings_follow_the_numbers_from_the_second_level_on():
    def levels(*numbers: str) -> list[int]:
        return render.levels(Paper("p", "", "", tuple(Section(number, "", ()) for number in numbers)))

    assert levels("", "1", "1.1", "2", "2.2", "2.2.1") == [2, 2, 3, 2, 3, 4]
    assert levels("1.1", "1.2", "") == [2, 2, 2]
    assert levels() == []


def test_the_index_links_every_paper_and_counts_what_is_open():
    paper = one(Entry("", "Q", Cell(None), is_mandatory=True), Entry("", "R", Cell(1, "r")), title="<b>T</b>")
    tree = parser.document_fromstring(render.index("Papers", [paper]))
    assert [each.get("href") for each in tree.xpath("//a")] == ["p.html", "p.md", "p.json"]
    assert [each.text_content() for each in tree.xpath("//td[contains(@class, 'number')]")] == ["2", "1", "1"]
    assert not tree.xpath("//b")
