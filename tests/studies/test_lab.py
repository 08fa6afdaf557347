"""What questions read off trials, those that went wrong included."""

import math

import pytest
import torch
from tests.studies.tiny import make
from torch import nn

from normsmith.studies.arms import AS_IS
from normsmith.studies.figures import band, middle, probe, training_curves
from normsmith.studies.lab import Lab, Tuned
from normsmith.studies.probes import activation_signals
from normsmith.studies.trial import Outcome, Trial

DIVERGED = Outcome("diverged", "the loss became nan at step 1")
AT = Tuned(AS_IS, 0.1, (0.1,))


def lab(*outcomes, **changes):
    """A lab with these outcomes of one arm at one rate, a seed each."""
    made = Lab(make("read", **changes), tuple(range(len(outcomes))), "quick", 20)
    made.outcomes = {Trial(AS_IS, 0.1, seed, 20): outcome for seed, outcome in enumerate(outcomes)}
    return made


@pytest.mark.parametrize("higher", [True, False])
def test_a_trial_without_a_finite_metric_is_as_bad_as_can_be(higher):
    read = lab(DIVERGED, higher_is_better=higher)
    assert read.final(DIVERGED) == (-math.inf if higher else math.inf, False)
    assert read.shortfall(DIVERGED) == (math.inf, False)
    assert read.steps_to(0.5)(DIVERGED) == (21.0, True)


def test_charts_show_what_is_finite():
    line = band("arm", {1.0: [0.5, -math.inf], 2.0: [math.inf]})
    assert line.y == (0.5, None)


def test_curves_are_drawn_by_step_where_one_starts_later():
    whole = Outcome("finished", steps=(0, 20), test=(0.2, 0.8))
    late = Outcome("finished", steps=(20,), test=(0.6,))
    (line,) = training_curves(lab(late, whole), [AT]).lines
    assert (line.x, line.y) == ((0.0, 20.0), (0.2, pytest.approx(0.7)))


def test_a_probe_that_never_ran_has_the_value_that_is_said():
    assert probe("flat", missing=1.0)(DIVERGED) == (1.0, False)
    seen = Outcome("finished", probes={"flat": (0.1, 0.3)})
    assert probe("flat", missing=1.0)(seen) == (0.3, False)
    assert middle(lab(DIVERGED, seen), AT, probe("flat")) == "0.3"
    assert middle(lab(DIVERGED), AT, probe("flat")) == "–"


def test_activations_in_place_are_measured_before_they_write():
    def network(inplace):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 16), nn.ReLU(inplace=inplace), nn.Linear(16, 3))

    task = make("in place")
    assert activation_signals(network(True), task) == activation_signals(network(False), task)


def test_an_activation_of_one_value_a_sample_is_measured():
    model = nn.Sequential(nn.Linear(6, 1), nn.Flatten(0), nn.Sigmoid())
    assert activation_signals(model, make("vector"))["flat"] < 1
