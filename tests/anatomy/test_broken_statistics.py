"""What is said of running statistics that no data can have."""

import pytest
import torch
from torch import nn

from normsmith.anatomy.broken_statistics import (
    broken_statistics,
    broken_values,
    make_plausible,
    statistics_remarks,
)
from normsmith.anatomy.locations import Locations
from normsmith.layers import BatchNorm1d, BatchRenorm1d

NAN, INF = float("nan"), float("inf")


def norm(kind=nn.BatchNorm1d, mean=(0.0, 0.0), var=(1.0, 1.0), std=None, **options):
    layer = kind(2, **options)
    layer.running_mean.copy_(torch.tensor(mean))
    layer.running_var.copy_(torch.tensor(var))
    if std is not None:
        layer.running_std.copy_(torch.tensor(std))
    return layer


@pytest.mark.parametrize(
    ("values", "text", "unusable"),
    [
        ({"var": (-9.7, 1.0)}, "its running_var is negative in 1 of 2 channels", True),
        ({"var": (-9.7, NAN)}, "its running_var is negative in 1 and not finite in 1 of 2 channels", True),
        ({"var": (INF, INF)}, "its running_var is not finite in 2 of 2 channels", True),
        ({"var": (-1e-6, 1.0)}, "its running_var is negative in 1 of 2 channels", False),
        ({"mean": (NAN, INF)}, "its running_mean is not finite in 2 of 2 channels", True),
        (
            {"mean": (NAN, 0.0), "var": (-1.0, 1.0)},
            "its running_mean is not finite in 1 of 2 channels and its running_var is negative in 1 of 2 channels",
            True,
        ),
        ({"var": (0.0, 1.0), "eps": 0.0}, "its running_var is zero, with eps=0, in 1 of 2 channels", True),
    ],
)
@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.SyncBatchNorm, BatchNorm1d, BatchRenorm1d])
def test_what_is_broken_is_named_with_how_many_channels(kind, values, text, unusable):
    broken = broken_statistics(norm(kind, **values))
    assert broken.text == text
    assert broken.unusable == unusable
    assert broken.advice.endswith(": recalibrate it first")


@pytest.mark.parametrize("std", [(0.0, 1.0), (-1.0, 1.0), (NAN, 1.0)])
def test_a_layer_that_goes_by_its_standard_deviation_is_judged_by_it(std):
    broken = broken_statistics(norm(BatchRenorm1d, std=std, track="std"))
    assert broken.text.startswith("its running_std is")
    assert broken.unusable
    of_variance = broken_statistics(norm(BatchRenorm1d, var=(-1.0, 1.0), std=(1.0, 1.0), track="std"))
    assert not of_variance.unusable


@pytest.mark.parametrize(
    "layer",
    [
        norm(),
        norm(var=(0.0, 1.0)),
        nn.BatchNorm1d(2, track_running_stats=False),
        nn.BatchNorm1d(2, device="meta"),
        nn.LazyBatchNorm1d(),
        nn.Linear(2, 2),
    ],
    ids=["usual", "a constant channel", "none", "meta", "lazy", "no norm"],
)
def test_nothing_is_said_where_nothing_is_broken(layer):
    assert broken_statistics(layer) is None


def test_values_that_are_not_yet_in_a_layer():
    assert broken_values({"running_var": torch.tensor([-1.0])}, 1e-5).unusable
    assert broken_values({"running_mean": torch.zeros(1), "running_std": None}, 1e-5) is None


def test_remarks_name_the_module():
    model = nn.Sequential(norm(), nn.Sequential(norm(var=(-1.0, 1.0))))
    (remark,) = statistics_remarks(Locations(model), [model[0], model[1][0]])
    assert remark.path == "1.0"
    assert "negative in 1 of 2" in remark.reason


def test_only_what_is_broken_becomes_plausible():
    layer = norm(mean=(NAN, 3.0), var=(2.0, -1.0))
    make_plausible(layer)
    assert layer.running_mean.tolist() == [0.0, 3.0]
    assert layer.running_var.tolist() == [2.0, 1.0]
    usual = norm(var=(0.0, 1.0))
    make_plausible(usual)
    assert usual.running_var.tolist() == [0.0, 1.0]
