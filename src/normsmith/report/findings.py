"""Findings of `normsmith check` in the formats that people and programs read."""

from __future__ import annotations

import json
from collections.abc import Callable

from normsmith.checks import Findings


def findings_to_text(findings: Findings) -> str:
    """Findings as they print themselves, and what they come to in the last line."""
    counts = {name: sum(f.severity == name for f in findings) for name in ("error", "warning", "info")}
    verdict = ", ".join(f"{number} {name}" for name, number in counts.items() if number) or "nothing found"
    if findings.said_nothing:
        verdict = "no rule could be run"
    return f"{findings}\n{verdict}"


def findings_to_json(findings: Findings) -> str:
    """Findings, clean rules and those that were not run, as JSON."""
    return json.dumps(findings.to_dict(), indent=2, ensure_ascii=False)


FINDINGS_FORMATS: dict[str, Callable[[Findings], str]] = {"text": findings_to_text, "json": findings_to_json}
"""How findings are written, by the name of the format."""
