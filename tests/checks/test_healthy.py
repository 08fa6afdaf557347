"""A check as an assertion."""

from __future__ import annotations

import pytest
from tests.checks.networks import mlp, vectors
from torch.nn import functional as F

from normsmith.checks import assert_healthy
from normsmith.checks.settings import Settings


def test_what_is_well_passes_and_says_what_was_seen():
    findings = assert_healthy(mlp(), vectors(), loss=F.cross_entropy)
    assert findings.passed()
    assert findings.clean


def test_what_is_wrong_fails_with_all_that_was_found():
    with pytest.raises(AssertionError) as failed:
        assert_healthy(mlp(momentum=0.99), vectors())
    said = str(failed.value)
    assert "NS201" in said.splitlines()[1]
    assert "surgery.set_momentum" in said


def test_where_nothing_could_be_said_it_fails():
    with pytest.raises(AssertionError, match="no rule could be run"):
        assert_healthy(mlp(), level="fast", select=["NS404"])


def test_settings_hold_and_arguments_replace_them():
    settings = Settings(ignore=("NS201",), level="fast")
    findings = assert_healthy(mlp(momentum=0.99), vectors(), settings=settings)
    assert "from level standard on" in {row.reason for row in findings.not_run}
    with pytest.raises(AssertionError):
        assert_healthy(mlp(momentum=0.99), settings=settings, ignore=())
    suppressed = Settings(per_module_ignores={"1": frozenset({"NS201"}), "4": frozenset({"NS201"})})
    assert assert_healthy(mlp(momentum=0.99), settings=suppressed).suppressed
