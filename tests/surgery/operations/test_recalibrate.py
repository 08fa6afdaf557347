"""Recalibration against the statistics of the whole data set, in one pass and exactly."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from tests.contracts.surgery import ALL, SurgeryContract
from tests.surgery.measured import Branches, assert_population, class_sorted, population, three_norms
from tests.surgery.networks import Network
from torch import nn

from normsmith.errors import InputError
from normsmith.layers import (
    BatchNorm1d,
    BatchNormAct1d,
    BatchNormLSTM,
    BatchRenorm1d,
    BatchRenorm2d,
    use_mask,
)
from normsmith.surgery import LayerStatistics, Plan, Recalibration, recalibrate


def assert_each_on_final_statistics(network, x):
    """The definition of exact: each layer's statistics are those of what evaluation gives it."""
    network = network.eval()
    for layer in network:
        if hasattr(layer, "running_mean"):
            assert_population(layer, x, rtol=4e-6)
        x = layer(x).detach()


class TestPlan(SurgeryContract):
    """What recalibration plans is an operation like all others."""

    @pytest.fixture(params=["hf-resnet", "shared norm", "used twice", "hooked", "bfloat16", "double", "tied"])
    def network(self, request: pytest.FixtureRequest) -> Network:
        return ALL[request.param]

    def plan(self, model: nn.Module) -> Plan:
        return recalibrate(model, [self.batch], gap="none").plan


@pytest.mark.parametrize("mode", ["fast", "exact"])
@pytest.mark.parametrize(
    "kind", [nn.BatchNorm1d, BatchNorm1d, BatchNormAct1d, BatchRenorm1d, nn.SyncBatchNorm]
)
def test_class_sorted_batches_of_two_with_a_tail(kind, mode):
    # torch's update_bn: 1.75e-4 against 3.91
    layer, batches = kind(8), class_sorted()
    recalibrate(layer, batches, mode=mode).apply()
    assert_population(layer, torch.cat(batches))


@pytest.mark.parametrize(
    "shape",
    [(64, 6), (16, 6, 40), (8, 6, 9, 9), (3, 6, 4, 5, 6)],
    ids=["(N, C)", "sequences", "images", "volumes"],
)
@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
def test_a_small_deviation_far_from_zero(shape, last):
    # float32 sums around zero: 0.56 against 0.010
    kinds = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
    batches = [torch.randn(shape) * 0.1 + 1e3 for _ in range(6)]
    if last and len(shape) in (4, 5):
        form = {4: torch.channels_last, 5: torch.channels_last_3d}[len(shape)]
        batches = [batch.to(memory_format=form) for batch in batches]
    layer = kinds[len(shape)](6)
    recalibrate(layer, batches).apply()
    mean, var = population(torch.cat(batches))
    torch.testing.assert_close(layer.running_mean.double(), mean, rtol=6e-8, atol=0)  # a float32 of 1e3
    torch.testing.assert_close(layer.running_var.double(), var, rtol=2e-6, atol=0)


def test_constant_channels_have_variance_zero():
    layer = nn.BatchNorm1d(2)
    recalibrate(layer, [torch.full((5, 2), 1234.567), torch.full((3, 2), 1234.567)]).apply()
    torch.testing.assert_close(layer.running_var, torch.zeros(2), rtol=0, atol=1e-9)


def test_batches_of_a_single_value_count():
    layer, x = nn.BatchNorm1d(3), torch.randn(7, 3)
    recalibrate(layer, x.split(1)).apply()
    assert_population(layer, x)


def test_one_pass_is_exact_for_first_norms_only_and_says_so():
    network, batches = three_norms(), class_sorted()
    fast = recalibrate(network, batches, gap="all")
    assert [layer.path for layer in fast.layers] == ["0", "2", "6"]
    assert fast.layers[0].gap < 1e-6
    assert fast.layers[1].gap > 0.1
    assert fast.gap == max(layer.gap for layer in fast.layers)
    sampled = recalibrate(network, batches)
    assert sampled.gap_of == "sample"
    assert sampled.layers[0].gap < 1e-6
    assert sampled.layers[1].gap > 0.1
    assert recalibrate(network, batches, gap="none").gap is None


