"""Layers of others are known by what they do: norms, fixed scales and shifts, and neither."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from tests.surgery.foreign import KINDS, ActNorm, ImageAffine, MovingAverages, used
from tests.surgery.states import state_of
from torch import nn

from normsmith import layers
from normsmith.anatomy.behaviour import behaviour_of
from normsmith.anatomy.kinds import is_norm


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_what_a_layer_does_is_told_whatever_its_name_is(name, dtype):
    make, kind = KINDS[name]
    module = used(make()).to(dtype)
    before, random = state_of(module), torch.get_rng_state()
    behaviour = behaviour_of(module)
    assert (None if behaviour is None else behaviour.kind) == kind
    assert state_of(module) == before
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("name", [name for name, (_, kind) in KINDS.items() if kind in ("running", "fixed")])
def test_scale_and_shift_are_those_of_evaluation(name):
    module = used(KINDS[name][0]())
    behaviour = behaviour_of(module)
    for dimensions, channel in behaviour.layouts:
        sizes = [3, 2, 4, 5][: dimensions - 1]
        sizes.insert(channel, 6)
        x = torch.randn(sizes)
        shape = [-1 if i == channel else 1 for i in range(dimensions)]
        expected = x * behaviour.scale.reshape(shape) + behaviour.shift.reshape(shape)
        torch.testing.assert_close(module(x), expected.float(), rtol=1e-5, atol=1e-5)


def test_layouts_say_where_the_channels_are():
    assert behaviour_of(ActNorm(6)).layouts == {(2, 1), (3, 2), (4, 3)}
    assert behaviour_of(ImageAffine(6)).layouts == {(4, 1)}
    assert behaviour_of(MovingAverages(6)).layouts == {(2, 1), (3, 1), (4, 1), (5, 1)}


@pytest.mark.parametrize(
    "module",
    [
        pytest.param(nn.BatchNorm1d(6), id="torch's"),
        pytest.param(layers.BatchNorm1d(6), id="normsmith's"),
        pytest.param(nn.PReLU(6), id="torch's activation"),
        pytest.param(nn.Sequential(ActNorm(6)), id="with children"),
        pytest.param(ActNorm(6).to("meta"), id="without values"),
        pytest.param(nn.Module(), id="without a forward"),
    ],
)
def test_other_modules_are_not_tried(module):
    assert behaviour_of(module) is None


def test_hooks_are_not_called_and_replaced_forwards_not_believed():
    module, calls = ActNorm(6), []
    module.register_forward_hook(lambda *_: calls.append(1))
    assert behaviour_of(module).kind == "fixed"
    assert calls == []
    module.forward = lambda x: x
    assert behaviour_of(module) is None


def test_norms_of_others_are_norms_and_scales_are_none():
    told = {name for name, (make, _) in KINDS.items() if is_norm(used(make()))}
    kinds = {name for name, (_, kind) in KINDS.items() if kind in ("running", "own")}
    assert told == kinds | {"statistics that never change"}


def test_tables_are_no_vectors_of_channels():
    class Table(nn.Module):
        def __init__(self, size):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(size))

        def forward(self, x):
            tried.append(x.numel())
            return x * self.weight

    tried: list[int] = []
    assert behaviour_of(Table(2_000_000)) is None
    assert not tried
    assert behaviour_of(Table(300)).kind == "fixed"


def test_random_numbers_of_python_and_numpy_are_as_they_were():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, x):
            return x * self.weight * (random.random() + np.random.rand())

    python, numpy = random.getstate(), np.random.get_state()[1].tolist()
    behaviour_of(Noisy())
    assert random.getstate() == python
    assert np.random.get_state()[1].tolist() == numpy
