"""The moments of what reaches each layer, over all its calls, and the statistics that it goes by meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from normsmith.errors import InputError
from normsmith.layers._statistics import StatisticsBase
from normsmith.layers._step_norm import SequenceNorm
from normsmith.measure.layers import Measured, Statistics
from normsmith.ops import Moments, batch_norm, merge, moments
from normsmith.ops.masks import element_weights, valid_elements

_MERGED_AT = 64
"""Parts that wait before they are merged: merging is many small operations, and one call does for all."""

_PLAIN = frozenset((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm))

Blend = Callable[[Measured, Statistics, Moments, int], Statistics | None]
"""What a layer goes by for a batch: from its own statistics, the batch's moments and rows; None: its own."""


@dataclass
class Meter:
    """The moments of one layer's inputs, merged in float64 by Chan's formula."""

    measured: Measured
    own: Statistics
    """What the layer goes by where nothing is blended in."""
    parts: list[Moments] = field(default_factory=list)

    def add(self, part: Moments) -> None:
        self.parts.append(part)
        if len(self.parts) >= _MERGED_AT:
            self.parts = [together(self.parts)]

    def taken(self) -> Moments | None:
        """All since the last time, on the CPU; None where nothing was measured."""
        found = on_cpu(self.parts)
        self.parts = []
        return found


def together(parts: Sequence[Moments]) -> Moments:
    """Merge moments in float64."""
    like = parts[0].mean

    def column(values: list[Tensor | float]) -> Tensor:
        if all(isinstance(value, float) for value in values):
            return torch.tensor(values, dtype=torch.float64, device=like.device).unsqueeze(1)
        every = [torch.as_tensor(value, dtype=torch.float64, device=like.device) for value in values]
        return torch.cat([value.reshape(1, 1) for value in every])

    return merge(
        Moments(
            column([part.count for part in parts]),
            torch.cat([part.mean for part in parts]).double(),
            torch.cat([part.m2 for part in parts]).double().clamp(min=0),
            column([part.squares for part in parts]),
            torch.cat([part.low for part in parts]).double(),
        )
    )


def on_cpu(parts: Sequence[Moments]) -> Moments | None:
    """The moments of all parts, in float64 on the CPU; None of none."""
    return Moments(*(torch.as_tensor(value).cpu() for value in together(parts))) if parts else None


