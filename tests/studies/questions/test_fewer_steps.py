"""`fewer-steps`: batch norm reaches the target sooner, or it does not."""

from dataclasses import replace

import pytest
from tests.contracts.question import QuestionContract, ask, hash_of, outcome, words

from normsmith.studies.results import Verdict


class TestFewerSteps(QuestionContract):
    name = "fewer-steps"

    def world(self, trial):
        reaches = 20 if words(trial)["norm"] == "batch" else 60
        return outcome(reaches + 5 * (hash_of(trial) % 3))


def test_never_on_both_sides_is_no_answer():
    findings, _ = ask("fewer-steps", lambda trial: outcome(float("inf")))
    assert findings.effects[0].verdict is Verdict.INCONCLUSIVE
    assert findings.effects[0].censored == 8


def test_a_grid_grows_past_its_edge_for_the_arm_that_wants_it():
    def world(trial):
        return outcome(20 if trial.learning_rate > 0.5 else 60 if trial.learning_rate > 0.1 else 80)

    findings, asked = ask("fewer-steps", world)
    assert max(trial.learning_rate for trial in asked) == pytest.approx(3.2)
    assert "rate 0.8" in findings.charts[0].lines[0].label
    assert not any("beyond" in note for note in findings.notes)


def test_the_rate_is_tuned_on_validation_and_reported_on_test():
    """A rate that only looks good on test must not be chosen."""

    def world(trial):
        good = outcome(20)
        bad = outcome(60)
        if trial.learning_rate == 0.2:
            return replace(good, validation=bad.validation)
        return replace(bad, validation=good.validation)

    findings, _ = ask("fewer-steps", world)
    assert not any("(rate 0.2)" in line.label for line in findings.charts[0].lines)
