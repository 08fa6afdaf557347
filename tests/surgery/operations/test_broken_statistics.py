"""Statistics that are negative or not finite are named by every operation that reads them."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from normsmith.errors import SurgeryError
from normsmith.layers import BatchNorm1d, BatchRenorm1d
from normsmith.surgery import (
    adapt,
    convert,
    fold,
    freeze,
    place,
    recalibrate,
    set_statistics,
    strip,
    warm_start,
)
from normsmith.surgery.operations.convert import convert_model

NAN = float("nan")


class FrozenBatchNorm2d(nn.Module):
    """As detectron2's: everything in buffers."""

    def __init__(self, features, eps=1e-5):
        super().__init__()
        self.eps = eps
        for name, value in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
            self.register_buffer(name, torch.full((features,), float(value)))

    def forward(self, x):
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale[:, None, None] + shift[:, None, None]


def network(norm: nn.Module, var: float = -9.7) -> nn.Sequential:
    torch.manual_seed(0)
    norm.running_var[:3] = var
    norm.num_batches_tracked = torch.tensor(1000)
    return nn.Sequential(nn.Linear(4, 8), norm, nn.ReLU(), nn.Linear(8, 2)).eval()


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, BatchNorm1d, BatchRenorm1d])
@pytest.mark.parametrize(
    "make",
    [
        freeze,
        lambda model: freeze(model, "statistics"),
        lambda model: convert(model, "renorm", total_steps=9),
        lambda model: convert(model, "frozen"),
        lambda model: convert(model, "torch"),
        lambda model: place(model, "after", batch=torch.randn(3, 4)),
    ],
    ids=["freeze", "freeze statistics", "to renorm", "to frozen", "to torch", "place"],
)
def test_statistics_that_are_carried_are_a_warning(kind, make):
    plan = make(network(kind(8)))
    assert [remark.path for remark in plan.warnings] == ["1"]
    assert "1 warning its running_var is negative in 3 of 8 channels" in " ".join(str(plan).split())
    assert json.loads(plan.to_json())["warnings"][0]["path"] == "1"
    plan.apply()


@pytest.mark.parametrize(
    "make",
    [
        lambda model: freeze(model, "affine"),
        lambda model: convert(model, "group"),
        strip,
    ],
)
def test_operations_that_do_not_read_them_say_nothing(make):
    assert make(network(nn.BatchNorm1d(8))).warnings == ()


@pytest.mark.parametrize("var", [-9.7, NAN, float("inf")])
@pytest.mark.parametrize("make", [fold, lambda model: strip(model, fold=True)], ids=["fold", "strip"])
def test_what_would_not_be_finite_is_refused(make, var):
    plan = make(network(nn.BatchNorm1d(8), var))
    (refusal,) = plan.refusals
    assert refusal.path == "1"
    assert "negative" in refusal.reason or "not finite" in refusal.reason
    assert "recalibrate" in refusal.reason


def test_a_variance_that_epsilon_makes_positive_folds_with_a_warning():
    model = network(nn.BatchNorm1d(8), -1e-6)
    plan = fold(model)
    assert not plan.refusals
    assert "negative in 3 of 8" in plan.warnings[0].reason
    assert plan.verify(torch.randn(5, 4)).evaluation < 1e-4


def test_statistics_that_would_be_computed_from_them_are_refused():
    (refusal,) = convert(network(nn.BatchNorm1d(8)), "renorm", track="std", total_steps=9).refusals
    assert "negative in 3 of 8" in refusal.reason
    (refusal,) = warm_start(network(BatchRenorm1d(8, total_steps=9)), remaining=100).refusals
    assert "negative in 3 of 8" in refusal.reason


