"""Statistics given as numbers: which fit, which are refused, and that they can be taken back."""

from __future__ import annotations

import pytest
import torch
from tests.surgery.measured import ChannelsLast
from torch import nn

from normsmith.errors import SurgeryError
from normsmith.layers import BatchRenorm1d
from normsmith.surgery import set_statistics


def test_statistics_given_as_numbers_go_to_any_batch_norm():
    layer = ChannelsLast(2)
    set_statistics(layer, {"": {"running_mean": [1.0, 2.0]}}).apply()
    assert layer.running_mean.tolist() == [1.0, 2.0]


def test_setting_statistics_by_hand():
    network = nn.Sequential(nn.BatchNorm1d(2))
    plan = set_statistics(network, {"0": {"running_mean": [1.0, 2.0], "running_var": [3.0, 4.0]}})
    plan.verify(torch.randn(4, 2))
    plan.apply()
    assert (network[0].running_mean.tolist(), network[0].running_var.tolist()) == ([1.0, 2.0], [3.0, 4.0])
    plan.revert()
    assert network[0].running_mean.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("statistics", "message"),
    [
        ({"1": {"running_mean": [1.0, 2.0]}}, "expected paths"),
        ({"0": {"running_mean": [1.0]}}, "2 channels"),
        ({"0": {"running_var": [1.0, -1.0]}}, "at least 0"),
        ({"0": {"running_mean": [1.0, float("nan")]}}, "finite"),
        ({"0": {"running_mean": [-1.0, float("nan")]}}, "got nan"),
        ({"0": {"weight": [1.0, 1.0]}}, "running_mean, running_var or running_std"),
    ],
)
def test_statistics_that_do_not_fit(statistics, message):
    with pytest.raises(SurgeryError, match=message):
        set_statistics(nn.Sequential(nn.BatchNorm1d(2)), statistics)


@pytest.mark.parametrize("values", ["ab", 3.0, [[1.0, 2.0]], [1.0, None]])
def test_statistics_that_are_no_numbers(values, unchecked):
    with pytest.raises(
        SurgeryError, match=r"0: expected (numbers as running_mean|running_mean of 2 channels)"
    ):
        set_statistics(nn.Sequential(nn.BatchNorm1d(2)), {"0": {"running_mean": values}})


def test_other_buffers_of_a_layer_are_no_statistics():
    network = nn.Sequential(nn.BatchNorm1d(2))
    network[0].register_buffer("running", torch.ones(2))
    network[0].register_buffer("gain", torch.ones(2))
    for name in ("running", "gain", "num_batches_tracked"):
        with pytest.raises(
            SurgeryError, match=f"expected running_mean, running_var or running_std, got '{name}'"
        ):
            set_statistics(network, {"0": {name: [1.0, 1.0]}})


@pytest.mark.parametrize(
    ("layer", "training"),
    [
        pytest.param(nn.BatchNorm1d(2), "same", id="batch norm trains by the batch"),
        pytest.param(
            BatchRenorm1d(2, total_steps=9), "may differ", id="renorm corrects towards the statistics"
        ),
    ],
)
def test_what_becomes_of_the_outputs(layer, training):
    plan = set_statistics(nn.Sequential(layer), {"0": {"running_mean": [1.0, 2.0]}})
    assert (plan.expects.evaluation, plan.expects.training) == ("may differ", training)
