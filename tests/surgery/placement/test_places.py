"""Places: where a norm can stand in a graph, what it normalises there, and why it cannot stand elsewhere."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest
import torch
from tests.surgery.networks import UsedTwice, images
from tests.surgery.small import Gated, Net
from torch import Tensor, nn
from torch.nn import functional as F

from normsmith.anatomy import Refusal
from normsmith.anatomy.graph import Event
from normsmith.anatomy.kinds import Signal
from normsmith.surgery import trace
from normsmith.surgery.placement.places import Place, Places, gates, hidden_events


def places(model: nn.Module, batch: Tensor | None = None) -> Places:
    return Places(model, trace(model, batch))


def event(at: Places, which: str) -> Event:
    """The only event of a path, or else of a function's name."""
    (one,) = [e for e in at.graph.events if (e.path if e.kind == "module" else e.name) == which]
    return one


def place_after(model: nn.Module, which: str, batch: Tensor | None = None) -> Place | Refusal:
    at = places(model, batch)
    return at.after(event(at, which), "asked for")


def reason(result: Place | Refusal) -> str:
    assert isinstance(result, Refusal)
    return result.reason


def test_a_place_is_written_down_and_read_back():
    place = Place("1", "before", True, Signal(8, 2, True), "0", "asked for", "0")
    assert Place.of(json.loads(json.dumps(asdict(place)))) == place


# The signal at a place.


@pytest.mark.parametrize(
    ("layer", "signal"),
    [
        (nn.Linear(3, 6), Signal(6)),
        (nn.Conv1d(3, 6, 1), Signal(6, 1)),
        (nn.Conv2d(3, 6, 1), Signal(6, 2)),
        (nn.Conv3d(3, 6, 1), Signal(6, 3)),
        (nn.ConvTranspose2d(3, 6, 1), Signal(6, 2)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_by_symbols_the_layer_before_tells_channels_and_dimensions(layer, signal):
    model = nn.Sequential(layer, nn.Dropout(), nn.ReLU(), nn.BatchNorm1d(6), nn.Tanh())
    at = places(model)
    assert [at.signal(event(at, path)) for path in "01234"] == [(signal, "0")] * 5


@pytest.mark.parametrize(
    ("shape", "signal"),
    [
        ((5, 3), Signal(6)),
        ((5, 7, 3), Signal(6, 1, True)),
        ((5, 7, 2, 3), Signal(6, 2, True)),
    ],
)
def test_after_a_linear_layer_channels_come_last(shape, signal):
    at = places(nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2)), torch.randn(shape))
    assert at.signal(event(at, "1")) == (signal, "0")


def test_concatenated_channels_are_counted():
    model = Net(
        lambda net, x: net.end(torch.cat((net.one(x), net.other(x)), 1)),
        one=nn.Conv2d(3, 4, 1), other=nn.Conv2d(3, 2, 1), end=nn.Conv2d(6, 1, 1),
    )  # fmt: skip
    at = places(model, images(4)())
    assert at.signal(event(at, "cat")) == (Signal(6, 2), "one")


def test_flattened_features_are_those_of_the_linear_layer_that_takes_them():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.ReLU(), nn.Linear(64, 2))
    at = places(model, images(4)())
    assert at.signal(event(at, "2")) == (Signal(64), "3")
    by_symbols = places(model)
    assert reason(by_symbols.signal(event(by_symbols, "2"))).endswith("not known without data; give a batch")


def test_a_matrix_of_features_needs_no_layer_that_keeps_them():
    model = Net(
        lambda net, x: net.act(net.end(x).softmax(-1)), end=nn.Linear(3, 6), act=nn.ReLU()
    )  # softmax: its channels are not followed  # fmt: skip
    at = places(model, torch.randn(5, 3))
    assert at.signal(event(at, "act")) == (Signal(6), "end")


def test_without_any_layer_the_channels_are_not_known():
    at = places(nn.Sequential(nn.ReLU(), nn.Softmax(1)))
    assert "no linear layer or convolution leads to it" in reason(at.signal(event(at, "0")))


def test_a_result_that_is_no_batch_of_channels_is_said():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    assert "got a result of shape (4, 5, 5)" in reason(place_after(model, "1", torch.randn(3, 5, 5)))


# After an event.


