"""Selecting modules by path, by a function, or as the first or last so many."""

from __future__ import annotations

import pytest
from torch import nn

from normsmith.anatomy.select import selected
from normsmith.errors import InputError

A, B, C, D = nn.ReLU(), nn.Tanh(), nn.ReLU(), nn.Sigmoid()
PATHS = {A: ("layer1.norm",), B: ("layer1.act", "shared"), C: ("layer2.norm",), D: ("",)}


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        (None, [A, B, C, D]),
        ("layer1.*", [A, B]),
        ("*.norm", [A, C]),
        ("shared", [B]),  # by the second of its paths
        (["layer2.*", "shared"], [B, C]),  # in the order of the model
        (("",), [D]),
        ("Layer1.*", []),  # case counts
        ("layer[2-9].norm", [C]),
        ([], []),
        (lambda path, module: isinstance(module, nn.ReLU), [A, C]),
        (lambda path, module: path == "shared", [B]),
    ],
)
def test_by_path_or_function(only, expected):
    assert selected(PATHS, only, None, None) == expected


@pytest.mark.parametrize(
    ("only", "first", "last", "expected"),
    [
        (None, 2, None, [A, B]),
        (None, None, 2, [C, D]),
        (None, 9, None, [A, B, C, D]),
        (None, None, 9, [A, B, C, D]),
        ("*.norm", 1, None, [A]),
        ("*.norm", None, 1, [C]),
    ],
)
def test_the_first_or_last_of_those_that_fit(only, first, last, expected):
    assert selected(PATHS, only, first, last) == expected


def test_a_function_is_asked_for_every_path_of_a_shared_module_until_one_fits():
    asked = []
    selected(PATHS, lambda path, _: bool(asked.append(path)), None, None)
    assert asked == ["layer1.norm", "layer1.act", "shared", "layer2.norm", ""]


@pytest.mark.parametrize(
    ("first", "last", "message"),
    [
        (1, 1, "expected first or last, got both"),
        (0, None, "first: expected a number of layers from 1 on, got 0"),
        (None, -1, "last: expected a number of layers from 1 on, got -1"),
    ],
)
def test_numbers_that_select_nothing(first, last, message):
    with pytest.raises(InputError, match=message):
        selected(PATHS, None, first, last)
