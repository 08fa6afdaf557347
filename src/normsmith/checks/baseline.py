"""Baselines: findings that are known already and do not count, kept in a file, so that only new ones fail a run."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from normsmith.checks.finding import Finding
from normsmith.checks.findings import Findings
from normsmith.errors import InputError

FORMAT = 1
Known = frozenset[tuple[str, str]]
"""Code and module path of each finding that is known."""


def baseline_text(findings: Findings) -> str:
    """All findings, those that are suppressed too, as a baseline: rule and module, without what was measured.

    >>> read = known_findings(baseline_text(Findings((), (), ())), "baseline.json")
    >>> sorted(read)
    []
    """
    keys = sorted(_keys((*findings.found, *findings.suppressed)))
    rows = [{"code": code, "path": path} for code, path in keys]
    return json.dumps({"format": FORMAT, "findings": rows}, indent=1, ensure_ascii=False) + "\n"


def read_baseline(file: Path) -> Known:
    """The findings that a baseline knows.

    Raises:
        InputError: there is no such file, or it is no baseline, and how to write one.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError(
            f"baseline {file} cannot be read: {error}; --write-baseline {file} writes one"
        ) from error
    return known_findings(text, str(file))


def known_findings(text: str, name: str) -> Known:
    """The findings that the text of a baseline knows; `name` is that of its file, for what is refused."""
    try:
        written: Any = json.loads(text)
    except ValueError as error:
        raise InputError(f"{name} is no baseline: {error}") from error
    if not isinstance(written, dict) or written.get("format") != FORMAT:
        raise InputError(f"{name} is no baseline of format {FORMAT}; --write-baseline {name} writes one")
    try:
        rows = [(row["code"], row["path"]) for row in written["findings"]]
    except (KeyError, TypeError) as error:
        raise InputError(f"{name}: expected a list of findings, each with code and path") from error
    if not all(isinstance(part, str) for row in rows for part in row):
        raise InputError(f"{name}: expected text as code and path of each finding")
    return frozenset(rows)


def is_known(finding: Finding, known: Known) -> bool:
    """Whether a baseline has a finding of this rule at this module, under whichever of its paths."""
    return any((finding.code, path) in known for path in (finding.path, *finding.also))


def gone(findings: Findings, known: Known) -> list[tuple[str, str]]:
    """What a baseline knows of rules that have looked now, and that is no longer found."""
    looked = {*findings.clean, *findings.codes, *(finding.code for finding in findings.suppressed)}
    here = {
        (finding.code, path)
        for finding in (*findings.found, *findings.suppressed)
        for path in (finding.path, *finding.also)
    }
    return sorted((code, path) for code, path in known - here if code in looked)


def _keys(findings: Iterable[Finding]) -> set[tuple[str, str]]:
    return {(finding.code, finding.path) for finding in findings}
