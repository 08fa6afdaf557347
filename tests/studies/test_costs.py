"""What trials take is the sum of their parts, measured on a few and corrected by those that ran."""

import math
import time
from dataclasses import replace

import pytest
from tests.studies.tiny import make

from normsmith.studies.arms import AS_IS, normalized
from normsmith.studies.costs import Cost, Costs, kind, measured
from normsmith.studies.initial_weights import initialised
from normsmith.studies.trial import Trial

TRIAL = Trial(AS_IS, 0.1, 0, 100)
PARTS = Cost(build=1.0, step=0.01, evaluation=0.1, probes=0.5, resampling=2.0)


def test_a_trial_costs_its_steps_and_what_is_measured_in_it():
    assert PARTS.of(replace(TRIAL, detail="metric")) == pytest.approx(1 + 1 + 0.2)
    assert PARTS.of(replace(TRIAL, detail="end")) == pytest.approx(1 + 1 + 0.2 + 2 + 0.5)
    assert PARTS.of(TRIAL) == pytest.approx(1 + 1 + 0.1 * (1 + 40) + 2 + 4 * 0.5, abs=0.3)


def sleeping(seconds):
    def forward(model, batch):
        if model.training:
            time.sleep(seconds)
        return model(batch[0]), batch[1]

    return make("sleeping", forward=forward)


def test_a_step_is_measured_and_not_the_first_one():
    cost = measured(sleeping(0.005), replace(TRIAL, detail="metric"))
    assert 0.004 < cost.step < 0.05
    assert cost.of(TRIAL) > 0.4


def test_arms_that_differ_in_their_initial_weights_are_one_kind():
    assert kind(replace(TRIAL, arm=initialised(AS_IS))) == kind(TRIAL) == AS_IS
    assert kind(replace(TRIAL, arm=normalized(None))) != AS_IS


def test_trials_that_ended_correct_the_estimate():
    costs = Costs(make("tiny"))
    assert costs.seconds([TRIAL]) == 0.0
    assert not costs.are_known
    costs.measure([replace(TRIAL, detail="metric")], 1, math.inf)
    before = costs.seconds([TRIAL])
    assert before > 0
    assert costs.are_known
    costs.ended(TRIAL, 7.0)
    assert costs.seconds([TRIAL] * 3) == pytest.approx(21.0)
    assert costs.seconds([replace(TRIAL, arm=normalized(None))]) == pytest.approx(7.0)  # as what was measured


def test_only_one_kind_is_measured_when_the_time_is_over(monkeypatch):
    costs, seen = Costs(make("tiny")), []
    monkeypatch.setattr("normsmith.studies.costs.measured", lambda task, trial: seen.append(trial) or PARTS)
    arms = [replace(TRIAL, arm=normalized(None, where=where)) for where in ("before", "after")]
    costs.measure([TRIAL, TRIAL, *arms], 3, -math.inf)
    assert seen == [TRIAL]  # that of which there are most
    costs.measure([TRIAL, *arms], 3, math.inf)
    assert len(seen) == 3


def test_a_trial_that_fails_says_nothing_about_time():
    def forward(model, batch):
        raise SystemExit("good-bye")

    costs = Costs(make("leaving", forward=forward))
    costs.measure([TRIAL], 1, math.inf)
    assert costs.seconds([TRIAL]) == 0.0


def test_what_is_done_once_in_a_process_is_not_counted_for_every_step():
    """Kernels are compiled in the first step."""
    called = []

    def forward(model, batch):
        if not called:
            time.sleep(0.6)
        called.append(1)
        return model(batch[0]), batch[1]

    assert measured(make("slow at first", forward=forward), TRIAL).of(replace(TRIAL, steps=12)) < 0.6
