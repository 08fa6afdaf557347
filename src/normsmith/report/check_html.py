"""Findings of `normsmith check` as one offline HTML page, in the look of a study's report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from normsmith._text import path_text
from normsmith.checks import Finding, Findings, every_rule
from normsmith.checks.finding import SEVERITIES, Severity
from normsmith.report.channels import channel_figures
from normsmith.report.drift import drift_figures
from normsmith.report.evidence import measured_figure, proof_figure
from normsmith.report.gap import gap_figure
from normsmith.report.page import rendered
from normsmith.report.plots import Figure

COLOURS: dict[Severity, str] = {"error": "reversed", "warning": "inconclusive", "info": "not-judged"}
"""The colour, and the sign, of each severity: those of verdicts that are as grave."""


@dataclass(frozen=True)
class Group:
    """What one rule found, as the page tells it."""

    id: str
    code: str
    name: str
    severity: Severity
    title: str
    explanation: str
    findings: Sequence[Finding]
    figures: Sequence[Figure]

    @property
    def rows(self) -> list[tuple[str, str]]:
        """Layer and message of each finding."""
        return [(_layer(finding), finding.message) for finding in self.findings]

    @property
    def causes(self) -> list[str]:
        """The likely causes, each once."""
        return list(dict.fromkeys(finding.cause for finding in self.findings))

    @property
    def fixes(self) -> list[str]:
        """The fixes as code, each once."""
        return list(dict.fromkeys(finding.fix.code for finding in self.findings))

    @property
    def proofs(self) -> list[str]:
        """What the fixes bring, where they were tried."""
        said = (str(finding.proof) for finding in self.findings if finding.proof is not None)
        return list(dict.fromkeys(said))


def findings_to_html(findings: Findings, file: Path | None = None) -> str:
    """The page: a summary, each rule's findings with cause, fix and pictures, and what was not run."""
    groups = [_group(code, index, findings) for index, code in enumerate(findings.codes, start=1)]
    tally = [(severity, sum(f.severity == severity for f in findings)) for severity in SEVERITIES]
    known = every_rule()
    return rendered(
        "check.html.j2",
        title="Findings" if file is None else file.name,
        findings=findings,
        groups=groups,
        tally=[(severity, number) for severity, number in tally if number],
        proofs=proof_figure(findings.found),
        not_run=[(f"{row.code} {row.name}", row.reason) for row in findings.not_run],
        clean=[f"{code} {known[code].name}" if code in known else code for code in findings.clean],
        suppressed=[(f"{f.code} {f.name}", _layer(f), f.message) for f in findings.suppressed],
        colours=COLOURS,
    )


def _group(code: str, index: int, findings: Findings) -> Group:
    found = [finding for finding in findings if finding.code == code]
    first, rule = found[0], every_rule().get(code)
    return Group(
        id=f"rule-{index}",
        code=code,
        name=first.name,
        severity=first.severity or "info",
        title=first.name if rule is None else rule.title,
        explanation="" if rule is None else rule.explanation.strip(),
        findings=found,
        figures=_figures(found),
    )


def _figures(findings: Sequence[Finding]) -> list[Figure]:
    """What was measured, and what each kind of evidence looks like."""
    evidence = (*map(gap_figure, findings), *channel_figures(findings), *drift_figures(findings))
    drawn = (measured_figure(findings), *evidence)
    return [figure for figure in drawn if figure is not None]


def _layer(finding: Finding) -> str:
    return ", ".join(map(path_text, (finding.path, *finding.also)))
