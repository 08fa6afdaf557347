"""The ways between norms and producers: what lies on them, and what ends them."""

from __future__ import annotations

import pytest
import torch
from tests.surgery.small import Net
from torch import Tensor, nn

from normsmith.anatomy import trace
from normsmith.anatomy.locations import Locations
from normsmith.surgery.operations.fold.calls import Calls
from normsmith.surgery.operations.fold.obstacles import Owners
from normsmith.surgery.operations.fold.ways import Obstacle, Ways


def ways_of(body, batch: Tensor, *, ahead: bool = False, **parts: nn.Module):
    """The ways from all calls of the module `norm`."""
    model = Net(body, **parts)
    graph, owners = trace(model, batch), Owners(Locations(model))
    calls = Calls(graph, owners)
    ways = Ways(graph, owners, calls)
    return ways.ahead(calls.of(model.norm)) if ahead else ways.back(calls.of(model.norm))


def layers() -> dict[str, nn.Module]:
    return {"fc": nn.Linear(3, 4), "drop": nn.Dropout(), "norm": nn.BatchNorm1d(4), "last": nn.Linear(4, 2)}


def test_back_in_the_order_of_the_forward():
    (way,) = ways_of(lambda net, x: net.norm(net.drop(net.fc(x)).mT), torch.ones(2, 5, 3), **layers())
    assert [event.name for event in way.between] == ["Dropout", "get"]
    assert way.producer.module.out_features == 4


def test_ahead_to_every_call():
    def body(net, x):
        y = net.norm(x)
        return net.last(y.flip(0)) + net.last(net.drop(y))

    ways = ways_of(body, torch.ones(5, 4), ahead=True, **layers())
    assert [[event.name for event in way.between] for way in ways] == [["flip"], ["Dropout"]]
    assert len({way.producer.end for way in ways}) == 2


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (lambda net, x: net.norm(net.fc(x).relu()), Obstacle(stops_at="the function relu")),
        (lambda net, x: net.norm(x[:, [0, 1, 2, 0]]), Obstacle(stops_at="the model's input")),
        (
            lambda net, x: net.norm(nn.functional.linear(x, net.fc.weight)),
            Obstacle("the function linear is called as a function; make it a module"),
        ),
        (
            lambda net, x: (y := net.drop(net.fc(x))) + net.norm(y),
            Obstacle("the function add takes what drop (Dropout) puts out as well"),
        ),
    ],
)  # fmt: skip
def test_what_ends_a_way_back(body, expected):
    assert ways_of(body, torch.ones(5, 3), **layers()) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (lambda net, x: net.norm(x), Obstacle(stops_at="the model's output")),
        (lambda net, x: (net.norm(x), x)[1], Obstacle(stops_at="nothing")),
        (
            lambda net, x: net.last(y := net.norm(x)) + y.sum(),
            Obstacle(stops_at="last (Linear) and the function sum"),
        ),
    ],
)  # fmt: skip
def test_what_ends_a_way_ahead(body, expected):
    assert ways_of(body, torch.ones(5, 4), ahead=True, **layers()) == expected
