"""`normsmith explain`: a rule's docstring."""

import pytest

from normsmith.checks import every_rule, named_rule
from normsmith.checks.rule import SECTIONS
from normsmith.cli.explain import WIDEST, explained


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


def test_the_width_is_that_of_the_terminal_up_to_one_that_reads_well(normsmith, monkeypatch):
    for columns, width in (("60", 60), ("300", WIDEST)):
        monkeypatch.setenv("COLUMNS", columns)
        assert normsmith("explain", "NS404").out == explained(named_rule("NS404"), width)


@pytest.mark.parametrize("width", [72, 80])
def test_text_is_folded_and_code_is_not(width):
    for rule in every_rule().values():
        text = explained(rule, width)
        assert f"\nReproduction:\n{rule.sections['Reproduction']}\n" in text
        prose = text.replace(rule.sections["Reproduction"], "").splitlines()
        wide = [line for line in prose if len(line) > width]
        assert all(line.startswith(" " * 8) or "`" in line or len(line.split()) == 1 for line in wide), wide
        assert not any(line.endswith(" ") for line in prose)


def test_nothing_is_lost():
    for rule in every_rule().values():
        told = "".join(explained(rule, 50).split())
        assert "".join(rule.explanation.split()) in told


def test_items_of_a_list_hang():
    rule = named_rule("NS404")
    text = "None.\n\nWhat: two of\n    them:\n    - one that is long\n    - two\n    And more.\n"
    given = type(rule)("NS000", "none", "info", rule.check, text)
    assert explained(given, 16).split("None.")[1].splitlines()[2:] == [
        "What: two of",
        "    them:",
        "    - one that",
        "      is long",
        "    - two",
        "    And more.",
    ]


def test_the_head_tells_severities_and_level():
    text = explained(named_rule("NS310"), WIDEST)
    assert text.startswith("NS310 two-forwards (error, warning or information; from level deep on, which")


def test_what_frozen_means_is_said_where_it_is_spoken_of():
    assert "A norm is frozen where" in explained(named_rule("NS305"), WIDEST)
    assert "A norm is frozen where" not in explained(named_rule("NS111"), WIDEST)
