"""The installer: the names that norms get, and the edits that put, move and remove them."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.surgery.networks import SharedNorm
from tests.surgery.states import state_of
from torch import Tensor, nn

from normsmith.anatomy.hooks import is_attached
from normsmith.anatomy.kinds import Signal
from normsmith.anatomy.locations import Locations
from normsmith.surgery.placement.bias import Position
from normsmith.surgery.placement.installer import Installer
from normsmith.surgery.placement.places import Place
from normsmith.surgery.plans.edits import do_all, undo_all


class Net(nn.Module):
    """Two layers as attributes, and a Sequential."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.free = nn.Linear(4, 4), nn.Linear(4, 4), nn.Identity()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.free(self.two(self.one(x))))


def installer(model: nn.Module) -> Installer:
    return Installer(model, Locations(model))


def place(
    host: str, side: Position = "after", *, in_sequence: bool = False, channels_last: bool = False
) -> Place:
    return Place(host, side, in_sequence, Signal(4, 0, channels_last), host, "")


def done(one: Installer) -> None:
    assert all(edit.is_possible() for edit in one.edits)
    do_all(one.edits)
    assert all(edit.is_undoable() for edit in one.edits)


X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


# Putting.


@pytest.mark.parametrize(
    ("side", "order"), [("after", ["0", "1", "1_norm", "2"]), ("before", ["0", "1_norm", "1", "2"])]
)
def test_in_a_sequential_a_norm_is_named_after_its_neighbour(side, order):
    model = Net()
    before, one, norm = state_of(model), installer(model), nn.LayerNorm(4)
    assert one.put(place("body.1", side, in_sequence=True), norm) == "body.1_norm"
    done(one)
    assert [name for name, _ in model.body.named_children()] == order
    assert model.get_submodule("body.1_norm") is norm
    undo_all(one.edits)
    assert state_of(model) == before


def test_several_norms_in_a_sequential_are_one_edit():
    model = Net()
    one = installer(model)
    paths = [one.put(place(f"body.{name}", "before", in_sequence=True), nn.LayerNorm(4)) for name in "012"]
    assert paths == ["body.0_norm", "body.1_norm", "body.2_norm"]
    assert len(one.edits) == 1
    done(one)
    assert [name for name, _ in model.body.named_children()] == ["0_norm", "0", "1_norm", "1", "2_norm", "2"]


@pytest.mark.parametrize(
    ("side", "name", "expected"),
    [
        ("after", "norm", lambda norm, one: norm(one(X))),
        ("before", "input_norm", lambda norm, one: one(norm(X))),
    ],
)
def test_elsewhere_a_norm_is_a_child_that_a_hook_applies(side, name, expected):
    model = Net()
    before, bare, norm, one = state_of(model), copy.deepcopy(model.one), nn.LayerNorm(4), installer(model)
    assert one.put(place("one", side), norm) == f"one.{name}"
    done(one)
    assert is_attached(model.one, name)
    assert torch.equal(model.one(X), expected(norm, bare))
    undo_all(one.edits)
    assert state_of(model) == before


def test_channels_that_come_last_are_moved_for_the_norm():
    model = Net()
    one = installer(model)
    one.put(place("one", channels_last=True), nn.BatchNorm1d(4))
    done(one)
    output = model.one(torch.randn(6, 5, 4))
    torch.testing.assert_close(output.mean((0, 1)), torch.zeros(4), rtol=0, atol=1e-5)


def test_the_model_itself_may_be_the_host():
    model = nn.Linear(4, 4)
    one = installer(model)
    assert one.put(place(""), nn.LayerNorm(4)) == "norm"


def test_a_norm_takes_the_place_of_an_identity():
    model = Net()
    norm, one = nn.LayerNorm(4), installer(model)
    assert one.put(place("free", "replaces"), norm) == "free"
    done(one)
    assert model.free is norm


def test_names_that_are_taken_are_not_given_again():
    model = Net()
    model.body.add_module("1_norm", nn.Identity())
    model.one.norm = "a plain attribute"
    one = installer(model)
    assert one.put(place("one"), nn.LayerNorm(4)) == "one.norm2"
    assert one.put(place("one"), nn.LayerNorm(4)) == "one.norm3"
    assert one.put(place("body.1", in_sequence=True), nn.LayerNorm(4)) == "body.1_norm2"
    assert one.put(place("body.1", "before", in_sequence=True), nn.LayerNorm(4)) == "body.1_norm3"


# Removing.


def inserted(model: nn.Module, where: Place) -> nn.Module:
    norm, one = nn.LayerNorm(4), installer(model)
    one.put(where, norm)
    do_all(one.edits)
    return norm


@pytest.mark.parametrize(
    "where", [place("one"), place("body.1", in_sequence=True)], ids=["attached", "in sequence"]
)
def test_an_inserted_norm_goes_without_trace(where):
    model = Net()
    bare = state_of(model)
    norm = inserted(model, where)
    normed, one = state_of(model), installer(model)
    assert one.remove(norm) == "nothing"
    done(one)
    assert state_of(model).keys() == bare.keys()
    assert norm not in set(model.modules())
    undo_all(one.edits)
    assert state_of(model) == normed


def test_a_norm_of_the_model_itself_leaves_an_identity_under_all_its_names():
    model = SharedNorm()
    one = installer(model)
    assert one.remove(model.norm) == "Identity()"
    done(one)
    assert type(model.norm) is nn.Identity
    assert model.again is model.norm


def test_a_childs_name_alone_makes_no_inserted_norm():
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module("1_norm", nn.LayerNorm(4))  # a forward may ask for it

    model = Block()
    assert installer(model).remove(model.get_submodule("1_norm")) == "Identity()"


# Moving.


def test_within_a_sequential_a_norm_changes_its_position():
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.ReLU())
    norm, one = model[1], installer(model)
    assert one.move(norm, place("2", in_sequence=True)) == "1"
    done(one)
    assert [name for name, _ in model.named_children()] == ["0", "2", "1"]
    assert model[2] is norm


def test_an_attached_norm_is_attached_elsewhere():
    model = Net()
    norm = inserted(model, place("one"))
    before, one = state_of(model), installer(model)
    assert one.move(norm, place("two", "before")) == "two.input_norm"
    done(one)
    assert model.two.input_norm is norm
    assert not hasattr(model.one, "norm")
    undo_all(one.edits)
    assert state_of(model) == before


def test_an_inserted_norm_leaves_its_sequential():
    model = Net()
    norm = inserted(model, place("body.1", in_sequence=True))
    one = installer(model)
    assert one.move(norm, place("one")) == "one.norm"
    done(one)
    assert [name for name, _ in model.body.named_children()] == ["0", "1", "2"]
    assert model.one.norm is norm


def test_a_norm_that_moves_leaves_an_identity_of_its_mode_and_keeps_its_hooks():
    model = nn.Sequential(Net(), nn.LayerNorm(4)).eval()
    norm = model[1]
    norm.register_forward_hook(lambda *_: None)
    before, one = state_of(model), installer(model)
    assert one.move(norm, place("0.free", "replaces")) == "0.free"
    done(one)
    assert model[0].free is norm
    assert len(norm._forward_hooks) == 1
    assert type(model[1]) is nn.Identity
    assert not model[1].training
    assert not model[1]._forward_hooks
    undo_all(one.edits)
    assert state_of(model) == before
