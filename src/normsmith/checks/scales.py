"""How the scale of a signal changes from layer to layer where no norm sets it: one batch in evaluation."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from normsmith.anatomy.forward import Forward, copied
from normsmith.anatomy.graph import Event, Graph
from normsmith.checks.moments import numbered
from normsmith.checks.restore import modes_kept

RATIO = 10.0
LOW, HIGH = 0.5, 2.0


@dataclass(frozen=True)
class Scale:
    """The standard deviation of all values that a layer puts out."""

    path: str
    deviation: float


@dataclass(frozen=True)
class Scales:
    """The longest way through linear layers, convolutions and recurrent layers without gates on which no norm stands.

    - `length`: how many layers are on it.
    - `layers`: their scales, without the last layer of the network, layers that end in a residual addition, and those
      that put out a constant, as branches that begin at 0 do, or a single value.
    """

    length: int
    layers: tuple[Scale, ...]

    @property
    def ratio(self) -> float:
        """The largest variance over the smallest; infinite where one is not finite."""
        deviations = [scale.deviation for scale in self.layers]
        if not all(map(math.isfinite, deviations)):
            return math.inf
        return (max(deviations) / min(deviations)) ** 2 if deviations else 1.0

    @property
    def are_apart(self) -> bool:
        """Whether variances differ by more than a factor of 10, and a deviation is outside of [0.5, 2].

        >>> Scales(3, (Scale("0", 1.0), Scale("2", 0.2))).are_apart, Scales(2, (Scale("0", 1.0),)).are_apart
        (True, False)
        """
        return self.ratio > RATIO and any(not LOW <= scale.deviation <= HIGH for scale in self.layers)


def scales_of(model: nn.Module, graph: Graph, batch: Any, forward: Forward) -> Scales:
    """Measure the scales on the longest way without norms.

    Raises:
        UnavailableError: the model raised.
    """
    way = longest_way(graph)
    inner = [event for event in way if _leads_on(graph, event) and not _is_added(graph, event)]
    measured: dict[nn.Module, list[float]] = {}

    def look(module: nn.Module, _: Any, output: Any) -> None:
        values = output[0] if isinstance(module, nn.RNN) else output
        if isinstance(values, Tensor) and values.numel() > 1:  # one value has no spread
            measured.setdefault(module, []).append(float(values.detach().double().std()))

    modules = [event.module for event in inner if event.module is not None]
    paths = {event.module: event.path for event in inner}
    with modes_kept(model), torch.no_grad(), ExitStack() as stack:
        for module in dict.fromkeys(modules):
            stack.callback(module.register_forward_hook(look).remove)
        model.eval()
        numbered(forward)(model, copied(batch))
    scales = [Scale(paths[module], value) for module, values in measured.items() for value in values]
    return Scales(len(way), tuple(scale for scale in scales if scale.deviation != 0))


def is_layer(event: Event) -> bool:
    """Whether a call is that of a layer that multiplies the scale of its input: gates keep their state in bounds."""
    return event.role == "producer" or isinstance(event.module, nn.RNN)


def longest_way(graph: Graph) -> tuple[Event, ...]:
    """The layers with weights on the longest way between norms, or between a norm and an end.

    >>> from normsmith.anatomy.trace import trace
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    >>> [event.path for event in longest_way(trace(model))]
    ['0', '1']
    """
    ways: dict[Event, tuple[Event, ...]] = {}
    for event in graph.events:
        chosen = min if event.name == "mul" else max  # a gate is no part of the way that it multiplies
        before = chosen((ways[source] for source in event.sources), key=len, default=())
        if event.role == "norm":
            ways[event] = ()
        elif is_layer(event):
            ways[event] = (*before, event)
        else:
            ways[event] = before
    return max(ways.values(), key=len, default=())


def _leads_on(graph: Graph, event: Event) -> bool:
    """Whether another layer with weights comes after it; the last one is scaled as targets are."""
    return any(
        graph.leads_to(event, later) for later in graph.events if later is not event and is_layer(later)
    )


def _is_added(graph: Graph, event: Event) -> bool:
    """Whether a result only goes into a sum, perhaps after dropout, as the end of a residual branch does."""
    after = graph.consumers(event)
    ways = (later.role == "add" or (later.role == "passing" and _is_added(graph, later)) for later in after)
    return bool(after) and all(ways)
