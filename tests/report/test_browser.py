"""The report as Chromium shows it: drawn, quiet, offline, on a telephone, in the dark and on paper."""

import shutil

import pytest
from tests.report import samples

from normsmith.report.html import write_html

pytestmark = pytest.mark.browser

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser():
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no Chromium is installed: looked for chromium, chromium-browser and google-chrome")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports")
    write_html(samples.study(samples.fewer_steps(), samples.placement()), folder / "study.html")
    write_html(samples.nasty(), folder / "nasty.html")
    return folder


@pytest.fixture
def visit(browser, reports):
    """Open a report; afterwards, nothing may have gone to the console or over the network."""
    contexts, trouble = [], []

    def open_page(name, viewport=WIDE, **options):
        context = browser.new_context(viewport=viewport, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: trouble.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: trouble.append(f"error: {error}"))
        page.on("request", lambda r: trouble.append(r.url) if not r.url.startswith("file:") else None)
        page.goto((reports / f"{name}.html").as_uri())
        if options.get("java_script_enabled", True):
            page.wait_for_selector("html[data-figures=drawn]", state="attached", timeout=60_000)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert trouble == []


DRAWN = """() => [...document.querySelectorAll('.plot')].map((plot) => {
  const traces = plot.querySelectorAll('.main-svg .scatterlayer .trace');
  const box = plot.querySelector('.main-svg').getBoundingClientRect();
  const inked = [...plot.querySelectorAll('.scatterlayer path')].some((path) => {
    const size = path.getBoundingClientRect();
    return size.width > 0 && size.height > 0;
  });
  return { name: plot.dataset.figure, traces: traces.length, width: box.width, height: box.height, inked };
})"""
OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
LIGHT = {"body": ("background-color", "rgb(253, 252, 250)"), ".xtick text": ("fill", "rgb(90, 96, 107)")}
DARK = {"body": ("background-color", "rgb(21, 24, 30)"), ".xtick text": ("fill", "rgb(165, 171, 182)")}


def in_scheme(page, scheme):
    """Page and figures take the colours of `scheme`, within a moment."""
    from playwright.sync_api import expect

    for selector, (name, colour) in scheme.items():
        for element in (page.locator(selector).first, page.locator(selector).last):
            expect(element).to_have_css(name, colour, timeout=10_000)


@pytest.mark.parametrize(
    ("name", "viewport"),
    [("study", WIDE), ("study", NARROW), ("nasty", NARROW)],
)
def test_figures_draw_attacks_stay_text_and_the_page_does_not_scroll_sideways(visit, name, viewport):
    page = visit(name, viewport)
    figures = page.evaluate(DRAWN)
    assert len(figures) == {"study": 6, "nasty": 4}[name]
    for figure in figures:
        assert figure["traces"] >= 2, figure
        assert figure["inked"], figure
        assert 250 < figure["width"] <= viewport["width"], figure
        assert figure["height"] > 100, figure
    assert page.evaluate(OVERFLOW) == 0
    assert page.evaluate("() => document.images.length") == 0
    if name == "nasty":
        shown = page.evaluate("() => document.querySelector('.plot .annotation-text').textContent")
        assert samples.NASTY in shown


def test_the_scheme_follows_the_system_when_it_changes_and_paper_is_light(visit):
    page = visit("study", color_scheme="dark")
    in_scheme(page, DARK)
    page.emulate_media(color_scheme="light")
    in_scheme(page, LIGHT)
    on_screen = [figure["width"] for figure in page.evaluate(DRAWN)]

    page.emulate_media(color_scheme="dark", media="print")
    in_scheme(page, LIGHT)
    assert {figure["width"] for figure in page.evaluate(DRAWN)} == {640}
    pdf = page.pdf(format="A4")
    assert pdf.startswith(b"%PDF-")
    assert 3 <= pdf.count(b"/Type /Page\n") <= 12

    page.emulate_media(color_scheme="dark", media="screen")
    in_scheme(page, DARK)
    assert [figure["width"] for figure in page.evaluate(DRAWN)] == on_screen


def test_a_line_is_hidden_and_shown_with_the_keyboard(visit):
    page = visit("study")
    shown = "() => document.querySelector('#q1-f2 .plot').querySelectorAll('.scatterlayer .trace').length"
    before = page.evaluate(shown)
    button = page.locator("#q1-f2 .key button").nth(1)
    button.focus()
    page.keyboard.press("Enter")
    assert button.get_attribute("aria-pressed") == "false"
    assert page.evaluate(shown) == before - 3  # its band, its line and its ring
    page.keyboard.press("Enter")
    assert page.evaluate(shown) == before


def test_without_javascript_the_words_and_the_numbers_are_there(visit):
    page = visit("study", java_script_enabled=False)
    assert page.locator("noscript .notice").is_visible()
    assert page.get_by_text(samples.fewer_steps().headline).first.is_visible()
    assert not page.locator(".drawn").first.is_visible()
    page.locator("#q1-f2 summary").click()
    assert page.locator("#q1-f2 details table").is_visible()
    assert page.locator("#q1-f2 details tbody tr").count() == len(samples.response().lines[0].x)
