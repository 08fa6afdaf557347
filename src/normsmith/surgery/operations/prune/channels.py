"""Which channels of a model belong together, and what each is where the γ of its norms is 0."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normsmith._torch import ConvTranspose
from normsmith.anatomy.batch_norms import BatchNorm
from normsmith.anatomy.float64 import in_float64
from normsmith.surgery.operations.fold.obstacles import has_border
from normsmith.surgery.operations.prune.steps import Step
from normsmith.surgery.targets.activations import activation_of

VARIES = float("nan")
"""Stands for the value of a channel that is no constant."""


@dataclass(frozen=True)
class Flow:
    """Channels at some step: their numbers and values, and whether a constant lacks its border (`rough`)."""

    numbers: list[int]
    values: Tensor
    rough: Tensor


class Channels:
    """Follows each channel through the steps of a forward, all selected norms with γ = 0.

    Channels that can only go together (of a layer, its norm, and all that are added to them) have one number, which
    `root` gives. At each step a channel is a constant, or `VARIES`.

    - `rows`: for each layer with weights the numbers of its output channels; for depthwise ones of both.
    - `columns`: for each layer those of its input channels, with their values.
    - `norms`: for each norm those of its channels.
    - `whys`: for numbers that must stay why they must.
    - `rough`: for numbers that can go only approximately the layers that take them.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        norms: Mapping[str, BatchNorm],
        steps: Iterable[Step],
        zeroed: Iterable[str],
    ) -> None:
        self._by_path, self._read, self._zeroed = modules, norms, set(zeroed)
        self._parents: list[int] = []
        self.rows: dict[str, list[int]] = {}
        self.columns: dict[str, tuple[list[int], Tensor]] = {}
        self.norms: dict[str, list[int]] = {}
        self._whys: dict[int, str] = {}
        self._rough: dict[int, set[str]] = defaultdict(set)
        flows: list[Flow] = []
        for step in steps:
            flows.append(self._step(step, [flows[source] for source in step.sources]))
        for path, (numbers, values) in self.columns.items():
            varying = [n for n, value in zip(numbers, values.tolist(), strict=True) if math.isnan(value)]
            self.keep(varying, f"{path} takes them where they are not constant with γ = 0")

    def root(self, number: int) -> int:
        """The number that stands for all that go together."""
        while self._parents[number] != number:
            self._parents[number] = self._parents[self._parents[number]]
            number = self._parents[number]
        return number

    @property
    def whys(self) -> dict[int, str]:
        """Why channels must stay, by their root: the first reason of any of them."""
        whys: dict[int, str] = {}
        for number, why in self._whys.items():
            whys.setdefault(self.root(number), why)
        return whys

    @property
    def rough(self) -> dict[int, set[str]]:
        """The layers for which removing channels is approximate, by the channels' root."""
        rough: dict[int, set[str]] = defaultdict(set)
        for number, paths in self._rough.items():
            rough[self.root(number)] |= paths
        return rough

    def keep(self, numbers: Iterable[int], why: str) -> None:
        """Say that channels must stay."""
        for number in numbers:
            self._whys.setdefault(number, why)

    def _new(self, count: int) -> Flow:
        first = len(self._parents)
        self._parents.extend(range(first, first + count))
        return _varying(list(range(first, first + count)))

    def _unite(self, ones: Sequence[int], others: Sequence[int]) -> None:
        for one, other in zip(ones, others, strict=True):
            a, b = self.root(one), self.root(other)
            self._parents[max(a, b)] = min(a, b)

    def _step(self, step: Step, sources: list[Flow]) -> Flow:
        if step.kind == "layer":
            return self._layer(step.name, sources[0] if sources else None)
        if step.kind in ("foreign", "stop"):
            flow = sources[0] if sources else self._new(step.numbers[0])
            self.keep(flow.numbers, step.name)
            return flow
        if step.kind == "norm":
            return self._norm(step.name, sources[0].numbers)
        if step.kind in ("add", "mul"):
            return self._together(step.kind, *sources)
        return self._passed(step, sources)

    def _passed(self, step: Step, sources: list[Flow]) -> Flow:
        """What becomes of channels that only go on, in another order or with other values."""
        flow = sources[0]
        if step.kind == "cat":
            return _beside(sources)
        if step.kind == "repeat":
            return _selected(flow, [i for i in range(len(flow.numbers)) for _ in range(*step.numbers)])
        if step.kind == "slice":
            return _selected(flow, list(range(*step.numbers)))
        return replace(flow, values=self._changed(step, flow.values))

    def _together(self, kind: str, one: Flow, other: Flow) -> Flow:
        self._unite(one.numbers, other.numbers)
        values, theirs = one.values, other.values
        is_zero = (values == 0) | (theirs == 0)
        values = values + theirs if kind == "add" else torch.where(is_zero, 0.0, values * theirs)
        return Flow(one.numbers, values, one.rough | other.rough)

    def _changed(self, step: Step, values: Tensor) -> Tensor:
        if step.kind == "activation":
            return _activated(self._by_path[step.name], values)
        if step.kind == "function":
            function: Any = getattr(F, step.name)
            return torch.as_tensor(function(values))
        if step.kind == "zero":
            return torch.where(values == 0, 0.0, VARIES)
        return torch.full_like(values, VARIES) if step.kind == "vary" else values

    def _norm(self, path: str, numbers: list[int]) -> Flow:
        if path in self.norms:
            self._unite(self.norms[path], numbers)
        self.norms.setdefault(path, numbers)
        norm = self._read.get(path)
        if path not in self._zeroed or norm is None:
            return _varying(numbers)
        beta = norm.tensors["bias"]
        values = torch.zeros(len(numbers), dtype=torch.float64) if beta is None else in_float64(beta).cpu()
        activation = activation_of(norm)
        values = values if activation is None else _activated(activation, values)
        return replace(_varying(numbers), values=values)

    def _layer(self, path: str, source: Flow | None) -> Flow:
        layer: Any = self._by_path[path]
        groups = getattr(layer, "groups", 1)
        if groups == 1:
            if source is not None:
                self._takes(path, source)
            if path not in self.rows:
                self.rows[path] = self._new(_outputs(layer)).numbers
            return _varying(self.rows[path])
        is_depthwise = groups == layer.in_channels == layer.out_channels and not isinstance(
            layer, ConvTranspose
        )
        if source is not None and is_depthwise:
            return self._depthwise(path, layer, source)
        why = f"{path} works in groups, of which each would have to lose as many"
        result = self._new(layer.out_channels)
        self.keep((*result.numbers, *([] if source is None else source.numbers)), why)
        return result

    def _depthwise(self, path: str, layer: Any, source: Flow) -> Flow:
        if path in self.rows:
            self._unite(self.rows[path], source.numbers)
        self.rows.setdefault(path, source.numbers)
        values = source.values * in_float64(layer.weight).cpu().flatten(1).sum(1)
        if layer.bias is not None:
            values = values + in_float64(layer.bias).cpu()
        return Flow(source.numbers, values, source.rough | _lacks_border(layer, source.values))

    def _takes(self, path: str, source: Flow) -> None:
        """A layer takes channels; each of several calls must take the same constants."""
        layer, values = self._by_path[path], source.values
        rough = source.rough | _lacks_border(layer, values)
        for number in (n for n, one in zip(source.numbers, rough.tolist(), strict=True) if one):
            if isinstance(layer, ConvTranspose):
                self.keep([number], f"{path} spreads act(β) unevenly over its output")
            self._rough[number].add(path)
        if path in self.columns:
            before, held = self.columns[path]
            self._unite(before, source.numbers)
            values = torch.where(held == values, values, VARIES)
        self.columns[path] = source.numbers, values


