"""Search: for each activation the place of its norm, or the reason why it gets none."""

from __future__ import annotations

import pytest
import torch
from tests.surgery.networks import images
from tests.surgery.small import Gated, Net, PreActivation, Recurrent, Residual
from torch import Tensor, nn
from torch.nn import functional as F

from normsmith.anatomy.kinds import Signal
from normsmith.anatomy.remark import Refusal, Remark
from normsmith.surgery import trace
from normsmith.surgery.placement.places import Place, Places
from normsmith.surgery.placement.search import Search, hidden_activations


def search(model: nn.Module, where: str, batch: Tensor | None = None, only: str | None = None) -> Search:
    found = Search(Places(model, trace(model, batch)), where, only)
    found.run()
    return found


def stands(found: Search) -> list[tuple[str, str]]:
    """The host and the side of each place; nothing must have been refused."""
    assert found.refusals == []
    return [(place.host, place.side) for place in found.places]


def lin() -> nn.Linear:
    return nn.Linear(4, 4)


def test_hidden_activations_are_those_that_insert_is_for():
    found = hidden_activations(trace(Gated(), images(4, 1)()))
    assert [(event.name, event.path) for event in found] == [("ReLU", "act")]
    assert [event.name for event in hidden_activations(trace(Residual()))] == ["relu"] * 5


# In a chain.


def test_in_a_sequential_the_place_is_beside_the_activation():
    model = nn.Sequential(lin(), nn.ReLU(), lin())
    (place,) = search(model, "before").places
    assert place == Place("1", "before", True, Signal(4), "0", "Linear 0 feeds ReLU 1", "0")
    (place,) = search(model, "after").places
    assert place == Place("1", "after", True, Signal(4), "0", "after ReLU 1, which Linear 0 feeds", None)


def test_of_an_activation_that_is_a_function_the_place_is_on_the_layer():
    def body(net, x):
        return net.end(F.relu(net.start(x)))

    model = Net(body, start=lin(), end=lin())
    (place,) = search(model, "before").places
    assert (place.host, place.side, place.bias) == ("start", "after", "start")
    assert place.why == "Linear start feeds the function relu in the forward of the model"
    assert stands(search(model, "after")) == [("end", "before")]


def test_a_function_whose_result_goes_to_several_layers_has_a_place_before_each():
    def body(net, x):
        x = F.relu(net.start(x))
        return net.one(x), net.two(x)

    found = search(Net(body, start=lin(), one=lin(), two=lin()), "after")
    assert stands(found) == [("one", "before"), ("two", "before")]


def test_a_module_whose_result_goes_to_several_layers_has_one_place():
    def body(net, x):
        x = net.act(net.start(x))
        return net.one(x), net.two(x)

    found = search(Net(body, start=lin(), act=nn.ReLU(), one=lin(), two=lin()), "after")
    assert stands(found) == [("act", "after")]


def test_of_several_identities_the_one_nearest_to_the_layer_is_taken():
    model = nn.Sequential(lin(), nn.Identity(), nn.Identity(), nn.ReLU(), nn.Identity(), lin())
    assert stands(search(model, "before")) == [("1", "replaces")]
    assert stands(search(model, "after")) == [("4", "replaces")]


def test_a_result_that_others_take_too_is_normalised_before_the_activation():
    def body(net, x):
        x = net.start(x)
        return net.end(net.act(x)) + x

    assert stands(search(Net(body, start=lin(), act=nn.ReLU(), end=lin()), "before")) == [("act", "before")]


def test_a_function_that_takes_what_others_take_too_has_no_place_before_it():
    def body(net, x):
        x = net.start(x)
        return net.end(torch.relu(x)) + x

    (refusal,) = search(Net(body, start=lin(), end=lin()), "before").refusals
    assert refusal.reason == (
        "the function relu: what Linear start puts out goes to others too, which a norm must not change"
    )


def test_a_place_in_a_sequential_is_preferred():
    def body(net, x):
        return net.end(net.act(net.start(x)))

    model = Net(body, start=nn.Sequential(lin(), nn.Dropout()), act=nn.ReLU(), end=lin())
    (place,) = search(model, "before").places
    assert (place.host, place.side, place.in_sequence) == ("start.1", "after", True)


# Norms that are there.


@pytest.mark.parametrize(
    ("layers", "where", "reason"),
    [
        ([lin(), nn.LayerNorm(4), nn.ReLU(), lin()], "before", "LayerNorm 1 is before it already; strip"),
        ([lin(), nn.LayerNorm(4), nn.Dropout(), nn.ReLU(), lin()], "before", "LayerNorm 1 is before it already"),
        ([lin(), nn.ReLU(), nn.Dropout(), nn.LayerNorm(4), lin()], "after", "LayerNorm 3 is after it already"),
    ],
)  # fmt: skip
def test_a_norm_that_is_there_is_a_reason(layers, where, reason):
    found = search(nn.Sequential(*layers), where)
    assert found.places == []
    assert [refusal.reason.startswith(reason) for refusal in found.refusals] == [True]


