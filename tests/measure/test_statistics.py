"""The rules that make statistics of moments."""

from __future__ import annotations

import torch

from normsmith.measure import Statistics, batch_statistics, population_statistics
from normsmith.ops import Moments, moments

EPSILON = 1e-3


def own(**options) -> Statistics:
    return Statistics(torch.full((3,), 7.0, **options), torch.full((3,), 5.0, **options))


def test_batch_statistics_are_the_mean_and_the_biased_variance():
    x = torch.randn(20, 3) * 2 + 1
    result = batch_statistics(EPSILON, own(), moments(x), 20)
    torch.testing.assert_close(result.mean, x.mean(0))
    torch.testing.assert_close(result.var, x.var(0, correction=0))
    assert result.std is None


def test_population_statistics_are_the_mean_and_the_unbiased_variance():
    x = torch.randn(20, 3) * 2 + 1
    result = population_statistics(EPSILON, own(), moments(x.double()))
    torch.testing.assert_close(result.mean, x.double().mean(0))
    torch.testing.assert_close(result.var, x.double().var(0))
    assert result.std is None


def test_a_standard_deviation_is_there_for_layers_that_keep_one():
    x = torch.randn(20, 3, dtype=torch.float64)
    held = Statistics(*own(dtype=torch.float64)[:2], std=torch.ones(3, dtype=torch.float64))
    expected = (x.var(0, correction=0) + EPSILON).sqrt()
    torch.testing.assert_close(batch_statistics(EPSILON, held, moments(x), 20).std, expected)
    torch.testing.assert_close(population_statistics(EPSILON, held, moments(x)).std, expected)


def test_a_batch_of_one_value_goes_by_the_layers_own_statistics():
    assert batch_statistics(EPSILON, own(), moments(torch.randn(1, 3)), 1) is None


def test_where_weights_leave_one_value_the_layers_own_statistics_stand():
    x, weights = torch.randn(4, 3), torch.tensor([[1.0], [0.0], [0.0], [0.0]])
    result = batch_statistics(EPSILON, own(), moments(x, weights), 4)
    assert (result.mean.tolist(), result.var.tolist()) == ([7.0] * 3, [5.0] * 3)
    weights[1] = 1.0
    result = batch_statistics(EPSILON, own(), moments(x, weights), 4)
    torch.testing.assert_close(result.mean, x[:2].mean(0))


def test_what_rounding_took_from_the_mean_is_in_the_population_mean():
    exact = Moments(2.0, torch.tensor([[1.0]]), torch.zeros(1, 1), 2.0, torch.tensor([[1e-9]]))
    wide = Moments(*(torch.as_tensor(value, dtype=torch.float64) for value in exact))
    held = Statistics(torch.zeros(1), torch.ones(1))
    assert abs(population_statistics(EPSILON, held, wide).mean.item() - 1.000000001) < 1e-15


def test_statistics_take_the_dtypes_of_others():
    narrow = Statistics(torch.ones(2), torch.ones(2))
    wide = Statistics(torch.ones(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64), torch.ones(2))
    assert narrow.like(Statistics(torch.zeros(2), torch.zeros(2))) is narrow
    assert [value.dtype for value in narrow.like(wide)[:2]] == [torch.float64] * 2
    assert narrow.like(wide).std is None
    assert wide.like(narrow).std is None
    assert wide.like(narrow).mean.dtype == torch.float32
    assert torch.equal(wide.like(wide).std, torch.ones(2))
