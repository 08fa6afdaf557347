"""The report as Chromium shows it: drawn, quiet, offline, whole at every width, in the dark and on paper."""

import time

import pytest
from tests.conftest import OVERFLOW
from tests.report import samples

from normsmith.report.check_html import findings_to_html
from normsmith.report.html import write_html

pytestmark = pytest.mark.browser

WIDE = {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports")
    write_html(samples.study(samples.fewer_steps(), samples.placement()), folder / "study.html")
    write_html(samples.nasty(), folder / "nasty.html")
    write_html(samples.hostile(), folder / "hostile.html")
    (folder / "check.html").write_text(findings_to_html(samples.findings()), encoding="utf-8")
    return folder


@pytest.fixture
def visit(open_page, reports):
    """Open a report."""
    return lambda name, viewport=WIDE, **options: open_page(
        reports / f"{name}.html", viewport=viewport, **options
    )


DRAWN = """() => [...document.querySelectorAll('.plot, .overview .drawn')].map((plot) => {
  const box = plot.getBoundingClientRect();
  const inked = [...plot.querySelectorAll('use, .stroke, .interval')].filter((mark) => {
    const size = mark.getBoundingClientRect();
    return size.width + size.height > 0;
  });
  return { width: box.width, height: box.height, inked: inked.length, scale: plot.closest('.scale') !== null };
})"""
HIDDEN = """() => [...document.querySelectorAll('.scroll')]
  .filter((table) => table.scrollWidth > table.clientWidth + 1)
  .map((table) => table.getAttribute('aria-label'))"""
LIGHT = {"body": ("background-color", "rgb(253, 252, 250)"), ".tick": ("fill", "rgb(90, 96, 107)")}
DARK = {"body": ("background-color", "rgb(21, 24, 30)"), ".tick": ("fill", "rgb(165, 171, 182)")}


def in_scheme(page, scheme):
    """Page and figures take the colours of `scheme`, within a moment."""
    from playwright.sync_api import expect

    for selector, (name, colour) in scheme.items():
        for element in (page.locator(selector).first, page.locator(selector).last):
            expect(element).to_have_css(name, colour, timeout=10_000)


def test_a_hostile_study_opens_in_three_seconds(visit):
    started = time.perf_counter()
    page = visit("hostile")
    page.evaluate("() => new Promise((shown) => requestAnimationFrame(() => requestAnimationFrame(shown)))")
    assert time.perf_counter() - started < 3
    assert page.evaluate(OVERFLOW) == 0
    assert page.evaluate(HIDDEN) == []


@pytest.mark.parametrize("name", ["study", "nasty", "check"])
def test_figures_draw_attacks_stay_text_and_nothing_is_hidden_sideways(visit, name):
    page = visit(name)
    page.evaluate("() => document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    for width in (1280, 1024, 768, 390):
        page.set_viewport_size({"width": width, "height": 900})
        for figure in page.evaluate(DRAWN):
            assert figure["inked"] >= 1 or figure["scale"], figure
            assert 120 < figure["width"] <= width, figure
            assert figure["height"] >= 20, figure
        assert page.evaluate(OVERFLOW) == 0, width
        assert page.evaluate(HIDDEN) == [], width
    assert page.evaluate("() => document.images.length") == 0
    if name == "nasty":
        assert samples.NASTY in page.locator(".panel b").first.text_content()


@pytest.mark.parametrize("name", ["study", "check"])
def test_the_scheme_follows_the_system_and_paper_is_light(visit, name):
    page = visit(name, color_scheme="dark")
    in_scheme(page, DARK)
    page.emulate_media(color_scheme="light")
    in_scheme(page, LIGHT)
    page.emulate_media(color_scheme="dark", media="print")
    in_scheme(page, LIGHT)


def test_paper_has_no_empty_pages(visit):
    page = visit("study")
    pdf = page.pdf(format="A4")
    assert pdf.startswith(b"%PDF-")
    assert 3 <= pdf.count(b"/Type /Page\n") <= 12


def test_a_line_is_hidden_and_shown_with_the_keyboard(visit):
    page = visit("study")
    line = page.locator("#q1-f2 .line-1")
    button = page.locator("#q1-f2 .key button").nth(1)
    button.focus()
    page.keyboard.press("Enter")
    assert button.get_attribute("aria-pressed") == "false"
    assert not line.is_visible()
    assert page.locator("#q1-f2 .line-0").is_visible()
    page.keyboard.press("Enter")
    assert line.is_visible()


def test_without_javascript_nothing_is_missing(visit):
    page = visit("study", java_script_enabled=False)
    assert page.get_by_text(samples.fewer_steps().headline).first.is_visible()
    assert page.locator("#q1-f2 .line-0 .stroke").is_visible()
    page.locator("#q1-f2 summary").click()
    assert page.locator("#q1-f2 details table").is_visible()
    assert page.locator("#q1-f2 details tbody tr").count() == len(samples.response().lines[0].x)