def test_the_sample_of_the_gap_is_small_and_spread():
    seen = []

    def forward(model, batch):
        seen.append(batch[0, 0].item())
        return model(batch)

    batches = [torch.full((2, 1), float(number)) for number in range(1000)]
    recalibrate(nn.BatchNorm1d(1), batches, forward=forward)
    again = seen[1000:]
    assert 4 <= len(again) <= 8
    assert again[0] == 0.0
    assert again[-1] >= 600
    assert len({b - a for a, b in pairwise(again)}) == 1


def test_exact_means_every_layer_on_the_final_statistics_of_those_before():
    network, batches = three_norms(), class_sorted()
    result = recalibrate(network, batches, mode="exact")
    assert result.gap <= 1e-4
    assert result.passes <= 4  # three norms after each other, and the proof
    result.apply()
    assert_each_on_final_statistics(network, torch.cat(batches))


def test_exact_from_statistics_so_wrong_that_forwards_overflow():
    network, batches = three_norms(), class_sorted()
    for layer in (network[0], network[2], network[6]):
        layer.running_var.fill_(1e-38)
        layer.running_mean.fill_(1e30)
    recalibrate(network, batches, mode="exact").apply()
    assert_each_on_final_statistics(network, torch.cat(batches))


def test_layers_that_do_not_feed_each_other_share_passes():
    batches = class_sorted()
    result = recalibrate(Branches(), batches, mode="exact")
    assert result.gap <= 1e-4
    assert result.passes == 3  # one, the norm after them, and the proof


class Twice(nn.Module):
    """One norm, called before and after a layer."""

    def __init__(self):
        super().__init__()
        self.norm, self.layer = nn.BatchNorm1d(8), nn.Linear(8, 8)

    def forward(self, x):
        self.seen = [x, self.layer(self.norm(x))]
        return self.norm(self.seen[1])


def test_both_calls_of_a_reused_layer_count():
    network, batches = Twice(), class_sorted()
    (layer,) = recalibrate(network, batches).layers
    assert layer.count == 2 * len(torch.cat(batches))
    result = recalibrate(network, batches, mode="exact")
    assert result.gap <= 1e-4
    result.apply()
    network.eval()(torch.cat(batches))
    assert_population(
        network.norm, torch.cat([value.detach() for value in network.seen]), rtol=3e-4, atol=1e-3
    )


class Repeated(nn.Module):
    """One norm between several layers: passes that take what the last one measured swing for ever."""

    def __init__(self, times: int):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(times))
        self.norm, self.last = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x):
        self.seen = []
        for layer in self.layers:
            self.seen.append(layer(x))
            x = torch.relu(self.norm(self.seen[-1]))
        return self.last(x)


@pytest.mark.parametrize("times", [3, 6])
def test_a_norm_that_feeds_itself_is_measured_exactly(times):
    network, batches = Repeated(times), [torch.randn(8, 4, 8, 8) for _ in range(3)]
    result = recalibrate(network, batches, mode="exact")
    assert result.converged
    assert result.gap <= 1e-4
    assert result.passes <= 15
    assert result.repeated == ("norm",)
    result.apply()
    network.eval()(torch.cat(batches))
    with torch.no_grad():
        inputs = torch.cat([value.movedim(1, -1).flatten(0, -2) for value in network.seen]).double()
    var, mean = torch.var_mean(inputs, 0)
    assert ((network.norm.running_mean - mean).abs() / var.sqrt()).max() <= 1.1e-4
    assert ((network.norm.running_var - var).abs() / var).max() <= 1.1e-4