def test_a_norm_on_the_other_side_is_none():
    model = nn.Sequential(lin(), nn.LayerNorm(4), nn.ReLU(), lin())
    assert stands(search(model, "after")) == [("2", "after")]


# Residual blocks.


def closing(net, x):
    return net.end(net.act(net.skip(x) + net.branch(x)))


def test_after_an_addition_every_branch_that_ends_in_a_layer_gets_its_norm():
    model = Net(closing, skip=lin(), branch=lin(), act=nn.ReLU(), end=lin())
    found = search(model, "before")
    assert stands(found) == [("skip", "after"), ("branch", "after")]
    assert [place.why for place in found.places] == [
        "Linear skip ends a branch of a residual block: x + norm(f(x))",
        "Linear branch ends a branch of a residual block: x + norm(f(x))",
    ]


def test_the_identity_of_a_branch_is_its_place():
    branch = nn.Sequential(lin(), nn.Identity())
    model = Net(closing, skip=nn.Identity(), branch=branch, act=nn.ReLU(), end=lin())
    assert stands(search(model, "before")) == [("branch.1", "replaces")]


def test_a_norm_in_a_branch_is_before_the_activation_already():
    branch = nn.Sequential(lin(), nn.LayerNorm(4))
    model = Net(closing, skip=nn.Identity(), branch=branch, act=nn.ReLU(), end=lin())
    (refusal,) = search(model, "before").refusals
    assert refusal == Refusal(
        "act", "LayerNorm branch.1 is before it already, in a branch of the addition; strip the norms first"
    )


def test_without_a_layer_at_the_end_of_a_branch_the_norm_comes_after_the_addition():
    model = Net(closing, skip=nn.Identity(), branch=nn.Softmax(-1), act=nn.ReLU(), end=lin())
    (place,) = search(model, "before", torch.randn(3, 4)).places
    assert (place.host, place.side, place.why) == ("act", "before", "after an addition: norm(x + f(x))")


def test_an_addition_whose_result_goes_elsewhere_too_is_normalised_after_it():
    def body(net, x):
        x = x + net.branch(x)
        return net.end(net.act(x)) + x

    found = search(Net(body, branch=lin(), act=nn.ReLU(), end=lin()), "before", torch.randn(3, 4))
    assert stands(found) == [("act", "before")]


def test_where_a_skip_begins_the_norm_is_in_the_branch():
    def body(net, x):
        x = net.act(net.start(x))
        return net.end(net.drop(x) + net.branch(x))

    model = Net(body, start=lin(), act=nn.ReLU(), drop=nn.Dropout(), branch=lin(), end=lin())
    (place,) = search(model, "after").places
    assert (place.host, place.side) == ("branch", "before")
    assert place.why == "it begins the branch of a residual block: x + f(norm(x))"


def test_an_activation_within_a_branch_keeps_its_norm_there():
    assert stands(search(PreActivation(), "before")) == [("act", "before")]


# What gets none.


def test_the_networks_output_and_gates_get_none():
    assert search(nn.Sequential(lin(), nn.Sigmoid()), "before").kept == [
        Remark("1", "Sigmoid is the network's output")
    ]
    found = search(Gated(), "before")
    assert [(remark.path, remark.reason) for remark in found.kept] == [
        ("inner", "ReLU is a gate: its result only multiplies another"),
        ("", "the function sigmoid: sigmoid is a gate: its result only multiplies another"),
    ]
    assert stands(found) == [("conv", "after")]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_recurrent_layer_is_normalised_after_it_and_never_inside(kind):
    model, batch = Recurrent(kind), torch.randn(2, 5, 3)
    (place,) = search(model, "after", batch).places
    assert place == Place(
        "cells", "after", False, Signal(6, 1, True), "cells", "after " + kind.__name__ + " cells"
    )
    (refusal,) = search(model, "before", batch).refusals
    assert refusal.path == "cells"
    assert refusal.reason.startswith(f"the activations of {kind.__name__} are inside it; take normsmith's")


def test_the_same_remark_is_made_once():
    def body(net, x):
        x = net.start(x)
        return net.end(torch.relu(x) + torch.relu(x) + x)

    found = search(Net(body, start=lin(), end=lin()), "before")
    assert len(found.refusals) == 1


def test_a_partly_impossible_activation_gets_no_norm_at_all():
    def body(net, x):
        x = F.relu(net.start(x))
        return net.end(x), x.sum()

    found = search(Net(body, start=lin(), end=lin()), "after", torch.randn(3, 4))
    assert found.places == []
    assert "the function sum" in found.refusals[0].reason


# Only some.


@pytest.mark.parametrize(
    ("only", "hosts"), [("1", ["1"]), ("3", ["3"]), ("[13]", ["1", "3"]), ("9", []), (None, ["1", "3"])]
)
def test_modules_are_selected_by_their_paths(only, hosts):
    model = nn.Sequential(lin(), nn.ReLU(), lin(), nn.ReLU(), lin())
    assert [place.host for place in search(model, "after", only=only).places] == hosts


def test_functions_are_selected_by_the_module_that_calls_them():
    found = search(Residual(), "before", only="blocks.0")
    assert stands(found) == [("blocks.0.one", "after"), ("blocks.0.two", "after")]
