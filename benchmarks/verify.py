"""Whether a candidate is right: against plain formulas in float64, before anything is timed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.cases import BF16, EPS, F16, F32, Case, Inputs, inputs
from benchmarks.peers import D_MAX, R_MAX, Forward

MEANS = (0.0, 1e2, 1e4)
ALLOWED = {F32: 2e-5, BF16: 2**-7, F16: 2**-10}
"""Largest error that may be timed, relative to the largest value (or 1)."""
_CORNER = 1e-3
"""Around ReLU's corner rounding decides: gradients there are set to 0."""
_CHUNK = 2**18
"""Elements that are worked on at a time in float64."""

NAMES = ("y", "dx", "dγ", "dβ", "dz")
Errors = dict[str, float]


def errors(case: Case, mean: float, forwards: dict[str, Forward]) -> dict[str, Errors]:
    """The error of each candidate's output and gradients, relative to the largest value or 1."""
    i = inputs(case, mean)
    running = (i.mean.clone(), i.var.clone())
    if "relu" in case.op:
        with _each_chunk(case) as (each, chunks):
            list(each(partial(_clear_corner, case, i, mean), chunks))
    found = {}
    for name, forward in forwards.items():
        i.mean.copy_(running[0])
        i.var.copy_(running[1])
        y = forward(i)
        found[name] = [y.detach(), *torch.autograd.grad(y, i.leaves, i.g)]
    largest = dict.fromkeys(NAMES, 1.0)
    apart = {name: dict.fromkeys(NAMES[: len(got)], 0.0) for name, got in found.items()}
    with _each_chunk(case) as (each, chunks):
        for sizes, off in each(partial(_compare, case, i, mean, found), chunks):
            for part, size in sizes.items():
                largest[part] = max(largest[part], size)
            for name, parts in off.items():
                for part, worst in parts.items():
                    # NaN must be seen, which `max` may overlook
                    apart[name][part] = worst if not worst <= apart[name][part] else apart[name][part]
    for name, got in found.items():
        if i.mask is not None and any((_padding(tensor, i.mask) != 0).any() for tensor in got[:2]):
            apart[name]["y"] = float("inf")
    return {name: {part: off / largest[part] for part, off in parts.items()} for name, parts in apart.items()}


def _clear_corner(case: Case, i: Inputs, mean: float, channels: slice) -> None:
    before = _forward(case, i, channels, mean).y
    i.g[:, channels].masked_fill_(_laid(before.abs() < _CORNER, i, channels), 0.0)


def _compare(
    case: Case, i: Inputs, mean: float, found: dict[str, list[Tensor]], channels: slice
) -> tuple[Errors, dict[str, Errors]]:
    """Of some channels: the largest value of each part, and how far off each candidate's are."""
    exact = exactly(case, i, channels, mean)
    if "relu" in case.op:
        exact[0].relu_()
    apart: dict[str, Errors] = {name: {} for name in found}
    for name, got in found.items():
        for part, tensor, want in zip(NAMES, got, exact, strict=False):
            piece = tensor[channels] if tensor.ndim == 1 else _rows(tensor, i, channels)
            apart[name][part] = (piece - want).abs_().max().item()  # in float64, as `want` is
    return {part: want.abs().max().item() for part, want in zip(NAMES, exact, strict=False)}, apart


def wrong(case: Case, found: dict[float, dict[str, Errors]], name: str = "ours") -> list[str]:
    """What is too far from float64, in words."""
    allowed = ALLOWED[case.dtype]
    return [
        f"{case}, mean {mean:g}: {part} of {name} is off by {error:.1e} of its largest value"
        for mean, candidates in found.items()
        for part, error in candidates[name].items()
        if not error <= allowed
    ]


class _Forward(NamedTuple):
    """In float64, as rows of shape (values, channels) and vectors of channels."""

    y: Tensor
    normalised: Tensor
    hat: Tensor
    inv_std: Tensor
    r: Tensor


def _forward(case: Case, i: Inputs, channels: slice, running_mean: float) -> _Forward:
    """The output before ReLU, and what leads to it; with renorm x̂ is the normalised batch times r, plus d."""
    x = _rows(i.x.detach(), i, channels).double()
    mean = x.mean(0)
    x -= mean
    inv_std = (x.square().mean(0) + EPS).rsqrt()
    x *= inv_std
    hat, r = x, torch.ones_like(mean)
    if case.op == "renorm":
        population = (1.0 + EPS) ** -0.5
        r = (population / inv_std).clamp(1 / R_MAX, R_MAX)
        hat = x * r + ((mean - running_mean) * population).clamp(-D_MAX, D_MAX)
    y = hat * i.weight.detach()[channels].double()
    y += i.bias.detach()[channels].double()
    if i.residual is not None:
        y += _rows(i.residual.detach(), i, channels).double()
    return _Forward(y, x, hat, inv_std, r)


def exactly(case: Case, i: Inputs, channels: slice, running_mean: float) -> list[Tensor]:
    """Output before ReLU, and gradients of all, over the valid elements as rows of shape (values, channels)."""
    y, x, hat, inv_std, r = _forward(case, i, channels, running_mean)
    g = _rows(i.g, i, channels).double()
    if "relu" in case.op:
        g = torch.where(y > 0, g, 0.0)
    dx = g - g.mean(0)
    dx -= x * (g * x).mean(0)
    dx *= i.weight.detach()[channels].double() * inv_std * r
    return [y, dx, (g * hat).sum(0), g.sum(0), *([g] if i.residual is not None else [])]


@contextmanager
def _each_chunk(case: Case) -> Iterator[tuple[Callable[..., Iterator[Any]], Iterator[slice]]]:
    """As many chunks at a time as torch has threads, each on one: they need not wait for each other."""
    number = torch.get_num_threads()
    with threads(1), ThreadPoolExecutor(number) as pool:
        yield pool.map, _chunks(case)


@contextmanager
def threads(number: int) -> Iterator[None]:
    """So many of torch's threads; for work in small pieces one is best."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _chunks(case: Case) -> Iterator[slice]:
    channels = case.shape[1]
    values = torch.Size(case.shape).numel() // channels
    # whole lines of memory where channels come last
    step = max(_CHUNK // values, 16 if case.channels_last else 1)
    return (slice(first, first + step) for first in range(0, channels, step))


def _rows(tensor: Tensor, i: Inputs, channels: slice) -> Tensor:
    """The valid elements of some channels, of shape (values, channels): a mask leaves a smaller batch."""
    last = tensor[:, channels].movedim(1, -1)
    return last.flatten(0, -2) if i.mask is None else last[i.mask]


def _laid(rows: Tensor, i: Inputs, channels: slice) -> Tensor:
    """Rows of (values, channels) in the shape of the batch; of batches without a mask."""
    shape = i.x[:, channels].movedim(1, -1).shape
    return rows.view(shape).movedim(-1, 1)


def _padding(tensor: Tensor, mask: Tensor) -> Tensor:
    return tensor.movedim(1, -1)[~mask]