def test_max_passes_bounds_the_search_and_the_result_says_so():
    result = recalibrate(three_norms(), class_sorted(), mode="exact", max_passes=2)
    assert result.passes == 2
    assert result.gap > 0.1
    assert result.converged is False
    assert "not exact: the gap is still above 1e-04; more passes with max_passes=" in str(result)
    result = recalibrate(Twice(), class_sorted(), mode="exact", max_passes=2)
    assert "not exact: the gap is still above 1e-04; called more than once in a forward: norm;" in str(result)


def test_a_search_that_arrived_says_after_how_many_passes():
    result = recalibrate(three_norms(), class_sorted(), mode="exact")
    assert f"after {result.passes} passes" in str(result)
    assert "not exact" not in str(result)
    fast = recalibrate(three_norms(), class_sorted())
    assert fast.converged is None
    assert "not exact" not in str(fast)


def test_masked_values_count_nowhere():
    x, mask = torch.randn(12, 4, 9), torch.rand(12, 9) < 0.6
    x = x.masked_fill(~mask.unsqueeze(1), 1e6)
    batches = [
        {"x": part, "attention_mask": valid} for part, valid in zip(x.split(5), mask.split(5), strict=True)
    ]
    for network in (nn.Sequential(BatchNorm1d(4)), nn.Sequential(nn.BatchNorm1d(4))):
        recalibrate(
            network, batches, forward=lambda model, batch: model(batch["x"]), mask="attention_mask"
        ).apply()
        assert_population(network[0], x.movedim(1, -1)[mask])


