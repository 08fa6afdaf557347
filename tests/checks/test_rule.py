"""The form of a rule, read from all rules as data."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.contracts.fixes import reproduced, run_fix, snippets

from normsmith.checks import Rule, every_rule
from normsmith.checks.finding import SEVERITIES
from normsmith.checks.rule import SECTIONS

RULES = every_rule()
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_rules_have_the_form(rule):
    assert re.fullmatch(r"NS[1-5]\d\d", rule.code)
    assert rule.severity in SEVERITIES
    assert tuple(rule.sections) == SECTIONS
    assert all(rule.sections.values())


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_every_rule_has_its_file_and_its_test(rule):
    family = {"1": "structure", "2": "configuration", "3": "training", "4": "data", "5": "signal"}[
        rule.code[2]
    ]
    stem = rule.name.replace("-", "_")
    assert (ROOT / "src/normsmith/checks/rules" / family / f"{stem}.py").exists()
    test = ROOT / "tests/checks/rules" / family / f"test_{stem}.py"
    assert "RuleContract" in test.read_text(encoding="utf-8")


def test_the_level_is_that_of_the_most_demanding_need():
    def level(*needs):
        return Rule("NS000", "none", "info", lambda _: (), "None.", needs=needs).level

    assert [level(), level("graph"), level("graph", "loss"), level("batches", "training")] == [
        "fast",
        "fast",
        "standard",
        "deep",
    ]


def test_a_title_may_take_several_lines():
    rule = Rule("NS000", "none", "info", lambda _: (), "One\nsentence.\n\nWhat: more.")
    assert rule.title == "One sentence."


def test_a_colon_in_a_section_begins_no_other():
    rule = Rule(
        "NS000", "none", "info", lambda _: (), "None.\n\nWhat: Fix: is no heading here.\n\nFix: this."
    )
    assert rule.sections == {"What": "Fix: is no heading here.", "Fix": "this."}


def explained(fix):
    text = f"None.\n\nReproduction:\n    model = [1]\n    assert model  # finding\n\nFix: {fix}\n"
    return Rule("NS000", "none", "info", lambda _: (), text)


def test_code_of_a_fix_is_what_does_something():
    rule = explained(
        "take `x`, `Loader(..., 2)`, `run --it` or `a = 1`:\n\n        b = 2\n        c = 3\n\n    and `with a:` on."
    )
    assert snippets(rule) == ["a = 1", "b = 2\nc = 3\n", "with a: pass"]


def test_a_fix_that_names_what_nobody_defines_does_not_run():
    for fix in ("`model.append(momentum)`", "`model.no_such_method()`"):
        rule = explained(fix)
        with pytest.raises(AssertionError, match="does not run as printed"):
            run_fix(rule, reproduced(rule))


def test_alternatives_of_a_fix_each_run():
    rule = explained("`model.remove(1)`, or `model.remove(model[0])`")
    run_fix(rule, reproduced(rule))
