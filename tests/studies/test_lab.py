"""What questions read off trials, how they tune arms, and how they pair them."""

import math

import pytest
from tests.studies.outcomes import AT, DIVERGED, at, lab
from tests.studies.tiny import make
from torch import nn

from normsmith.errors import StudyError
from normsmith.studies.arms import AS_IS, Arm, network, normalized
from normsmith.studies.initial_weights import weights_of
from normsmith.studies.lab import CEILING, MORE, RUNG, Lab
from normsmith.studies.statistics import Hypothesis
from normsmith.studies.trial import RESAMPLED, Outcome
from normsmith.studies.tuning import Setting

CLAIM = Hypothesis("metric", "it is better", "one", "other", "points", "difference", 0.1, "higher")


@pytest.mark.parametrize("higher", [True, False])
def test_a_trial_without_a_finite_metric_is_as_bad_as_can_be(higher):
    read = lab(DIVERGED, higher_is_better=higher)
    assert read.final(DIVERGED) == (-math.inf if higher else math.inf, 0)
    assert read.shortfall(DIVERGED) == (math.inf, 0)
    assert read.steps_to(0.5)(DIVERGED) == (21.0, MORE)


@pytest.mark.parametrize(
    ("test", "steps"),
    [
        ((0.2, 0.5, 0.9), (10.0, 0)),
        ((0.9, 0.9, 0.9), (1.0, 0)),
        ((0.2, 0.4, 0.4), (21.0, MORE)),
        ((0.6, 0.4, 0.9), (21.0, MORE)),  # reached twice, and never held
        ((0.2, 0.4, 0.5), (21.0, MORE)),
    ],
)
def test_steps_to_a_target_are_those_after_which_it_holds_and_never_is_one_beyond_the_budget(test, steps):
    outcome = Outcome("finished", steps=(0, 10, 20), test=test, validation=test)
    assert lab(outcome).steps_to(0.5)(outcome) == steps


@pytest.mark.parametrize(("before", "refused"), [(0.6, True), (0.4, False)])
def test_a_target_that_the_control_has_before_training_is_refused(before, refused):
    read = lab(Outcome("finished", steps=(0, 10, 20), test=(before, 0.9, 0.9)))
    if refused:
        with pytest.raises(StudyError, match="reached before the first step; give the task a harder one"):
            read.fewer_steps("name", AT, AT, 0.5, 0.67)
    else:
        read.check_target(0.5, AT)


def test_a_target_that_is_met_before_training_is_refused_before_anything_is_asked_for():
    for target, higher in ((0.0, True), (1.0, False)):
        read = Lab(make("met", target=target, higher_is_better=higher), (0, 1), "quick", 20)
        with pytest.raises(StudyError, match=r"reached before the first step; give the task a harder one"):
            next(read.target([network(None)]))


def answered(generator, outcomes, rated):
    """Go through a generator's requests, each trial ending with the metric that its rate and seed have."""
    asked = []
    try:
        while True:
            trials = next(generator)
            asked.append(trials)
            for trial in trials:
                value = rated(trial)
                outcomes[trial] = Outcome(
                    "finished", steps=(0, 20), test=(0.0, value), validation=(0.0, value)
                )
    except StopIteration as ended:
        return ended.value, asked


def a_study(profile="quick", **changes):
    return Lab(make("tune", learning_rates=(0.1, 0.2, 0.4), **changes), tuple(range(4)), profile, 20)


