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
        return outcome(20 / trial.learning_rate**0.5 if trial.learning_rate < 1 else float("inf"))

    findings, asked = ask("fewer-steps", world)
    assert max(trial.learning_rate for trial in asked) == pytest.approx(1.6)
    (row, *_) = findings.tables[0].rows
    assert row[1] == "0.8"
    assert not any("beyond" in note for note in findings.notes)


def test_the_rate_is_tuned_on_validation_and_reported_on_test():
    """A rate that only looks good on test must not be chosen."""

    def world(trial):
        good, bad = outcome(20), outcome(60, 0.9)
        if trial.learning_rate == 0.2:
            return replace(good, validation=bad.validation)
        return replace(bad, validation=good.validation)

    findings, _ = ask("fewer-steps", world)
    assert all(setting != "0.2" for _, setting, *_ in findings.tables[0].rows)


def test_the_contrast_with_the_network_as_initialised_is_shown_and_not_judged():
    """Good weights do as much as the norm: only the network's own make the norm look good."""

    def world(trial):
        return outcome(60 if words(trial) == {"norm": "none"} else 20)

    findings, _ = ask("fewer-steps", world)
    judged, beside = findings.effects
    assert judged.verdict is Verdict.NOT_HERE
    assert beside.beside
    assert beside.verdict is Verdict.NOT_JUDGED
    assert beside.beyond == 8
    assert "as initialised" in beside.name
    assert beside.name not in findings.headline
