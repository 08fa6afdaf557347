"""Steps of forwards: what each call does to channels, and where following them stops."""

from __future__ import annotations

import pytest
import torch
from tests.surgery.operations.prune.networks import chain, concatenated, mobile
from tests.surgery.small import Net
from torch import nn
from torch.nn import functional as F

from normsmith.anatomy.locations import Locations
from normsmith.anatomy.trace import trace
from normsmith.surgery.operations.prune.steps import Step, positions_of, steps_of, uncalled


def steps(model, x=None):
    x = torch.randn(2, 3, 9, 9) if x is None else x
    norms = {module for module in model.modules() if isinstance(module, nn.BatchNorm2d)}
    return steps_of(trace(model, x), norms)


def kinds(model, x=None):
    return [step.kind for step in steps(model, x)]


def test_a_chain_is_read_from_layer_to_layer():
    found = steps(chain())
    assert [step.kind for step in found] == [
        "layer", "norm", "activation", "layer", "norm", "activation", "keep", "repeat", "layer", "stop",
    ]  # fmt: skip
    assert found[7].numbers == (4,)
    assert found[0].sources == ()  # the model's input has channels of its own
    assert found[-1].name == "the model returns them"


def test_products_and_concatenations_are_read():
    assert "mul" in kinds(mobile())
    cat = next(step for step in steps(concatenated()) if step.kind == "cat")
    assert len(cat.sources) == 3


def after(function, width=4):
    """The steps of a function of a convolution's result."""
    model = Net(
        lambda net, x: net.last(function(net.conv(x))), conv=nn.Conv2d(3, 4, 1), last=nn.Conv2d(width, 2, 1)
    )
    return [(step.kind, *step.numbers) for step in steps(model)[1:-2]]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (F.relu, [("function",)]),
        (lambda y: F.leaky_relu(y, 0.3), [("zero",)]),  # its slope is not known
        (lambda y: y * 2, [("zero",)]),
        (lambda y: y + 1, [("vary",)]),
        (lambda y: F.avg_pool2d(y, 3, 1, 1), [("zero",)]),  # zeros of its padding are counted
        (lambda y: F.max_pool2d(y, 3, 1, 1), [("keep",)]),
        (lambda y: F.interpolate(y, scale_factor=2.0), [("keep",)]),
        (lambda y: y.transpose(2, 3), [("keep",)]),
        (lambda y: torch.cat([y], 1), [("cat",)]),  # as in the first layer of a dense block
        (lambda y: y + y.mean((2, 3), keepdim=True), [("keep",), ("add",)]),
    ],
)
def test_functions(function, expected):
    assert after(function) == expected


def test_slices():
    assert after(lambda y: y[:, 1:3], 2) == [("slice", 1, 3)]


@pytest.mark.parametrize(
    "function",
    [
        lambda y: torch.softmax(y, 1),
        lambda y: y.flip(1),
        lambda y: y.mean(1, keepdim=True).expand(-1, 4, -1, -1),
        lambda y: torch.roll(y, 1, 1),
        lambda y: y * torch.ones(4, 1, 1),
        lambda y: F.pixel_shuffle(y, 2).repeat(1, 4, 1, 1),
    ],
)
def test_what_may_mix_channels_stops(function):
    assert "stop" in [kind for kind, *_ in after(function)]


@pytest.mark.parametrize(
    ("pool", "kind"),
    [
        (nn.AvgPool2d(3, 1, 1), "zero"),
        (nn.AvgPool2d(3, 1, 1, count_include_pad=False), "keep"),
        (nn.AvgPool2d(3), "keep"),
        (nn.ZeroPad2d(1), "zero"),
        (nn.ReplicationPad2d(1), "keep"),
        (nn.PReLU(), "activation"),
        (nn.PReLU(4), "stop"),
        (nn.GroupNorm(2, 4), "stop"),
    ],
)
def test_layers(pool, kind):
    assert kinds(nn.Sequential(nn.Conv2d(3, 4, 1), pool, nn.Conv2d(4, 2, 1)))[1] == kind


def test_rows_go_to_json_and_back():
    for step in steps(chain()):
        assert Step.from_row(step.to_row()) == step


def test_positions_count_every_call():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 2, 2, stride=2), nn.Flatten(2), nn.Linear(196, 3)
    )
    found = dict(positions_of(trace(model, torch.randn(2, 3, 9, 9))))
    assert found == {"0": 2 * 49, "1": 2 * 49, "3": 2 * 2}


def test_layers_that_are_not_called_are_named_but_not_the_insides_of_opaque_ones():
    class Aside(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.MultiheadAttention(4, 2), nn.Linear(1, 1)

        def forward(self, x):
            return self.used(x, x, x)[0]

    model = Aside()
    found = uncalled(trace(model, torch.randn(2, 1, 4)), Locations(model))
    assert [refusal.path for refusal in found] == ["unused"]
