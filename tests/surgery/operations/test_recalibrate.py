"""Recalibration against the statistics of the whole data set, and the model it leaves after."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from tests.contracts.surgery import ALL, SurgeryContract
from tests.ranks import run_ranks
from tests.surgery.networks import Network
from tests.surgery.states import state_of
from torch import nn

from normsmith.errors import InputError, SurgeryError
from normsmith.layers import (
    BatchNorm1d,
    BatchNormAct1d,
    BatchNormLSTM,
    BatchRenorm1d,
    BatchRenorm2d,
    Whiten1d,
    use_mask,
)
from normsmith.surgery import LayerStatistics, Plan, Recalibration, recalibrate, set_statistics


def population(x):
    """Mean and unbiased variance of all values of each channel, in float64."""
    rows = x.double().movedim(1, -1).flatten(0, -2)
    return rows.mean(0), rows.var(0)


def assert_population(layer, x, rtol=3e-6, atol=0.0):
    mean, var = population(x)
    scale = var.sqrt().max().item()
    torch.testing.assert_close(layer.running_mean.double(), mean, rtol=rtol, atol=atol + 1e-6 * scale)
    torch.testing.assert_close(layer.running_var.double(), var, rtol=rtol, atol=0.0)


def class_sorted():
    """Seven classes of distant means, in batches of 2 of one class, and a tail of 2 far from all."""
    draw = torch.Generator().manual_seed(3)
    x = torch.cat([torch.randn(16, 8, generator=draw) * 0.3 + number for number in range(-3, 4)])
    return [*x.split(2), torch.full((2, 8), 9.0)]


def three_norms():
    return nn.Sequential(
        nn.BatchNorm1d(8),
        nn.Linear(8, 16),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(16, 16),
        BatchNorm1d(16),
        nn.Linear(16, 2),
    )


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
        found = ALL[request.param]
        self.batch = found.batch()
        return found

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
    assert result.gap <= 1e-6
    assert result.passes <= 5
    result.apply()
    assert_each_on_final_statistics(network, torch.cat(batches))


def test_exact_from_statistics_so_wrong_that_forwards_overflow():
    network, batches = three_norms(), class_sorted()
    for layer in (network[0], network[2], network[6]):
        layer.running_var.fill_(1e-38)
        layer.running_mean.fill_(1e30)
    recalibrate(network, batches, mode="exact").apply()
    assert_each_on_final_statistics(network, torch.cat(batches))


class Branches(nn.Module):
    """Four norms in parallel, one after them: two norms deep."""

    def __init__(self):
        super().__init__()
        self.ways = nn.ModuleList(nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4)) for _ in range(4))
        self.end = nn.BatchNorm1d(4)

    def forward(self, x):
        return self.end(sum(way(x).relu() for way in self.ways))


def test_layers_that_do_not_feed_each_other_share_passes():
    batches = class_sorted()
    result = recalibrate(Branches(), batches, mode="exact")
    assert result.gap <= 1e-6
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
    result = recalibrate(network, batches, mode="exact", most_passes=60)
    assert result.gap <= 1e-6
    result.apply()
    network.eval()(torch.cat(batches))
    assert_population(network.norm, torch.cat([value.detach() for value in network.seen]), rtol=1e-5)


def test_most_passes_bounds_the_search_and_the_gap_tells():
    result = recalibrate(three_norms(), class_sorted(), mode="exact", most_passes=1)
    assert result.passes == 2
    assert result.gap > 0.1


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


# Who is left alone, and who is refused.


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


class ChannelsLast(nn.BatchNorm1d):
    def forward(self, x):
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


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


def test_statistics_given_as_numbers_go_to_any_batch_norm():
    layer = ChannelsLast(2)
    set_statistics(layer, {"": {"running_mean": [1.0, 2.0]}}).apply()
    assert layer.running_mean.tolist() == [1.0, 2.0]


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
    assert [(remark.path, "reached" in remark.reason) for remark in result.kept] == [("spare", True)]
    result.apply()
    assert network.spare.running_var.tolist() == [1.0] * 4


def test_values_that_are_not_finite():
    batches = class_sorted()
    batches[3] = batches[3].index_fill(1, torch.tensor([5]), float("nan"))
    with pytest.raises(SurgeryError, match=r"NaN or infinite ones into 0, in 1 of 8"):
        recalibrate(three_norms(), batches)


# What must be as before.


class Counting(nn.Module):
    """Draws random numbers, keeps a buffer and an attribute that every forward changes."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.net, self.last = three_norms(), 0

    def forward(self, x):
        self.calls += 1
        self.last += 1
        return self.net(x + 0 * torch.randn(()))


@pytest.mark.parametrize("mode", ["fast", "exact"])
def test_measuring_changes_nothing(mode):
    network = Counting().train()
    network.net[1].eval()
    before = state_of(network)
    recalibrate(network, class_sorted(), mode=mode, dropout=True, loss=lambda output, _: output.mean())
    assert state_of(network) == before


class Short:
    """A loader that breaks after some batches."""

    def __init__(self, error):
        self.error = error

    def __iter__(self):
        yield from class_sorted()[:3]
        raise self.error


@pytest.mark.parametrize("error", [RuntimeError("short"), KeyboardInterrupt()], ids=["error", "interrupt"])
@pytest.mark.parametrize("mode", ["fast", "exact"])
def test_an_exception_leaves_the_model_as_it_was(mode, error):
    network = Counting().train()
    before = state_of(network)
    with pytest.raises(type(error)):
        recalibrate(network, Short(error), mode=mode)
    assert state_of(network) == before


