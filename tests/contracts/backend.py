"""What every row of the dispatch table must do: agree with autograd through plain formulas in float64."""

import pytest
import torch

from normsmith.ops import Running
from normsmith.ops.call import Call
from normsmith.ops.dispatch import Backend
from normsmith.ops.resolve import Renorm

SHAPES = [
    pytest.param((16, 5), id="rows"),
    pytest.param((4, 3, 7), id="sequences"),
    pytest.param((4, 3, 5, 6), id="images"),
    pytest.param((2, 3, 2, 3, 4), id="volumes"),
    pytest.param((2, 1), id="two values: the fewest that have a variance"),
]


def expected(x, weight, bias, eps, r=1.0, d=0.0):
    """Batch norm by its definition."""
    dims = [0, *range(2, x.ndim)]
    view = (1, -1, *[1] * (x.ndim - 2))
    mean, var = x.mean(dims), x.var(dims, correction=0)
    hat = (x - mean.view(view)) / (var.view(view) + eps).sqrt()
    return weight.view(view) * (hat * r + d) + bias.view(view)


class BackendContract:
    """Inherit, and name the row."""

    backend: Backend

    def run(self, g, x, weight, bias, running, call):
        """Output, moments, and the gradients of x, γ and β: by autograd or in closed form, as the row says."""
        inputs = [tensor.detach().requires_grad_(self.backend.differentiates) for tensor in (x, weight, bias)]
        y, kept, moments = self.backend.forward(*inputs, None, running, call)
        if self.backend.differentiates:
            return y.detach(), moments, torch.autograd.grad(y, inputs, g)
        dx, _, affine = self.backend.backward(g, x, None, kept, call, True)
        return y, moments, (dx, affine.weight, affine.bias)

    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("mean", [0.0, 1e4])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_forward_and_gradient_equal_the_definition(self, shape, mean, dtype):
        x = (torch.randn(shape, dtype=torch.float64) + mean).to(dtype)
        weight, bias = torch.rand(shape[1], dtype=dtype) + 0.5, torch.randn(shape[1], dtype=dtype)
        call = Call()
        assert self.backend.supports(x, call) is None
        g = torch.randn(shape, dtype=dtype)
        y, moments, gradients = self.run(g, x, weight, bias, None, call)
        exact = [tensor.double().requires_grad_() for tensor in (x, weight, bias)]
        want = expected(*exact, call.eps)
        tolerance = 1e-5 if dtype == torch.float32 else 1e-10
        torch.testing.assert_close(y.double(), want, rtol=tolerance, atol=tolerance)
        found = (moments.mean.double() + moments.low.double())[0]
        torch.testing.assert_close(
            found, exact[0].detach().transpose(0, 1).flatten(1).mean(1), rtol=1e-9, atol=1e-6
        )

        for got, right in zip(gradients, torch.autograd.grad(want, exact, g.double()), strict=True):
            scale = right.abs().max().clamp(min=1.0)
            torch.testing.assert_close(
                got.double() / scale, right / scale, rtol=2 * tolerance, atol=2 * tolerance
            )

    def test_renorm_is_another_scale_and_shift(self):
        x = torch.randn(8, 3, dtype=torch.float64)
        weight, bias = torch.rand(3, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
        running = Running(
            torch.full((3,), 0.5, dtype=torch.float64), torch.full((3,), 2.0, dtype=torch.float64)
        )
        call = Call(renorm=Renorm(1.5, 0.2))
        g = torch.randn_like(x)
        y, _, gradients = self.run(g, x, weight, bias, running, call)
        r = ((x.var(0, correction=0) + call.eps) / (2 + call.eps)).sqrt().clamp(1 / 1.5, 1.5)
        d = ((x.mean(0) - 0.5) / (2 + call.eps) ** 0.5).clamp(-0.2, 0.2)
        exact = [tensor.clone().requires_grad_() for tensor in (x, weight, bias)]
        want = expected(*exact, call.eps, r, d)
        torch.testing.assert_close(y, want)
        for got, right in zip(gradients, torch.autograd.grad(want, exact, g), strict=True):
            torch.testing.assert_close(got, right)

    def test_running_statistics_are_only_read(self):
        running = Running(torch.zeros(3), torch.ones(3))
        self.backend.forward(torch.randn(8, 3), None, None, None, running, Call(renorm=Renorm(3.0, 5.0)))
        assert running.mean.tolist() == [0, 0, 0]
        assert running.var.tolist() == [1, 1, 1]

    def test_nothing_kept_shares_memory_with_a_running_buffer(self):
        running = Running(torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64))
        x = torch.randn(8, 3, dtype=torch.float64)
        for call in (Call(renorm=Renorm(3.0, 5.0)), Call(by_batch=False)):
            if self.backend.supports(x, call) is not None:
                continue
            kept = self.backend.forward(x, None, None, None, running, call).kept
            tensors = [t for t in (*kept.resolved, kept.scale, kept.shift) if isinstance(t, torch.Tensor)]
            buffers = {running.mean.untyped_storage().data_ptr(), running.var.untyped_storage().data_ptr()}
            assert not buffers & {t.untyped_storage().data_ptr() for t in tensors}

    def test_channels_last_is_kept(self):
        x = torch.randn(4, 3, 5, 6).to(memory_format=torch.channels_last)
        y, _, (dx, *_) = self.run(x, x, torch.ones(3), torch.zeros(3), None, Call())
        assert y.is_contiguous(memory_format=torch.channels_last)
        assert dx.is_contiguous(memory_format=torch.channels_last)

    def test_non_finite_values_stay_in_their_channel(self):
        x = torch.randn(8, 3)
        x[2, 1] = torch.inf
        y = self.backend.forward(x, None, None, None, None, Call()).y
        assert y[:, [0, 2]].isfinite().all()
        assert not y[2, 1].isfinite()
