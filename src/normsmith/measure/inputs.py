"""Measure the inputs of layers while a model runs, and decide by what statistics they normalise meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from normsmith._text import path_text
from normsmith.errors import InputError
from normsmith.layers.statistics import StatisticsBase
from normsmith.measure.layers import MeasuredLayer
from normsmith.measure.meter import Meter, batch_moments
from normsmith.measure.statistics import BatchRule, batch_statistics
from normsmith.ops import Moments, batch_norm
from normsmith.ops.masks import element_weights, valid_elements

_PLAIN = frozenset((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm))


@dataclass
class CurrentBatch:
    """How the batch that goes through the model is measured; whoever runs the pass sets it before each batch.

    - `mask`: the valid elements of the batch, where the pass has masks.
    - `recorded`: whether its moments are kept.
    - `calls`: the calls of layers that it has made, in their order: the layer's meter, and the moments of its input.
    """

    mask: Tensor | None = None
    recorded: bool = True
    calls: list[tuple[Meter, Moments]] = field(default_factory=list)

    def record(self, meter: Meter, moments: Moments) -> None:
        """One more call of a layer."""
        if self.recorded:
            self.calls.append((meter, moments))


@contextmanager
def measured_inputs(
    meters: Sequence[Meter], rule: BatchRule | None, *, recorded: bool = True, masked: bool = True
) -> Iterator[CurrentBatch]:
    """Within the block every input of the meters' layers is measured, and they normalise by what `rule` says.

    Without a rule each layer normalises by its own statistics. The layers run in evaluation mode: nothing is
    updated, no counter moves, no rank waits for another. Where no batch has a mask (not `masked`), torch's own layers
    measure and normalise at once.
    """
    current = CurrentBatch(recorded=recorded)
    handles = []
    replaced: list[nn.Module] = []
    try:
        for meter in meters:
            layer = meter.measured.layer
            layer.training = False
            at_once = rule is batch_statistics and not masked and type(layer) in _PLAIN
            if at_once and "forward" not in vars(layer):
                layer.forward = _measuring_forward(meter, current)
                replaced.append(layer)
            else:
                hook = _measuring_hook(meter, current, rule)
                handles.append(layer.register_forward_pre_hook(hook, with_kwargs=True))
        yield current
    finally:
        for handle in handles:
            handle.remove()
        for layer in replaced:
            del layer.forward
        for meter in meters:
            meter.measured.normalise_by(meter.own)


def _measuring_hook(
    meter: Meter, current: CurrentBatch, rule: BatchRule | None
) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
    """A forward pre-hook that measures the input and gives the layer the statistics for it."""
    measured = meter.measured

    def hook(layer: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        if layer.training:  # somebody's `.train()` within the block
            layer.training = False
        with torch.no_grad():
            x, weights = _input_of(measured, arguments, options, current.mask)
            moments = batch_moments(x, weights)
            current.record(meter, moments)
            if rule is not None:
                statistics = rule(measured.epsilon, meter.own, moments, len(x))
                measured.normalise_by(statistics or meter.own)

    return hook


def _measuring_forward(meter: Meter, current: CurrentBatch) -> Callable[[Tensor], Tensor]:
    """A forward for torch's batch norm that normalises by the batch; its kernel leaves the moments to the meter."""
    layer: Any = meter.measured.layer

    def forward(input: Tensor) -> Tensor:
        layer._check_input_dim(input)
        collected: list[Moments] = []
        y = batch_norm(
            input,
            meter.own.mean,
            meter.own.var,
            layer.weight,
            layer.bias,
            eps=layer.eps,
            on_small_batch="running",
            collected=collected,
        )
        single = input.numel() <= input.shape[1]  # nothing to normalise by, but a value of the population
        if single:
            collected = [batch_moments(input if input.dtype == torch.float64 else input.float())]
        for moments in collected:
            current.record(meter, moments)
        return y

    return forward


def _input_of(
    measured: MeasuredLayer, arguments: tuple[Any, ...], options: dict[str, Any], of_batch: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """The input of a call, (batch, channels, *space) in float32 at least, and the weights of its elements.

    `arguments` and `options` are those of the call; `of_batch` is the mask of the whole batch, which a mask among
    the arguments overrules.
    """
    layer = measured.layer
    given = dict(zip(("x", "mask", "sample_weight"), arguments, strict=False)) | options
    x = given.get("x", options.get("input"))
    if not isinstance(x, Tensor):
        raise InputError(
            f"{path_text(measured.path)}: expected a call with a tensor, got {type(x).__name__}; leave the layer "
            "out with only=..."
        )
    mask, sample_weight = of_batch, None
    if isinstance(layer, StatisticsBase):
        x, mask, sample_weight = layer.normalised(
            x, given.get("mask"), given.get("sample_weight"), default_mask=of_batch
        )
    if x.ndim < 2:
        raise InputError(
            f"{path_text(measured.path)}: expected an input of shape (batch, channels, ...), got {tuple(x.shape)}"
        )
    x = x.detach()
    x = x if x.dtype == torch.float64 else x.float()
    if mask is None and sample_weight is None:
        return x, None
    try:
        weights = element_weights(sample_weight, valid_elements(mask, x), x, x.dtype)
    except InputError as error:
        raise InputError(f"{path_text(measured.path)}: {error}") from None
    return x, None if weights is None else weights.expand(x.shape[0], 1, *x.shape[2:])
