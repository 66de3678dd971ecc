"""The pages of papers in a real browser: the views, a narrow screen, both colour schemes, and nothing fetched."""

import shutil

import pytest

from hanse.release.papers import documentation, pack, summary

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE_SECONDS = 120.0  # however busy the machine is
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")]
OPTIONS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update"
)


@pytest.fixture(scope="module")
def folder(papers_ledger, tmp_path_factory):
    place = tmp_path_factory.mktemp("pages")
    pack.write([summary.paper(papers_ledger), documentation.paper(papers_ledger)], papers_ledger, place)
    return place


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM, args=OPTIONS.split(), timeout=PATIENCE_SECONDS * 1000
        )
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, folder):
    contexts = []

    def run(name: str, **settings):
        context = browser.new_context(**settings)
        context.set_default_timeout(PATIENCE_SECONDS * 1000)
        contexts.append(context)
        page = context.new_page()
        page.asked, page.said = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("console", lambda message: page.said.append(message.text))
        page.goto(f"file://{folder / name}")
        return page

    yield run
    for context in contexts:
        context.close()


@pytest.mark.parametrize("name", ["public-summary.html", "model-documentation-form.html", "index.html"])
@pytest.mark.parametrize("width", [360, 1280])
def test_a_page_fits_its_screen_and_fetches_nothing(open_page, name, width):
    page = open_page(name, viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert len(page.asked) == 1 and page.said == []


def test_each_view_shows_what_its_reader_gets(open_page):
    page = open_page("model-documentation-form.html")
    exact, band = page.get_by_text("Total model size: parameters"), page.get_by_text("Total model size: band")
    assert exact.is_visible() and band.is_visible()
    page.get_by_label("national competent authorities").check()
    assert not exact.is_visible() and band.is_visible()
    assert page.get_by_text("The view of national competent authorities").is_visible()
    page.get_by_label("AI Office").check()
    assert exact.is_visible() and not band.is_visible()
    page.emulate_media(media="print")
    assert exact.is_visible() and not band.is_visible() and not page.get_by_label("AI Office").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_the_page_in_both_schemes(open_page, scheme):
    page = open_page("public-summary.html", color_scheme=scheme)
    colours = page.evaluate(
        "[...document.querySelectorAll('body, .source, .open, dt, .about')].map(e => getComputedStyle(e).color)"
    )
    behind = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert all(_contrast(colour, behind) >= 4.5 for colour in set(colours)), (set(colours), behind)


def test_printed_on_a4_no_table_is_cut_off(open_page):
    page = open_page("public-summary.html", viewport={"width": 672, "height": 950})  # 178 mm at 96 dots an inch
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth") <= 672
    assert page.pdf(format="A4").startswith(b"%PDF")


def _contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours (WCAG 2.2, 1.4.3)."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in colour.removeprefix("rgb(").rstrip(")").split(",")]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
