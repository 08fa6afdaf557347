"""The pass that rules share: the moments of every call of every norm in every batch, as training would see them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from normsmith._text import error_text
from normsmith.anatomy.forward import Forward
from normsmith.checks.finding import UnavailableError
from normsmith.checks.restore import modes_kept
from normsmith.measure import EveryCall, MeasuredLayer, Passes, Statistics, batch_statistics
from normsmith.ops import Moments


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer in one batch; tensors of shape (channels,) in float64 on the CPU.

    - `batch`, `number`: which batch, and which of the layer's calls in it.
    - `count`: values per channel.
    - `var`: the unbiased variance, as running statistics average it; NaN where a batch has one value per channel.
    """

    batch: int
    number: int
    count: float
    mean: Tensor
    var: Tensor


@dataclass(frozen=True, eq=False)
class LayerMoments:
    """All calls of a layer over the measured batches, and what they come to."""

    layer: MeasuredLayer
    calls: tuple[Call, ...] = field(repr=False)

    @property
    def mean(self) -> Tensor:
        """The mean of all values, (channels,)."""
        weights = torch.tensor([call.count for call in self.calls], dtype=torch.float64)
        means = torch.stack([call.mean for call in self.calls])
        return (weights[:, None] * means).sum(0) / weights.sum()

    @property
    def within(self) -> Tensor:
        """The mean of the calls' unbiased variances, which is what a running variance estimates; (channels,)."""
        return torch.stack([call.var for call in self.calls]).nanmean(0)

    @property
    def statistics(self) -> Statistics:
        """Mean and unbiased variance of all values together, as `surgery.recalibrate` would write them."""
        mean, total = self.mean, sum(call.count for call in self.calls)
        parts = [
            call.var.nan_to_num() * (call.count - 1) + call.count * (call.mean - mean) ** 2
            for call in self.calls
        ]
        var = torch.stack(parts).sum(0) / max(total - 1, 1)
        keeps_std = self.layer.statistics().std is not None
        return Statistics(mean, var, (var + self.layer.epsilon).sqrt() if keeps_std else None)


def moments_of_calls(
    model: nn.Module,
    layers: tuple[MeasuredLayer, ...],
    batches: Sequence[Any],
    forward: Forward,
    *,
    dropout: bool = True,
) -> dict[nn.Module, LayerMoments]:
    """Run batches through a model as in training, and keep the moments of what reached its layers.

    The model's state is the caller's to restore; only modes are put back here. Without `dropout`, the layers normalise
    by the batch, and all others are in evaluation mode.

    Raises:
        UnavailableError: no layer can be measured, or the model raised.
    """
    if not layers:
        raise UnavailableError("there is no batch norm whose inputs can be measured")
    calls = EveryCall()
    passes = Passes(model, layers, numbered(forward), dropout=dropout)
    with modes_kept(model), passes.prepared_model():
        passes.run(batches, rule=batch_statistics, sample=calls)
    rows: dict[nn.Module, list[Call]] = {}
    for number, batch in enumerate(calls.batches):
        for layer, moments in batch:
            before = rows.setdefault(layer.layer, [])
            order = sum(call.batch == number for call in before)
            before.append(_call(number, order, moments))
    by_module = {layer.layer: layer for layer in layers}
    return {module: LayerMoments(by_module[module], tuple(found)) for module, found in rows.items()}


def numbered(forward: Forward) -> Forward:
    """A forward whose errors are `UnavailableError`, and say which batch it was."""
    batches = 0

    def run(model: nn.Module, batch: Any) -> Any:
        nonlocal batches
        batches += 1
        return run_batch(forward, model, batch, batches)

    return run


def run_batch(forward: Forward, model: nn.Module, batch: Any, number: int) -> Any:
    """Run a batch, of which it is said that it is number so and so if the model raises.

    Raises:
        UnavailableError: the model raised.
    """
    try:
        return forward(model, batch)
    except Exception as error:
        hint = "; give forward=..." if number == 1 and not isinstance(batch, Tensor) else ""
        raise UnavailableError(f"the model raised in batch {number}: {error_text(error)}{hint}") from error


def _call(batch: int, number: int, moments: Moments) -> Call:
    count = float(moments.count)
    mean, m2 = (value[0].detach().cpu().double() for value in (moments.mean, moments.m2))
    low = moments.low[0].detach().cpu().double()
    var = m2.clamp(min=0) / (count - 1) if count > 1 else torch.full_like(m2, torch.nan)
    return Call(batch, number, count, mean + low, var)
