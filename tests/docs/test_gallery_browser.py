"""The gallery as Chromium shows it: reached by the keyboard, quiet, offline, whole on a telephone and on paper."""

from __future__ import annotations

import pytest
from tests.conftest import OVERFLOW, opening
from tests.docs.pages import DOCS

pytestmark = pytest.mark.browser

PAGE = DOCS / "gallery.html"
BEYOND = """() => [...document.querySelectorAll('svg text, svg use, p, button, dd, li, h3')]
  .filter((element) => element.getBoundingClientRect().right > innerWidth + 1).length"""


@pytest.fixture(scope="module")
def page(browser):
    """The gallery, open for tests that do not ask how the others have left it."""
    with opening(browser) as open_one:
        yield open_one(PAGE)


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_cut_off_with_all_parts_open(page, width):
    page.set_viewport_size({"width": width, "height": 900})
    page.evaluate("() => document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    assert page.evaluate(OVERFLOW) == 0
    assert page.evaluate(BEYOND) == 0


def test_links_lead_to_places_of_the_page_and_ids_are_those_of_one_element(page):
    targets = page.evaluate("() => [...document.querySelectorAll('a')].map((a) => a.getAttribute('href'))")
    ids = page.evaluate("() => [...document.querySelectorAll('[id]')].map((element) => element.id)")
    assert sorted(set(ids)) == sorted(ids)
    within = {target.removeprefix("#") for target in targets if not target.startswith("explorer.html")}
    assert within <= {*ids}


def test_the_keyboard_reaches_a_question_and_opens_its_data(open_page):
    page = open_page(PAGE)
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle") != "none"
    assert page.evaluate("() => document.activeElement.closest('#glance') !== null")
    data = page.locator("#placement details").first
    data.locator("summary").press("Enter")
    assert data.locator("tbody tr").first.is_visible()


def test_the_dark_and_paper(page):
    from playwright.sync_api import expect

    page.set_viewport_size({"width": 1280, "height": 900})
    page.emulate_media(color_scheme="dark")
    expect(page.locator("body")).to_have_css("background-color", "rgb(21, 24, 30)")
    page.emulate_media(media="print", color_scheme="dark")
    expect(page.locator("body")).to_have_css("background-color", "rgb(253, 252, 250)")
    assert not page.locator("nav.contents").is_visible()
    assert page.locator("#placement .findings").first.is_visible()
    page.emulate_media(media="screen", color_scheme="light")
