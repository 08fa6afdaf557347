"""The ATen backend: torch's own kernel for plain calls, made accurate by centring the batch first."""

from __future__ import annotations

import torch
from torch import Tensor

from normsmith.ops._shapes import Batch
from normsmith.ops.call import Call, Forward, Kept, eager
from normsmith.ops.moments import Moments, spread, total
from normsmith.ops.reference import Reference
from normsmith.ops.resolve import Gradients, Resolved, Running, coefficients, correction

_LONGEST = 2**17
"""Values per channel beyond which the kernel's plain float32 sums lose more than 1e-6."""


class Aten(Reference):
    """The row `aten`: a few calls of torch's kernels in place of many small operations.

    The kernel alone loses three digits at mean 1e4, std 1: it sums in float32 around zero. Around an estimate of
    the mean it does not.
    """

    name = "aten"

    def supports(self, x: Tensor, call: Call) -> str | None:
        """None for plain calls by the batch's statistics, in eager mode."""
        if x.device.type != "cpu":
            return f"measured on the CPU only, got a tensor on {x.device.type}"
        if not call.by_batch:
            return "serves normalisation by the batch's statistics"
        if call.weights is not None or call.groups is not None or call.activation is not None:
            return "knows no mask, sample weight, ghost batch or activation"
        if call.sync is not None:
            return "does not speak with other ranks"
        values = x.numel() // max(x.shape[1], 1)
        if not 2 <= values <= _LONGEST:
            return f"serves 2 to {_LONGEST} values per channel, got {values}"
        return None if eager() else "runs in eager mode only"

    def forward(
        self,
        x: Batch,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Batch | None,
        running: Running | None,
        call: Call,
    ) -> Forward:
        """Centre, then torch's kernel; its two temporary buffers receive the mean and the unbiased variance."""
        count = float(x.numel() // x.shape[1])
        mean = total(x, None) / count
        centred = x - spread(mean, x, None)
        low, variance = x.new_zeros(2, 1, x.shape[1]).unbind()
        affine = (None, None) if call.renorm is not None else _in_dtype(x, weight, bias)
        y, _, inv_std = torch.native_batch_norm(centred, *affine, low[0], variance[0], True, 1.0, call.eps)
        found = Moments(count, mean, variance * (count - 1), count, low)
        resolved = Resolved(mean, low, inv_std.unsqueeze(0), None, None, True)
        if call.renorm is not None and running is not None:
            r, d = correction(found, running, call.eps, call.renorm)
            resolved = resolved._replace(r=r, d=d)
            scale, shift = coefficients(resolved._replace(low=None, inv_std=torch.ones_like(r)), weight, bias)
            y = torch.addcmul(spread(shift, x, None), y, spread(scale, x, None))
        if residual is not None:
            y = y + residual
        return Forward(y, Kept(resolved, *coefficients(resolved, weight, bias), count), found)

    def backward(
        self, g: Batch, x: Batch, residual: Batch | None, kept: Kept, call: Call, wants_x: bool
    ) -> tuple[Batch | None, Batch | None, Gradients]:
        """Torch's kernel on the centred batch, with scale·σ in the place of γ."""
        mean, low, inv_std, r, d, _ = kept.resolved
        assert low is not None
        centred = x - spread(mean, x, None)
        dx, dweight, dbias = torch.ops.aten.native_batch_norm_backward.default(
            g,
            centred,
            (kept.scale / inv_std)[0],
            None,
            None,
            low[0],
            inv_std[0],
            True,
            call.eps,
            [wants_x, True, True],
        )
        if r is not None and d is not None and dweight is not None and dbias is not None:
            dweight = torch.addcmul(dbias * d[0], dweight, r[0])
        return dx, g, Gradients(dweight, dbias, None, None)


def _in_dtype(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    return (
        weight if weight is None or weight.dtype == x.dtype else weight.to(x.dtype),
        bias if bias is None or bias.dtype == x.dtype else bias.to(x.dtype),
    )
