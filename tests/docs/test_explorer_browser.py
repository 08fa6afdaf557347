"""The explorer page as Chromium shows it: driven by the keyboard, quiet, offline, whole on a telephone and on paper."""

from __future__ import annotations

import json
import re
from functools import partial

import pytest
from tests.conftest import OVERFLOW
from tests.docs.pages import DOCS

pytestmark = pytest.mark.browser

PAGE = DOCS / "explorer.html"
KEPT = json.loads((DOCS / "_static/explorer.json").read_text(encoding="utf-8"))
FOCUS = """() => [document.activeElement.id || document.activeElement.name,
  getComputedStyle(document.activeElement).outlineStyle]"""
BEYOND = """() => [...document.querySelectorAll('svg text, svg use, p, button, dd')]
  .filter((element) => element.getBoundingClientRect().right > innerWidth + 1).length"""


@pytest.fixture
def visit(open_page):
    """Open the page, as wide as is said."""
    return partial(open_page, PAGE)


def accuracies(key, momentum):
    run = KEPT["runs"][key]
    return (
        f"{run['evaluation'][momentum]['accuracy'][-1]} % in evaluation and {run['train']['accuracy'][-1]} %"
    )


def test_the_keyboard_moves_sliders_and_the_sentence_follows(visit):
    page = visit(1280)
    said = page.locator("#summary")
    assert accuracies("batch/before/64/0.25/1", "0.1") in said.text_content()
    page.locator("#batch").focus()
    for _ in range(4):
        page.keyboard.press("ArrowLeft")
    assert said.text_content().startswith("At batch size 2 and learning rate 1/4, batch norm before")
    assert accuracies("batch/before/2/0.25/1", "0.1") in said.text_content()
    assert page.locator("#batch").get_attribute("aria-valuetext") == "2"
    page.locator("#momentum").focus()
    page.keyboard.press("End")
    assert accuracies("batch/before/2/0.25/1", "0.5") in said.text_content()
    page.locator("input[value=batch]").focus()
    page.keyboard.press("ArrowUp")  # radio buttons: one tab stop, arrows choose
    assert "the network without a norm" in said.text_content()
    assert page.locator("#momentum").is_disabled()
    assert page.locator("input[value=after]").is_disabled()


def test_every_control_is_reached_and_shows_where_the_focus_is(visit):
    page = visit(1280)
    reached = []
    for _ in range(14):
        page.keyboard.press("Tab")
        focus = page.evaluate(FOCUS)
        reached.append(focus[0])
        assert focus[1] != "none", focus
    wanted = ["norm", "where", "batch", "rate", "momentum", "gain"]
    assert [name for name in reached if name in wanted] == wanted


def test_scaled_weights_and_what_they_were_run_with_go_together(visit):
    """What a change takes back is said, and no picture shows other runs than its title says."""
    page = visit(1280)
    note = page.locator("[data-note=batch]")
    page.locator("#batch").fill("0")
    page.locator("#gain").fill("4")
    assert (
        page.locator("#summary")
        .text_content()
        .startswith("At batch size 64 and learning rate 1/4 and with initial weights × 16")
    )
    assert note.text_content().startswith("Went from 2 to 64: scaled weights were run at batch size 64")
    assert page.locator("#compare .chart p:first-child").all_text_contents() == [
        "Accuracy over the learning rate, %",
        "Accuracy over the batch size, %. Not as chosen: initial weights × 1",
        "Accuracy over the factor on the initial weights, %",
    ]
    page.locator("#batch").fill("0")
    assert page.locator("#gain-value").text_content() == "× 1"
    assert note.text_content() == ""
    assert page.locator("[data-note=gain]").text_content().startswith("Went from × 16 to × 1")
    page.locator("input[value=renorm]").check()
    assert page.locator("[data-note=momentum]").text_content() == "Off: batch renorm was run with 0.1 alone."


def test_the_address_keeps_the_settings_and_the_sentence(visit):
    page = visit(1280)
    said, beside = page.locator("#summary"), page.locator("#beside")
    for press in ("ArrowLeft", "ArrowLeft"):
        page.locator("#batch").press(press)
    assert "batch=8&" in page.url
    page.get_by_role("button", name="Show batch renorm").first.press("Enter")
    renorm = page.url
    beside.get_by_role("button", name="Previous").press("Enter")
    assert (
        beside.locator("blockquote").text_content() == page.locator("#says-small blockquote").text_content()
    )
    page.go_back()
    assert page.url == renorm
    assert "batch renorm before the activation" in said.text_content()
    assert (
        beside.locator("[aria-pressed=true]").text_content()
        == "Show batch renorm, batch size 2, learning rate 1/16"
    )
    page.go_back()
    assert said.text_content().startswith("At batch size 8 and learning rate 1/4, batch norm")
    assert not beside.is_visible()
    page.evaluate("(hash) => { location.hash = hash; }", renorm.partition("#")[2])
    beside.get_by_role("button", name="Back to the list").press("Enter")
    assert page.evaluate(FOCUS)[0] == "says-renorm"
    page.evaluate("() => { location.hash = '#norm=magic&batch=3&sentence=none'; }")
    page.wait_for_function("() => document.getElementById('beside').hidden")
    assert accuracies("batch/before/64/0.25/1", "0.1") in said.text_content()


