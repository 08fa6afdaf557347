"""What every row of the dispatch table must do: agree with autograd through plain formulas in float64."""

import os

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from normsmith.ops import Running
from normsmith.ops._check import make_call
from normsmith.ops.call import Call
from normsmith.ops.dispatch import Backend
from normsmith.ops.reference import Reference
from normsmith.ops.resolve import Renorm

SHAPES = [
    pytest.param((16, 5), id="rows"),
    pytest.param((4, 3, 7), id="sequences"),
    pytest.param((4, 3, 5, 6), id="images"),
    pytest.param((2, 3, 2, 3, 4), id="volumes"),
    pytest.param((2, 1), id="two values: the fewest that have a variance"),
]


ODD = [
    pytest.param((7, 3, 11), id="primes"),
    pytest.param((1, 3, 9, 9), id="one sample"),
    pytest.param((33, 1), id="one channel"),
    pytest.param((5, 7, 1, 1), id="one position"),
    pytest.param((2, 1030), id="more channels than a run has"),
    pytest.param((9, 5, 16, 17), id="planes"),
    pytest.param((2, 2, 1030), id="long planes"),
    pytest.param((64, 40, 7, 7), id="small planes"),
    pytest.param((300, 9), id="many rows"),
]
OPTIONS = {
    "relu": {"activation": "relu"},
    "gelu": {"activation": "gelu"},
    "residual": {},
    "residual, relu": {"activation": "relu"},
    "mask": {"mask": True},
    "mask, residual, relu": {"mask": True, "activation": "relu"},
    "weights": {"mask": True, "sample_weight": True},
    "ghost": {"ghost_batch_size": True},
    "ghost, mask, residual, relu": {"ghost_batch_size": True, "mask": True, "activation": "relu"},
    "renorm": {"renorm": Renorm(1.5, 0.5)},
    "running": {"normalize_with": "running"},
    "running, mask, relu": {"normalize_with": "running", "mask": True, "activation": "relu"},
}
EXAMPLES = 10 if os.environ.get("TRITON_INTERPRET") == "1" else 40  # kernels of GPUs, interpreted, are slow
TOLERANCES = {torch.float64: 1e-11, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def options_for(x, asked):
    """The arguments of `make_call`: masks with padding that holds NaN, weights and ghost batches that fit `x`."""
    options = dict(asked)
    per_element = (x.shape[0], *x.shape[2:])
    if options.pop("mask", False):
        mask = torch.rand(per_element) > 0.3
        mask.view(-1)[:2] = True
        x.masked_fill_(~mask.unsqueeze(1), torch.nan)
        options["mask"] = mask
    if options.pop("sample_weight", False):
        options["sample_weight"] = torch.rand(x.shape[0]) + 0.1
    if options.pop("ghost_batch_size", False):
        options["ghost_batch_size"] = max(2, x.shape[0] // 3)
    return options


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

    def agrees(self, x, weight, bias, residual, running, options, tolerance, dense=True):
        """Compare output and gradients with the oracle's in float64, up to elements at the edge of the activation."""
        call, exact = make_call(x, **options), make_call(x.double(), **options)
        if self.backend.supports(x, call) is not None:
            pytest.skip("not served")
        g = torch.randn_like(x)
        wide = [None if t is None else t.double() for t in (x, weight, bias, residual)]
        buffers = Running(running.mean.double(), running.var.double())
        want, kept, _ = Reference().forward(*wide, buffers, exact)
        dx, dresidual, affine = Reference().backward(g.double(), wide[0], wide[3], kept, exact, True)
        y, kept, _ = self.backend.forward(x, weight, bias, residual, running, call)
        assert y.dtype == x.dtype
        lies = [
            (a, b) for a, b, n in zip(y.stride(), torch.empty_like(x).stride(), x.shape, strict=True) if n > 1
        ]
        assert not dense or all(a == b for a, b in lies), (
            "the output does not lie in memory as the input does"
        )
        found = self.backend.backward(g, x, residual, kept, call, True)
        flips = 0 if options.get("activation") is None else 1e-3 * x.numel() + 1
        self.close(y, want, tolerance, 0)
        self.close(found[0], dx, tolerance, flips)
        if residual is not None:
            self.close(found[1], dresidual, tolerance, flips)
        if tolerance < 1e-3 or not flips:
            scale = x.numel() ** 0.5 if flips else 1.0
            self.close(found[2].weight, affine.weight, tolerance * scale, 0)
            self.close(found[2].bias, affine.bias, tolerance * scale, 0)

    def close(self, got, want, tolerance, flips):
        apart = (got.double() - want).abs() > tolerance * want.abs().max().clamp(min=1.0)
        assert got.isfinite().all()
        assert apart.sum() <= flips, f"{apart.sum()} of {apart.numel()} elements differ"

    @pytest.mark.parametrize("options", OPTIONS, ids=str)
    @pytest.mark.parametrize("dtype", list(TOLERANCES), ids=str)
    @pytest.mark.parametrize("shape", ODD)
    def test_options_equal_the_oracle(self, shape, dtype, options):
        work = torch.float64 if dtype == torch.float64 else torch.float32
        running = Running(torch.randn(shape[1], dtype=work), torch.rand(shape[1], dtype=work) + 0.5)
        weight, bias = torch.rand(shape[1], dtype=work) + 0.5, torch.randn(shape[1], dtype=work)
        if self.backend.differentiates:
            pytest.skip("autograd differentiates it")
        for layout in (torch.contiguous_format, torch.channels_last):
            if layout == torch.channels_last and len(shape) != 4:
                continue
            x = (torch.randn(shape) * 2 + 3).to(dtype).to(memory_format=layout)
            residual = torch.randn_like(x) if "residual" in options else None
            asked = options_for(x, OPTIONS[options])
            if asked.get("ghost_batch_size", 2) * x[0, 0].numel() < 2:
                continue
            self.agrees(x, weight, bias, residual, running, asked, TOLERANCES[dtype])

    @settings(deadline=None, max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
    @given(
        shape=st.lists(st.integers(1, 9), min_size=2, max_size=5),
        options=st.sampled_from(sorted(OPTIONS)),
        transposed=st.booleans(),
        seed=st.integers(0, 2**16),
    )
    def test_any_shape_equals_the_oracle(self, shape, options, transposed, seed):
        if self.backend.differentiates:
            pytest.skip("autograd differentiates it")
        torch.manual_seed(seed)
        x = torch.randn(shape) + 3
        if transposed:  # every second row of a larger tensor, dimensions swapped
            x = torch.randn([2 * shape[0], *reversed(shape[1:])])[::2].permute(
                0, *range(len(shape) - 1, 0, -1)
            )
        asked = options_for(x, OPTIONS[options])
        values = x.numel() // x.shape[1]
        if values < 2 or asked.get("ghost_batch_size", 2) * x[0, 0].numel() < 2:
            return
        if 2 <= values < 5 and "renorm" not in options:
            asked["eps"] = 0.1  # the variance of two values may be anything
        channels = shape[1]
        running = Running(torch.randn(channels), torch.rand(channels) + 0.5)
        weight, bias = torch.rand(channels) + 0.5, torch.randn(channels)
        residual = torch.randn_like(x) if "residual" in options else None
        self.agrees(x, weight, bias, residual, running, asked, 1e-3 if values < 5 else 1e-4, dense=False)

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
            held = (getattr(kept, name, None) for name in ("statistics", "scale", "shift"))
            tensors = [t for t in (*kept.resolved, *held) if isinstance(t, torch.Tensor)]
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
