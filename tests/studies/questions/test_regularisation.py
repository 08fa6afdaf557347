"""`regularisation`: whether batch norm regularises, and less at larger batches."""

import math

import pytest
from tests.contracts.question import QuestionContract, ask, hash_of, outcome, words
from tests.studies.tiny import make

from normsmith.errors import StudyError
from normsmith.studies import select
from normsmith.studies.lab import Lab
from normsmith.studies.questions.regularisation import FEW
from normsmith.studies.results import Verdict


class TestRegularisation(QuestionContract):
    name = "regularisation"

    def world(self, trial):
        noise = 0.002 * (hash_of(trial) % 5)
        fitted = 0.8 if "ghost_batch_size" in words(trial) else 0.95
        return outcome(20, 0.8, training_metric=fitted + noise, noise_slope=-0.45 + noise)

    def indifferent(self, trial):
        noise = 0.002 * (hash_of(trial) % 9)
        return outcome(20, 0.8, training_metric=0.9 + noise, noise_slope=-0.6 + 10 * (noise - 0.008))


def test_the_sgd_batch_and_the_wrong_labels_are_the_same_in_every_arm():
    _, asked = ask("regularisation", TestRegularisation().world)
    said = [words(trial) for trial in asked]
    assert {(each["size"], each["share"]) for each in said} == {(96, 0.3)}
    assert {each.get("ghost_batch_size") for each in said} == {None, 6}


def test_the_full_profile_overfits_few_samples_too_and_judges_that():
    findings, asked = ask("regularisation", TestRegularisation().world, profile="full", seeds=20)
    few = [words(trial) for trial in asked if words(trial).get("share") == FEW]
    assert {(each["size"], each.get("ghost_batch_size")) for each in few} == {(48, 6), (48, None)}
    assert [effect.name for effect in findings.effects] == [
        "train–test gap: 6 vs 96 samples",
        "slope of the normalisation noise in the batch size",
        "train–test gap on few samples: 6 vs 48 samples",
    ]
    assert {effect.verdict for effect in findings.effects} == {Verdict.HOLDS}
    sizes = {line.label: line.x for line in findings.charts[0].lines}
    assert sizes["few samples, training"] == sizes["few samples, test"] == (6.0, 48.0)


def test_a_trial_that_diverged_says_nothing_about_overfitting():
    findings, _ = ask(
        "regularisation",
        lambda trial: (
            outcome(20, 0.8, training_metric=0.9, noise_slope=-0.5)
            if trial.seed
            else outcome(20, 0.8).__class__("diverged", steps=(0,), validation=(0.3,), test=(0.3,))
        ),
        seeds=2,
    )
    assert [effect.seeds for effect in findings.effects] == [(1,), (1,)]
    assert findings.effects[0].failed == (1, 1)


def test_a_network_that_does_not_learn_is_not_said_to_overfit_less():
    def world(trial):
        idle = "ghost_batch_size" in words(trial)
        return outcome(math.inf if idle else 20, 0.8, training_metric=0.3 if idle else 0.95, noise_slope=-0.5)

    findings, _ = ask("regularisation", world)
    assert findings.effects[0].verdict is Verdict.INCONCLUSIVE
    assert "did not learn" in findings.effects[0].sentence


def test_noise_that_could_not_be_measured_is_no_slope_of_zero():
    def world(trial):
        probes = {} if trial.seed < 3 else {"noise_slope": -0.5}
        return outcome(20, 0.8, training_metric=0.9, **probes)

    findings, _ = ask("regularisation", world)
    assert findings.effects[1].seeds == (3, 4, 5, 6, 7)


def test_too_few_samples_are_refused():
    task = make("small", train=tuple(part[:95] for part in make("all").train.tensors))
    (question,) = select(("regularisation",))
    with pytest.raises(StudyError, match="at least 96 training samples"):
        next(question.ask(Lab(task, (0,), "quick", 10)))
