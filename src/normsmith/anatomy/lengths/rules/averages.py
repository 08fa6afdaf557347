"""Sums, averages and extremes over dimensions: over positions they leave out what is not valid."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from normsmith.anatomy.forward import flat
from normsmith.anatomy.lengths.layouts import Dim, Layout, LayoutError, Samples, Steps, plain
from normsmith.anatomy.lengths.rules.elementwise import elementwise
from normsmith.anatomy.lengths.tracker import Call, Rule

_FILL = {
    "sum": 0.0, "nansum": 0.0, "amax": -math.inf, "max": -math.inf, "argmax": -math.inf, "logsumexp": -math.inf,
    "amin": math.inf, "min": math.inf, "argmin": math.inf, "any": 0.0, "all": 1.0, "count_nonzero": 0.0, "prod": 1.0,
}  # fmt: skip
"""What stands in the place of what is not valid, so that it has no effect."""


def _reduction(call: Call) -> Any:
    tracker = call.tracker
    x, dims, keep = _arguments(call)
    if dims is None:  # of two tensors
        return elementwise(call)
    layout = _after(tracker.of(x), dims, keep)
    if call.name in _FILL:
        result = call.with_first(_filled(call, x, _FILL[call.name], dims))
    else:
        mask = tracker.of(x).valid(x.device, dims)
        if mask is not None and call.name not in ("mean", "std", "var"):
            raise LayoutError("it goes over lengths, and is not known for them")
        result = call.run() if mask is None else _moment(call, x, mask, dims, keep)
    return tracker.set_all(result, layout)


def _norm(call: Call) -> Any:
    """`x.norm(p, dim)`, of zeros where it is not valid."""
    named = call.named("input", "p", "dim", "keepdim", "out", "dtype")
    p = named.get("p", "fro")
    if p not in ("fro", 1, 2, math.inf):
        raise LayoutError(f"a norm of p={p!r}")
    x, dim = named["input"], named.get("dim")
    dims = (
        list(range(x.ndim))
        if dim is None
        else [each % x.ndim for each in ([dim] if isinstance(dim, int) else dim)]
    )
    layout = _after(call.tracker.of(x), dims, bool(named.get("keepdim", False)))
    return call.tracker.set(call.with_first(_filled(call, x, 0.0, dims)), layout)


def _arguments(call: Call) -> tuple[Tensor, list[int] | None, bool]:
    """The tensor, the dimensions that are reduced, and whether they stay as ones."""
    second = call.args[1] if len(call.args) > 1 else call.kwargs.get("other")
    x = call.first
    if isinstance(second, Tensor):
        return x, None, False
    dim = call.kwargs.get("dim", call.kwargs.get("axis", None if isinstance(second, bool) else second))
    if dim is None or dim == ():
        return x, list(range(x.ndim)), bool(call.kwargs.get("keepdim", False))
    place = 3 if call.name.startswith(("std", "var")) else 2
    keep = call.kwargs.get("keepdim", call.args[place] if len(call.args) > place else False)
    dims = [dim] if isinstance(dim, int) else list(dim)
    return x, [each % x.ndim for each in dims], bool(keep)


def _after(layout: Layout, reduced: list[int], keep: bool) -> Layout:
    """The layout that is left."""
    gone = [atom for i in reduced for atom in layout.dims[i]]
    kept = [atom for i, dim in enumerate(layout.dims) if i not in reduced for atom in dim]
    if any(isinstance(atom, Samples) for atom in gone) and any(isinstance(atom, Steps) for atom in kept):
        raise LayoutError("it goes over the samples and leaves their lengths")
    if keep:
        return layout.with_dims(dict.fromkeys(reduced, ()))
    return Layout(tuple(dim for i, dim in enumerate(layout.dims) if i not in reduced))


def _filled(call: Call, x: Tensor, value: float, dims: list[int]) -> Tensor:
    """The tensor with a value, as far as its dtype has it, where it is not valid."""
    if math.isinf(value) and not x.is_floating_point():
        info = torch.iinfo(x.dtype) if x.dtype != torch.bool else None
        value = (value > 0) if info is None else (info.max if value > 0 else info.min)
    return call.tracker.filled(x, value, dims)


def _moment(call: Call, x: Tensor, mask: Tensor, dims: list[int], keep: bool) -> Tensor:
    """The mean, variance or standard deviation of what is valid."""
    zeroed = torch.where(mask, x, 0.0)
    if "dtype" in call.kwargs and call.kwargs["dtype"] is not None:
        zeroed = zeroed.to(call.kwargs["dtype"])
    count = mask.sum(dims, keepdim=True)
    for i in dims:
        count = count * (x.shape[i] if mask.shape[i] == 1 else 1)
    mean = zeroed.sum(dims, keepdim=True) / count
    if call.name == "mean":
        result = mean
    else:
        squares = torch.where(mask, (zeroed - mean).square(), 0.0).sum(dims, keepdim=True)
        result = squares / (count - _correction(call))
        result = result.sqrt() if call.name == "std" else result
    return result if keep else result.squeeze(dims)


def _correction(call: Call) -> float:
    """By how much the count is less where a variance is estimated."""
    unbiased = call.kwargs.get("unbiased")
    if unbiased is None:
        unbiased = next((value for value in call.args[1:3] if isinstance(value, bool)), True)
    correction = call.kwargs.get("correction")
    return float(unbiased if correction is None else correction)


def _adaptive_average(call: Call) -> Any:
    """`adaptive_avg_pool`, whose windows depend on the length: a matrix of weights for each sample."""
    named = call.named("input", "output_size")
    x, tracker = named["input"], call.tracker
    n = int(next(character for character in call.name if character.isdigit()))
    layout = tracker.of(x)
    sizes = _output_sizes(named["output_size"], x, n)
    dims: dict[int, Dim] = {}
    for i, dim in enumerate(range(x.ndim - n, x.ndim)):
        steps = layout.steps_of(dim)
        if steps is None and not layout.is_plain(dim):
            raise LayoutError("positions are merged with something else")
        if steps is None or sizes[i] is None:
            dims[dim] = layout.dims[dim] if sizes[i] is None else plain(sizes[i])
            continue
        tracker.one(sizes[i], "the output size")
        weights = _windows(steps, sizes[i]).to(x)
        x = weighted(tracker.filled(x, 0.0, [dim]), layout, dim, weights)
        dims[dim] = plain(sizes[i])
        tracker.set(x, layout.with_dims(dims))
    rest = [x.shape[x.ndim - n + i] if size is None else size for i, size in enumerate(sizes)]
    result = getattr(F, call.name)(x, rest if n > 1 else rest[0])
    return tracker.set(result, layout.with_dims(dims))


def _windows(steps: Steps, size: int) -> Tensor:
    """The weights of averages of `size` windows over the valid positions of each sample."""
    weights = torch.zeros(len(steps.lengths), size, steps.size)
    for sample, length in enumerate(steps.lengths):
        for window in range(size):
            start, end = window * length // size, -(-(window + 1) * length // size)
            weights[sample, window, start:end] = 1.0 / (end - start)
    return weights


def weighted(x: Tensor, layout: Layout, dim: int, weights: Tensor) -> Tensor:
    """Sums along a dimension by the weights (samples, results, positions) of each sample."""
    samples = layout.dim_of_samples()
    if samples is None:
        raise LayoutError("its samples are merged with something else")
    along = x.movedim((samples, dim), (0, -1))
    return torch.einsum("n...t,nwt->n...w", along, weights).movedim((0, -1), (samples, dim))


def _output_sizes(size: Any, x: Tensor, n: int) -> list[Any]:
    return list(size) if isinstance(size, (tuple, list)) else [size] * n


def _adaptive_maximum(call: Call) -> Any:
    """`adaptive_max_pool` to a single value along lengths."""
    named = call.named("input", "output_size", "return_indices")
    x, tracker = named["input"], call.tracker
    n = int(next(character for character in call.name if character.isdigit()))
    layout = tracker.of(x)
    dims: dict[int, Dim] = {}
    for size, dim in zip(_output_sizes(named["output_size"], x, n), range(x.ndim - n, x.ndim), strict=True):
        if size is None or (not layout.is_plain(dim) and size != 1):
            raise LayoutError(
                "its windows depend on the length of each sample; take one value, or the average"
            )
        dims[dim] = plain(size)
    result = call.with_first(tracker.filled(x, -math.inf, list(dims)))
    for tensor in flat(result):
        tracker.set(tensor, layout.with_dims(dims))
    return result


RULES: dict[str, Rule] = {
    **dict.fromkeys((*_FILL, "mean", "std", "var", "median", "nanmean", "var_mean", "std_mean"), _reduction),
    "norm": _norm,
    **{f"adaptive_avg_pool{n}d": _adaptive_average for n in (1, 2, 3)},
    **{f"adaptive_max_pool{n}d{end}": _adaptive_maximum for n in (1, 2, 3) for end in ("", "_with_indices")},
}
