"""Where the modules of a model are, and who else holds them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from normsmith.anatomy.locations import Locations, check_changeable, find
from normsmith.errors import InputError, SurgeryError


def test_every_module_has_its_path_and_its_holder():
    model = nn.Sequential(nn.Linear(2, 2), nn.ModuleDict({"body": nn.Sequential(nn.ReLU())}))
    locations = Locations(model)
    assert locations.paths[model] == ("",)
    assert locations.holders[model] == ()
    assert [paths for module, paths in locations.paths.items() if module is not model] == [
        ("0",), ("1",), ("1.body",), ("1.body.0",),
    ]  # fmt: skip
    assert locations.holders[model[1]["body"]] == ((model[1], "body"),)


def test_shared_modules_have_all_their_paths_and_holders():
    norm, inner = nn.BatchNorm1d(2), nn.Sequential(nn.ReLU())
    model = nn.Sequential(norm, inner, norm, nn.Sequential(inner, norm))
    locations = Locations(model)
    assert locations.paths[norm] == ("0", "2", "3.1")
    assert locations.holders[norm] == ((model, "0"), (model, "2"), (model[3], "1"))
    assert locations.paths[inner[0]] == ("1.0", "3.0.0")
    assert locations.holders[inner[0]] == ((inner, "0"),)  # its holder is shared, not it


def test_children_that_are_none_are_none():
    model = nn.Module()
    model.register_module("norm", None)
    assert list(Locations(model).paths) == [model]


class Holding(nn.Module):
    """Holds its norm in another attribute, too."""

    def __init__(self, hold) -> None:
        super().__init__()
        self.norm, self.layer = nn.BatchNorm1d(2), nn.Linear(2, 2)
        vars(self)["also"] = hold(self.norm)


def itself(norm):
    own = [norm]
    own.append(own)
    return own


@pytest.mark.parametrize(
    "hold",
    [
        lambda norm: norm,
        lambda norm: [1, norm],
        lambda norm: ("a", (norm,)),
        lambda norm: {"a": {norm}},
        lambda norm: {"a": [{"b": (norm,)}]},
        itself,
    ],
    ids=["attribute", "list", "tuples", "dict of a set", "deep", "a list that holds itself"],
)
def test_plain_attributes_that_hold_a_module_are_named(hold):
    model = nn.Sequential(nn.ReLU(), Holding(hold))
    locations = Locations(model)
    assert locations.plain_attribute(model[1].norm) == "1.also"
    assert locations.plain_attribute(model[1].layer) is None
    reason = locations.why_not_replaceable(model[1].norm, "folding")
    assert reason == "1.also holds it as a plain Python attribute, which would go on using the old one"
    assert Locations(model[1]).plain_attribute(model[1].norm) == "also"


@pytest.mark.parametrize("hold", [lambda _: [nn.ReLU()], lambda _: "norm", lambda _: {}, lambda _: None])
def test_attributes_that_hold_no_module_of_the_model(hold):
    model = Holding(hold)
    assert Locations(model).plain_attribute(model.norm) is None
    assert Locations(model).why_not_replaceable(model.norm, "folding") is None


def test_modules_that_quantisation_has_a_hand_in_are_not_replaced():
    observed, intrinsic = nn.BatchNorm1d(2), nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    observed.qconfig = "some"
    model = nn.Sequential(observed, torch.ao.nn.intrinsic.LinearReLU(*intrinsic))
    locations = Locations(model)
    assert "prepare after converting" in locations.why_not_replaceable(observed, "converting")
    reason = locations.why_not_replaceable(intrinsic[0], "converting")
    assert reason == "it is part of LinearReLU, which computes with its insides"


@pytest.mark.compiles
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_modules_that_were_compiled_by_themselves_are_not_replaced():
    wrapped, in_place, free = nn.BatchNorm1d(2), nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    in_place.compile()
    locations = Locations(nn.Sequential(torch.compile(wrapped), in_place, free))
    for module in (wrapped, in_place):
        reason = locations.why_not_replaceable(module, "freezing")
        assert reason == "it was compiled by itself; compile after freezing"
    assert locations.why_not_replaceable(free, "freezing") is None


def test_parametrized_modules_can_be_located():
    layer = parametrizations.weight_norm(nn.Linear(2, 2))
    locations = Locations(nn.Sequential(layer))
    assert locations.paths[layer] == ("0",)
    assert locations.why_not_replaceable(layer, "folding") is None


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_what_is_no_model_and_what_is_no_python(unchecked):
    with pytest.raises(InputError, match=r"expected an nn.Module, got <class 'str'>"):
        check_changeable("model")
    with pytest.raises(
        InputError, match=r"expected an nn.Module, got <class 'torch.nn.modules.linear.Linear'>"
    ):
        Locations(nn.Linear)
    with pytest.raises(SurgeryError, match="got a scripted one"):
        Locations(torch.jit.script(nn.Linear(2, 2)))
    check_changeable(nn.Linear(2, 2))


def test_a_module_is_found_by_its_path():
    model = nn.Sequential(nn.Sequential(nn.ReLU()))
    assert find(model, "0.0") is model[0][0]
    assert find(model, "") is model
    with pytest.raises(SurgeryError, match=r"expected a module at 0\.1, found none in Sequential"):
        find(model, "0.1")
