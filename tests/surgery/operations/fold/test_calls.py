"""The calls of layers in a forward: what each takes and returns, and when that cannot be told."""

from __future__ import annotations

import pytest
import torch
from tests.surgery.networks import FrozenBatchNorm2d, images
from tests.surgery.small import Net
from torch import nn
from torch.nn import functional as F

from normsmith.anatomy import trace
from normsmith.anatomy.locations import Locations
from normsmith.anatomy.remark import Refusal
from normsmith.surgery.operations.fold.calls import Calls
from normsmith.surgery.operations.fold.obstacles import Owners


def calls_of(model: nn.Module, path: str, batch: torch.Tensor):
    """The calls of one module, in a trace of the model."""
    calls = Calls(trace(model, batch), Owners(Locations(model)))
    return calls.of(model.get_submodule(path)), calls


def twice(net, x):
    return net.norm(net.conv(x)) + net.norm(net.conv(-x))


def test_each_call_has_its_input_and_result():
    model = Net(twice, conv=nn.Conv2d(3, 3, 1), norm=nn.BatchNorm2d(3))
    (first, second), calls = calls_of(model, "norm", images(4)())
    assert [call.entry.name for call in (first, second)] == ["Conv2d", "Conv2d"]
    assert first.entry is not second.entry
    assert calls.producer(first.entry).module is model.conv
    assert first.inner == {first.end}


class Own(nn.Module):
    """A linear layer of somebody else."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight, self.bias = (
            nn.Parameter(torch.randn(outputs, inputs)),
            nn.Parameter(torch.randn(outputs)),
        )

    def forward(self, x):
        return x @ self.weight.T + self.bias


def test_the_functions_of_a_layer_are_told_apart_by_its_calls():
    model = Net(lambda net, x: net.fc(x).relu() - net.fc(-x), fc=Own(3, 4))
    (first, second), _ = calls_of(model, "fc", torch.randn(5, 3))
    assert len(first.inner) == len(second.inner) > 1
    assert not first.inner & second.inner
    assert (first.end.name, second.end.name) == ("add", "add")
    assert (first.entry.name, second.entry.name) == ("input 0", "neg")


def test_a_linear_layer_of_functions_is_a_producer():
    model = Net(lambda net, x: net.norm(net.fc(x)), fc=Own(3, 4), norm=nn.BatchNorm1d(4))
    (call,), calls = calls_of(model, "norm", torch.randn(5, 3))
    producer = calls.producer(call.entry)
    assert producer.module is model.fc
    assert producer.end is call.entry
    assert producer.entry.kind == "input"
    assert {calls.producer(event) for event in producer.inner} == {producer}
    assert not calls.uses_elsewhere(model.fc, [producer])


def test_a_weight_that_something_else_uses():
    model = Net(
        lambda net, x: net.norm(net.fc(x)) + net.fc.weight.sum(), fc=Own(3, 4), norm=nn.BatchNorm1d(4)
    )
    refused, calls = calls_of(model, "fc", torch.randn(5, 3))
    assert refused == Refusal("fc", "its tensors are used outside of its own forward")
    (norm,), _ = calls_of(model, "norm", torch.randn(5, 3))
    assert calls.producer(norm.entry) is None


def changing(net, x):
    return net.norm(x) + net.norm(x)


class Changing(FrozenBatchNorm2d):
    """Computes something else every other time."""

    times = 0

    def forward(self, x):
        self.times += 1
        return super().forward(x) if self.times % 2 else x.relu()


@pytest.mark.parametrize(
    ("body", "norm", "reason"),
    [
        (lambda _, x: x, nn.BatchNorm2d, "this forward does not come by it"),
        (changing, Changing, "its 2 calls in a forward do not compute the same"),
        (lambda net, x: net.norm(x) + F.relu(net.norm.running_mean).sum(), nn.BatchNorm2d, "its tensors are used"),
    ],
)  # fmt: skip
def test_what_cannot_be_told(body, norm, reason):
    found, _ = calls_of(Net(body, norm=norm(3)), "norm", images(4)())
    assert isinstance(found, Refusal)
    assert found.reason.startswith(reason)
