"""Moments of a layer's inputs against torch's own, on all values at once."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from normsmith.measure import MeasuredLayer
from normsmith.measure.meter import (
    _MERGED_AT,
    Meter,
    batch_moments,
    has_variance,
    merged,
    merged_on_cpu,
    packed,
)
from normsmith.ops import Moments, moments


def assert_moments(result: Moments, rows: torch.Tensor) -> None:
    """`rows`: every value of each channel, (values, channels)."""
    var, mean = torch.var_mean(rows.double(), 0, correction=0)
    torch.testing.assert_close(
        (result.mean.double() + result.low)[0], mean, rtol=1e-7, atol=2e-7
    )  # float32 inputs
    torch.testing.assert_close(result.variance[0].double(), var, rtol=3e-6, atol=1e-12)
    assert float(result.count) == len(rows)


def test_merged_moments_are_those_of_the_concatenation():
    parts = [
        torch.randn(size, 3) * scale + mean for size, scale, mean in ((1, 1, 0), (9, 2, 50), (4, 0.1, -3))
    ]
    result = merged([batch_moments(part) for part in parts])
    assert result.mean.dtype == torch.float64
    assert_moments(result, torch.cat(parts))


def test_merging_twice_is_merging_once():
    parts = [moments(torch.randn(size, 2) + size) for size in (3, 5, 8, 2)]
    once = merged(parts)
    twice = merged([merged(parts[:2]), merged(parts[2:])])
    for one, other in zip(once, twice, strict=True):
        torch.testing.assert_close(torch.as_tensor(one), torch.as_tensor(other), rtol=1e-12, atol=1e-12)


def test_weighted_parts_merge_with_plain_ones():
    x, y = torch.randn(6, 2), torch.randn(5, 2) + 4
    weights = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 1.0]).unsqueeze(1)
    result = merged([batch_moments(x, weights), batch_moments(y)])
    assert_moments(result, torch.cat([x[weights.flatten() > 0], y]))


def test_moments_of_several_kinds_are_packed_as_they_are():
    plain, wide = torch.randn(5, 3), torch.randn(4, 2).double()
    parts = [batch_moments(plain), batch_moments(wide), batch_moments(plain, torch.rand(5, 1))]
    for one, other in zip(packed(parts), parts, strict=True):
        for value, expected in zip(one, other, strict=True):
            assert type(value) is type(expected)
            torch.testing.assert_close(value, expected, rtol=0, atol=0)
    assert packed([]) == []


def test_no_parts_are_no_moments():
    assert merged_on_cpu([]) is None
    assert not has_variance(None)


@pytest.mark.parametrize("shape", [(12, 3), (5, 3, 7), (2, 3, 4, 4), (2, 3, 2, 3, 2)])
def test_a_batch_of_any_dimensions(shape):
    x = torch.randn(shape) * 3 + 100
    assert_moments(batch_moments(x), x.movedim(1, -1).flatten(0, -2))


@pytest.mark.parametrize("rows", [0, 1])
def test_a_batch_of_at_most_one_value(rows):
    x = torch.randn(rows, 3)
    result = batch_moments(x)
    assert result.count == rows
    assert not has_variance(result)
    assert torch.equal(result.m2, torch.zeros(1, 3))
    if rows:
        assert torch.equal(result.mean, x)
    more = torch.randn(4, 3)
    assert_moments(merged([result, batch_moments(more)]), torch.cat([x, more]))


def test_elements_of_weight_zero_may_hold_anything():
    x, weights = torch.randn(6, 2, 3), (torch.rand(6, 1, 3) < 0.5).float()
    weights[0, 0, 0] = 0.0
    x[0, :, 0] = float("nan")
    assert_moments(batch_moments(x, weights), x.movedim(1, -1)[weights[:, 0] > 0])


def test_weights_count_as_often_as_they_say():
    x = torch.randn(4, 2)
    result = batch_moments(x, torch.tensor([1.0, 2.0, 3.0, 1.0]).unsqueeze(1))
    assert_moments(result, x.repeat_interleave(torch.tensor([1, 2, 3, 1]), 0))


def meter() -> Meter:
    measured = MeasuredLayer("", nn.BatchNorm1d(2))
    return Meter(measured, measured.statistics())


def test_a_meter_merges_many_parts_on_the_way_and_starts_anew_once_they_are_taken():
    collecting, batches = meter(), torch.randn(2 * _MERGED_AT + 3, 4, 2) + 5
    for batch in batches:
        collecting.add(batch_moments(batch))
        assert len(collecting.parts) < _MERGED_AT
    assert_moments(collecting.take(), batches.flatten(0, 1))
    assert collecting.take() is None


def test_two_values_of_a_channel_have_a_variance():
    assert has_variance(merged([batch_moments(torch.randn(1, 2)), batch_moments(torch.randn(1, 2))]))
    assert not has_variance(merged([batch_moments(torch.randn(1, 2))]))


class WithoutFloat64(torch.Tensor):
    """A stand-in for a tensor on MPS: it is there, and has no float64, until it is copied to the CPU."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name == "__get__" and func == torch.Tensor.device.__get__:
            return torch.device("mps")
        plain = [arg.as_subclass(torch.Tensor) if isinstance(arg, cls) else arg for arg in args]
        if name == "cpu":
            return plain[0]
        if name in ("double", "cat", "to"):
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return super().__torch_function__(func, types, args, kwargs)


def test_a_device_without_float64_has_its_moments_merged_on_the_cpu():
    batches = [torch.randn(5, 2) * 3 + 1000 for _ in range(3)]
    there = [
        Moments(
            part.count, *(value.as_subclass(WithoutFloat64) for value in part[1:3]), part.squares, part.low
        )
        for part in map(batch_moments, batches)
    ]
    there = [part._replace(low=part.low.as_subclass(WithoutFloat64)) for part in there]
    assert there[0].mean.device.type == "mps"
    for result in (merged(there), merged_on_cpu(there)):
        assert type(result.mean) is torch.Tensor
        assert result.mean.dtype == torch.float64
        assert_moments(result, torch.cat(batches))
