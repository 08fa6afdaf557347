"""Which rules there are, whose, and which are asked for."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest
from torch import nn

from normsmith.checks import Context, Rule, chosen_rules, every_rule, named_rule, registry
from normsmith.checks.engine import run
from normsmith.errors import InputError

MINE = Rule("XY001", "mine", "info", lambda _: (), "Mine.")
TAKEN = Rule("NS201", "taken", "info", lambda _: (), "Taken.")
NO_RULE = 3


@pytest.fixture
def installed(monkeypatch):
    """Make packages with these entry points."""

    def install(*names: str) -> None:
        points = [EntryPoint(name.lower(), f"{__name__}:{name}", registry.ENTRY_POINTS) for name in names]
        monkeypatch.setattr(registry, "entry_points", lambda group: points)
        monkeypatch.setattr(EntryPoint, "load", lambda self: globals()[self.value.partition(":")[2]])

    return install


def test_rules_are_found_in_the_order_of_their_codes():
    codes = list(every_rule())
    assert codes == sorted(codes)
    assert {"NS101", "NS404"} <= set(codes)


def test_other_packages_add_rules(installed):
    installed("MINE")
    assert every_rule()["XY001"] is MINE
    assert chosen_rules(["XY"]) == (MINE,)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("TAKEN", "has the code NS201, which is inverted-momentum"),
        ("NO_RULE", "is no Rule, but int"),
        ("GONE", "cannot be loaded: KeyError"),
    ],
)
def test_rules_of_others_that_do_not_fit_are_not_run_and_leave_the_others(installed, name, reason):
    installed(name)
    findings = run(chosen_rules(["NS201", name.lower()]), Context(nn.Sequential(nn.BatchNorm1d(2))))
    assert findings.clean == ("NS201",)
    (row,) = findings.not_run
    assert row.code == name.lower()
    assert reason in row.reason


def test_rules_are_chosen_by_how_their_codes_begin_and_by_name():
    everything = {rule.code for rule in chosen_rules()}
    assert {rule.code for rule in chosen_rules(["ns2"])} == {c for c in everything if c.startswith("NS2")}
    assert [rule.code for rule in chosen_rules(["inverted-momentum", "NS404"])] == ["NS201", "NS404"]
    assert "NS201" not in {rule.code for rule in chosen_rules(ignore=["NS20"])}


@pytest.mark.parametrize("name", ["NS999", "", "inverted"])
def test_what_is_no_rule_is_refused(name):
    with pytest.raises(InputError, match="no rule is called"):
        chosen_rules([name])


def test_the_nearest_name_is_offered():
    with pytest.raises(InputError, match="did you mean stale-statistics"):
        named_rule("stale-statistic")


@pytest.mark.parametrize("name", ["NS404", "ns404", "stale-statistics"])
def test_a_rule_is_named_by_code_or_name(name):
    assert named_rule(name).code == "NS404"
