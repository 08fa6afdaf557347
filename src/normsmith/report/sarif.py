"""Findings of `normsmith check` in SARIF 2.1.0, the format that code scanning reads."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from normsmith._text import encodable, one_line, path_text
from normsmith.checks import Finding, Findings, every_rule

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
LEVELS = {"error": "error", "warning": "warning", "info": "note"}
"""The level of SARIF for each severity."""
_HOME = "https://github.com/normsmith/normsmith"


def findings_to_sarif(findings: Findings, file: Path | None = None) -> str:
    """Findings as a log of one run: the rules that ran are declared, those that did not are notifications.

    A finding lies at a module, its logical location; where `file` is known, it is the physical one, by its first line.
    Suppressed findings are results too, and marked as such.
    """
    found = [*findings.found, *findings.suppressed]
    codes = sorted({*(finding.code for finding in found), *findings.clean})
    driver = {
        "name": "normsmith",
        "version": version("normsmith"),
        "informationUri": _HOME,
        "rules": [_rule(code, found) for code in codes],
    }
    run = {
        "tool": {"driver": driver},
        "invocations": [_invocation(findings)],
        "columnKind": "unicodeCodePoints",
        "results": [
            *(_result(finding, codes, file) for finding in findings.found),
            *(
                _result(finding, codes, file) | {"suppressions": [{"kind": "external"}]}
                for finding in findings.suppressed
            ),
        ],
    }
    log = {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}
    return encodable(json.dumps(log, indent=2, ensure_ascii=False, allow_nan=False))


def fingerprint(finding: Finding) -> str:
    """What stays the same of a finding from run to run: its rule and its module, whatever was measured."""
    return hashlib.sha256(f"{finding.code}\0{finding.path}".encode(errors="replace")).hexdigest()[:32]


def _rule(code: str, found: list[Finding]) -> dict[str, Any]:
    """What a rule says of itself; of one that is not installed here, what its finding says."""
    rule = every_rule().get(code)
    if rule is None:
        name = next((finding.name for finding in found if finding.code == code), code)
        return {"id": code, "name": name, "shortDescription": {"text": name}}
    return {
        "id": code,
        "name": rule.name,
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": rule.sections.get("What", rule.title)},
        "help": {"text": rule.explanation.strip()},
        "defaultConfiguration": {"level": LEVELS[rule.severity]},
    }


def _result(finding: Finding, codes: list[str], file: Path | None) -> dict[str, Any]:
    text = f"{finding}. Likely cause: {finding.cause}. Fix: {finding.fix.code}"
    return {
        "ruleId": finding.code,
        "ruleIndex": codes.index(finding.code),
        "level": LEVELS[finding.severity or "info"],
        "message": {"text": one_line(text)},
        "locations": [_location(path, file) for path in (finding.path, *finding.also)],
        "partialFingerprints": {"ruleAndModule/v1": fingerprint(finding)},
        "properties": {
            name: value
            for name, value in finding.to_dict().items()
            if name in {"quantity", "measured", "threshold", "batches", "proof"} and value is not None
        },
    }


def _location(path: str, file: Path | None) -> dict[str, Any]:
    logical = {"fullyQualifiedName": path_text(path), "kind": "module"}
    if file is None:
        return {"logicalLocations": [logical]}
    place = {"artifactLocation": {"uri": uri_of(file)}, "region": {"startLine": 1}}
    return {"physicalLocation": place, "logicalLocations": [logical]}


def uri_of(file: Path) -> str:
    """The address of a file: relative to the working directory where it lies below, as code scanning wants it."""
    whole = file.resolve()
    root = Path.cwd()
    if whole.is_relative_to(root):
        return whole.as_uri()[len(root.as_uri().rstrip("/")) + 1 :]
    return whole.as_uri()


def _invocation(findings: Findings) -> dict[str, Any]:
    return {
        "executionSuccessful": not findings.said_nothing,
        "toolExecutionNotifications": [
            {
                "level": "note",
                "message": {"text": f"{row.code} {row.name} was not run: {row.reason}"},
                "properties": {"code": row.code, "reason": row.reason},
            }
            for row in findings.not_run
        ],
    }
