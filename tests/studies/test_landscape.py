"""Probes of smoothness and shift, and what is read off them."""

import copy
import math

import pytest
import torch
from tests.contracts.question import outcome
from tests.studies.tiny import make, network
from torch import nn

from normsmith.measure import internal_covariate_shift, iterate_of, smoothness
from normsmith.studies.landscape import RATE, shift_signals, smoothness_signals, while_training
from normsmith.studies.trial import Outcome


def test_probes_are_what_measure_says_of_the_model():
    torch.manual_seed(0)
    task, model = make("probed"), network()
    measured = smoothness(iterate_of(task, model), RATE, multiples=(0.5, 1.0, 2.0, 4.0))
    assert smoothness_signals(model, task) == {
        "effective beta": measured.beta,
        "gradient predictiveness": measured.gradient_predictiveness,
        "loss range": measured.loss_range,
    }
    shifts = list(internal_covariate_shift(iterate_of(task, model), RATE).values())
    signals = shift_signals(model, task)
    assert signals["relative shift"] == pytest.approx(sum(s.relative for s in shifts) / 2)
    assert signals["shift cosine"] == pytest.approx(sum(s.cosine for s in shifts) / 2)
    assert shift_signals(nn.Linear(6, 3), task) == {}


@pytest.mark.parametrize("probe", [smoothness_signals, shift_signals])
def test_nothing_of_the_model_moves(probe):
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 3))
    state, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    probe(model, make("still"))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_numbers_stay_within_what_ratios_can_be_made_of():
    def constant(model, batch):
        return 0 * model(batch[0]), batch[1]

    assert set(smoothness_signals(network(), make("constant", forward=constant)).values()) == {1e-9}

    def steep(model, batch):
        return 1e30 * model(batch[0]), batch[1]

    assert smoothness_signals(network(), make("steep", forward=steep))["gradient predictiveness"] == 1e9


def test_a_probe_is_averaged_over_the_trial_geometrically():
    measure = while_training("loss range")
    assert measure(Outcome("finished", probes={"loss range": (1.0, 4.0)})) == (pytest.approx(2.0), 0)
    assert math.isnan(measure(outcome(20))[0])
    early = Outcome("diverged", probes={"loss range": (1.0,)})
    assert math.isnan(measure(early)[0]), "other places than those of a whole trial"
