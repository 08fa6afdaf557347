"""Which classes are normsmith's own layers, and which are derived from them by others."""

import pytest
from torch import nn

import normsmith.layers as index
from normsmith.layers._cells import LSTMCell
from normsmith.layers._step_norm import StepNorm
from normsmith.layers.ours import is_ours

LAYERS = [kind for kind in vars(index).values() if isinstance(kind, type)]


class Derived(index.BatchNorm2d):
    """A layer of somebody else."""


@pytest.mark.parametrize("kind", [*LAYERS, StepNorm, LSTMCell])
def test_layers_of_the_index_and_their_parts_are_ours(kind):
    assert is_ours(kind)


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, nn.LSTM, Derived])
def test_torchs_and_derived_layers_are_not(kind):
    assert not is_ours(kind)
