"""Statistics of kernels, merged across ranks: an exchange between the phases MEASURE and APPLY, and decisions in torch.

Kernels measure and apply as they do on one rank. `resolve`, `coefficients` and `gradients` take the place of their
phase SETTLE.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from normsmith.ops.call import Call
from normsmith.ops.cpu.kernels import arguments as slot
from normsmith.ops.cpu.saved import Packed
from normsmith.ops.moments import Moments
from normsmith.ops.resolve import Gradients, Running, coefficients, gradients, resolve

Exchange = Callable[[Tensor], Tensor]


def settle_across(
    call: Call,
    packed: Packed,
    counted: tuple[Tensor | float, Tensor | float],
    weight: Tensor | None,
    bias: Tensor | None,
    running: Running | None,
    parts: Tensor,
) -> None:
    """From the parts of this rank's batch to the moments of all ranks, and to the statistics that normalise."""
    assert call.sync is not None  # asked for
    rows = packed.statistics
    merged = packed.across = call.sync.merge(_moments(parts, *counted, rows.dtype))
    resolved = resolve(merged, running, call.eps, call.renorm)
    scale, shift = coefficients(resolved, weight, bias)
    none = torch.zeros_like(merged.mean)
    every = {
        slot.MEAN: resolved.mean,
        slot.LOW: none if resolved.low is None else resolved.low,
        slot.INV_STD: resolved.inv_std,
        slot.M2: merged.m2,
        slot.SCALE: scale,
        slot.SHIFT: shift,
        slot.R: none + 1 if resolved.r is None else resolved.r,
        slot.D: none if resolved.d is None else resolved.d,
        slot.SHARE: none,  # `gradients` divides by the count itself
    }
    torch.stack([every[row] for row in range(slot.STATISTICS_ROWS)], out=rows)
    packed.enough = resolved.by_batch


def settle_gradient_across(
    exchange: Exchange | None, packed: Packed, terms: Tensor, affine: Gradients, parts: Tensor
) -> None:
    """From the parts of this rank's two sums to its dγ and dβ, and to the terms of dx, whose sums cross ranks."""
    assert packed.across is not None  # as the forward was
    plain, moment, _ = parts.sum(0).to(terms.dtype).unbind(1)
    scale, count = packed.statistics[slot.SCALE], packed.across.count
    result = gradients(packed.resolved, scale, count, plain, moment, exchange)
    affine.weight.copy_(result.weight)
    affine.bias.copy_(result.bias)
    assert result.offset is not None  # enough values or not, that is known at run time only
    assert result.slope is not None
    terms[slot.TERM_OFFSET], terms[slot.TERM_SLOPE] = result.offset, result.slope


def _moments(parts: Tensor, count: Tensor | float, squares: Tensor | float, work: torch.dtype) -> Moments:
    """The moments of a batch from those of its parts, of shape (parts, groups, 3, channels), by Chan's formula."""
    number, mean, m2 = parts.unbind(2)
    if len(parts) == 1:
        counted = number[0] > 0
        whole, spread = (torch.where(counted, value[0], 0.0) for value in (mean, m2))
        high = whole.to(work)
        return Moments(count, high, spread.to(work), squares, (whole - high).to(work))
    share = number / number.sum(0).clamp(min=torch.finfo(number.dtype).tiny)
    # parts without values hold anything
    whole = torch.where(number > 0, mean * share, 0.0).sum(0)
    apart = torch.where(number > 0, mean - whole, 0.0)
    spread = torch.where(number > 0, m2 + number * apart * apart, 0.0).sum(0)
    high = whole.to(work)
    return Moments(count, high, spread.to(work), squares, (whole - high).to(work))
