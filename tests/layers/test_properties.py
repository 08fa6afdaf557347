"""Properties of layers raise their own errors."""

import pytest
import torch
from torch import nn

import normsmith.layers as ours
from normsmith.layers.properties import TruthfulProperties


class Broken(TruthfulProperties):
    @property
    def value(self):
        return self.weight.no_such_attribute

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))


def test_a_property_raises_its_own_error():
    with pytest.raises(AttributeError, match="'Parameter' object has no attribute 'no_such_attribute'"):
        Broken().value  # noqa: B018


def test_what_is_missing_is_missing_and_what_is_there_is_found():
    with pytest.raises(AttributeError, match="'Broken' object has no attribute 'other'"):
        Broken().other  # noqa: B018
    assert Broken().weight.shape == (2,)


@pytest.mark.parametrize("make", [
    lambda: ours.BatchNorm1d(3), lambda: ours.BatchRenormAct2d(3, total_steps=9), lambda: ours.Whiten1d(4),
    lambda: ours.InputNorm(3), ours.LazyBatchNorm1d, lambda: ours.BatchNormLSTM(2, 3),
])  # fmt: skip
def test_every_property_of_every_family_says_what_is_missing(make):
    layer = make()
    names = [name for name in dir(type(layer)) if isinstance(getattr(type(layer), name), property)]
    assert "policy" in names

    class Poor(type(layer)):
        pass

    for name in names:
        setattr(Poor, name, property(lambda self: self.no_such_attribute))
    for name in names:
        # the instance has the state of a real one; only the property looks for what nobody has
        poor = Poor.__new__(Poor)
        vars(poor).update(vars(layer))
        with pytest.raises(AttributeError, match="has no attribute 'no_such_attribute'"):
            getattr(poor, name)
