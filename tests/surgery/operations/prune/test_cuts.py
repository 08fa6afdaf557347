"""Layers without some of their channels compute what they did where these are constant, in every layout."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from normsmith.surgery.operations.prune.cuts import Cut, cut_layer, cut_norm
from normsmith.surgery.plans.edits import done


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(4, 3),
        nn.Linear(4, 3, bias=False),
        nn.Conv2d(4, 3, 2),
        nn.Conv1d(4, 3, 2, bias=False),
        nn.ConvTranspose2d(4, 3, 1),
    ],
    ids=str,
)
def test_constants_move_into_the_bias(layer):
    layer = layer.double()
    spatial = (5,) * (layer.weight.dim() - 2)
    x = torch.randn(2, 4, *spatial).double()
    x[:, 1], x[:, 3] = 0.7, -2
    before = layer(x)
    constants = torch.tensor([0, 0.7, 0, -2]).double()
    cut = Cut(rows=[2, 0], columns=[0, 2], constants=constants)
    with done(list(cut_layer(layer, cut, None))):
        torch.testing.assert_close(layer(x[:, [0, 2]]), before[:, [2, 0]])
        assert f"{type(layer).__name__}(" in repr(layer)
    torch.testing.assert_close(layer(x), before)


def test_a_bias_is_made_only_where_there_is_something_to_move():
    layer = nn.Conv2d(4, 3, 1, bias=False)
    cut = Cut(columns=[0, 1], constants=torch.zeros(4, dtype=torch.float64))
    with done(list(cut_layer(layer, cut, None))):
        assert layer.bias is None


def test_depthwise_layers_lose_groups():
    layer = nn.Conv2d(4, 4, 3, groups=4)
    x = torch.randn(1, 4, 5, 5)
    before = layer(x)
    with done(list(cut_layer(layer, Cut(rows=[1, 3], depthwise=True), None))):
        assert (layer.groups, layer.in_channels, layer.out_channels) == (2, 2, 2)
        torch.testing.assert_close(layer(x[:, [1, 3]]), before[:, [1, 3]])


def test_norms_lose_channels_and_get_them_back():
    norm = nn.BatchNorm1d(4)
    norm.running_mean += torch.arange(4)
    mean, weight = norm.running_mean, norm.weight
    with done(list(cut_norm(norm, [3, 1]))):
        assert norm.num_features == 2
        assert norm.running_mean.tolist() == [3, 1]
        assert norm(torch.randn(3, 2)).shape == (3, 2)
    assert norm.running_mean is mean
    assert norm.weight is weight


def test_memory_format_and_frozen_weights_stay():
    layer = nn.Conv2d(4, 3, 2).to(memory_format=torch.channels_last)
    layer.weight.requires_grad_(False)
    with done(list(cut_layer(layer, Cut(rows=[0, 1]), None))):
        assert layer.weight.is_contiguous(memory_format=torch.channels_last)
        assert not layer.weight.requires_grad
        assert layer.bias.requires_grad
