"""Findings as a notebook shows them: a small table that needs no style of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from normsmith._text import cut, encodable, path_text
from normsmith.checks.finding import Finding, NotRun

_SHOWN = 50
"""Findings that are shown before they are only counted."""
_SIGNS = {"error": "✖", "warning": "▲", "info": "•"}


def html_of(summary: str, found: Sequence[Finding], not_run: Sequence[NotRun]) -> str:
    """A line that says what all comes to, a table of the findings, and what was not run, folded."""
    parts = [f"<p><b>normsmith check</b>: {escape(summary)}</p>"]
    if found:
        rows = (
            (
                f"{_SIGNS[finding.severity or 'info']} {finding.severity} {finding.code} {finding.name}",
                path_text(finding.path),
                finding.message,
                finding.cause,
                finding.fix.code if finding.proof is None else f"{finding.fix.code} ({finding.proof})",
            )
            for finding in found[:_SHOWN]
        )
        parts.append(_table(("rule", "layer", "what is so", "likely cause", "fix"), rows))
        if len(found) > _SHOWN:
            parts.append(f"<p>and {len(found) - _SHOWN:,} more</p>")
    if not_run:
        rows_left = ((f"{row.code} {row.name}", row.reason) for row in not_run)
        table = _table(("rule", "why"), rows_left)
        parts.append(f"<details><summary>{len(not_run)} not run</summary>{table}</details>")
    return encodable(f"<div>{''.join(parts)}</div>")


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f"<th style='text-align:left'>{escape(column)}</th>" for column in columns)
    body = "".join(
        f"<tr>{''.join(f'<td style={_CELL!r}>{escape(cut(cell, 500))}</td>' for cell in row)}</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


_CELL = "text-align:left;vertical-align:top;white-space:pre-wrap"
