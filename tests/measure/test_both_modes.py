"""What norms give in both modes, and that a model is as it was after every measurement."""

import copy

import pytest
import torch
from torch import nn

from normsmith.layers import BatchNorm1d, BatchRenorm1d
from normsmith.measure import (
    measurable_layers,
    mismatch,
    normalisation_noise,
    saturation,
    variance_shift,
)
from normsmith.measure.both_modes import Difference, outputs_in_evaluation, outputs_in_training


def network() -> nn.Sequential:
    layers = (nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(inplace=True), nn.Dropout(0.5), BatchNorm1d(4))
    return nn.Sequential(*layers, nn.Linear(4, 4), BatchRenorm1d(4, total_steps=10), nn.Sigmoid())


def test_outputs_are_those_of_the_layers_before_anything_writes_to_them():
    model, x = network(), torch.randn(6, 3)
    layers = measurable_layers(model).layers
    evaluation = outputs_in_evaluation(model, layers, x, nn.Module.__call__)
    assert torch.equal(evaluation["1"][0], model[1].eval()(model[0](x)))
    model.train()
    running = [layer.statistics().copied() for layer in layers]
    training, same_input = outputs_in_training(model, layers, x, nn.Module.__call__, running)
    assert torch.equal(same_input["1"][0], evaluation["1"][0])
    assert torch.equal(training["1"][0], copy.deepcopy(model[1]).train()(model[0](x)))


def test_a_difference_is_over_all_calls_and_in_the_spread_of_the_first():
    y = torch.randn(10, 2, 3)
    once, parts = Difference(), Difference()
    once.add(y, 2 * y + 1)
    for part in y.split(4):
        parts.add(part, 2 * part + 1)
    assert parts.share() == pytest.approx(once.share())
    by_hand = ((y + 1).double().square().mean((0, 2)) / y.double().var((0, 2), correction=0)).mean().sqrt()
    assert once.share() == pytest.approx(by_hand.item())
    assert Difference().share() == 0.0


@pytest.mark.parametrize("measure", [mismatch, normalisation_noise, saturation, variance_shift])
def test_nothing_of_the_model_moves(measure):
    model, batches = network(), list(torch.randn(3, 8, 3))
    model[3].eval()
    state, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    given, modes = [batch.clone() for batch in batches], [module.training for module in model.modules()]
    first = measure(model, batches)
    assert measure(model, batches) == first != {}
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(*pair) for pair in zip(batches, given, strict=True))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
