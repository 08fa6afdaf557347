"""What a batch norm of torch or normsmith is read as, and which must not be touched."""

from __future__ import annotations

import re

import pytest
import torch
from tests.surgery.networks import BatchNormAct2d, FrozenBatchNorm2d, OwnForward, lived_in
from torch import nn
from torch.nn.utils import parametrizations

from normsmith import layers
from normsmith.anatomy import Refusal
from normsmith.anatomy.batch_norms import BatchNorm, is_batch_norm
from normsmith.anatomy.read_batch_norm import fused_activation, read_batch_norm


def test_a_subclass_of_ours_by_somebody_is_one():
    class Mine(layers.BatchNorm1d):
        pass

    assert is_batch_norm(Mine(2))
    assert read_batch_norm(Mine(2)).origin == "ours"


@pytest.mark.parametrize(
    ("kind", "dimensions"),
    [(nn.BatchNorm1d, 1), (nn.BatchNorm2d, 2), (nn.BatchNorm3d, 3), (nn.SyncBatchNorm, None)],
)
def test_torchs_batch_norm_is_read_as_its_parts(kind, dimensions):
    module = kind(4, eps=1e-3, momentum=None)
    norm = read_batch_norm(module)
    assert isinstance(norm, BatchNorm)
    assert norm.module is module
    assert (norm.origin, norm.features, norm.dimensions, norm.eps, norm.momentum) == (
        "torch", 4, dimensions, 1e-3, None,
    )  # fmt: skip
    assert norm.tensors["weight"] is module.weight
    assert norm.tensors["running_var"] is module.running_var
    assert norm.tensors["running_std"] is None
    assert norm.affine
    assert norm.tracks
    assert (norm.lazy, norm.frozen, norm.activation) == (False, False, None)
    assert norm.settings == ({"process_group": "world"} if kind is nn.SyncBatchNorm else {})
    assert norm.renorm is None


def test_norms_without_affine_or_statistics():
    norm = read_batch_norm(nn.BatchNorm1d(4, affine=False, track_running_stats=False))
    assert (norm.affine, norm.tracks) == (False, False)
    assert norm.tensors["running_mean"] is None


def test_settings_of_our_layers():
    norm = read_batch_norm(
        layers.BatchNormAct2d(4, activation="silu", ghost_batch_size=8, on_small_batch="running")
    )
    assert (norm.origin, norm.dimensions, norm.activation) == ("ours", 2, "silu")
    assert norm.settings == {
        "ghost_batch_size": 8, "process_group": None, "on_small_batch": "running", "on_nonfinite": "skip",
    }  # fmt: skip
    norm = read_batch_norm(layers.BatchRenorm1d(4, total_steps=100))
    assert norm.renorm.keys() == {"schedule", "total_steps", "track"}
    assert norm.renorm["total_steps"] == 100


def test_layers_frozen_to_their_running_statistics():
    layer = layers.BatchNorm1d(4)
    layer.freeze()
    assert read_batch_norm(layer).frozen


def test_lazy_layers_wait_for_their_first_input():
    module = nn.LazyBatchNorm2d()
    norm = read_batch_norm(module)
    assert (norm.lazy, norm.features, norm.dimensions) == (True, 0, 2)
    assert norm.is_uninitialised
    module(torch.randn(2, 3, 2, 2))
    assert not read_batch_norm(module).is_uninitialised
    assert read_batch_norm(module).features == 3


def test_batch_norms_of_other_libraries_are_read_by_a_probe():
    assert read_batch_norm(lived_in(BatchNormAct2d(4, nn.ReLU()))).activation == "relu"
    assert read_batch_norm(lived_in(FrozenBatchNorm2d(4))).frozen
    assert isinstance(read_batch_norm(OwnForward(4)), Refusal)


class NeverTrains(nn.BatchNorm2d):
    def train(self, mode=True):
        return super().train(False)


class WithMore(nn.BatchNorm2d):
    def __init__(self, features):
        super().__init__(features)
        self.register_buffer("scale", torch.ones(1))
        self.gate = nn.ReLU()


def replaced():
    module = nn.BatchNorm2d(4)
    module.forward = lambda x: x
    return module


def frozen_to_the_batch():
    module = layers.BatchNorm2d(4)
    module.freeze("batch")
    return module


def prepared():
    module = nn.BatchNorm2d(4)
    module.qconfig = "some"
    return module


def computed():
    module = nn.BatchNorm2d(4)
    weight = module.weight.detach()
    del module.weight
    module.weight = weight
    return module


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (replaced(), "its forward was replaced on this very BatchNorm2d"),
        (parametrizations.weight_norm(nn.BatchNorm2d(4), dim=None), "weight is parametrized"),
        (prepared(), "prepared for quantisation"),
        (frozen_to_the_batch(), "frozen to the statistics of the batch"),
        (NeverTrains(4), r"NeverTrains has a train\(\) of its own"),
        (WithMore(4), "WithMore holds gate, scale beside what a batch norm has"),
        (computed(), "its weight is no parameter of its own"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_what_must_not_be_touched_is_refused_with_its_reason(module, reason):
    refusal = read_batch_norm(module)
    assert isinstance(refusal, Refusal)
    assert refusal.path == ""
    assert re.search(reason, refusal.reason)


def test_the_activation_in_one_layer_with_a_norm_has_a_name():
    assert fused_activation(layers.BatchNormAct2d(4, activation="silu")) == "silu"
    assert fused_activation(BatchNormAct2d(4, nn.ReLU())) == "relu"
    for plain in (layers.BatchNormAct2d(4, activation=None), nn.BatchNorm2d(4), OwnForward(4), nn.ReLU()):
        assert fused_activation(plain) is None
