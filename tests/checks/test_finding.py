"""Findings, fixes and rules that were not run, each by itself."""

from __future__ import annotations

import json

from normsmith.checks import Finding, Fix, NotRun
from normsmith.surgery import set_momentum


def finding(**changes) -> Finding:
    return Finding(**{"path": "1", "message": "is so", "cause": "because", "fix": Fix("do it"), **changes})


def test_fixes_are_the_same_if_their_code_is():
    plan = lambda model: set_momentum(model, 0.1)  # noqa: E731
    assert Fix("a", plan=plan) == Fix("a")
    assert Fix("a") != Fix("b")
    assert len({Fix("a", plan=plan), Fix("a"), Fix("b")}) == 2


def test_a_rule_signs_a_finding_and_leaves_its_own_severity():
    signed = finding().of("NS1", "name", "warning")
    assert (signed.code, signed.name, signed.severity) == ("NS1", "name", "warning")
    assert finding(severity="error").of("NS1", "name", "warning").severity == "error"


def test_plain_data_can_be_written():
    row = finding(also=("2",), measured=0.5, fix=Fix("x", plan=lambda model: set_momentum(model, 0.1)))
    plain = json.loads(json.dumps(row.to_dict()))
    assert plain["also"] == ["2"]
    assert plain["fix"] == {"code": "x", "can_be_applied": True, "keeps_outputs": False}
    assert plain["measured"] == 0.5


def test_the_model_itself_has_a_name():
    assert str(finding(path="")) == "(model): is so"


def test_an_optimizer_can_be_changed_too():
    assert Fix("x", optimizer=lambda optimizer: None).can_be_applied
    assert not Fix("x").can_be_applied


def test_what_was_not_run_is_signed():
    assert NotRun("why").of("NS1", "name") == NotRun("why", "NS1", "name")
