import base64
import hashlib
import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from tests.report import samples

from normsmith.report import words
from normsmith.report.html import render_html
from normsmith.report.page import template_text
from normsmith.studies import notation
from normsmith.studies.results import Verdict


class Page(HTMLParser):
    """What a browser would make of the page: elements, scripts, visible text."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.scripts, self.words, self._raw = [], [], [], None
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag in {"script", "style"}:
            self._raw = []

    def handle_endtag(self, tag):
        if tag == "script":
            self.scripts.append((self.elements[-1][1], "".join(self._raw)))
        if tag in {"script", "style"}:
            self._raw = None

    def handle_data(self, data):
        (self.words if self._raw is None else self._raw).append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


@pytest.fixture(scope="module")
def ordinary():
    return Page(render_html(samples.ordinary()))


@pytest.fixture(scope="module")
def nasty():
    return Page(render_html(samples.nasty()))


def test_the_same_result_gives_the_same_bytes():
    assert render_html(samples.ordinary()) == render_html(samples.ordinary())


def test_the_policy_admits_just_the_one_script(ordinary):
    (code,) = [text for _, text in ordinary.scripts]
    policy = next(a["content"] for a in ordinary.all("meta") if "http-equiv" in a)
    allowed = re.findall(r"'sha256-([^']+)'", policy)
    assert allowed == [base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "http" not in policy


def test_nothing_is_fetched(ordinary, nasty):
    for page in (ordinary, nasty):
        fetched = [a for _, a in page.elements if "src" in a or "srcset" in a or "poster" in a]
        links = [a["href"] for a in page.all("a") if not a["href"].startswith("#")]
        assert (fetched, links, page.all("link"), page.all("base")) == ([], [], [], [])


def test_user_strings_make_no_element_and_no_attribute(nasty):
    assert not nasty.all("img")
    assert not [a for _, a in nasty.elements if any(name.startswith("on") for name in a)]
    assert len(nasty.scripts) == 1
    assert samples.NASTY in "".join(nasty.words)


def test_all_hypotheses_come_first_in_one_picture(ordinary):
    text = " ".join(" ".join(ordinary.words).split())
    first = text.index(samples.fewer_steps().claim)
    for answer in samples.ordinary().answers:
        for effect in answer.effects:
            drawn = f"{effect.name}: {notation.estimate_and_interval(effect)}: {effect.verdict.value}"
            told = f"{effect.verdict.value} {notation.estimate(effect)}"
            assert text.index(f"{effect.name} {drawn} {told}") < first


def test_a_question_says_what_it_asks_before_it_answers(ordinary):
    text = " ".join(" ".join(ordinary.words).split())
    for answer in samples.ordinary().answers:
        assert text.index(answer.claim) < text.index(answer.headline)
        assert answer.source in text
        for effect in answer.effects:
            asked = f"{effect.name} {effect.hypothesis} {words.asked(effect)}"
            told = f"{effect.verdict.value} {words.finding(effect)}"  # the badge says it in words
            assert text.index(asked) < text.index(answer.headline) < text.index(told)


def test_what_is_shown_beside_stands_apart():
    judged, beside = samples.placement().effects[:2]
    beside = beside.model_copy(update={"verdict": Verdict.NOT_JUDGED})
    answer = samples.placement().model_copy(update={"effects": (judged, beside)})
    page = Page(render_html(samples.study(answer)))
    apart = [(tag, a["class"]) for tag, a in page.elements if "beside" in a.get("class", "").split()]
    assert [tag for tag, _ in apart] == [
        "li",
        "li",
        "li",
        "tr",
        "div",
    ]  # overview, asked, told, table, forest
    assert "Shown beside those that are judged." in " ".join(page.words)


def test_configuration_seeds_versions_failures_and_command_are_there(ordinary):
    text = " ".join(" ".join(ordinary.words).split())
    result = samples.ordinary()
    facts = {**result.task_facts, **result.settings, **result.versions}
    assert all(f"{name} {value}" in text for name, value in facts.items())
    assert result.command in text
    assert "seed numbers 0–7" in text
    assert "RuntimeError: the metric got an empty batch" in text
    assert "16 trials diverged, 1 trial raised an error." in text
    assert "120 reused" in text


def test_every_figure_has_a_name_a_description_and_its_data(ordinary):
    ids = [attrs["id"] for _, attrs in ordinary.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    images = [attrs for _, attrs in ordinary.elements if attrs.get("role") == "img"]
    assert len(images) == 10
    assert all(a["aria-labelledby"] in ids and a["aria-describedby"] in ids for a in images)
    text = " ".join(ordinary.words)
    assert samples.curves().description in text
    assert samples.response().description in text.replace("  ", " ")  # all of it, beyond what is seen
    assert len(ordinary.all("details")) == len(images)


def test_every_symbol_and_colour_of_a_drawing_is_defined(ordinary, nasty):
    css = template_text("report.css")
    for page in (ordinary, nasty):
        ids = {attrs["id"] for _, attrs in page.elements if "id" in attrs}
        used = [attrs for tag, attrs in page.elements if tag == "use"]
        assert used
        assert {attrs["href"][1:] for attrs in used} <= ids
        colours = {name for a in used for name in a.get("class", "").split()} - {"point"}
        assert {name for name in colours if f".{name} " not in css} == set()


def test_a_hostile_study_is_a_file_that_can_be_opened():
    html = render_html(samples.hostile())
    assert len(html.encode()) < 6_000_000  # strict: lone surrogates would not encode
    assert [mark for mark in "\u202e\u2066" if mark in html] == []
    page = Page(html)
    assert not page.all("img")
    assert max(map(len, page.words)) < 2100
    assert any("1,000 trials raised an error." in word for word in page.words)
    assert any("… (1,000," in word for word in page.words)


def test_a_study_of_which_nothing_finished_says_so_before_its_verdicts():
    failures = samples.failures()[:16]
    page = Page(
        render_html(samples.study(samples.placement(), failures=failures, trials_new=16, trials_reused=0))
    )
    text = " ".join(" ".join(page.words).split())
    said = "No trial came to its end, so this study says nothing: 16 trials diverged."
    assert text.index(said) < text.index("All hypotheses")


def test_a_small_study_is_a_small_file():
    assert len(render_html(samples.study(samples.fewer_steps())).encode()) < 200_000


def test_the_document_says_what_it_is(ordinary):
    assert ordinary.all("html") == [{"lang": "en"}]
    assert len(ordinary.all("h1")) == 1
    assert len(ordinary.all("main")) == 1
    levels = [int(tag[1]) for tag, _ in ordinary.elements if re.fullmatch("h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert "digits-mlp: 4 questions · normsmith" in ordinary.words
    targets = {attrs["id"] for _, attrs in ordinary.elements if "id" in attrs}
    assert {a["href"][1:] for a in ordinary.all("a")} <= targets


def test_contents_only_where_there_are_several_questions(ordinary):
    assert len(ordinary.all("nav")) == 1
    assert not Page(render_html(samples.study(samples.placement()))).all("nav")


@pytest.mark.parametrize("make", [samples.empty, samples.one_seed])
def test_small_studies_are_reported_too(make):
    page = Page(render_html(make()))
    text = " ".join(" ".join(page.words).split())
    assert "Every trial ran to its last step." in text
    assert ("No question was answered." in text) == (make is samples.empty)


def test_skipped_questions_and_methods_are_told():
    answer = samples.placement().model_copy(update={"method": "Each arm at its own rate."})
    result = samples.study(answer, skipped={"saturation": "The task has no sigmoid."})
    text = " ".join(" ".join(Page(render_html(result)).words).split())
    assert "Each arm at its own rate." in text
    assert "Not asked: saturation : The task has no sigmoid." in text


def test_looks_and_the_recommendation_are_there():
    html = render_html(samples.budgeted())
    assert "look 1 of 2, at 10 seeds, with 0.8 % of the 5 %" in html
    before_the_verdicts, _ = html.split('id="verdicts"')
    assert "Use batch norm after the activation." in before_the_verdicts
