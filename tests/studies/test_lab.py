"""What questions read off trials, how they tune arms, and how they pair them."""

import math

import pytest
from tests.studies.outcomes import AT, DIVERGED, lab
from tests.studies.tiny import make

from normsmith.errors import StudyError
from normsmith.studies.arms import AS_IS, Arm
from normsmith.studies.lab import EXTENSIONS, Lab, Tuned
from normsmith.studies.statistics import Hypothesis
from normsmith.studies.trial import Outcome

CLAIM = Hypothesis("metric", "it is better", "one", "other", "points", "difference", 0.1, "higher")


@pytest.mark.parametrize("higher", [True, False])
def test_a_trial_without_a_finite_metric_is_as_bad_as_can_be(higher):
    read = lab(DIVERGED, higher_is_better=higher)
    assert read.final(DIVERGED) == (-math.inf if higher else math.inf, False)
    assert read.shortfall(DIVERGED) == (math.inf, False)
    assert read.steps_to(0.5)(DIVERGED) == (21.0, True)


@pytest.mark.parametrize(
    ("test", "steps"),
    [((0.2, 0.5, 0.9), (10.0, False)), ((0.9, 0.9, 0.9), (1.0, False)), ((0.2, 0.4, 0.4), (21.0, True))],
)
def test_steps_to_a_target_are_the_first_at_it_and_never_is_one_beyond_the_budget(test, steps):
    outcome = Outcome("finished", steps=(0, 10, 20), test=test, validation=test)
    assert lab(outcome).steps_to(0.5)(outcome) == steps


def answered(generator, outcomes, rated):
    """Go through a generator's requests, each trial ending with the metric that its rate has."""
    asked = []
    try:
        while True:
            trials = next(generator)
            asked.append(trials)
            for trial in trials:
                value = rated(trial.learning_rate)
                outcomes[trial] = Outcome(
                    "finished", steps=(0, 20), test=(0.0, value), validation=(0.0, value)
                )
    except StopIteration as ended:
        return ended.value, asked


def a_study(**changes):
    return Lab(make("tune", learning_rates=(0.1, 0.2, 0.4), **changes), tuple(range(8)), "quick", 20)


def test_the_best_rate_in_the_middle_is_taken_as_it_is():
    study = a_study()
    tuned, asked = answered(
        study.tune([AS_IS], study.shortfall), study.outcomes, lambda rate: -abs(rate - 0.2)
    )
    assert tuned == {AS_IS: Tuned(AS_IS, 0.2, (0.1, 0.2, 0.4))}
    assert not tuned[AS_IS].on_edge
    assert {trial.seed for trial in asked[0]} == {0, 1, 2, 3}  # half of the seeds tune
    assert {(trial.learning_rate, trial.seed) for trial in asked[1]} == {(0.2, seed) for seed in range(8)}


@pytest.mark.parametrize(
    ("sign", "tried"), [(1, (0.1, 0.2, 0.4, 0.8, 1.6)), (-1, (0.025, 0.05, 0.1, 0.2, 0.4))]
)
def test_a_best_rate_on_the_edge_lets_the_grid_grow_so_often(sign, tried):
    study = a_study()
    tuned, asked = answered(study.tune([AS_IS], study.shortfall), study.outcomes, lambda rate: sign * rate)
    assert tuned[AS_IS].tried == pytest.approx(tried)
    assert tuned[AS_IS].on_edge
    assert len(asked) == 1 + EXTENSIONS + 1


def test_ties_of_the_first_criterion_are_decided_by_the_next():
    study = a_study()
    steps = study.steps_to(0.5, "validation")  # never reached at any rate
    tuned, _ = answered(
        study.tune([AS_IS], steps, study.shortfall), study.outcomes, lambda rate: -abs(rate - 0.2)
    )
    assert tuned[AS_IS].rate == 0.2


def test_a_task_without_a_target_takes_what_its_network_reaches():
    study = a_study(target=None)
    target, _ = answered(study.target(), study.outcomes, lambda rate: 0.7 if rate == 0.2 else 0.1)
    assert target == 0.7
    given = a_study(target=0.8)
    assert answered(given.target(), given.outcomes, None) == (0.8, [])


def test_activations_are_those_that_the_task_wants_in_the_order_considered():
    assert a_study(activations=("tanh", "relu")).activations("relu", "tanh", "sigmoid") == ("relu", "tanh")
    assert a_study().activations("relu") == (None,)


def test_pairs_leave_out_seeds_of_which_an_arm_crashed():
    crashed, fine = Outcome("killed"), Outcome("finished", steps=(0,), test=(0.5,))
    read = lab(fine, crashed, DIVERGED, fine)
    series = read.series(AT, read.steps_to(0.4))
    assert list(series) == [0, 2, 3]
    pairs = read.pairs(CLAIM, series, {0: (1.0, False), 1: (2.0, False), 3: (3.0, True)})
    assert pairs.seeds == (0, 3)
    assert pairs.control == (1.0, 3.0)
    assert pairs.control_censored == (False, True)


def test_arms_without_a_seed_in_common_cannot_be_compared():
    with pytest.raises(StudyError, match="nothing to compare: no trial of one and other"):
        lab(DIVERGED).pairs(CLAIM, {0: (1.0, False)}, {1: (1.0, False)})


def test_a_grid_has_every_arm_at_every_rate_from_every_seed():
    trials = a_study().grid([AS_IS, Arm("other")], [0.1, 0.2])
    assert len(trials) == 2 * 2 * 8
    assert {trial.steps for trial in trials} == {20}