def test_every_setting_has_its_sentence_and_runs_of_all_kinds_are_drawn(visit):
    """All sentences; and pictures of one run of each norm, of one that diverged and of one with scaled weights."""
    page = visit(1280)
    drawn = [
        next(key for key in KEPT["runs"] if key.startswith(f"{norm}/")) for norm in KEPT["choices"]["norm"]
    ]
    drawn += [
        next(key for key, run in KEPT["runs"].items() if run["diverged"] is not None),
        "layer/before/64/0.25/16",
    ]
    said = page.evaluate(
        """(drawn) => Object.keys(data.runs).map((key) => {
      const [norm, where, batch, rate, gain] = key.split("/");
      Object.assign(state, { norm, where: where || "before", batch: +batch, rate: +rate, gain: +gain, momentum: 0.1 });
      if (drawn.includes(key)) draw();
      const pictures = drawn.includes(key) ? document.querySelector(".pictures").innerHTML : "";
      return [runAt(state) === data.runs[key], summary(state), pictures];
    })""",
        drawn,
    )
    assert all(same for same, *_ in said)
    assert len({text for _, text, _ in said}) == len(KEPT["runs"])
    assert sum(bool(pictures) for *_, pictures in said) == len(set(drawn))
    assert not any(re.search(r"null|undefined|NaN", text + pictures) for _, text, pictures in said)


def test_a_table_stays_open_while_a_slider_moves(visit):
    page = visit(1280)
    page.locator("#accuracy summary").first.click()
    page.locator("#batch").press("ArrowLeft")
    assert page.locator("#accuracy details").first.get_attribute("open") is not None
    assert page.locator("#accuracy details").last.get_attribute("open") is None
    assert page.locator("#accuracy tbody tr").first.is_visible()


def test_ids_are_those_of_one_element(visit):
    page = visit(1280)
    page.get_by_role("button", name="Show batch renorm").first.click()
    ids = page.evaluate("() => [...document.querySelectorAll('[id]')].map((element) => element.id)")
    assert sorted(set(ids)) == sorted(ids)


def test_a_sentence_sets_the_controls_and_stands_beside_its_picture(visit):
    """On a telephone; and there and on a tablet nothing is cut off."""
    page = visit(360)
    assert page.evaluate(OVERFLOW) == 0
    page.get_by_role("button", name="Show batch renorm").first.press("Enter")
    assert "batch renorm before the activation" in page.locator("#summary").text_content()
    beside = page.locator("#beside")
    assert beside.evaluate("(element) => element === document.activeElement")
    assert (
        beside.locator("blockquote").text_content() == page.locator("#says-renorm blockquote").text_content()
    )
    assert beside.evaluate("(element) => element.nextElementSibling.id") == "accuracy"
    assert beside.locator("[aria-pressed=true]").count() == 1
    beside.get_by_role("button", name="Next sentence").press("Enter")
    assert (
        beside.locator("blockquote").text_content()
        == page.locator("#says-without-batch blockquote").text_content()
    )
    page.evaluate("() => document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    for width in (360, 768):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate(OVERFLOW) == 0
        assert page.evaluate(BEYOND) == 0


def test_the_dark_and_paper(visit):
    from playwright.sync_api import expect

    page = visit(1280, color_scheme="dark")
    expect(page.locator("body")).to_have_css("background-color", "rgb(21, 24, 30)")
    expect(page.locator(".tick").first).to_have_css("fill", "rgb(165, 171, 182)")
    page.emulate_media(media="print", color_scheme="dark")
    expect(page.locator("body")).to_have_css("background-color", "rgb(253, 252, 250)")
    assert not page.locator(".controls").is_visible()
    assert page.locator("#summary").is_visible()


def test_without_javascript_sentences_figures_and_verdicts_are_there(visit):
    page = visit(1280, java_script_enabled=False)
    assert page.locator("#says-small .findings").is_visible()
    assert page.locator("#says-small .shown li").first.is_visible()
