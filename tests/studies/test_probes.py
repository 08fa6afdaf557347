"""Probes measure what they say and leave the model, its modes and the random state as they were."""

import copy
import math

import pytest
import torch
from tests.studies.tiny import make
from torch import nn

from normsmith.layers import BatchNorm1d, BatchRenorm1d
from normsmith.studies.arms import normalized
from normsmith.studies.probes import (
    activation_signals,
    largest_variance_shift,
    noise_by_batch,
    renorm_acted,
    renorm_activity,
    training_metric,
)
from normsmith.tasks import evaluate


def test_activations_in_place_are_measured_before_they_write():
    def network(inplace):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 16), nn.ReLU(inplace=inplace), nn.Linear(16, 3))

    task = make("in place")
    assert activation_signals(network(True), task) == activation_signals(network(False), task)


def test_an_activation_of_one_value_a_sample_is_measured():
    model = nn.Sequential(nn.Linear(6, 1), nn.Flatten(0), nn.Sigmoid())
    assert activation_signals(model, make("vector"))["flat"] < 1


class Constant(nn.Module):
    """Gives the same values whatever comes in."""

    def __init__(self, values):
        super().__init__()
        self.values = torch.as_tensor(values)

    def forward(self, x):
        return self.values.expand(len(x), -1)


@pytest.mark.parametrize(
    ("activation", "values", "flat"),
    [
        (nn.ReLU(), [-1.0, 0.0, 1.0, 2.0], 0.5),
        (nn.Sigmoid(), [0.0, 2.0, 3.0, -3.0], 0.5),  # slopes 0.25, 0.105, 0.045, 0.045
        (nn.Tanh(), [0.0, 1.0, 2.0, -2.0], 0.5),  # slopes 1, 0.42, 0.07, 0.07
    ],
)
def test_flat_is_the_share_of_units_on_a_slope_below_a_fifth(activation, values, flat):
    assert activation_signals(nn.Sequential(Constant(values), activation), make("flat"))["flat"] == flat


def test_a_network_without_activations_has_no_signals():
    assert activation_signals(nn.Linear(6, 3), make("linear")) == {}


def test_skewness_and_kurtosis_are_per_unit():
    """A unit that is one in a quarter of the samples, 3 and 7/3 − 3 by hand, beside a constant, which has no shape."""

    class Quarter(nn.Module):
        def forward(self, x):
            hot = (torch.arange(len(x)) % 4 == 0).float()
            return torch.stack([hot, torch.ones(len(x))], 1)

    signals = activation_signals(nn.Sequential(Quarter(), nn.ReLU()), make("quarter"))
    assert signals["skewness before"] == pytest.approx(2 / 3**0.5)
    assert signals["kurtosis before"] == pytest.approx(7 / 3 - 3)
    assert signals["skewness after"] == signals["skewness before"]


def test_batch_renorm_is_idle_where_running_statistics_are_the_batchs_own():
    task = make("idle")
    model = nn.Sequential(nn.Linear(6, 4), BatchRenorm1d(4, total_steps=10))
    active = renorm_activity(model, task)
    assert set(active) == {"renorm |r - 1|", "renorm |d|"}
    assert renorm_activity(nn.Sequential(nn.Linear(6, 4), BatchNorm1d(4)), task) == {}


@pytest.mark.parametrize("probe", [activation_signals, renorm_activity])
def test_nothing_of_the_model_moves(probe):
    model = nn.Sequential(
        nn.Linear(6, 4), BatchRenorm1d(4, total_steps=10), nn.ReLU(), nn.Dropout(), nn.Linear(4, 3)
    )
    model[3].eval()
    state, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    modes = [module.training for module in model.modules()]
    probe(model, make("still"))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def normed():
    task = make("normed")
    return normalized(None).build(task.model(), task), task


def test_the_metric_on_training_data_is_that_of_evaluation():
    model, task = normed()
    assert training_metric(model, task) == {"training metric": evaluate(task, model, "train")[1]}
    assert model.training


def test_the_largest_variance_shift_of_the_norms():
    model, task = normed()
    norms = [module for module in model.modules() if isinstance(module, BatchNorm1d)]
    largest_before = largest_variance_shift(model, task)["variance shift"]
    norms[0].running_var.mul_(100.0 * largest_before)
    assert largest_variance_shift(model, task)["variance shift"] > 10 * largest_before
    assert largest_variance_shift(task.model(), task) == {}


def test_noise_falls_with_the_root_of_the_batch():
    """192 samples: 24 batches of 8, 12 of 16, 6 of 32; of larger ones there are too few."""
    model, task = normed()
    measured = noise_by_batch(model, task)
    assert set(measured) == {"noise slope", "noise at 8", "noise at 16", "noise at 32"}
    assert measured["noise slope"] == pytest.approx(-0.5, abs=0.15)
    assert measured["noise at 8"] == pytest.approx(math.sqrt(1.5 / 8), rel=0.25)
    assert noise_by_batch(task.model(), task) == {}


def test_renorm_acted_where_r_or_d_left_its_place():
    assert renorm_acted({"renorm |r - 1|": (0.0, 0.1), "renorm |d|": (0.0,)})
    assert not renorm_acted({"renorm |r - 1|": (0.0, 1e-4), "renorm |d|": (0.0,)})
    assert not renorm_acted({})
