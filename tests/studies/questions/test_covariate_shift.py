"""`covariate-shift`: whether a network can be fast and have more shift than one without norms."""

from tests.contracts.question import QuestionContract, ask, hash_of, outcome, words

from normsmith.studies.arms import name_of
from normsmith.studies.results import Verdict


def kind(trial):
    noisy = any(name_of(edit.function) == "noise-after-norms" for edit in trial.arm.edits)
    return "noisy" if noisy else words(trial)["norm"]


def measured(trial, reaches, shift):
    noise = 1 + 0.02 * (hash_of(trial) % 5)
    return outcome(reaches, relative_shift=shift * noise, absolute_shift=noise, shift_cosine=0.5)


class TestCovariateShift(QuestionContract):
    name = "covariate-shift"
    task = "one_rate"

    def world(self, trial):
        reaches, shift = {"none": (60, 0.2), "batch": (20, 0.2), "noisy": (20, 0.6)}[kind(trial)]
        return measured(trial, reaches, shift)

    def indifferent(self, trial):
        return measured(trial, 20 + 5 * (hash_of(trial) % 5), 0.2)


def test_less_shift_with_noise_is_reversed():
    def world(trial):
        return measured(trial, 20, 0.1 if kind(trial) == "noisy" else 0.4)

    findings, _ = ask("covariate-shift", world)
    assert [effect.verdict for effect in findings.effects[:2]] == [Verdict.NOT_HERE, Verdict.REVERSED]
    assert [effect.beside for effect in findings.effects] == [False, False, True, True]
