"""`shifted-inputs`: what adapted statistics restore."""

import pytest
from tests.contracts.question import QuestionContract, ask, diverged, hash_of, outcome
from tests.studies.tiny import make

from normsmith.errors import StudyError
from normsmith.studies import select
from normsmith.studies.lab import Lab
from normsmith.studies.shifts import SHIFTS, shifted_metrics


def shifted(noise, **adapted):
    """What the probe says where source statistics are at 0.5 and adapted ones as given, or at 0.5 too."""
    values = {f"{how},_source": 0.5 for how in SHIFTS}
    return values | {f"{how},_adapted": adapted.get(how, 0.5) + noise for how in SHIFTS}


class TestShiftedInputs(QuestionContract):
    name = "shifted-inputs"

    def world(self, trial):
        return outcome(20, **shifted(0.002 * (hash_of(trial) % 5), contrast=0.9))

    def indifferent(self, trial):
        return outcome(20, **shifted(0.04 * (hash_of(trial) % 5 - 2)))


def test_the_networks_are_tuned_before_they_are_measured_once_a_seed():
    _, asked = ask("shifted-inputs", TestShiftedInputs().world)
    assert sum(shifted_metrics in trial.arm.probes for trial in asked) == 8


def test_inputs_that_cannot_be_shifted_are_refused_before_a_trial_runs():
    task = make("listed", train=[([0.0] * 6, 0)] * 64, validation=None)
    (question,) = select(("shifted-inputs",))
    with pytest.raises(StudyError, match="a pair of tensors"):
        next(question.ask(Lab(task, (0,), "quick", 10)))


def test_a_network_that_diverged_is_not_said_to_be_alike_by_both_statistics():
    findings, _ = ask(
        "shifted-inputs", lambda trial: outcome(20, **shifted(0.0)) if trial.seed else diverged()
    )
    assert {effect.seeds for effect in findings.effects} == {(1, 2, 3, 4, 5, 6, 7)}
    assert {effect.failed for effect in findings.effects} == {(1, 1)}
