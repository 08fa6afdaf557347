"""Findings of `normsmith check` as JUnit's XML, which test dashboards read."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from normsmith._text import encodable, path_text
from normsmith.checks import Findings, every_rule

_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot hold."""


def findings_to_junit(findings: Findings, file: Path | None = None) -> str:
    """A test case for each finding, each rule that found nothing and each that was not run, which is skipped.

    Errors and warnings are failures; information and what is suppressed passes, and says what is so.
    """
    failing = sum(finding.severity != "info" for finding in findings)
    cases = len(findings) + len(findings.suppressed) + len(findings.clean) + len(findings.not_run)
    counts = {
        "tests": str(cases),
        "failures": str(failing),
        "errors": "0",
        "skipped": str(len(findings.not_run)),
    }
    root = Element("testsuites", counts)
    suite = SubElement(root, "testsuite", {"name": "normsmith check", **counts})
    known = every_rule()
    for finding in (*findings.found, *findings.suppressed):
        case = _case(suite, f"{finding.code} {finding.name}: {path_text(finding.path)}", file)
        said = f"{finding}\ncause: {finding.cause}\nfix: {finding.fix.code}"
        if finding.severity == "info" or finding in findings.suppressed:
            SubElement(case, "system-out").text = _legal(said)
        else:
            attributes = {"message": _legal(str(finding)), "type": finding.severity or "warning"}
            SubElement(case, "failure", attributes).text = _legal(said)
    for code in findings.clean:
        _case(suite, f"{code} {known[code].name}" if code in known else code, file)
    for row in findings.not_run:
        SubElement(_case(suite, f"{row.code} {row.name}", file), "skipped", {"message": _legal(row.reason)})
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode")


def _case(suite: Element, name: str, file: Path | None) -> Element:
    place = {} if file is None else {"file": _legal(str(file))}
    return SubElement(suite, "testcase", {"classname": "normsmith.check", "name": _legal(name), **place})


def _legal(text: str) -> str:
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", encodable(text))
