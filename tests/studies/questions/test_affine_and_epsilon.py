"""`affine-and-epsilon`: what γ, β and ε are for."""

import math
from dataclasses import replace

from tests.contracts.question import QuestionContract, ask, diverged, hash_of, outcome, words

from normsmith.studies.results import Verdict


class TestAffineAndEpsilon(QuestionContract):
    name = "affine-and-epsilon"

    def world(self, trial):
        said = words(trial)
        bare = said.get("activation") == "sigmoid" and said.get("weight")
        return outcome(20, (0.7 if bare else 0.9) + 0.002 * (hash_of(trial) % 5))

    def indifferent(self, trial):
        """Seeds that differ by more than a point: neither better nor the same."""
        return outcome(20, 0.85 + 0.02 * (hash_of(trial) % 5))


def test_epsilon_is_swept_at_the_setting_that_is_best_at_the_usual_one():
    _, asked = ask("affine-and-epsilon", TestAffineAndEpsilon().world)
    swept = [trial for trial in asked if "eps" in words(trial)]
    assert {words(trial)["eps"] for trial in swept} == {1e-8, 1e-5, 1e-3, 1e-1, 1.0}
    assert len({(trial.seed, trial.learning_rate) for trial in swept}) == 8


def test_the_full_profile_leaves_out_each_of_them_too():
    _, asked = ask("affine-and-epsilon", TestAffineAndEpsilon().world, profile="full", seeds=2)
    said = [words(trial) for trial in asked]
    assert {(each["weight"], each["bias"]) for each in said if "weight" in each} == {
        (True, True),
        (True, False),
        (False, True),
    }


def test_two_trials_that_diverged_are_not_said_to_be_alike():
    findings, _ = ask(
        "affine-and-epsilon", lambda trial: diverged() if "eps" in words(trial) else outcome(20)
    )
    (alike,) = [effect for effect in findings.effects if "ε" in effect.name]
    assert alike.failed == (8, 8)
    assert alike.verdict is Verdict.INCONCLUSIVE


def test_steps_are_counted_at_the_settings_that_end_best_and_shown_beside():
    findings, asked = ask("affine-and-epsilon", TestAffineAndEpsilon().world, "untargeted")
    (steps,) = [effect for effect in findings.effects if effect.unit == "steps to target"]
    assert steps.beside
    assert steps.verdict is Verdict.NOT_JUDGED
    assert steps.median == (math.inf, math.inf) or steps.censored, (
        "without γ and β the target is never reached"
    )
    curves = [trial for trial in asked if trial.detail == "curve"]
    assert len(curves) == 3 * 8
    assert all(replace(trial, detail="end") in asked for trial in curves)
    place = findings.tables[0].columns.index("steps to target")
    assert [row[place] for row in findings.tables[0].rows] == ["20", "never", "20"]
