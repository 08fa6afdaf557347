"""`learning-rates`: how far up the rate can go."""

import itertools
import math

from tests.contracts.question import QuestionContract, ask, hash_of, outcome, words

from normsmith.studies.results import Verdict


class TestLearningRates(QuestionContract):
    name = "learning-rates"

    def world(self, trial):
        limit = 2.0 if words(trial)["norm"] == "batch" else 0.1
        return outcome(20 if trial.learning_rate <= limit * 2 ** (hash_of(trial) % 2) else math.inf)

    def indifferent(self, trial):
        return outcome(20 if trial.learning_rate <= 0.4 * (1 + trial.seed % 3) else math.inf)


def test_a_sweep_that_ends_too_early_is_a_lower_bound():
    """With the norm every rate reaches the target: the true limit lies beyond the sweep, and still it holds."""
    findings, _ = ask(
        "learning-rates",
        lambda trial: outcome(
            20 if words(trial)["norm"] == "batch" or trial.learning_rate < 0.3 else math.inf
        ),
    )
    assert findings.effects[0].verdict is Verdict.HOLDS


def test_where_no_rate_reaches_the_target_the_largest_is_a_bound():
    def world(trial):
        return outcome(20 if words(trial)["norm"] == "batch" and trial.learning_rate < 1.5 else math.inf)

    findings, _ = ask("learning-rates", world)
    largest, width = findings.effects
    assert all(math.isinf(high) and math.isfinite(low) for low, high in largest.effects)
    assert all(low == high for low, high in width.effects)


def test_the_sweep_is_in_octaves_beyond_the_tasks_grid():
    _, asked = ask("learning-rates", lambda trial: outcome(20), profile="full")
    rates = sorted({trial.learning_rate for trial in asked})
    assert rates[0] == 0.05 / 16
    assert rates[-1] >= 0.2 * 32
    assert all(math.isclose(b / a, 2.0) for a, b in itertools.pairwise(rates))
