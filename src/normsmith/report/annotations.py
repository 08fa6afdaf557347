"""Findings of `normsmith check` as annotations of GitHub Actions: lines that a job prints and GitHub shows."""

from __future__ import annotations

from pathlib import Path

from normsmith._text import encodable, one_line
from normsmith.checks import Finding, Findings
from normsmith.report.sarif import uri_of

_COMMANDS = {"error": "error", "warning": "warning", "info": "notice"}


def findings_to_github(findings: Findings, file: Path | None = None) -> str:
    """A command for each finding, at the first line of `file` where it is known; then what was not run, as text."""
    lines = [_command(finding, file) for finding in findings]
    lines += [f"not run: {row.code} {row.name}: {one_line(row.reason)}" for row in findings.not_run]
    return encodable("\n".join([*lines, findings.summary]))


def _command(finding: Finding, file: Path | None) -> str:
    place = "" if file is None else f"file={_property(uri_of(file))},line=1,"
    text = f"{finding}\ncause: {finding.cause}\nfix: {finding.fix.code}"
    title = _property(f"{finding.code} {finding.name}")
    return f"::{_COMMANDS[finding.severity or 'info']} {place}title={title}::{_data(text)}"


def _data(text: str) -> str:
    """Text as a command carries it: in one line."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """Text as a property of a command carries it."""
    return _data(text).replace(":", "%3A").replace(",", "%2C")
