"""`dependent-batches`: whether batch norm fails on batches of few classes and renorm cures it."""

import pytest
from tests.contracts.question import ACTIVE, QuestionContract, ask, hash_of, outcome, words

from normsmith.errors import StudyError


class TestDependentBatches(QuestionContract):
    name = "dependent-batches"

    def world(self, trial):
        said = words(trial)
        lost = {"batch": 0.2, "renorm": 0.05}.get(said["norm"], 0.0) if "classes" in said else 0.0
        return outcome(20, 0.92 - lost + 0.002 * (hash_of(trial) % 5), batch_mode=0.9, **ACTIVE)

    def indifferent(self, trial):
        return outcome(20, 0.9 + 0.002 * (hash_of(trial) % 9), batch_mode=0.9, **ACTIVE)


def test_renorm_that_did_nothing_is_no_evidence():
    idle = dict.fromkeys(ACTIVE, 0.0)
    with pytest.raises(StudyError, match="renorm was not active"):
        ask("dependent-batches", lambda trial: outcome(20, batch_mode=0.9, **idle))


def test_the_full_profile_has_norms_that_do_not_depend_on_the_batch():
    findings, asked = ask("dependent-batches", TestDependentBatches().world, profile="full", seeds=2)
    assert {words(trial)["norm"] for trial in asked} == {"batch", "renorm", "layer", "none"}
    assert {words(trial).get("classes") for trial in asked} == {None, 1, 2, 4}
    assert [line.label for line in findings.charts[0].lines] == [
        "batch norm",
        "batch renorm",
        "layer norm",
        "no norm",
    ]
