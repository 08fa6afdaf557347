"""The activation that stays of a fused norm is the one that the norm applied."""

from __future__ import annotations

import pytest
import torch
from tests.surgery.networks import BatchNormAct2d, lived_in
from torch import nn

from normsmith import layers
from normsmith.anatomy.read_batch_norm import read_batch_norm
from normsmith.ops import ACTIVATIONS
from normsmith.surgery.targets.activations import activation_of


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_each_name_has_its_layer(name):
    layer, x = layers.BatchNormAct1d(3, activation=name).eval(), torch.randn(5, 3)
    plain = layers.BatchNorm1d(3).eval()
    torch.testing.assert_close(activation_of(read_batch_norm(layer))(plain(x)), layer(x))


def test_a_norm_alone_has_none():
    assert activation_of(read_batch_norm(nn.BatchNorm1d(3))) is None


def test_parts_of_other_libraries_are_the_same_modules():
    module = lived_in(BatchNormAct2d(4, nn.SiLU()))
    activation = activation_of(read_batch_norm(module))
    assert dict(activation.named_children()) == {"drop": module.drop, "act": module.act}
