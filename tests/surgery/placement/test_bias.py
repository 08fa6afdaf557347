"""Redundant biases: which go with a norm after their layer, which stay, and what comes back without the norm."""

from __future__ import annotations

import pytest
import torch
from tests.surgery.states import state_of
from torch import nn
from torch.nn.utils import parametrize

from normsmith.errors import SurgeryError
from normsmith.surgery.placement.bias import Biases
from normsmith.surgery.plans.edits import do_all, undo_all


def test_a_redundant_bias_goes_and_comes_back_as_it_was():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    before, biases = state_of(model), Biases(model)
    (change,) = biases.remove_if_redundant("0", nn.BatchNorm1d(4))
    assert (change.path, change.before, change.after) == ("0.bias", "bias", "no bias")
    assert change.why == "BatchNorm1d after it subtracts any constant"
    do_all(biases.edits)
    assert model[0].bias is None
    undo_all(biases.edits)
    assert state_of(model) == before


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].bias = model[0].bias
    return model


def parametrized() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3))
    parametrize.register_parametrization(model[0], "bias", nn.Softplus())
    return model


@pytest.mark.parametrize("make", [tied, parametrized])
def test_a_bias_that_is_not_the_layers_own_stays(make):
    biases = Biases(make())
    assert list(biases.remove_if_redundant("0", nn.BatchNorm1d(3))) == []
    assert biases.edits == []
    assert [(remark.path, remark.reason) for remark in biases.kept] == [
        ("0.bias", "redundant, but parametrized or shared with another layer")
    ]


def test_a_layer_under_two_names_has_its_bias_alone():
    model = nn.Sequential(nn.Linear(3, 3))
    model.again = model[0]
    assert len(list(Biases(model).remove_if_redundant("0", nn.BatchNorm1d(3)))) == 1


@pytest.mark.parametrize(
    ("layer", "features"),
    [
        (nn.Linear(3, 4, bias=False), 4),
        (nn.Conv2d(3, 6, 1, groups=3, bias=False), 6),
        (nn.ConvTranspose1d(4, 6, 1, groups=2, bias=False), 6),
    ],
)
def test_a_restored_bias_is_of_zeros_for_each_channel(layer, features):
    model = nn.Sequential(layer.to(torch.float64))
    biases = Biases(model)
    (change,) = biases.restore("0", "LayerNorm")
    assert (change.before, change.after) == ("no bias", "bias")
    assert change.why == "LayerNorm after it, which goes, had one"
    do_all(biases.edits)
    assert torch.equal(layer.bias, torch.zeros(features, dtype=torch.float64))
    assert layer.bias.requires_grad
    undo_all(biases.edits)
    assert layer.bias is None


def test_the_bias_of_a_layer_that_does_not_train_does_not_train():
    model = nn.Sequential(nn.Linear(3, 4, bias=False).requires_grad_(False))
    biases = Biases(model)
    list(biases.restore("0", "LayerNorm"))
    do_all(biases.edits)
    assert not model[0].bias.requires_grad


def test_a_path_that_is_not_there_is_said():
    with pytest.raises(SurgeryError, match="expected a module at 7"):
        list(Biases(nn.Sequential(nn.Linear(3, 4))).remove_if_redundant("7", nn.BatchNorm1d(4)))
