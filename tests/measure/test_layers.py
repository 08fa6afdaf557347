"""Which layers can be measured, and why the others cannot be."""

from __future__ import annotations

import pytest
import torch
from tests.surgery.states import state_of
from torch import nn

from normsmith.errors import SurgeryError
from normsmith.layers import (
    BatchNorm1d,
    BatchNormLSTM,
    BatchRenorm1d,
    BatchRenorm2d,
    Whiten1d,
    accumulate,
)
from normsmith.measure import MeasurableLayers, MeasuredLayer, Statistics, measurable_layers


def network() -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 4), BatchNorm1d(4), nn.LayerNorm(4))


def reasons(remarks) -> dict[str, str]:
    return {remark.path: remark.reason for remark in remarks}


def test_layers_with_running_statistics_are_listed_in_order():
    model = network()
    measurable = measurable_layers(model)
    assert isinstance(measurable, MeasurableLayers)
    assert measurable.layers == (MeasuredLayer("0", model[0]), MeasuredLayer("2", model[2]))
    assert (measurable.kept, measurable.refused) == ((), ())
    assert [layer.path for layer in measurable_layers(model, "[2-9]").layers] == ["2"]


def test_a_shared_layer_is_listed_once_with_all_its_paths():
    norm = nn.BatchNorm1d(4)
    (layer,) = measurable_layers(nn.Sequential(norm, nn.ReLU(), norm, nn.ModuleList([norm]))).layers
    assert (layer.path, layer.also) == ("0", ("2", "3.0"))


class Normed(nn.Module):
    """No batch norm, but with buffers of these names, as instance norms and frozen norms have."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(4))
        self.register_buffer("running_var", torch.ones(4))


def frozen() -> nn.Module:
    layer = BatchNorm1d(4)
    layer.freeze()
    return layer


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (frozen(), "frozen by freeze()"),
        (nn.BatchNorm1d(4, momentum=0.0), "frozen by momentum=0"),
        (nn.BatchNorm1d(4, track_running_stats=False), "keeps no running statistics"),
        (nn.BatchNorm1d(4).eval(), "in evaluation mode within a model that trains"),
        (Normed(), "Normed is no batch norm that updates its statistics"),
    ],
    ids=["freeze", "momentum", "no statistics", "evaluation mode", "another class"],
)
def test_layers_that_should_stay_are_kept_with_the_reason(layer, reason):
    model = nn.Sequential(nn.BatchNorm1d(4), layer)
    measurable = measurable_layers(model)
    assert [found.path for found in measurable.layers] == ["0"]
    assert reason in reasons(measurable.kept)["1"]
    assert not measurable.refused


def test_a_model_in_evaluation_mode_freezes_none_of_its_layers():
    assert [layer.path for layer in measurable_layers(network().eval()).layers] == ["0", "2"]


def test_cumulative_averages_are_not_frozen():
    assert measurable_layers(nn.BatchNorm1d(4, momentum=None)).layers


class ChannelsLast(nn.BatchNorm1d):
    def forward(self, x):
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class Doubling(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(2 * x)


class Rectified(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x).relu()


class WithContext(nn.BatchNorm1d):
    def forward(self, x, context):
        return super().forward(x) + context


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (Whiten1d(4), "matrices, not variances"),
        (nn.LazyBatchNorm1d(), "no channels yet"),
        (nn.BatchNorm1d(4, device="meta"), "on the meta device"),
        (ChannelsLast(4), "ChannelsLast has a forward of its own"),
        (Doubling(4), "Doubling has a forward of its own"),
    ],
    ids=["whitening", "lazy", "meta", "channels last", "of something else"],
)
def test_layers_that_cannot_be_measured_are_refused_with_the_reason(layer, reason):
    measurable = measurable_layers(nn.Sequential(nn.BatchNorm1d(4), layer))
    assert [found.path for found in measurable.layers] == ["0"]
    assert reason in reasons(measurable.refused)["1"]
    assert not measurable.kept


def test_statistics_of_every_time_step_are_refused():
    measurable = measurable_layers(BatchNormLSTM(3, 4, normalize="all"))
    assert measurable.refused
    assert all("for every time step" in refusal.reason for refusal in measurable.refused)


def test_layers_that_accumulate_are_refused_until_the_block_ends():
    model = nn.Sequential(BatchNorm1d(4))
    with accumulate(model):
        assert "close it first" in measurable_layers(model).refused[0].reason
    assert not measurable_layers(model).refused


@pytest.mark.parametrize("layer", [Rectified(4), WithContext(4)], ids=["activation", "more arguments"])
def test_own_forwards_that_normalise_their_input_are_measured(layer):
    before = state_of(layer)
    assert measurable_layers(layer).layers == (MeasuredLayer("", layer),)
    assert state_of(layer) == before


def test_a_weight_of_zero_hides_no_forward_that_normalises_something_else():
    layer = Doubling(4)
    nn.init.zeros_(layer.weight)
    assert measurable_layers(layer).refused


def test_statistics_that_are_only_written_need_no_input():
    (layer,) = measurable_layers(ChannelsLast(4), inputs=False).layers
    assert layer.path == ""


def test_operations_are_told_what_is_refused_and_where_there_is_nothing():
    some = measurable_layers(nn.Sequential(nn.BatchNorm1d(4), Whiten1d(4)))
    assert [layer.path for layer in some.some_for("recalibrate")] == ["0"]
    with pytest.raises(SurgeryError, match=r"^recalibrate: 1: whitening .*; leave them out with only="):
        some.all_for("recalibrate")
    none = measurable_layers(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, momentum=0.0)))
    for layers_for in (none.some_for, none.all_for):
        with pytest.raises(
            SurgeryError, match=r"^adapt: expected batch norm .* in Sequential; 1: frozen by momentum=0$"
        ):
            layers_for("adapt")
    refused = measurable_layers(Whiten1d(4))
    assert refused.some_for("set_statistics") == ()
    assert [layer.path for layer in measurable_layers(network()).all_for("adapt")] == ["0", "2"]


def test_a_layers_epsilon_is_that_which_it_normalises_by():
    assert MeasuredLayer("", nn.BatchNorm1d(2, eps=0.5)).epsilon == 0.5
    ours = BatchNorm1d(2, eps=1e-3)
    assert MeasuredLayer("", ours).epsilon == ours.epsilon


def test_other_statistics_take_the_place_of_the_buffers_which_are_not_written_to():
    layer = nn.BatchNorm1d(2, affine=False, eps=0.0).eval()
    measured, x = MeasuredLayer("", layer), torch.randn(5, 2)
    own = measured.statistics()
    assert own.mean is layer.running_mean
    assert own.var is layer.running_var
    assert own.std is None
    measured.normalise_by(Statistics(torch.tensor([1.0, 2.0]), torch.tensor([4.0, 9.0])))
    torch.testing.assert_close(layer(x), (x - torch.tensor([1.0, 2.0])) / torch.tensor([2.0, 3.0]))
    assert (own.mean.tolist(), own.var.tolist()) == ([0.0, 0.0], [1.0, 1.0])
    measured.normalise_by(own)
    assert layer.running_mean is own.mean
    assert torch.equal(layer(x), x)


def test_running_deviations_are_statistics_of_layers_that_keep_them():
    with_std, without = BatchRenorm2d(2, track="std", schedule="keras"), BatchRenorm1d(2, schedule="paper")
    assert MeasuredLayer("", with_std).statistics().std is with_std.running_std
    assert MeasuredLayer("", without).statistics().std is None
