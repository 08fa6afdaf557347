"""The ATen backend: torch's own kernel for plain calls, made accurate by centring the batch first."""

from __future__ import annotations

import torch
from torch import Tensor

from normsmith.ops._shapes import Batch
from normsmith.ops.call import Call, Forward, Kept, Update, eager, promoted
from normsmith.ops.moments import Moments, spread, total
from normsmith.ops.reference import Reference
from normsmith.ops.resolve import Resolved, Running, coefficients, resolve

_LONGEST = 2**14
"""Values per channel up to which the kernel's row-by-row float32 sums are right to 5e-6 (at 2**17: 4e-5)."""


class Aten(Reference):
    """The row `aten`: a few calls of torch's kernels in place of many small operations.

    The kernel alone sums in float32 around zero, and loses three digits at mean 1e4 and standard deviation 1. The
    batch is therefore centred around an estimate of its mean first. The gradients, first and second, are torch's own.
    """

    name = "aten"
    differentiates = True

    def supports(self, x: Tensor, call: Call) -> str | None:
        """None for plain calls by the batch's statistics, in eager mode."""
        if x.device.type != "cpu":
            return f"measured on the CPU only, got a tensor on {x.device.type}"
        if not call.by_batch:
            return "serves normalisation by the batch's statistics"
        if any(part is not None for part in (call.weights, call.groups, call.activation, call.sync)):
            return "knows no mask, sample weight, ghost batch, activation or other ranks"
        if not eager():  # before the shape is asked: to an exporter that is a condition
            return "runs in eager mode only"
        values = x.numel() // max(x.shape[1], 1)
        if values < 2:
            return f"needs 2 values per channel, got {values}"
        long = values > _LONGEST and not (x.is_contiguous() and x[0, 0].numel() > 1)
        return (
            f"loses digits over {values} rows where channels come last in memory; at most {_LONGEST}"
            if long
            else None
        )

    def forward(
        self,
        x: Batch,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Batch | None,
        running: Running | None,
        call: Call,
        update: Update | None = None,
    ) -> Forward:
        """Centre the batch and call torch's kernel, whose buffers, at momentum 1, become mean and unbiased variance."""
        dtype = x.dtype
        x, residual = promoted(x, residual, None)
        channels = x.shape[1]
        count = float(x.numel() // channels)
        # a constant to autograd: the output does not depend on where the batch is centred
        mean = total(x.detach(), None) / count
        centred = x - spread(mean, x, None)
        low, variance = x.new_zeros(channels), x.new_zeros(channels)
        affine = (_in_dtype(x, weight), _in_dtype(x, bias)) if call.renorm is None else (None, None)
        y, _, inv_std = torch.native_batch_norm(centred, *affine, low, variance, True, 1.0, call.eps)
        moments = Moments(count, mean, variance.unsqueeze(0) * (count - 1), count, low.unsqueeze(0))
        resolved = Resolved(mean, moments.low, inv_std.unsqueeze(0), None, None, True)
        if call.renorm is not None:
            resolved = resolve(moments, running, call.eps, call.renorm)
            hat = resolved._replace(low=None, inv_std=torch.ones_like(mean))
            scale, shift = coefficients(hat, weight, bias)
            y = torch.addcmul(spread(shift, x, None), y, spread(scale, x, None))
        if residual is not None:
            y = y + residual
        y = y if y.dtype == dtype else y.to(dtype)
        return Forward(y, Kept(resolved, None, None, count), moments)


def _in_dtype(x: Tensor, vector: Tensor | None) -> Tensor | None:
    return vector if vector is None or vector.dtype == x.dtype else vector.to(x.dtype)