def measure(x: Tensor, weights: Tensor | None = None) -> Moments:
    """`moments` of a whole batch; without weights by the kernel that normalises, in one trip through memory."""
    if weights is not None:
        return moments(x.where(weights > 0, 0.0), weights)
    count = float(x.numel() // x.shape[1])
    if count < 2:  # nothing that normalises
        mean = x.reshape(-1, x.shape[1]) if count else x.new_zeros(1, x.shape[1])
        nothing = torch.zeros_like(mean)
        return Moments(count, mean, nothing, count, nothing)
    found: list[Moments] = []
    batch_norm(x, collected=found)
    return found[0]


def by_batch(measured: Measured, own: Statistics, found: Moments, _: int) -> Statistics | None:
    """The batch's own statistics, as in training; those that the layer has where a batch has no variance."""
    enough = found.enough
    if enough is False:
        return None
    mean, var = found.mean[0], found.variance[0]
    if isinstance(enough, Tensor):
        mean, var = torch.where(enough[0], mean, own.mean), torch.where(enough[0], var, own.var)
    std = None if own.std is None else (var + measured.epsilon).sqrt()
    return in_dtype_of(own, Statistics(mean, var, std))


def in_dtype_of(held: Statistics, found: Statistics) -> Statistics:
    """Statistics as a layer holds them: its device, its dtypes, a deviation where it holds one."""
    if held.std is None and found.mean.dtype == held.mean.dtype and found.mean.device == held.mean.device:
        return found  # as at every call of a layer in float32
    std = None if held.std is None or found.std is None else found.std.to(held.std)
    return Statistics(found.mean.to(held.mean), found.var.to(held.var), std)


@dataclass
class Now:
    """What holds for the batch that is going through."""

    mask: Tensor | None = None
    recorded: bool = True
    sampled: list[tuple[Measured, Moments]] | None = None
    """Where the batch is part of a sample, what its layers find."""


@contextmanager
def listening(
    meters: Sequence[Meter], blend: Blend | None, *, recorded: bool = True, masked: bool = True
) -> Iterator[Now]:
    """Measure every input of the layers within the block, and let each go by what `blend` says of it.

    The layers run in evaluation mode: nothing is updated, no counter moves, no rank waits for another. Where no
    batch has a mask (not `masked`), torch's own layers measure and normalise at once.
    """
    now = Now(recorded=recorded)
    handles = []
    fused: list[nn.Module] = []
    try:
        for meter in meters:
            layer = meter.measured.layer
            layer.training = False
            if blend is by_batch and not masked and type(layer) in _PLAIN and "forward" not in vars(layer):
                layer.forward = _fused(meter, now)
                fused.append(layer)
            else:
                ear = _ear(meter, now, blend)
                handles.append(layer.register_forward_pre_hook(ear, with_kwargs=True))
        yield now
    finally:
        for handle in handles:
            handle.remove()
        for layer in fused:
            del layer.forward
        for meter in meters:
            meter.measured.lend(meter.own)


def _ear(
    meter: Meter, now: Now, blend: Blend | None
) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
    measured = meter.measured

    def hear(layer: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        if layer.training:  # somebody's `.train()` within the block
            layer.training = False
        with torch.no_grad():
            x, weights = _heard_by(measured, arguments, options, now.mask)
            found = measure(x, weights)
            if now.recorded:
                meter.add(found)
            if now.sampled is not None:
                now.sampled.append((measured, found))
            if blend is not None:
                measured.lend(blend(measured, meter.own, found, len(x)) or meter.own)

    return hear


def _fused(meter: Meter, now: Now) -> Callable[[Tensor], Tensor]:
    """A forward of torch's batch norm by the batch's statistics, which the same kernel leaves to the meter."""
    layer: Any = meter.measured.layer

    def forward(input: Tensor) -> Tensor:
        layer._check_input_dim(input)
        found: list[Moments] = []
        y = batch_norm(
            input,
            meter.own.mean,
            meter.own.var,
            layer.weight,
            layer.bias,
            eps=layer.eps,
            on_small_batch="running",
            collected=found,
        )
        single = input.numel() <= input.shape[1]  # nothing to normalise by, but a value of the population
        if single:
            found = [measure(input if input.dtype == torch.float64 else input.float())]
        for part in found:
            meter.add(part)
            if now.sampled is not None:
                now.sampled.append((meter.measured, part))
        return y

    return forward


def _heard_by(
    measured: Measured, arguments: tuple[Any, ...], options: dict[str, Any], of_batch: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """What a call gives a layer: (batch, channels, *space) in float32 at least, and the weights of its elements."""
    layer = measured.layer
    given = dict(zip(("x", "mask", "sample_weight"), arguments, strict=False)) | options
    x = given.get("x", options.get("input"))
    if not isinstance(x, Tensor):
        raise InputError(
            f"{measured.path or '(model)'}: expected a call with a tensor, got {type(x).__name__}; leave the layer "
            "out with only=..."
        )
    mask, sample_weight = of_batch, None
    if isinstance(layer, StatisticsBase):
        if isinstance(layer, SequenceNorm):  # steps first, channels last
            alive = given.get("alive", given.get("mask"))
            x, mask = x.flatten(0, 1), None if alive is None else alive.flatten()
        else:
            own = given.get("mask")
            mask = own if own is not None else layer._context_mask if of_batch is None else of_batch
            sample_weight = given.get("sample_weight")
    if x.ndim < 2:
        raise InputError(
            f"{measured.path or '(model)'}: expected an input of shape (batch, channels, ...), got {tuple(x.shape)}"
        )
    x = x.detach()
    x = x if x.dtype == torch.float64 else x.float()
    if mask is None and sample_weight is None:
        return x, None
    try:
        weights = element_weights(sample_weight, valid_elements(mask, x), x, x.dtype)
    except InputError as error:
        raise InputError(f"{measured.path or '(model)'}: {error}") from None
    return x, None if weights is None else weights.expand(x.shape[0], 1, *x.shape[2:])
