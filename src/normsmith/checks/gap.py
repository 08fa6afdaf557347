"""Where a gap between training and evaluation comes from: dropout first, then the statistics of layer after layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import torch
from torch import nn

from normsmith._torch import buffers_of
from normsmith.anatomy.forward import copied
from normsmith.anatomy.isolation import same_random_numbers
from normsmith.checks.comparison import Judge, normalising_by_batches
from normsmith.checks.finding import UnavailableError
from normsmith.checks.moments import numbered
from normsmith.checks.restore import modes_kept
from normsmith.measure import MeasuredLayer

Part = tuple[int, ...]
"""Layers that are changed together, by their numbers."""
MOST = 12
"""Of more layers than these blocks are changed first, then the layers of the block that matters most."""


@dataclass(frozen=True)
class Values:
    """Losses and metrics of some batches; a tuple is empty where there is no such function."""

    loss: tuple[float, ...]
    metric: tuple[float, ...]

    def since(self, before: Values) -> Values:
        """What was added, batch by batch."""
        return Values(_differences(self.loss, before.loss), _differences(self.metric, before.metric))

    def to_dict(self) -> dict[str, Any]:
        """Means, and the spread between batches, as plain data."""
        return {name: _summary(values) for name, values in vars(self).items() if values}

    @property
    def weight(self) -> float:
        """How much it matters: the loss, or the metric where there is no loss."""
        return abs(fmean(self.loss or self.metric or (0.0,)))


def _differences(one: tuple[float, ...], other: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(a - b for a, b in zip(one, other, strict=True))


def _summary(values: tuple[float, ...]) -> dict[str, Any]:
    """Mean and spread over batches; what is not finite has no spread.

    >>> _summary((1.0, float("inf")))
    {'mean': inf, 'spread': None, 'batches': [1.0, inf]}
    """
    return {
        "mean": sum(values) / len(values),
        "spread": stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else None,
        "batches": list(values),
    }


@dataclass(frozen=True)
class Gap:
    """From training to evaluation on the same batches: steps that add up, and beside them others that do not.

    - `training`: with dropout, each layer by the batch's statistics; None where the model has no such output.
    - `batch`: without dropout. `evaluation`: every layer by its running statistics.
    - `steps`: what each part adds when it is changed to running statistics, from the first to the last: they add up.
    - `alone`: what it adds where all others go by the batch. `reversed`: as `steps`, from the last to the first.
    """

    training: Values | None
    batch: Values
    evaluation: Values
    steps: tuple[tuple[tuple[str, ...], Values], ...]
    alone: tuple[Values, ...]
    reversed: tuple[Values, ...]

    @property
    def worst(self) -> tuple[tuple[str, ...], Values]:
        """The step that matters most: the paths of its layers, and what it adds."""
        return max(self.steps, key=lambda step: step[1].weight)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data, for a picture."""
        dropout = None if self.training is None else self.batch.since(self.training).to_dict()
        return {
            "training": None if self.training is None else self.training.to_dict(),
            "evaluation": self.evaluation.to_dict(),
            "dropout_off": dropout,
            "steps": [
                {
                    "layers": list(paths),
                    "in_order": step.to_dict(),
                    "alone": alone.to_dict(),
                    "reversed": back.to_dict(),
                }
                for (paths, step), alone, back in zip(self.steps, self.alone, self.reversed, strict=True)
            ],
            "additive": ["dropout_off", "in_order"],
            "non_additive": ["alone", "reversed"],
        }


def gap_of(
    model: nn.Module,
    batches: Sequence[Any],
    forward: Callable[[nn.Module, Any], tuple[Any, Any]],
    layers: Sequence[MeasuredLayer],
    judge: Judge,
) -> Gap:
    """Take a model from training to evaluation, part by part, on the same batches and with the same random numbers.

    Raises:
        UnavailableError: the model, the loss or the metric raised.
    """
    runs = _Runs(model, batches, forward, layers, judge)
    everything = frozenset(range(len(runs.layers)))
    batch, evaluation = runs.of(frozenset()), runs.of(everything)
    parts = _blocks(runs.layers, tuple(everything))
    steps = _steps(runs, parts)
    while len(worst := parts[max(range(len(parts)), key=lambda i: steps[i].weight)]) > 1:
        place = parts.index(worst)
        parts[place : place + 1] = _blocks(runs.layers, worst)
        steps = _steps(runs, parts)
    return Gap(
        runs.in_training(),
        batch,
        evaluation,
        tuple((runs.paths(part), step) for part, step in zip(parts, steps, strict=True)),
        tuple(runs.of(frozenset(part)).since(batch) for part in parts),
        tuple(reversed(_steps(runs, parts[::-1]))),
    )