def test_each_seed_has_its_own_best_setting():
    study = a_study()
    best = {0: 0.1, 1: 0.2, 2: 0.2, 3: 0.4}
    tuned, asked = answered(
        study.tune([AS_IS], study.shortfall),
        study.outcomes,
        lambda trial: -abs(trial.learning_rate - best[trial.seed]) - bool(trial.arm.edits),
    )
    assert tuned[AS_IS].chosen == {seed: Setting(AS_IS, rate) for seed, rate in best.items()}
    assert {trial.steps for trial in asked[0]} == {20 // RUNG}
    assert len(asked[0]) == 4 * 3 * 2  # seeds, rates, initial weights


def test_the_full_profile_runs_every_coarse_setting_to_the_end_and_offers_data_too():
    study = a_study("full")
    _, asked = answered(study.tune([AS_IS], study.shortfall), study.outcomes, lambda trial: 0.5)
    assert {trial.steps for request in asked for trial in request} == {20}
    assert {weights_of(trial.arm) for trial in asked[0]} == {"own", "by activation", "by data"}


def test_as_initialised_offers_the_networks_own_weights_alone_and_says_so():
    study = a_study()
    tuned, asked = answered(
        study.tune([AS_IS], study.shortfall, own_weights=True), study.outcomes, lambda trial: 0.5
    )
    assert {weights_of(trial.arm) for request in asked for trial in request} == {"own"}
    assert tuned[AS_IS].arm.name == "as is, as initialised"


def test_ties_of_the_first_criterion_are_decided_by_the_next():
    study = a_study()
    steps = study.steps_to(0.5, "validation")  # never reached at any rate
    tuned, _ = answered(
        study.tune([AS_IS], steps, study.shortfall),
        study.outcomes,
        lambda trial: -abs(trial.learning_rate - 0.2),
    )
    assert {setting.rate for setting in tuned[AS_IS].chosen.values()} == {0.2}


@pytest.mark.parametrize("higher", [True, False])
def test_a_task_without_a_target_takes_most_of_the_way_of_its_best_control(higher):
    study = a_study(target=None, higher_is_better=higher)
    sign = 1 if higher else -1
    other = Arm("other", network(None).edits)
    target, _ = answered(
        study.target([AS_IS, other]),
        study.outcomes,
        lambda trial: (
            sign * (0.7 if trial.arm.edits[:1] == other.edits and trial.learning_rate == 0.2 else 0.1)
        ),
    )
    assert target == pytest.approx(sign * CEILING * 0.7)
    given = a_study(target=0.8)
    assert answered(given.target([AS_IS]), given.outcomes, None) == (0.8, [])


def test_an_arm_learns_that_gets_half_of_the_way_of_the_better_one():
    study = a_study()

    def reaching(*values):
        tuned = at(*values)  # the rate tells the arms apart
        for seed, trial in study.trials(tuned).items():
            study.outcomes[trial] = Outcome(
                "finished", validation=(0.1, values[seed]), test=(0.1, values[seed])
            )
        return tuned

    good, fair, idle = (
        reaching(0.9, 0.9, 0.91, 0.9),
        reaching(0.6, 0.6, 0.1, 0.6),
        reaching(0.4, 0.4, 0.4, 0.4),
    )
    assert study.learns(good, fair)
    assert study.learns(fair, good)
    assert study.learns(good, idle)
    assert not study.learns(idle, good)
    assert not study.learns(at(7.0), at(8.0))  # no trial ran


def test_the_own_activation_of_a_network_needs_no_swap():
    study = a_study()
    assert study.own_activation == "relu"
    assert study.network("relu") == study.network(None)
    assert study.normalized("relu") == study.normalized(None)
    assert study.network("tanh") != study.network(None)


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
    assert pairs.control_censored == (0, 1)


def test_arms_without_a_seed_in_common_cannot_be_compared():
    with pytest.raises(StudyError, match="nothing to compare: no trial of one and other"):
        lab(DIVERGED).pairs(CLAIM, {0: (1.0, False)}, {1: (1.0, False)})


def test_the_error_of_the_test_set_is_that_of_the_median_difference_on_the_same_draws():
    study = a_study()
    draws = [(0.5 + 0.01 * k, 0.4 + 0.01 * k) for k in range(RESAMPLED)]
    one, other = at(0.1, 0.1, 0.1, 0.1), at(0.2, 0.2, 0.2, 0.2)
    for tuned, side in ((one, 0), (other, 1)):
        for trial in study.trials(tuned).values():
            drawn = tuple(pair[side] + 0.001 * (k % 2) * side for k, pair in enumerate(draws))
            study.outcomes[trial] = Outcome(
                "finished", test=(0.0, 0.5), validation=(0.0, 0.5), resampled=drawn
            )
    pairs = study.compare(CLAIM, one, other, study.points)
    assert pairs.test_error == pytest.approx(0.1 / 2, rel=0.05)  # what both arms share cancels
    assert study.compare(CLAIM, one, other, study.steps_to(0.1)).test_error is None


def test_trials_that_were_not_resampled_leave_the_error_unknown():
    study = a_study()
    tuned = at(0.1, 0.1, 0.1, 0.1)
    study.outcomes |= {trial: Outcome("finished", test=(0.0, 0.5)) for trial in study.trials(tuned).values()}
    assert study.compare(CLAIM, tuned, tuned, study.points).test_error is None


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.RNN(3, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.rnn(x.reshape(-1, 2, 3))[0][:, -1])


def test_norms_stand_after_layers_whose_activations_are_inside_them():
    assert a_study().side == "before"
    study = a_study(model=Recurrent)
    assert study.side == "after"
    assert study.normalized(None) == normalized(None, where="after")
