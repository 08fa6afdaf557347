"""The search for a seed's best setting: what it asks for, in which order, and what it returns."""

import pytest

from normsmith.studies.arms import AS_IS, network
from normsmith.studies.trial import Outcome
from normsmith.studies.tuning import Search, Setting, Tuned, limits, together

OTHER = network(None)
RATES = (0.0625, 0.25, 1.0)


def outcome(value, status="finished"):
    return Outcome(status, steps=(0, 30), validation=(0.0, value), test=(0.0, value))


def search(rung=None, arms=(AS_IS,), rates=RATES):
    """A search for the highest validation metric at the end."""

    def worth(outcome):
        return -outcome.validation[-1]

    return Search(arms, rates, 3, 30, rung, lambda outcome: (worth(outcome),), worth)


def run(searching, world):
    """Answer a search's requests by `world(trial)`; the result, and the requests as (steps, arm, rate)."""
    outcomes, asked = {}, []
    generator = searching.run(outcomes)
    try:
        while True:
            request = next(generator)
            asked.append([(trial.steps, trial.arm, trial.learning_rate) for trial in request])
            outcomes.update((trial, world(trial)) for trial in request)
    except StopIteration as ended:
        return ended.value, asked


def peak(at, arm=AS_IS):
    """A world whose metric falls off with the distance from a rate, and is lower for other arms."""
    return lambda trial: outcome(-abs(trial.learning_rate - at) - (trial.arm != arm))


def test_octaves_around_the_best_of_the_coarse_rates_are_tried():
    (best, tried), asked = run(search(), peak(0.3))
    assert asked == [
        [(30, AS_IS, rate) for rate in RATES],
        [(30, AS_IS, 0.125), (30, AS_IS, 0.5)],
    ]
    assert best == Setting(AS_IS, 0.25)
    assert {setting.rate for setting in tried} == {0.0625, 0.125, 0.25, 0.5, 1.0}


def test_an_octave_that_is_better_has_its_own_octaves_tried():
    (best, tried), asked = run(search(rates=(0.1, 1.6)), peak(1.0))
    assert best == Setting(AS_IS, 0.8)
    assert [sorted(rate for _, _, rate in request) for request in asked] == [
        [0.1, 1.6],
        [0.8, 3.2],
        [0.4],
    ]
    assert len(tried) == 5


@pytest.mark.parametrize(("at", "end"), [(1e9, 16.0), (0.0, 0.0625 / 16)])
def test_an_edge_is_extended_four_octaves_and_no_further(at, end):
    (best, _), _ = run(search(), peak(at))
    assert best.rate == end
    assert end in limits(RATES)


def test_initial_weights_are_tuned_with_the_rate():
    (best, tried), asked = run(search(arms=(AS_IS, OTHER)), peak(0.25, arm=OTHER))
    assert best == Setting(OTHER, 0.25)
    assert len(asked[0]) == 6
    assert {setting.arm for setting in tried if setting.rate in (0.125, 0.5)} == {OTHER}


def test_a_rung_lets_the_best_two_go_on():
    (best, tried), asked = run(search(10, arms=(AS_IS, OTHER)), peak(0.3))
    assert {(steps, arm) for steps, arm, _ in asked[0]} == {(10, AS_IS), (10, OTHER)}
    assert asked[1] == [(30, AS_IS, 0.25), (30, AS_IS, 0.0625)]
    assert asked[2] == [(30, AS_IS, 0.125), (30, AS_IS, 0.5)]
    assert best == Setting(AS_IS, 0.25)
    assert len(tried) == 4


def test_a_rung_for_two_settings_would_save_nothing():
    _, asked = run(search(10, rates=(0.25, 1.0)), peak(0.25))
    assert {steps for request in asked for steps, *_ in request} == {30}


def test_where_all_diverge_smaller_rates_are_tried():
    def world(trial):
        return (
            outcome(trial.learning_rate, "finished")
            if trial.learning_rate < 0.01
            else outcome(0.0, "diverged")
        )

    (best, _), _ = run(search(), world)
    assert best.rate == 0.0625 / 8


def test_where_every_trial_crashes_no_more_are_asked_for():
    (best, tried), asked = run(search(), lambda trial: Outcome("raised", validation=(0.0,)))
    assert len(asked) == 1
    assert best in tried


def test_ties_go_to_the_setting_that_is_offered_first():
    (best, _), _ = run(search(arms=(AS_IS, OTHER)), lambda trial: outcome(0.5))
    assert best == Setting(AS_IS, RATES[0])


def test_parts_go_on_side_by_side():
    outcomes = {}
    parts = {seed: search(rates=(0.25 * 4**seed,)).run(outcomes) for seed in range(2)}
    joint = together(parts)
    first = next(joint)
    assert sorted(trial.learning_rate for trial in first) == [0.25, 1.0]
    results = None
    while results is None:
        outcomes.update((trial, outcome(-trial.learning_rate)) for trial in first)
        try:
            first = next(joint)
        except StopIteration as ended:
            results = ended.value
    assert {seed: best.rate for seed, (best, _) in results.items()} == {0: 0.25 / 16, 1: 1.0 / 16}


def test_together_of_nothing_asks_for_nothing():
    with pytest.raises(StopIteration) as ended:
        next(together({}))
    assert ended.value.value == {}


def test_seeds_whose_best_rate_is_the_last_that_may_be_tried():
    tuned = Tuned(
        AS_IS, {0: Setting(AS_IS, 0.25), 1: Setting(AS_IS, 16.0), 2: Setting(AS_IS, 16.0)}, {}, limits(RATES)
    )
    assert tuned.on_limit(0) == []
    assert tuned.on_limit(1) == [1, 2]


def test_settings_are_changed_seed_by_seed():
    tuned = Tuned(AS_IS, {0: Setting(AS_IS, 0.25), 1: Setting(AS_IS, 1.0)})
    faster = tuned.changed(OTHER, lambda best: Setting(best.arm, best.rate * 2))
    assert faster.arm == OTHER
    assert [setting.rate for setting in faster.chosen.values()] == [0.5, 2.0]
