"""`covariate-shift`: whether a network can be fast and have more shift than one without norms."""

import math
from dataclasses import replace

import pytest
from tests.contracts.question import TINY, QuestionContract, ask, hash_of, outcome, words

from normsmith.studies.arms import name_of
from normsmith.studies.questions.covariate_shift import LINEAR
from normsmith.studies.results import Verdict
from normsmith.studies.trial import train
from normsmith.tasks import load


def linear(trial):
    return words(trial).get("activation") == "identity"


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


def test_the_full_profile_shows_networks_without_activations_beside_the_others():
    def world(trial):
        reaches, shift = {"none": (60, 0.2), "batch": (20, 0.2), "noisy": (20, 0.6)}[kind(trial)]
        seen = measured(trial, reaches, shift)
        beta = 1.0 if kind(trial) == "none" else 0.5
        return replace(seen, probes=seen.probes | {"effective beta": (beta,)}) if linear(trial) else seen

    findings, asked = ask("covariate-shift", world, "one_rate", profile="full", seeds=20)
    assert {kind(trial) for trial in asked if linear(trial)} == {"none", "batch"}
    assert [effect.beside for effect in findings.effects] == [False, False, *[True] * 5]
    beta = findings.effects[-1]
    assert beta.name == "effective beta, no activations: batch norm vs none"
    assert math.exp(-beta.median[0]) == pytest.approx(0.5)
    assert LINEAR in findings.notes


def test_they_are_left_out_where_activations_are_inside_other_layers():
    def world(trial):
        return measured(trial, 20, 0.2)

    findings, asked = ask("covariate-shift", world, "recurrent", profile="full", seeds=2)
    assert not any(map(linear, asked))
    assert len(findings.effects) == 4
    assert LINEAR not in findings.notes


def test_the_trial_without_activations_can_be_trained():
    kept = []

    def world(trial):
        kept.append(trial)
        return replace(
            measured(trial, 20, 0.2), probes=measured(trial, 20, 0.2).probes | {"effective beta": (1.0,)}
        )

    ask("covariate-shift", world, "one_rate", profile="full", seeds=1)
    for trial in {trial.arm: trial for trial in kept if linear(trial)}.values():
        seen = train(load(f"{TINY}:one_rate"), replace(trial, steps=4))
        assert {"relative shift", "effective beta"} <= seen.probes.keys()
