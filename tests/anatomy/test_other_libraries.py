"""What batch norms of other libraries are read as, and which are not believed."""

from __future__ import annotations

import re

import pytest
import torch
from tests.surgery.foreign import KINDS, ActNorm, DataDependentActNorm, Scale, used
from tests.surgery.networks import BatchNormAct2d, FrozenBatchNorm2d, OwnForward, lived_in
from tests.surgery.states import state_of
from torch import nn
from torch.nn import functional as F

from normsmith.anatomy import Refusal
from normsmith.anatomy.other_libraries import is_fixed, read_by_probe, read_fixed


@pytest.mark.parametrize(
    ("act", "activation"),
    [(nn.ReLU(), "relu"), (nn.Identity(), None), (nn.SiLU(), "silu"), (nn.GELU(), "gelu"),
     (nn.LeakyReLU(), "leaky_relu")],
    ids=str,
)  # fmt: skip
def test_a_norm_with_its_activation_as_timm_has_it(act, activation):
    module = lived_in(BatchNormAct2d(4, act)).train()
    before = state_of(module)
    norm = read_by_probe(module)
    assert state_of(module) == before
    assert (norm.origin, norm.activation, norm.dimensions, norm.frozen) == ("other", activation, 2, False)
    assert norm.tensors["weight"] is module.weight


def test_a_frozen_norm_as_detectron_has_it():
    norm = read_by_probe(lived_in(FrozenBatchNorm2d(4, eps=1e-3)))
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
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_what_is_not_known_or_fails_the_probe_is_refused(module, reason):
    refusal = read_by_probe(module)
    assert isinstance(refusal, Refusal)
    assert refusal.path == ""
    assert re.search(reason, refusal.reason)


def test_a_class_that_is_known_by_name_and_keeps_no_statistics():
    module = FrozenBatchNorm2d(4)
    del module.running_var
    assert "no running statistics to compare its forward with" in read_by_probe(module).reason


@pytest.mark.parametrize("name", KINDS)
def test_what_scales_and_shifts_in_evaluation_is_fixed_then(name):
    make, kind = KINDS[name]
    module = used(make())
    assert is_fixed(module) == (kind in ("running", "fixed", "first batch"))
    norm = read_fixed(module)
    assert (norm is None) == (kind in ("own", None))
    assert isinstance(norm, Refusal) == (kind == "first batch")


def test_a_scale_and_shift_is_read_as_a_batch_norm_of_mean_0_and_variance_1():
    module = used(ActNorm(6))
    norm = read_fixed(module)
    assert (norm.features, norm.eps, norm.frozen, norm.layouts) == (6, 0.0, True, {(2, 1), (3, 2), (4, 3)})
    x = torch.randn(5, 6, dtype=torch.float64)
    y = F.batch_norm(
        x, *(norm.tensors[n] for n in ("running_mean", "running_var", "weight", "bias")), eps=0.0
    )
    torch.testing.assert_close(y, x * module.s.double() + module.b.double())


def test_one_number_for_all_channels_and_a_batch_to_come():
    assert read_fixed(used(Scale())).features == 1
    assert "first training batch" in read_fixed(DataDependentActNorm(6, False)).reason