class Weighted(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = BatchNorm1d(3)

    def forward(self, x, mask, weight):
        return self.norm(x, mask, sample_weight=weight)


def test_masks_and_weights_that_the_model_passes_on_are_heard():
    x, mask = torch.randn(10, 3), torch.arange(10) % 3 > 0
    network = Weighted()
    batch = {
        "x": x.masked_fill(~mask.unsqueeze(1), float("nan")),
        "mask": mask,
        "weight": torch.full((10,), 2.0),
    }
    result = recalibrate(network, [batch])
    result.apply()
    rows = x[mask].double()
    torch.testing.assert_close(network.norm.running_mean.double(), rows.mean(0), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(network.norm.running_var.double(), rows.var(0), rtol=1e-6, atol=0)
    assert result.layers[0].count == 2 * len(rows)


def test_a_mask_in_force_is_heard():
    x, network = torch.randn(6, 2), nn.Sequential(BatchNorm1d(2))
    with use_mask(network, torch.arange(6) < 4):
        recalibrate(network, [x]).apply()
    assert_population(network[0], x[:4])


def test_a_fully_masked_batch_counts_for_nothing():
    x, layer = torch.randn(6, 2), BatchNorm1d(2)
    batches = [(x[:4], torch.ones(4)), (x[4:], torch.zeros(2))]
    recalibrate(layer, batches, mask=lambda batch: batch[1].bool()).apply()
    assert_population(layer, x[:4])


def test_renorm_ghost_batches_and_running_deviations():
    x = torch.randn(40, 3, 4, 4) * 2 + 5
    layer = BatchRenorm2d(3, track="std", ghost_batch_size=4)  # no schedule: nothing trains here
    recalibrate(layer, x.split(16)).apply()
    assert_population(layer, x)
    _, var = population(x)
    biased = var * (x[:, 0].numel() - 1) / x[:, 0].numel()
    torch.testing.assert_close(layer.running_std.double(), (biased + layer.epsilon).sqrt(), rtol=1e-6, atol=0)
    assert layer.num_batches_tracked == 0


def test_sequence_wise_norms_of_recurrent_networks():
    network, x = BatchNormLSTM(4, 5, normalize="input"), torch.randn(7, 6, 4)
    batches = x.split(3, dim=1)
    result = recalibrate(network, batches, forward=lambda model, batch: model(batch))
    assert [layer.count for layer in result.layers] == [42]
    result.apply()
    weights = next(value for name, value in network.named_parameters() if "weight_ih" in name)
    norm = network.get_submodule(result.layers[0].path)
    assert_population(norm, F.linear(x, weights).flatten(0, 1))


def test_dropout_is_off_unless_asked_for():
    network = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(4)).train()
    x = torch.randn(2000, 4) + 3
    recalibrate(network, [x]).apply()
    assert_population(network[1], x)
    recalibrate(network, [x], dropout=True).apply()
    assert (network[1].running_var > 5).all()  # 2·(1 + 9) − 9 = 11


@pytest.mark.parametrize(
    "batch",
    [
        torch.ones(4, 3),
        (torch.ones(4, 3), torch.zeros(4)),
        [torch.ones(4, 3)],
        {"input": torch.ones(4, 3)},
    ],
    ids=["tensor", "tuple", "list", "dict"],
)
def test_batches_of_any_kind(batch):
    layer = nn.BatchNorm1d(3)
    recalibrate(layer, [batch]).apply()
    torch.testing.assert_close(layer.running_mean, torch.ones(3))


def test_batches_of_a_kind_of_their_own_go_to_the_model_as_they_are():
    @dataclass
    class Batch:
        features: torch.Tensor

    class Network(nn.Sequential):
        def forward(self, batch):
            return super().forward(batch.features)

    x = torch.randn(8, 3)
    result = recalibrate(Network(nn.BatchNorm1d(3)), [Batch(x)])
    torch.testing.assert_close(result.layers[0].after["running_mean"], x.double().mean(0))


def test_the_loss_before_and_after():
    network, batches = nn.Sequential(nn.BatchNorm1d(8)), class_sorted()
    x = torch.cat(batches)
    result = recalibrate(network, batches, loss=lambda output, batch: (output**2).mean())
    assert result.loss_before == pytest.approx((x**2 / (1 + 1e-5)).mean().item(), rel=1e-5)
    result.apply()
    assert result.loss_after == pytest.approx((network.eval()(x) ** 2).mean().item(), rel=1e-5)
    assert result.gap_of == "all"
    assert "loss" in str(result)


def test_before_and_after_of_each_layer():
    layer, x = nn.BatchNorm1d(2), torch.randn(10, 2) + 4
    result = recalibrate(layer, [x])
    assert isinstance(result, Recalibration)
    (found,) = result.layers
    assert isinstance(found, LayerStatistics)
    assert found.before["running_var"].tolist() == [1.0, 1.0]
    torch.testing.assert_close(found.after["running_mean"], x.double().mean(0), rtol=1e-7, atol=0)
    assert layer.running_mean.tolist() == [0.0, 0.0]  # nothing is applied yet
    assert found.shift == f"{x.mean(0).max().item():.2g} σ"
    assert "(model)" in str(result)
    result.apply()
    torch.testing.assert_close(layer.running_mean.double(), found.after["running_mean"], rtol=1e-6, atol=0)
    result.revert()
    assert layer.running_mean.tolist() == [0.0, 0.0]


def test_what_is_measured_goes_to_another_process():
    x, here, there = torch.randn(9, 2), nn.Sequential(nn.BatchNorm1d(2)), nn.Sequential(nn.BatchNorm1d(2))
    text = recalibrate(here, [x]).plan.to_json()
    Plan.from_json(there, text).apply()
    assert_population(there[0], x)


def test_no_batches():
    with pytest.raises(InputError, match="at least one batch"):
        recalibrate(nn.BatchNorm1d(1), [])


def test_unknown_words(unchecked):
    for options in ({"mode": "slow"}, {"gap": "some"}, {"group": "world"}, {"mask": "missing"}):
        with pytest.raises(InputError):
            recalibrate(nn.BatchNorm1d(2), [torch.ones(2, 2)], **options)


@pytest.mark.compiles
def test_a_compiled_model_is_measured_as_it_was_written():
    network = three_norms()
    compiled = torch.compile(network, backend="eager")
    batches = class_sorted()
    result = recalibrate(compiled, batches, mode="exact")
    assert {layer.path for layer in result.layers} == {"_orig_mod.0", "_orig_mod.2", "_orig_mod.6"}
    result.apply()
    assert_each_on_final_statistics(network, torch.cat(batches))
