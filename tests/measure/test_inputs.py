"""What is measured of a layer's calls, and by what statistics the layer normalises meanwhile."""

from __future__ import annotations

import pytest
import torch
from tests.surgery.states import state_of
from torch import nn

from normsmith.errors import InputError
from normsmith.layers import BatchNorm1d, BatchNorm2d, InputNorm, use_mask
from normsmith.measure import MeasuredLayer, Statistics, batch_statistics
from normsmith.measure.inputs import CurrentBatch, measured_inputs
from normsmith.measure.meter import Meter, merged_on_cpu
from normsmith.ops import Moments


def meter(layer: nn.Module) -> Meter:
    measured = MeasuredLayer("", layer)
    return Meter(measured, measured.statistics())


def taken(current: CurrentBatch) -> Moments | None:
    """The moments of all calls since the last time."""
    calls, current.calls = current.calls, []
    return merged_on_cpu([moments for _, moments in calls])


def fail_after(layer: nn.Module, batch: torch.Tensor) -> None:
    layer(batch)
    raise InputError


def assert_measured(result, rows: torch.Tensor) -> None:
    var, mean = torch.var_mean(rows.double(), 0, correction=0)
    torch.testing.assert_close((result.mean + result.low)[0], mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(result.variance[0], var, rtol=3e-6, atol=0)
    assert float(result.count) == len(rows)


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, BatchNorm1d])
def test_without_a_rule_layers_normalise_by_their_own_statistics(kind):
    layer, x = kind(3), torch.randn(6, 3) + 2
    expected = layer.eval()(x)
    layer.train()
    with measured_inputs([meter(layer)], None) as current:
        assert torch.equal(layer(x), expected)
    assert_measured(taken(current), x)


@pytest.mark.parametrize("masked", [True, False], ids=["by hooks", "at once"])
@pytest.mark.parametrize("kind", [nn.BatchNorm1d, BatchNorm1d])
def test_by_the_rule_of_training_every_batch_is_normalised_by_itself(kind, masked):
    layer, x = kind(3), torch.randn(6, 3) + 2
    expected = kind(3).train()(x)
    with measured_inputs([meter(layer)], batch_statistics, masked=masked) as current:
        torch.testing.assert_close(layer(x), expected)
        torch.testing.assert_close(
            layer(x[:1]), layer.eval()(x[:1])
        )  # a value has no variance: its own statistics
    assert_measured(taken(current), torch.cat([x, x[:1], x[:1]]))


@pytest.mark.parametrize("masked", [True, False], ids=["by hooks", "at once"])
def test_after_the_block_the_layer_is_as_it_was(masked):
    layer, batch = nn.BatchNorm1d(3).eval(), torch.randn(4, 3)
    before = state_of(layer)
    with pytest.raises(InputError), measured_inputs([meter(layer)], batch_statistics, masked=masked):
        fail_after(layer, batch)
    assert state_of(layer) == before


def test_a_rule_of_ones_own():
    layer = nn.BatchNorm1d(1, affine=False, eps=0.0)

    def shifted(epsilon, own, moments, samples):
        return Statistics(moments.mean[0] - samples, torch.ones(1))

    with measured_inputs([meter(layer)], shifted):
        assert layer(torch.tensor([[1.0], [3.0]])).flatten().tolist() == [1.0, 3.0]  # 2 − 2 samples
    assert torch.equal(layer.running_mean, torch.zeros(1))


def test_somebodys_train_within_the_block_changes_nothing():
    layer, x = nn.BatchNorm1d(3), torch.randn(6, 3) + 2
    with measured_inputs([meter(layer)], None):
        layer.train()
        assert torch.equal(layer(x), nn.BatchNorm1d(3).eval()(x))
    assert layer.num_batches_tracked == 0


def test_what_is_not_recorded_is_not_counted():
    layer = nn.BatchNorm1d(3)
    with measured_inputs([meter(layer)], None, recorded=False) as current:
        layer(torch.randn(6, 3))
    assert taken(current) is None


@pytest.mark.parametrize("masked", [True, False], ids=["by hooks", "at once"])
def test_every_call_is_recorded_while_calls_are(masked):
    layer, x = nn.BatchNorm1d(3), torch.randn(2, 6, 3)
    counting = meter(layer)
    with measured_inputs([counting], batch_statistics, masked=masked) as current:
        current.recorded = False
        layer(x[0])
        current.recorded = True
        layer(x[1])
    ((measured, moments),) = current.calls
    assert measured is counting
    torch.testing.assert_close(moments.mean[0], x[1].mean(0))


# Masks.


def test_the_mask_of_the_batch_counts_for_any_layer():
    x, mask = torch.randn(4, 3, 5), torch.rand(4, 5) < 0.6
    for layer in (nn.BatchNorm1d(3), BatchNorm1d(3)):
        with measured_inputs([meter(layer)], None) as current:
            current.mask = mask
            layer(x)
        assert_measured(taken(current), x.movedim(1, -1)[mask])


def test_a_mask_of_the_call_overrules_that_of_the_batch_and_both_that_in_force():
    x, masks = torch.randn(6, 3), torch.rand(3, 6).argsort(1) < 3
    layer = BatchNorm1d(3)
    with measured_inputs([meter(layer)], None) as current, use_mask(layer, masks[0]):
        layer(x)
        assert_measured(taken(current), x[masks[0]])
        current.mask = masks[1]
        layer(x)
        assert_measured(taken(current), x[masks[1]])
        layer(x, masks[2])
        assert_measured(taken(current), x[masks[2]])
        layer(x, mask=masks[2], sample_weight=torch.full((6,), 2.0))
        assert float(taken(current).count) == 6


@pytest.mark.parametrize("dtype", [torch.float32, torch.int32])
def test_features_of_raw_inputs_are_measured_along_their_axis(dtype):
    layer, x = InputNorm(3, dim=-1), (torch.randn(4, 5, 3) * 9).to(dtype)
    mask = torch.rand(4, 5) < 0.6
    with measured_inputs([meter(layer)], None) as current:
        layer(x, mask)
    assert_measured(taken(current), x[mask].float())


def test_half_precision_is_measured_in_float32():
    layer, x = BatchNorm2d(2).bfloat16(), (torch.randn(4, 2, 3, 3) + 9).bfloat16()
    with measured_inputs([meter(layer)], None) as current:
        layer(x)
    assert_measured(taken(current), x.float().movedim(1, -1).flatten(0, -2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("text",), "expected a call with a tensor, got str; leave the layer out with only="),
        ((torch.ones(3),), r"expected an input of shape \(batch, channels, ...\), got \(3,\)"),
    ],
)
def test_calls_that_cannot_be_measured_name_the_layer(arguments, message):
    layer = nn.BatchNorm1d(3)
    measured = MeasuredLayer("body.norm", layer)
    with (
        measured_inputs([Meter(measured, measured.statistics())], None),
        pytest.raises(InputError, match=r"^body\.norm: " + message),
    ):
        layer(*arguments)
    with measured_inputs([Meter(measured, measured.statistics())], None) as current:
        current.mask = torch.ones(5, dtype=torch.bool)
        with pytest.raises(InputError, match=r"^body\.norm: "):
            layer(torch.ones(4, 3))
