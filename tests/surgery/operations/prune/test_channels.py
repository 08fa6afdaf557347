"""Channels that go together, and the constants that they are where γ is 0."""

from __future__ import annotations

import math

import pytest
import torch
from tests.surgery.operations.prune.networks import chain, lived_in, mobile, residual
from torch import nn
from torch.nn import functional as F

from normsmith.anatomy.read_batch_norm import read_batch_norm
from normsmith.anatomy.trace import trace
from normsmith.surgery.operations.prune.channels import Channels
from normsmith.surgery.operations.prune.steps import steps_of

X = torch.randn(2, 3, 9, 9, dtype=torch.float64)


def channels_of(model, zeroed=None):
    norms = {path: read_batch_norm(m) for path, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    steps = steps_of(trace(model, X), {norm.module for norm in norms.values()})
    return Channels(dict(model.named_modules()), norms, steps, norms if zeroed is None else zeroed)


def roots(channels, numbers):
    return [channels.root(number) for number in numbers]


def test_constants_go_through_activation_pooling_and_flatten():
    model = lived_in(chain())
    numbers, values = channels_of(model).columns["8"]
    torch.testing.assert_close(values, F.silu(model[4].bias.detach()).repeat_interleave(4))
    assert len(set(numbers)) == 6


def test_what_is_added_goes_together():
    channels = channels_of(lived_in(residual()))
    stream = roots(channels, channels.norms["bn2"])
    for path in ("proj_bn", "bn4"):
        assert roots(channels, channels.norms[path]) == stream
    assert roots(channels, channels.columns["conv3"][0]) == stream
    assert set(roots(channels, channels.norms["bn1"])).isdisjoint(stream)


def test_norms_that_are_not_selected_let_everything_vary():
    channels = channels_of(lived_in(chain()), zeroed=["4"])
    assert all(math.isnan(value) for value in channels.columns["3"][1])
    assert set(channels.whys.values()) == {
        "3 takes them where they are not constant with γ = 0",
        "the model returns them",
    }


def test_a_depthwise_layer_loses_what_it_takes_and_a_norm_after_it_forgives_its_border():
    channels = channels_of(lived_in(mobile()))
    assert roots(channels, channels.rows["depthwise"]) == roots(channels, channels.norms["bn1"])
    assert roots(channels, channels.norms["bn1"]) == roots(channels, channels.norms["bn2"])
    assert not channels.rough


def test_a_depthwise_layer_without_a_norm_has_a_border():
    model = lived_in(
        nn.Sequential(
            nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Conv2d(4, 2, 1)
        )
    )
    channels = channels_of(model)
    assert set().union(*channels.rough.values()) == {"3"}
    expected = model[1].bias * model[2].weight.sum((1, 2, 3)) + model[2].bias
    torch.testing.assert_close(channels.columns["3"][1], expected.detach())


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        (nn.Conv2d(4, 4, 1, groups=2), "2 works in groups, of which each would have to lose as many"),
        (nn.ConvTranspose2d(4, 2, 2, stride=2), r"2 spreads act(β) unevenly over its output"),
    ],
)
def test_layers_that_hold_what_they_take(last, reason):
    channels = channels_of(lived_in(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), last)))
    assert {channels.whys[root] for root in roots(channels, channels.norms["1"])} == {reason}


def test_a_layer_that_is_called_with_other_constants_keeps_its_channels():
    last = nn.Conv2d(4, 4, 1)
    model = lived_in(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), last, nn.BatchNorm2d(4), last))
    channels = channels_of(model)
    assert set(roots(channels, channels.norms["1"])) <= channels.whys.keys()


def test_activations_of_constants():
    model = lived_in(
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.RReLU(), nn.PReLU(), nn.Conv2d(4, 2, 1))
    )
    expected = model[3](model[2](model[1].bias.detach().view(1, 4, 1, 1))).flatten()
    torch.testing.assert_close(channels_of(model).columns["4"][1], expected.detach())
