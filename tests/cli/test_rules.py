"""`normsmith rules`: every rule with its title, and the words that they share."""

from normsmith.checks import every_rule
from normsmith.checks.rule import LEVELS


def test_rules_are_listed(normsmith):
    ran = normsmith("rules")
    assert ran.code == 0
    for rule in every_rule().values():
        assert f"{rule.code} {rule.name}" in ran.out
        assert rule.title in " ".join(ran.out.split())


def test_lines_are_folded_and_hang(normsmith, monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    lines = normsmith("rules").out.splitlines()
    assert max(map(len, lines)) <= 50
    assert not any(line.endswith(" ") for line in lines)
    heads = [line for line in lines if line and not line.startswith("  ")]
    assert len(heads) == len(every_rule()) + 2


def test_levels_and_what_is_frozen_are_said(normsmith):
    out = normsmith("rules").out
    assert all(f"\n  {level}: " in out for level in LEVELS)
    assert "normsmith.surgery.freeze" in out
