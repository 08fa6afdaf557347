"""`normsmith rules`: every rule with its title."""

from normsmith.checks import every_rule


def test_rules_are_listed(normsmith):
    ran = normsmith("rules")
    assert ran.code == 0
    for rule in every_rule().values():
        assert f"{rule.code} {rule.name}" in ran.out
        assert rule.title in " ".join(ran.out.split())
