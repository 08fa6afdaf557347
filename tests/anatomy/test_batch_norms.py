"""What anybody's batch norm is read as, and why some are refused."""

from __future__ import annotations

import re

import pytest
import torch
from tests.surgery.networks import BatchNormAct2d, FrozenBatchNorm2d, OwnForward, lived_in
from tests.surgery.states import state_of
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from normsmith import layers
from normsmith.anatomy import Refusal
from normsmith.anatomy.batch_norms import BatchNorm, is_batch_norm, is_uninitialised, read


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.BatchNorm2d(2), True),
        (nn.LazyBatchNorm2d(), True),
        (nn.SyncBatchNorm(2), True),
        (layers.BatchNorm1d(2), True),
        (layers.BatchRenorm2d(2, total_steps=9), True),
        (layers.BatchNormAct2d(2), True),
        (FrozenBatchNorm2d(2), True),
        (OwnForward(2), True),
        (layers.Whiten1d(2), False),
        (nn.InstanceNorm1d(2, track_running_stats=True), False),
        (nn.GroupNorm(1, 2), False),
        (nn.Sequential(nn.BatchNorm2d(2)), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_a_batch_norm(module, expected):
    assert is_batch_norm(module) == expected


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_scripted_norm_is_none():
    assert not is_batch_norm(torch.jit.script(nn.BatchNorm2d(2)))


def test_a_subclass_of_ours_by_somebody_is_one():
    class Mine(layers.BatchNorm1d):
        pass

    assert is_batch_norm(Mine(2))
    assert read(Mine(2)).origin == "ours"


@pytest.mark.parametrize(
    ("kind", "dimensions"),
    [(nn.BatchNorm1d, 1), (nn.BatchNorm2d, 2), (nn.BatchNorm3d, 3), (nn.SyncBatchNorm, None)],
)
def test_torchs_batch_norm_is_read_as_its_parts(kind, dimensions):
    module = kind(4, eps=1e-3, momentum=None)
    norm = read(module)
    assert isinstance(norm, BatchNorm)
    assert norm.module is module
    assert (norm.origin, norm.features, norm.dimensions, norm.eps, norm.momentum) == (
        "torch", 4, dimensions, 1e-3, None,
    )  # fmt: skip
    assert norm.tensors["weight"] is module.weight
    assert norm.tensors["running_var"] is module.running_var
    assert norm.tensors["running_std"] is None
    assert (norm.affine, norm.tracks, norm.lazy, norm.frozen, norm.activation) == (
        True,
        True,
        False,
        False,
        None,
    )
    assert norm.settings == ({"process_group": "world"} if kind is nn.SyncBatchNorm else {})
    assert norm.renorm is None


def test_norms_without_affine_or_statistics():
    norm = read(nn.BatchNorm1d(4, affine=False, track_running_stats=False))
    assert (norm.affine, norm.tracks) == (False, False)
    assert norm.tensors["running_mean"] is None


def test_settings_of_our_layers():
    norm = read(layers.BatchNormAct2d(4, activation="silu", ghost_batch_size=8, on_small_batch="running"))
    assert (norm.origin, norm.dimensions, norm.activation) == ("ours", 2, "silu")
    assert norm.settings == {
        "ghost_batch_size": 8, "process_group": None, "on_small_batch": "running", "on_nonfinite": "skip",
    }  # fmt: skip
    norm = read(layers.BatchRenorm1d(4, total_steps=100))
    assert norm.renorm.keys() == {"schedule", "total_steps", "track"}
    assert norm.renorm["total_steps"] == 100


def test_layers_frozen_to_their_running_statistics():
    layer = layers.BatchNorm1d(4)
    layer.freeze()
    assert read(layer).frozen


def test_lazy_layers_wait_for_their_first_input():
    module = nn.LazyBatchNorm2d()
    norm = read(module)
    assert (norm.lazy, norm.features, norm.dimensions) == (True, 0, 2)
    assert is_uninitialised(norm)
    module(torch.randn(2, 3, 2, 2))
    assert not is_uninitialised(read(module))
    assert read(module).features == 3


def test_attributes_that_users_put_on_a_norm():
    module = nn.BatchNorm1d(4)
    assert read(module).attributes() == {}
    module.stage = 3
    assert read(module).attributes() == {"stage": 3}
    assert read(lived_in(FrozenBatchNorm2d(4))).attributes() == {}


# Batch norms of other libraries.


@pytest.mark.parametrize(
    ("act", "activation"),
    [(nn.ReLU(), "relu"), (nn.Identity(), None), (nn.SiLU(), "silu"), (nn.GELU(), "gelu"),
     (nn.LeakyReLU(), "leaky_relu")],
    ids=str,
)  # fmt: skip
def test_a_norm_with_its_activation_as_timm_has_it(act, activation):
    module = lived_in(BatchNormAct2d(4, act)).train()
    before = state_of(module)
    norm = read(module)
    assert state_of(module) == before
    assert (norm.origin, norm.activation, norm.dimensions, norm.frozen) == ("other", activation, 2, False)
    assert norm.tensors["weight"] is module.weight


def test_a_frozen_norm_as_detectron_has_it():
    norm = read(lived_in(FrozenBatchNorm2d(4, eps=1e-3)))
    assert (norm.origin, norm.frozen, norm.eps, norm.features) == ("other", True, 1e-3, 4)


class FrozenBatchNormPlusOne(FrozenBatchNorm2d):
    def forward(self, x):
        return super().forward(x) + 1


class BatchNormAct1d(nn.BatchNorm1d):
    """Its name says what it does not do in training."""

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.act = nn.ReLU()

    def forward(self, x):
        y = F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        return self.act(y)


class FrozenBatchNormBroken(FrozenBatchNorm2d):
    def forward(self, x):
        raise ValueError("never called")


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
        (OwnForward(4), "OwnForward has a forward of its own and may do more than batch norm"),
        (lived_in(FrozenBatchNormPlusOne(4)), "does not compute batch norm and its activation in evaluation"),
        (lived_in(BatchNormAct1d(4)), "does not compute batch norm and its activation in training"),
        (FrozenBatchNormBroken(4), "failed on a probe: ValueError: never called"),
        (FrozenBatchNorm2d(4).to("meta"), "which cannot be tried on the meta device"),
        (BatchNormAct2d(4, nn.Softplus()), "the activation of BatchNormAct2d, .*, is none of"),
        (BatchNormAct2d(4, nn.LeakyReLU(0.2)), "the activation of BatchNormAct2d, .*, is none of"),
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
    refusal = read(module)
    assert isinstance(refusal, Refusal)
    assert refusal.path == ""
    assert re.search(reason, refusal.reason)
