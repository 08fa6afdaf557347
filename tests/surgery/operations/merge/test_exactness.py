"""Which norms come first on the way from the input, in graphs of several kinds."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from normsmith.anatomy.forward import call
from normsmith.measure.layers import measurable_layers
from normsmith.surgery.operations.merge.exactness import Exactness


def reasons(model, other=None, batch=None):
    """For each layer why it is approximate."""
    measurable = measurable_layers(model, inputs=False)
    states = [model.state_dict(), deepcopy(other or model).state_dict()]
    exactness = Exactness(model, measurable, states, batch, call)
    return {layer.path: exactness.why_other_inputs(layer) for layer in measurable.layers}


class Branches(nn.Module):
    """Two norms beside each other on one input, and a third after their sum; the shift is a bare parameter."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.last = nn.BatchNorm1d(2), nn.BatchNorm1d(2), nn.BatchNorm1d(2)
        self.shift = nn.Parameter(torch.zeros(2))

    def forward(self, x):
        return self.last(self.left(x) + self.right(x + self.shift))


def test_norms_beside_each_other_are_both_first():
    assert reasons(Branches()) == {
        "left": None,
        "right": None,
        "last": "left before it normalises by statistics of each model's own data",
    }


def test_a_bare_parameter_that_differs_is_named():
    model, other = Branches(), Branches()
    other.shift.data += 1
    assert reasons(model, other)["right"] == "shift before it differs between the models"
    assert reasons(model, other)["left"] is None


def test_weights_after_a_norm_make_no_difference_to_it():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2))
    other = deepcopy(model)
    other[1].weight.data += 1
    assert reasons(model, other) == {"0": None}


def test_norms_that_go_by_the_sample_keep_no_norm_from_being_first():
    assert reasons(nn.Sequential(nn.LayerNorm(2), nn.BatchNorm1d(2))) == {"1": None}


def test_a_norm_without_statistics_goes_by_the_batch():
    model = nn.Sequential(nn.BatchNorm1d(2, track_running_stats=False), nn.BatchNorm1d(2))
    assert "0 before it normalises" in reasons(model)["1"]


def test_a_norm_that_is_called_twice_may_stand_before_itself():
    norm = nn.BatchNorm1d(2)
    assert "0 before it normalises" in reasons(nn.Sequential(norm, nn.ReLU(), norm))["0"]


class Rarely(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.BatchNorm1d(2), nn.BatchNorm1d(2)

    def forward(self, x):
        return self.used(x) if len(x) < 100 else self.unused(x)


@pytest.mark.parametrize("batch", [None, torch.zeros(2, 2)])
def test_a_norm_that_the_forward_does_not_come_by(batch):
    found = reasons(Rarely(), batch=batch)
    assert found["unused"] == (
        "its forward cannot be followed without data, so that norms may stand before it; give batch="
        if batch is None
        else "this forward does not come by it"
    )
