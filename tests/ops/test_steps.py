"""Batch norm of the steps of a recurrence: what is prepared, and where it is not."""

from __future__ import annotations

import pytest
import torch

from normsmith.ops import batch_norm, moments
from normsmith.ops.steps import prepare_steps


def test_each_step_is_a_batch_norm_with_its_gradients():
    x, g = torch.randn(3, 6, 5), torch.randn(3, 6, 5)
    weight, bias = torch.rand(5, requires_grad=True), torch.randn(5, requires_grad=True)
    steps = prepare_steps(x[0], weight, bias, 1e-3)
    assert steps is not None
    y, dx, affine = torch.empty_like(x), torch.empty_like(x), torch.empty(3, 2, 5)
    statistics = steps.statistics_of(3)
    for step in range(3):
        steps.forward_into(y[step], x[step], statistics[step])
    measured = steps.moments(statistics)
    for step in (2, 0, 1):
        steps.backward_into(dx[step], affine[step], g[step], x[step], statistics[step])
    for step in range(3):
        leaf = x[step].clone().requires_grad_()
        want = batch_norm(leaf, None, None, weight, bias, eps=1e-3)
        assert torch.equal(y[step], want)
        gradients = torch.autograd.grad(want, (leaf, weight, bias), g[step])
        for got, wanted in zip((dx[step], *affine[step]), gradients, strict=True):
            assert torch.equal(got, wanted)
        own = moments(x[step])
        torch.testing.assert_close(measured.mean[step] + measured.low[step], own.mean[0] + own.low[0])
        torch.testing.assert_close(measured.m2[step], own.m2[0])
    assert measured.count == measured.squares == 6.0


def test_nothing_is_prepared_where_no_kernel_serves(monkeypatch: pytest.MonkeyPatch):
    x = torch.randn(4, 3)
    assert prepare_steps(x, None, None, 1e-5) is not None
    assert prepare_steps(x[:1], None, None, 1e-5) is None
    assert prepare_steps(x, torch.ones(3, dtype=torch.float64), None, 1e-5) is None
    monkeypatch.setenv("NORMSMITH_BACKEND", "reference")
    assert prepare_steps(x, None, None, 1e-5) is None
