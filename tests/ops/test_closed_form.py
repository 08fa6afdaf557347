"""The gradient in closed form: which gradients there are, in which dtype, and of what a caller changes meanwhile."""

from __future__ import annotations

import pytest
import torch
from tests.layers.prepared_calls import nothing_prepared

from normsmith.ops import batch_norm


@pytest.fixture(autouse=True)
def unprepared():
    with nothing_prepared():
        yield


def test_gradients_have_the_dtype_of_what_they_are_of():
    x = torch.randn(6, 3, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.randn(3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, dtype=torch.bfloat16, requires_grad=True)
    y = batch_norm(x, None, None, weight, bias)
    gradients = torch.autograd.grad(y, (x, weight, bias), torch.randn(6, 3).to(torch.bfloat16))
    assert [each.dtype for each in gradients] == [torch.bfloat16, torch.float64, torch.bfloat16]


def test_only_what_requires_a_gradient_has_one():
    x, weight = torch.randn(6, 3), torch.randn(3, requires_grad=True)
    residual = torch.randn(6, 3, requires_grad=True)
    y = batch_norm(x, None, None, weight, residual=residual, activation="relu")
    y.square().sum().backward()
    assert x.grad is None
    assert weight.grad.shape == (3,)
    assert torch.equal(residual.grad, 2 * y.detach())


def test_a_mask_that_is_changed_afterwards_changes_no_gradient():
    x, mask = torch.randn(6, 3, requires_grad=True), torch.tensor([True] * 5 + [False])
    y, g = batch_norm(x, mask=mask), torch.randn(6, 3)
    (want,) = torch.autograd.grad(y, x, g, retain_graph=True)
    mask.fill_(True)
    (got,) = torch.autograd.grad(y, x, g)
    assert torch.equal(got, want)


def test_second_gradients_are_those_of_the_formula():
    x = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x, weight: batch_norm(x, None, None, weight), (x, weight))
