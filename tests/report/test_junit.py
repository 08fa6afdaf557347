"""Findings as JUnit's XML."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

from normsmith.checks import Finding, Findings, Fix, NotRun
from normsmith.report.junit import findings_to_junit

FOUND = Finding("1", "is <so>\x1b & odd", "because", Fix("mend"), severity="error", code="NS1", name="a")
MANY = Findings(
    (FOUND, replace(FOUND, path="2", severity="info")),
    ("NS404",),
    (NotRun("give loss=...", "NS3", "other"),),
    (replace(FOUND, path="3"),),
)


def suite_of(findings, file=None):
    return ElementTree.fromstring(findings_to_junit(findings, file).encode())[0]


def test_counts_are_those_of_the_cases():
    suite = suite_of(MANY)
    assert len(suite) == int(suite.get("tests")) == 5
    assert len(suite.findall("testcase/failure")) == int(suite.get("failures")) == 1
    assert len(suite.findall("testcase/skipped")) == int(suite.get("skipped")) == 1


def test_what_each_case_says():
    failing, informing, suppressed, clean, skipped = suite_of(MANY)
    assert failing.find("failure").get("message") == "1: is <so>� & odd"
    assert "fix: mend" in failing.find("failure").text
    assert informing.find("system-out") is not None
    assert suppressed.find("system-out") is not None
    assert clean.get("name") == "NS404 stale-statistics"
    assert len(clean) == 0
    assert skipped.find("skipped").get("message") == "give loss=..."


def test_the_file_is_named():
    assert suite_of(MANY, Path("my.py"))[0].get("file") == "my.py"
