"""Where channels are, and which calls keep them there."""

from __future__ import annotations

import pytest
import torch
from tests.surgery.small import Net
from torch import nn
from torch.nn import functional as F

from normsmith.anatomy import Event, trace
from normsmith.anatomy.graph import (
    channel_dimension,
    is_linear,
    is_recurrent,
    is_reshape,
    rank_of,
    spatial_of,
)


def last(body, layer, x=None) -> Event:
    """The last call of `body(layer(x))`, followed with a batch or, without one, by symbols."""
    return trace(Net(lambda net, x: body(net.layer(x)), layer=layer), x).events[-1]


IMAGES, SEQUENCES, VECTORS = torch.randn(2, 3, 4, 5), torch.randn(2, 4, 3), torch.randn(2, 3)
CONV, LINEAR = nn.Conv2d(3, 6, 1), nn.Linear(3, 6)


@pytest.mark.parametrize(
    ("body", "layer", "batch", "keeps"),
    [
        pytest.param(lambda x: x.mean((2, 3)), CONV, IMAGES, True, id="mean over positions"),
        pytest.param(lambda x: x.mean((-2, -1), keepdim=True), CONV, IMAGES, True, id="which stay"),
        pytest.param(lambda x: torch.amax(x, -1), CONV, IMAGES, True, id="over the width"),
        pytest.param(lambda x: x.mean(1), CONV, IMAGES, False, id="over channels"),
        pytest.param(lambda x: x.mean((0, 2, 3)), CONV, IMAGES, False, id="over the batch too"),
        pytest.param(lambda x: x.mean(), CONV, IMAGES, False, id="over all"),
        pytest.param(lambda x: x.mean(1), LINEAR, SEQUENCES, True, id="over time, channels last"),
        pytest.param(lambda x: x.mean(-1), LINEAR, SEQUENCES, False, id="over channels that are last"),
        pytest.param(lambda x: x.mean(1), LINEAR, VECTORS, False, id="over the channels of vectors"),
        pytest.param(lambda x: x.flatten(2), CONV, IMAGES, True, id="a flatten of positions"),
        pytest.param(lambda x: x.flatten(1), CONV, IMAGES, False, id="a flatten of channels and positions"),
        pytest.param(lambda x: x.flatten(1), CONV, IMAGES[:, :, :1, :1], True, id="a flatten of one position"),
        pytest.param(lambda x: x.flatten(0, 1), LINEAR, SEQUENCES, True, id="batch and time, channels last"),
        pytest.param(lambda x: x.flatten(1), LINEAR, SEQUENCES, False, id="time and channels"),
        pytest.param(lambda x: x.transpose(1, 2), LINEAR, SEQUENCES, False, id="a transpose"),
        pytest.param(lambda x: F.max_pool2d(x, 2), CONV, IMAGES, True, id="pooling"),
        pytest.param(lambda x: F.interpolate(x, scale_factor=2.0), CONV, IMAGES, True, id="interpolation"),
        pytest.param(nn.Sequential(), CONV, IMAGES, True, id="an empty Sequential"),
        pytest.param(torch.relu, CONV, IMAGES, False, id="an activation"),
        pytest.param(lambda x: x.mean((2, 3)), CONV, None, True, id="by symbols"),
        pytest.param(lambda x: x.mean(-1), CONV, None, True, id="from the end, by symbols"),
        pytest.param(lambda x: x.mean(1), CONV, None, False, id="over channels, by symbols"),
        pytest.param(lambda x: x.mean(1), LINEAR, None, False, id="vectors, by symbols"),
        pytest.param(lambda x: x.flatten(2), CONV, None, False, id="a shape that is not known"),
    ],
)  # fmt: skip
def test_what_keeps_channels(body, layer, batch, keeps):
    model = Net(
        lambda net, x: net.body_of(net.layer(x)) if isinstance(body, nn.Module) else body(net.layer(x)), layer=layer,
        body_of=body if isinstance(body, nn.Module) else nn.Identity(),
    )  # fmt: skip
    assert trace(model, batch).events[-1].keeps_channels is keeps


@pytest.mark.parametrize(
    ("body", "layer", "batch", "rank", "dimension"),
    [
        (lambda x: x.relu(), CONV, IMAGES, 4, 1),
        (lambda x: x.mean(3), CONV, IMAGES, 3, 1),
        (lambda x: x.mean((2, 3)), CONV, None, 2, 1),
        (lambda x: x * 2, LINEAR, SEQUENCES, 3, 2),
        (lambda x: torch.cat((x, x), 1), CONV, IMAGES, 4, 1),
        (lambda x: x.transpose(1, 2), LINEAR, SEQUENCES, 3, None),
        (lambda x: x.view_as(x), LINEAR, SEQUENCES, 3, 2),
        (lambda x: x.softmax(1), CONV, None, None, None),
        (lambda x: x.relu(), CONV, IMAGES[0], 3, None),
    ],
)
def test_the_dimension_of_channels(body, layer, batch, rank, dimension):
    event = last(body, layer, batch)
    assert (rank_of(event), channel_dimension(event)) == (rank, dimension)


def test_the_layer_that_channels_come_from():
    model = nn.Sequential(nn.Conv1d(3, 6, 1), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(12, 2))
    events = trace(model, SEQUENCES.transpose(1, 2)).events
    sources = [event.channel_source and event.channel_source.path for event in events]
    assert sources == [None, "0", "0", "0", None, "4"]
    assert spatial_of(events[1]) == 1
    assert [is_linear(event) for event in events] == [False] * 5 + [True]
    assert [is_reshape(event) for event in events] == [False] * 4 + [True, False]
    assert is_recurrent(trace(nn.GRU(3, 2), SEQUENCES).events[-1])


def test_a_long_chain_without_a_layer_is_followed_in_no_time():
    def body(net, x):
        for _ in range(60):
            x = x + torch.tanh(x.mean(1, keepdim=True))
        return x

    assert trace(Net(body), SEQUENCES).events[-1].channel_source is None