def _varying(numbers: list[int]) -> Flow:
    count = len(numbers)
    return Flow(
        numbers, torch.full((count,), VARIES, dtype=torch.float64), torch.zeros(count, dtype=torch.bool)
    )


def _beside(flows: Sequence[Flow]) -> Flow:
    numbers = [number for flow in flows for number in flow.numbers]
    return Flow(
        numbers, torch.cat([flow.values for flow in flows]), torch.cat([flow.rough for flow in flows])
    )


def _selected(flow: Flow, which: Sequence[int]) -> Flow:
    index = torch.tensor(which, dtype=torch.long)
    return Flow([flow.numbers[i] for i in which], flow.values[index], flow.rough[index])


def _lacks_border(layer: nn.Module, values: Tensor) -> Tensor:
    """For each input channel of a layer whether it is a constant that zero padding takes for another at the border."""
    return (values != 0) & ~values.isnan() & has_border(layer)


def _outputs(layer: Any) -> int:
    return int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)


def _activated(activation: nn.Module, values: Tensor) -> Tensor:
    """What an activation in evaluation makes of constants."""
    with torch.no_grad():
        if isinstance(activation, nn.PReLU):
            return torch.where(values >= 0, values, values * in_float64(activation.weight).cpu())
        if isinstance(activation, nn.RReLU):
            return F.rrelu(values, activation.lower, activation.upper, training=False)
        return torch.as_tensor(type(activation).forward(activation, values.clone()))
