"""Baselines: what is known does not count, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from normsmith.checks import Finding, Findings, Fix
from normsmith.checks.baseline import baseline_text, gone, is_known, known_findings, read_baseline
from normsmith.errors import InputError

FOUND = Finding("1", "is so", "because", Fix("mend"), measured=0.9, severity="warning", code="NS1", name="a")


def test_what_was_written_is_known_whatever_is_measured():
    known = known_findings(baseline_text(Findings((FOUND,), (), ())), "b")
    assert is_known(replace(FOUND, message="other", measured=0.8, severity="error"), known)
    assert is_known(replace(FOUND, path="2", also=("1",)), known)
    assert not is_known(replace(FOUND, path="2"), known)
    assert not is_known(replace(FOUND, code="NS2"), known)


def test_what_is_suppressed_is_written_too():
    suppressed = Findings((FOUND,), (), ()).without(lambda _: True)
    assert suppressed.passed()
    assert known_findings(baseline_text(suppressed), "b") == {("NS1", "1")}


def test_what_is_gone_is_told_where_the_rule_has_looked():
    known = frozenset({("NS1", "1"), ("NS1", "2"), ("NS2", "1"), ("NS3", "1")})
    assert gone(Findings((FOUND,), ("NS2",), ()), known) == [("NS1", "2"), ("NS2", "1")]


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"format": 2, "findings": []}', '{"format": 1}', '{"format": 1, "findings": [3]}',
     '{"format": 1, "findings": [{"code": 1, "path": "a"}]}'],
)  # fmt: skip
def test_what_is_no_baseline_is_refused(text):
    with pytest.raises(InputError, match=r"known\.json"):
        known_findings(text, "known.json")


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="--write-baseline"):
        read_baseline(tmp_path / "none.json")
