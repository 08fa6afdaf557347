"""Findings as annotations of GitHub Actions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from normsmith.checks import Finding, Findings, Fix, NotRun
from normsmith.report.annotations import findings_to_github

FOUND = Finding("1", "25 % off", "because", Fix("mend(it)\nthen"), severity="warning", code="NS1", name="a,b")


def test_a_finding_is_one_command():
    said = findings_to_github(Findings((FOUND,), (), ())).splitlines()
    assert said == [
        "::warning title=NS1 a%2Cb::1: 25 %25 off%0Acause: because%0Afix: mend(it)%0Athen",
        "1 warning",
    ]


def test_severities_have_commands_of_their_own():
    found = tuple(replace(FOUND, severity=severity) for severity in ("error", "warning", "info"))
    lines = findings_to_github(Findings(found, (), ())).splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["::error", "::warning", "::notice"]


def test_the_file_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = findings_to_github(Findings((FOUND,), (), ()), Path("tasks/my.py"))
    assert said.startswith("::warning file=tasks/my.py,line=1,title=")


def test_what_was_not_run_is_plain_text_and_no_command():
    said = findings_to_github(Findings((), ("NS1",), (NotRun("first\n::error::no", "NS2", "x"),)))
    assert said.splitlines() == ["not run: NS2 x: first ::error::no", "nothing found"]
