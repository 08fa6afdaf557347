"""The backward of the CPU row: gradients that are not finite, and gradients of gradients."""

from __future__ import annotations

import torch
from tests.ops.cpu.cases import everything, make

from normsmith.ops import Renorm, batch_norm


def test_gradients_that_are_not_finite_come_through():
    x, weight, bias, _, running, call, g = make((8, 16, 20, 20))
    g[3, 5, 1, 1] = torch.nan
    _, dx, dweight, *_ = everything(x, weight, bias, None, running, call, g)
    assert not dx[:, 5].isfinite().any()
    assert dx[:, :5].isfinite().all()
    assert not dweight[5].isfinite()
    assert dweight[6:].isfinite().all()


def test_second_gradients_are_the_references():
    x = torch.randn(6, 4, 3, dtype=torch.float64)
    weight = torch.rand(4, dtype=torch.float64) + 0.5

    def second(x, weight, **options):
        x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
        y = batch_norm(x, torch.zeros(4).to(x), torch.ones(4).to(x), weight, **options)
        (first,) = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), (x, weight))

    for options in ({}, {"renorm": Renorm(1.2, 0.1)}, {"activation": "gelu"}):
        want = second(x, weight, **options)
        for got, right in zip(second(x.float(), weight.float(), **options), want, strict=True):
            scale = right.abs().max()
            torch.testing.assert_close(got.double() / scale, right / scale, rtol=1e-4, atol=1e-5)