def test_in_a_sequential_a_norm_becomes_a_child_of_it():
    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2))
    assert place_after(model, "1") == Place("1", "after", True, Signal(6), "0", "asked for")
    inside = Net(lambda net, x: net.body_of(x), body_of=model)
    assert place_after(inside, "body_of.1").in_sequence


class OwnOrder(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return self[2](self[1](self[0](x)))


@pytest.mark.parametrize(
    ("model", "path", "batch"),
    [
        pytest.param(OwnOrder(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2)), "1", None, id="a forward of its own"),
        pytest.param(
            Net(lambda net, x: net.act(net.lin(x)), lin=nn.Linear(3, 6), act=nn.ReLU()), "act", None, id="attributes"
        ),
        pytest.param(
            nn.Sequential(nn.Linear(3, 6), nn.ReLU()), "1", torch.randn(2, 5, 3), id="channels last: they are moved"
        ),
        pytest.param(
            Net(lambda net, x: net.seq[1](net.seq[0](x)), seq=nn.Sequential(nn.Linear(3, 6), nn.ReLU())), "seq.1", None,
            id="not called as a whole",
        ),
    ],
)  # fmt: skip
def test_elsewhere_a_norm_becomes_a_child_of_its_host(model, path, batch):
    place = place_after(model, path, batch)
    assert isinstance(place, Place)
    assert (place.host, place.side, place.in_sequence) == (path, "after", False)


def pooled(net: Any, x: Tensor) -> Tensor:
    return net.end(F.relu(F.max_pool2d(net.conv(x), 2)))


def test_a_function_that_passes_channels_on_leaves_the_place_to_what_is_above_it():
    model = Net(pooled, conv=nn.Conv2d(3, 4, 1), end=nn.Conv2d(4, 1, 1))
    place = place_after(model, "max_pool2d")
    assert (place.host, place.side, place.bias) == ("conv", "after", "conv")


def test_above_a_function_the_result_must_go_nowhere_else():
    model = Net(
        lambda net, x: net.end(F.dropout((y := net.conv(x)), 0.5)) + net.end(y.detach()),
        conv=nn.Conv2d(3, 4, 1), end=nn.Conv2d(4, 1, 1),
    )  # fmt: skip
    assert "the function dropout in the forward of the model cannot hold a norm" in reason(
        place_after(model, "dropout")
    )


def test_an_activation_that_is_a_function_holds_none():
    model = Net(pooled, conv=nn.Conv2d(3, 4, 1), end=nn.Conv2d(4, 1, 1))
    assert "call one there in your own code, or make it a module" in reason(place_after(model, "relu"))


def test_a_module_that_is_called_twice_holds_none():
    at = places(UsedTwice())
    first = at.graph.of(at.graph.events[-1].module)[0]
    assert "is called more than once" in reason(at.after(first, ""))


# Before an event.


def test_the_place_before_a_function_is_before_the_layer_that_takes_its_result():
    model = Net(
        lambda net, x: net.end(F.dropout(net.conv(x), 0.5)), conv=nn.Conv2d(3, 4, 1), end=nn.Conv2d(4, 1, 1)
    )
    at = places(model)
    place = at.before(event(at, "dropout"), event(at, "conv"), "asked for")
    # dropout sets a channel to zero, not to its bias, so that the bias is not redundant
    assert place == Place("end", "before", False, Signal(4, 2), "conv", "asked for", None)


def test_a_function_whose_result_is_returned_has_no_place_before_the_next_layer():
    model = Net(
        lambda net, x: (net.end(y := F.dropout(net.conv(x), 0.5)), y), conv=nn.Conv2d(3, 4, 1), end=nn.Conv2d(4, 1, 1)
    )  # fmt: skip
    at = places(model)
    refusal = at.before(event(at, "dropout"), event(at, "conv"), "")
    assert "the function dropout in the forward of the model cannot hold a norm" in reason(refusal)


def test_before_what_takes_several_results_is_no_place():
    model = Net(lambda net, x: (y := net.lin(x)) + y.tanh(), lin=nn.Linear(3, 3))
    at = places(model)
    refusal = at.before(event(at, "add"), event(at, "tanh"), "")
    assert "the function add in the forward of the model takes more than the one result" in reason(refusal)


def test_before_what_takes_a_result_twice_is_no_place():
    model = Net(lambda net, x: net.bil((y := net.lin(x)), y), lin=nn.Linear(3, 3), bil=nn.Bilinear(3, 3, 2))
    at = places(model)
    assert "takes more than the one result" in reason(at.before(event(at, "bil"), event(at, "lin"), ""))


