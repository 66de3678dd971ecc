"""The page: well-formed, self-contained, harmless whatever it shows, and the same for the same chapters."""

import re
from html.parser import HTMLParser

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hanse.report import plain
from hanse.report.page import Chapter, Column, Quote, Quotes, Section, Table, counts, render, save, texts

VOID = {"meta", "br", "hr", "img", "input", "link"}
ACTIVE = {"script", "link", "iframe", "object", "embed", "img", "base", "form", "video", "audio"}


class Page(HTMLParser):
    """Reads a page and fails on anything that is not closed, loads something, runs something, or leads elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.languages: list[str] = []
        self.rows: list[list[str]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open
        assert len(set(self.ids)) == len(self.ids)
        assert set(self.targets) <= {f"#{each}" for each in self.ids}
        assert not re.search(r"@import|url\(", text.split("</style>")[0])

    def handle_starttag(self, tag, attributes):
        assert tag not in ACTIVE
        for key, value in attributes:
            assert key not in ("src", "srcset", "style", "xlink:href", "action") and not key.startswith("on")
            self.ids += [value] if key == "id" else []
            self.targets += [value] if key == "href" else []
            self.languages += [value] if key == "lang" else []
        self.tags.append(tag)
        self.rows += [[]] if tag == "tr" else []
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        assert tag == "rect" and "svg" in self.open  # HTML knows self-closing tags in foreign elements only

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if self.open and ("td" in self.open or "th" in self.open):
            self.rows[-1][-1] += data


def page_of(*blocks: Table | Quotes, title: str = "T") -> tuple[str, Page]:
    text = render(title, [Chapter(title, ((title, title),), (Section(title, (title,), blocks),))])
    return text, Page(text)


def table(rows, *columns: Column, **more) -> Table:
    return Table("Caption", columns, tuple(rows), **more)


def test_cells_read_as_their_kind_says():
    columns = (*texts("name"), *counts("n"), Column("b", "bytes"), Column("s", "share"), Column("r", "ratio"))
    _, page = page_of(table([("x", 1234, 1_500_000, 0.25, 1.126), ("y", None, None, None, None)], *columns))
    assert page.rows[1:] == [["x", "1,234", "1.5 MB", "25.0 %", "1.13"], ["y", *["not recorded"] * 4]]


def test_rows_over_the_limit_are_counted_and_summed():
    _, page = page_of(
        table([(f"row {n}", n, 0.5) for n in range(150)], *texts("name"), *counts("n"), Column("s", "share"))
    )
    assert len(page.rows) == 1 + 30 + 1
    assert page.rows[-1] == ["and 120 more", f"{sum(range(30, 150)):,}", ""]
    _, page = page_of(table([(f"row {n}", n) for n in range(40)], *texts("name"), *counts("n"), adds_up=False))
    assert page.rows[-1] == ["and 10 more", ""]
    _, page = page_of(table([(f"row {n}", n) for n in range(40)], *texts("name"), *counts("n"), found=5000))
    assert page.rows[-1] == ["and 4,970 more", ""]


def test_bars_are_shares_of_the_largest():
    text, _ = page_of(table([("a", 50), ("b", 200), ("c", 0)], *texts("name"), Column("n", "count", has_bar=True)))
    assert re.findall(r'<rect width="([\d.]+)"', text) == ["25.0", "100.0", "0.0"]
    text, _ = page_of(table([("a", 0)], *texts("name"), Column("n", "count", has_bar=True)))
    assert "<rect" not in text


def test_tables_are_named_and_their_rows_have_heads():
    text, page = page_of(table([("a", 1)], *texts("name"), *counts("n")))
    assert page.tags.count("caption") == page.tags.count("table") == 1
    assert '<th scope="row"><bdi>a</bdi></th>' in text and text.count('<th scope="col"') == 2


def test_empty_table_says_so():
    _, page = page_of(table([], *texts("name")))
    assert "table" not in page.tags and "Caption: none." in page.words


def test_language_of_a_quotation_is_marked_only_if_it_is_one():
    _, page = page_of(Quotes("Q", (Quote("a", "x", "de"), Quote("b", "y", '"><b'), Quote("c", "z"))))
    assert page.languages == ["en", "de"]


def test_nothing_can_be_loaded_or_run():
    text, _ = page_of()
    assert "default-src 'none'" in text
    assert "http:" not in text and "https:" not in text


@settings(max_examples=40, deadline=None)
@example("\u202egnp.exe\u2066\x1b[2J\x07\x9b\ud800")
@given(st.text(st.characters(codec=None), max_size=60))
def test_hostile_text_is_shown_and_nothing_else(hostile):
    text, page = page_of(
        table([(hostile, hostile)], *texts(hostile, "other")), Quotes(hostile, (Quote(hostile, hostile, hostile),)),
        title=hostile,
    )  # fmt: skip
    text.encode("utf-8")
    assert page.rows[1] == [plain.shortened(hostile, 300)] * 2
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)
    assert page.tags.count("blockquote") == 1


@pytest.mark.parametrize(
    "attack", ["<script>alert(1)</script>", "'\"><img src=x onerror=alert(1)>", "&lt;b&gt;", "{{ 7 * 7 }}"]
)
def test_markup_in_text_is_text(attack):
    text, page = page_of(table([(attack, attack)], *texts(attack, "x")), title=attack)
    assert "<script" not in text and "<img" not in text
    assert page.rows[1] == [attack, attack]


def test_saving_replaces_a_page_in_one_step_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "new" / "page.html"
    save(path, "one")
    save(path, "zwei ü")
    assert path.read_text(encoding="utf-8") == "zwei ü"
    assert [each.name for each in path.parent.iterdir()] == ["page.html"]


@given(st.text(st.characters(codec=None)), st.integers(1, 50))
def test_shortened_text_is_one_line_within_its_width(text, width):
    line = plain.shortened(text, width)
    assert len(line) <= width and "\n" not in line and "\x1b" not in line
    assert line == plain.visible(text) or line.endswith("…")


@pytest.mark.parametrize(
    ("number", "expected"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_949, "999.9 kB"), (999_950, "1.0 MB"), (10**18, "1,000.0 PB")],
)
def test_sizes_change_unit_before_they_need_four_digits(number, expected):
    assert plain.size(number) == expected


@pytest.mark.parametrize(
    ("part", "expected"), [(0, "0.0 %"), (1e-9, "<0.1 %"), (0.5, "50.0 %"), (0.99999, ">99.9 %"), (1, "100.0 %")]
)
def test_shares_never_round_to_nothing_or_all(part, expected):
    assert plain.share(part) == expected