def _steps(runs: _Runs, parts: list[Part]) -> list[Values]:
    before, changed, steps = runs.of(frozenset()), frozenset[int](), []
    for part in parts:
        changed |= frozenset(part)
        after = runs.of(changed)
        steps.append(after.since(before))
        before = after
    return steps


def _blocks(layers: Sequence[MeasuredLayer], part: Part) -> list[Part]:
    """A part in smaller ones: its layers where they are few, else those with the same beginning of their paths."""
    if len(part) <= MOST:
        return [(number,) for number in part]
    names = [layers[number].path.split(".") for number in part]
    for depth in range(1, max(map(len, names))):
        blocks: list[list[int]] = []
        for place, number in enumerate(part):
            same = place > 0 and names[place][:depth] == names[place - 1][:depth]
            blocks = [*blocks[:-1], [*blocks[-1], number]] if same else [*blocks, [number]]
        if 1 < len(blocks) <= MOST:
            return [tuple(block) for block in blocks]
    size = -(-len(part) // MOST)
    return [part[start : start + size] for start in range(0, len(part), size)]


class _Runs:
    """The batches through a model of which some layers go by running statistics and the others by the batch."""

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[Any],
        forward: Callable[[nn.Module, Any], tuple[Any, Any]],
        layers: Sequence[MeasuredLayer],
        judge: Judge,
    ) -> None:
        self._model, self._batches, self._judge = model, batches, judge
        self._forward = numbered(forward)
        self._kept: dict[frozenset[int], Values] = {}
        self.layers: Sequence[MeasuredLayer] = layers
        self.layers = self._in_order(layers)

    def _in_order(self, layers: Sequence[MeasuredLayer]) -> Sequence[MeasuredLayer]:
        """The layers that a forward calls, in the order of their first calls."""
        called: dict[nn.Module, None] = {}
        handles = [
            layer.layer.register_forward_pre_hook(lambda m, _: called.setdefault(m)) for layer in layers
        ]
        try:
            self._values(range(len(layers)), dropout=False, most=1)
        finally:
            for handle in handles:
                handle.remove()
        by_module = {layer.layer: layer for layer in layers}
        return [by_module[module] for module in called]

    def paths(self, part: Part) -> tuple[str, ...]:
        """The paths of the layers of a part."""
        return tuple(self.layers[number].path for number in part)

    def of(self, running: frozenset[int]) -> Values:
        """Losses and metrics without dropout, where these layers go by running statistics."""
        if running not in self._kept:
            by_batch = [number for number in range(len(self.layers)) if number not in running]
            self._kept[running] = self._values(by_batch, dropout=False)
        return self._kept[running]

    def in_training(self) -> Values | None:
        """As in training; None where the model returns something else then, as detectors do."""
        try:
            return self._values(range(len(self.layers)), dropout=True)
        except UnavailableError:
            return None

    def _values(self, by_batch: Sequence[int], *, dropout: bool, most: int | None = None) -> Values:
        losses, metrics = [], []
        with modes_kept(self._model), torch.no_grad():
            self._model.train(dropout)
            for module in self._model.modules():
                if "running_mean" in buffers_of(module):
                    module.training = False
            with normalising_by_batches([self.layers[number] for number in by_batch]):
                for batch in self._batches[:most]:
                    with same_random_numbers(self._model):
                        output, target = self._forward(self._model, copied(batch))
                    losses.append(self._judge.loss_of(output, target))
                    metrics.append(self._judge.metric_of(output, target))
        return Values(
            tuple(loss for loss in losses if loss is not None),
            tuple(metric for metric in metrics if metric is not None),
        )