# In the place of an identity.


def test_an_identity_gives_its_place():
    at = places(nn.Sequential(nn.Linear(3, 6), nn.Identity(), nn.ReLU()))
    assert at.replacing(event(at, "1"), "free") == Place("1", "replaces", False, Signal(6), "0", "free", "0")


class Marker(nn.Identity):
    pass


def listed() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3), nn.Identity())
    model.order = [model[1]]
    return model


def with_a_child() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3), nn.Identity())
    model[1].inner = nn.ReLU()
    return model


def twice() -> nn.Module:
    return Net(lambda net, x: net.same(net.lin(net.same(x))), lin=nn.Linear(3, 3), same=nn.Identity())


@pytest.mark.parametrize(
    ("model", "batch"),
    [
        pytest.param(nn.Sequential(nn.Linear(3, 3), Marker()), None, id="a subclass may mean something"),
        pytest.param(nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.0)), None, id="another module"),
        pytest.param(listed(), None, id="a list holds it too"),
        pytest.param(with_a_child(), torch.randn(2, 3), id="it has a child"),
        pytest.param(twice(), None, id="called twice"),
        pytest.param(nn.Identity(), None, id="the model itself: nothing holds it"),
        pytest.param(
            nn.Sequential(nn.Linear(3, 3), nn.Identity()), torch.randn(2, 5, 3),
            id="channels last: a hook has to move them",
        ),
    ],
)  # fmt: skip
def test_what_gives_no_place(model, batch):
    at = places(model, batch)
    assert at.replacing(at.graph.events[-1], "") is None


# The bias before a place.


@pytest.mark.parametrize(
    ("layers", "path", "bias"),
    [
        pytest.param([nn.Linear(3, 6), nn.ReLU()], "0", "0", id="right after the layer"),
        pytest.param([nn.Linear(3, 6), nn.Identity(), nn.Identity()], "2", "0", id="through identities"),
        pytest.param([nn.Linear(3, 6), nn.Dropout()], "1", None, id="dropout between"),
        pytest.param([nn.Linear(3, 6), nn.ReLU()], "1", None, id="an activation between"),
        pytest.param([nn.Linear(3, 6, bias=False), nn.ReLU()], "0", None, id="there is none"),
    ],
)
def test_the_bias_right_before_a_place(layers, path, bias):
    assert place_after(nn.Sequential(*layers, nn.Linear(6, 2)), path).bias == bias


def test_a_bias_that_others_need_is_kept():
    model = Net(
        lambda net, x: net.act(y := net.lin(x)) + y, lin=nn.Linear(3, 3), act=nn.ReLU()
    )  # the sum takes the layer's result as it is  # fmt: skip
    at = places(model)
    assert at.before(event(at, "act"), event(at, "lin"), "").bias is None
    # a norm right on the layer is there for all who take its result
    assert at.after(event(at, "lin"), "").bias == "lin"


def test_the_bias_of_a_layer_that_is_called_twice_is_kept():
    model = Net(
        lambda net, x: net.act(net.lin(net.other(net.lin(x)))), lin=nn.Linear(3, 3), other=nn.ReLU(), act=nn.ReLU()
    )  # fmt: skip
    at = places(model)
    assert at.before(event(at, "act"), at.graph.of(model.lin)[1], "").bias is None


# What is hidden, and what is a gate.


def called(events: frozenset[Event]) -> list[str]:
    return [e.path or e.name for e in sorted(events, key=lambda e: e.index)]


def test_hidden_results_reach_a_later_layer_with_weights():
    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2), nn.LayerNorm(2), nn.Tanh())
    graph = trace(model)
    assert [path for path in called(hidden_events(graph)) if path.isdigit()] == ["0", "1"]


def test_a_gate_and_what_is_computed_for_it_alone():
    graph = trace(Gated(), images(4, 1)())
    assert called(gates(graph)) == ["mean", "squeeze", "inner", "excite", "sigmoid"]


def test_multiplying_by_a_parameter_or_adding_is_no_gate():
    def body(net: Any, x: Tensor) -> Tensor:
        return net.end(torch.sigmoid(net.lin(x)) * net.end.bias + torch.tanh(x))

    graph = trace(Net(body, lin=nn.Linear(3, 3), end=nn.Linear(3, 3)))
    assert gates(graph) == frozenset()