def test_a_norm_of_another_library_is_read_in_spite_of_them():
    norm = FrozenBatchNorm2d(8)
    norm.running_var[:3] = -9.7
    model = nn.Sequential(nn.Conv2d(3, 8, 3), norm)
    assert "negative in 3 of 8" in convert(model, "batch").warnings[0].reason
    assert "negative in 3 of 8" in fold(model).kept[0].reason
    assert norm.running_var[:3].tolist() == [pytest.approx(-9.7)] * 3


class BatchRenorm(nn.Module):
    """As torchrl's, in evaluation."""

    def __init__(self, features):
        super().__init__()
        self.eps, self.momentum, self.max_r, self.max_d = 1e-5, 0.01, 3.0, 5.0
        self.warmup_steps, self.smooth = 10_000, False
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, torch.tensor(0) if "num" in name else torch.full((features,), 0.5))
        self.weight, self.bias = nn.Parameter(torch.ones(features)), nn.Parameter(torch.zeros(features))

    def forward(self, x):
        return (x - self.running_mean) / (self.running_var + self.eps).sqrt() * self.weight + self.bias


def test_renorm_of_another_library_is_refused_for_the_true_reason():
    model = nn.Sequential(nn.Linear(4, 8), BatchRenorm(8))
    assert not convert(model, "renorm").refusals
    model[1].running_var[:3] = -9.7
    (refusal,) = convert(model, "renorm").refusals
    assert refusal.reason.startswith("its running_var is negative in 3 of 8 channels")


def test_a_source_that_is_broken_is_not_adapted():
    model = network(nn.BatchNorm1d(8))
    said = r"adapt: 1: its running_var is negative in 3 of 8 .* recalibrate"
    with pytest.raises(SurgeryError, match=said), adapt(model, prior=0.5):
        pass


@pytest.mark.parametrize("mode", ["fast", "exact"])
@pytest.mark.parametrize("var", [-9.7, NAN])
def test_recalibration_heals_them_and_says_so(mode, var):
    model = network(nn.BatchNorm1d(8), var)
    result = recalibrate(model, [torch.randn(64, 4), torch.randn(64, 4)], mode=mode)
    assert [remark.path for remark in result.healed] == ["1"]
    assert "heals 1: its running_var is" in str(result)
    assert "nan" not in str(result)
    assert "heals" in result.plan.changes[0].why
    result.apply()
    assert (model[1].running_var > 0).all()
    assert recalibrate(model, [torch.randn(64, 4)]).healed == ()


def test_recalibration_names_frozen_layers_that_it_does_not_heal():
    model = nn.Sequential(nn.BatchNorm1d(4), network(nn.BatchNorm1d(8, momentum=0.0), -1e-6))
    (kept,) = recalibrate(model, [torch.randn(64, 4)]).kept
    assert kept.reason == "frozen by momentum=0; its running_var is negative in 3 of 8 channels"
    model = nn.Sequential(network(nn.BatchNorm1d(8, momentum=0.0), NAN), nn.BatchNorm1d(2))
    with pytest.raises(
        SurgeryError, match=r"into 1, .*; kept 0\.1: frozen by momentum=0; its running_var is not"
    ):
        recalibrate(model, [torch.randn(64, 4)])


def test_what_is_left_broken_by_given_statistics_is_a_warning():
    model = network(nn.BatchNorm1d(8))
    plan = set_statistics(model, {"1": {"running_mean": [0.0] * 8}})
    assert "negative in 3 of 8" in plan.warnings[0].reason
    healed = set_statistics(model, {"1": {"running_var": [1.0] * 8}})
    assert healed.warnings == ()
    assert "heals: its running_var is negative in 3 of 8" in healed.changes[0].why
    model[1].eps = 0.0
    assert "zero, with eps=0" in set_statistics(model, {"1": {"running_var": [0.0] * 8}}).warnings[0].reason


def test_conversion_in_one_line_warns():
    with pytest.warns(UserWarning, match="1: its running_var is negative in 3 of 8 channels"):
        convert_model(network(nn.BatchNorm1d(8)), to="batch")
