"""Which layers recalibration measures, which it leaves alone, and which it refuses."""

from __future__ import annotations

import pytest
import torch
from tests.surgery.measured import Branches, ChannelsLast, class_sorted, three_norms
from tests.surgery.states import state_of
from torch import nn

from normsmith.errors import SurgeryError
from normsmith.layers import (
    BatchRenorm1d,
    Whiten1d,
)
from normsmith.surgery import recalibrate


def frozen_by_mode():
    network = three_norms().train()
    network[2].eval()
    return network, "2"


def frozen_by_momentum():
    network = three_norms()
    network[2].momentum = 0.0
    return network, "2"


def frozen_by_freeze():
    network = three_norms()
    network[6].freeze()
    return network, "6"


def without_statistics():
    network = three_norms()
    network[2] = nn.BatchNorm1d(16, track_running_stats=False)
    return network, "2"


def instance_norm():
    network = three_norms()
    network[2] = nn.Sequential(
        nn.Unflatten(1, (16, 1)), nn.InstanceNorm1d(16, track_running_stats=True), nn.Flatten()
    )
    network.eval()
    return network, "2.1"


@pytest.mark.parametrize(
    "make", [frozen_by_mode, frozen_by_momentum, frozen_by_freeze, without_statistics, instance_norm]
)
def test_layers_that_are_not_to_change_are_left_alone_with_the_reason(make):
    network, path = make()
    before = {key: value.clone() for key, value in network.state_dict().items() if key.startswith(path)}
    result = recalibrate(network, class_sorted(), mode="exact")
    assert [remark.path for remark in result.kept] == [path]
    assert path not in [layer.path for layer in result.layers]
    result.apply()
    assert all(torch.equal(network.state_dict()[key], value) for key, value in before.items())


class Doubling(nn.BatchNorm1d):
    def forward(self, x):
        return super().forward(2 * x)


class Rectified(nn.BatchNorm1d):
    def forward(self, x):
        return super().forward(x.float()).relu().to(x.dtype)


class RectifiedDeviation(BatchRenorm1d):
    def forward(self, x):
        return super().forward(x).relu()


@pytest.mark.parametrize("layer", [Rectified(4), RectifiedDeviation(4, track="std", schedule="keras")])
def test_layers_whose_own_forward_normalises_their_input_are_measured(layer):
    nn.init.zeros_(layer.weight)
    data = torch.randn(40, 4) + 3
    before = state_of(layer)
    found = recalibrate(layer, data.split(8))
    assert state_of(layer) == before
    torch.testing.assert_close(found.layers[0].after["running_mean"], data.double().mean(0))


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (lambda: Whiten1d(8), "matrices"),
        (nn.LazyBatchNorm1d, "no channels yet"),
        (lambda: nn.BatchNorm1d(8, device="meta"), "meta"),
        (lambda: ChannelsLast(8), "ChannelsLast has a forward of its own, which does not normalise"),
        (lambda: Doubling(8), "Doubling has a forward of its own, which does not normalise"),
    ],
    ids=["whitening", "lazy", "meta", "channels last", "of something else"],
)
def test_layers_that_cannot_be_measured_are_refused_until_they_are_left_out(layer, reason):
    network = nn.Sequential(layer())
    with pytest.raises(SurgeryError, match=reason):
        recalibrate(network, class_sorted())


def test_only_some_layers():
    network = three_norms()
    result = recalibrate(network, class_sorted(), only="[02]")
    assert [layer.path for layer in result.layers] == ["0", "2"]


def test_a_model_without_batch_norm():
    with pytest.raises(SurgeryError, match="expected batch norm layers"):
        recalibrate(nn.Linear(2, 2), [torch.ones(2, 2)])


def test_a_layer_that_no_batch_reaches_is_kept():
    network = Branches()
    network.spare = nn.BatchNorm1d(4)
    result = recalibrate(network, class_sorted())
    assert [(remark.path, remark.reason) for remark in result.kept] == [("spare", "no batch reached it")]
    result.apply()
    assert network.spare.running_var.tolist() == [1.0] * 4


def test_a_norm_whose_statistics_are_used_by_hand_is_kept_for_that_reason():
    class ByHand(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm = nn.BatchNorm1d(8), nn.BatchNorm1d(8)

        def forward(self, x):
            return nn.functional.batch_norm(self.first(x), self.norm.running_mean, self.norm.running_var)

    (kept,) = recalibrate(ByHand(), class_sorted()).kept
    assert kept.path == "norm"
    assert kept.reason == "the forward of ByHand computes with its statistics and never calls it"


def test_a_layer_that_one_value_reaches_is_kept():
    result = recalibrate(nn.Sequential(nn.BatchNorm1d(4)), [torch.ones(1, 4)])
    assert [remark.reason for remark in result.kept] == ["fewer than two values per channel reached it"]


def test_values_that_are_not_finite():
    batches = class_sorted()
    batches[3] = batches[3].index_fill(1, torch.tensor([5]), float("nan"))
    with pytest.raises(SurgeryError, match=r"NaN or infinite ones into 0, in 1 of 8"):
        recalibrate(three_norms(), batches)
