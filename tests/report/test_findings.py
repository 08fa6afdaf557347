"""Findings as text and as JSON."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from normsmith.checks import Finding, Findings, Fix, NotRun
from normsmith.report.findings import FINDINGS_FORMATS, findings_to_json, findings_to_text


def finding(severity="warning") -> Finding:
    return Finding("1", "is so", "because", Fix("mend it"), severity=severity, code="NS1", name="name")


SOME = Findings((finding(), finding("info")), ("NS2",), (NotRun("give loss=...", "NS3", "other"),))


def test_the_last_line_counts():
    assert findings_to_text(SOME).splitlines()[-1] == "1 warning, 1 info"


@pytest.mark.parametrize(
    ("findings", "line"),
    [
        (Findings((), ("NS2",), ()), "nothing found"),
        (Findings((), (), (NotRun("why", "NS3", "other"),)), "no rule could be run"),
    ],
)
def test_nothing_is_said_in_two_ways(findings, line):
    assert findings_to_text(findings).splitlines()[-1] == line


def test_json_says_everything():
    written = json.loads(findings_to_json(SOME))
    assert written["passed"] is False
    assert written["findings"][0]["fix"]["code"] == "mend it"
    assert written["not_run"] == [{"code": "NS3", "name": "other", "reason": "give loss=..."}]
    assert written["clean"] == ["NS2"]


def test_json_has_no_numbers_that_json_has_not():
    odd = replace(finding(), measured=math.nan, threshold=math.inf)
    written = json.loads(findings_to_json(Findings((odd,), (), ())), parse_constant=pytest.fail)
    assert (written["findings"][0]["measured"], written["findings"][0]["threshold"]) == (None, None)


def test_every_format_writes_text():
    assert all(isinstance(write(SOME, None), str) for write in FINDINGS_FORMATS.values())
