"""`normsmith explain`: a rule's docstring."""

from normsmith.checks import every_rule
from normsmith.checks.rule import SECTIONS


def test_every_rule_is_explained(normsmith):
    for rule in every_rule().values():
        ran = normsmith("explain", rule.code)
        assert ran.code == 0
        assert ran.out.startswith(f"{rule.code} {rule.name}")
        assert all(f"\n{section}:" in ran.out for section in SECTIONS)


def test_a_name_does_as_well(normsmith):
    assert normsmith("explain", "stale-statistics").out == normsmith("explain", "ns404").out


def test_what_is_no_rule_is_refused(normsmith):
    ran = normsmith("explain", "NS40")
    assert ran.code == 2
    assert "did you mean NS4" in ran.err
