"""The path of a module in the user's model, for error messages."""

import warnings

import torch
from torch import nn

from normsmith.layers._where import where


def test_a_module_alone_is_its_class():
    assert where(nn.ReLU()) == "ReLU"


def test_a_nested_module_has_the_path_from_the_outermost_module():
    inner = nn.BatchNorm1d(3)
    net = nn.Sequential(nn.ModuleDict({"block": nn.Sequential(nn.ReLU(), inner)}))
    assert where(inner) == "Sequential.0.block.1"
    assert where(net) == "Sequential"


def test_a_module_that_holds_itself_ends():
    loop = nn.Sequential(nn.ReLU())
    loop[0].add_module("back", loop)
    assert where(loop[0]).startswith(("ReLU.", "Sequential."))


def test_scripted_modules_are_looked_through():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates its script
        scripted = torch.jit.script(nn.Sequential(nn.ReLU()))
    net = nn.Sequential(scripted, nn.Sequential(nn.Tanh()))
    assert where(net[1][0]) == "Sequential.1.0"


def test_what_the_compiler_wraps_around_is_no_part_of_the_path():
    inner = nn.BatchNorm1d(3)
    net = nn.Sequential(torch.compile(nn.Sequential(nn.ReLU(), inner), backend="eager"))
    assert where(inner) == "Sequential.0.1"
    assert where(net) == "Sequential"
    alone = nn.BatchNorm1d(3)
    wrapped = torch.compile(alone, backend="eager")
    assert where(alone) == "BatchNorm1d"
    assert "BatchNorm1d" in str(wrapped), "lives until here"
