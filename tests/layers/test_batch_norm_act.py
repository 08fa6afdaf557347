"""Batch norm with its activation and residual in one layer."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import normsmith.layers as ours
from normsmith.errors import InputError

ACTIVATIONS = {
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "silu": F.silu,
    "gelu": F.gelu,
    "hardswish": F.hardswish,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    None: lambda y: y,
}


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("training", [True, False])
def test_it_is_the_activation_of_the_norm_and_the_residual(name, training):
    layer = ours.BatchNormAct2d(3, activation=name).train(training)
    norm = nn.BatchNorm2d(3).train(training)
    x, residual = torch.randn(2, 4, 3, 2, 2)
    torch.testing.assert_close(layer(x), ACTIVATIONS[name](norm(x)), rtol=1e-5, atol=1e-5)
    y = layer(x, residual=residual)
    torch.testing.assert_close(y, ACTIVATIONS[name](norm(x) + residual), rtol=1e-5, atol=1e-5)


def test_a_checkpoint_of_batch_norm_loads():
    norm = nn.BatchNorm1d(3)
    norm(torch.randn(8, 3))
    ours.BatchNormAct1d(3).load_state_dict(norm.state_dict())


def test_it_is_no_batch_norm_of_torchs():
    assert not isinstance(ours.BatchNormAct1d(3), nn.BatchNorm1d)


def test_unknown_activations_are_refused(unchecked):
    with pytest.raises(InputError, match=r"activation: expected one of relu, .*or None; got 'swish'"):
        ours.BatchNormAct1d(3, activation="swish")


def test_repr_ends_with_the_activation():
    assert repr(ours.BatchRenormAct1d(3, total_steps=9, activation="silu")).endswith(", activation='silu')")
