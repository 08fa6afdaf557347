"""What tells models apart: structure, settings, weights and buffers, but not the statistics that are left out."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from normsmith.measure.fingerprint import STRUCTURE, fingerprint
from normsmith.measure.layers import measurable_layers


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2).bfloat16())


def differing(one, other, apart=()):
    """The names of what differs, statistics of `other` left out as those of `one`."""
    theirs = fingerprint(other, [] if apart == () else measurable_layers(other).layers)
    return {name for name, digest in fingerprint(one, apart).items() if theirs[name] != digest}


def test_copies_have_one_fingerprint():
    model = network()
    assert fingerprint(model) == fingerprint(deepcopy(model))
    assert differing(model, deepcopy(model).eval()) == set()  # its mode is no part of a model's structure


def test_statistics_may_be_left_out():
    model = network()
    other = deepcopy(model)
    other[1].running_mean += 1
    other[1].num_batches_tracked += 1
    assert differing(model, other) == {"1.running_mean", "1.num_batches_tracked"}
    assert differing(model, other, measurable_layers(model).layers) == set()


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda m: m[0].weight.data.add_(1e-6), "0.weight"),
        (lambda m: m[3].weight.data.add_(1), "3.weight"),  # a dtype that numpy lacks
        (lambda m: m.register_module("2", nn.Tanh()), STRUCTURE),
        (lambda m: setattr(m[1], "eps", 1e-3), STRUCTURE),
    ],
)
def test_what_differs_is_named(change, name):
    model = network()
    other = deepcopy(model)
    change(other)
    assert differing(model, other) == {name}


def test_addresses_in_what_is_printed_tell_nothing():
    class Named(nn.Module):
        def extra_repr(self):
            return repr(object())

    assert fingerprint(Named()) == fingerprint(Named())