def test_an_exception_in_a_later_pass_leaves_the_model_as_it_was():
    network, calls = three_norms().train(), []

    def forward(model, batch):
        calls.append(1)
        if len(calls) == 150:
            raise RuntimeError("late")
        return model(batch)

    before = state_of(network)
    with pytest.raises(RuntimeError, match="late"):
        recalibrate(network, class_sorted(), mode="exact", forward=forward)
    assert state_of(network) == before


def test_every_pass_draws_the_same_random_numbers():
    network = nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 1), nn.BatchNorm1d(1))
    result = recalibrate(
        network,
        [torch.zeros(50, 1)] * 3,
        mode="exact",
        forward=lambda model, batch: model(batch + torch.randn_like(batch)),
    )
    assert result.gap <= 1e-6


def test_an_iterator_serves_one_pass():
    batches = class_sorted()
    layer = nn.BatchNorm1d(8)
    recalibrate(layer, iter(batches)).apply()
    assert_population(layer, torch.cat(batches))
    for options in ({"mode": "exact"}, {"gap": "all"}, {"loss": lambda output, _: output.mean()}):
        with pytest.raises(InputError, match="iterator"):
            recalibrate(layer, iter(batches), **options)


def test_a_data_loader_draws_the_same_order_at_every_pass():
    x = torch.randn(20, 3)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=3, shuffle=True)
    before, seen = torch.get_rng_state(), []

    def forward(model, batch):
        seen.append(batch[0][0, 0].item())
        return model(batch[0])

    layer = nn.BatchNorm1d(3)
    recalibrate(layer, loader, gap="all", forward=forward).apply()
    assert torch.equal(torch.get_rng_state(), before)
    assert seen[:7] == seen[7:]
    assert_population(layer, x)


def test_no_output_waits_for_the_next_batch():
    outputs = []

    def forward(model, batch):
        assert all(output() is None for output in outputs), "the last batch's output is still there"
        output = model(batch)
        outputs.append(weakref.ref(output))
        return output

    recalibrate(
        three_norms(), list(torch.randn(3, 4, 8)), forward=forward, loss=lambda output, _: output.mean()
    )
    assert len(outputs) == 9


def test_no_batches():
    with pytest.raises(InputError, match="at least one batch"):
        recalibrate(nn.BatchNorm1d(1), [])


def test_unknown_words(unchecked):
    for options in ({"mode": "slow"}, {"gap": "some"}, {"group": "world"}, {"mask": "missing"}):
        with pytest.raises(InputError):
            recalibrate(nn.BatchNorm1d(2), [torch.ones(2, 2)], **options)


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


@pytest.mark.compiles
def test_a_compiled_model_is_measured_as_it_was_written():
    network = three_norms()
    compiled = torch.compile(network, backend="eager")
    batches = class_sorted()
    result = recalibrate(compiled, batches, mode="exact")
    assert {layer.path for layer in result.layers} == {"_orig_mod.0", "_orig_mod.2", "_orig_mod.6"}
    result.apply()
    assert_each_on_final_statistics(network, torch.cat(batches))


# Ranks.


def uneven(rank):
    """All of the batches but three on rank 0, these on rank 1, nothing on rank 2."""
    batches = class_sorted()
    return [batches[:-3], batches[-3:], []][rank]


def seeded_norms():
    torch.manual_seed(7)
    return three_norms()


def statistics_of(network):
    return [(network[at].running_mean, network[at].running_var) for at in (0, 2, 6)]


def on_ranks(rank, size):
    """What each way of measuring gives on this rank, and how it fails when another rank does."""
    found = {}
    for name, mode, wrapped in (
        ("exact", "exact", False),
        ("fast", "fast", False),
        ("wrapped", "exact", True),
    ):
        network = seeded_norms()
        model = nn.parallel.DistributedDataParallel(network) if wrapped else network
        result = recalibrate(
            model,
            uneven(rank),
            mode=mode,
            group=None if wrapped else "world",
            loss=lambda output, _: output.mean(),
        )
        result.apply()
        found[name] = statistics_of(network), result.gap, result.loss_after
    network = three_norms()
    before = state_of(network)
    try:
        recalibrate(network, Short(RuntimeError("disk")) if rank == 1 else class_sorted(), group="world")
    except Exception as error:  # noqa: BLE001 — what it is, is the result
        found["failed"] = type(error).__name__, str(error), state_of(network) == before
    return found


def test_ranks_with_uneven_loaders():
    ranks = run_ranks(on_ranks, 3)
    for name, mode in (("exact", "exact"), ("fast", "fast"), ("wrapped", "exact")):
        network = seeded_norms()
        alone = recalibrate(network, class_sorted(), mode=mode, loss=lambda output, _: output.mean())
        alone.apply()
        for rank in ranks:
            found, gap, loss = rank[name]
            torch.testing.assert_close(found, statistics_of(network), rtol=1e-5, atol=1e-6)
            assert found[0][0].equal(ranks[0][name][0][0][0])
            assert gap == ranks[0][name][1]
            assert gap == pytest.approx(alone.gap, rel=1e-3, abs=1e-6)
            assert loss == pytest.approx(alone.loss_after, rel=1e-4)
    failed = [rank["failed"] for rank in ranks]
    assert [kind for kind, _, _ in failed] == ["SyncError", "RuntimeError", "SyncError"]
    assert "rank 1 had RuntimeError: disk" in failed[0][1]
    assert all(as_before for _, _, as_before in failed)
