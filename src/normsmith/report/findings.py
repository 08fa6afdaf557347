"""Findings of `normsmith check` in the formats that people and programs read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from normsmith.checks import Findings
from normsmith.report.annotations import findings_to_github
from normsmith.report.check_html import findings_to_html
from normsmith.report.junit import findings_to_junit
from normsmith.report.sarif import findings_to_sarif


def findings_to_text(findings: Findings, file: Path | None = None) -> str:
    """Findings as they print themselves, and what they come to in the last line."""
    return f"{findings}\n{findings.summary}"


def findings_to_json(findings: Findings, file: Path | None = None) -> str:
    """Findings, clean rules and those that were not run, as JSON."""
    return json.dumps(findings.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)


FINDINGS_FORMATS: dict[str, Callable[[Findings, Path | None], str]] = {
    "text": findings_to_text,
    "json": findings_to_json,
    "sarif": findings_to_sarif,
    "html": findings_to_html,
    "github": findings_to_github,
    "junit": findings_to_junit,
}
"""How findings are written, by the name of the format, given the file that the task came from, if any."""
