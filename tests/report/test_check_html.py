"""Findings as a page: what is said first, what is safe, what is not left out."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

from tests.report import samples

from normsmith.checks import Findings, NotRun, every_rule
from normsmith.report.check_html import findings_to_html

PAGE = findings_to_html(samples.findings(), Path("tasks/my_task.py"))


def section(name: str) -> str:
    found = re.search(rf'<section id="{name}".*?</section>', PAGE, re.DOTALL)
    assert found, name
    return found[0]


def test_the_summary_comes_first_and_the_most_severe_leads():
    assert "<h1>my_task.py</h1>" in PAGE
    assert [f"{n} {word}" in PAGE for n, word in ((4, "error"), (1, "warning"), (1, "info"))] == [True] * 3
    links = re.findall(r'<a href="#rule-\d">(\w+)', section("findings"))
    assert links == ["NS404", "NS403", "XX1", "NS101"]


def test_each_rule_has_what_where_why_the_fix_and_its_proof():
    said = section("rule-1")
    for part in ("features.1", "off by 3.2", "the weights moved", "surgery.recalibrate", "loss 0.92 → 0.31"):
        assert part in said
    assert "Threshold" in said
    assert every_rule()["NS404"].title.split("'")[0] in said
    assert 'id="figure-rule-1-1"' in said
    assert "<details><summary>What the rule" not in section("rule-3"), "a rule that is not installed"
    assert "<figure" not in section("rule-4"), "nothing was measured"
    assert section("rule-2").count("<figure") == 5  # measured, the gap, means, variances, and batches


def test_what_was_not_run_is_there_with_the_reason_and_what_is_suppressed():
    assert "give loss=..." in section("not-run")
    assert "NS201 inverted-momentum" in section("clean")
    assert "known" in section("suppressed")


def test_names_stay_text():
    class Tags(HTMLParser):
        def __init__(self):
            super().__init__()
            self.seen = set()

        def handle_starttag(self, tag, attrs):
            self.seen.add(tag)

    tags = Tags()
    tags.feed(PAGE)
    assert "img" not in tags.seen
    assert PAGE.count("<script>") == 1
    assert "&lt;/script&gt;&lt;img" in PAGE


def test_no_findings_and_no_rules_are_told_apart():
    assert "Nothing was found." in findings_to_html(Findings((), ("NS201",), ()))
    page = findings_to_html(Findings((), (), (NotRun("why", "NS404", "stale-statistics"),)))
    assert "No rule could be run." in page
    assert 'role="alert"' in page


def test_the_same_findings_give_the_same_page():
    assert findings_to_html(samples.findings(), Path("tasks/my_task.py")) == PAGE
