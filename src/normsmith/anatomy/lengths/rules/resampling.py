"""Interpolation: each sample is scaled as it would be alone, up to its own last position."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from normsmith.anatomy.lengths.layouts import Dim, Layout, LayoutError, Steps, plain, with_lengths
from normsmith.anatomy.lengths.rules.averages import weighted
from normsmith.anatomy.lengths.sizes import PerSample, plain_number, values_of
from normsmith.anatomy.lengths.tracker import Call, Rule

_LINEAR = ("linear", "bilinear", "trilinear")
_MODES = (*_LINEAR, "nearest", "nearest-exact", "bicubic")


def _interpolated(call: Call) -> Any:
    """`F.interpolate`: by one factor for all, or linearly by that of each sample."""
    named = call.named(
        "input", "size", "scale_factor", "mode", "align_corners", "recompute_scale_factor", "antialias"
    )
    x, tracker = named["input"], call.tracker
    layout, mode = tracker.of(x), named.get("mode", "nearest")
    along = [dim for dim in range(2, x.ndim) if not layout.is_plain(dim)]
    if any(layout.steps_of(dim) is None for dim in along) or not layout.is_plain(1):
        raise LayoutError("samples, or merged lengths, are interpolated")
    if along and (mode not in _MODES or named.get("antialias")):
        raise LayoutError(f"mode {mode!r}, or antialias, depends on the length of each sample")
    lengths = {dim: _lengths_after(named, dim - 2, layout.steps_of(dim)) for dim in along}
    if all(_is_one_factor(named, dim - 2, layout.steps_of(dim), lengths[dim]) for dim in along):
        result = call.with_first(_with_last_repeated(x, layout, along))
    elif mode in _LINEAR:
        result = _by_weights(call, named, layout, lengths)
    else:
        raise LayoutError(
            f"each sample would be scaled by another factor, which mode {mode!r} is not followed through; lengths must "
            "divide by the network's total stride, or scale_factor be given"
        )
    dims: dict[int, Dim] = {}
    for dim in range(2, x.ndim):
        steps, size = layout.steps_of(dim), result.shape[dim]
        is_fixed = steps is None or (
            named.get("size") is not None and not isinstance(_of(named["size"], dim - 2), PerSample)
        )
        dims[dim] = plain(size) if steps is None or is_fixed else (with_lengths(steps, lengths[dim], size),)
    return tracker.set(result, layout.with_dims(dims))


def _of(value: Any, i: int) -> Any:
    return value[i] if isinstance(value, (tuple, list)) else value


def _lengths_after(named: dict[str, Any], i: int, steps: Steps | None) -> list[int]:
    """The lengths of what is scaled to a size, or by a factor."""
    assert steps is not None
    if named.get("size") is not None:
        return list(values_of(_of(named["size"], i), len(steps.lengths)))
    factor = _of(named["scale_factor"], i)
    if named.get("recompute_scale_factor") and any((n * factor) % 1 for n in (*steps.lengths, steps.size)):
        raise LayoutError("the factor is computed anew from sizes that it does not fit")
    return [math.floor(length * factor) for length in steps.lengths]


def _is_one_factor(named: dict[str, Any], i: int, steps: Steps | None, lengths: list[int]) -> bool:
    """Whether all samples and the padded batch are scaled alike."""
    assert steps is not None
    if named.get("align_corners"):
        return False
    if named.get("size") is None:
        return True
    size = plain_number(_of(named["size"], i))
    return all(
        after * steps.size == size * before for after, before in zip(lengths, steps.lengths, strict=True)
    )


def _with_last_repeated(x: Tensor, layout: Layout, along: list[int]) -> Tensor:
    """The last valid position again wherever a sample has ended: what interpolation reads beyond an edge."""
    samples = layout.dim_of_samples()
    for dim in along:
        steps = layout.steps_of(dim)
        if samples is None or steps is None:
            raise LayoutError("its samples are merged with something else")
        last = torch.tensor(steps.lengths, device=x.device).unsqueeze(1) - 1
        index = torch.minimum(torch.arange(steps.size, device=x.device), last)
        index = index if samples < dim else index.T
        shape = [x.shape[i] if i in (samples, dim) else 1 for i in range(x.ndim)]
        x = torch.take_along_dim(x, index.reshape(shape), dim)
    return x


def _by_weights(call: Call, named: dict[str, Any], layout: Layout, lengths: dict[int, list[int]]) -> Tensor:
    """Linear interpolation along lengths by the weights of each sample, and along the rest as torch does it."""
    x = call.tracker.filled(named["input"])
    corners = bool(named.get("align_corners"))
    sizes = []
    for dim in range(2, x.ndim):
        size, factor = named.get("size"), named.get("scale_factor")
        wanted = (
            math.floor(x.shape[dim] * _of(factor, dim - 2))
            if size is None
            else plain_number(_of(size, dim - 2))
        )
        sizes.append(wanted)
        steps = layout.steps_of(dim)
        if steps is not None:
            x = weighted(x, layout, dim, _linear(steps, lengths[dim], wanted, corners).to(x))
    return F.interpolate(x, size=sizes, mode=named["mode"], align_corners=corners)


def _linear(steps: Steps, lengths: list[int], size: int, corners: bool) -> Tensor:
    """Weights (samples, results, positions) of a linear interpolation of each sample from its length to another."""
    before, after = (
        torch.tensor(each, dtype=torch.float64).unsqueeze(1) for each in (steps.lengths, lengths)
    )
    places = torch.arange(size, dtype=torch.float64)
    if corners:
        at = places * (before - 1) / (after - 1).clamp_min(1)
    else:
        at = ((places + 0.5) * before / after - 0.5).clamp_min(0)
    low = at.floor().minimum(before - 1)
    high = (low + 1).minimum(before - 1)
    share = (at - low).clamp(0, 1)
    weights = torch.zeros(len(lengths), size, steps.size, dtype=torch.float64)
    weights.scatter_add_(2, low.long().unsqueeze(2), (1 - share).unsqueeze(2))
    weights.scatter_add_(2, high.long().unsqueeze(2), share.unsqueeze(2))
    return weights


RULES: dict[str, Rule] = {"interpolate": _interpolated, "upsample": _interpolated}
